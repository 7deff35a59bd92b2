"""Who may do what: the vocabulary, and one pure answer to every such question.

A grant is written `action:project/resource`:

    read:shop/offer_model     one feature service    read:shop/views/weather    one view, by refs
    read:shop                 all of the project     apply:shop/env/staging     one environment
    push:shop/landings        one source             *:shop                     everything in it
    track:shop/delay          one experiment, training set or model by its name

`*` stands for any action, any project, or (as the whole resource or its last part) any resource.
What is written without a resource means all of them. Nothing is allowed that no grant allows.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from featurestore.errors import InvalidRequest, PermissionDenied, Unauthenticated, suggest

Action = Literal[
    "read", "info", "metrics", "push", "apply", "materialize", "delete", "track", "approve", "admin"
]
"""`track` is making training sets and runs and registering models; `info` (what is served, docs,
reflection) comes with any other grant of the project; `admin` is tokens, roles, access control, the
audit log."""
ACTIONS: tuple[Action, ...] = get_args(Action)
WRITES: tuple[Action, ...] = ("apply", "materialize", "delete", "push", "track", "approve", "admin")
"""Whoever may do any of these may add records, which mean nothing before an alias names them."""

TRACKS: tuple[Action, ...] = ("track", "apply", "approve", "admin")
"""Whoever may do any of these to an experiment, a training set or a model may write its records."""

PINNERS: tuple[Action, ...] = ("apply", "materialize", "approve")
"""Whoever may do any of these may say which versions of services stay answerable."""

Need = tuple[tuple[Action, ...], str | None]
"""Any of these actions on this resource (None: on any)."""

VIEWS = "views/"
"""Before a view's name in a resource; a bare name is a feature service (for `push`: a source)."""
TOKEN_PREFIX = "fs_"  # noqa: S105 # how a token begins, so that scanners find leaked ones
TOKEN_BYTES = 32
GRANTS_PER_TOKEN_MAX = 256
_PART = re.compile(r"[^\s:/*,]{1,512}")
_ROLE = re.compile(r"[a-z][a-z0-9_\-]{0,62}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@\-]{0,126}")


def new_token() -> str:
    """A bearer token: 256 random bits."""
    return TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)


def digest_of(token: str) -> str:
    """What is kept of a token. One round of SHA-256 is enough, for nobody guesses 256 bits."""
    return hashlib.sha256(token.encode()).hexdigest()


def check_name(name: str, what: str) -> str:
    """`name`, if a token or a role can have it. Raises `InvalidRequest`."""
    pattern = _ROLE if what == "role" else _NAME
    if not pattern.fullmatch(name):
        raise InvalidRequest(f"{name!r} is not a {what}'s name; it must match {pattern.pattern}")
    return name


@dataclass(frozen=True, slots=True)
class Grant:
    """One permission; `*` is any action or project, and any resource that begins like it."""

    action: str
    project: str
    resource: str

    def allows(self, action: Action, project: str, resource: str | None) -> bool:
        """Whether it covers this; `resource` None asks for any at all."""
        if self.project not in ("*", project):
            return False
        if action == "info":
            return True
        if self.action not in ("*", action):
            return False
        if resource is None or self.resource in ("*", resource):
            return True
        return self.resource.endswith("/*") and resource.startswith(self.resource[:-1])

    def __str__(self) -> str:
        return f"{self.action}:{self.project}/{self.resource}"


def parse_grant(text: str) -> Grant:
    """`read:shop/offer_model` as a `Grant`. Raises `InvalidRequest`."""
    action, colon, rest = text.partition(":")
    project, _, resource = rest.partition("/")
    if action != "*" and action not in ACTIONS:
        raise InvalidRequest(f"grant {text!r}: no action {action!r}.{suggest(action, ACTIONS)}")
    resource = resource or "*"
    *above, last = resource.split("/")
    parts = [*above, "x" if last == "*" else last, "x" if project == "*" else project]
    if not colon or not all(_PART.fullmatch(part) for part in parts):
        raise InvalidRequest(
            f"grant {text!r}: write action:project/resource, e.g. read:shop/offer_model, "
            "read:shop/views/weather, apply:shop/env/prod, push:shop/*"
        )
    return Grant(action, project, resource)


def parse_allowance(text: str) -> str:
    """A grant, or a role's name, in its canonical form. Raises `InvalidRequest`."""
    return str(parse_grant(text)) if ":" in text else check_name(text, "role")


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who proved who they are (`name`), and what they may do."""

    name: str
    grants: tuple[Grant, ...]
    expires_at_us: int | None = None

    def may(self, action: Action, project: str, resource: str | None) -> bool:
        """The one rule: some grant allows it."""
        return any(grant.allows(action, project, resource) for grant in self.grants)

    def check(self, action: Action, project: str, resource: str | None) -> None:
        """Raises `PermissionDenied`, which names the grant that is missing."""
        if not self.may(action, project, resource):
            wanted = f"{action}:{project}" + (f"/{resource}" if resource else "")
            raise PermissionDenied(
                f"{self.name} may not do this; it takes the grant {wanted}",
                principal=self.name,
                grant=wanted,
            )

    def check_any(self, needs: Iterable[Need], project: str) -> None:
        """For each need, any of its actions. Raises `PermissionDenied`."""
        for actions, resource in needs:
            if not any(self.may(action, project, resource) for action in actions):
                self.check(actions[0], project, resource)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a process of ours says it is: the system's user, the machine, and the token that proves
    it where access control is on."""

    author: str
    host: str = ""
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """What the registry keeps of a token. `allow` holds grants and names of roles."""

    name: str
    digest: str = field(repr=False)
    allow: tuple[str, ...]
    expires_at_us: int | None
    created_at_us: int = 0
    created_by: str = ""

    @classmethod
    def of(cls, body: Mapping[str, Any], name: str, *, at_us: int = 0, by: str = "") -> TokenFacts:
        """From a token's record."""
        expiry = body.get("expires_at_us")
        allow = tuple(str(text) for text in body.get("allow", ()))
        digest = str(body.get("digest", ""))
        return cls(name, digest, allow, None if expiry is None else int(expiry), at_us, by)

    def body(self) -> dict[str, Any]:
        """What a token's record holds; its name apart."""
        return {
            "digest": self.digest,
            "allow": list(self.allow),
            "expires_at_us": self.expires_at_us,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """All that decides who may do what in one project, as it stood at one moment.

    `enforced` is whether the registry demands tokens of those who write to it; `tokens` are by
    their digest.
    """

    enforced: bool = False
    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tokens: Mapping[str, TokenFacts] = field(default_factory=dict)

    @classmethod
    def of(cls, body: Mapping[str, Any] | None, tokens: Iterable[TokenFacts]) -> Policy:
        """From the body of the policy's record (None: there is none) and the tokens in force."""
        body = body or {}
        roles = body.get("roles", {}).items()
        return cls(
            enforced=bool(body.get("enforced", False)),
            roles={str(name): tuple(map(str, grants)) for name, grants in roles},
            tokens={token.digest: token for token in tokens},
        )

    def principal(self, token: str, *, now_us: int) -> Principal:
        """Whose token it is. Raises `Unauthenticated`."""
        if not token:
            raise Unauthenticated("No token was given; one is needed here")
        digest = digest_of(token)
        found = self.tokens.get(digest)
        if found is None or not secrets.compare_digest(found.digest, digest):
            raise Unauthenticated("The token is not known here; it may have been revoked")
        if found.expires_at_us is not None and found.expires_at_us <= now_us:
            raise Unauthenticated("The token has expired; ask for a new one")
        return Principal(f"token:{found.name}", self.grants(found.allow), found.expires_at_us)

    def grants(self, allow: Iterable[str]) -> tuple[Grant, ...]:
        """The grants that grants and roles come to. A role that is gone allows nothing, and neither
        does a grant that a newer version wrote and this one cannot read."""
        found: dict[Grant, None] = {}
        for text in allow:
            for grant in [text] if ":" in text else self.roles.get(text, ()):
                with suppress(InvalidRequest):
                    found[parse_grant(grant)] = None
        return tuple(found)


def needs_of_commit(
    aliases: Iterable[str], records: Iterable[tuple[str, str]], *, blobs: bool, ledger: bool
) -> tuple[Need, ...]:
    """What somebody must be allowed to do to commit these alias moves, records (kind and name),
    blobs and ledger rows.

    What is not known here takes `admin`, so that a new kind of alias is closed until it is listed.
    """
    needs: dict[Need, None] = {}
    for alias in aliases:
        needs[_need_of_alias(alias)] = None
    if ledger:
        needs[("materialize",), None] = None
    if blobs:
        needs[WRITES, None] = None
    for kind, name in records:
        match kind:
            case "audit":
                continue
            case "deletion":
                needs[("delete",), name] = None
            case "token" | "policy":
                needs[("admin",), None] = None
            case "run":  # its name is `experiment/id`
                needs[TRACKS, tracked(name)] = None
            case "training_set" | "model" | "evaluation" | "view_profile":
                needs[TRACKS, name] = None
            case "snapshot" | "promotion" | "gate_report":
                needs[TRACKS, None] = None
            case "approval" | "break_glass":
                needs[("approve",), f"model/{name}"] = None
            case _:
                needs[WRITES, None] = None
    return tuple(needs)


def tracked(run: str) -> str:
    """The experiment of a run that is called `experiment/id`."""
    return run.rpartition("/")[0] or run


def _need_of_alias(alias: str) -> Need:
    kind, _, rest = alias.partition("/")
    match kind:
        case "env":
            return _need_of_environment(rest)
        case "serving":
            return ("apply", "materialize"), f"env/{rest.partition('/')[0]}"
        case "pinned":
            return PINNERS, None
        case "store":
            return ("materialize", "apply"), f"env/{rest}"
        case "online":
            return ("materialize", "apply"), None
        case "training_set" | "evaluation" | "mlflow" | "view_profile":
            # A set's tags are below its name, MLflow's pointers (`mlflow/<model>/<alias>`) below
            # the model's.
            return TRACKS, rest if kind == "evaluation" else rest.partition("/")[0]
        case "model":
            return _need_of_model(rest)
        case "promotion" | "approval":
            return (TRACKS if kind == "promotion" else ("approve",)), None
        case "restored" | "tagged":  # `restored/pushed/<source>`, `tagged/pushed/<source>/<tag>`
            source = rest.partition("/")[2].partition("/")[0]
            return (("delete",) if kind == "restored" else TRACKS), source
        case _:
            return ("admin",), None


def _need_of_environment(rest: str) -> Need:
    """`prod`, or `dev/model/delay/production`, which is kept for an environment."""
    environment, _, below = rest.partition("/")
    kind, _, model = below.partition("/")
    if kind == "model":
        return _need_of_model(model)
    return (("admin",), None) if below else (("apply",), f"env/{environment}")


def _need_of_model(rest: str) -> Need:
    """Whoever may track a model registers its versions (`model/delay`) and puts them into staging;
    what is in production, and what leaves it, takes approval."""
    name, _, stage = rest.partition("/")
    if stage in ("", "staging"):
        return TRACKS, name
    return ("approve",), f"model/{name}"
