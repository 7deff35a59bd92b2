"""One request through plan, store and metrics: what the gRPC and the HTTP door have in common."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import featurestore
from featurestore.errors import ServerTimeout, StoreUnavailable
from featurestore.serving.assemble import Limits, Request, finish, prepare
from featurestore.serving.uses import Uses
from featurestore.tracing import now_ns
from featurestore.wire import serving_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from featurestore.config import Settings
    from featurestore.serving.assemble import Prepared
    from featurestore.serving.compiled import CompiledPlan
    from featurestore.serving.gate import Caller, Gate
    from featurestore.serving.metrics import Metrics
    from featurestore.serving.push_service import PushService
    from featurestore.serving.readiness import Readiness
    from featurestore.serving.reload import PlanBook, What
    from featurestore.serving.tls import ServerTls
    from featurestore.serving.traffic import Traffic
    from featurestore.stores.online.base import KeyFields, OnlineStore, Rows, Waiter
    from featurestore.timeline import Clock
    from featurestore.tracing import Tracing
    from featurestore.wire.plans import ServingPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Collaborators:
    """What a server works with; whoever made them closes them."""

    settings: Settings
    book: PlanBook
    gate: Gate
    store: OnlineStore
    clock: Clock
    metrics: Metrics
    readiness: Readiness
    traffic: Traffic
    tls: ServerTls | None = None
    tracing: Tracing | None = None
    push: PushService | None = None
    uses: Uses = field(default_factory=Uses)


class Lookup(NamedTuple):
    """A request on its way to the store: `now_us` is its time, `timeout_ms` what the store may
    take, `started` when it was asked (of `time.perf_counter`)."""

    plan: CompiledPlan
    request: Request
    prepared: Prepared
    now_us: int
    timeout_ms: int
    started: float


class OnlineService:
    """Answers requests, whichever door they came through."""

    def __init__(self, parts: Collaborators) -> None:
        self._settings = parts.settings
        self._book = parts.book
        self.gate = parts.gate
        self._store = parts.store
        self._clock = parts.clock
        self._metrics = parts.metrics
        self._readiness = parts.readiness
        self._tracing = parts.tracing
        self._uses = parts.uses
        self._limits = Limits.of(parts.settings.serving)
        serving, online = parts.settings.serving, parts.settings.online
        self.longest_ms = min(serving.request_timeout_ms, online.timeout_ms)

    async def answer(
        self,
        what: What,
        request: Request,
        *,
        caller: Caller | None,
        full_feature_names: bool,
        remaining_s: float | None,
    ) -> bytes:
        """The response's bytes.

        The request's time is read once, here. `caller` is whom the gate admitted; `remaining_s` is
        what is left of their deadline. Raises `Unauthenticated`, `PermissionDenied`, every other
        `RequestError`, `StoreTimeout`, `StoreUnavailable`, `CorruptRow`, and `ServerTimeout` for a
        deadline that has passed already.
        """
        lookup = self.begin(
            what,
            request,
            caller=caller,
            full_feature_names=full_feature_names,
            remaining_s=remaining_s,
        )
        return self.finish(lookup, await self.read(lookup))

    def begin(
        self,
        what: What,
        request: Request,
        *,
        caller: Caller | None,
        full_feature_names: bool,
        remaining_s: float | None,
    ) -> Lookup:
        """Everything up to the store. Raises as `answer` does."""
        now_us = self._clock.now_us()
        if self.gate.on:
            self.gate.check_read(caller, what, now_us=now_us, count=request.count)
        plan = self._book.compiled(what, full_feature_names=full_feature_names)
        prepared = prepare(plan, request, self._limits)
        timeout_ms = self.longest_ms
        if remaining_s is not None:
            timeout_ms = min(timeout_ms, int(remaining_s * 1_000))
            if timeout_ms <= 0:
                raise ServerTimeout("The deadline had passed when the request was read.")
        return Lookup(plan, request, prepared, now_us, timeout_ms, time.perf_counter())

    def read_soon(self, reads: Sequence[KeyFields], waiter: Waiter[Rows], timeout_ms: int) -> bool:
        """Have rows brought to `waiter`, without a task. False where that cannot be done now;
        `read` always can."""
        return bool(reads) and self._store.read_soon(reads, waiter, timeout_ms=timeout_ms)

    async def read(self, lookup: Lookup) -> Rows:
        """The rows of a lookup. Raises what `answer` raises of the store."""
        reads = lookup.prepared.reads
        try:
            return (
                await self._store.read_async(reads, timeout_ms=lookup.timeout_ms) if reads else []
            )
        except StoreUnavailable:
            self.store_is_gone()
            raise

    def store_is_gone(self) -> None:
        """A read found that the store does not answer."""
        self._readiness.look_now()

    def finish(self, lookup: Lookup, found: Rows) -> bytes:
        """The response's bytes, from what the store answered. Raises `CorruptRow`."""
        plan, request, prepared, now_us, _, started = lookup
        store_s = time.perf_counter() - started
        data, statuses = finish(plan, request, prepared, found, now_us)
        if self._tracing is not None:
            self._trace(self._tracing, store_s, time.perf_counter() - started - store_s, request)
        self._metrics.lookup(plan.use_names, statuses, request.count, store_s)
        self._uses.asked(plan.asked)
        if plan.derivation is not None and (lost := plan.derivation.take_lost()):
            self._metrics.lost(lost)
        return data

    def _trace(self, tracing: Tracing, store_s: float, assemble_s: float, request: Request) -> None:
        """The two steps that have just been taken, as spans."""
        ended = now_ns()
        read = ended - int(assemble_s * 1e9)
        keys = {"featurestore.keys": request.count}
        tracing.step("store read", read - int(store_s * 1e9), read, keys)
        tracing.step("assemble", read, ended, keys)

    def check_read(self, caller: Caller | None, what: What) -> None:
        """For a door that looks at the plan before it asks: nobody learns what there is from the
        error of a request that they may not make. Raises `Unauthenticated`, `PermissionDenied`."""
        if self.gate.on:
            self.gate.check_read(caller, what, now_us=self._clock.now_us())

    def info(self) -> pb.GetServingInfoResponse:
        """What is served, and the limits."""
        limits = asdict(self._limits)
        limits["message_bytes_max"] = self._settings.serving.message_bytes_max
        return pb.GetServingInfoResponse(
            project=self._settings.project.name,
            environment=self._settings.project.environment,
            server_version=featurestore.__version__,
            services=[_service_info(plan) for plan in self._book.plans.values()],
            limits=limits,
        )


def _service_info(plan: ServingPlan) -> pb.ServiceInfo:
    return pb.ServiceInfo(
        name=plan.service,
        version=plan.service_version,
        plan_version=plan.hash,
        keys=[pb.RequestKeyInfo(name=key.name, dtype=str(key.dtype)) for key in plan.request_keys],
        features=[f"{use.name}:{f.name}" for use in plan.sent for f in use.features],
        request_inputs=[
            pb.RequestKeyInfo(name=one.name, dtype=str(one.dtype)) for one in plan.request_inputs
        ],
    )
