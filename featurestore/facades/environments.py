"""`fs.environments`: environments as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featurestore.jobs import access
from featurestore.jobs import environment_moves as moves

if TYPE_CHECKING:
    from collections.abc import Callable

    from featurestore.compiler.change_plan import ChangePlan
    from featurestore.jobs.access import Asker
    from featurestore.jobs.environment_moves import Environment, Moved
    from featurestore.stores.registry.base import Registry


class Environments:
    """Environments are sets of aliases: moving one moves pointers and copies no data."""

    def __init__(
        self,
        registry: Callable[[], Registry],
        asker: Callable[[], Asker],
        refresh: Callable[[], None],
    ) -> None:
        self._registry = registry
        self._asker = asker
        self._refresh = refresh

    def list(self) -> tuple[Environment, ...]:
        """All environments, by name: what each has, since when, and who moved it there and why."""
        return moves.list_environments(self._registry())

    def diff(self, source: str, target: str) -> ChangePlan:
        """What promoting `source` to `target` would change; changes nothing. Raises
        `InvalidRequest` where there is no environment `source`."""
        return moves.diff(self._registry(), source, target)

    def promote(
        self,
        source: str,
        target: str,
        *,
        reason: str = "",
        allow_production_impact: str | None = None,
    ) -> Moved:
        """Bring `target`, which may be new, to the definitions that `source` has, and serve what
        the online store has of them.

        Raises `InvalidRequest`, `DestructiveChange`, `ProductionImpact` (as `apply` does),
        `StalePlan`, `PermissionDenied`.
        """
        self._may_move(target, f"promote {source}")
        done = moves.promote(
            self._registry(),
            source,
            target,
            reason=reason,
            allow_production_impact=allow_production_impact,
        )
        self._refresh()
        return done

    def rollback(
        self,
        environment: str,
        *,
        to: str | None = None,
        reason: str = "",
        allow_production_impact: str | None = None,
    ) -> Moved:
        """Bring an environment back to the definitions that it had before its last move, or to
        those of its history that `to` names (`repo:shop@1a2b3c4d`). Raises as `promote` does."""
        self._may_move(environment, "rollback")
        done = moves.rollback(
            self._registry(),
            environment,
            to=to,
            reason=reason,
            allow_production_impact=allow_production_impact,
        )
        self._refresh()
        return done

    def delete(self, environment: str, *, reason: str = "") -> Environment:
        """Remove an environment: nothing is served from it any more. Its records and its history
        stay. Raises `InvalidRequest`, `DestructiveChange` while models are in use in it."""
        self._may_move(environment, "delete")
        done = moves.delete(self._registry(), environment, reason=reason)
        self._refresh()
        return done

    def _may_move(self, environment: str, detail: str) -> None:
        access.authorize(self._asker(), "apply", f"env/{environment}", detail=detail)
