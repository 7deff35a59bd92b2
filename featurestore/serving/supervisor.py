"""Several workers that share the ports, and the process that keeps them alive.

Workers are started afresh (never forked: gRPC does not survive it), each with its own event loop
and both doors; the kernel spreads connections over them. A worker that dies is started again. On
SIGHUP they are replaced one after the other: each drains, and the next one's turn comes when its
successor answers requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, cast

from featurestore.config import Settings
from featurestore.errors import ServerError
from featurestore.serving.logs import logger
from featurestore.serving.metrics import MULTIPROCESS_DIR, forget_process
from featurestore.serving.worker import settings_to_json

RESTART_DELAY_S_MIN, RESTART_DELAY_S_MAX = 0.1, 10.0
HEALTHY_AFTER_S = 30.0
"""A worker that lived this long was well; its next death starts the back-off anew."""
START_TIMEOUT_S = 60.0
EXIT_MARGIN_S = 5.0
PYTHON = (sys.executable, "-P", "-m")
"""`-P`: the folder that we were started in is no place to import from."""


@dataclass(slots=True)
class _Place:
    """One of the workers, whatever process it is just now."""

    number: int
    began: asyncio.Event = field(default_factory=asyncio.Event)
    """A process of this place has been ready once."""
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    """The present one is ready."""
    retire: asyncio.Event = field(default_factory=asyncio.Event)
    """The present one shall drain and make room for another."""


class Supervisor:
    """Keeps `workers` processes alive until it is told to stop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = asyncio.Event()
        self._renew = asyncio.Event()
        self._exit_s = settings.serving.drain_timeout_ms / 1_000 + EXIT_MARGIN_S

    async def run(self, ready: Callable[[], None]) -> None:
        """Start all, wait until all are ready, then keep them alive until a signal comes.

        Raises `ServerError` where a worker cannot start.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        # Started by nohup, it is to outlive its terminal.
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            loop.add_signal_handler(signal.SIGHUP, self._renew.set)
        with tempfile.TemporaryDirectory(prefix="featurestore-metrics-") as folder:
            places = [_Place(number) for number in range(self._settings.serving.workers)]
            tasks = [loop.create_task(self._keep(place, folder)) for place in places]
            tasks.append(loop.create_task(self._lead(places, ready)))
            await asyncio.wait(
                {loop.create_task(self._stop.wait()), *tasks}, return_when=asyncio.FIRST_EXCEPTION
            )
            self._stop.set()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(outcome, BaseException):
                    raise outcome

    async def _lead(self, places: list[_Place], ready: Callable[[], None]) -> None:
        """Call `ready` when all have started (give up where one does not); then replace them,
        whenever that is asked for."""
        give_up = time.monotonic() + START_TIMEOUT_S
        for place in places:
            if not await self._wait(place.began.wait(), give_up):
                if not self._stop.is_set():
                    raise ServerError(f"The workers did not start within {START_TIMEOUT_S:.0f} s.")
                return
        ready()
        while await self._wait(self._renew.wait()):
            self._renew.clear()
            await self._replace(places)

    async def _replace(self, places: list[_Place]) -> None:
        """One after the other; where a new one does not come up, the others stay as they are."""
        logger().info("replacing the workers, one after the other")
        for place in places:
            place.ready.clear()
            place.retire.set()
            give_up = time.monotonic() + self._exit_s + START_TIMEOUT_S
            if not await self._wait(place.ready.wait(), give_up):
                if not self._stop.is_set():
                    logger().error(
                        "the new worker did not start; the others stay", worker=place.number
                    )
                return
        logger().info("all workers were replaced")

    async def _wait(self, event: Coroutine[Any, Any, object], give_up: float | None = None) -> bool:
        """Until something happens: whether it did, before we are to stop or the time is over."""
        stop, wanted = asyncio.ensure_future(self._stop.wait()), asyncio.ensure_future(event)
        left_s = None if give_up is None else max(0.0, give_up - time.monotonic())
        await asyncio.wait({stop, wanted}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        happened = wanted.done() and not stop.done()
        for task in (stop, wanted):
            task.cancel()
        return happened

    async def _keep(self, place: _Place, folder: str) -> None:
        """One worker, again and again until the supervisor stops."""
        delay_s = RESTART_DELAY_S_MIN
        while not self._stop.is_set():
            born = time.monotonic()
            code = await self._one_life(place, folder)
            if self._stop.is_set():
                return
            if not place.began.is_set():
                raise ServerError(
                    f"Worker {place.number} ended with status {code} while it started."
                )
            if time.monotonic() - born > HEALTHY_AFTER_S or place.retire.is_set():
                delay_s = RESTART_DELAY_S_MIN
            if place.retire.is_set():
                place.retire.clear()
                continue
            logger().warning("worker ended; starting it again", worker=place.number, status=code)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), delay_s)
            delay_s = min(2 * delay_s, RESTART_DELAY_S_MAX)

    async def _one_life(self, place: _Place, folder: str) -> int:
        """Start a worker, wait for its end or for ours, and return its exit status."""
        process = await asyncio.create_subprocess_exec(
            *PYTHON,
            "featurestore.serving.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {MULTIPROCESS_DIR: folder},
            # The terminal's ^C reaches the supervisor alone; it passes the word on.
            start_new_session=True,
        )
        stdin = cast(asyncio.StreamWriter, process.stdin)
        stdout = cast(asyncio.StreamReader, process.stdout)
        stdin.write(f"{settings_to_json(self._settings)}\n".encode())
        ended = asyncio.ensure_future(process.wait())
        told = asyncio.ensure_future(_either(self._stop, place.retire))
        line = asyncio.ensure_future(stdout.readline())
        await asyncio.wait({line, told}, return_when=asyncio.FIRST_COMPLETED)
        if line.done() and line.result().strip() == b"ready":
            place.began.set()
            place.ready.set()
        await asyncio.wait({ended, told}, return_when=asyncio.FIRST_COMPLETED)
        for task in (told, line):
            task.cancel()
        if not ended.done():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await asyncio.wait({ended}, timeout=self._exit_s)
        if not ended.done():
            logger().error("worker did not drain in time; killed", worker=place.number)
            process.kill()
        code = await ended
        stdin.close()
        forget_process(process.pid, folder)
        return code


async def _either(one: asyncio.Event, other: asyncio.Event) -> None:
    waiting = {asyncio.ensure_future(one.wait()), asyncio.ensure_future(other.wait())}
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
