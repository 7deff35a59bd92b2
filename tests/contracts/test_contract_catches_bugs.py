"""The contract of online stores must be able to fail: each bug, planted in a copy of the LMDB
store, is caught by one of its tests."""

from __future__ import annotations

import inspect
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from mutants import Change, mutant

from featurestore.stores.online import lmdb
from featurestore.testing.online_store import OnlineStoreContract, OnlineStoreOpener

BUGS: dict[str, tuple[Change, ...]] = {
    "an older write wins": (("if now <= was:", "if now == was:"),),
    "a tie is decided by who comes last": (("if now <= was:", "if now < was:"),),
    "a tie is taken for an older row": (("if now == was:", "if False:"),),
    "the created time is ignored": (("times(old), times(row)", "times(old)[:1], times(row)[:1]"),),
    "repeated keys are answered once": (
        ("for read in reads:", "for read in dict.fromkeys(reads):"),
    ),
    "absent rows lose their place": (
        ("rows.append(None if value is None else value[8:])", "value and rows.append(value[8:])"),
    ),
    "keys of two projects collide": (
        ("get(key + field)", 'get(key.split(b"/", 2)[-1] + field)'),
        ("return key + field,", 'return key.split(b"/", 2)[-1] + field,'),
    ),
    "a sweep takes other projects along": (("if stale and key.startswith(prefix)", "if stale"),),
    "one batch does not see itself": (("pending.get(place) or get(place)", "get(place)"),),
    "a key and a field run into each other": (
        ("get(key + field)", "get(key + field.lstrip(bytes(1)))"),
        ("return key + field,", "return key + field.lstrip(bytes(1)),"),
    ),
    "the same row shortens its expiry": (("[0] < expiry:", "[0] != expiry:"),),
    "replacing does not compare": (
        ("if stored is None or stored[8:] != lead + expected:", "if stored is None:"),
    ),
    "a swap does not compare": (("revision_of(state) == expected)", "True)"),),
    "a swap compares the presence only": (
        ("revision_of(state) == expected)", "bool(revision_of(state)) == bool(expected))"),
    ),
    "a swap changes the first field only": (
        ("zip(entries, values, strict=True)", "zip(entries[:1], values[:1], strict=True)"),
    ),
    "a swap forgets the expiry": (
        ("NEVER_US if expire_at_us is None else", "NEVER_US if True else"),
    ),
    "an empty value is kept": (("                if value:\n", "                if True:\n"),),
    "long keys are cut": (("key[:_KEPT_BYTES] + digest + field", "key[:_KEPT_BYTES] + field"),),
}


def checks() -> Iterator[Callable[[Any], object]]:
    """The contract's tests that need nothing but a store."""
    contract = OnlineStoreContract()
    for name, test in inspect.getmembers(contract, inspect.ismethod):
        wanted = {*inspect.signature(test).parameters}
        marks = [mark for mark in getattr(test, "pytestmark", ()) if mark.name == "parametrize"]
        if not name.startswith("test_") or "ten_thousand" in name or len(marks) > 1:
            continue
        names, cases = ((), ((),)) if not marks else marks[0].args
        if isinstance(names, str):
            names = tuple(name.strip() for name in names.split(","))
            cases = cases if len(names) > 1 else [(case,) for case in cases]
        if wanted == {"store", *names}:
            for case in cases:
                yield partial(test, **dict(zip(names, case, strict=True)))


def caught(kind: Any, folder: Path) -> bool:
    """Whether one of the tests fails for this store."""
    for check in checks():
        shutil.rmtree(folder, ignore_errors=True)
        opener = OnlineStoreOpener(kind, "lmdb:online", folder)
        with opener.open() as store:
            try:
                check(store=store)
            except (AssertionError, LookupError, ValueError, TypeError):
                return True
    return False


@pytest.mark.parametrize("bug", BUGS)
def test_a_wrong_store_is_caught(tmp_path: Path, bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = mutant(lmdb, *BUGS[bug])
    monkeypatch.setitem(sys.modules, copy.__name__, copy)
    assert caught(copy.LmdbStore, tmp_path / "store")


def test_the_right_store_is_not_accused(tmp_path: Path) -> None:
    assert len(list(checks())) > 20
    assert not caught(mutant(lmdb).LmdbStore, tmp_path / "store")
