"""A repository whose back ends are opened when first used, and what jobs need of it."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from featurestore.config import Settings, load_settings
from featurestore.definitions.names import refuse_while_loading
from featurestore.jobs import project
from featurestore.timeline import Clock, SystemClock
from featurestore.tracing import Tracing, open_tracing

if TYPE_CHECKING:
    from featurestore.compiler.typed import TypedRepo
    from featurestore.engines.base import Engine
    from featurestore.jobs.access import Asker
    from featurestore.jobs.materialize import Context
    from featurestore.jobs.models import Models
    from featurestore.jobs.openlineage_jobs import Telling
    from featurestore.jobs.push import Pusher
    from featurestore.jobs.training_sets import SetStore
    from featurestore.serving.local import LocalServer
    from featurestore.stores.online.base import OnlineStore
    from featurestore.stores.registry.base import Registry


class OpenRepository:
    """What `FeatureStore` (which says what the arguments are) stands on: the definitions, the back
    ends, and the collaborators that jobs are given."""

    def __init__(
        self,
        repo: str | Path | Settings = ".",
        *,
        overrides: Mapping[str, Any] | None = None,
        clock: Clock | None = None,
        definitions: TypedRepo | None = None,
    ) -> None:
        refuse_while_loading("A FeatureStore")
        self._definitions = definitions
        self.settings = (
            repo if isinstance(repo, Settings) else load_settings(repo, overrides=overrides)
        )
        self.clock: Clock = clock or SystemClock()

    @cached_property
    def repo(self) -> TypedRepo:
        """The definitions of the folder, typed. Raises `InvalidRepository` with all errors."""
        return self._definitions or project.load_repo(self.settings, self.engine)

    @cached_property
    def engine(self) -> Engine:
        """The offline engine."""
        return project.open_engine(self.settings.offline, root=self.settings.root)

    @cached_property
    def registry(self) -> Registry:
        """The registry; opening creates or migrates its schema."""
        return project.open_registry(self.settings, clock=self.clock, author=getpass.getuser())

    @cached_property
    def online_store(self) -> OnlineStore:
        """The online store."""
        return project.open_online_store(self.settings.online, root=self.settings.root)

    def close(self) -> None:
        """Close the back ends that were opened."""
        self.__dict__.pop("runs", None)
        for name in (
            "_pusher",
            "_local",
            "online_store",
            "registry",
            "engine",
            "_tracing",
            "_telling",
        ):
            opened = self.__dict__.pop(name, None)
            if opened is not None:
                opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @cached_property
    def _telling(self) -> Telling:
        """Who is told of jobs. Opened before a job, so that wrong settings stop it."""
        from featurestore.jobs.openlineage_jobs import open_telling

        return open_telling(self.settings, lambda: self.registry)

    @cached_property
    def _tracing(self) -> Tracing | None:
        project_name = {"featurestore.project": self.settings.project.name}
        return open_tracing(self.settings.tracing, service="featurestore", attributes=project_name)

    @cached_property
    def _local(self) -> LocalServer:
        from featurestore.serving.local import LocalServer

        return LocalServer(self.settings, self.registry, self.online_store, self.clock)

    @cached_property
    def _pusher(self) -> Pusher:
        from featurestore.jobs.push import Pusher

        return Pusher(self._context, self.settings.push)

    def _asker(self) -> Asker:
        from featurestore.jobs.access import Asker

        return Asker(
            registry=self.registry,
            project=self.settings.project.name,
            now_us=self.clock.now_us(),
        )

    def _models(self) -> Models:
        from featurestore.jobs.models import Models
        from featurestore.stores.offline.artifacts import ArtifactStore

        return Models(
            registry=self.registry,
            project=self.settings.project.name,
            environment=self.settings.project.environment,
            artifacts=ArtifactStore(project.offline_folder(self.settings)),
            sets=self._sets(),
            clock=self.clock,
            repo=lambda: self.repo,
        )

    def _refresh(self) -> None:
        """What this store has changed itself it sees at once."""
        if "_local" in self.__dict__:
            self._local.refresh()
        if "_pusher" in self.__dict__:
            self._pusher.look_again()

    def _sets(self) -> SetStore:
        from featurestore.jobs.training_sets import SetStore

        offline = project.offline_folder(self.settings)
        return SetStore(registry=self.registry, offline=offline, root=self.settings.root)

    def _context(self) -> Context:
        from featurestore.jobs.materialize import Context

        return Context(
            repo=self.repo,
            root=self.settings.root,
            engine=self.engine,
            store=self.online_store,
            registry=self.registry,
            environment=self.settings.project.environment,
            clock=self.clock,
            offline=project.offline_folder(self.settings),
        )
