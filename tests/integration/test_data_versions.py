"""Versions of training sets: a log, differences, tags, a way back; and a vacuum that keeps pins."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from featurestore import FeatureStore
from featurestore.cli.main import run
from featurestore.errors import (
    InvalidRequest,
    PermissionDenied,
    RecordNotFound,
    SnapshotMissing,
    UnknownSource,
)
from featurestore.lifecycle.datasets import Verdict
from featurestore.lifecycle.versions import Change
from featurestore.timeline import SECOND_US, ManualClock, format_instant
from tests.conftest import write_rows
from tests.integration.test_reproduce import NOW, asked, click, write_folder
from tests.integration.test_training_sets import VISITS, visit

pytestmark = pytest.mark.slow

FEATURES = ["last_visit:page", "user_clicks:clicks", "left:left"]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three versions: two that are equal, then one after new rows and a changed definition."""
    folder = tmp_path_factory.mktemp("template") / "repo"
    write_folder(folder)
    with opened(folder) as fs:
        for _ in range(2):
            fs.create_training_set("set", asked(), FEATURES, label="label")
            fs.clock.advance(1)  # type: ignore[attr-defined]
        fs.create_training_set("settled", asked(9), FEATURES)
    write_rows(folder / "data/visits/9.parquet", [visit(1, 2, spent=50.0)], VISITS)
    click(folder, 2)
    path = folder / "definitions.py"
    path.write_text(path.read_text().replace('"budget - spent"', '"budget - 2 * spent"'))
    with opened(folder) as fs:
        fs.create_training_set(
            "set", asked(70), [*FEATURES, "last_visit:spent"], splits={"all": None}
        )
    return folder


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "repo"))


def opened(folder: Path, **overrides: Any) -> FeatureStore:
    return FeatureStore(folder, clock=ManualClock(NOW), overrides=overrides)


def test_log(folder: Path) -> None:
    with opened(folder) as fs:
        found = fs.data.log("set")
        assert [(one.number, one.rows, one.current, one.tags) for one in found] == [
            (3, 70, True, ()), (2, 60, False, ()), (1, 60, False, ()),
        ]  # fmt: skip
        assert found[1].row_digest == found[2].row_digest != found[0].row_digest
        assert fs.training_set("set/1").id == found[2].id
        assert [one.number for one in fs.data.log("settled")] == [1]
        for ref in ("set/0", "set/4", "set/none", "set/99999999999", "set/2001-01-01", "no/2026"):
            with pytest.raises(RecordNotFound):
                fs.training_set(ref)
        with pytest.raises(RecordNotFound, match="Did you mean 'set'"):
            fs.data.log("sets")


def test_a_name_as_it_stood_at_an_instant(folder: Path) -> None:
    with opened(folder) as fs:
        made = []
        for rows in (3, 4):
            fs.clock.advance(SECOND_US)  # type: ignore[attr-defined]
            made.append(fs.create_training_set("dated", asked(rows), FEATURES))
        first, second = (f"dated/{format_instant(one.record.created_at_us)}" for one in made)
        assert fs.training_set(first).id == made[0].id
        assert fs.training_set(second).id == made[1].id == fs.training_set("dated").id
        assert fs.data.diff(first, second).rows == (3, 4)
        fs.clock.advance(SECOND_US)  # type: ignore[attr-defined]
        fs.data.restore(first)
        assert fs.training_set(second).id == made[1].id
        with pytest.raises(RecordNotFound):
            fs.training_set("dated/2001-01-01")


def test_diff(folder: Path) -> None:
    with opened(folder) as fs:
        same = fs.data.diff("set/1", "set/2")
        assert same.same_rows
        assert (same.rows_only_then, same.rows_only_now) == (0, 0)
        assert same.features == same.sources == same.columns_added == same.columns_changed == ()
        assert [change.what for change in same.settings] == ["known_until_us"]
        found = fs.data.diff("set/1", "set/3")
        assert (found.rows, found.same_rows) == ((60, 70), False)
        assert (found.columns_added, found.columns_removed) == (("spent",), ())
        assert found.columns_changed is None  # other rows of the entity frame
        assert {c.what for c in found.features} == {"left.left", "last_visit.spent"}
        assert {c.what for c in found.sources} == {"visits", "clicks"}
        clicks = next(c for c in found.sources if c.what == "clicks")
        assert (clicks.then["version"], clicks.now["version"]) == (0, 1)
        assert {c.what for c in found.settings} == {"label", "splits"}
        old = fs.training_set("set/1").to_arrow().select(fs.training_set("set/1").schema.names)
        new = fs.training_set("set/3").to_arrow().select(old.schema.names)
        then, now = ([json.dumps(r, default=str) for r in t.to_pylist()] for t in (old, new))
        assert found.rows_only_then == len([r for r in then if r not in now]) > 0
        assert found.rows_only_now == len([r for r in now if r not in then]) > 10


def test_diff_of_columns_over_one_frame(folder: Path) -> None:
    with opened(folder) as fs:
        fs.create_training_set("set", asked(), FEATURES, label="label")
        found = fs.data.diff("set/1", "set")
        assert found.rows == (60, 60)
        assert found.columns_changed is not None
        assert "left" in found.columns_changed
        assert set(found.columns_changed) <= {"left", "clicks", "page"}
        left = next(c for c in found.features if c.what == "left.left")
        assert isinstance(left, Change)
        assert left.then != left.now


def test_restore(folder: Path) -> None:
    with opened(folder) as fs:
        first, third = fs.training_set("set/1"), fs.training_set("set/3")
        assert fs.data.restore("set/1", reason="too many").id == first.id
        assert fs.training_set("set").id == first.id
        assert [one.current for one in fs.data.log("set")] == [False, False, True]
        assert fs.registry.history("training_set/set")[-1].reason == "too many"
        moves = len(fs.registry.history("training_set/set"))
        fs.data.restore(first.id)
        assert len(fs.registry.history("training_set/set")) == moves
        assert fs.reproduce("set").verdict is Verdict.EXACT
        assert fs.training_set(third.id).to_arrow().num_rows == 70
        Path(fs._sets().offline.url(third.files.files[0].name)).unlink()
        with pytest.raises(SnapshotMissing, match="is gone or changed"):
            fs.data.restore(third.id)
        assert fs.training_set("set").id == first.id


def test_tags(folder: Path) -> None:
    with opened(folder) as fs:
        fs.data.tag("set/1", "audited")
        fs.data.tag("set/1", "audited")
        assert fs.training_set("set/audited").id == fs.training_set("set/1").id
        assert [one.tags for one in fs.data.log("set")] == [(), (), ("audited",)]
        with pytest.raises(InvalidRequest, match="tag 'audited' stands at training_set:set@"):
            fs.data.tag("set", "audited")
        fs.data.tag("set", "audited", move=True)
        assert fs.training_set("set/audited").id == fs.training_set("set/3").id
        for wrong in ("", "3", "a/b", "a b", "x" * 64, None):
            with pytest.raises(InvalidRequest, match="is not a tag"):
                fs.data.tag("set", wrong)  # type: ignore[arg-type]
        assert fs.reproduce("set/audited").asked == "set/audited"


def test_who_may_move_names(folder: Path) -> None:
    with opened(folder) as fs:
        admin, _ = fs.create_token("admin", allow=["*:shop"])
        tracker, _ = fs.create_token("tracker", allow=["track:shop/set"])
        other, _ = fs.create_token("other", allow=["track:shop/settled"])
    with opened(folder, **{"security.token": admin}) as fs:
        fs.set_access_control(True)
    with opened(folder, **{"security.token": tracker}) as fs:
        fs.data.tag("set/1", "audited")
        fs.data.restore("set/1")
        with pytest.raises(PermissionDenied, match="delete:shop/clicks"):
            fs.data.vacuum("clicks", dry_run=False)
    with opened(folder, **{"security.token": other}) as fs:
        for move in (lambda: fs.data.tag("set/1", "x"), lambda: fs.data.restore("set/2")):
            with pytest.raises(PermissionDenied, match="track:shop/set"):
                move()


def test_a_vacuum_keeps_what_sets_have_read(folder: Path) -> None:
    click(folder, 3, mode="overwrite")
    click(folder, 4, mode="overwrite")  # version 3, which nobody has read, lies in between
    with opened(folder) as fs:
        with pytest.raises(InvalidRequest, match="is not a duration"):
            fs.data.vacuum("clicks", older_than="-1d")
        asked_only = fs.data.vacuum("clicks", older_than="1us")
        assert (asked_only.removed, asked_only.kept_versions) == (False, (0, 1))
        assert len(asked_only.files) == 1
        done = fs.data.vacuum("clicks", older_than="1us", dry_run=False)
        assert (done.files, done.removed) == (asked_only.files, True)
        assert not (folder / "data/clicks" / done.files[0]).exists()
        for ref in ("set/1", "set/3", "settled"):
            assert fs.reproduce(ref).verdict is Verdict.EXACT
        DeltaTable(folder / "data/clicks").vacuum(
            retention_hours=0, enforce_retention_duration=False, dry_run=False
        )
        assert fs.reproduce("set/1").verdict is Verdict.DATA_EXPIRED  # Delta's own knows nothing


def test_a_vacuum_keeps_what_was_read_by_another_source(folder: Path) -> None:
    """The table counts, not what the source is called that reads it today."""
    click(folder, 3, mode="overwrite")
    click(folder, 4, mode="overwrite")
    path = folder / "definitions.py"
    text = path.read_text()
    path.write_text(
        text.replace('clicks = FileSource("clicks",', 'clicks = FileSource("taps",')
        + '\nother = FileSource("clicks", path="data/other", format="delta", event_time="seen")\n'
    )
    shutil.copytree(folder / "data/clicks", folder / "data/other")
    with opened(folder) as fs:
        assert fs.data.vacuum("taps", older_than="1us").kept_versions == (0, 1)
        assert fs.data.vacuum("clicks", older_than="1us").kept_versions == ()
        fs.data.vacuum("taps", older_than="1us", dry_run=False)
        assert fs.reproduce("set/1").verdict is Verdict.EXACT


def test_a_vacuum_is_never_younger_than_asked(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hours: list[int] = []
    monkeypatch.setattr(
        DeltaTable,
        "vacuum",
        lambda _self, retention_hours, **_: hours.append(retention_hours) or [],
    )
    with opened(folder) as fs:
        for asked in ("59m", "1h", "61m", "90m", "7d"):
            fs.data.vacuum("clicks", older_than=asked)
    assert hours == [0, 1, 2, 2, 168]


def test_what_is_no_delta_table(folder: Path) -> None:
    with opened(folder) as fs:
        with pytest.raises(UnknownSource, match="Did you mean 'clicks'"):
            fs.data.vacuum("click")
        with pytest.raises(InvalidRequest, match="'busy' is a query"):
            fs.data.vacuum("busy")
        with pytest.raises(InvalidRequest, match="is no Delta table"):
            fs.data.vacuum("prices")


def test_a_version_that_the_log_forgot(folder: Path) -> None:
    DeltaTable(folder / "data/clicks").create_checkpoint()
    (folder / "data/clicks/_delta_log/00000000000000000000.json").unlink()
    with opened(folder) as fs, pytest.raises(InvalidRequest, match="has read version 0 of"):
        fs.data.vacuum("clicks", dry_run=False)


def test_the_commands(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def call(*arguments: str, status: int = 0) -> str:
        assert run([*arguments, "--repo", str(folder)], debug=False) == status
        return capsys.readouterr().out

    assert "3 (current)" in call("data", "log", "set")
    logged = json.loads(call("data", "log", "set", "--json"))
    assert [one["number"] for one in logged] == [3, 2, 1]
    assert logged[0]["created_at"] == "2024-06-01T00:00:00Z" or "T" in logged[0]["created_at"]
    assert "the very same rows" in call("data", "diff", "set/1", "set/2")
    shown = call("data", "diff", "set/1", "set/3")
    assert "column       + spent" in shown
    assert "source       clicks: version 0 → version 1" in shown
    assert "feature      last_visit.spent: none → " in shown
    assert json.loads(call("data", "diff", "set/1", "set/3", "--json"))["rows"] == [60, 70]
    assert call("data", "tag", "set/1", "audited").startswith("set/audited is training_set:set@")
    assert call("data", "restore", "set/audited").startswith("set is training_set:set@")
    click(folder, 3, mode="overwrite")
    click(folder, 4, mode="overwrite")
    assert "versions kept for training sets: 0, 1" in call("data", "vacuum", "clicks")
    assert json.loads(call("data", "vacuum", "clicks", "--older-than", "1us", "--yes", "--json"))[
        "removed"
    ]


def test_digests_of_no_rows(folder: Path) -> None:
    with opened(folder) as fs:
        fs.create_training_set("none", asked(0), FEATURES)
        found = fs.data.diff("none", "none")
        assert found.same_rows
        assert (found.rows, found.rows_only_then) == ((0, 0), 0)
        assert (
            fs.training_set("none")
            .to_arrow()
            .schema.equals(pa.schema(fs.training_set("none").schema))
        )
