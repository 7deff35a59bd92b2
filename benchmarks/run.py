"""Run every benchmark, and collect their lines into one table and one JSON file.

    python benchmarks/run.py [--quick] [--json FILE] [--against FILE] [NAME …]

`NAME` is what follows `bench_` in a file's name; all, by default. With `--against` (an earlier run)
the exit status is 1 if a ratio has lost more than a third of its speed since. A benchmark with such
lines is run again first, at most `AGAIN_MAX` times, and the best of each line counts: another
program's noise goes away, a regression stays.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from compare import fallen, side_by_side
from results import Result, read, table, write

FOLDER = Path(__file__).parent
AGAIN_MAX = 2


def run(script: Path, *, quick: bool) -> list[Result]:
    """The lines of one benchmark. Raises `CalledProcessError` where it fails."""
    print(f"== {script.stem} ==", flush=True)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="fs_bench_") as folder:
        path = Path(folder) / "results.json"
        command = [sys.executable, str(script), "--json", str(path)]
        subprocess.run(command + ["--quick"] * quick, check=True)
        found = read(path)
    print(f"({time.perf_counter() - begun:.0f} s)\n", flush=True)
    return found


def better(left: Result, right: Result) -> Result:
    """Of two runs of one line, the faster by its ratio."""
    loss = right.loss(left)
    return right if loss is not None and loss < 0 else left


def again(found: list[Result], more: list[Result]) -> list[Result]:
    """`found`, each line replaced by its run in `more` where that was better."""
    rerun = {line.name: line for line in more}
    return [better(line, rerun[line.name]) if line.name in rerun else line for line in found]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="a smoke run")
    parser.add_argument("--json", type=Path, help="where all lines go")
    parser.add_argument("--against", type=Path, help="an earlier run to compare the ratios with")
    asked = parser.parse_args()
    scripts = sorted(FOLDER.glob("bench_*.py"))
    if asked.names:
        scripts = [FOLDER / f"bench_{name}.py" for name in asked.names]
    before = read(asked.against) if asked.against else []
    found: list[Result] = []
    for script in scripts:
        lines = run(script, quick=asked.quick)
        for _ in range(AGAIN_MAX):
            if not fallen(before, lines):
                break
            lines = again(lines, run(script, quick=asked.quick))
        found += lines
    print(table(found))
    if asked.json:
        write(found, asked.json)
        print(f"\nwritten to {asked.json}")
    if before:
        print("\n" + side_by_side(before, found))
    return 1 if fallen(before, found) else 0


if __name__ == "__main__":
    sys.exit(main())
