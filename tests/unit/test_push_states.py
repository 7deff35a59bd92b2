"""Which commits count in a state of a table of the push log: spans, restores, a model of both."""

from __future__ import annotations

import random

import pytest

from featurestore.stores.offline.push_states import (
    BEFORE,
    Restore,
    State,
    common,
    hidden_by,
    restores_among,
    state_at,
    without,
)


def members(spans: object) -> set[int]:
    return {n for after, upto in spans for n in range(after + 1, upto + 1)}  # type: ignore[attr-defined]


def test_spans_are_sets_of_commits() -> None:
    rng = random.Random(1)
    for _ in range(300):
        cuts = sorted(rng.sample(range(30), 8))
        left, right = tuple(zip(cuts[:4:2], cuts[1:4:2], strict=True)), ((cuts[4], cuts[5]),)
        other = ((rng.randrange(15), rng.randrange(15, 30)),)
        for a, b in ((left, right), (left, other), (other, left), (left, left), ((), left)):
            for made, wanted in ((common(a, b), members(a) & members(b)),
                                 (without(a, b), members(a) - members(b))):  # fmt: skip
                assert members(made) == wanted
                assert all(after < upto for after, upto in made)
                assert list(made) == sorted(made)


def restore(number: int, at_us: int, target: State, upto: dict[str, int]) -> Restore:
    hidden = hidden_by(target, upto)
    return Restore(table="rows/s", number=number, at_us=at_us, target="", upto=upto,
                   hidden=hidden, rows_added=0, rows_removed=0)  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_any_history_of_pushes_and_restores(seed: int) -> None:
    """Against a model that keeps what counted after each step."""
    rng = random.Random(seed)
    commits: dict[str, list[int]] = {"a": [], "b": []}
    restores: list[Restore] = []
    history: list[tuple[int, set[tuple[str, int]]]] = [(0, set())]
    now_us = 0
    for _ in range(30):
        now_us += rng.randrange(1, 5)
        counted = set(history[-1][1])
        if rng.random() < 0.7:
            writer = rng.choice("ab")
            commits[writer].append(now_us)
            counted.add((writer, now_us))
        else:
            at_us, counted = rng.choice(history)
            upto = {writer: max(done, default=0) for writer, done in commits.items()}
            made = restore(len(restores) + 1, now_us, state_at(restores, at_us), upto)
            restores.append(Restore.from_json(made.to_json()))
        history.append((now_us, counted))
    for at_us, counted in history:
        state = state_at(restores, at_us)
        seen = {
            (writer, one)
            for writer, done in commits.items()
            for one in done
            if common([(one - 1, one)], state.counted(writer))
        }
        assert seen == counted


def test_what_is_committed_during_a_restore_counts() -> None:
    """By a machine whose last commit the restore did not know of, whatever its clock says."""
    made = restore(1, 100, state_at([], 50), {"a": 80})
    after = State(restore=made)
    assert after.counted("a") == ((BEFORE, 50), (80, 2**63 - 1))
    assert after.counted("b") == ((BEFORE, 2**63 - 1),)


def test_restores_are_listed_by_table_in_order() -> None:
    names = ["pushed/restored/rows/s/00000002.parquet", "pushed/w/manifest.parquet",
             "pushed/restored/rows/s/00000001.parquet"]  # fmt: skip
    assert restores_among(names) == {"rows/s": (names[2], names[0])}
