"""`freshness`: up to which instant what a service answers is known. The watermark of a node is the
least of its inputs'."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from featurestore.errors import UnknownService
from featurestore.jobs.store_identity import table_states
from featurestore.wire.plans import ALL_VIEWS, Origin, ServingPlan

if TYPE_CHECKING:
    from featurestore.stores.registry.base import Registry

PLANS_KEPT = 16
"""Plans that are remembered by their bytes: reading one of 5,000 features takes longer than the
question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fresh:
    """A node of a service: `watermark_us` is the instant up to which all that was known has been
    written (None: some of it never was), `inputs` the names of what it is made of."""

    kind: str
    name: str
    watermark_us: int | None
    inputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    """How fresh the answers of a service are, as of `at_us`: its own watermark, and those of what
    it reads, the stalest first. Rows that are pushed are answered with at once, and are not in a
    watermark before the next materialization."""

    service: str
    environment: str
    at_us: int
    watermark_us: int | None
    nodes: tuple[Fresh, ...]

    @property
    def age_us(self) -> int | None:
        """How far the watermark lies back."""
        return None if self.watermark_us is None else self.at_us - self.watermark_us


def freshness(registry: Registry, service: str, *, environment: str, at_us: int) -> Freshness:
    """The watermarks of a service as it was served at `at_us`.

    Raises `UnknownService` for one that the environment did not serve then.
    """
    with registry.session():
        plan = _plan(registry, service, environment, at_us)
        every = _nodes(registry, plan, environment, at_us)
    return Freshness(
        service=service,
        environment=environment,
        at_us=at_us,
        watermark_us=least([node.watermark_us for node in every]),
        nodes=tuple(sorted(every, key=lambda node: (node.watermark_us or 0, node.name))),
    )


def watermarks(registry: Registry, *, environment: str, at_us: int) -> dict[str, int]:
    """The watermark of each view and on-demand view that the environment served at `at_us`, as
    `freshness` has it; those without one are left out."""
    found = defaultdict[str, list[int | None]](list)
    with registry.session():
        name = f"serving/{environment}/{ALL_VIEWS}"
        alias = registry.aliases(name, at_us=at_us).get(name)
        if alias is not None:
            # One name may stand for two versions while an on-demand view still reads the older.
            for node in _nodes(registry, _served(registry, alias.target), environment, at_us):
                found[node.name].append(node.watermark_us)
    worst = {name: least(watermarks) for name, watermarks in found.items()}
    return {name: watermark_us for name, watermark_us in worst.items() if watermark_us is not None}


def _nodes(registry: Registry, plan: ServingPlan, environment: str, at_us: int) -> list[Fresh]:
    """What a plan reads and computes: each with its watermark."""
    fields = [lookup.field for lookup in plan.lookups]
    states = table_states(registry, environment, fields, at_us=at_us)
    stored = [
        Fresh(kind="view", name=lookup.name, watermark_us=states[lookup.field].watermark_us)
        for lookup in plan.lookups
    ]
    computed = list[Fresh]()
    for view in plan.on_demand:
        inputs = [_input(origin, stored, computed) for origin in view.origins]
        nodes = list(dict.fromkeys(node for node in inputs if node is not None))
        # What hangs on the request only is as fresh as that.
        watermark_us = least([node.watermark_us for node in nodes]) if nodes else at_us
        names = tuple(node.name for node in nodes)
        computed.append(
            Fresh(kind="on_demand_view", name=view.name, watermark_us=watermark_us, inputs=names)
        )
    return [*stored, *computed]


def least(watermarks: Sequence[int | None]) -> int | None:
    """The least of some watermarks; None where one of them is missing, or there is none."""
    known = [watermark_us for watermark_us in watermarks if watermark_us is not None]
    return min(known) if known and len(known) == len(watermarks) else None


def _input(origin: Origin, stored: Sequence[Fresh], computed: Sequence[Fresh]) -> Fresh | None:
    match origin.kind:
        case "lookup":
            return stored[origin.index]
        case "on_demand":
            return computed[origin.index]
        case _:
            return None


def _plan(registry: Registry, service: str, environment: str, at_us: int) -> ServingPlan:
    prefix = f"serving/{environment}/"
    served = registry.aliases(prefix, at_us=at_us)
    alias = served.get(prefix + service)
    if alias is None:
        known = [name.removeprefix(prefix) for name in served if name != prefix + ALL_VIEWS]
        raise UnknownService(service, known=known)
    return _served(registry, alias.target)


def _served(registry: Registry, record_id: str) -> ServingPlan:
    return _read(registry.blob(str(registry.record(record_id).record.body["blob"])))


@lru_cache(maxsize=PLANS_KEPT)
def _read(data: bytes) -> ServingPlan:
    return ServingPlan.from_bytes(data)
