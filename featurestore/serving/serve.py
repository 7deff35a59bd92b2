"""`featurestore serve`: one process, or a supervisor of several that share the ports."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import IO, Self, cast

from featurestore.config import Settings
from featurestore.errors import FeatureStoreError, ServerUnavailable
from featurestore.serving.addresses import parse_address, reserve
from featurestore.serving.grpc_door import chosen_door
from featurestore.serving.logs import configure, logger
from featurestore.serving.supervisor import PYTHON, Supervisor
from featurestore.serving.tls import check_exposure
from featurestore.serving.worker import (
    end_with_parent,
    run_worker,
    settings_from_json,
    settings_to_json,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Where a server really listens (`host:port`); empty where a door is switched off."""

    grpc: str
    http: str


def run(settings: Settings, *, ready: Callable[[Listening], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return. On SIGHUP several workers are started
    afresh, one after the other; one alone ends, as by SIGTERM. Call it in the main thread.

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
            asyncio.run(Supervisor(real).run(say_ready))


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
            [*PYTHON, "featurestore.serving.serve"],
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
