"""The base of all errors, and what makes one cross processes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar


def suggest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'trips_7day'?` for the closest of `known`, or what there is, or nothing."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f" Did you mean {close[0]!r}?"
    if not known:
        return ""
    shown = ", ".join(known[:8]) + (f", … ({len(known)} in all)" if len(known) > 8 else "")
    return f" There is: {shown}."


class FeatureStoreError(Exception):
    """Base of all errors. `str(error)` is the message followed by `[code]`."""

    code: ClassVar[str] = "feature-store-error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return f"{self.message} [{self.code}]"

    @property
    def details(self) -> dict[str, object]:
        """The typed attributes as plain data, for `--json` and for the wire."""
        return {k: v for k, v in vars(self).items() if k != "message" and not k.startswith("_")}

    @classmethod
    def restore(cls, code: str, message: str, details: Mapping[str, object]) -> FeatureStoreError:
        """The error that another process raised, rebuilt from `code`, `message` and `details`.

        An unknown code (a newer server) becomes a plain `FeatureStoreError` with that message.
        """
        leaf = _by_code().get(code, FeatureStoreError)
        error = leaf.__new__(leaf)
        FeatureStoreError.__init__(error, message)
        error.adopt(details)
        return error

    def adopt(self, details: Mapping[str, Any]) -> None:
        """Take the typed attributes from plain data; for `restore`."""
        self.__dict__.update(details)

    def __reduce__(self) -> tuple[Any, ...]:
        # Leaves have constructors of their own; what crosses processes is what `restore` takes.
        return FeatureStoreError.restore, (self.code, self.message, self.details)


def _by_code() -> dict[str, type[FeatureStoreError]]:
    found: dict[str, type[FeatureStoreError]] = {}
    todo = [FeatureStoreError]
    while todo:
        error = todo.pop()
        found.setdefault(error.code, error)
        todo.extend(error.__subclasses__())
    return found


class InternalError(FeatureStoreError):
    """A bug of ours; wraps a foreign exception at the edge with `raise … from`."""

    code = "internal-error"
