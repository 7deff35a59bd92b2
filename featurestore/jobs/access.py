"""Access control as an administrator works it: tokens, roles, the switch, the audit log.

The registry checks every commit by itself; `authorize` asks the same question before a job begins,
so that one which may not end never starts, and notes the answer in the audit log.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featurestore.errors import (
    DuplicateName,
    InvalidRequest,
    LimitExceeded,
    PermissionDenied,
    RecordNotFound,
    Unauthenticated,
)
from featurestore.permissions import (
    GRANTS_PER_TOKEN_MAX,
    Action,
    Policy,
    TokenFacts,
    check_name,
    digest_of,
    new_token,
    parse_allowance,
    parse_grant,
)
from featurestore.records import Alias, AliasIs, Record
from featurestore.stores.registry.access import (
    AUDIT,
    POLICY_ALIAS,
    TOKEN_PREFIX,
    Outcome,
    audit_record,
    policy_of,
    token_of,
)
from featurestore.timeline import DAY_US, format_duration, parse_duration

if TYPE_CHECKING:
    from featurestore.stores.registry.base import Registry

ROLES_MAX = 256
AUDIT_KEPT_US_MIN = DAY_US
"""What is younger stays in the audit log: nobody prunes what they did a moment ago."""


def access_aliases(registry: Registry) -> dict[str, Alias]:
    """All that decides who may do what: it has changed exactly when these have."""
    return registry.aliases(POLICY_ALIAS) | registry.aliases(TOKEN_PREFIX)


def read_policy(registry: Registry, aliases: Mapping[str, Alias] | None = None) -> Policy:
    """The policy as it stands."""
    aliases = access_aliases(registry) if aliases is None else aliases
    ids = sorted({alias.target for alias in aliases.values()})
    return policy_of(aliases, registry.records(ids=ids) if ids else ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Who asks a registry for something, in which project and at what time."""

    registry: Registry
    project: str
    now_us: int


def authorize(asker: Asker, action: Action, resource: str | None, *, detail: str = "") -> None:
    """Check that we may do this, and note it in the audit log, allowed or denied.

    Raises `Unauthenticated`, `PermissionDenied`.
    """
    who = admit(asker, action, resource)
    note(asker.registry, who, action, resource, detail=detail)


def admit(asker: Asker, action: Action, resource: str | None) -> str:
    """Check that we may do this and return who we are. A denial is noted in the audit log; what is
    allowed is for the caller to `note` when it begins.

    Raises `Unauthenticated`, `PermissionDenied`.
    """
    try:
        return _who(asker, action, resource)
    except (Unauthenticated, PermissionDenied) as error:
        who = getattr(error, "principal", "") or "unknown"
        note(asker.registry, who, action, resource, detail=error.code, denied=True)
        raise


def check(asker: Asker, action: Action, resource: str | None) -> None:
    """The same without a note, for what only reads. Raises as `authorize` does."""
    _who(asker, action, resource)


def may(asker: Asker, action: Action, resource: str | None) -> bool:
    """The same as an answer, for who can do without."""
    try:
        _who(asker, action, resource)
    except (Unauthenticated, PermissionDenied):
        return False
    return True


def _who(asker: Asker, action: Action, resource: str | None) -> str:
    identity, policy = asker.registry.identity, read_policy(asker.registry)
    if not policy.enforced:
        with suppress(Unauthenticated):  # whoever has a token is noted by it all the same
            return policy.principal(identity.token, now_us=asker.now_us).name
        return identity.author
    principal = policy.principal(identity.token, now_us=asker.now_us)
    principal.check(action, asker.project, resource)
    return principal.name


def note(
    registry: Registry,
    who: str,
    action: str,
    resource: str | None,
    *,
    detail: str = "",
    denied: bool = False,
) -> None:
    """Append one entry to the audit log."""
    outcome: Outcome = "denied" if denied else "allowed"
    entry = audit_record(
        registry.identity, who, action, resource=resource, outcome=outcome, detail=detail
    )
    registry.commit(records=[entry], reason="audit")


# --- tokens ---------------------------------------------------------------------------------------


def create_token(
    asker: Asker, name: str, *, allow: Iterable[str], expires_in_us: int | None
) -> tuple[str, TokenFacts]:
    """A new bearer token, which is told only now, and what is kept of it.

    `allow` holds grants (`read:shop/offer_model`) and names of roles. Raises `InvalidRequest`,
    `LimitExceeded`, `DuplicateName` for a name in use, `PermissionDenied`.
    """
    check_name(name, "token")
    allowances = tuple(dict.fromkeys(parse_allowance(text) for text in allow))
    if not allowances:
        raise InvalidRequest(f"token {name!r} would allow nothing; name at least one grant or role")
    if len(allowances) > GRANTS_PER_TOKEN_MAX:
        raise LimitExceeded(
            "GRANTS_PER_TOKEN_MAX", asked=len(allowances), allowed=GRANTS_PER_TOKEN_MAX
        )
    if expires_in_us is not None and expires_in_us <= 0:
        raise InvalidRequest("a token must expire after now")
    authorize(asker, "admin", f"tokens/{name}", detail=f"create: {', '.join(allowances)}")
    alias = f"{TOKEN_PREFIX}{name}"
    if alias in asker.registry.aliases(alias):
        raise DuplicateName(f"There is a token {name!r} already; revoke it or take another name")
    token = new_token()
    expiry = None if expires_in_us is None else asker.now_us + expires_in_us
    facts = TokenFacts(name, digest_of(token), allowances, expiry)
    record = Record(kind="token", name=name, body=facts.body())
    asker.registry.commit(
        requires=[AliasIs(alias, None)],
        records=[record],
        aliases={alias: record.id},
        reason="create token",
    )
    return token, facts


def list_tokens(asker: Asker) -> list[dict[str, Any]]:
    """The tokens in force and the expired ones, by name; never their digests."""
    check(asker, "admin", "tokens")
    aliases = asker.registry.aliases(TOKEN_PREFIX)
    ids = sorted({alias.target for alias in aliases.values()})
    found = [token_of(stored) for stored in asker.registry.records(ids=ids)] if ids else []
    return [
        {
            "name": token.name,
            "allow": list(token.allow),
            "expires_at_us": token.expires_at_us,
            "expired": token.expires_at_us is not None and token.expires_at_us <= asker.now_us,
            "created_at_us": token.created_at_us,
            "created_by": token.created_by,
        }
        for token in sorted(found, key=lambda token: token.name)
    ]


def revoke_token(asker: Asker, name: str) -> None:
    """End a token; servers know it when they next look. Raises `RecordNotFound`."""
    authorize(asker, "admin", f"tokens/{name}", detail="revoke")
    alias, there = f"{TOKEN_PREFIX}{name}", asker.registry.aliases(TOKEN_PREFIX)
    if alias not in there:
        known = [other.removeprefix(TOKEN_PREFIX) for other in there]
        raise RecordNotFound(f"token {name}", known=known)
    asker.registry.commit(
        requires=[AliasIs(alias, there[alias].target)],
        aliases={alias: None},
        reason="revoke token",
    )


# --- the policy -----------------------------------------------------------------------------------


def set_enforced(asker: Asker, enforced: bool) -> None:
    """Switch access control on or off.

    Raises `InvalidRequest` where nobody could switch it off again: our own token must be one that
    allows `admin`.
    """
    policy = read_policy(asker.registry)
    if enforced:
        token = asker.registry.identity.token
        try:
            principal = policy.principal(token, now_us=asker.now_us)
            principal.check("admin", asker.project, "access")
        except (Unauthenticated, PermissionDenied) as error:
            raise InvalidRequest(
                "access control is switched on by somebody whose token allows admin, or nobody "
                f"could switch it off. ({error.message}.) Make one with: featurestore token create "
                f"admin --allow '*:{asker.project}', and set FEATURESTORE__SECURITY__TOKEN to it"
            ) from error
    authorize(asker, "admin", "access", detail="on" if enforced else "off")
    _write_policy(asker, enforced=enforced, roles=policy.roles)


def set_role(asker: Asker, role: str, grants: Iterable[str]) -> None:
    """Give a role these grants; with none it is gone, and what it allowed with it."""
    check_name(role, "role")
    wanted = tuple(dict.fromkeys(str(parse_grant(text)) for text in grants))
    policy = read_policy(asker.registry)
    roles = {name: each for name, each in policy.roles.items() if name != role}
    if wanted:
        roles[role] = wanted
    elif role not in policy.roles:
        raise RecordNotFound(f"role {role}", known=policy.roles)
    if len(roles) > ROLES_MAX:
        raise LimitExceeded("ROLES_MAX", asked=len(roles), allowed=ROLES_MAX)
    detail = f"allow: {', '.join(wanted)}" if wanted else "drop"
    authorize(asker, "admin", f"roles/{role}", detail=detail)
    _write_policy(asker, enforced=policy.enforced, roles=roles)


def _write_policy(asker: Asker, *, enforced: bool, roles: Mapping[str, tuple[str, ...]]) -> None:
    registry = asker.registry
    body = {
        "enforced": enforced,
        "roles": {name: list(grants) for name, grants in sorted(roles.items())},
    }
    record = Record(kind="policy", name="access", body=body)
    now = registry.aliases(POLICY_ALIAS).get(POLICY_ALIAS)
    registry.commit(
        requires=[AliasIs(POLICY_ALIAS, None if now is None else now.target)],
        records=[record],
        aliases={POLICY_ALIAS: record.id},
        reason="access control",
    )


# --- the audit log --------------------------------------------------------------------------------


def audit_log(
    asker: Asker, *, since_us: int | None = None, denied: bool = False, newest: int | None = None
) -> list[dict[str, Any]]:
    """Who did what, when, from where, allowed or denied; oldest first, at most `newest` of them."""
    check(asker, "admin", "audit")
    entries = [
        {
            "at_us": stored.created_at_us,
            "who": stored.record.body["who"],
            "action": stored.record.name,
            "resource": stored.record.body["resource"],
            "outcome": stored.record.body["outcome"],
            "user": stored.record.body["user"],
            "host": stored.record.body["host"],
            "detail": stored.record.body["detail"],
        }
        for stored in asker.registry.records(kind=AUDIT)
        if since_us is None or stored.created_at_us >= since_us
    ]
    if denied:
        entries = [entry for entry in entries if entry["outcome"] == "denied"]
    return entries if newest is None else entries[-newest:]


def duration_us(text: str) -> int:
    """`"90d"` in µs. Raises `InvalidRequest`."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise InvalidRequest(str(error)) from error


def prune_audit_log(asker: Asker, *, older_than_us: int) -> int:
    """Delete the entries that are older; returns how many. Pruning is an entry itself.

    Raises `InvalidRequest` for less than `AUDIT_KEPT_US_MIN`, `Unauthenticated`,
    `PermissionDenied`.
    """
    if older_than_us < AUDIT_KEPT_US_MIN:
        raise InvalidRequest(
            f"the audit log keeps at least {format_duration(AUDIT_KEPT_US_MIN)} "
            f"(AUDIT_KEPT_US_MIN), not {format_duration(older_than_us)}"
        )
    before_us = max(asker.now_us - older_than_us, 0)
    reason = f"older than {format_duration(older_than_us)}"
    return asker.registry.prune_audit(before_us=before_us, reason=reason)
