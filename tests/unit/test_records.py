"""Records: their identity, their limits, how they are shown."""

from __future__ import annotations

import pytest

from featurestore.errors import InvalidRecord
from featurestore.records import (
    RECORD_BODY_BYTES_MAX,
    RECORD_NAME_CHARS_MAX,
    Edge,
    Record,
    show_id,
)


def edge(parent: str, **changes: str) -> Edge:
    return Edge(parent=parent, role=changes.get("role", "source"), transformation="DIRECT")


def test_the_id_is_kind_name_and_hash() -> None:
    record = Record(kind="view", name="weather", body={"ttl": 3})
    assert record.id == f"view:weather@{record.hash}"
    assert len(record.hash) == 64
    assert show_id(record.id) == f"view:weather@{record.hash[:8]}"


def test_the_id_of_a_record_stays_what_it_is() -> None:
    record = Record(kind="view", name="größe", body={"b": 1, "a": [None, True, 1.5]})
    assert record.hash == "0a097a73794693e4a1ffb39febde341fae2ebb558d06a43bbb640dd8f69c2b39"


def test_equal_facts_have_equal_ids() -> None:
    one = Record(kind="fact", name="a", body={"x": 1, "y": 2}, parents=(edge("p"), edge("q")))
    two = Record(kind="fact", name="a", body={"y": 2, "x": 1}, parents=(edge("q"), edge("p")))
    assert one.id == two.id


@pytest.mark.parametrize(
    "other",
    [
        Record(kind="fact", name="b", body={"x": 1}, parents=(edge("p"),)),
        Record(kind="other", name="a", body={"x": 1}, parents=(edge("p"),)),
        Record(kind="fact", name="a", body={"x": 2}, parents=(edge("p"),)),
        Record(kind="fact", name="a", body={"x": 1}, parents=(edge("q"),)),
        Record(kind="fact", name="a", body={"x": 1}, parents=(edge("p", role="time"),)),
        Record(kind="fact", name="a", body={"x": 1}),
    ],
)
def test_different_facts_have_different_hashes(other: Record) -> None:
    record = Record(kind="fact", name="a", body={"x": 1}, parents=(edge("p"),))
    assert record.hash != other.hash


@pytest.mark.parametrize("kind", ["", "View", "a-b", "1a", "größe"])
def test_a_kind_is_small_letters(kind: str) -> None:
    with pytest.raises(InvalidRecord, match="is not a record kind"):
        Record(kind=kind, name="a")


@pytest.mark.parametrize("name", ["", "a@b", "x" * (RECORD_NAME_CHARS_MAX + 1)])
def test_a_name_has_limits(name: str) -> None:
    with pytest.raises(InvalidRecord, match="is not a record name"):
        Record(kind="fact", name=name)


def test_a_body_has_a_limit_in_bytes() -> None:
    room = RECORD_BODY_BYTES_MAX - len('{"a":""}')
    Record(kind="fact", name="a", body={"a": "x" * room})
    with pytest.raises(InvalidRecord, match=r"65,538 bytes, over RECORD_BODY_BYTES_MAX = 65,536"):
        Record(kind="fact", name="a", body={"a": "x" * (room - 2) + "ßß"})


def test_a_body_is_json_of_unicode_text() -> None:
    for value in (float("nan"), float("inf"), {1, 2}, "\ud800"):
        with pytest.raises(InvalidRecord, match="no JSON of Unicode text"):
            Record(kind="fact", name="a", body={"a": value})
    with pytest.raises(InvalidRecord, match="no JSON of Unicode text"):
        Record(kind="fact", name="\ud800")
