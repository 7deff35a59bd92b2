"""Who comes in, through whichever door: one function that all of them call.

A `Gate` holds the policy of the registry as it was last read, so that no request waits for the
registry. What proved itself once is known by the hash of its header until the policy changes or it
expires: a request costs one SHA-256 and two look-ups in dicts, and nothing while the gate is open.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from featurestore.errors import (
    FeatureStoreError,
    PermissionDenied,
    RegistryError,
    StoreError,
    Unauthenticated,
)
from featurestore.jobs.access import access_aliases, read_policy
from featurestore.permissions import TOKEN_PREFIX, VIEWS, Action, Policy, Principal
from featurestore.serving.logs import logger
from featurestore.serving.tokens_jwt import JwtVerifier

if TYPE_CHECKING:
    from featurestore.config import Settings
    from featurestore.records import Alias
    from featurestore.serving.reload import What
    from featurestore.serving.tls import ServerTls
    from featurestore.stores.registry.base import Registry
    from featurestore.timeline import Clock

KNOWN_CALLERS_MAX = 4_096
READABLE_HELD_MAX = 512
HEADER_CHARS_MAX = 8_192
"""Longer headers are refused unread."""
DENIALS_LOGGED_PER_S = 10

ACTION_OF: Mapping[str, Action | None] = {
    # gRPC, by method
    "GetOnlineFeatures": "read",
    "StreamOnlineFeatures": "read",
    "Push": "push",
    "StreamPush": "push",
    "GetServingInfo": "info",
    "ServerReflectionInfo": "info",
    # HTTP, by path
    "/v1/online-features": "read",
    "/v1/push": "push",
    "/v1/services": "info",
    "/docs": "info",
    "/openapi.json": "info",
    "/metrics": "metrics",
    "/healthz": None,
    "/readyz": None,
}
"""What each method and path takes; None is open to everybody. What is not listed takes `admin`, so
that a new one is closed until somebody decides."""


class Caller:
    """Somebody who came in, and what is known of what they may read."""

    __slots__ = ("_actions", "_project", "_readable", "expires_at_us", "principal")

    def __init__(self, principal: Principal, project: str) -> None:
        self.principal = principal
        self.expires_at_us = principal.expires_at_us
        self._project = project
        self._actions: set[Action] = set()
        self._readable: set[What] = set()

    def check(self, action: Action) -> None:
        """May they do this to anything at all? Raises `PermissionDenied`."""
        if action not in self._actions:
            self.principal.check(action, self._project, None)
            self._actions.add(action)

    def check_read(self, what: What, *, now_us: int) -> None:
        """May they read this service, or these refs? Raises `PermissionDenied`, `Unauthenticated`
        where they have expired meanwhile."""
        if self.expires_at_us is not None and self.expires_at_us <= now_us:
            raise Unauthenticated("The token has expired; ask for a new one")
        if what in self._readable:
            return
        for resource in resources_of(what):
            self.principal.check("read", self._project, resource)
        if len(self._readable) < READABLE_HELD_MAX:
            self._readable.add(what)

    def check_push(self, source: str, *, now_us: int) -> None:
        """May they push to this source? Raises `PermissionDenied`, `Unauthenticated` where they
        have expired meanwhile."""
        if self.expires_at_us is not None and self.expires_at_us <= now_us:
            raise Unauthenticated("The token has expired; ask for a new one")
        self.principal.check("push", self._project, source)


def resources_of(what: What) -> list[str]:
    """What a request reads, as grants name it: a service, or the views of its refs."""
    if isinstance(what, str):
        return [what.partition("@")[0]]
    return list(dict.fromkeys(VIEWS + ref.partition(":")[0] for ref in what))


class Gate:
    """Lets callers in by their `authorization` header. Made closed where the settings demand
    tokens; `refresh` reads what the registry says.

    `admit` and `check_read` are safe in one thread while another refreshes.
    """

    def __init__(self, settings: Settings, registry: Registry, clock: Clock) -> None:
        self._project = settings.project.name
        self._registry = registry
        self._clock = clock
        self._security = settings.security
        self._jwt = JwtVerifier.of(settings)
        self._policy = Policy()
        self._seen: dict[str, Alias] | None = None
        self._callers: dict[bytes, Caller] = {}
        self._denials = _Denials()
        self.on = settings.security.require_token or self._jwt is not None

    def admit(
        self, name: str, authorization: str | None, *, peer: Callable[[], str]
    ) -> Caller | None:
        """Who calls the method or path `name`; None while the gate is open.

        `peer` tells where from, for the log. Streams ask again for every message, so that revoking
        a token ends them. Raises `Unauthenticated`, and `PermissionDenied` for callers that no
        grant lets do this at all.
        """
        if not self.on:
            return None
        action = ACTION_OF.get(name, "admin")
        if action is None or (action == "metrics" and self._security.open_metrics):
            return None
        try:
            caller = self._caller(authorization)
            caller.check(action)
        except (Unauthenticated, PermissionDenied) as error:
            self._denials.note(error, name, peer())
            raise
        return caller

    def check_read(
        self, caller: Caller | None, what: What, *, now_us: int, count: int | None = None
    ) -> None:
        """May `caller` have these features? Nobody needs to ask while the gate is open.

        Raises `Unauthenticated`, `PermissionDenied`.
        """
        try:
            if caller is None:
                raise Unauthenticated("No token was given; one is needed here")
            caller.check_read(what, now_us=now_us)
        except (Unauthenticated, PermissionDenied) as error:
            self._denials.note(error, str(what), "")
            raise
        if self._security.log_reads and count is not None:
            logger().info("read", who=caller.principal.name, what=str(what), entities=count)

    def check_push(self, caller: Caller | None, source: str, *, now_us: int) -> None:
        """May `caller` push rows of this source? Raises `Unauthenticated`, `PermissionDenied`."""
        if not self.on:
            return
        try:
            if caller is None:
                raise Unauthenticated("No token was given; one is needed here")
            caller.check_push(source, now_us=now_us)
        except (Unauthenticated, PermissionDenied) as error:
            self._denials.note(error, f"push {source}", "")
            raise

    def refresh(self) -> bool:
        """Read the policy if anything of it moved; whether it did. Raises what the registry raises
        while it is away; what was known stays."""
        aliases = access_aliases(self._registry)
        renewed = self._jwt.refresh() if self._jwt is not None else False
        if aliases == self._seen and not renewed:
            return False
        policy = read_policy(self._registry, aliases)
        # The callers last: whoever is let in by the old policy meanwhile is forgotten again.
        self._policy, self._seen, self._callers = policy, aliases, {}
        self.on = policy.enforced or self._security.require_token or self._jwt is not None
        return True

    def _caller(self, authorization: str | None) -> Caller:
        if not authorization:
            raise Unauthenticated("No token was given; send authorization: Bearer <token>")
        if len(authorization) > HEADER_CHARS_MAX:
            raise Unauthenticated("The authorization header is too long")
        callers = self._callers
        key = hashlib.sha256(authorization.encode("utf-8", "surrogateescape")).digest()
        known = callers.get(key)
        now_us = self._clock.now_us()
        if known is not None and (known.expires_at_us is None or known.expires_at_us > now_us):
            return known
        caller = Caller(self._principal(authorization, now_us), self._project)
        if len(callers) >= KNOWN_CALLERS_MAX:
            callers.clear()
        callers[key] = caller
        return caller

    def _principal(self, authorization: str, now_us: int) -> Principal:
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated("The authorization header must be: Bearer <token>")
        if self._jwt is not None and not token.startswith(TOKEN_PREFIX):
            name, allow, expires_at_us = self._jwt.verify(token, now_us=now_us)
            return Principal(name, self._policy.grants(allow), expires_at_us)
        return self._policy.principal(token, now_us=now_us)


class LocalGate:
    """The same question where the caller is this process itself, by the token that it has."""

    def __init__(self, registry: Registry, project: str, clock: Clock) -> None:
        self._registry = registry
        self._project = project
        self._clock = clock
        self._policy = Policy()
        self._seen: dict[str, Alias] | None = None
        self._caller: Caller | None = None

    def refresh(self) -> None:
        """Read the policy if anything of it moved. Raises what the registry raises."""
        aliases = access_aliases(self._registry)
        if aliases != self._seen:
            self._policy, self._caller = read_policy(self._registry, aliases), None
            self._seen = aliases

    def check_read(self, what: What) -> None:
        """May we read this? Raises `Unauthenticated`, `PermissionDenied`."""
        if not self._policy.enforced:
            return
        now_us = self._clock.now_us()
        if self._caller is None:
            token = self._registry.identity.token
            principal = self._policy.principal(token, now_us=now_us)
            self._caller = Caller(principal, self._project)
        self._caller.check_read(what, now_us=now_us)


class _Denials:
    """Notes who was turned away, but never more than so many a second: a flood of bad requests
    must not become a flood of log lines."""

    def __init__(self) -> None:
        self._second = 0
        self._logged = 0
        self._left_out = 0

    def note(self, error: FeatureStoreError, what: str, peer: str) -> None:
        second = int(time.monotonic())
        if second != self._second:
            if self._left_out:
                logger().warning("denied requests not logged", count=self._left_out)
            self._second, self._logged, self._left_out = second, 0, 0
        if self._logged >= DENIALS_LOGGED_PER_S:
            self._left_out += 1
            return
        self._logged += 1
        who = getattr(error, "principal", "") or None
        logger().warning(
            "request denied", code=error.code, who=who, what=what, peer=peer, reason=error.message
        )


async def follow_gate(gate: Gate, interval_s: float, tls: ServerTls | None) -> None:
    """Refresh the gate, and the certificates, every `interval_s` in a thread, for ever; cancel to
    stop. While the registry is away what was known stands (tokens still expire)."""
    away = False
    while True:
        await asyncio.sleep(interval_s)
        if tls is not None:
            tls.reload()
        try:
            if await asyncio.to_thread(gate.refresh):
                logger().info("access control loaded", tokens_needed=gate.on)
            away = False
        except (RegistryError, StoreError) as error:
            if not away:
                logger().warning("access control not read; what is known stays", reason=str(error))
            away = True
