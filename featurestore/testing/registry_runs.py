"""The part of the registry's contract that is about runs: what is told of them, and found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from featurestore.errors import (
    AmbiguousRecord,
    InvalidRequest,
    LimitExceeded,
    PermissionDenied,
    RecordNotFound,
)
from featurestore.permissions import Identity
from featurestore.records import Edge, Record
from featurestore.stores.registry.run_query import parse
from featurestore.stores.registry.run_words import (
    CRASHED_AFTER_US,
    VALUE_BYTES_MAX,
    Metric,
    Point,
    RunArtifact,
    RunStart,
)
from featurestore.testing.registry_access import commit_policy, policy_record, token_record

if TYPE_CHECKING:
    from featurestore.stores.registry.base import Registry
    from featurestore.stores.registry.runs import RunKey

AT_US = 1_700_000_000_000_000
NOW_US = AT_US + 10


class Opener(Protocol):
    def open(self, *, project: str = ..., author: str = ...) -> Registry: ...


def start(
    registry: Registry,
    run_id: str = "a" * 32,
    *,
    experiment: str = "delay",
    parents: tuple[Edge, ...] = (),
    **more: Any,
) -> RunKey:
    """Start a run."""
    record = Record(
        kind="run", name=f"{experiment}/{run_id}", body={"version": run_id}, parents=parents
    )
    values: dict[str, Any] = {"name": run_id[:4], "user": "ann", "started_at_us": AT_US, **more}
    new = RunStart(run_id=run_id, experiment=experiment, **values)
    return registry.runs.start(new, records=[record])


def log(
    registry: Registry, key: RunKey, values: Mapping[str, list[float]], *, batch: int = 1
) -> None:
    """Log the values of metrics by step."""
    points = [
        Point(name, step, AT_US + step, value)
        for name, each in values.items()
        for step, value in enumerate(each)
    ]
    registry.runs.log_points(key, "w", batch, points, now_us=AT_US)


RUNS: Mapping[str, dict[str, Any]] = {
    "good": {"params": {"depth": 6, "flag": True, "rate": 0.1, "kind": "tree", "big": 2**70},
             "tags": {"team": "x", "odd key": "50%_[a]*?"}, "auc": 0.9},
    "fair": {"params": {"depth": 4, "flag": False, "rate": 1e-9, "kind": "Tree", "none": None},
             "tags": {"team": "y"}, "auc": 0.7},
    "nan": {"params": {"depth": 10, "layers": [1, 2]}, "tags": {}, "auc": math.nan},
    "inf": {"params": {"depth": "six"}, "tags": {"team": "X"}, "auc": math.inf},
    "bare": {"params": {}, "tags": {}, "auc": None},
}  # fmt: skip

FOUND = {
    "": "good fair nan inf bare",
    "metrics.auc > 0.8": "good inf",
    "metrics.auc >= 0.9 and metrics.auc < 1e9": "good",
    "not metrics.auc > 0.8": "fair nan bare",
    "metrics.auc <= 0.7 or metrics.auc > 1000": "fair inf",
    "metrics.auc != 0.9": "fair nan inf",
    "metrics.auc in (0.9, 0.7)": "good fair",
    "metrics.auc not in (0.9, 0.7)": "nan inf bare",
    "metrics.auc is null": "bare",
    "metrics.auc is not null": "good fair nan inf",
    'metrics."val/auc 1" = -1': "good",
    "params.depth = 6": "good",
    "params.depth = 6.0": "good",
    "params.depth = '6'": "good",
    "params.depth > 5": "good nan",
    "params.depth > 5 and not params.depth = 10": "good",
    "params.depth = 'six'": "inf",
    "params.depth in (4, 10)": "fair nan",
    "params.rate < 1e-8": "fair",
    "params.flag = true": "good",
    "params.flag != true": "fair",
    "params.none = 'None'": "fair",
    "params.big > 1e20": "good",
    "params.big = 99999999999999999999999999": "",
    "params.kind like 'tr%'": "good",
    "params.kind ilike 'TR_E'": "good fair",
    "params.kind not like 'tr%'": "fair nan inf bare",
    "params.layers = '[1,2]'": "nan",
    "tags.team = 'x'": "good",
    "tags.team in ('x', 'y')": "good fair",
    "tags.team > 'a'": "good fair",
    "tags.team < 'a'": "inf",
    "tags.`odd key` like '50\\%\\_[a]*?'": "good",
    "tags.`odd key` like '50_%'": "good",
    "tags.`odd key` like '5%]??'": "",
    "tags.team = 'x'' or ''1''=''1'": "",
    "status = 'RUNNING'": "good nan inf bare",
    "attributes.status = 'FINISHED' and run.name = 'fair'": "fair",
    "status in ('FAILED', 'KILLED')": "",
    "experiment = 'delay'": "good fair nan inf bare",
    "experiment like 'other%'": "",
    "started >= '2023-11-14' and started < '2023-11-15'": "good fair nan inf bare",
    "start_time > 1700000000000000": "",
    "ended is null": "good nan inf bare",
    "duration > 2 and duration <= 3.0": "fair",
    "not duration > 2": "good nan inf bare",
    "duration != 3": "",
    "parent is null": "good nan inf bare",
    "training_set = 'trips'": "good",
    "training_set like 'tr%'": "good",
    "training_set is null": "fair nan inf bare",
    "note like '%promis%'": "nan",
    "error is not null": "",
    "error is null and metrics.auc > 0.8": "good inf",
    "(((tags.team = 'x')))": "good",
    "tags.team = 'x' or tags.team = 'y' and metrics.auc > 0.8": "good",
    "(tags.team = 'x' or tags.team = 'y') and not metrics.auc > 0.8": "fair",
    "order by metrics.auc desc": "inf good fair nan bare",
    "order by metrics.auc": "fair good inf nan bare",
    "metrics.auc is not null ORDER BY params.depth DESC, name": "nan good fair inf",
    "order by tags.team, name desc": "inf good fair nan bare",
    "order by duration": "fair good nan inf bare",
}


class RegistryRunRules:
    """Mixed into `RegistryContract`; needs its fixture `opener`."""

    def test_a_run_is_kept_as_it_was_told(self, opener: Opener) -> None:
        params = {
            "i": -7, "big": 2**80, "f": 0.1, "b": True, "n": None, "s": "ü' -- ;", "l": [1, "a"],
            "d": {"x": None}, "nan": math.nan, "inf": -math.inf,
        }  # fmt: skip
        with opener.open() as registry:
            key = start(registry, params=params, tags={"a": "1"})
            registry.runs.set_tags(key, {"a": "2", "b": "", "c d/é": "x"})
            registry.runs.set_tags(key, {"b": None})
            registry.runs.add_note(key, "first")
            registry.runs.add_note(key, "second")
            kept = RunArtifact("model/a.bin", "ab" * 32, "file", 2**40, AT_US)
            registry.runs.add_artifacts(key, [kept, RunArtifact("x", "cd" * 32, "folder", 1, 2)])
            registry.runs.add_artifacts(key, [kept])
            log(registry, key, {"auc": [0.5, math.nan, math.inf, 0.7], "odd 'name": [-0.0]})
        with opener.open() as registry:
            found = registry.runs.details("aaaa", now_us=NOW_US)
            points = registry.runs.points("a" * 32, "auc")
        facts = found.facts
        assert math.isnan(facts.params["nan"])
        assert {name: facts.params[name] for name in params if name != "nan"} == {
            name: params[name] for name in params if name != "nan"
        }
        assert type(facts.params["b"]) is bool
        assert facts.tags == {"a": "2", "c d/é": "x"}
        assert facts.metrics["auc"] == Metric(0.7, 3, AT_US + 3, 0.5, math.inf, 4)
        assert [(point.step, str(point.value)) for point in points] == [
            (0, "0.5"), (1, "nan"), (2, "inf"), (3, "0.7"),
        ]  # fmt: skip
        assert (facts.status, facts.ended_at_us, facts.duration_us) == ("RUNNING", None, None)
        assert [note.text for note in found.notes] == ["first", "second"]
        assert [artifact.path for artifact in found.artifacts] == ["model/a.bin", "x"]

    def test_a_batch_that_comes_again_counts_once(self, opener: Opener) -> None:
        with opener.open() as registry:
            key = start(registry)
            for batch in (1, 1, 2, 1, 2):
                log(registry, key, {"auc": [float(batch)]}, batch=batch)
            facts = registry.runs.details("aaaa", now_us=NOW_US).facts
            assert facts.metrics["auc"] == Metric(2.0, 0, AT_US, 1.0, 2.0, 2)

    def test_the_greatest_step_is_the_value(self, opener: Opener) -> None:
        with opener.open() as registry:
            key = start(registry)
            steps = [(5, 0, 1.0), (3, 9, 2.0), (5, 1, 3.0), (5, 1, 4.0), (5, 0, 5.0)]
            for batch, (step, at, value) in enumerate(steps):
                point = Point("m", step, AT_US + at, value)
                registry.runs.log_points(key, "w", batch + 1, [point], now_us=AT_US)
            once = [Point("n", step, AT_US + at, value) for step, at, value in steps]
            registry.runs.log_points(key, "w", 9, once, now_us=AT_US)
            metrics = registry.runs.details("aaaa", now_us=NOW_US).facts.metrics
            assert metrics["m"] == metrics["n"] == Metric(4.0, 5, AT_US + 1, 1.0, 5.0, 5)

    def test_a_parameter_is_set_once(self, opener: Opener) -> None:
        with opener.open() as registry:
            key = start(registry, params={"depth": 6})
            registry.runs.set_params(key, {"depth": 6, "rate": 0.1})
            for other in (7, 6.0, "6", True):
                with pytest.raises(InvalidRequest, match="'depth' of this run is 6 already"):
                    registry.runs.set_params(key, {"new": 1, "depth": other})
            facts = registry.runs.details("aaaa", now_us=NOW_US).facts
            assert facts.params == {"depth": 6, "rate": 0.1}

    def test_what_is_too_long_or_no_name_is_refused(self, opener: Opener) -> None:
        long = "x" * (VALUE_BYTES_MAX + 1)
        with opener.open() as registry:
            key = start(registry)
            with pytest.raises(LimitExceeded, match="VALUE_BYTES_MAX"):
                registry.runs.set_params(key, {"p": long})
            with pytest.raises(LimitExceeded, match="VALUE_BYTES_MAX"):
                registry.runs.set_tags(key, {"t": long})
            with pytest.raises(LimitExceeded, match="VALUE_BYTES_MAX"):
                registry.runs.add_note(key, long)
            registry.runs.set_tags(key, {"t": long[1:]})
            for name in ("", "a\0b", "a\nb", "x" * 251, "\ud800"):
                with pytest.raises(InvalidRequest, match="is not the name of a"):
                    registry.runs.set_tags(key, {name: "x"})
                with pytest.raises(InvalidRequest, match="is not the name of a"):
                    registry.runs.set_params(key, {name: 1})
            for text in ("a\0b", "\udc80"):
                with pytest.raises(InvalidRequest):
                    registry.runs.set_tags(key, {"t": text})

    def test_a_run_that_is_heard_of_no_more_was_killed(self, opener: Opener) -> None:
        with opener.open() as registry:
            key = start(registry)
            start(registry, "b" * 32, beats=False)
            last = registry.runs.details("aaaa", now_us=NOW_US)
            heard_us = AT_US + 5_000_000
            registry.runs.beat(key, heard_us)
            late_us = heard_us + CRASHED_AFTER_US + 1
            assert last.facts.status == "RUNNING"
            for now_us, status, ended in (
                (late_us - 1, "RUNNING", None),
                (late_us, "KILLED", heard_us),
            ):
                facts = registry.runs.details("aaaa", now_us=now_us).facts
                assert (facts.status, facts.ended_at_us) == (status, ended)
            for query, ids in (("status = 'KILLED'", ["a"]), ("status = 'RUNNING'", ["b"])):
                rows = registry.runs.find(parse(query), now_us=late_us, limit=9)
                assert [row.run_id[0] for row in rows] == ids
            registry.runs.beat(key, late_us)
            assert registry.runs.details("aaaa", now_us=late_us).facts.status == "RUNNING"
            registry.runs.set_status(key, "FAILED", ended_at_us=late_us, error="E: x")
            facts = registry.runs.details("aaaa", now_us=late_us * 2).facts
            assert (facts.status, facts.ended_at_us, facts.error) == ("FAILED", late_us, "E: x")

    def test_runs_are_found_by_the_beginning_of_their_ids(self, opener: Opener) -> None:
        with opener.open() as registry:
            start(registry, "abcd" + "0" * 28)
            start(registry, "abcd" + "1" * 28)
        with opener.open(project="other") as registry:
            start(registry, "abce" + "1" * 28)
        with opener.open() as registry:
            assert registry.runs.key("abcd0").experiment == "delay"
            record = registry.runs.details("abcd0", now_us=NOW_US).facts.record_id
            assert registry.runs.key(record) == registry.runs.key("abcd0")
            with pytest.raises(AmbiguousRecord):
                registry.runs.key("abcd")
            for ref in ("abc", "abce1", "nonsense", "", "' or 1=1 --", "a%"):
                with pytest.raises(RecordNotFound):
                    registry.runs.key(ref)
            with pytest.raises(RecordNotFound):
                start(registry, "f" * 32, parent="abce" + "1" * 28)
            rows = registry.runs.find(parse(""), now_us=NOW_US, limit=9)
            assert len(rows) == 2

    def test_searches_find_what_they_say(self, opener: Opener) -> None:
        training_set = Record(kind="training_set", name="trips", body={"rows": 1})
        edge = Edge(parent=training_set.id, role="training_set")
        with opener.open() as registry:
            registry.commit(records=[training_set])
            for number, (name, about) in enumerate(RUNS.items()):
                key = start(
                    registry, f"{number:032x}", name=name, params=about["params"],
                    tags=about["tags"], started_at_us=AT_US - number,
                    parents=(edge,) if name == "good" else (),
                    parent=f"{0:032x}" if name == "fair" else None,
                )  # fmt: skip
                if about["auc"] is not None:
                    log(registry, key, {"auc": [0.0, about["auc"]]})
                if name == "good":
                    log(registry, key, {"val/auc 1": [-1.0]}, batch=2)
                if name == "nan":
                    registry.runs.add_note(key, "looks promising")
                if name == "fair":
                    ended_us = AT_US - number + 3_000_000
                    registry.runs.set_status(key, "FINISHED", ended_at_us=ended_us)
            for query, names in FOUND.items():
                rows = registry.runs.find(parse(query), now_us=NOW_US, limit=9)
                assert " ".join(row.name for row in rows) == names, query
            [good] = registry.runs.find(parse("name = 'good'"), now_us=NOW_US, limit=9)
            assert good.training_sets == (training_set.id,)
            rows = registry.runs.find(parse("order by metrics.auc"), now_us=NOW_US, limit=2)
            assert [row.name for row in rows] == ["fair", "good"]
            details = registry.runs.details(good.run_id, now_us=NOW_US)
            assert details.children == (f"{1:032x}",)

    def test_another_record_names_more_parents(self, opener: Opener) -> None:
        training_set = Record(kind="training_set", name="trips", body={"rows": 1})
        with opener.open() as registry:
            key = start(registry)
            registry.commit(records=[training_set])
            edge = Edge(parent=training_set.id, role="training_set")
            name = f"delay/{'a' * 32}"
            more = Record(kind="run", name=name, body={"version": "a" * 32}, parents=(edge,))
            registry.runs.relate(key, more)
            facts = registry.runs.details("aaaa", now_us=NOW_US).facts
            assert (facts.record_id, facts.training_sets) == (more.id, (training_set.id,))
            start(registry)  # again: it stays as it is
            assert registry.runs.details("aaaa", now_us=NOW_US).facts == facts

    def test_whoever_tracks_needs_a_grant_for_the_experiment(self, opener: Opener) -> None:
        with opener.open() as registry:
            start(registry, "f" * 32)
            tokens = [
                token_record("root", "*:shop"),
                token_record("t", "track:shop/delay"),
                token_record("o", "track:shop/other", "read:shop", "push:shop"),
            ]
            aliases = {f"token/{record.name}": record.id for record in tokens}
            registry.commit(records=tokens, aliases=aliases)
            commit_policy(registry, policy_record(enforced=True))
        with opener.open() as registry:
            registry.identity = Identity(author="ann", token="fs_o")  # noqa: S106
            other = registry.runs.key("ffff")
            for write in (
                lambda: start(registry),
                lambda: log(registry, other, {"m": [1.0]}),
                lambda: registry.runs.set_tags(other, {"a": "b"}),
                lambda: registry.runs.beat(other, AT_US),
            ):
                with pytest.raises(PermissionDenied, match="track:shop/delay"):
                    write()
            registry.identity = Identity(author="ann", token="fs_t")  # noqa: S106
            key = start(registry)
            log(registry, key, {"m": [1.0]})
            assert registry.runs.details("aaaa", now_us=NOW_US).facts.metrics["m"].points == 1
