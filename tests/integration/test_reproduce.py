"""A training set is built again from what is on record, and the verdict says what that showed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from featurestore import FeatureStore
from featurestore.errors import InvalidRequest, RecordNotFound
from featurestore.jobs import set_files, training_set_creation
from featurestore.jobs.reproduce import ExpiredFile, Reproduction
from featurestore.lifecycle.datasets import LibraryChange, Verdict
from featurestore.records import Edge, Record
from featurestore.timeline import ManualClock, to_us
from tests.conftest import INSTANT, utc, write_rows
from tests.integration.test_training_sets import DEFINITIONS, VISITS, frame, visit

NOW = to_us("2024-06-01T00:00:00Z")
MORE = """
import math

clicks = FileSource("clicks", path="data/clicks", format="delta", event_time="seen")
user_clicks = FeatureView("user_clicks", entities=[user], source=clicks, ttl="30d",
    features=[Feature("clicks", "n + 1", dtype="int64"), Feature("odd", "CASE WHEN n % 2 = 1 THEN "
              "'odd' ELSE NULL END")])
many = FeatureView("many", entities=[user], source=visits, correction_horizon="2d", features=[
    Aggregation("*", "count", windows=["1d", "lifetime"], where="page = 'cart'", name="carts"),
    Aggregation("spent * 2", "mean", window="3d", hop="exact", delay="1h", name="twice"),
    Aggregation("spent", "sum", window="7d", by="page", name="by_page"),
    Aggregation("spent", "approx_quantile", window="7d", q=0.9, name="q90"),
])
signups = StreamSource("redis://127.0.0.1:1/0/signups", event_time="at", created_time="told",
    schema={"user_id": "int64", "at": "timestamp", "told": "timestamp", "plan": "string"})
signup = FeatureView("signup", entities=[user], source=signups, features=[Feature("plan")])

@on_demand_feature_view(inputs=[last_visit, left, many, asked], schema={"risk": "float64"},
                        imports=["math"])
def risk(spent, left, budget, request_time):
    return {"risk": math.log1p(abs(left or 0.0)) + (spent or 0.0) * budget}

everything = FeatureService("everything", features=[last_visit, many[["twice", "by_page", "q90"]],
    many[["carts_1d", "carts_lifetime"]].with_name("carts"), user_clicks, signup, busy_visit, left,
    risk, shop_price,
    last_visit[["page"]].with_name("other").with_join_key_map({"user_id": "friend"}),
])
"""


def write_folder(made: Path) -> None:
    made.mkdir()
    (made / "featurestore.toml").write_text('[project]\nname = "shop"\n')
    (made / "definitions.py").write_text(DEFINITIONS + MORE)
    for part in range(3):
        rows = [visit(user, day) for user in range(8) for day in range(1 + part, 28, 3)]
        write_rows(made / "data" / "visits" / f"{part}.parquet", rows, VISITS)
    lines = [f"s{n},2024-05-0{n}T00:00:00Z,{n}.5" for n in range(1, 4)]
    (made / "data" / "prices.csv").write_text("\n".join(["shop,since,price", *lines]) + "\n")
    click(made, 1)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A repository with a set of everything there is, to be copied; the set's id."""
    folder = tmp_path_factory.mktemp("template") / "repo"
    write_folder(folder)
    return folder, make_set(folder)


@pytest.fixture
def folder(template: tuple[Path, str], tmp_path: Path) -> Path:
    shutil.copytree(template[0], tmp_path / "repo")
    return tmp_path / "repo"


@pytest.fixture
def made(template: tuple[Path, str]) -> str:
    """The id of the set."""
    return template[1]


def click(folder: Path, day: int, *, mode: Any = "append") -> None:
    rows = [{"user_id": user, "seen": utc(2024, 5, day), "n": user * day} for user in range(8)]
    types = pa.schema([("user_id", pa.int64()), ("seen", INSTANT), ("n", pa.int64())])
    write_deltalake(folder / "data/clicks", pa.Table.from_pylist(rows, schema=types), mode=mode)


def asked(rows: int = 60) -> pa.Table:
    friends = pa.array([(n * 3) % 10 for n in range(rows)], pa.int64())
    return frame(rows).append_column("friend", friends)


def opened(folder: Path, **settings: Any) -> FeatureStore:
    return FeatureStore(folder, clock=ManualClock(NOW), **settings)


def make_set(folder: Path) -> str:
    with opened(folder) as fs:
        rows = [{"user_id": 3, "at": utc(2024, 5, 2), "told": utc(2024, 5, 2), "plan": "gold"}]
        fs.apply()
        fs.push("signups", rows)
        fs.push("prices", [{"shop": "s1", "since": utc(2024, 5, 9), "price": 8.5}])
        fs.delete_entity("user", {"user_id": [7]})
        made = fs.create_training_set(
            "set", asked(), "everything", include_status=True, full_feature_names=True
        )
        # It would be no test where nothing is found.
        table = made.to_arrow()
        for name in made.features:
            assert table[name].null_count < 60, name
        return made.id


def check(folder: Path, ref: str = "set", **settings: Any) -> Reproduction:
    with opened(folder, **settings) as fs:
        return fs.reproduce(ref)


def test_exact(folder: Path, made: str) -> None:
    found = check(folder)
    assert (found.verdict, found.equal, found.definitions) == (Verdict.EXACT, True, "present")
    assert found.is_same
    assert found.training_set == made
    assert found.rebuilt_digest == found.row_digest
    assert found.libraries == found.expired == found.differences == found.redefined == ()


@pytest.mark.slow
def test_exact_with_other_threads_batches_and_row_groups(
    folder: Path, made: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(set_files, "FILE_ROWS", 16)
    monkeypatch.setattr(set_files, "GROUP_ROWS", 5)
    monkeypatch.setattr(training_set_creation, "BATCH_ROWS", 4)
    for threads in (1, 4):
        with opened(folder, overrides={"offline.threads": threads}) as fs:
            assert fs.reproduce(made).verdict is Verdict.EXACT
            again = fs.create_training_set(
                f"again{threads}", asked(), "everything", include_status=True,
                full_feature_names=True,
            )  # fmt: skip
            assert len(again.files.files) == 4
            assert again.row_digest == fs.training_set(made).row_digest
            assert fs.reproduce(again.id).verdict is Verdict.EXACT


def test_exact_after_late_rows(folder: Path) -> None:
    late = [visit(user, 27, spent=99.0) for user in range(8)]
    write_rows(folder / "data/visits/9.parquet", late, VISITS)
    click(folder, 9)
    with opened(folder) as fs:
        price = {"shop": "s1", "since": utc(2024, 5, 2), "price": 9.5}
        fs.push("prices", [price])
        tin = {"user_id": 4, "at": utc(2024, 5, 2), "told": utc(2024, 5, 2), "plan": "tin"}
        fs.push("signups", [tin])
        fs.delete_entity("user", {"user_id": [5]})
        assert fs.reproduce("set").verdict is Verdict.EXACT
        new = fs.create_training_set("new", asked(), "everything", include_status=True,
                                     full_feature_names=True)  # fmt: skip
        assert new.row_digest != fs.training_set("set").row_digest


def test_exact_after_the_definitions_changed(folder: Path) -> None:
    path = folder / "definitions.py"
    text = path.read_text()
    changed = text.replace("n + 1", "n + 2").replace("math.log1p", "math.sqrt")
    changed = changed.replace('window="3d"', 'window="4d"').replace('"budget - spent"', '"budget"')
    changed = changed.replace("page <> 'home'", "page = 'home'").replace("30d", "3d")
    assert changed != text
    path.write_text(changed)
    found = check(folder)
    assert (found.verdict, found.definitions) == (Verdict.EXACT, "records")
    assert found.redefined == ()
    with opened(folder) as fs:
        new = fs.create_training_set("new", asked(), "everything", include_status=True,
                                     full_feature_names=True)  # fmt: skip
        assert new.row_digest != found.row_digest
        assert fs.reproduce("new").verdict is Verdict.EXACT


@pytest.mark.parametrize("text", ["", "this is no Python"])
def test_exact_without_any_definitions(folder: Path, text: str) -> None:
    (folder / "definitions.py").write_text(text)
    found = check(folder)
    assert (found.verdict, found.definitions) == (Verdict.EXACT, "records")


def test_exact_after_a_column_was_added(folder: Path) -> None:
    """A column that comes first by name would settle ties otherwise."""
    types = VISITS | {"aaa": pa.int64()}
    write_rows(folder / "data/visits/9.parquet", [visit(1, 2) | {"aaa": 1}], types)
    found = check(folder)
    assert (found.verdict, found.definitions) == (Verdict.EXACT, "records")


def test_another_environment(folder: Path, made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = training_set_creation.libraries()
    monkeypatch.setattr(training_set_creation, "libraries", lambda: now | {"duckdb": "9.9"})
    found = check(folder, made)
    assert (found.verdict, found.equal) == (Verdict.DIFFERENT_ENVIRONMENT, True)
    assert found.is_same
    assert found.libraries == (LibraryChange(library="duckdb", then=now["duckdb"], now="9.9"),)


def test_overwritten_files(folder: Path) -> None:
    path = folder / "data/visits/1.parquet"
    size = path.stat().st_size
    before = path.read_bytes()
    path.write_bytes(before[:100] + bytes([before[100] ^ 1]) + before[101:])
    assert path.stat().st_size == size
    (folder / "data/prices.csv").unlink()
    found = check(folder)
    assert (found.verdict, found.equal) == (Verdict.DATA_EXPIRED, None)
    assert set(found.expired) == {
        ExpiredFile(source="visits", path=str(path), why="changed"),
        ExpiredFile(source="prices", path=str(folder / "data/prices.csv"), why="gone"),
    }
    path.write_bytes(before)  # whatever its time says
    (folder / "data/prices.csv").write_text("short")
    assert [one.why for one in check(folder).expired] == ["changed"]


def test_bytes_that_changed_without_a_trace(folder: Path) -> None:
    """As disks do it: size and time are what they were, and the file is an old acquaintance."""
    path = folder / "data/visits/1.parquet"
    for file in folder.rglob("data/**/*.*"):
        os.utime(file, ns=(1, 1))
    with opened(folder) as fs:
        made = fs.create_training_set("old", asked(), ["last_visit:page"])
        before = path.read_bytes()
        path.write_bytes(before[:100] + bytes([before[100] ^ 1]) + before[101:])
        os.utime(path, ns=(1, 1))
        found = fs.reproduce(made.id)
        assert (found.verdict, found.expired) == (
            Verdict.DATA_EXPIRED, (ExpiredFile(source="visits", path=str(path), why="changed"),),
        )  # fmt: skip


def test_a_file_of_which_only_the_time_changed(folder: Path) -> None:
    os.utime(folder / "data/visits/1.parquet", ns=(1, 1))
    assert check(folder).verdict is Verdict.EXACT


def test_a_vacuumed_delta_table(folder: Path) -> None:
    click(folder, 5, mode="overwrite")
    assert check(folder).verdict is Verdict.EXACT  # an older version, all files still there
    table = DeltaTable(folder / "data/clicks")
    table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    found = check(folder)
    assert found.verdict is Verdict.DATA_EXPIRED
    assert {(one.source, one.why) for one in found.expired} == {("clicks", "gone")}


def test_the_sets_own_files(folder: Path, made: str) -> None:
    with opened(folder) as fs:
        kept = fs.training_set(made)
        name = kept.files.files[0].name
        path = Path(kept.store.offline.url(name))
        data = bytearray(path.read_bytes())
        data[200] ^= 1
        path.write_bytes(data)
        found = fs.reproduce(made)
        assert found.verdict is Verdict.DATA_EXPIRED
        assert found.expired == (ExpiredFile(source="set", path=str(path), why="changed"),)


def test_what_cannot_be_pinned(folder: Path) -> None:
    with opened(folder) as fs:
        fs.create_training_set("set", asked(), ["last_visit:page", "luck:luck"])
        found = fs.reproduce("set")
        assert (found.verdict, found.equal) == (Verdict.UNPINNED, False)
        assert found.unpinned == {"chance": "it asks rand()"}
        assert [one.column for one in found.differences] == ["luck"]


def test_a_mismatch_says_which_columns_and_rows(folder: Path) -> None:
    """Code that gives other values each time is nothing that a pin could hold."""
    text = (folder / "definitions.py").read_text() + (
        "\n@on_demand_feature_view(inputs=[last_visit, asked], imports=['os'], "
        "schema={'at': 'float64', 'same': 'float64'})\n"
        "def clock(spent, budget):\n"
        "    shift = float(os.environ.get('SHIFT', '0')) if budget < 7 else 0.0\n"
        "    return {'at': shift, 'same': budget}\n"
    )
    (folder / "definitions.py").write_text(text)
    with opened(folder) as fs:
        fs.create_training_set("set", asked(), ["clock", "last_visit:page"])
        assert fs.reproduce("set").verdict is Verdict.EXACT
        os.environ["SHIFT"] = "0.5"
        try:
            found = fs.reproduce("set")
        finally:
            del os.environ["SHIFT"]
    assert (found.verdict, found.equal, found.is_same) == (Verdict.MISMATCH, False, False)
    (column,) = found.differences
    assert (column.column, column.rows) == ("at", 7)
    assert column.examples[0] == {"row": 0, "then": 0.0, "now": 0.5}
    assert len(column.examples) == 5


def test_a_definition_that_cannot_be_had_again(folder: Path, made: str) -> None:
    """A record that says something which today's checks refuse."""
    with opened(folder) as fs:
        stored = fs.training_set(made)
        request = dict(stored.request)
        request["views"] = {}
        body = dict(stored.body)
        import json

        blob = json.dumps(request).encode()
        from featurestore.fingerprint import fingerprint_bytes

        body["request"] = fingerprint_bytes(blob)
        view = fs.registry.record(stored.request["views"]["user_clicks"]).record
        odd = Record(kind="view", name=view.name, parents=view.parents,
                     body={**view.body, "ttl_us": -1})  # fmt: skip
        request["views"] = {**stored.request["views"], "user_clicks": odd.id}
        blob = json.dumps(request).encode()
        body["request"] = fingerprint_bytes(blob)
        record = Record(kind="training_set", name="odd", body=body,
                        parents=stored.record.record.parents)  # fmt: skip
        fs.registry.commit(records=[odd, record], blobs=[blob], aliases={})
        found = fs.reproduce(record.id)
    assert (found.verdict, found.equal) == (Verdict.MISMATCH, None)
    assert found.problems
    assert "ttl" in found.problems[0]


@pytest.mark.slow
def test_runs_and_models_lead_to_their_set(folder: Path, made: str) -> None:
    with opened(folder) as fs:
        run = Record(kind="run", name="delay/1", parents=(Edge(parent=made, role="training_set"),))
        model = Record(kind="model", name="delay", parents=(Edge(parent=run.id, role="run"),))
        lonely = Record(kind="model", name="lonely")
        alias = {"model/delay/production": model.id}
        fs.registry.commit(records=[run, model, lonely], aliases=alias)
        for ref in (run.id, model.id, "model:delay", "model/delay/production"):
            found = fs.reproduce(ref)
            assert (found.verdict, found.training_set, found.asked) == (Verdict.EXACT, made, ref)
        with pytest.raises(InvalidRequest, match="hangs on no training set"):
            fs.reproduce(lonely.id)
        with pytest.raises(RecordNotFound):
            fs.reproduce("model/nothing/production")
        other = fs.create_training_set("other", asked(), ["last_visit:page"])
        both = Record(kind="model", name="both", parents=tuple(
            Edge(parent=one, role="training_set") for one in (made, other.id)))  # fmt: skip
        fs.registry.commit(records=[both], aliases={})
        with pytest.raises(InvalidRequest, match="hangs on 2 training sets; name one of"):
            fs.reproduce(both.id)


def test_a_repository_that_moved(folder: Path, tmp_path: Path) -> None:
    """Paths in manifests are relative to it."""
    shutil.move(folder, tmp_path / "elsewhere")
    assert check(tmp_path / "elsewhere").verdict is Verdict.EXACT


def test_types_that_parquet_does_not_keep(folder: Path) -> None:
    odd = asked(6).append_column(
        "second", pa.array([1, 2, None, 4, 5, 6], pa.timestamp("s", tz="America/New_York"))
    )
    odd = odd.append_column("span", pa.array([1, 2, None, 4, 5, 6], pa.duration("s")))
    pq.write_table(odd.select(["second"]), folder / "out.parquet")
    assert pq.read_schema(folder / "out.parquet").field("second").type != odd["second"].type
    with opened(folder) as fs:
        kept = fs.create_training_set("set", odd, ["last_visit:page"])
        assert kept.to_arrow().schema.field("second").type == odd["second"].type
        assert fs.reproduce("set").verdict is Verdict.EXACT
