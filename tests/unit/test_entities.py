"""Entities: what callers hold, what is sent, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from featurestore.dtypes import BYTES, INT64, STRING
from featurestore.errors import InvalidJoinKey, InvalidRequest, MissingJoinKey
from featurestore.wire import serving_pb2 as pb
from featurestore.wire.entities import from_message, key_column, read_entities, to_message


class Text(str):
    """A text of a class of its own."""

    __slots__ = ()


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["a", None, "ü\x00"], "string"),
        ([1, None, -(2**63)], "int64"),
        ([b"", b"\xff"], "bytes"),
        ([None, None], "null"),
        ([], "null"),
        ([2.0, None], "int64"),
        ([Text("a")], "string"),
        ([bytearray(b"a"), memoryview(b"b")], "bytes"),
    ],
)
def test_columns_arrive_as_they_were_sent(values: list[Any], kind: str) -> None:
    column = key_column("k", values)
    assert column.kind == kind
    sent = pb.KeyColumn.FromString(to_message(column).SerializeToString())
    back = from_message(sent)
    assert (back.kind, list(back.values)) == (column.kind, list(column.values))


@pytest.mark.parametrize("values", [[1, "a"], [1.5], [True], [2.0**53 + 2], [object()], [b"", "a"]])
def test_what_is_no_key_may_stand_beside_keys(values: list[Any]) -> None:
    column = key_column("k", values)
    assert column.kind == "other"
    back = from_message(to_message(column))
    for found in (column, back):
        with pytest.raises(InvalidJoinKey, match="must be int64"):
            found.as_dtype(INT64)


def test_types_of_keys_are_told_apart() -> None:
    assert key_column("k", [None]).as_dtype(BYTES) == [None]
    assert key_column("k", ["1"]).as_dtype(STRING) == ["1"]
    with pytest.raises(InvalidJoinKey, match="'k': must be int64, the caller sent string values"):
        key_column("k", ["1"]).as_dtype(INT64)
    with pytest.raises(InvalidJoinKey, match="bool values and int values"):
        key_column("k", [True, 1]).as_dtype(INT64)


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1])
def test_numbers_over_64_bits(value: int) -> None:
    with pytest.raises(InvalidJoinKey, match="does not fit 64 bits"):
        key_column("k", [1, value, None])


def test_text_that_is_no_unicode() -> None:
    with pytest.raises(InvalidJoinKey, match="Unicode"):
        key_column("k", ["fine", "\udfff"])


def test_nulls_outside_the_column() -> None:
    message = pb.KeyColumn(name="k", strings=pb.StringValues(values=["a"]), nulls=[1])
    with pytest.raises(InvalidRequest, match="NULL at 1"):
        from_message(message)


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ([{"a": 1}, {"b": 1}], MissingJoinKey),
        ([{"a": 1}, 3], InvalidRequest),
        ({"a": [1], "b": []}, InvalidRequest),
        ({"a": "text"}, InvalidRequest),
        ({"a": 3}, InvalidRequest),
        ({1: [3]}, InvalidRequest),
        ("text", InvalidRequest),
        (3, InvalidRequest),
        (None, InvalidRequest),
    ],
)
def test_what_is_no_entities(rows: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        read_entities(rows)


def test_counts() -> None:
    assert read_entities([]).count == 0
    assert read_entities([{}, {}]).count == 2
    assert read_entities({}).count == 1
    assert read_entities({"a": []}).count == 0
