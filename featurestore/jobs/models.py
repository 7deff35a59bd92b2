"""The model registry: versions with numbers, where they come from, and in which stage they are.

A version is one commit: its record, and the alias `model/<name>` that moves from the version before
to it. Of two that take a number at once one wins, and the other takes the next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.compiler.definition_records import function_blobs
from featurestore.errors import CommitConflict, InvalidRequest, RecordNotFound
from featurestore.jobs import access, model_flavors
from featurestore.jobs.environments import applied_in, model_names
from featurestore.jobs.model_origin import open_set, origin_of, signature_of
from featurestore.lifecycle.changes import model_prefix
from featurestore.lifecycle.mlflow_references import ALIASES, SCHEME, MlflowReference
from featurestore.lifecycle.models import (
    MODEL,
    Draft,
    ModelRef,
    ModelVersion,
    Stage,
    check_metrics,
    check_model_name,
    check_text,
    model_alias,
    newest_alias,
    parse_ref,
)
from featurestore.records import AliasEvent, AliasIs

if TYPE_CHECKING:
    from featurestore.compiler.typed import TypedRepo
    from featurestore.jobs.training_sets import SetStore
    from featurestore.stores.offline.artifacts import ArtifactStore
    from featurestore.stores.registry.base import Registry
    from featurestore.timeline import Clock

REGISTER_ATTEMPTS_MAX = 64
"""How often a version whose number another took meanwhile takes the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """What the jobs about models work on; the repository is loaded when one needs it."""

    registry: Registry
    project: str
    environment: str
    artifacts: ArtifactStore
    sets: SetStore
    clock: Clock
    repo: Callable[[], TypedRepo]

    def asker(self) -> access.Asker:
        """Who asks, now."""
        return access.Asker(
            registry=self.registry, project=self.project, now_us=self.clock.now_us()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """A version and the stage that it is in, in one environment."""

    version: ModelVersion
    stage: Stage


def register(
    models: Models,
    name: str,
    artifact: object,
    *,
    run: Any = None,
    training_set: Any = None,
    service: Any = None,
    signature: Any = None,
    metrics: Mapping[str, float] | None = None,
    flavor: str | None = None,
    description: str = "",
) -> ModelVersion:
    """Keep a model's bytes and write it down as the next version of `name`.

    Raises `InvalidRequest`, `RecordNotFound` for a run or training set that is not there,
    `UnknownService`, `SignatureMismatch`, `PermissionDenied`.
    """
    check_model_name(name)
    measured = check_metrics(metrics or {})
    described = check_text(description, "description")
    origin, service_records = origin_of(
        models.registry,
        models.environment,
        models.repo,
        run=run,
        training_set=training_set,
        service=service,
    )
    trained_on = None if origin.training_set is None else open_set(origin.training_set, models.sets)
    given = signature_of(
        models.registry,
        origin,
        trained_on,
        given=signature,
        names=getattr(artifact, "feature_names_in_", None),
        model=name,
        new=service_records,
    )
    access.authorize(models.asker(), "track", name, detail="register a model")
    found, kept = model_flavors.pack(artifact, models.artifacts, flavor=flavor)
    draft = Draft(
        name=name,
        flavor=found,
        artifact=kept,
        signature=given,
        metrics=measured,
        origin=origin,
        description=described,
        libraries=model_flavors.libraries_in_use(),
    )
    blobs = function_blobs(models.repo()) if service_records else []
    for _ in range(REGISTER_ATTEMPTS_MAX - 1):
        try:
            return _commit(models, draft, service_records, blobs)
        except CommitConflict:
            continue
    return _commit(models, draft, service_records, blobs)


def _commit(
    models: Models, draft: Draft, records: Sequence[Any], blobs: Sequence[bytes]
) -> ModelVersion:
    alias = newest_alias(draft.name)
    newest = models.registry.aliases(alias).get(alias)
    number, before = 1, None
    if newest is not None:
        before = newest.target
        number = read_version(models.registry, before).number + 1
    record = draft.record(number)
    models.registry.commit(
        requires=[AliasIs(alias, before)],
        records=[*records, record],
        blobs=[*blobs, *draft.blobs],
        aliases={alias: record.id},
        reason=f"register {draft.name}/{number}",
    )
    return read_version(models.registry, record.id)


# --- reading --------------------------------------------------------------------------------------


def read_version(registry: Registry, ref: str) -> ModelVersion:
    """A version by its record's id. Raises `RecordNotFound`."""
    return ModelVersion.of(registry.record(ref), registry.blob)


def versions_of(registry: Registry, name: str | None = None) -> list[ModelVersion]:
    """All versions, of `name` or of every model; by name and number."""
    found = [
        ModelVersion.of(stored, registry.blob) for stored in registry.records(kind=MODEL, name=name)
    ]
    return sorted(found, key=lambda version: (version.name, version.number))


def get(
    registry: Registry, ref: str, *, environment: str, at_us: int | None = None
) -> ModelVersion:
    """A version by `delay` (the newest), `delay/3`, `delay/production` or its record's id; as of an
    instant, if one is given. Raises `InvalidRequest`, `RecordNotFound`."""
    if str(ref).startswith(f"{MODEL}:"):
        return read_version(registry, ref)
    if str(ref).startswith(SCHEME):
        return _of_mlflow(registry, MlflowReference.parse(str(ref)), at_us)
    wanted = parse_ref(ref)
    if wanted.stage is not None:
        return _in_stage(registry, wanted, environment, at_us)
    versions = [
        version
        for version in versions_of(registry, wanted.name)
        if at_us is None or version.created_at_us <= at_us
    ]
    if not versions:
        raise RecordNotFound(f"model {wanted.name}", known=model_names(registry))
    if wanted.number is None:
        return versions[-1]
    for version in versions:
        if version.number == wanted.number:
            return version
    raise RecordNotFound(
        f"model {ref}", known=[f"{wanted.name}/{version.number}" for version in versions]
    )


def _of_mlflow(registry: Registry, ref: MlflowReference, at_us: int | None) -> ModelVersion:
    """The copy of a model of MLflow."""
    if ref.number is None:
        aliases = registry.aliases(f"{ALIASES}{ref.name}/", at_us=at_us)
        if ref.our_alias in aliases:
            return read_version(registry, aliases[ref.our_alias].target)
        shown, known = f"{ref.name}@{ref.alias}", [name.rpartition("/")[2] for name in aliases]
    else:
        for version in versions_of(registry, ref.name):
            if version.description == ref.origin:
                return version
        shown, known = f"{ref.name}/{ref.number}", []
    raise RecordNotFound(
        f"model {shown} of MLflow (featurestore sync mlflow brings what is there)", known=known
    )


def _in_stage(
    registry: Registry, wanted: ModelRef, environment: str, at_us: int | None
) -> ModelVersion:
    assert wanted.stage is not None  # noqa: S101 - the caller asked
    alias = model_alias(wanted.name, wanted.stage, environment)
    target = target_at(registry, alias, at_us)
    if target is None:
        names = model_names(registry)
        if wanted.name not in names:
            raise RecordNotFound(f"model {wanted.name}", known=names)
        when = "" if at_us is None else " then"
        raise RecordNotFound(
            f"model {wanted.name}/{wanted.stage} (no version of it is in {wanted.stage} of "
            f"environment {environment!r}{when})"
        )
    return read_version(registry, target)


def target_at(registry: Registry, alias: str, at_us: int | None) -> str | None:
    """Where an alias points, or pointed at an instant."""
    if at_us is None:
        found = registry.aliases(alias).get(alias)
        return None if found is None else found.target
    moves = [event for event in registry.history(alias) if event.at_us <= at_us]
    return moves[-1].target if moves else None


def stages_of(
    registry: Registry, name: str, environment: str, at_us: int | None = None
) -> dict[str, Stage]:
    """The stage of each version of `name` that was ever promoted there, by record id."""
    return _stages(registry.histories(model_alias(name, "", environment)), name, environment, at_us)


def _stages(
    histories: Mapping[str, Sequence[AliasEvent]],
    name: str,
    environment: str,
    at_us: int | None,
) -> dict[str, Stage]:
    found: dict[str, Stage] = {}
    for stage in ("archived", "staging", "production"):
        events = histories.get(model_alias(name, stage, environment), ())
        moves = [event for event in events if at_us is None or event.at_us <= at_us]
        if stage == "archived":
            found |= {event.target: "archived" for event in moves if event.target is not None}
        elif moves and moves[-1].target is not None:
            found[moves[-1].target] = "staging" if stage == "staging" else "production"
    return found


def list_models(
    registry: Registry, name: str | None = None, *, environment: str, at_us: int | None = None
) -> tuple[Staged, ...]:
    """All versions (of `name`) with the stage that they have in the environment. Raises
    `RecordNotFound` for a name that no model has."""
    prefix = model_prefix(environment) if name is None else model_alias(name, "", environment)
    with registry.session():
        every, histories = versions_of(registry, name), registry.histories(prefix)
    versions = [v for v in every if at_us is None or v.created_at_us <= at_us]
    if name is not None and not versions:
        raise RecordNotFound(f"model {name}", known=model_names(registry))
    stages = {n: _stages(histories, n, environment, at_us) for n in {v.name for v in versions}}
    return tuple(
        Staged(version=version, stage=stages[version.name].get(version.id, "development"))
        for version in versions
    )


# --- bytes ----------------------------------------------------------------------------------------


def load(models: Models, ref: str, *, trust: bool = False) -> Any:
    """The model itself, of checked bytes; see `model_flavors.load`."""
    version = get(models.registry, ref, environment=models.environment)
    return model_flavors.load(version, models.artifacts, trust=trust)


def download(models: Models, ref: str, to: str | Path) -> Path:
    """Copy a model's artifact into the folder `to`, checked; returns where it is."""
    version = get(models.registry, ref, environment=models.environment)
    folder = Path(to)
    if folder.exists() and not folder.is_dir():
        raise InvalidRequest(f"{folder} is a file; name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    return model_flavors.download(version, models.artifacts, folder)


def with_environment(models: Models, environment: str | None) -> Models:
    """The same for another environment; None: its own."""
    return models if environment is None else replace(models, environment=environment)


def service_version_in(registry: Registry, environment: str, service: str | None) -> str | None:
    """The version of a service that an environment has; None where it has none."""
    applied = None if service is None else applied_in(registry, environment)
    return None if applied is None or service is None else applied.version("service", service)
