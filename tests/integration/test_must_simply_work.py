"""What users do without thinking about it, through every door: odd names, odd keys, all types, all
file formats. One repository, materialized on LMDB and on Redis and served; each lookup is made in
process, over gRPC and over HTTP, and must equal the training set at the same instant."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import deltalake
import httpx
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import dataset, parquet
from redis_servers import RedisServer, valkey_binary

from featurestore import FeatureClient, FeatureStore
from featurestore.serving.serve import ServerProcess
from featurestore.timeline import HOUR_US, SystemClock, to_us
from tests.conftest import INSTANT, write_rows

BIG = 2**53 + 1
LONG = "x" * 1_000_000
# Redis expires rows by its own clock, so the data are of today.
NOW = datetime.fromtimestamp(SystemClock().now_us() // HOUR_US * 3_600, UTC)
EARLIER = NOW - timedelta(hours=1)
TODAY = NOW.date()
TIME = "event_timestamp"

DEFINITIONS = """
from featurestore import Entity, Feature, FeatureService, FeatureView, FileSource, SqlSource

user = Entity("user", join_keys={"user": "int64"})
blob = Entity("blob", join_keys={"blob": "bytes"})
text = Entity("text")
pair = Entity("pair", join_keys={"left": "string", "right": "int64"})
words = Entity("words", join_keys={"one": "string", "two": "string"})
city = Entity("größe", join_keys={"stadt": "string"})

odd_rows = FileSource("odd_rows", "data/odd.parquet", "at")
odd = FeatureView("odd", user, odd_rows, features=[
    Feature("rn"), Feature("row_id"), Feature("x_y"), Feature("select"), Feature("order"),
    Feature("größe"), Feature("event_timestamp"), Feature("from", '"select" || "order"'),
])
typed_rows = FileSource("typed_rows", "data/typed.parquet", "at")
text_rows = FileSource("text_rows", "data/texts.parquet", "at")
pair_rows = FileSource("pair_rows", "data/pairs.parquet", "at")
phrase_rows = FileSource("phrase_rows", "data/phrases.parquet", "at")
world_rows = FileSource("world_rows", "data/world.parquet", "at")
order_rows = FileSource("select", "data/order.parquet", "at")
old_rows = FileSource("old_rows", "data/old.parquet", "at", "known_at")
daily_rows = FileSource("daily_rows", "data/daily.parquet", "day", event_time_is="end")
dawn_rows = FileSource("dawn_rows", "data/daily.parquet", "day", event_time_is="start")
typed = FeatureView("typed", blob, typed_rows)
texts = FeatureView("texts", text, text_rows)
pairs = FeatureView("pairs", pair, pair_rows)
phrases = FeatureView("phrases", words, phrase_rows)
world = FeatureView("world", source=world_rows)
order = FeatureView("order", city, order_rows)
old = FeatureView("old", user, old_rows)
daily = FeatureView("daily", user, daily_rows)
dawn = FeatureView("dawn", user, dawn_rows)

hive_rows = FileSource("hive_rows", "data/hive", "at")
hive = FeatureView("hive", user, hive_rows, features=[Feature("amount"), Feature("region")])
csv_rows = FileSource("csv_rows", "data/rows.csv", "at", null_text="NULL")
comma = FeatureView("comma", user, csv_rows, features=[Feature("amount"), Feature("region")])
delta_rows = FileSource("delta_rows", "data/delta", "at")
delta = FeatureView("delta", user, delta_rows, features=[Feature("amount"), Feature("region")])
sums = SqlSource("sums", '''
    SELECT h."user", greatest(h."at", c."at") AS "at", h.amount + c.amount AS both
    FROM hive_rows h JOIN csv_rows c ON h."user" = c."user"
''', "at")
joined = FeatureView("joined", user, sums)

friends = FeatureService("friends", features=[
    odd[["rn", "order"]].with_name("me"),
    odd[["rn", "order"]].with_name("you").with_join_key_map({"user": "friend"}),
])
"""

ODD = {
    "user": pa.int64(),
    "at": INSTANT,
    "rn": pa.int64(),
    "row_id": pa.int64(),
    "x_y": pa.float64(),
    "select": pa.string(),
    "order": pa.string(),
    "größe": pa.float64(),
    "event_timestamp": INSTANT,
}
TYPES: dict[str, tuple[pa.DataType, Any]] = {
    "a_bool": (pa.bool_(), True),
    "an_int32": (pa.int32(), -(2**31)),
    "an_int64": (pa.int64(), BIG),
    "a_float32": (pa.float32(), 0.5),
    "a_float64": (pa.float64(), 0.1),
    "a_decimal": (pa.decimal128(38, 4), Decimal("-1234567890123456789012345678901234.5678")),
    "a_string": (pa.string(), "größe \0 🙂"),
    "some_bytes": (pa.binary(), b"\x00\xff"),
    "a_timestamp": (INSTANT, datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
    "a_date": (pa.date32(), date(1969, 12, 31)),
    "some_ints": (pa.list_(pa.int64()), [BIG, None, -1]),
    "some_texts": (pa.list_(pa.string()), ["", None, "ü"]),
    "some_times": (pa.list_(INSTANT), [EARLIER, None]),
    "no_values": (pa.list_(pa.float64()), []),
    "some_dates": (pa.list_(pa.date32()), [TODAY, None]),
    "some_decimals": (pa.list_(pa.decimal128(9, 2)), [Decimal("0.01"), None]),
    "some_flags": (pa.list_(pa.bool_()), [True, None, False]),
    "some_blobs": (pa.list_(pa.binary()), [b"", b"\xff"]),
}
ROWS = [
    {"user": 1, "at": EARLIER, "amount": 5, "region": "a"},
    {"user": 2, "at": EARLIER, "amount": None, "region": "b"},
    {"user": -3, "at": EARLIER, "amount": BIG, "region": "a"},
]


def write_data(data: Path) -> None:
    """The files of all sources."""
    odd = {"rn": 1, "row_id": BIG, "x_y": 0.5, "select": "s", "order": "o", "größe": 1.8}
    write_rows(
        data / "odd.parquet",
        [{"user": 1, "at": EARLIER, TIME: EARLIER} | odd, {"user": 2, "at": EARLIER, "rn": 2}],
        ODD,
    )
    write_rows(
        data / "typed.parquet",
        [
            {"blob": b"\x00", "at": EARLIER} | {name: value for name, (_, value) in TYPES.items()},
            {"blob": b"", "at": EARLIER} | dict.fromkeys(TYPES),
        ],
        {"blob": pa.binary(), "at": INSTANT} | {name: kind for name, (kind, _) in TYPES.items()},
    )
    texts = ["", LONG, LONG[:-1] + "y", "日本", "a\0b", " "]
    write_rows(
        data / "texts.parquet",
        [{"text": text, "at": EARLIER, "number": n} for n, text in enumerate(texts)],
        {"text": pa.string(), "at": INSTANT, "number": pa.int64()},
    )
    write_rows(
        data / "pairs.parquet",
        [
            {"left": left, "right": right, "at": EARLIER, "name": f"{left}-{right}"}
            for left, right in [("1", 23), ("12", 3), ("", 0), ("", -1), (LONG, BIG)]
        ],
        {"left": pa.string(), "right": pa.int64(), "at": INSTANT, "name": pa.string()},
    )
    write_rows(
        data / "phrases.parquet",
        [
            {"one": one, "two": two, "at": EARLIER, "both": f"{one}|{two}"}
            for one, two in [("a", "bc"), ("ab", "c"), ("", "abc"), ("abc", ""), ("", "")]
        ],
        {"one": pa.string(), "two": pa.string(), "at": INSTANT, "both": pa.string()},
    )
    write_rows(
        data / "world.parquet",
        [{"at": EARLIER, "year": 2024}, {"at": EARLIER - timedelta(1), "year": 2023}],
        {"at": INSTANT, "year": pa.int64()},
    )
    write_rows(
        data / "order.parquet",
        [{"stadt": "Köln", "at": EARLIER, "dom": 157.38}],
        {"stadt": pa.string(), "at": INSTANT, "dom": pa.float64()},
    )
    ancient = datetime(1907, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
    write_rows(
        data / "old.parquet",
        [
            {"user": 1, "at": ancient, "known_at": None, "year": 1907},
            {"user": 1, "at": ancient - timedelta(microseconds=1), "known_at": ancient, "year": 6},
            {"user": 2, "at": datetime(1970, 1, 1, tzinfo=UTC), "known_at": NOW, "year": 1970},
        ],
        {"user": pa.int64(), "at": INSTANT, "known_at": INSTANT, "year": pa.int64()},
    )
    write_rows(
        data / "daily.parquet",
        [{"user": 1, "day": TODAY - timedelta(n), "ago": n} for n in (0, 1, 2)],
        {"user": pa.int64(), "day": pa.date32(), "ago": pa.int64()},
    )
    write_formats(data)


def write_formats(data: Path) -> None:
    """The same rows hive-partitioned with naive times of ns, as CSV with zones, and as Delta."""
    types = {"user": pa.int64(), "at": INSTANT, "amount": pa.int64(), "region": pa.string()}
    table = pa.Table.from_pylist(ROWS, schema=pa.schema(types))
    naive = table.set_column(1, "at", table["at"].cast(pa.timestamp("us")).cast(pa.timestamp("ns")))
    partitioning = dataset.partitioning(pa.schema([("region", pa.string())]), flavor="hive")
    dataset.write_dataset(naive, data / "hive", format="parquet", partitioning=partitioning)
    zoned = [(row["at"] + timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M:%S+02:00") for row in ROWS]
    lines = [
        f"{row['user']},{at},{'NULL' if row['amount'] is None else row['amount']},{row['region']}"
        for row, at in zip(ROWS, zoned, strict=True)
    ]
    (data / "rows.csv").write_text("\n".join(["user,at,amount,region", *lines]) + "\n")
    deltalake.write_deltalake(str(data / "delta"), table.slice(0, 1))
    deltalake.write_deltalake(str(data / "delta"), table.slice(1), mode="append")


Answer = tuple[dict[str, list[Any]], dict[str, list[str]]]


@dataclass(frozen=True)
class Everywhere:
    """The repository behind each of its doors."""

    store: FeatureStore
    client: FeatureClient
    http: httpx.Client

    def ask(self, features: Any, keys: Mapping[str, Sequence[Any]], **options: Any) -> Answer:
        """Values and statuses by feature, after all doors have given the same."""
        answers = [
            door.get_online_features(features, keys, **options)
            for door in (self.store, self.client)
        ]
        found = [
            ({n: v for n, v in a.to_dict().items() if n in a.statuses}, dict(a.statuses))
            for a in answers
        ]
        assert repr(found[0]) == repr(found[1])
        assert answers[0].to_arrow().equals(answers[1].to_arrow())
        assert plain(found[0]) == self._over_http(features, keys, **options)
        return found[0]

    def _over_http(self, features: Any, keys: Mapping[str, Sequence[Any]], **options: Any) -> Any:
        what = (
            {"feature_service": features} if isinstance(features, str) else {"features": features}
        )
        body = what | {"entities": plain(keys)} | options
        answer = self.http.post("/v1/online-features", json=body)
        assert answer.status_code == 200, answer.text
        columns = answer.json()["features"]
        values = {name: column["values"] for name, column in columns.items()}
        return [values, {name: column["statuses"] for name, column in columns.items()}]

    def train(self, features: Any, keys: Mapping[str, pa.Array], **options: Any) -> Answer:
        """The same from the training path, at this moment."""
        count = len(next(iter(keys.values()), [None]))
        frame = pa.table({**keys, "as_of": pa.array([SystemClock().now_us()] * count, INSTANT)})
        job = self.store.get_historical_features(
            frame, features, event_timestamp="as_of", include_status=True, **options
        )
        table = job.to_arrow()
        assert table.num_rows == count
        names = list(job.features)
        views = [name for name in table.column_names if name.endswith("__status")]
        statuses = {name: table[name].to_pylist() for name in views}
        return {name: table[name].to_pylist() for name in names}, statuses

    def both(self, features: Any, keys: Mapping[str, pa.Array], **options: Any) -> Answer:
        """Values and statuses, after the online and the offline path have given the same."""
        online = self.ask(features, {n: v.to_pylist() for n, v in keys.items()}, **options)
        offline, row_statuses = self.train(features, keys, **options)
        assert repr(plain(online[0])) == repr(plain(offline))
        for index, status in enumerate(next(iter(row_statuses.values()))):
            if len(row_statuses) == 1:
                of_row = {statuses[index] for statuses in online[1].values()}
                assert of_row <= ({status} if status != "PRESENT" else {"PRESENT", "NULL_VALUE"})
        return online


def plain(value: Any) -> Any:
    """A value as HTTP's JSON holds it."""
    match value:
        case dict():
            return {name: plain(each) for name, each in value.items()}
        case list() | tuple():
            return [plain(each) for each in value]
        case bytes():
            return base64.b64encode(value).decode()
        case Decimal():
            return str(value)
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case date():
            return value.isoformat()
        case float() if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
    return value


@pytest.fixture(scope="module", params=["lmdb", "redis"])
def everywhere(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Everywhere]:
    folder = tmp_path_factory.mktemp("everything")
    (folder / "definitions.py").write_text(DEFINITIONS, encoding="utf-8")
    (folder / "featurestore.toml").write_text(
        '[project]\nname = "everything"\n[online]\nmap_size_mb = 64\n'
    )
    write_data(folder / "data")
    overrides = {"serving.grpc": "127.0.0.1:0", "serving.http": "127.0.0.1:0"}
    with RedisServer(valkey_binary()) as valkey:
        if request.param == "redis":
            overrides["online.url"] = valkey.url
        with FeatureStore(folder, overrides=overrides) as store:
            store.apply()
            with pytest.warns(UserWarning, match="1 of 3 rows of source 'old_rows'"):
                store.materialize()
            with (
                ServerProcess.start(store.settings) as server,
                FeatureClient(server.grpc_target) as client,
                httpx.Client(base_url=server.http_url, timeout=10) as http,
            ):
                yield Everywhere(store, client, http)


def ints(*values: int | None) -> pa.Array:
    return pa.array(values, pa.int64())


def texts(*values: str | None) -> pa.Array:
    return pa.array(values, pa.string())


# --- names ----------------------------------------------------------------------------------------


def test_features_with_the_names_of_sql_words(everywhere: Everywhere) -> None:
    names = ["rn", "row_id", "x_y", "select", "order", "größe", "from"]
    values, _ = everywhere.both([f"odd:{name}" for name in names], {"user": ints(1, 2, None, 9)})
    assert [values[name][0] for name in names] == [1, BIG, 0.5, "s", "o", 1.8, "so"]
    assert values["select"] == ["s", None, None, None]


def test_event_timestamp_as_a_feature_with_full_names(everywhere: Everywhere) -> None:
    values, _ = everywhere.both(["odd"], {"user": ints(1)}, full_feature_names=True)
    assert values["odd__event_timestamp"] == [EARLIER]
    frame = pa.table({"user": ints(1), TIME: pa.array([NOW], INSTANT)})
    job = everywhere.store.get_historical_features(frame, ["odd"], full_feature_names=True)
    assert job.to_arrow().column_names[:3] == ["user", TIME, "odd__rn"]


def test_views_sources_and_entities_with_such_names(everywhere: Everywhere) -> None:
    values, statuses = everywhere.both(["order:dom"], {"stadt": texts("Köln", "Bonn")})
    assert values == {"dom": [157.38, None]}
    assert statuses == {"dom": ["PRESENT", "NOT_FOUND"]}


def test_a_view_twice_under_aliases(everywhere: Everywhere) -> None:
    keys = {"user": ints(1, 2), "friend": ints(2, None)}
    values, statuses = everywhere.both("friends", keys, full_feature_names=True)
    assert values == {
        "me__rn": [1, 2],
        "me__order": ["o", None],
        "you__rn": [2, None],
        "you__order": [None, None],
    }
    assert statuses["you__order"] == ["NULL_VALUE", "NOT_FOUND"]


# --- keys -----------------------------------------------------------------------------------------


def test_empty_and_very_long_text_keys(everywhere: Everywhere) -> None:
    keys = texts("", LONG, LONG[:-1] + "y", "日本", "a\0b", " ", "a", LONG[:-1], None)
    values, statuses = everywhere.both(["texts:number"], {"text": keys})
    assert values == {"number": [0, 1, 2, 3, 4, 5, None, None, None]}
    assert statuses["number"] == ["PRESENT"] * 6 + ["NOT_FOUND"] * 3


def test_composite_keys_keep_their_parts_apart(everywhere: Everywhere) -> None:
    keys = {
        "left": texts("1", "12", "", "", LONG, "123", None, "1"),
        "right": ints(23, 3, 0, -1, BIG, 0, 23, None),
    }
    values, _ = everywhere.both(["pairs:name"], keys)
    assert values["name"] == ["1-23", "12-3", "-0", "--1", f"{LONG}-{BIG}", None, None, None]
    keys = {"one": texts("a", "ab", "", "abc", "", "a"), "two": texts("bc", "c", "abc", "", "", "")}
    values, _ = everywhere.both(["phrases:both"], keys)
    assert values["both"] == ["a|bc", "ab|c", "|abc", "abc|", "|", None]


def test_keys_as_pandas_and_polars_hold_them(everywhere: Everywhere) -> None:
    for rows in (
        pd.DataFrame({"user": [1.0, None]}),
        pl.DataFrame({"user": [1, None]}),
        pd.DataFrame({"user": pd.array([1, None], dtype="Int64")}),
        pa.table({"user": pa.array([1, None], pa.int32())}),
        [{"user": 1}, {"user": float("nan")}],
    ):
        for door in (everywhere.store, everywhere.client):
            answer = door.get_online_features(["odd:row_id"], rows)
            assert answer.to_dict() == {"user": [1, None], "row_id": [BIG, None]}
            assert answer.statuses["row_id"] == ["PRESENT", "NOT_FOUND"]


def test_no_keys_and_no_entities(everywhere: Everywhere) -> None:
    values, _ = everywhere.ask(["odd:rn", "order:dom"], {"user": [], "stadt": []})
    assert values == {"rn": [], "dom": []}
    values, statuses = everywhere.ask(["world:year"], {})
    assert (values, statuses) == ({"year": [2024]}, {"year": ["PRESENT"]})
    values, _ = everywhere.both(["world:year", "odd:rn"], {"user": ints(1, None)})
    assert values == {"year": [2024, 2024], "rn": [1, None]}


# --- values ---------------------------------------------------------------------------------------


def test_values_of_every_type_are_the_same_everywhere(everywhere: Everywhere) -> None:
    keys = pa.array([b"\x00", b"", b"\x00\x00", None], pa.binary())
    values, statuses = everywhere.both(["typed"], {"blob": keys})
    for name, (_, value) in TYPES.items():
        assert values[name][0] == value, name
        assert values[name][1:] == [None] * 3
        assert statuses[name] == ["PRESENT", "NULL_VALUE", "NOT_FOUND", "NOT_FOUND"]


def test_types_of_arrow_are_those_of_the_files(everywhere: Everywhere) -> None:
    keys = pa.array([b"\x00", b""], pa.binary())
    frame = pa.table({"blob": keys, TIME: pa.array([NOW] * 2, INSTANT)})
    trained = everywhere.store.get_historical_features(frame, ["typed"]).to_arrow()
    served = everywhere.client.get_online_features(["typed"], {"blob": keys.to_pylist()}).to_arrow()
    for name, (kind, _) in TYPES.items():
        assert trained.schema.field(name).type == kind
        assert served.schema.field(name).type == kind
        assert trained[name].combine_chunks().equals(served[name].combine_chunks())


def test_big_integers_beside_nulls_in_every_frame(everywhere: Everywhere) -> None:
    frame = pa.table({"user": ints(1, 2, 9), TIME: pa.array([NOW] * 3, INSTANT)})
    for given in (frame, frame.to_pandas(), pl.from_arrow(frame)):
        job = everywhere.store.get_historical_features(given, ["odd:row_id"])
        answer = everywhere.client.get_online_features(["odd:row_id"], {"user": [1, 2, 9]})
        for result in (job, answer):
            assert result.to_arrow()["row_id"].to_pylist() == [BIG, None, None]
            assert result.to_polars()["row_id"].to_list() == [BIG, None, None]
            column = result.to_pandas()["row_id"]
            assert pd.api.types.is_integer_dtype(column.dtype)
            assert int(column[0]) == BIG
            assert column.isna().to_list() == [False, True, True]


# --- times and formats ----------------------------------------------------------------------------


def test_hive_csv_delta_and_sql_give_the_same(everywhere: Everywhere) -> None:
    users = {"user": ints(1, 2, -3, 4)}
    for view in ("hive", "comma", "delta"):
        values, statuses = everywhere.both([view], users)
        assert values == {"amount": [5, None, BIG, None], "region": ["a", "b", "a", None]}
        assert statuses["amount"] == ["PRESENT", "NULL_VALUE", "PRESENT", "NOT_FOUND"]
        answer = everywhere.store.get_online_features([view], {"user": [1]})
        assert answer.event_times == {view: [to_us(EARLIER)]}
    values, _ = everywhere.both(["joined:both"], users)
    assert values == {"both": [10, None, 2 * BIG, None]}


def test_instants_before_1970_and_before_their_rows_are_known(everywhere: Everywhere) -> None:
    values, _ = everywhere.both(["old:year"], {"user": ints(1, 2)})
    assert values == {"year": [1907, 1970]}
    ancient = datetime(1907, 1, 1, tzinfo=UTC)
    step = timedelta(microseconds=1)
    frame = pa.table(
        {
            "user": ints(1, 1, 1, 1, 2, 2),
            TIME: [ancient, ancient + step, ancient - step, ancient + 2 * step, EARLIER, NOW],
        }
    )
    job = everywhere.store.get_historical_features(frame, ["old:year"])
    assert job.to_arrow()["year"].to_pylist() == [None, 1907, None, 1907, None, 1970]


def test_dates_as_event_times(everywhere: Everywhere) -> None:
    midnight = datetime(TODAY.year, TODAY.month, TODAY.day, tzinfo=UTC)
    step = timedelta(microseconds=1)
    times = [midnight - step, midnight, midnight + timedelta(hours=12)]
    frame = pa.table({"user": ints(1, 1, 1), TIME: pa.array(times, INSTANT)})
    job = everywhere.store.get_historical_features(
        frame, ["daily:ago", "dawn:ago"], full_feature_names=True
    )
    found = job.to_arrow()
    assert found["daily__ago"].to_pylist() == [2, 1, 1]
    assert found["dawn__ago"].to_pylist() == [1, 0, 0]
    values, _ = everywhere.both(["daily", "dawn"], {"user": ints(1)}, full_feature_names=True)
    assert values == {"daily__ago": [1], "dawn__ago": [0]}


def test_entity_frames_with_odd_columns_in_every_form(
    everywhere: Everywhere, tmp_path: Path
) -> None:
    table = pa.table(
        {
            "rn": pa.array([BIG, None, 3]),
            "user": pa.array([1, None, 2]),
            "größe": pa.array(["x", "y", None]),
            TIME: pa.array([NOW] * 3, INSTANT),
            "label": pa.array([Decimal("1.5"), None, Decimal("2.5")]),
        }
    )
    parquet.write_table(table, tmp_path / "frame.parquet")
    texts_of = pa.array([NOW.isoformat(), f"{NOW:%Y-%m-%d %H:%M:%S}", f"{NOW:%Y-%m-%dT%H:%M}Z"])
    forms = {
        "path": tmp_path / "frame.parquet",
        "reader": table.to_reader(),
        "pandas": table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get),
        "polars": pl.from_arrow(table),
        "texts": table.set_column(3, TIME, texts_of),
        "chunks": pa.concat_tables([table.slice(0, 1), table.slice(1)]),
    }
    for name, form in forms.items():
        job = everywhere.store.get_historical_features(
            form, ["odd:row_id", "odd:x_y"], include_status=True
        )
        found = job.to_arrow()
        assert found.column_names == [*table.column_names, "row_id", "x_y", "odd__status"], name
        assert found["rn"].to_pylist() == [BIG, None, 3], name
        assert found["row_id"].to_pylist() == [BIG, None, None], name
        assert found["odd__status"].to_pylist() == ["PRESENT", "NOT_FOUND", "PRESENT"], name
        batches = list(job.to_batches(1))
        assert [batch.num_rows for batch in batches] == [1, 1, 1], name
        job.to_parquet(tmp_path / f"{name}.parquet")
        assert parquet.read_table(tmp_path / f"{name}.parquet")["row_id"].equals(found["row_id"])


def test_an_entity_frame_in_sql_over_odd_sources(everywhere: Everywhere) -> None:
    query = f"""
        SELECT "user", "select" AS "größe", TIMESTAMPTZ '{NOW.isoformat()}' AS {TIME}
        FROM odd_rows UNION ALL
        SELECT "user", region, "at" + INTERVAL 1 HOUR FROM csv_rows ORDER BY "user", "größe"
    """
    found = everywhere.store.get_historical_features(query, ["hive:amount"]).to_arrow()
    assert found["user"].to_pylist() == [-3, 1, 1, 2, 2]
    assert found["amount"].to_pylist() == [BIG, 5, 5, None, None]


def test_what_is_served_is_verified_exactly(everywhere: Everywhere) -> None:
    report = everywhere.store.verify(samples=50)
    assert report.rate == 1.0, report.differences
    assert {view.note for view in report.views} == {""}
    assert everywhere.store.plan().is_empty
    (again,) = everywhere.store.materialize(["odd"])
    assert again.rows_written == 0
