"""A process that dies at a chosen step: `kill -9` between any two lines of our code.

A child runs a job while every line of ours that it executes is counted; it kills itself when the
count reaches a given number. A survey, a run that nobody kills, first tells which steps are worth
it: those after which something on the disk is another than before, each first line of the code that
works inside a transaction, and (at length) every line of the rooms that write.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import featurestore

OURS = str(Path(featurestore.__file__).parent)
ROOMS = ("jobs", "stores", "serving")
WITHIN = ("stores/online/lmdb.py", "stores/registry/writes.py")
"""Files whose lines run inside a transaction, where a kill finds it half done."""
REBUILT = ("lock.mdb", "-shm")
"""The locks and the index over the log are rebuilt by whoever comes next."""
Job = Callable[[Path], None]
FAULT_ROUNDS = int(os.environ.get("FAULT_ROUNDS", "0"))

forks = get_context("forkserver")
forks.set_forkserver_preload(
    [
        "kill_jobs",
        "sqlalchemy.dialects.sqlite",
        "featurestore.stores.registry.sql",
        "featurestore.stores.online.lmdb",
        "featurestore.stores.online.redis",
        "featurestore.testing.online_store",
        "featurestore.testing.registry",
        "featurestore.stores.offline.parquet",
        "featurestore.engines.duckdb",
        "featurestore.jobs.verify",
        "featurestore.jobs.apply",
        "featurestore.jobs.publish",
        "featurestore.serving.local",
        "pyarrow.parquet",
        "duckdb",
    ]
)


@dataclass
class Steps:
    """Counts the lines of our rooms that this process executes, and calls `each` for every one."""

    each: Callable[[int, FrameType], None]
    count: int = 0
    _ours: dict[CodeType, bool] = field(default_factory=dict)

    def __enter__(self) -> None:
        sys.settrace(self._call)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _call(self, frame: FrameType, event: str, argument: object) -> Any:
        code = frame.f_code
        ours = self._ours.get(code)
        if ours is None:
            rooms = tuple(f"{OURS}/{room}/" for room in ROOMS)
            ours = self._ours[code] = code.co_filename.startswith(rooms)
        return self._line if ours else None

    def _line(self, frame: FrameType, event: str, argument: object) -> Any:
        if event in ("line", "return"):
            self.each(self.count, frame)
            self.count += 1
        return self._line


@dataclass(frozen=True)
class Survey:
    """The steps of one run: `changes` found another state on the disk than the step before,
    `within` are the first ones of each line of `WITHIN`, `lines` those of every line."""

    changes: tuple[int, ...]
    within: tuple[int, ...]
    lines: tuple[int, ...]

    def steps(self, *, at_length: bool) -> list[int]:
        """Where to kill, ascending."""
        return sorted({*self.changes, *self.within, *(self.lines if at_length else ())})


def deaths(
    job: Job, before: Path, into: Path, *, kills: int, exact: bool = FAULT_ROUNDS > 0
) -> Iterator[Path]:
    """Copies of `before` in `into`, in each of which the job was killed at another step: at about
    `kills` of them, or in `make faults` at all."""
    found = survey(job, copied(before, into / "survey"), exact=exact)
    steps = found.steps(at_length=FAULT_ROUNDS > 1)
    if not FAULT_ROUNDS:
        steps = steps[1 :: -(-len(steps) // kills)]
    killed = 0
    for step in steps:
        folder = copied(before, into / f"{step}")
        killed += run_and_die(job, folder, step)
        yield folder
        shutil.rmtree(folder)
    assert len(steps) >= kills - 1
    assert killed >= len(steps) - 1, "threads may take a step less than in the survey"


def copied(folder: Path, to: Path) -> Path:
    """A copy of the folder."""
    shutil.copytree(folder, to)
    return to


def survey(job: Job, folder: Path, *, exact: bool) -> Survey:
    """Run the job in a process of its own, to its end. `exact` compares what the files hold, which
    takes its time, instead of their sizes and times."""
    ours, theirs = forks.Pipe(duplex=False)
    process = forks.Process(target=_survey, args=(job, folder, exact, theirs))
    process.start()
    theirs.close()
    found = ours.recv()
    process.join()
    assert process.exitcode == 0
    assert isinstance(found, Survey)
    return found


def run_and_die(job: Job, folder: Path, step: int) -> bool:
    """Run the job in a process of its own that kills itself at `step`; whether it got so far."""
    process = forks.Process(target=_run_and_die, args=(job, folder, step))
    process.start()
    process.join(120)
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return process.exitcode != 0


def _survey(job: Job, folder: Path, exact: bool, pipe: Any) -> None:
    state_of = _digest if exact else _stamps
    changes, within, lines = list[int](), list[int](), list[int]()
    seen, last = set[tuple[str, int]](), state_of(folder)

    def look(step: int, frame: FrameType) -> None:
        nonlocal last
        now = state_of(folder)
        if now != last:
            changes.append(step)
            last = now
        place = frame.f_code.co_filename, frame.f_lineno
        if place not in seen:
            seen.add(place)
            lines.append(step)
            if place[0].endswith(WITHIN):
                within.append(step)

    with Steps(look):
        job(folder)
    pipe.send(Survey(tuple(changes), tuple(within), tuple(lines)))


def _run_and_die(job: Job, folder: Path, fatal: int) -> None:
    def die(step: int, frame: FrameType) -> None:
        if step >= fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    with Steps(die):
        job(folder)


def _digest(folder: Path) -> bytes:
    """What a killed process leaves behind: names and contents of the files."""
    found = hashlib.blake2b()
    for path in _files(folder):
        found.update(path.name.encode())
        if not path.name.endswith(REBUILT):
            found.update(path.read_bytes())
    return found.digest()


def _stamps(folder: Path) -> bytes:
    """The same at a glance: changes within one tick of the clock are one."""
    found = []
    for path in _files(folder):
        stat = path.stat()
        rebuilt = path.name.endswith(REBUILT)
        found.append((path.name, *(() if rebuilt else (stat.st_size, stat.st_mtime_ns))))
    return repr(found).encode()


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path
