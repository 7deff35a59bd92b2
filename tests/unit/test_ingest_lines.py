"""Messages read as columns are what they are row by row, or are left to be read so."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.compiler.rel import CREATED_US, EVENT_US
from featurestore.compiler.resolve import resolve
from featurestore.compiler.typed import TypedRepo, TypedSource, TypedView
from featurestore.definitions.entity import Entity
from featurestore.definitions.repo import collect
from featurestore.definitions.source import FileSource
from featurestore.definitions.view import Feature, FeatureView
from featurestore.dtypes import BOOL, FLOAT64, INT64, STRING, TIMESTAMP, parse
from featurestore.errors import RequestError
from featurestore.jobs import ingest_lines
from featurestore.jobs.ingest_lines import read_lines
from featurestore.jobs.push_rows import read_rows
from featurestore.jobs.push_stamp import newest

COLUMNS = {
    "plane": INT64, "gate": STRING, "at": TIMESTAMP, "known_at": TIMESTAMP, "op": STRING,
    "delay": FLOAT64, "late": BOOL, "fare": parse("decimal(9,2)"), "day": parse("date"),
}  # fmt: skip
ROW: dict[str, Any] = {
    "plane": 1, "gate": "é", "at": "2024-02-29T12:00:00.000001Z", "known_at": None, "op": "D",
    "delay": 2.5, "late": True, "fare": "1.50", "day": "2024-02-29",
}  # fmt: skip
FULL = json.dumps(ROW | {"known_at": "2024-03-01T00:00:00Z"}).encode()


def made(**changes: Any) -> TypedRepo:
    plane = Entity("plane", join_keys={"plane": "int64", "gate": "string"})
    source = FileSource("landings", "l.parquet", "at", "known_at", op="op")
    view = FeatureView("last", [plane], source, [Feature("delay")])
    schema = {"landings": COLUMNS | changes}
    return resolve(collect([plane, source, view]), schema, project="p")


SOURCE: TypedSource = made().sources["landings"]
VIEW: TypedView = made().views["last"]


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_lines, "LINES_MIN", 1)


def as_columns(messages: list[bytes], source: TypedSource = SOURCE) -> pa.Table | None:
    table = read_lines(source, messages)
    if table is None:
        return None
    return read_rows(source, table, rows_max=len(messages), from_json=True)


def as_rows(messages: list[bytes], source: TypedSource = SOURCE) -> pa.Table:
    rows = [json.loads(message) for message in messages]
    return read_rows(source, rows, rows_max=len(rows), from_json=True)


def test_columns_are_what_the_rows_are() -> None:
    without = {name: value for name, value in ROW.items() if name not in ("known_at", "op")}
    texts = ["", 'quote " and \\', "line\nbreak", "\x00", "\u2028", "plain"]
    for messages in (
        [FULL, json.dumps(ROW | {"delay": -0.0}).encode()],
        [json.dumps(ROW | {"gate": text}, ensure_ascii=True).encode() for text in texts],
        [json.dumps(without).encode()] * 3,
        [
            json.dumps(without | {"delay": None, "gate": None}).encode(),
            json.dumps(without | {"gate": "x"}).encode(),
        ],
    ):
        found = as_columns(messages)
        assert found is not None
        assert found.equals(as_rows(messages))


def test_nobody_says_an_operation_and_it_is_an_update() -> None:
    for op in ({}, {"op": None}, {"op": "U"}):
        row = {name: value for name, value in ROW.items() if name != "op"} | op
        assert as_rows([json.dumps(row).encode(), FULL])["op"].to_pylist() == ["U", "D"]


@pytest.mark.parametrize(
    "message",
    [
        b'{"plane": 1}',
        b"",
        b"[]",
        b'"text"',
        FULL + FULL,
        FULL + b" x",
        FULL[:-1],
        b'{"plane":',
        FULL.replace(b", ", b",\n"),
        FULL.replace(b'"delay": 2.5', b'"delay": 9007199254740993'),
        FULL.replace(b'"delay": 2.5', b'"delay": NaN'),
        FULL.replace(b'"delay": 2.5', b'"delay": "2.5"'),
        FULL.replace(b'"plane": 1', b'"plane": 1.0'),
        FULL.replace(b'"plane": 1', b'"plane": 2, "plane": 1'),
        FULL.replace(b'"plane": 1', b'"plane": 9223372036854775808'),
        FULL.replace(b'"late": true', b'"late": 1'),
        FULL.replace(b'"fare": "1.50"', b'"fare": 1.5'),
        FULL.replace(b'"gate": "\\u00e9"', b'"gate": "\xff"'),
        FULL.replace(b'"gate": "\\u00e9"', b'"gate": "\\ud800"'),
        FULL.replace(b'"gate": "\\u00e9", ', b""),
        FULL.replace(b'"plane"', b'"more": 1, "plane"'),
    ],
    ids=str,
)
def test_what_is_not_certain_is_left_to_be_read_row_by_row(message: bytes) -> None:
    assert message != FULL
    assert read_lines(SOURCE, [FULL, message, FULL]) is None


def test_a_column_that_one_row_lacks_is_no_null_in_it() -> None:
    lacks = {name: value for name, value in ROW.items() if name != "delay"}
    null = json.dumps(ROW | {"gate": "x", "delay": None}).encode()
    assert read_lines(SOURCE, [null]) is not None
    # As many names, and one of them in a text: an escape, so nobody looks further.
    for gate in ('x":', 'x\\":'):
        messages = [json.dumps(lacks | {"gate": gate}).encode(), null]
        assert read_lines(SOURCE, messages) is None


def test_lists_are_read_row_by_row() -> None:
    assert read_lines(made(delay=parse("list<float64>")).sources["landings"], [FULL]) is None


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_columns_are_never_anything_else(data: st.DataObject) -> None:
    values = st.one_of(
        st.none(), st.integers(-(2**64), 2**64), st.floats(), st.text(max_size=3), st.booleans(),
        st.just("2024-02-29"), st.just([1]),
    )  # fmt: skip
    message = st.fixed_dictionaries(
        {}, optional={name: st.one_of(st.just(value), values) for name, value in ROW.items()}
    )
    usual = st.just(ROW)
    rows = data.draw(st.lists(st.one_of(usual, usual, message), min_size=1, max_size=4))
    messages = [
        json.dumps(row, ensure_ascii=data.draw(st.booleans())).encode("utf-8", "surrogatepass")
        for row in rows
    ]
    table = read_lines(SOURCE, messages)
    if table is None:
        return
    try:
        wanted = as_rows(messages)
    except RequestError:
        with pytest.raises(RequestError):
            read_rows(SOURCE, table, rows_max=len(rows), from_json=True)
    else:
        assert read_rows(SOURCE, table, rows_max=len(rows), from_json=True).equals(wanted)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from("ab"), st.integers(0, 2),
                       st.integers(0, 2)), max_size=12),
    st.integers(0, 2),
)  # fmt: skip
def test_the_newest_row_of_each_key(rows: list[tuple[int, str, int, int]], keys: int) -> None:
    columns = list(zip(*rows, strict=True)) or [()] * 4
    names = ["plane", "gate", EVENT_US, CREATED_US]
    types = [pa.int64(), pa.string(), pa.int64(), pa.int64()]
    arrays = [pa.array(c, t) for c, t in zip(columns, types, strict=True)]
    batch = pa.RecordBatch.from_arrays([*arrays, pa.array(range(len(rows)), pa.int64())],
                                       names=[*names, "n"])  # fmt: skip
    best: dict[Any, list[int]] = {}
    for n, row in enumerate(rows):
        mine = best.setdefault(row[:keys], [])
        times = max((rows[m][2:] for m in mine), default=(-1, -1))
        if row[2:] >= times:
            best[row[:keys]] = [*([m for m in mine if rows[m][2:] == row[2:]]), n]
    found = newest(replace(VIEW, keys=VIEW.keys[:keys]), batch)
    if any(len(mine) > 1 for mine in best.values()):
        assert found is None
    else:
        assert found is not None
        assert found["n"].to_pylist() == sorted(n for mine in best.values() for n in mine)
