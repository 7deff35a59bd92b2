"""`make fuzz MINUTES=10`: the property tests, again and again with new examples, until the time is
over or something is found.

Each round has a seed, which is printed; the older DuckDB takes every second round. What is found is
shrunk, kept in .hypothesis and tried first the next time; the command that repeats the round is
printed as well. Exits with 1 when something was found.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OLDER_DUCKDB = ROOT / ".venv" / "duckdb-1.5"
FAILED = int(pytest.ExitCode.TESTS_FAILED)
EFFORTS = (1, 2, 5, 10)
"""How many times the usual number of examples the rounds draw; all further ones as the last."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz for some time.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, help="of the first round")
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side")
    parser.add_argument("tests", nargs="*", default=["tests/property"])
    given = parser.parse_args()
    ends = time.monotonic() + 60 * given.minutes
    seed, rounds = given.seed, 0
    while (left_s := ends - time.monotonic()) > 0:
        seed = secrets.randbelow(2**32) if seed is None else seed
        effort = EFFORTS[min(rounds, len(EFFORTS) - 1)]
        older = rounds % 2 == 1 and OLDER_DUCKDB.is_dir()
        if not play(seed, effort, given.tests, older=older, jobs=given.jobs, within_s=left_s):
            return 1
        seed, rounds = None, rounds + 1
    print(f"nothing found in {rounds} rounds, {given.minutes:g} minutes")
    return 0


def play(
    seed: int, effort: int, tests: list[str], *, older: bool, jobs: int, within_s: float
) -> bool:
    """One round; whether nothing was found in it. It is broken off when the time is over."""
    added = {"FEATURESTORE_FUZZ": str(effort), "FEATURESTORE_FUZZ_SEED": str(seed)}
    added |= {"PYTHONPATH": str(OLDER_DUCKDB)} if older else {}
    options = ["-x", "-q", "-n", str(jobs), f"--hypothesis-seed={seed}", "-m", "not full", *tests]
    command = [sys.executable, "-m", "pytest", *options]
    shown = " ".join([*(f"{name}={value}" for name, value in added.items()), *command])
    print(f"== seed {seed}, effort {effort}, DuckDB {'1.5' if older else 'current'}", flush=True)
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | added, start_new_session=True)
    try:
        process.wait(within_s)
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as reason:
        # A round ends with its first failure: one that is still under way found nothing.
        process.send_signal(signal.SIGINT)
        status = process.wait()
        if isinstance(reason, KeyboardInterrupt):
            raise SystemExit(130) from None
        return status != FAILED
    if process.returncode != 0:
        print(f"found something; to repeat the round:\n{shown}", flush=True)
    return process.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
