"""`GetOnlineFeatures` behind `pygrpc-native`, without a task or a future for each call.

What a call needs of Python is done in two steps, before the store is asked and when its rows come.
The steps are those of `GrpcDoor.guarded` and mean the same; only a store that cannot be asked this
way costs a task. Lookups that come together are one read of the store: one deadline, one place in
the connection's queue.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Protocol

from featurestore.errors import (
    FeatureStoreError,
    ServerUnavailable,
    StoreTimeout,
    StoreUnavailable,
)
from featurestore.serving import request_ids
from featurestore.serving.grpc_server import GOING_AWAY, Context, GrpcDoor, Metadata, metadatum
from featurestore.serving.logs import SLOW_REQUEST_S, log_slow

if TYPE_CHECKING:
    import grpc

    from featurestore.errors import StoreError
    from featurestore.serving.service import Lookup
    from featurestore.stores.online.base import KeyFields, Rows


READS_PER_GROUP = 32
"""Keys that are read together, about: more would keep the first answers waiting for the last."""


class Answers(Protocol):
    """Where a call ends: each is told one of these, once."""

    def respond(self, call_id: int, data: bytes, trailers: Metadata) -> None:
        """It is answered."""

    def fail(
        self, call_id: int, code: grpc.StatusCode, details: str, trailers: Metadata = ()
    ) -> None:
        """It ends with a status."""

    def broke(self, call_id: int) -> None:
        """It ends because we failed, or because nobody waits for it."""


class Lookups:
    """The calls of one server."""

    def __init__(self, door: GrpcDoor, answers: Answers, loop: asyncio.AbstractEventLoop) -> None:
        self.door = door
        self.answers = answers
        self.loop = loop
        self._asked: list[LookupCall] = []
        self._reads = 0
        self._ready: list[tuple[LookupCall, Rows]] = []

    def ask(self, call: LookupCall, lookup: Lookup) -> None:
        """Ask the store for `call`, with others of this turn unless its deadline is its own;
        `send` ends the turn."""
        if lookup.timeout_ms == self.door.service.longest_ms:
            self._asked.append(call)
            self._reads += len(call.reads)
            if self._reads >= READS_PER_GROUP:
                self.send()
        elif not self.door.service.read_soon(call.reads, call, lookup.timeout_ms):
            call.read()

    def send(self) -> None:
        """Ask the store for what was not asked yet."""
        if not self._asked:
            return
        calls, self._asked, self._reads = self._asked, [], 0
        group = _Group(self, calls)
        service = self.door.service
        try:
            taken = service.read_soon(group.reads, group, service.longest_ms)
        except BaseException:
            for call in calls:
                call.cancel()
            raise
        if not taken:
            for call in calls:
                call.read()

    def ready(self, call: LookupCall, rows: Rows) -> None:
        """Answer `call` with the others whose rows come now."""
        if not self._ready:
            self.loop.call_soon(self._answer)
        self._ready.append((call, rows))

    def _answer(self) -> None:
        ready, self._ready = self._ready, []
        for index, (call, rows) in enumerate(ready):
            try:
                call.finish(rows)
            except BaseException:
                # A bug of ours ends its own call only.
                self._ready += ready[index + 1 :]
                self.loop.call_soon(self._answer)
                raise


class _Group:
    """The calls of one turn, as one read of the store; the `Waiter` for its rows."""

    __slots__ = ("_calls", "_lookups", "_over", "reads")

    def __init__(self, lookups: Lookups, calls: list[LookupCall]) -> None:
        self._lookups = lookups
        self._calls = calls
        self._over = False
        self.reads: list[KeyFields] = []
        for call in calls:
            self.reads += call.reads

    def done(self) -> bool:
        """Whether it has its rows, or will not get them."""
        return self._over

    def set_result(self, result: Rows) -> None:
        """The rows are here."""
        self._over, first = True, 0
        for call in self._calls:
            last = first + len(call.reads)
            self._lookups.ready(call, result[first:last])
            first = last

    def set_exception(self, exception: StoreError) -> None:
        """They will not come. What the server refused may concern one call only, so each asks
        again for itself."""
        self._over = True
        alone = not isinstance(exception, StoreUnavailable | StoreTimeout)
        for call in self._calls:
            if alone:
                call.read()
            else:
                call.set_exception(exception)


class LookupCall:
    """One call, from its arrival to its answer; the `Waiter` for its rows."""

    __slots__ = (
        "_admitted",
        "_id",
        "_lookup",
        "_lookups",
        "_over",
        "_request_id",
        "_started",
        "_task",
        "reads",
    )

    def __init__(self, call_id: int, lookups: Lookups) -> None:
        self._id = call_id
        self._lookups = lookups
        self._over = self._admitted = False
        self._started = time.perf_counter()
        self._lookup: Lookup | None = None
        self._task: asyncio.Task[None] | None = None
        self._request_id = ""
        self.reads: list[KeyFields] = []

    def begin(self, data: bytes, context: Context) -> None:
        """Read the request and ask the store."""
        door = self._lookups.door
        traffic = door.traffic
        traffic.begin()
        try:
            self._request_id = request_ids.begin(metadatum(context, request_ids.REQUEST_ID))
            if traffic.refusing:
                raise ServerUnavailable(GOING_AWAY)
            traffic.admission.__enter__()
            self._admitted = True
            self._lookup = lookup = door.begin_lookup(data, context)
            self.reads = lookup.prepared.reads
            self._lookups.ask(self, lookup)
        except FeatureStoreError as error:
            self._fail(error)
        except BaseException:
            self._break()
            raise

    def read(self) -> None:
        """Ask the store in a task of its own."""
        if self._lookup is not None and not self._over:
            self._task = self._lookups.loop.create_task(self._read(self._lookup))

    async def _read(self, lookup: Lookup) -> None:
        try:
            rows = await self._lookups.door.service.read(lookup)
        except FeatureStoreError as error:
            self._fail(error)
        except BaseException:
            self._break()
            raise
        else:
            self._lookups.ready(self, rows)

    # --- the store's answer -----------------------------------------------------------------------

    def done(self) -> bool:
        """Whether the caller has its answer, or does not wait for one."""
        return self._over

    def set_result(self, result: Rows) -> None:
        """The rows are here."""
        self._lookups.ready(self, result)

    def set_exception(self, exception: StoreError) -> None:
        """They will not come."""
        self._lookups.loop.call_soon(self._lost, exception)

    def _lost(self, error: StoreError) -> None:
        if isinstance(error, StoreUnavailable):
            self._lookups.door.service.store_is_gone()
        self._fail(error)

    def finish(self, rows: Rows) -> None:
        """Answer with these rows."""
        if self._over or self._lookup is None:
            return
        lookups = self._lookups
        try:
            data = lookups.door.finish_lookup(self._lookup, rows)
        except FeatureStoreError as error:
            self._fail(error)
        except BaseException:
            self._break()
            raise
        else:
            trailers = ((request_ids.REQUEST_ID, self._request_id),)
            lookups.answers.respond(self._id, data, trailers)
            self._end("OK")

    # --- the end ----------------------------------------------------------------------------------

    def cancel(self) -> None:
        """The caller has gone, or its deadline has passed."""
        if self._task is not None:
            self._task.cancel()
        self._break()

    def _fail(self, error: FeatureStoreError) -> None:
        if self._over:
            return
        request_ids.current.set(self._request_id)
        status, text, trailers = self._lookups.door.refusal(error)
        named = (*trailers, (request_ids.REQUEST_ID, self._request_id))
        self._lookups.answers.fail(self._id, status, text, named)
        self._end(status.name)

    def _break(self) -> None:
        if not self._over:
            self._lookups.answers.broke(self._id)
            self._end("UNKNOWN")

    def _end(self, code: str) -> None:
        self._over = True
        door = self._lookups.door
        if self._admitted:
            door.traffic.admission.__exit__()
        door.traffic.end()
        seconds = time.perf_counter() - self._started
        door.metrics.request("grpc", code, seconds)
        if seconds >= SLOW_REQUEST_S:
            request_ids.current.set(self._request_id)
            log_slow("grpc", code, seconds)
