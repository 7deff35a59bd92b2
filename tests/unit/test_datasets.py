"""Rules of training sets: names, splits, verdicts."""

from __future__ import annotations

from typing import Any

import pytest

from featurestore.errors import InvalidRequest
from featurestore.lifecycle.datasets import (
    LibraryChange,
    Splits,
    Verdict,
    changed_libraries,
    check_name,
    read_splits,
    verdict,
)


@pytest.mark.parametrize("name", ["delay", "delay-2024.v1", "A_b"])
def test_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "../x", "a/b", "a@b", "ü", "x" * 129, 7, None])
def test_names_that_are_none(name: Any) -> None:
    with pytest.raises(InvalidRequest, match="is not a training set's name"):
        check_name(name)


def test_splits_by_time() -> None:
    found = read_splits({"train": "2024-01-01", "valid": "2024-02-01", "test": None}, keys=["a"])
    assert found.kind == "time"
    assert found.bounds == (1_704_067_200_000_000, 1_706_745_600_000_000, None)
    assert Splits.from_json(found.to_json()) == found
    assert found.describe() == {
        "train": "before 2024-01-01T00:00:00Z",
        "valid": "before 2024-02-01T00:00:00Z",
        "test": "to the end",
    }
    assert found.index("valid") == 1
    with pytest.raises(InvalidRequest, match=r"no split 'trian'\. Did you mean 'train'"):
        found.index("trian")


def test_splits_by_entity() -> None:
    found = read_splits({"train": 0.7, "valid": 0.2, "test": 0.1}, keys=["tailnum"])
    assert found.by == ("tailnum",)
    assert found.bounds == (0.7, pytest.approx(0.9), 1.0)
    assert found.describe() == {
        "train": "0.7 of tailnum", "valid": "0.2 of tailnum", "test": "0.1 of tailnum",
    }  # fmt: skip
    both = read_splits({"by": ["a", "b"], "all": 1}, keys=["a", "b", "c"])
    assert both.by == ("a", "b")
    assert read_splits({"by": "b", "all": 1}, keys=["a", "b"]).by == ("b",)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (["train"], "splits is a dict"),
        ({}, "names 1 to SPLITS_MAX = 16"),
        ({f"s{n}": 0.05 for n in range(20)}, "names 1 to SPLITS_MAX = 16"),
        ({"Train": 1.0}, "'Train' is not a split's name"),
        ({"train": 0.8, "test": 0.1}, "make 1, not 0.9"),
        ({"train": 1.5, "test": -0.5}, "between 0 and 1"),
        ({"by": "tail", "all": 1}, "'tail' is no join key.* Did you mean 'tailnum'"),
        ({"by": 7, "all": 1}, "'by' of splits names join keys"),
        ({"by": [], "all": 1}, "is no join key"),
        ({"train": "2024-02-01", "test": "2024-01-01"}, "'test' ends before"),
        ({"train": None, "test": "2024-01-01"}, "'test' comes after one without an end"),
        ({"train": "yesterday", "test": None}, "yesterday"),
        ({"by": "tailnum", "train": "2024-01-01"}, "splits by time have no 'by'"),
    ],
)
def test_splits_that_are_none(spec: Any, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        read_splits(spec, keys=["tailnum"])


def test_several_keys_need_a_by() -> None:
    with pytest.raises(InvalidRequest, match=r"2 join keys .a, b.; say which"):
        read_splits({"train": 1.0}, keys=["a", "b"])
    with pytest.raises(InvalidRequest, match=r"0 join keys .none."):
        read_splits({"train": 1.0}, keys=[])


def test_verdicts() -> None:
    def of(**facts: Any) -> Verdict:
        known: dict[str, Any] = {"unpinned": (), "expired": (), "equal": True, "libraries": False}
        return verdict(**known | facts)

    assert of() is Verdict.EXACT
    assert of(libraries=True) is Verdict.DIFFERENT_ENVIRONMENT
    assert of(equal=False) is of(equal=False, libraries=True) is Verdict.MISMATCH
    assert of(unpinned=["a"]) is of(unpinned=["a"], equal=False) is Verdict.UNPINNED
    assert of(expired=["f"], equal=None) is Verdict.DATA_EXPIRED
    assert of(expired=["f"], unpinned=["a"], equal=None) is Verdict.DATA_EXPIRED


def test_libraries_that_changed() -> None:
    assert changed_libraries({"a": "1", "b": "1", "c": "1"}, {"a": "1", "b": "2", "d": "1"}) == (
        LibraryChange(library="b", then="1", now="2"),
        LibraryChange(library="c", then="1", now=None),
        LibraryChange(library="d", then=None, now="1"),
    )
