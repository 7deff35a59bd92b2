"""`featurestore serve`: one process, or a supervisor of several that share the ports.

Workers are started afresh (never forked: gRPC does not survive it), each with its own event loop
and both doors; the kernel spreads connections over them. A worker that dies is started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import IO, Self, cast

from featurestore.config import Settings
from featurestore.errors import FeatureStoreError, ServerError, ServerUnavailable
from featurestore.serving.addresses import parse_address, reserve
from featurestore.serving.grpc_door import chosen_door
from featurestore.serving.logs import configure, logger
from featurestore.serving.metrics import MULTIPROCESS_DIR, forget_process
from featurestore.serving.tls import check_exposure
from featurestore.serving.worker import (
    end_with_parent,
    run_worker,
    settings_from_json,
    settings_to_json,
)

RESTART_DELAY_S_MIN, RESTART_DELAY_S_MAX = 0.1, 10.0
HEALTHY_AFTER_S = 30.0
"""A worker that lived this long was well; its next death starts the back-off anew."""
START_TIMEOUT_S = 60.0
_EXIT_MARGIN_S = 5.0
_PYTHON = (sys.executable, "-P", "-m")
"""`-P`: the folder that we were started in is no place to import from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Where a server really listens (`host:port`); empty where a door is switched off."""

    grpc: str
    http: str


def run(settings: Settings, *, ready: Callable[[Listening], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return. Call it in the main thread.

    `ready` is called once, when requests are answered, with the real addresses (settings may say
    port 0). Raises `AddressUnavailable`, `InvalidSettings`, and what opening the registry and the
    store raises; `ServerError` where workers cannot start.
    """
    configure(settings.serving.log_format)
    check_exposure(settings)
    door = chosen_door(settings.serving)
    with _reserved(settings) as (real, listening):

        def say_ready() -> None:
            logger().info(
                "serving",
                project=settings.project.name,
                environment=settings.project.environment,
                grpc=listening.grpc,
                grpc_door=door,
                http=listening.http,
                online=settings.online.url,
                workers=settings.serving.workers,
            )
            if ready is not None:
                ready(listening)

        if settings.serving.workers == 1:
            run_worker(real, ready=say_ready)
        else:
            asyncio.run(_Supervisor(real).run(say_ready))


@contextlib.contextmanager
def _reserved(settings: Settings) -> Iterator[tuple[Settings, Listening]]:
    """The settings with real ports, which stay ours within the block."""
    with contextlib.ExitStack() as sockets:
        real = {}
        for key in ("grpc", "http"):
            address = parse_address(getattr(settings.serving, key), key=key)
            real[key] = ""
            if address is not None:
                held, at = reserve(address)
                sockets.enter_context(held)
                real[key] = str(at)
        serving = replace(settings.serving, grpc=real["grpc"], http=real["http"])
        yield replace(settings, serving=serving), Listening(grpc=real["grpc"], http=real["http"])


class _Supervisor:
    """Keeps `workers` processes alive until it is told to stop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = asyncio.Event()
        self._exit_s = settings.serving.drain_timeout_ms / 1_000 + _EXIT_MARGIN_S

    async def run(self, ready: Callable[[], None]) -> None:
        """Start all, wait until all are ready, then keep them alive until a signal comes.

        Raises `ServerError` where a worker cannot start.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        with tempfile.TemporaryDirectory(prefix="featurestore-metrics-") as folder:
            started = [asyncio.Event() for _ in range(self._settings.serving.workers)]
            keepers = [
                loop.create_task(self._keep(number, event, folder))
                for number, event in enumerate(started)
            ]
            tasks = [*keepers, loop.create_task(self._announce(started, ready))]
            await asyncio.wait(
                {loop.create_task(self._stop.wait()), *tasks}, return_when=asyncio.FIRST_EXCEPTION
            )
            self._stop.set()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(outcome, BaseException):
                    raise outcome

    async def _announce(self, started: list[asyncio.Event], ready: Callable[[], None]) -> None:
        """Call `ready` when all have started; give up where one does not."""
        waiting = [asyncio.ensure_future(event.wait()) for event in started]
        stop = asyncio.ensure_future(self._stop.wait())
        deadline = time.monotonic() + START_TIMEOUT_S
        while not (stop.done() or all(event.is_set() for event in started)):
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise ServerError(f"The workers did not start within {START_TIMEOUT_S:.0f} s.")
            pending = [task for task in waiting if not task.done()]
            await asyncio.wait(
                {stop, *pending}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED
            )
        for task in (stop, *waiting):
            task.cancel()
        if not self._stop.is_set():
            ready()

    async def _keep(self, number: int, started: asyncio.Event, folder: str) -> None:
        """One worker, again and again until the supervisor stops."""
        delay_s = RESTART_DELAY_S_MIN
        while not self._stop.is_set():
            born = time.monotonic()
            code = await self._one_life(number, started, folder)
            if self._stop.is_set():
                return
            if not started.is_set():
                raise ServerError(f"Worker {number} ended with status {code} while it started.")
            if time.monotonic() - born > HEALTHY_AFTER_S:
                delay_s = RESTART_DELAY_S_MIN
            logger().warning("worker ended; starting it again", worker=number, status=code)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), delay_s)
            delay_s = min(2 * delay_s, RESTART_DELAY_S_MAX)

    async def _one_life(self, number: int, started: asyncio.Event, folder: str) -> int:
        """Start a worker, wait for its end or ours, and return its exit status."""
        process = await asyncio.create_subprocess_exec(
            *_PYTHON,
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
        stop = asyncio.ensure_future(self._stop.wait())
        line = asyncio.ensure_future(stdout.readline())
        await asyncio.wait({line, stop}, return_when=asyncio.FIRST_COMPLETED)
        if line.done() and line.result().strip() == b"ready":
            started.set()
        await asyncio.wait({ended, stop}, return_when=asyncio.FIRST_COMPLETED)
        for task in (stop, line):
            task.cancel()
        if not ended.done():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await asyncio.wait({ended}, timeout=self._exit_s)
        if not ended.done():
            logger().error("worker did not drain in time; killed", worker=number)
            process.kill()
        code = await ended
        stdin.close()
        forget_process(process.pid, folder)
        return code


class ServerProcess:
    """A server in a process of its own, for demos and tests: ready when `start` returns.

    `grpc_target` (`host:port`) and `http_url` are where it listens. Use as a context manager, or
    call `stop`.
    """

    def __init__(
        self, process: subprocess.Popen[str], listening: Listening, *, tls: bool = False
    ) -> None:
        self.process = process
        self.grpc_target = listening.grpc
        scheme = "https" if tls else "http"
        self.http_url = f"{scheme}://{listening.http}" if listening.http else ""

    @classmethod
    def start(cls, settings: Settings) -> Self:
        """Start serving by these settings (port 0 is fine).

        Raises `ServerUnavailable` where the server ends instead; its log says why.
        """
        process = subprocess.Popen(  # noqa: S603 # our own interpreter and module
            [*_PYTHON, "featurestore.serving.serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        stdin, stdout = cast(IO[str], process.stdin), cast(IO[str], process.stdout)
        stdin.write(f"{settings_to_json(settings)}\n")
        stdin.flush()
        line = stdout.readline()
        if not line:
            stdin.close()
            stdout.close()
            code = process.wait()
            raise ServerUnavailable(f"The server ended with status {code}; its log says why.")
        tls = bool(settings.serving.tls_cert)
        return cls(process, Listening(**json.loads(line)), tls=tls)

    def stop(self, *, timeout_s: float = 30.0) -> int:
        """Drain and end it; returns the exit status. A second call does nothing more."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        return self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def main() -> None:
    """What `ServerProcess.start` runs: settings come in, the addresses go out."""
    settings = settings_from_json(sys.stdin.readline())
    end_with_parent()

    def tell(listening: Listening) -> None:
        print(json.dumps(asdict(listening)), flush=True)

    try:
        run(settings, ready=tell)
    except FeatureStoreError as error:
        logger().error("server cannot run", error=str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
