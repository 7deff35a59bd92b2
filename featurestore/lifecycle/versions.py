"""Versions of managed tables: what tags may be called, and what two training sets say of each
other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from featurestore.errors import InvalidRequest

_TAG = re.compile(r"[A-Za-z][A-Za-z0-9_.\-]{0,62}")
SETTINGS = ("as_of", "known_until_us", "label", "splits", "full_feature_names", "include_status")


def check_tag(tag: object) -> str:
    """A tag's name. Raises `InvalidRequest`."""
    if not isinstance(tag, str) or not _TAG.fullmatch(tag):
        raise InvalidRequest(
            f"{tag!r} is not a tag: a letter, then letters, digits, _, - and ., at most 63"
        )
    return tag


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing that differs (None: it is not there): a feature's version, the files of a source, a
    setting."""

    what: str
    then: Any
    now: Any


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[Change, ...]:
    """What differs, in name order."""
    return tuple(
        Change(what=name, then=then.get(name), now=now.get(name))
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    )


def settings_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """What a training set was asked for, beside its features: names → values."""
    found = {name: body[name] for name in SETTINGS}
    if found["splits"] is not None:
        found["splits"] = {k: v for k, v in found["splits"].items() if k != "rows"}
    return found
