"""One serving process: one event loop with the gRPC and the HTTP door.

`python -m featurestore.serving.worker` is what the supervisor starts: the settings come as JSON in
the first line of standard input, whose end means that the supervisor is gone; `ready` goes to
standard output.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import featurestore
from featurestore.config import Settings, settings_of
from featurestore.errors import FeatureStoreError
from featurestore.jobs.project import open_online_store, open_registry
from featurestore.serving.addresses import listen, parse_address
from featurestore.serving.collector import spare_the_collector
from featurestore.serving.gate import Gate, follow_gate
from featurestore.serving.grpc_door import GrpcDoorServer, open_grpc
from featurestore.serving.http_server import HttpServer
from featurestore.serving.logs import configure, logger
from featurestore.serving.metrics import Metrics
from featurestore.serving.push_service import PushService
from featurestore.serving.readiness import Readiness
from featurestore.serving.reload import PlanBook, follow, report
from featurestore.serving.service import Collaborators
from featurestore.serving.tls import ServerTls, TlsFiles
from featurestore.serving.traffic import Traffic
from featurestore.serving.uses import tell
from featurestore.timeline import SystemClock
from featurestore.tracing import open_tracing

if TYPE_CHECKING:
    from featurestore.stores.online.base import OnlineStore
    from featurestore.stores.registry.base import Registry

DRAIN_NOTICE_S = 0.2
"""How long a draining server still takes requests after its health says NOT_SERVING, so that those
who watch it can turn away first."""


def run_worker(settings: Settings, *, ready: Callable[[], None]) -> None:
    """Serve on the addresses of `settings` until SIGTERM or SIGINT, then drain.

    Ports must be real (not 0) and reserved. Raises what opening the registry and the store raises.
    """
    configure(settings.serving.log_format)
    allow_descriptors()
    with (
        open_registry(settings, clock=SystemClock(), author="server") as registry,
        open_online_store(settings.online, root=settings.root, read_only=True) as store,
        asyncio.Runner(loop_factory=_loop_factory()) as runner,
    ):
        runner.run(_serve(settings, registry, store, ready))


def allow_descriptors() -> None:
    """Let this process open as many files and sockets as the machine lets it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _serve(
    settings: Settings, registry: Registry, store: OnlineStore, ready: Callable[[], None]
) -> None:
    book = PlanBook(
        registry,
        settings.project.environment,
        features_max=settings.serving.features_per_request_max,
    )
    metrics = Metrics()
    report(book.refresh(), book, metrics)
    gate = Gate(settings, registry, SystemClock())
    gate.refresh()
    files = TlsFiles.of(settings)
    tracing = open_tracing(
        settings.tracing,
        service="featurestore-server",
        attributes={
            "service.version": featurestore.__version__,
            "featurestore.project": settings.project.name,
            "featurestore.environment": settings.project.environment,
        },
    )
    parts = Collaborators(
        settings=settings,
        book=book,
        gate=gate,
        store=store,
        clock=SystemClock(),
        metrics=metrics,
        readiness=Readiness(store, metrics),
        traffic=Traffic(concurrent_requests_max=settings.serving.concurrent_requests_max),
        tls=None if files is None else ServerTls(files),
        tracing=tracing,
        push=_push_service(settings, gate, metrics),
    )
    try:
        await _Worker(parts).run(ready)
    finally:
        if parts.push is not None:
            await asyncio.to_thread(parts.push.close)
        if tracing is not None:
            await asyncio.to_thread(tracing.close)


def _push_service(settings: Settings, gate: Gate, metrics: Metrics) -> PushService | None:
    if not settings.push.server:
        return None
    return PushService(settings, gate, SystemClock(), metrics.push)


class _Worker:
    """The life of one process: start the doors, wait for a signal, drain."""

    def __init__(self, parts: Collaborators) -> None:
        self._parts = parts
        self._stop = asyncio.Event()
        self._drain_s = parts.settings.serving.drain_timeout_ms / 1_000
        self._grpc: GrpcDoorServer | None = None
        self._http: HttpServer | None = None

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until a signal comes. Raises what made a part of the server end before."""
        loop, parts = asyncio.get_running_loop(), self._parts
        # SIGHUP, too: nobody takes over from a process without a supervisor, but no request of
        # anybody is cut off. Started by nohup, it is to outlive its terminal.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN or number != signal.SIGHUP:
                loop.add_signal_handler(number, self._stop.set)
        await parts.readiness.look()
        interval_s = parts.settings.serving.reload_interval_ms / 1_000
        watching = [
            loop.create_task(parts.readiness.watch()),
            loop.create_task(follow(parts.book, interval_s, parts.metrics)),
            loop.create_task(follow_gate(parts.gate, interval_s, parts.tls)),
            loop.create_task(parts.metrics.keep_flushing()),
            loop.create_task(self._tell_uses()),
        ]
        recovering = None if parts.push is None else asyncio.to_thread(parts.push.warm)
        recovery = None if recovering is None else loop.create_task(recovering)
        answering = await self._open_doors()
        spare_the_collector()
        ready()
        stop = loop.create_task(self._stop.wait())
        await asyncio.wait({stop, *watching, *answering}, return_when=asyncio.FIRST_COMPLETED)
        await self._drain(answering)
        if recovery is not None:
            await recovery
        for task in (stop, *watching):
            task.cancel()
        for outcome in await asyncio.gather(*watching, *answering, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome
        parts.metrics.flush()
        logger().info("stopped")

    async def _tell_uses(self) -> None:
        parts = self._parts
        environment = parts.settings.project.environment
        await tell(
            parts.uses,
            parts.book.registry,
            environment,
            clock=parts.clock,
            metrics=parts.metrics,
        )

    async def _open_doors(self) -> list[asyncio.Task[None]]:
        """Start both servers; the tasks end when theirs does."""
        serving = self._parts.settings.serving
        if (address := parse_address(serving.grpc, key="grpc")) is not None:
            self._grpc = open_grpc(self._parts, str(address))
            await self._grpc.start()
        if (address := parse_address(serving.http, key="http")) is None:
            return []
        self._http = HttpServer(self._parts, drain_s=self._drain_s)
        task = asyncio.get_running_loop().create_task(self._http.run_on(listen(address)))
        while not (self._http.started or task.done()):
            await asyncio.sleep(0.01)
        return [task]

    async def _drain(self, answering: list[asyncio.Task[None]]) -> None:
        """Say NOT_SERVING, empty the queues, take nothing new, finish what is under way."""
        logger().info("draining")
        await self._parts.readiness.drain()
        await asyncio.sleep(min(DRAIN_NOTICE_S, self._drain_s))
        await self._parts.traffic.drain()
        if self._http is not None:
            self._http.should_exit = True
        if self._grpc is not None:
            await self._grpc.stop(self._drain_s)
        if answering:
            await asyncio.wait(answering)


def settings_to_json(settings: Settings) -> str:
    """The settings in one line, for another process of ours (may hold secrets)."""
    return json.dumps(dataclasses.asdict(settings) | {"root": str(settings.root)}, default=str)


def settings_from_json(text: str) -> Settings:
    """What `settings_to_json` wrote."""
    values = json.loads(text)
    return settings_of(Path(values.pop("root")), values)


def end_with_parent() -> None:
    """Send ourselves SIGTERM when standard input ends: whoever started us is gone."""

    def wait() -> None:
        sys.stdin.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def main() -> None:
    """The process that the supervisor starts."""
    settings = settings_from_json(sys.stdin.readline())
    end_with_parent()
    try:
        run_worker(settings, ready=lambda: print("ready", flush=True))
    except FeatureStoreError as error:
        logger().error("worker cannot run", error=str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
