"""Models on their way: what a state, a gate or an approval does not allow."""

from __future__ import annotations

from collections.abc import Iterable

from featurestore.errors.base import FeatureStoreError


class LifecycleError(FeatureStoreError):
    code = "lifecycle-error"


class ApprovalRequired(LifecycleError):
    """A promotion request that nobody, or not enough, or not the right ones have approved; an
    approval counts for the evidence that it was given for, and no other. `request` is its id."""

    code = "approval-required"

    def __init__(self, message: str, *, request: str) -> None:
        super().__init__(message)
        self.request = request


class GateFailed(LifecycleError):
    """A model did not pass its gates: `failed` names them, `request` is the promotion's id."""

    code = "gate-failed"

    def __init__(self, message: str, *, failed: Iterable[str], request: str = "") -> None:
        super().__init__(message)
        self.failed = list(failed)
        self.request = request


class IllegalTransition(LifecycleError):
    """Something that can't happen in a `state`; `allowed` is what can."""

    code = "illegal-transition"

    def __init__(self, *, state: str, event: str, allowed: Iterable[str], hint: str = "") -> None:
        allowed = list(allowed)
        possible = f"; possible: {', '.join(allowed)}" if allowed else ", which is final"
        hint = f". {hint}" if hint else ""
        super().__init__(f"It is {state}{possible}. Not possible: {event}{hint}")
        self.state = state
        self.event = event
        self.allowed = allowed


class LineageIncomplete(LifecycleError):
    """A model that can't be promoted, for it is not known what it was made of: `missing` says what
    was not recorded when it was registered."""

    code = "lineage-incomplete"

    def __init__(self, model: str, *, missing: Iterable[str]) -> None:
        self.model = model
        self.missing = list(missing)
        super().__init__(
            f"{model} can't be promoted, for its lineage is incomplete: {', '.join(self.missing)} "
            "missing. Register it again with run=, training_set= and service="
        )


class SignatureMismatch(LifecycleError):
    """A model that its feature service can't feed: `problems` says why, one by one."""

    code = "signature-mismatch"

    def __init__(self, model: str, *, service: str, problems: Iterable[str]) -> None:
        self.model = model
        self.service = service
        self.problems = list(problems)
        super().__init__(
            f"{model} does not fit the feature service {service}: {'; '.join(self.problems)}"
        )
