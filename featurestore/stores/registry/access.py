"""How a registry keeps access control in its own words: tokens and the policy are records under
aliases, so that creating and revoking have history; an entry of the audit log is a record that
nothing points to and nothing ever moves.

    security/policy → policy:access      roles, and whether tokens are demanded
    token/<name>    → token:<name>       digest, grants, expiry; revoked: the alias is gone
    audit:<action>                       who, from where, on what, allowed or denied
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Literal

from featurestore.permissions import Identity, Policy, TokenFacts
from featurestore.records import Alias, Record, StoredRecord

POLICY_ALIAS = "security/policy"
TOKEN_PREFIX = "token/"  # noqa: S105 # of aliases
AUDIT = "audit"

Outcome = Literal["allowed", "denied"]


def policy_of(aliases: Mapping[str, Alias], records: Iterable[StoredRecord]) -> Policy:
    """The policy that these aliases (`security/…`, `token/…`) and their records state."""
    by_id = {stored.id: stored for stored in records}
    policy = by_id.get(aliases[POLICY_ALIAS].target) if POLICY_ALIAS in aliases else None
    tokens = [
        token_of(by_id[alias.target])
        for name, alias in aliases.items()
        if name.startswith(TOKEN_PREFIX) and alias.target in by_id
    ]
    return Policy.of(None if policy is None else policy.record.body, tokens)


def token_of(stored: StoredRecord) -> TokenFacts:
    """What a token's record says."""
    return TokenFacts.of(
        stored.record.body, stored.record.name, at_us=stored.created_at_us, by=stored.author
    )


def audit_record(
    identity: Identity,
    who: str,
    action: str,
    *,
    resource: str | None,
    outcome: Outcome,
    detail: str,
) -> Record:
    """One entry of the audit log. Its instant and author are those of the record as stored."""
    body = {
        "who": who,
        "user": identity.author,
        "host": identity.host,
        "resource": resource,
        "outcome": outcome,
        "detail": detail,
        "entry": uuid.uuid4().hex,
    }
    return Record(kind=AUDIT, name=action, body=body)
