"""Changes of definitions that can't be applied, or not without a word more."""

from __future__ import annotations

from collections.abc import Iterable

from featurestore.errors.base import FeatureStoreError


class ChangeError(FeatureStoreError):
    code = "change-error"


class DestructiveChange(ChangeError):
    """Something would be removed that models in use (`models`) need."""

    code = "destructive-change"

    def __init__(self, message: str, *, models: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.models = list(models)


class ProductionImpact(ChangeError):
    """Something would change below models in production (`models`), and no reason was given."""

    code = "production-impact"

    def __init__(self, message: str, *, models: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.models = list(models)


class StalePlan(ChangeError):
    """The environment moved after the plan was made; make a new plan."""

    code = "stale-plan"


class NotApplied(ChangeError):
    """The environment does not have this definition as it stands in the repository; apply first."""

    code = "not-applied"


class StreamWrites(ChangeError):
    """A stream (`stream`) writes to what would be restored; stop it, or say that it is meant."""

    code = "stream-writes"

    def __init__(self, message: str, *, stream: str) -> None:
        super().__init__(message)
        self.stream = stream


class UnsupportedByEngine(ChangeError):
    code = "unsupported-by-engine"
