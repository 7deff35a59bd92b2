"""The repository's folder as it is now: loaded anew when a file of it has changed."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

from featurestore.compiler.definition_records import definition_records
from featurestore.definitions.repo import definition_files
from featurestore.jobs import project
from featurestore.jobs.backfills import Estimates
from featurestore.jobs.plan import plan_repository
from featurestore.timeline import SECOND_US

if TYPE_CHECKING:
    from featurestore.compiler.changes import ChangePlan
    from featurestore.compiler.typed import TypedRepo
    from featurestore.config import Settings
    from featurestore.records import Record
    from featurestore.store import FeatureStore

LOADED_LIFE_US = 30 * SECOND_US
"""So long what was loaded is believed while no definition file changes: sources may have."""
Stamp = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class _Loaded:
    stamp: Stamp
    at_us: int
    repo: TypedRepo
    records: tuple[Record, ...]


class Folder:
    """The definitions of one repository. Safe to share between threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = Lock()
        self._loaded: _Loaded | None = None

    def stamp(self) -> Stamp:
        """What tells one state of the definition files from another: names, times, sizes."""
        found = []
        for path in definition_files(self._settings.root):
            about = path.stat()
            found.append((str(path), about.st_mtime_ns, about.st_size))
        return tuple(found)

    def plan(self, store: FeatureStore) -> ChangePlan:
        """What an apply would change now. Raises `InvalidRepository` with all errors."""
        now_us = store.clock.now_us()
        loaded = self._load(store, now_us)
        offline = project.offline_folder(self._settings)
        return plan_repository(
            loaded.repo,
            store.registry,
            self._settings.project.environment,
            estimates=Estimates(root=self._settings.root, offline=offline, now_us=now_us),
            records=loaded.records,
        ).plan

    def _load(self, store: FeatureStore, now_us: int) -> _Loaded:
        with self._lock:
            stamp, loaded = self.stamp(), self._loaded
            if loaded is None or loaded.stamp != stamp or now_us - loaded.at_us >= LOADED_LIFE_US:
                repo = project.load_repo(self._settings, store.engine)
                loaded = _Loaded(stamp, now_us, repo, definition_records(repo))
                self._loaded = loaded
            return loaded
