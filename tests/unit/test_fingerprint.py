"""Fingerprints: equal values, equal hashes; nothing else."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.fingerprint import canonical_json, fingerprint, fingerprint_bytes, short

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=10,
)


def test_keys_are_sorted_and_text_is_kept() -> None:
    assert canonical_json({"b": [1, None, True], "a": "größe"}) == '{"a":"größe","b":[1,null,true]}'


@given(st.dictionaries(TEXT, JSON))
def test_the_order_of_keys_does_not_matter(value: dict[str, Any]) -> None:
    assert fingerprint(value) == fingerprint(dict(reversed(value.items())))


def test_it_is_sha_256() -> None:
    assert fingerprint({}) == hashlib.sha256(b"{}").hexdigest()
    assert fingerprint_bytes(b"x") == hashlib.sha256(b"x").hexdigest()
    assert short(fingerprint({})) == fingerprint({})[:8]


def test_different_values_differ() -> None:
    values = [0, "0", None, False, [], {}, [0], {"0": 0}, 0.5]
    assert len({fingerprint(value) for value in values}) == len(values)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_json_has_no_number_for(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        fingerprint({"x": value})


@pytest.mark.parametrize("value", [object(), b"x", {1, 2}])
def test_what_json_cannot_hold(value: object) -> None:
    with pytest.raises(TypeError):
        fingerprint(value)
