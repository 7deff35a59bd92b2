"""Training sets end to end on one engine: what goes in as a frame, and what comes out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import Entity, Feature, FeatureService, FeatureView, FileSource, SqlSource
from featurestore.compiler.resolve import resolve, source_order
from featurestore.compiler.typed import TypedRepo
from featurestore.config import OfflineSettings
from featurestore.definitions.repo import collect
from featurestore.dtypes import DType
from featurestore.engines.duckdb import DuckDBEngine
from featurestore.errors import (
    InternalError,
    InvalidEntityFrame,
    InvalidJoinKey,
    InvalidRequest,
    MissingJoinKey,
    NameClash,
    SourceMissing,
    SourceSchemaChanged,
    UnknownFeature,
    UnknownService,
    UnknownView,
)
from featurestore.jobs.project import files_of
from featurestore.jobs.training import KnownTimeWarning, RetrievalJob, retrieve

BIG = 2**53 + 1
INSTANT = pa.timestamp("us", tz="UTC")


def at(hour: float, day: int = 1) -> datetime:
    return datetime(2024, 5, day, tzinfo=UTC) + timedelta(hours=hour)


# plane, at, known, seats, name
LANDINGS = [
    ("a", at(1), at(2), 1, "first"),
    ("a", at(3), at(4), BIG, "second"),
    ("b", at(2), None, None, "third"),
    ("b", at(2), at(2), 5, "fourth"),
]


@dataclass(frozen=True)
class Shop:
    """A small repository and an engine."""

    root: Path
    repo: TypedRepo
    engine: DuckDBEngine

    def retrieve(self, frame: Any, features: Any = "landed", **options: Any) -> RetrievalJob:
        return retrieve(
            frame, features, repo=self.repo, root=self.root, engine=self.engine, **options
        )

    def rows(self, frame: Any, features: Any = "landed", **options: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (
            self.retrieve(frame, features, **options).to_arrow().to_pylist()
        )
        return found


def build(root: Path, engine: DuckDBEngine, *objects: object) -> Shop:
    definitions = collect(objects)
    assert not definitions.errors
    schemas: dict[str, Mapping[str, DType]] = {}
    for source in source_order(definitions):
        if isinstance(source, FileSource):
            schemas[source.name] = files_of(source, root).schema
        else:
            schemas[source.name] = engine.schema(source.query, schemas)
    return Shop(root, resolve(definitions, schemas, project="shop"), engine)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[DuckDBEngine]:
    settings = OfflineSettings(memory_limit="1GB")
    with DuckDBEngine.open(settings, temp_directory=str(tmp_path / "spill")) as engine:
        yield engine


@pytest.fixture
def shop(tmp_path: Path, engine: DuckDBEngine) -> Shop:
    columns = list(zip(*LANDINGS, strict=True))
    types = [pa.string(), INSTANT, INSTANT, pa.int64(), pa.string()]
    names = ["plane", "at", "known", "seats", "name"]
    arrays = [pa.array(values, kind) for values, kind in zip(columns, types, strict=True)]
    pq.write_table(pa.table(arrays, names=names), tmp_path / "landings.parquet")
    pq.write_table(
        pa.table(
            {
                "number": pa.array([7, BIG], pa.int64()),
                "at": pa.array([at(0), at(0)], INSTANT),
                "rn": [1.5, float("nan")],
                "row_id": [1, 2],
                "x_y": ["p", "q"],
                "select": [True, None],
                "order": pa.array([[1, None], []], pa.list_(pa.int64())),
                "größe": pa.array([Decimal("1.50"), None], pa.decimal128(6, 2)),
                "event_timestamp": pa.array([at(0), at(1)], INSTANT),
                "status": pa.array([date(2024, 5, 1), None]),
            }
        ),
        tmp_path / "gates.parquet",
    )
    plane, gate = Entity("plane"), Entity("gate", join_keys={"number": "int64"})
    landings = FileSource("landings", "landings.parquet", "at", "known")
    gates = FileSource("gates", "gates.parquet", "at")
    busy = SqlSource(
        "busy",
        'SELECT plane, max("at") AS last, count(*) AS n FROM landings GROUP BY plane',
        "last",
    )
    history = FeatureView(
        "history",
        entities=[plane],
        source=landings,
        ttl="2h",
        features=[Feature("seats"), Feature("name"), Feature("more", "seats + 1")],
    )
    odd = FeatureView("odd", entities=[gate], source=gates)
    whole = FeatureView("whole", source=busy, features=[Feature("n")])
    landed = FeatureService("landed", features=[history])
    both = FeatureService(
        "both",
        features=[
            history[["seats"]],
            history[["seats"]].with_name("other").with_join_key_map({"plane": "second_plane"}),
        ],
    )
    return build(
        tmp_path, engine, plane, gate, landings, gates, busy, history, odd, whole, landed, both
    )


def frame(
    *rows: tuple[Any, ...], names: tuple[str, ...] = ("plane", "event_timestamp")
) -> pa.Table:
    types = {"event_timestamp": INSTANT}
    columns = {}
    for position, name in enumerate(names):
        columns[name] = pa.array([row[position] for row in rows], types.get(name))
    return pa.table(columns)


# --- what comes out -------------------------------------------------------------------------------


def test_one_row_for_each_row_in_order_with_its_own_columns_first(shop: Shop) -> None:
    entities = pa.table(
        {
            "note": pa.array(["x", None, "x", "y", "x"]).dictionary_encode(),
            "plane": ["a", "a", "b", "a", None],
            "event_timestamp": pa.array([at(4), at(3.5), at(2), at(4), at(4)], INSTANT),
            "price": pa.array([Decimal("1.5")] * 5, pa.decimal256(50, 1)),
            "nested": [{"k": [1]}] * 5,
            "nanos": pa.array([1] * 5, pa.timestamp("ns", "Asia/Tokyo")),
        }
    )
    job = shop.retrieve(entities, include_status=True)
    found = job.to_arrow()
    assert found.select(entities.column_names).equals(entities)
    assert found.column_names == [
        *entities.column_names,
        "seats",
        "name",
        "more",
        "history__status",
    ]
    assert found.column("seats").to_pylist() == [BIG, None, 5, BIG, None]
    assert found.column("name").to_pylist() == ["second", None, "fourth", "second", None]
    assert found.column("more").to_pylist() == [BIG + 1, None, 6, BIG + 1, None]
    assert found.column("history__status").to_pylist() == [
        "PRESENT",
        "OUTSIDE_MAX_AGE",
        "PRESENT",
        "PRESENT",
        "NOT_FOUND",
    ]
    assert job.schema.equals(found.schema)
    assert job.features == ("seats", "name", "more")


def test_modes_of_time(shop: Shop) -> None:
    entities = frame(("a", at(3.5)))
    with pytest.warns(KnownTimeWarning):  # `first` is too old, `second` not yet known
        assert shop.rows(entities)[0]["name"] is None
    assert shop.rows(entities, as_of="event")[0]["name"] == "second"
    until = int(at(3).timestamp()) * 1_000_000
    late = frame(("a", at(2.5)), ("a", at(9)))
    found = shop.rows(late, known_until_us=until, include_status=True)
    assert [row["name"] for row in found] == ["first", None]
    assert [row["history__status"] for row in found] == ["PRESENT", "NOT_FOUND"]
    with pytest.raises(InvalidRequest, match="never"):
        shop.retrieve(entities, as_of="never")


def test_a_view_under_two_names(shop: Shop) -> None:
    entities = frame(
        ("a", "b", at(4)), ("b", "a", at(4)), names=("plane", "second_plane", "event_timestamp")
    )
    found = shop.rows(entities, "both", full_feature_names=True, include_status=True)
    assert [(row["history__seats"], row["other__seats"]) for row in found] == [(BIG, 5), (5, BIG)]
    assert {row["other__status"] for row in found} == {"PRESENT"}
    with pytest.raises(NameClash, match="seats"):
        shop.retrieve(entities, "both")


def test_a_view_without_entities_and_features_of_a_query(shop: Shop) -> None:
    found = shop.rows(frame(("z", at(1)), ("z", at(9))), ["whole"], include_status=True)
    assert [(row["n"], row["whole__status"]) for row in found] == [
        (None, "NOT_FOUND"),
        (2, "PRESENT"),
    ]


def test_features_with_names_that_sql_or_we_might_use(shop: Shop) -> None:
    entities = pa.table({"number": [7, BIG], "event_timestamp": pa.array([at(2), at(2)], INSTANT)})
    found = shop.rows(entities, ["odd"], full_feature_names=True)
    assert found[0] == {
        "number": 7,
        "event_timestamp": at(2),
        "odd__event_timestamp": at(0),
        "odd__größe": Decimal("1.50"),
        "odd__order": [1, None],
        "odd__rn": 1.5,
        "odd__row_id": 1,
        "odd__select": True,
        "odd__status": date(2024, 5, 1),
        "odd__x_y": "p",
    }
    assert found[1]["odd__rn"] is None
    with pytest.raises(NameClash, match="event_timestamp"):
        shop.retrieve(entities, ["odd"])
    with pytest.raises(NameClash, match="odd__status"):
        shop.retrieve(entities, ["odd"], full_feature_names=True, include_status=True)
    with pytest.raises(NameClash, match="odd__status"):
        shop.retrieve(
            entities.append_column("odd__status", pa.nulls(2)), ["odd:rn"], include_status=True
        )


def test_no_rows(shop: Shop) -> None:
    empty: list[Any] = [
        frame(),
        pd.DataFrame({"plane": [], "event_timestamp": []}),
        pl.DataFrame({"plane": [], "event_timestamp": []}),
    ]
    for entities in empty:
        found = shop.retrieve(entities).to_arrow()
        assert found.num_rows == 0
        assert found.column_names == ["plane", "event_timestamp", "seats", "name", "more"]


def test_repeated_rows_and_batches(shop: Shop) -> None:
    entities = frame(*[("a", at(4)), ("b", at(2)), (None, at(4))] * 1_000)
    batches = list(shop.retrieve(entities).to_batches(batch_rows=70))
    assert max(batch.num_rows for batch in batches) == 70
    found = pa.Table.from_batches(batches).column("seats").to_pylist()
    assert found == [BIG, 5, None] * 1_000


# --- the forms of a frame -------------------------------------------------------------------------


FORMS: dict[str, Callable[[pa.Table, Path], Any]] = {
    "table": lambda table, _: table,
    "batch": lambda table, _: table.combine_chunks().to_batches()[0],
    "reader": lambda table, _: table.to_reader(max_chunksize=1),
    "pandas": lambda table, _: table.to_pandas(),
    "polars": lambda table, _: pl.from_arrow(table),
    "lazy": lambda table, _: pl.from_arrow(table).lazy(),  # type: ignore[union-attr]
    "path": lambda table, folder: written(table, folder / "select one.parquet"),
    "text": lambda table, folder: str(written(table, folder / "entities.parquet")),
    "folder": lambda table, folder: written(table, folder / "frame" / "a.parquet").parent,
}


def written(table: pa.Table, path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table, path, row_group_size=1)
    return path


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_frame(shop: Shop, tmp_path: Path, form: str) -> None:
    entities = frame(("b", at(2)), ("a", at(4)), ("a", at(2)))
    job = shop.retrieve(FORMS[form](entities, tmp_path))
    for _ in range(2):  # each call runs anew, also on what can be read once
        found = job.to_arrow()
        assert found.column("plane").to_pylist() == ["b", "a", "a"]
        assert found.column("name").to_pylist() == ["fourth", "second", "first"]


def test_a_frame_from_sql(shop: Shop) -> None:
    query = """
        SELECT plane, "at" AS event_timestamp, seats AS s FROM landings
        WHERE seats IS NOT NULL ORDER BY seats DESC
    """
    found = shop.rows(query, ["history:name"])
    assert [(row["plane"], row["s"]) for row in found] == [("a", BIG), ("b", 5), ("a", 1)]
    assert found[1]["name"] == "fourth"
    with pytest.raises(InvalidEntityFrame, match=r"'landing'.*Did you mean 'landings'"):
        shop.retrieve("SELECT * FROM landing")
    with pytest.raises(InvalidEntityFrame, match="nothing"):
        shop.retrieve("SELECT nothing FROM landings")
    with pytest.raises(InvalidEntityFrame, match="not valid SQL"):
        shop.retrieve("SELECT FROM WHERE")


def test_things_that_are_no_frame(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(InvalidEntityFrame, match="not int"):
        shop.retrieve(7)
    with pytest.raises(InvalidEntityFrame, match=r"no file .*gone\.parquet"):
        shop.retrieve(tmp_path / "gone.parquet")
    text = tmp_path / "text.parquet"
    text.write_text("nothing")
    with pytest.raises(InvalidEntityFrame, match="no readable Parquet"):
        shop.retrieve(text)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidEntityFrame, match="holds no Parquet"):
        shop.retrieve(tmp_path / "empty")
    folder = written(frame(("a", at(1))), tmp_path / "mixed" / "a.parquet").parent
    written(pa.table({"plane": ["a"]}), folder / "b.parquet")
    with pytest.raises(InvalidEntityFrame, match="other columns"):
        shop.retrieve(folder)


def test_column_names_must_be_distinct(shop: Shop) -> None:
    twice = pa.table([pa.array(["a"])] * 2, names=["plane", "plane"])
    for entities in (twice, pd.DataFrame([["a", "a"]], columns=["plane", "plane"])):
        with pytest.raises(InvalidEntityFrame, match="more than one column 'plane'"):
            shop.retrieve(entities)


# --- times ----------------------------------------------------------------------------------------


def with_times(times: Any) -> pa.Table:
    return pa.table({"plane": ["a"] * len(times), "event_timestamp": times})


TIMES: dict[str, Any] = {
    "s": pa.array([at(4)] * 2, pa.timestamp("s")),
    "ms zoned": pa.array([at(4)] * 2, pa.timestamp("ms", "America/New_York")),
    "ns": pa.array([at(4)] * 2, pa.timestamp("ns", "+05:30")),
    "text": pa.array(["2024-05-01T04:00:00Z"] * 2),
    "mixed zones": pa.array(["2024-05-01 04:00:00", "2024-05-01T06:00:00.000000+02:00"]),
    "dictionary": pa.array(["2024-05-01 04:00"] * 2).dictionary_encode(),
    "large text": pa.array(["2024-05-01 04:00"] * 2, pa.large_string()),
}


@pytest.mark.parametrize("kind", TIMES)
def test_times_of_every_kind(shop: Shop, kind: str) -> None:
    entities = with_times(TIMES[kind])
    found = shop.retrieve(entities).to_arrow()
    assert found.column("name").to_pylist() == ["second"] * 2
    assert found.column("event_timestamp").type == TIMES[kind].type


def test_times_are_exact_to_the_microsecond(shop: Shop) -> None:
    just = 1_000 * (int(at(4).timestamp()) * 1_000_000)
    times = pa.array([just - 1, just, just + 999], pa.timestamp("ns"))
    assert [row["name"] for row in shop.rows(with_times(times))] == [None, "second", "second"]


def test_python_objects_as_times(shop: Shop) -> None:
    berlin = pd.Timestamp(at(4)).tz_convert("Europe/Berlin")
    times = [berlin, "2024-05-01T04:00:00Z", at(4), pd.Timestamp("2024-05-01 04:00:00")]
    entities = pd.DataFrame({"plane": ["a"] * 4, "event_timestamp": pd.Series(times, dtype=object)})
    assert [row["name"] for row in shop.rows(entities)] == ["second"] * 4
    entities["event_timestamp"] = pd.Series([*times[:3], date(2024, 5, 1)], dtype=object)
    with pytest.raises(InvalidEntityFrame, match=r"row 3.*is a date"):
        shop.retrieve(entities)
    entities["event_timestamp"] = pd.Series([*times[:3], None], dtype=object)
    with pytest.raises(InvalidEntityFrame, match="1 row has no request time"):
        shop.rows(entities)


def test_a_time_column_of_another_name(shop: Shop) -> None:
    entities = frame(("a", at(4)), names=("plane", "asked_at"))
    assert shop.rows(entities, event_timestamp="asked_at")[0]["name"] == "second"
    with pytest.raises(InvalidEntityFrame, match=r"no column 'event_timestamp'.*asked_at"):
        shop.retrieve(entities)


def test_null_times_are_counted(shop: Shop) -> None:
    times = pa.array([at(4)] * 70_000 + [None, at(4), None], INSTANT)
    with pytest.raises(InvalidEntityFrame, match=r"2 rows have no request time.* in row 70000"):
        shop.rows(with_times(times))


BAD_TIMES: dict[str, tuple[Any, str]] = {
    "dates": (pa.array([date(2024, 5, 1)]), "holds dates"),
    "numbers": (pa.array([1714536000]), "holds int64"),
    "text": (pa.array(["2024-05-01", "soon"]), "in row 1: 'soon' is not an instant"),
    "far": (pa.array([2**62], pa.timestamp("s")), "in row 0 is outside the years"),
}


@pytest.mark.parametrize("kind", BAD_TIMES)
def test_times_that_are_none(shop: Shop, kind: str) -> None:
    times, message = BAD_TIMES[kind]
    with pytest.raises(InvalidEntityFrame, match=message):
        shop.rows(with_times(times))


# --- keys -----------------------------------------------------------------------------------------


def gates(numbers: Any) -> Any:
    """A frame with `number` as given: an Arrow array or a pandas Series."""
    times = pa.array([at(2)] * len(numbers), INSTANT)
    if isinstance(numbers, pd.Series):
        return pd.DataFrame({"number": numbers, "event_timestamp": times.to_pandas()})
    return pa.table({"number": numbers, "event_timestamp": times})


@pytest.mark.parametrize(
    "numbers",
    [
        pa.array([7, None, BIG]),
        pd.Series([7, None, BIG], dtype="Int64"),
        pd.Series([7, None, BIG], dtype=object),
        pa.array([7, None, BIG], pa.uint64()),
    ],
    ids=["arrow", "Int64", "object", "uint64"],
)
def test_integer_keys_stay_exact_beside_nulls(shop: Shop, numbers: Any) -> None:
    found = shop.rows(gates(numbers), ["odd:row_id"])
    assert [row["row_id"] for row in found] == [1, None, 2]
    assert [row["number"] for row in found] == [7, None, BIG]


@pytest.mark.parametrize(
    "numbers",
    [
        pa.array([7, None], pa.int32()),
        pa.array([7.0, float("nan")]),
        pa.array([7, None], pa.int8()),
    ],
    ids=str,
)
def test_keys_that_widen(shop: Shop, numbers: pa.Array) -> None:
    assert [row["row_id"] for row in shop.rows(gates(numbers), ["odd:row_id"])] == [1, None]


BAD_KEYS: dict[str, tuple[pa.Array, str]] = {
    "text": (pa.array(["7"]), "the entity frame has string, odd needs int64"),
    "bool": (pa.array([True]), "has bool"),
    "fraction": (pa.array([7.0, 7.5]), "7.5 in row 1 is not a whole number"),
    "infinite": (pa.array([float("inf")]), "inf in row 0"),
    "large": (pa.array([7.0, 2.0**53 + 2]), r"in row 1 is too large to be exact"),
    "huge": (pa.array([1, 2**63], pa.uint64()), "row 1 does not fit int64"),
}


@pytest.mark.parametrize("kind", BAD_KEYS)
def test_keys_that_are_none(shop: Shop, kind: str) -> None:
    numbers, message = BAD_KEYS[kind]
    with pytest.raises(InvalidJoinKey, match=message) as raised:
        shop.rows(gates(numbers), ["odd:row_id"])
    assert raised.value.key == "number"


def test_keys_of_all_text_types(shop: Shop) -> None:
    for keys in (
        pa.array(["a", None]).dictionary_encode(),
        pa.array(["a", None], pa.large_string()),
        pa.array(["a", None], pa.string_view()),
    ):
        entities = pa.table({"plane": keys, "event_timestamp": pa.array([at(4)] * 2, INSTANT)})
        assert [row["name"] for row in shop.rows(entities)] == ["second", None]
    categories = pd.DataFrame(
        {"plane": pd.Categorical(["a", None]), "event_timestamp": [at(4)] * 2}
    )
    assert [row["name"] for row in shop.rows(categories)] == ["second", None]
    nothing = pa.table({"plane": pa.nulls(1), "event_timestamp": pa.array([at(4)], INSTANT)})
    assert shop.rows(nothing, include_status=True)[0]["history__status"] == "NOT_FOUND"


def test_missing_and_mixed_keys(shop: Shop) -> None:
    with pytest.raises(MissingJoinKey, match=r"'plane', needed by history.*Did you mean 'plan'"):
        shop.retrieve(frame(("a", at(4)), names=("plan", "event_timestamp")))
    entities = pd.DataFrame(
        {"plane": pd.Series([1, "a"], dtype=object), "event_timestamp": [at(4)] * 2}
    )
    with pytest.raises(InvalidEntityFrame, match="'plane' has no single type"):
        shop.retrieve(entities)


# --- asking for what is not there -----------------------------------------------------------------


def test_unknown_names(shop: Shop) -> None:
    entities = frame(("a", at(4)))
    with pytest.raises(UnknownService, match="landed"):
        shop.retrieve(entities, "landing")
    with pytest.raises(UnknownView):
        shop.retrieve(entities, ["histori"])
    with pytest.raises(UnknownFeature, match="seats"):
        shop.retrieve(entities, ["history:seat"])


def test_sources_that_changed_meanwhile(shop: Shop) -> None:
    path = shop.root / "landings.parquet"
    job = shop.retrieve(frame(("a", at(4))))
    pq.write_table(pq.read_table(path).drop_columns(["seats"]), path)
    with pytest.raises(SourceSchemaChanged, match="'seats'"):
        job.to_arrow()
    path.unlink()
    with pytest.raises(SourceMissing, match="landings"):
        job.to_arrow()


# --- the job --------------------------------------------------------------------------------------


def test_the_forms_of_a_result(shop: Shop, tmp_path: Path) -> None:
    job = shop.retrieve(frame(("a", at(4)), ("z", at(4))), ["history:seats", "history:name"])
    table = job.to_arrow()
    polars = job.to_polars()
    assert polars["seats"].to_list() == [BIG, None]
    pandas = job.to_pandas()
    assert str(pandas["seats"].dtype) == "Int64"
    assert int(pandas["seats"].iloc[0]) == BIG
    assert pandas["seats"].isna().tolist() == [False, True]
    target = tmp_path / "deep" / "out.parquet"
    job.to_parquet(target)
    assert pq.read_table(target).equals(table)
    assert [path.name for path in target.parent.iterdir()] == ["out.parquet"]


def test_pandas_types(shop: Shop) -> None:
    entities = pa.table({"number": [7], "event_timestamp": pa.array([at(2)], INSTANT)})
    full = shop.retrieve(entities, ["odd:select", "odd:row_id"]).to_pandas()
    assert [str(full[name].dtype) for name in ("select", "row_id")] == ["bool", "int64"]
    gap = pa.table({"number": [7, 8], "event_timestamp": pa.array([at(2)] * 2, INSTANT)})
    nulls = shop.retrieve(gap, ["odd:select", "odd:row_id"]).to_pandas()
    assert [str(nulls[name].dtype) for name in ("select", "row_id")] == ["boolean", "Int64"]


def test_a_file_is_replaced_whole_or_not_at_all(shop: Shop, tmp_path: Path) -> None:
    target = tmp_path / "out.parquet"
    target.write_text("before")
    times = pa.array([at(4)] * 5 + [None], INSTANT)
    with pytest.raises(InvalidEntityFrame):
        shop.retrieve(with_times(times)).to_parquet(target)
    assert target.read_text() == "before"
    assert not list(tmp_path.glob(".out*"))


def test_pins_and_explain(shop: Shop) -> None:
    job = shop.retrieve(frame(("a", at(4))), ["history", "whole"])
    assert list(job.pins) == ["landings"]
    assert job.pins["landings"]["files"] == 1
    assert "ASOF JOIN" in job.explain()


def test_what_was_skipped_in_the_sources(tmp_path: Path, engine: DuckDBEngine) -> None:
    table = pa.table(
        {
            "plane": ["a", None, "b", "c"],
            "at": pa.array([at(1), at(1), None, at(1)], INSTANT),
            "known": pa.array([None, at(1), None, at(1)], INSTANT),
            "v": [1, 2, 3, 4],
        }
    )
    pq.write_table(table, tmp_path / "s.parquet")
    plane, source = Entity("plane"), FileSource("s", "s.parquet", "at", "known")
    view = FeatureView("v", entities=[plane], source=source)
    shop = build(tmp_path, engine, plane, source, view)
    (report,) = shop.retrieve(frame(("a", at(4))), ["v"]).source_report()
    counted = (report.rows, report.null_event_times, report.null_keys, report.null_created_times)
    assert counted == (4, 1, 1, 2)


def test_an_engine_that_loses_or_invents_rows_is_found_out(shop: Shop) -> None:
    class Wrong(DuckDBEngine):
        change = staticmethod(lambda table: table)

        def stream(self, rel: Any, **options: Any) -> pa.RecordBatchReader:
            return self.change(super().stream(rel, **options).read_all()).to_reader()

    settings = OfflineSettings(memory_limit="1GB")
    entities = frame(("a", at(4)), ("b", at(4)))
    with Wrong.open(settings, temp_directory=str(shop.root / "w")) as engine:
        job = Shop(shop.root, shop.repo, engine).retrieve(entities)
        assert job.to_arrow().num_rows == 2
        Wrong.change = staticmethod(lambda table: table.slice(1))
        with pytest.raises(InternalError, match="1 rows fewer"):
            job.to_arrow()
        Wrong.change = staticmethod(lambda table: pa.concat_tables([table, table]))
        with pytest.raises(InternalError, match="2 rows went in and 4 came out"):
            job.to_arrow()


# --- known time -----------------------------------------------------------------------------------


def test_a_bulk_loaded_history_is_pointed_out(tmp_path: Path, engine: DuckDBEngine) -> None:
    count = 30_000
    table = pa.table(
        {
            "plane": [str(number) for number in range(count)],
            "at": pa.array([at(1)] * count, INSTANT),
            "loaded": pa.array([at(1, day=20)] * count, INSTANT),
            "v": range(count),
        }
    )
    pq.write_table(table, tmp_path / "s.parquet")
    plane, source = Entity("plane"), FileSource("s", "s.parquet", "at", "loaded")
    view = FeatureView("v", entities=[plane], source=source)
    shop = build(tmp_path, engine, plane, source, view)
    times = pa.array([at(2)] * count, INSTANT)
    entities = pa.table({"plane": table["plane"], "event_timestamp": times})
    with pytest.warns(KnownTimeWarning, match=r"s\.loaded.*as_of=\"event\""):
        shop.rows(entities, ["v"])
    unknown = pa.table({"plane": ["?"] * count, "event_timestamp": times})
    later = pa.table(
        {"plane": table["plane"], "event_timestamp": pa.array([at(1, day=21)] * count, INSTANT)}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shop.rows(entities, ["v"], as_of="event")
        shop.rows(unknown, ["v"])
        shop.rows(later, ["v"])
