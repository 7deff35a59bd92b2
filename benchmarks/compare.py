"""Two runs of the benchmarks side by side.

    python benchmarks/compare.py BEFORE AFTER [--fail]

With `--fail` the exit status is 1 if a ratio to the bare floor has lost more than a third of its
speed (a rate's ratio below 2/3 of what it was, a time's above 3/2). Figures without a floor are
shown and never fail: they belong to the machine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from results import WORSE_MAX, Result, columns, figure, read


def pairs(
    before: Sequence[Result], after: Sequence[Result]
) -> list[tuple[Result | None, Result | None]]:
    """The lines of both runs by name: those of `after` in their order, then what is gone."""
    old = {line.name: line for line in before}
    new = {line.name for line in after}
    gone = [(line, None) for line in before if line.name not in new]
    return [*((old.get(line.name), line) for line in after), *gone]


def fallen(before: Sequence[Result], after: Sequence[Result]) -> list[Result]:
    """The lines of `after` that have lost more than `WORSE_MAX`."""
    return [now for was, now in pairs(before, after) if was and now and has_fallen(was, now)]


def has_fallen(was: Result, now: Result) -> bool:
    loss = now.loss(was)
    return was.gates and now.gates and loss is not None and loss > WORSE_MAX


def side_by_side(before: Sequence[Result], after: Sequence[Result]) -> str:
    """A table of both runs: our figures and the ratios."""
    head = ("line", "unit", "before", "after", "ratio before", "ratio after", "speed", "")
    rows = [_cells(was, now) for was, now in pairs(before, after)]
    return columns([head, *rows], left={0, 1, 7})


def _cells(was: Result | None, now: Result | None) -> tuple[str, ...]:
    line = now or was
    assert line is not None
    if was is None or now is None:
        loss, verdict = None, "new" if was is None else "gone"
    else:
        loss, verdict = now.loss(was), "FALLEN" if has_fallen(was, now) else ""
    return (
        line.name,
        line.unit,
        figure(was and was.ours),
        figure(now and now.ours),
        figure(was and was.ratio),
        figure(now and now.ratio),
        "" if loss is None else f"{-loss:+.0%}",
        verdict,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--fail", action="store_true", help="exit 1 if a ratio has fallen")
    asked = parser.parse_args()
    before, after = read(asked.before), read(asked.after)
    print(side_by_side(before, after))
    worse = fallen(before, after)
    if worse:
        print(f"\n{len(worse)} of {len(after)} lines lost more than a third of their speed")
    return 1 if worse and asked.fail else 0


if __name__ == "__main__":
    sys.exit(main())
