"""Where a model comes from, as record ids, and the signature that follows from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from featurestore.compiler.definition_records import definition_records
from featurestore.dtypes import from_arrow
from featurestore.errors import (
    InvalidRequest,
    SignatureMismatch,
    UnknownService,
)
from featurestore.jobs import training_sets
from featurestore.jobs.environments import applied_in
from featurestore.jobs.training_sets import TrainingSet
from featurestore.lifecycle.models import (
    ModelColumn,
    Origin,
    Signature,
    parents_by_role,
    signature_problems,
)
from featurestore.records import Record

if TYPE_CHECKING:
    from featurestore.compiler.typed import TypedRepo
    from featurestore.jobs.training_sets import SetStore
    from featurestore.stores.registry.base import Registry

TRAINING_SET = "training_set"
RUN = "run"


def origin_of(
    registry: Registry,
    environment: str,
    repo: Callable[[], TypedRepo],
    *,
    run: Any,
    training_set: Any,
    service: Any,
) -> tuple[Origin, tuple[Record, ...]]:
    """The origin that is meant by a run, a training set and a service (objects, ids, names), and
    the definition records that must be written for it. A run knows its training set, a training
    set its service. Raises `RecordNotFound`, `UnknownService`, `InvalidRequest`."""
    run_record = None if run is None else _stored(registry, run, RUN)
    found = None if training_set is None else _stored(registry, training_set, TRAINING_SET)
    if found is None and run_record is not None:
        of_run = parents_by_role(run_record).get(TRAINING_SET)
        found = None if of_run is None else registry.record(of_run).record
    service_record, new = _service(registry, environment, repo, service, found)
    origin = Origin(
        run=None if run_record is None else run_record.id,
        training_set=None if found is None else found.id,
        service=None if service_record is None else service_record.id,
        service_version=None if service_record is None else str(service_record.body["version"]),
        unpinned=() if found is None else tuple(found.body.get("unpinned", ())),
    )
    return origin, new


def _stored(registry: Registry, given: Any, kind: str) -> Record:
    """The record of something that has an `id`, or is one, or is the name of a training set."""
    ref = getattr(given, "id", given)
    if not isinstance(ref, str) or not ref:
        raise InvalidRequest(f"{given!r} is no {kind.replace('_', ' ')}; give it, its id or name")
    if kind == TRAINING_SET and not ref.startswith(f"{kind}:"):
        ref = f"{kind}/{ref}"
    if kind == RUN and ":" not in ref:
        ref = _run_id(registry, ref)
    found = registry.record(ref).record
    if found.kind != kind:
        raise InvalidRequest(f"{ref} is a {found.kind}, not a {kind.replace('_', ' ')}")
    return found


def _run_id(registry: Registry, run_id: str) -> str:
    """The record of the run `run_id` (or `experiment/run_id`), or whose id begins so."""
    # At which instant it is looked at decides its status only, which nobody asks here.
    return registry.runs.details(run_id.rpartition("/")[2], now_us=0).facts.record_id


def _service(
    registry: Registry,
    environment: str,
    repo: Callable[[], TypedRepo],
    given: Any,
    training_set: Record | None,
) -> tuple[Record | None, tuple[Record, ...]]:
    """That which the training set was made by; else the environment's; else the repository's, which
    is then written with all that it is made of."""
    of_set = None if training_set is None else parents_by_role(training_set).get("service")
    name = getattr(given, "name", given)
    if isinstance(name, str) and name.startswith("service:"):
        return registry.record(name).record, ()
    if name is not None and not isinstance(name, str):
        raise InvalidRequest(f"{given!r} is no feature service; give its name")
    if of_set is not None and name in (None, of_set.partition(":")[2].partition("@")[0]):
        return registry.record(of_set).record, ()
    if name is None:
        return None, ()
    applied = applied_in(registry, environment)
    there = {} if applied is None else applied.objects.get("service", {})
    if name in there:
        return there[name].record, ()
    definitions = repo()
    if name not in definitions.services:
        raise UnknownService(name, known=definitions.services)
    records = definition_records(definitions)[:-1]  # all but the repository's own
    return next(r for r in records if r.kind == "service" and r.name == name), records


# --- signatures -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What a service answers with, in order, under short or full names; and what comes `beside`:
    request inputs and join keys."""

    columns: tuple[ModelColumn, ...]
    full: tuple[ModelColumn, ...]
    beside: dict[str, str] = field(default_factory=dict)


def served_by(registry: Registry, service: Record, new: Sequence[Record] = ()) -> Served:
    """What a service answers with, by its record and those that it is made of."""
    known = {record.id: record for record in new}
    if not new:
        above = {parent for _, parent, _, _ in registry.walk(service.id, direction="up")}
        known = {stored.id: stored.record for stored in registry.records(ids=sorted(above))}
    types = {r.name: str(r.body["dtype"]) for r in known.values() if r.kind == "feature"}
    beside: dict[str, str] = {}
    for record in known.values():
        if record.kind == "request_source":
            beside |= record.body["columns"]
        elif record.kind == "entity":
            beside |= {key["name"]: key["dtype"] for key in record.body["join_keys"]}
    short, full = list[ModelColumn](), list[ModelColumn]()
    for use in service.body["uses"]:
        for key, column in use["join_key_map"].items():
            beside[column] = beside.get(key, "string")
        for name in use["features"]:
            dtype = types[f"{use['view']}.{name}"]
            short.append(ModelColumn(name, dtype))
            full.append(ModelColumn(f"{use['name']}__{name}", dtype))
    return Served(columns=tuple(short), full=tuple(full), beside=beside)


def signature_of(
    registry: Registry,
    origin: Origin,
    trained_on: TrainingSet | None,
    *,
    given: Any,
    names: Iterable[str] | None,
    model: str,
    new: Sequence[Record] = (),
) -> Signature | None:
    """The signature as given, or as it follows from the training set and from the `names` that a
    scikit-learn model remembers, checked against the feature service.

    Raises `SignatureMismatch`, `InvalidRequest`.
    """
    service = _service_record(registry, origin, new)
    served = None if service is None else served_by(registry, service, new)
    if given is not None:
        signature: Signature | None = Signature.of(given)
    else:
        signature = _derived(trained_on, names, served)
    if signature is not None and served is not None and service is not None:
        check_signature(signature, served, model=model, service=service.name)
    return signature


def _service_record(registry: Registry, origin: Origin, new: Sequence[Record]) -> Record | None:
    if origin.service is None:
        return None
    for record in new:
        if record.id == origin.service:
            return record
    return registry.record(origin.service).record


def check_signature(signature: Signature, served: Served, *, model: str, service: str) -> None:
    """Raises `SignatureMismatch` where the service can't feed a model of that signature."""
    columns = columns_for(signature, served)
    problems = signature_problems(signature, columns, served.beside)
    if problems:
        raise SignatureMismatch(model, service=service, problems=problems)


def columns_for(signature: Signature, served: Served) -> tuple[ModelColumn, ...]:
    """What is served under the names that the model uses: short, or in full."""
    names = {column.name for column in signature.inputs}
    is_full = len(names & {c.name for c in served.full}) > len(
        names & {c.name for c in served.columns}
    )
    return served.full if is_full else served.columns


def _derived(
    trained_on: TrainingSet | None, names: Iterable[str] | None, served: Served | None
) -> Signature | None:
    types: dict[str, str] = {}
    outputs: tuple[ModelColumn, ...] = ()
    if trained_on is not None:
        types = {one["column"]: one["dtype"] for one in trained_on.request["columns"]}
        outputs = _label(trained_on)
    elif served is not None:
        types = {column.name: column.dtype for column in served.columns}
    inputs = list(types)
    if served is not None:
        types = served.beside | types
    if names is not None:
        inputs = [str(name) for name in names]
        unknown = [name for name in inputs if name not in types]
        if unknown and types:
            raise InvalidRequest(
                f"the model was trained with {unknown[0]!r}, of which neither the training set nor "
                "the service knows the type; give its signature"
            )
    if not inputs or any(name not in types for name in inputs):
        return None
    return Signature(
        inputs=tuple(ModelColumn(name, types[name]) for name in inputs), outputs=outputs
    )


def _label(trained_on: TrainingSet) -> tuple[ModelColumn, ...]:
    if trained_on.label is None:
        return ()
    try:
        dtype = from_arrow(trained_on.schema.field(trained_on.label).type)
    except ValueError:  # of a type that features can't have
        return ()
    return (ModelColumn(trained_on.label, str(dtype)),)


def open_set(ref: str, sets: SetStore) -> TrainingSet:
    """A training set by name or id. Raises `RecordNotFound`, `InvalidRequest`."""
    return TrainingSet(record=training_sets.find(ref, sets.registry), store=sets)
