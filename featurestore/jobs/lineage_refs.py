"""What people call things: a column (`weather.temp`), a feature (`origin_weather:temp`), an alias
(`env/prod`, `model/delay/production`), a model or training set as `fs.models` and `fs.training_set`
name them (`delay/production`, `delays/3`, `mlflow:models:/delay@champion`), a run's id, a record's,
whole or shortened, `kind:name`, or a bare name where only one thing has it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featurestore.errors import AmbiguousRecord, RecordNotFound
from featurestore.jobs.models import get as get_model
from featurestore.lifecycle.columns import source_column
from featurestore.lifecycle.mlflow_references import SCHEME
from featurestore.lifecycle.models import PROD
from featurestore.records import Glance, show_id
from featurestore.timeline import format_instant

if TYPE_CHECKING:
    from featurestore.stores.registry.base import Registry

NAMED_KINDS = (
    "source",
    "request_source",
    "entity",
    "view",
    "on_demand_view",
    "service",
    "model",
    "training_set",
    "run",
)
"""Kinds that a bare name may mean; aliases stand before them. (Snapshots have their source's.)"""

_OUR_ALIASES = ("online/", "pinned/", "serving/", "store/")
"""Beginnings of aliases that nobody asks for by name; they are not suggested."""

_DIGITS_MAX = 10
_RUN = re.compile(r"(?:(?P<experiment>[^@]+)/)?(?P<id>[0-9a-f]{4,32})")
_KIND_NAME = re.compile(r"(?P<kind>[a-z][a-z_]*):(?P<name>[^@]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a text means: every record of that kind and name that was born by then, oldest first,
    or the one record that an id or an alias names. `column`: of these sources."""

    text: str
    records: tuple[Glance, ...]
    column: str | None = None

    @property
    def ids(self) -> list[str]:
        """The ids of the records, oldest first."""
        return [stored.id for stored in self.records]

    @property
    def newest(self) -> Glance:
        """The youngest of the records."""
        return self.records[-1]

    @property
    def kind(self) -> str:
        """The kind of the records."""
        return self.newest.kind


def find(registry: Registry, text: str, *, at_us: int | None = None) -> Target:
    """What `text` means at that instant. Raises `RecordNotFound` with what is close, and
    `AmbiguousRecord` for a name or shortened id that several things have."""
    try:
        return _find(registry, text, at_us)
    except RecordNotFound:
        if at_us is None:
            raise
    _find(registry, text, None)  # where there is none today either, this says what is close
    raise RecordNotFound(text, at=format_instant(at_us))


def _find(registry: Registry, text: str, at_us: int | None) -> Target:
    if text.startswith(SCHEME):
        copy = get_model(registry, text, environment=PROD, at_us=at_us)
        return _born(registry.glances(ids=[copy.id]), text, at_us)
    if "@" in text:
        found = registry.glances(ids=[registry.record(text).id], with_parents=False)
        return _born(found, text, at_us)
    if "/" in text and (target := _by_slash(registry, text, at_us)):
        return target
    if ":" in text:
        return _by_colon(registry, text, at_us)
    if "." in text and (target := _column(registry, text, at_us)):
        return target
    return _by_name(registry, text, at_us)


def _by_slash(registry: Registry, text: str, at_us: int | None) -> Target | None:
    for name in (text, f"model/{text.removesuffix('/latest')}"):
        if alias := registry.aliases(name, at_us=at_us).get(name):
            return _born(registry.glances(ids=[alias.target], with_parents=False), text, at_us)
    name, _, digits = text.rpartition("/")
    if not (digits.isascii() and digits.isdigit() and len(digits) < _DIGITS_MAX):
        return None
    number = int(digits)
    models = _named(registry, "model", name, at_us)
    found = [model for model in models if model.body.get("number") == number]
    # Training sets of one name are numbered as they were made.
    found += _named(registry, "training_set", name, at_us)[number - 1 : number] if number else ()
    if len(found) > 1:
        raise AmbiguousRecord(text, found=[show_id(stored.id) for stored in found])
    return Target(text=text, records=tuple(found)) if found else None


def _by_colon(registry: Registry, text: str, at_us: int | None) -> Target:
    view, _, feature = text.partition(":")
    if found := _named(registry, "feature", f"{view}.{feature}", at_us):
        return Target(text=text, records=found)
    parts = _KIND_NAME.fullmatch(text)
    if parts and (found := _named(registry, parts["kind"], parts["name"], at_us)):
        return Target(text=text, records=found)
    known = [one.name for one in registry.glances(kind="feature", with_parents=False)]
    raise RecordNotFound(text, known=sorted({name.replace(".", ":", 1) for name in known}))


def _column(registry: Registry, text: str, at_us: int | None) -> Target | None:
    name, _, column = text.partition(".")
    sources = _named(registry, ("source", "request_source"), name, at_us)
    if not sources:
        return None
    having = tuple(s for s in sources if source_column(s, column) is not None)
    if not having:
        known = {c for s in sources for c in s.body.get("columns", ())}
        raise RecordNotFound(text, known=[f"{name}.{column}" for column in sorted(known)])
    return Target(text=text, records=having, column=column)


def _by_name(registry: Registry, text: str, at_us: int | None) -> Target:
    every = _named(registry, NAMED_KINDS, text, at_us)
    found = {
        kind: records
        for kind in NAMED_KINDS
        if (records := tuple(stored for stored in every if stored.kind == kind))
    }
    if len(found) > 1:
        raise AmbiguousRecord(text, found=[f"{kind}:{text}" for kind in found])
    if not found and (run := _run(registry, text, at_us)):
        return run
    if not found:
        aliases = [name for name in registry.aliases() if not name.startswith(_OUR_ALIASES)]
        raise RecordNotFound(text, known=aliases + _names(registry))
    return Target(text=text, records=next(iter(found.values())))


def _run(registry: Registry, text: str, at_us: int | None) -> Target | None:
    """A run by its id, or the beginning of it, with or without its experiment before it."""
    parts = _RUN.fullmatch(text)
    if parts is None:
        return None
    try:
        facts = registry.runs.details(parts["id"], now_us=0).facts
    except RecordNotFound:
        return None
    if parts["experiment"] not in (None, facts.experiment):
        return None
    return _born(registry.glances(ids=[facts.record_id], with_parents=False), text, at_us)


def _named(
    registry: Registry, kind: str | Sequence[str], name: str, at_us: int | None
) -> tuple[Glance, ...]:
    found = registry.glances(kind=kind, name=name, with_parents=False)
    return tuple(stored for stored in found if at_us is None or stored.created_at_us <= at_us)


def _names(registry: Registry) -> list[str]:
    """Of definitions; what else there is may be too much to look through for a suggestion."""
    kinds = ("source", "entity", "view", "on_demand_view", "service")
    return sorted({stored.name for stored in registry.glances(kind=kinds, with_parents=False)})


def _born(found: Sequence[Glance], text: str, at_us: int | None) -> Target:
    for stored in found:
        if at_us is not None and stored.created_at_us > at_us:
            raise RecordNotFound(show_id(stored.id))
    return Target(text=text, records=tuple(found))
