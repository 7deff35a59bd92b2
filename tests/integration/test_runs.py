"""Runs end to end: what a training program says, and what is known afterwards."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from decimal import Decimal
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from patience import promised, wait_for

from featurestore import FeatureStore
from featurestore.cli.init import write_repository
from featurestore.errors import (
    FeatureStoreError,
    InvalidRequest,
    LimitExceeded,
    RecordNotFound,
    ServerOverloaded,
    StoreUnavailable,
)
from featurestore.jobs import run_buffer
from featurestore.jobs.tracking import ActiveRun, current_run
from featurestore.timeline import SystemClock


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repo = tmp_path_factory.mktemp("tracked") / "shop"
    write_repository(repo, now_us=SystemClock().now_us())
    return repo


@pytest.fixture
def fs(folder: Path) -> Iterator[FeatureStore]:
    with FeatureStore(folder) as store:
        yield store


def values(fs: FeatureStore, run: ActiveRun | str, metric: str) -> list[float]:
    name = run if isinstance(run, str) else run.run_id
    return [point.value for point in fs.runs.metric(name, metric)]


def test_a_block_is_a_run(fs: FeatureStore, tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"weights")
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "a.svg").write_text("<svg/>")
    params = {"depth": np.int64(6), "rate": 0.1, "on": True, "none": None, "kind": "tree"}
    with fs.start_run("block", name="first", params=params, tags={"team": "x"}) as run:
        assert current_run() is run
        assert fs.runs.get(run.run_id).facts.status == "RUNNING"
        run.log_metric("auc", 0.5)
        run.log_metrics(
            {"auc": np.float32(0.75), "n": Decimal(3), "big": 10**400}, step=np.int64(2)
        )
        run.log_metric("auc", 0.25, step=1, at="2026-01-01T00:00:00Z")
        run.log_param("late", [1, 2])
        run.set_tag("team", "y")
        run.note("fine")
        run.log_artifact(tmp_path / "model.bin")
        run.log_artifact(tmp_path / "plots", to="pictures/all")
        run.log_artifacts(tmp_path, to="everything")
    assert current_run() is None
    found = fs.runs.get(run.run_id[:6])
    facts = found.facts
    assert (facts.status, facts.experiment, facts.name) == ("FINISHED", "block", "first")
    assert facts.params == {
        "depth": 6, "rate": 0.1, "on": True, "none": None, "kind": "tree", "late": [1, 2],
    }  # fmt: skip
    assert [type(facts.params[name]) for name in ("depth", "on")] == [int, bool]
    assert (facts.metrics["auc"].value, facts.metrics["auc"].points) == (0.75, 3)
    assert facts.metrics["big"].value == math.inf
    assert values(fs, run, "auc") == [0.5, 0.25, 0.75]
    assert facts.tags == {"team": "y"}
    assert facts.duration_us is not None
    assert facts.duration_us > 0
    assert [(kept.path, kept.kind) for kept in found.artifacts] == [
        ("everything/model.bin", "file"), ("everything/plots", "folder"), ("model.bin", "file"),
        ("pictures/all", "folder"),
    ]  # fmt: skip
    assert fs.runs.fetch(run.run_id, "model.bin", tmp_path / "copy").read_bytes() == b"weights"
    fs.runs.fetch(run.run_id, "pictures/all/a.svg", tmp_path / "one.svg")
    assert (tmp_path / "one.svg").read_text() == "<svg/>"
    with pytest.raises(RecordNotFound, match=r"model\.bin"):
        fs.runs.fetch(run.run_id, "model.bi", tmp_path / "copy")
    record = fs.registry.record(run.id)
    assert record.record.name == f"block/{run.run_id}"
    assert run.run_id not in fs.registry.aliases()


@pytest.mark.slow
def test_what_is_recorded_without_asking(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "uv.lock").write_text("locked")
    (project / "train.py").write_text(
        "import sys\nfrom featurestore import FeatureStore\n"
        "with FeatureStore(sys.argv[1]) as fs, fs.start_run('bare') as run:\n"
        "    print(run.run_id)\n"
    )
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(project)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "remote", "add", "origin", "https://u:hunter2@h.org/x.git"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "x"], check=True)
    head = subprocess.run(
        [*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()

    def trained() -> dict[str, dict[str, object]]:
        command = [sys.executable, "train.py", str(folder)]
        done = subprocess.run(command, cwd=project, check=True, capture_output=True, text=True)
        with FeatureStore(folder) as fs:
            body = fs.runs.get(done.stdout.strip()).body
            packages = fs.registry.blob(body["environment"]["packages_blob"])
        assert b'"duckdb":' in packages
        return dict(body)

    clean = trained()
    assert clean["code"] == {
        "program": "train.py", "commit": head, "branch": clean["code"]["branch"],
        "remote": "https://h.org/x.git", "dirty": False,
    }  # fmt: skip
    environment = clean["environment"]
    assert environment["python"] == ".".join(map(str, sys.version_info[:3]))
    assert environment["lock"] == {"file": "uv.lock", "digest": sha256(b"locked").hexdigest()}
    assert environment["packages"]["duckdb"]  # type: ignore[index]
    assert environment["processors"] == os.cpu_count()
    assert clean["user"]
    program = (project / "train.py").read_text()
    (project / "train.py").write_text(program + "# changed\n")
    changed = trained()["code"]
    (project / "new.py").write_text("")
    with_new = trained()["code"]
    assert (changed["dirty"], with_new["dirty"]) == (True, True)
    assert (
        len({clean["code"].get("diff_digest"), changed["diff_digest"], with_new["diff_digest"]})
        == 3
    )
    assert changed["commit"] == head


class Boom(Exception):
    pass


def test_how_runs_end(fs: FeatureStore) -> None:
    ends: list[tuple[BaseException | None, str, str]] = [
        (None, "FINISHED", ""),
        (Boom("the token fs_" + "x" * 43 + " is wrong"), "FAILED", "Boom: the token *** is wrong"),
        (KeyboardInterrupt(), "KILLED", "KeyboardInterrupt"),
        (SystemExit(0), "FINISHED", ""),
        (SystemExit(3), "FAILED", "SystemExit: 3"),
    ]
    for error, status, words in ends:
        run = fs.start_run("ends")
        with suppress(Boom, KeyboardInterrupt, SystemExit), run:
            run.log_metric("m", 1.0)
            if error is not None:
                raise error
        facts = fs.runs.get(run.run_id).facts
        assert (facts.status, facts.error) == (status, words)
        assert facts.metrics["m"].points == 1
    assert [found.error for found in fs.runs.search("error is not null order by started")] == [
        words for _, _, words in ends if words
    ]
    with pytest.raises(InvalidRequest, match=r"has ended; go on with it by fs\.runs\.resume"):
        run.log_metric("m", 1.0)
    with pytest.raises(InvalidRequest, match="has ended"):
        run.set_tag("a", "b")
    run.end()
    assert fs.runs.get(run.run_id).facts.status == "FAILED"
    with fs.runs.resume(run.run_id) as again:
        assert fs.runs.get(run.run_id).facts.status == "RUNNING"
        again.log_metric("m", 2.0, step=1)
    facts = fs.runs.get(run.run_id).facts
    assert (facts.status, facts.metrics["m"].points, facts.error) == ("FINISHED", 2, "")


def test_runs_nest(fs: FeatureStore) -> None:
    with fs.start_run("nested") as outer:
        with fs.start_run("nested") as inner, fs.start_run("other") as innermost:
            pass
        with ThreadPoolExecutor(1) as pool:
            apart = pool.submit(lambda: fs.start_run("nested", parent=outer.run_id[:8])).result()
            alone = pool.submit(lambda: fs.start_run("nested")).result()
        apart.end()
        alone.end()
    found = fs.runs.get(outer.run_id)
    assert found.children == (inner.run_id, apart.run_id)
    assert fs.runs.get(innermost.run_id).facts.parent == inner.run_id
    assert fs.runs.get(alone.run_id).facts.parent is None
    roles = {edge.role: edge.parent for edge in fs.registry.record(inner.id).record.parents}
    assert roles == {"parent_run": outer.id}
    with pytest.raises(RecordNotFound):
        fs.start_run("nested", parent="f" * 32)


def test_a_run_names_its_training_sets(fs: FeatureStore, folder: Path) -> None:
    import pandas as pd

    frame = pd.read_csv(folder / "visits.csv")
    first = fs.create_training_set("visits", frame, "offer_model")
    second = fs.create_training_set("visits", frame.head(7), "offer_model")
    other = fs.create_training_set("more", frame.head(5), "offer_model")
    with fs.start_run("sets", training_set=first) as one:
        pass
    with fs.start_run("sets", training_set=["visits", other.id]) as two:
        pass
    with fs.start_run("sets") as three:
        before = three.id
        three.use(other)
        three.use("more")
    assert fs.runs.get(one.run_id).facts.training_sets == (first.id,)
    assert set(fs.runs.get(two.run_id).facts.training_sets) == {second.id, other.id}
    assert fs.runs.get(three.run_id).facts.training_sets == (other.id,)
    assert three.id != before
    assert fs.registry.twins([before]) == [before, three.id]
    down = {link.child for link in fs.registry.walk(other.id, direction="down")}
    assert {two.id, three.id} <= down
    found = fs.runs.search("training_set = 'more'", experiment="sets", order_by="started")
    assert [run.run_id for run in found] == [two.run_id, three.run_id]
    for name in (one.run_id, one.run_id[:12], f"sets/{one.run_id[:12]}", one.id):
        assert first.id in {node.id for node in fs.lineage.of(name, depth=1).nodes}
        assert fs.reproduce(name).training_set == first.id
    with pytest.raises(RecordNotFound):
        fs.lineage.of(f"others/{one.run_id}")
    comparison = fs.runs.compare(one.run_id, three.run_id)
    data = {each.name: each.values for each in comparison.training_data}
    assert data["rows"] == (len(frame), 5)
    assert {"training set", "row_digest", "entity frame"} <= set(data)
    assert not any(name.startswith("feature ") for name in data)
    with pytest.raises(RecordNotFound, match="Did you mean 'training set visits'"):
        fs.start_run("sets", training_set="visit")
    with pytest.raises(InvalidRequest, match="not a training set"):
        fs.start_run("sets", training_set=7)
    with pytest.raises(InvalidRequest, match="is a run, not a training set"):
        fs.start_run("sets", training_set=one.id)


def test_bad_input_is_refused(fs: FeatureStore, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="1 run or more, not 0"):
        fs.runs.search(limit=0)
    with pytest.raises(LimitExceeded, match="RUNS_PER_SEARCH_MAX"):
        fs.runs.search(limit=10_001)
    for name in ("", "a@b", "a\nb", " a", "a/", "/a", "a//b", "x" * 257, "\0"):
        with pytest.raises(InvalidRequest, match="not the name of an experiment"):
            fs.start_run(name)
    with pytest.raises(InvalidRequest, match="not the name of a run"):
        fs.start_run("bad", name="")
    hostile = "<script>alert('x')</script>'; DROP TABLE run; --"
    (tmp_path / "x").write_text("x")
    with fs.start_run("bad/" + hostile.replace("/", "|"), name=hostile) as run:
        for value in ("0.5", None, b"1", [1], object(), 1j):
            with pytest.raises(InvalidRequest, match=r"metric 'm' is"):
                run.log_metric("m", value)  # type: ignore[arg-type]
        for step in (1.5, "1", 2**63, None):
            with pytest.raises(InvalidRequest, match="a step is a whole number"):
                run.log_metric("m", 1.0, step=step)  # type: ignore[arg-type]
        for key in ("", "a\nb", "x" * 251, 7):
            with pytest.raises(InvalidRequest, match="not the name of a metric"):
                run.log_metric(key, 1.0)  # type: ignore[arg-type]
        for path in ("../x", "/x", "a/../../x", "", "a\\..\\x"):
            with pytest.raises(InvalidRequest, match="not a path of an artifact"):
                run.log_artifact(tmp_path / "x", to=path)
        with pytest.raises(InvalidRequest, match="No such file"):
            run.log_artifact(tmp_path / "nothing")
        run.log_metric(hostile, 1.0)
        run.set_tag(hostile, hostile)
        run.log_param(hostile, hostile)
        run.note(hostile)
    found = fs.runs.get(run.run_id)
    assert found.facts.tags == {hostile: hostile} == found.facts.params
    assert list(found.facts.metrics) == [hostile]
    quoted = "'" + hostile.replace("'", "''") + "'"
    assert len(fs.runs.search(f'tags."{hostile}" = {quoted} and name = {quoted}')) == 1
    assert fs.runs.search(f"name = {quoted} and tags.x = {quoted}") == ()


def test_threads_share_a_run(fs: FeatureStore) -> None:
    def log(thread: int) -> None:
        for step in range(500):
            run.log_metric(f"m{thread % 2}", float(thread), step=step)

    with fs.start_run("threads") as run, ThreadPoolExecutor(8) as pool:
        list(pool.map(log, range(8)))
    metrics = fs.runs.get(run.run_id).facts.metrics
    assert {name: metric.points for name, metric in metrics.items()} == {"m0": 2000, "m1": 2000}


def _in_a_child(run: ActiveRun) -> None:
    for step in range(100):
        run.log_metric("child", float(step), step=step)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_processes_share_a_run(fs: FeatureStore, folder: Path) -> None:
    program = """
        import sys
        from featurestore import FeatureStore
        with FeatureStore(sys.argv[1]) as fs, fs.runs.join(sys.argv[2]) as run:
            run.log_metric("joined", 1.0)
    """
    with fs.start_run("processes") as run:
        run.log_metric("parent", 1.0)  # still in the buffer when the child begins
        child = multiprocessing.get_context("fork").Process(target=_in_a_child, args=(run,))
        child.start()
        child.join()
        assert child.exitcode == 0
        command = [sys.executable, "-c", textwrap.dedent(program), str(folder), run.run_id]
        subprocess.run(command, check=True)
        assert fs.runs.get(run.run_id).facts.status == "RUNNING"
    metrics = fs.runs.get(run.run_id).facts.metrics
    assert {name: metric.points for name, metric in metrics.items()} == {
        "child": 100, "parent": 1, "joined": 1,
    }  # fmt: skip


TRAINS = """
    import os, sys, time
    from featurestore import FeatureStore
    fs = FeatureStore(sys.argv[1])
    run = fs.start_run("crash")
    print(run.run_id, flush=True)
    {}
"""


def start(folder: Path, body: str) -> tuple[subprocess.Popen[str], str]:
    program = textwrap.dedent(TRAINS).format(body)
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


@pytest.mark.slow
def test_a_program_that_just_ends_ends_its_runs(fs: FeatureStore, folder: Path) -> None:
    log = "run.log_metric('m', 1.0)"
    process, run_id = start(folder, log)
    with process:
        assert process.wait() == 0
    facts = fs.runs.get(run_id).facts
    assert (facts.status, facts.metrics["m"].points) == ("FINISHED", 1)
    process, run_id = start(folder, f"{log}; raise ValueError('no luck')")
    with process:
        assert process.wait() == 1
    facts = fs.runs.get(run_id).facts
    assert (facts.status, facts.error) == ("FAILED", "ValueError: no luck")
    assert facts.metrics["m"].points == 1


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_what_was_logged_a_second_before_the_end_is_there(
    fs: FeatureStore, folder: Path, how: signal.Signals
) -> None:
    body = """
    for step in range(10**9):
        run.log_metric("m", float(step), step=step, at=time.time_ns() // 1000)
        time.sleep(0.001)
        if step == 1500:
            print(time.time_ns() // 1000, flush=True)
    """.replace("\n    ", "\n").strip()
    process, run_id = start(folder, body)
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        wait_for(lambda: len(fs.runs.metric(run_id, "m")) > 1500)
        last_us = time.time_ns() // 1000
        process.send_signal(how)
    points = fs.runs.metric(run_id, "m")
    assert [point.step for point in points] == list(range(len(points)))
    assert points[-1].step >= 1500
    assert last_us - points[-1].at_us < promised(1.5) * 1_000_000
    facts = fs.runs.get(run_id).facts
    assert facts.status == "RUNNING"
    later = type("Later", (), {"now_us": staticmethod(lambda: last_us + 120_000_000)})()
    with FeatureStore(folder, clock=later) as later_store:
        facts = later_store.runs.get(run_id).facts
        assert facts.status == "KILLED"
        assert facts.ended_at_us is not None
        assert facts.ended_at_us <= last_us
        assert run_id in {run.run_id for run in later_store.runs.search("status = 'KILLED'")}


class Away:
    """A registry that can be taken away, and loses the answer of what it wrote."""

    def __init__(self, tables: object) -> None:
        self.tables, self.away, self.answers_lost, self.calls = tables, False, 0, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.tables, name)

    def log_points(self, *args: object, **more: object) -> None:
        self.calls += 1
        if self.away:
            raise StoreUnavailable("away")
        self.tables.log_points(*args, **more)  # type: ignore[attr-defined]
        if self.answers_lost:
            self.answers_lost -= 1
            raise StoreUnavailable("the answer was lost")


def test_nothing_is_lost_or_twice_while_the_registry_is_away(
    fs: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_buffer, "POINTS_HELD_MAX", 1_000)
    monkeypatch.setattr(run_buffer, "POINTS_PER_BATCH", 100)
    monkeypatch.setattr(run_buffer, "FLUSH_S", 0.05)
    monkeypatch.setattr(run_buffer, "RETRY_S", 0.02)
    run = fs.start_run("away")
    away = Away(run._buffer._tables)
    run._buffer._tables = away  # type: ignore[assignment]
    away.away = True
    done = threading.Event()

    def log() -> None:
        for step in range(3_000):
            run.log_metric("m", float(step), step=step)
        done.set()

    thread = threading.Thread(target=log)
    thread.start()
    while away.calls < 2:
        time.sleep(0.01)
    assert not done.wait(0.3)  # it waits for room
    away.answers_lost, away.away = 2, False
    thread.join()
    run.end()
    assert values(fs, run, "m") == [float(step) for step in range(3_000)]

    monkeypatch.setattr(run_buffer, "WAIT_S_MAX", 0.1)
    run = fs.start_run("away")
    away = Away(run._buffer._tables)
    run._buffer._tables, away.away = away, True  # type: ignore[assignment]
    step = 0
    with suppress(ServerOverloaded):
        while step < 3_000:
            run.log_metric("m", float(step), step=(step := step + 1))
    assert 1_000 <= step <= 1_101
    with pytest.raises(ServerOverloaded, match="POINTS_HELD_MAX"):
        run.flush()
    away.away = False
    run.end()
    assert fs.runs.get(run.run_id).facts.metrics["m"].points == step


def test_what_the_registry_refuses_is_said(
    fs: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from featurestore.stores.registry import runs

    monkeypatch.setattr(runs, "METRICS_PER_RUN_MAX", 2)
    run = fs.start_run("refused")
    for name in ("a", "b", "c"):
        run.log_metric(name, 1.0)
    with pytest.raises(FeatureStoreError, match="METRICS_PER_RUN_MAX"):
        run.end()
    assert fs.runs.get(run.run_id).facts.status == "FINISHED"


@pytest.mark.parametrize("name", ["metrics.png", "metrics.svg"])
def test_pictures(fs: FeatureStore, tmp_path: Path, name: str) -> None:
    ids = []
    for depth in (2, 4):
        with fs.start_run("pictures", name=f"$depth_{depth}$") as run:
            for step in range(60):
                run.log_metric("loss", math.nan if step == 30 else 1 / (step + depth), step=step)
            run.log_metric("auc", depth / 10)
            run.log_metric("inf", math.inf)
        ids.append(run.run_id)
    assert fs.runs.plot(*ids, to=tmp_path / name) == tmp_path / name
    data = (tmp_path / name).read_bytes()
    if name.endswith("png"):
        assert data.startswith(b"\x89PNG")
        assert len(data) > 20_000
    else:
        assert data.count(b'<g id="axes_') == 3
        assert b"loss" in data
    with pytest.raises(RecordNotFound, match="Did you mean 'metric loss'"):
        fs.runs.plot(*ids, to=tmp_path / name, metrics=["los"])
    with pytest.raises(LimitExceeded, match="13 is over PLOTTED_METRICS_MAX"):
        fs.runs.plot(*ids, to=tmp_path / name, metrics=["loss"] * 13)
    with pytest.raises(InvalidRequest, match=r"\.png or \.svg"):
        fs.runs.plot(*ids, to=tmp_path / "x.pdf")
    with fs.start_run("pictures") as bare:
        pass
    with pytest.raises(InvalidRequest, match="no metric"):
        fs.runs.plot(bare.run_id, to=tmp_path / name)
