"""Servers that don't answer, or can't listen."""

from __future__ import annotations

from featurestore.errors.base import FeatureStoreError


class ServerError(FeatureStoreError):
    code = "server-error"


class ServerUnavailable(ServerError):
    """No server answers at the target, or it is going away."""

    code = "server-unavailable"
    retryable = True


class ServerTimeout(ServerError):
    """The server did not answer before the deadline."""

    code = "server-timeout"
    retryable = True


class ServerOverloaded(ServerError):
    """The server answers as many requests as it may (`limit`, `allowed`) and turned this one away
    unread; the clients ask again after a pause."""

    code = "server-overloaded"
    retryable = True

    def __init__(self, limit: str, *, allowed: int, what: str = "requests") -> None:
        super().__init__(
            f"The server is busy with {limit} = {allowed:,} {what}; ask again after a pause."
        )
        self.limit = limit
        self.allowed = allowed


class AddressUnavailable(ServerError):
    """A server cannot listen where its settings say."""

    code = "address-unavailable"
