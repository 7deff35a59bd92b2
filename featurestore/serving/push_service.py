"""Pushes that come through the doors of a server: one `Pusher` per process, opened beside the first
requests where something may be pushed, else when first needed.

Pushing blocks (on the disk, on the store), so it runs in threads of its own; lookups go on.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from featurestore.errors import FeatureStoreError, InvalidRequest, RegistryError, StoreError
from featurestore.jobs import access, project
from featurestore.jobs.environments import current_repo
from featurestore.jobs.materialize import Context
from featurestore.jobs.push import Pusher
from featurestore.serving.logs import logger
from featurestore.stores.offline.wal import log_files
from featurestore.wire import serving_pb2 as pb
from featurestore.wire.pushes import PushResult, to_message

if TYPE_CHECKING:
    from featurestore.config import Settings
    from featurestore.serving.gate import Caller, Gate
    from featurestore.serving.push_metrics import PushMetrics
    from featurestore.timeline import Clock

THREADS = 8
"""Pushes that are worked on at a time; more wait."""
DEAD_SHOWN_MAX = 100
"""Dead rows that an answer names."""


class PushService:
    """Takes pushes for a server. Whoever made it closes it."""

    def __init__(self, settings: Settings, gate: Gate, clock: Clock, observer: PushMetrics) -> None:
        self._settings = settings
        self._gate = gate
        self._clock = clock
        self._observer = observer
        self._opened = ExitStack()
        self._pusher: Pusher | None = None
        self._lock = threading.Lock()
        self._noted: set[tuple[str, str]] = set()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="push")

    async def push_message(self, data: bytes, caller: Caller | None) -> bytes:
        """`Push`, bytes to bytes."""
        try:
            asked = pb.PushRequest.FromString(data)
        except DecodeError as error:
            raise InvalidRequest(f"{len(data):,} bytes are not a PushRequest: {error}") from error
        match asked.WhichOneof("rows"):
            case "arrow":
                rows: Callable[[], Any] = partial(_arrow, asked.arrow)
            case "json":
                rows = partial(_json, asked.json)
            case _:
                raise InvalidRequest("a push needs its rows: arrow or json")
        from_json = asked.WhichOneof("rows") == "json"
        found = await self.push(asked.source, rows, caller, from_json=from_json)
        return to_message(found, dead_max=DEAD_SHOWN_MAX).SerializeToString()

    async def push(
        self, source: str, rows: Callable[[], Any], caller: Caller | None, *, from_json: bool
    ) -> PushResult:
        """Push what `rows` gives. Raises what `FeatureStore.push` and the gate raise."""
        self._gate.check_push(caller, source, now_us=self._clock.now_us())
        work = partial(self._push, source, rows, caller, from_json=from_json)
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def warm(self) -> None:
        """In a thread: open what the first push would wait for, where something may be pushed, and
        write what a process that is gone had logged."""
        left = log_files(self._settings.path(self._settings.push.path))
        try:
            if left or self._takes_rows():
                self._opened_pusher().prepare()
                self._observer.opened()
        except FeatureStoreError as error:
            log = logger().error if left else logger().info
            log("pushes are not ready yet; the first one tries again", reason=str(error))

    def _takes_rows(self) -> bool:
        """Whether the environment has a source. (Those of queries are over others, of rows.)"""
        settings = self._settings
        with project.open_registry(settings, clock=self._clock, author="server") as registry:
            return bool(current_repo(registry, settings.project.environment).get("source"))

    def close(self) -> None:
        """Finish what is under way, drain the log and close what was opened."""
        self._threads.shutdown()
        with self._lock:
            if self._pusher is not None:
                self._pusher.close()
            self._opened.close()

    def _push(
        self, source: str, rows: Callable[[], Any], caller: Caller | None, *, from_json: bool
    ) -> PushResult:
        pusher = self._opened_pusher()
        result = pusher.push(source, rows(), from_json=from_json)
        self._note(caller, source)
        return result

    def _opened_pusher(self) -> Pusher:
        if self._pusher is None:
            with self._lock:
                if self._pusher is None:
                    self._pusher = self._open()
        return self._pusher

    def _open(self) -> Pusher:
        """Open the back ends and read the definitions; undone where one of them fails."""
        settings = self._settings
        with ExitStack() as opening:
            engine = opening.enter_context(
                project.open_engine(settings.offline, root=settings.root)
            )
            registry = opening.enter_context(
                project.open_registry(settings, clock=self._clock, author="server")
            )
            store = opening.enter_context(
                project.open_online_store(settings.online, root=settings.root)
            )
            self._registry = registry

            def load() -> Context:
                return Context(
                    repo=project.load_repo(settings, engine),
                    root=settings.root,
                    engine=engine,
                    store=store,
                    registry=registry,
                    environment=settings.project.environment,
                    clock=self._clock,
                    offline=project.offline_folder(settings),
                )

            pusher = Pusher(load, settings.push, observer=self._observer)
            self._opened = opening.pop_all()
        return pusher

    def _note(self, caller: Caller | None, source: str) -> None:
        """One entry of the audit log for everybody and each source that they push to."""
        who = "anybody" if caller is None else caller.principal.name
        if (who, source) in self._noted:
            return
        self._noted.add((who, source))
        try:
            access.note(self._registry, who, "push", source)
        except (RegistryError, StoreError) as error:
            self._noted.discard((who, source))
            logger().warning("push not noted in the audit log", who=who, reason=str(error))


def _arrow(data: bytes) -> Any:
    import pyarrow as pa

    try:
        with pa.ipc.open_stream(data) as stream:
            return stream.read_all()
    except (pa.ArrowException, OSError) as error:
        raise InvalidRequest(f"{len(data):,} bytes are no Arrow IPC stream: {error}") from error


def _json(data: bytes) -> Any:
    from pydantic_core import from_json

    try:
        return from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest(f"the rows are not JSON: {error}") from error
