"""MLflow's models in our registry, and our stages in MLflow's.

A version is copied once: its bytes into our artifacts, and a version of ours that says which of
MLflow's it is. Aliases of MLflow are aliases here, `mlflow/<model>/<alias>`; stages of ours become
aliases there (`production`, `staging`), so that who loads `models:/delay@production` from MLflow
gets what was approved.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from featurestore.errors import FeatureStoreError, RecordNotFound, StoreUnavailable
from featurestore.jobs import models as registered
from featurestore.jobs.mlflow_sync import SKIPPED_SHOWN_MAX, Guest, Synced
from featurestore.jobs.models import Models
from featurestore.jobs.tracking import Tracker
from featurestore.lifecycle.mlflow_references import ALIASES, origin
from featurestore.lifecycle.models import TARGETS, ModelVersion, check_model_name, model_alias
from featurestore.records import AliasIs

MIRRORED_TAG = "featurestore.promoted"


def sync_models(tracker: Tracker, guest: Guest, done: Synced) -> Synced:
    """Bring versions and aliases, then tell MLflow our stages. What can't be brought is among
    `skipped`. Raises `StoreUnavailable`."""
    if tracker.models is None:
        return done
    models = tracker.models()
    skipped, new = list(done.skipped), list[str]()
    moved, mirrored, same = list[str](), list[str](), 0
    found = guest.pages(lambda token: guest.client.search_registered_models(page_token=token))
    for model in list(found):
        name = str(model.name)
        try:
            known = _known(models, check_model_name(name))
            for version in list(guest.pages(_versions(guest, name))):
                if str(version.version) in known:
                    same += 1
                    continue
                try:
                    made = _copy(models, tracker, guest, version)
                except StoreUnavailable:
                    raise
                except FeatureStoreError as error:
                    skipped.append(f"model {name}/{version.version}: {error.message}")
                    continue
                known[str(version.version)] = made
                new.append(made.ref)
            moved += _move_aliases(models, guest, name, known)
            mirrored += _mirror(models, guest, name, known)
        except StoreUnavailable:
            raise
        except FeatureStoreError as error:
            skipped.append(f"model {name}: {error.message}")
    return replace(
        done,
        models_new=tuple(new),
        models_same=same,
        aliases_moved=tuple(moved),
        mirrored=tuple(mirrored),
        skipped=tuple(skipped[:SKIPPED_SHOWN_MAX]),
    )


def _versions(guest: Guest, name: str) -> Callable[[str | None], Any]:
    return lambda token: guest.client.search_model_versions(
        f"name='{name}'", order_by=["version_number ASC"], page_token=token
    )


def _known(models: Models, name: str) -> dict[str, ModelVersion]:
    """The versions that were brought, by MLflow's numbers."""
    prefix = origin(name, "")
    return {
        version.description.removeprefix(prefix): version
        for version in registered.versions_of(models.registry, name)
        if version.description.startswith(prefix)
    }


def _copy(models: Models, tracker: Tracker, guest: Guest, version: Any) -> ModelVersion:
    """A version of ours with the bytes of MLflow's, and the run that it came from."""
    name, number = str(version.name), str(version.version)
    with tempfile.TemporaryDirectory(prefix="featurestore-") as folder:
        with guest.asked():
            artifacts = importlib.import_module("mlflow.artifacts")
            uri = guest.client.get_model_version_download_uri(name, number)
            path = Path(artifacts.download_artifacts(artifact_uri=uri, dst_path=folder))
        return registered.register(
            models,
            name,
            path,
            run=_run(tracker, version.run_id),
            description=origin(name, number),
        )


def _run(tracker: Tracker, run_id: str | None) -> str | None:
    """The record of a run that was brought."""
    if not run_id:
        return None
    try:
        found = tracker.registry.runs.details(str(run_id), now_us=tracker.clock.now_us())
    except RecordNotFound:
        return None
    return found.facts.record_id


def _move_aliases(
    models: Models, guest: Guest, name: str, known: dict[str, ModelVersion]
) -> list[str]:
    """Point `mlflow/<model>/<alias>` to where MLflow's aliases point, and remove those that are
    gone. Which moved."""
    prefix = f"{ALIASES}{name}/"
    wanted = {
        f"{prefix}{alias}": known[number].id
        for alias, number in _aliases(guest, name).items()
        if number in known
    }
    before = {alias: at.target for alias, at in models.registry.aliases(prefix).items()}
    changes: dict[str, str | None] = {
        alias: target for alias, target in wanted.items() if before.get(alias) != target
    }
    changes |= dict.fromkeys(before.keys() - wanted.keys())
    if changes:
        models.registry.commit(
            requires=[AliasIs(alias, before.get(alias)) for alias in changes],
            aliases=changes,
            reason=f"MLflow at {guest.shown}",
        )
    return sorted(changes)


def _mirror(models: Models, guest: Guest, name: str, known: dict[str, ModelVersion]) -> list[str]:
    """Have MLflow's aliases `production` and `staging` follow ours. Which moved."""
    numbers = {version.id: number for number, version in known.items()}
    there, moved = _aliases(guest, name), list[str]()
    for stage in TARGETS:
        alias = model_alias(name, stage, models.environment)
        ours = models.registry.aliases(alias).get(alias)
        number = None if ours is None else numbers.get(ours.target)
        if number is None or there.get(stage) == number:
            continue
        why = models.registry.history(alias)[-1].reason
        with guest.asked():
            guest.client.set_registered_model_alias(name, stage, number)
            guest.client.set_model_version_tag(name, number, MIRRORED_TAG, f"{stage}: {why}")
        moved.append(f"{name}@{stage} → {number}")
    return moved


def _aliases(guest: Guest, name: str) -> dict[str, str]:
    """MLflow's aliases of a model, and the versions that they point to."""
    with guest.asked():
        found = guest.client.get_registered_model(name).aliases
    return {str(alias): str(number) for alias, number in dict(found).items()}
