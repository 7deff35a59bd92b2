"""Errors: their text, their attributes, and their way through the wire and other processes."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest

from featurestore import errors
from featurestore.errors import (
    CommitConflict,
    DefinitionError,
    FeatureStoreError,
    InvalidExpression,
    InvalidJoinKey,
    InvalidRepository,
    LimitExceeded,
    MissingJoinKey,
    NameClash,
    RecordNotFound,
    TypeMismatch,
    UnknownFeature,
    UnknownService,
    UnknownView,
    suggest,
)

EXAMPLES: list[FeatureStoreError] = [
    UnknownFeature("trips_7d", view="driver_stats", known=["trips_7day"]),
    UnknownView("drivr", known=["driver"]),
    UnknownService("model", known=[], hint="Say it again."),
    MissingJoinKey("tailnum", needed_by="plane_history", known=["tail"]),
    InvalidJoinKey("tailnum", "is a float"),
    NameClash(["temp", "wind"], hint="Use full names."),
    LimitExceeded("KEYS_PER_REQUEST_MAX", asked=10_001, allowed=10_000, hint="Send two requests."),
    RecordNotFound("view:x@1"),
    CommitConflict("env/prod", expected=None, found="repo:x@1"),
    TypeMismatch("wrong", file="a.py", line=3),
    InvalidExpression("wrong", position=7, file="a.py", line=3),
    InvalidRepository([TypeMismatch("b", file="b.py", line=1), DefinitionError("a", file="a.py")]),
]


def leaves(root: type[FeatureStoreError] = FeatureStoreError) -> list[type[FeatureStoreError]]:
    """All error classes of ours."""
    below = [leaf for child in root.__subclasses__() for leaf in leaves(child)]
    return [kind for kind in (root, *below) if kind.__module__.startswith(f"{errors.__name__}.")]


class TestSuggest:
    @pytest.mark.parametrize(
        ("name", "known", "text"),
        [
            ("trips_7d", ["trips_7day", "other"], " Did you mean 'trips_7day'?"),
            ("x", ["a", "b"], " There is: a, b."),
            ("x", [], ""),
            ("x", (c * 3 for c in "jihgfedcba"), (" There is: aaa, bbb, ccc, ddd, eee, fff, ggg, "
             "hhh, … (10 in all).")),
        ],
    )  # fmt: skip
    def test_the_closest_or_what_there_is(self, name: str, known: Any, text: str) -> None:
        assert suggest(name, known) == text


class TestText:
    def test_the_message_ends_with_the_code(self) -> None:
        assert str(EXAMPLES[0]) == (
            "driver_stats has no feature 'trips_7d'. Did you mean 'trips_7day'? [unknown-feature]"
        )

    def test_a_place_comes_first(self) -> None:
        assert str(DefinitionError("m", file="a.py", line=3)) == "a.py:3: m [definition-error]"
        assert str(DefinitionError("m", file="a.py")) == "a.py: m [definition-error]"
        assert str(DefinitionError("m")) == "m [definition-error]"

    def test_a_repository_lists_its_errors_by_place(self) -> None:
        assert str(EXAMPLES[-1]) == (
            "2 errors in the repository [invalid-repository]\n"
            "a.py: a [definition-error]\n"
            "b.py:1: b [type-mismatch]"
        )
        assert str(InvalidRepository([DefinitionError("a")])).startswith("1 error in")

    def test_limits_are_readable(self) -> None:
        assert EXAMPLES[6].message == (
            "10,001 is over KEYS_PER_REQUEST_MAX = 10,000. Send two requests."
        )
        assert LimitExceeded("ROWS", asked=2, allowed=1).message == "2 is over ROWS = 1."

    def test_a_conflict_says_what_was_believed(self) -> None:
        assert "is at repo:x@1, expected nothing" in EXAMPLES[8].message


class TestIdentity:
    def test_every_class_has_a_code_of_its_own(self) -> None:
        codes = [leaf.code for leaf in leaves()]
        assert len(codes) == len(set(codes)) > 40

    def test_what_may_be_retried(self) -> None:
        assert {leaf.code for leaf in leaves() if leaf.retryable} == {
            "commit-conflict",
            "server-overloaded",
            "server-timeout",
            "server-unavailable",
            "store-exhausted",
            "store-timeout",
            "store-unavailable",
        }


class TestTransport:
    @pytest.mark.parametrize("error", EXAMPLES, ids=lambda e: e.code)
    def test_an_error_is_restored_from_plain_data(self, error: FeatureStoreError) -> None:
        details = json.loads(json.dumps(error.details))
        found = FeatureStoreError.restore(error.code, error.message, details)
        assert type(found) is type(error)
        assert (str(found), found.details) == (str(error), error.details)

    @pytest.mark.parametrize("error", EXAMPLES, ids=lambda e: e.code)
    def test_an_error_crosses_processes_and_is_copied(self, error: FeatureStoreError) -> None:
        for found in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
            assert type(found) is type(error)
            assert (str(found), found.details) == (str(error), error.details)

    def test_a_code_of_a_newer_server_is_a_plain_error(self) -> None:
        found = FeatureStoreError.restore("brand-new", "something", {"extra": 1})
        assert type(found) is FeatureStoreError
        assert found.details == {"extra": 1}

    def test_details_may_be_missing(self) -> None:
        assert str(FeatureStoreError.restore("type-mismatch", "m", {})) == "m [type-mismatch]"
        found = FeatureStoreError.restore("invalid-repository", "1 error in the repository", {})
        assert isinstance(found, InvalidRepository)
        assert found.errors == ()

    def test_a_repository_restores_its_errors(self) -> None:
        errors = [{"code": "type-mismatch", "message": "b", "file": "b.py", "line": 1}]
        errors.append({"code": "brand-new", "message": "c", "file": "c.py", "line": 2})
        found = FeatureStoreError.restore("invalid-repository", "m", {"errors": errors})
        assert isinstance(found, InvalidRepository)
        assert [str(error) for error in found.errors] == [
            "b.py:1: b [type-mismatch]",
            "c.py:2: c [definition-error]",
        ]

    def test_a_subclass_without_a_code_does_not_take_its_parents_place(self) -> None:
        class Own(TypeMismatch):
            pass

        found = FeatureStoreError.restore(Own.code, "m", {})
        assert type(found) is TypeMismatch
