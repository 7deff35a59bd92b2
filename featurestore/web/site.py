"""What the pages stand on: the store, as whoever asks, and the catalogue of the environment."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING

from featurestore.errors import PermissionDenied, Unauthenticated
from featurestore.fingerprint import fingerprint_bytes
from featurestore.jobs.access import read_policy
from featurestore.jobs.environments import applied_in, environment_alias
from featurestore.store import FeatureStore
from featurestore.web import graph_reads
from featurestore.web.catalogue import Catalogue, catalogue_of
from featurestore.web.folder import Folder
from featurestore.web.sessions import Sessions

if TYPE_CHECKING:
    from featurestore.compiler.changes import ChangePlan
    from featurestore.config import Settings
    from featurestore.timeline import Clock
    from featurestore.web.graph import Graph

STORES_MAX = 32
"""Open at a time for those who signed in; the one not used longest is closed."""


class Site:
    """One repository, shown. Close it, or use it as a context manager."""

    def __init__(self, settings: Settings, *, clock: Clock | None = None) -> None:
        self.settings = settings
        self.store = FeatureStore(settings, clock=clock)
        self.sessions = Sessions(self.store.clock)
        self._folder = Folder(settings)
        self._lock = Lock()
        self._stores = OrderedDict[str, FeatureStore]()
        self._seen: tuple[str | None, Catalogue] = (None, catalogue_of(None))
        self._drawn: tuple[Catalogue, dict[bool, Graph]] = (self._seen[1], {})

    @property
    def environment(self) -> str:
        """The environment that is shown."""
        return self.settings.project.environment

    def who(self, token: str) -> str:
        """Who asks, where access control is off or the token allows anything of the project.

        Raises `Unauthenticated`, `PermissionDenied`.
        """
        policy = read_policy(self.store.registry)
        if not policy.enforced and not token:
            return self.store.registry.identity.author
        principal = policy.principal(token, now_us=self.store.clock.now_us())
        project = self.settings.project.name
        if not principal.may("info", project, None):
            raise PermissionDenied(
                f"{principal.name} has no grant in project {project}", principal=principal.name
            )
        return principal.name

    def needs_token(self) -> bool:
        """Whether nobody comes in without a token."""
        return read_policy(self.store.registry).enforced

    def plan(self) -> ChangePlan:
        """What an apply of the folder, as it is now, would change. Raises `InvalidRepository`."""
        return self._folder.plan(self.store)

    def acting(self, token: str) -> FeatureStore:
        """The store as the owner of a token (without access control as ourselves); what it writes
        is theirs, and the registry asks for their permissions. It has the definitions that the
        folder has now."""
        if not token and self.needs_token():
            raise Unauthenticated("No token was given; sign in")
        key = fingerprint_bytes(repr((token, self._folder.stamp())).encode())
        with self._lock:
            found = self._stores.pop(key, None)
            if found is None:
                settings = self.settings
                if token:
                    security = replace(settings.security, token=token, token_file="")
                    settings = replace(settings, security=security)
                found = FeatureStore(settings, clock=self.store.clock)
                while len(self._stores) >= STORES_MAX:
                    self._stores.popitem(last=False)[1].close()
            self._stores[key] = found
            return found

    def catalogue(self) -> Catalogue:
        """What the environment has now; read anew only after an apply."""
        registry = self.store.registry
        alias = environment_alias(self.environment)
        pointer = registry.aliases(alias).get(alias)
        target = None if pointer is None else pointer.target
        seen, catalogue = self._seen
        if seen != target:
            catalogue = catalogue_of(applied_in(registry, self.environment))
            self._seen = (target, catalogue)
        return catalogue

    def definitions(self, *, features: bool) -> Graph:
        """The graph of the catalogue; made anew only after an apply."""
        catalogue = self.catalogue()
        if self._drawn[0] is not catalogue:
            self._drawn = (catalogue, {})
        made = self._drawn[1]
        if features not in made:
            made[features] = graph_reads.definitions(catalogue, features=features)
        return made[features]

    def close(self) -> None:
        """Close the stores."""
        with self._lock:
            for store in self._stores.values():
                store.close()
            self._stores.clear()
        self.store.close()

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
