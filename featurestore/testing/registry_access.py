"""The part of the registry's contract that is about access control: who may commit what."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import pytest

from featurestore.errors import PermissionDenied, Unauthenticated
from featurestore.permissions import Identity, TokenFacts, digest_of
from featurestore.records import LedgerRow, Record

if TYPE_CHECKING:
    from featurestore.stores.registry.base import Registry

ROOT, PROJECT = "fs_root", "shop"
Commit = Callable[["Registry"], None]


class Opener(Protocol):
    def open(self, *, project: str = ..., author: str = ...) -> Registry: ...


def token_record(name: str, *allow: str, expires_at_us: int | None = None) -> Record:
    """The record of token `fs_<name>`."""
    facts = TokenFacts(name, digest_of(f"fs_{name}"), allow, expires_at_us)
    return Record(kind="token", name=name, body=facts.body())


def policy_record(*, enforced: bool, **roles: list[str]) -> Record:
    """The policy."""
    return Record(kind="policy", name="access", body={"enforced": enforced, "roles": roles})


def commit_tokens(registry: Registry, *tokens: Record) -> None:
    """Create tokens, in place of those of the same names."""
    aliases = {f"token/{record.name}": record.id for record in tokens}
    registry.commit(records=tokens, aliases=aliases)


def commit_policy(registry: Registry, policy: Record) -> None:
    """Make `policy` the one in force."""
    registry.commit(records=[policy], aliases={"security/policy": policy.id})


def _moves(alias: str, kind: str = "fact") -> Commit:
    record = Record(kind=kind, name="x", body={"of": alias})
    return lambda registry: registry.commit(records=[record], aliases={alias: record.id})


def _writes(kind: str, name: str = "customer") -> Commit:
    return lambda registry: registry.commit(records=[Record(kind=kind, name=name)])


def _removes(alias: str) -> Commit:
    return lambda registry: registry.commit(aliases={alias: None})


@dataclass(frozen=True)
class Case:
    """A commit, grants each of which is enough for it, and grants that all together are not."""

    commit: Commit
    enough: tuple[str, ...]
    too_little: tuple[str, ...] = ("read:shop", "*:other", "metrics:shop")


CASES: Mapping[str, Case] = {
    "apply": Case(
        _moves("env/prod"),
        ("apply:shop", "apply:shop/env/prod", "apply:*/env/*", "*:shop"),
        ("materialize:shop", "apply:shop/env/test", "apply:other", "delete:shop"),
    ),
    "serve": Case(
        _moves("serving/prod/m"),
        ("apply:shop/env/prod", "materialize:shop/env/prod"),
        ("apply:shop/env/test", "materialize:shop/env/test", "delete:shop", "push:shop"),
    ),
    "identify the store": Case(
        _moves("store/prod"),
        ("materialize:shop/env/prod", "apply:shop/env/prod"),
        ("apply:shop/env/test", "push:shop", "delete:shop"),
    ),
    "make a table": Case(_moves("online/v/h"), ("apply:shop/env/x", "materialize:shop/env/x")),
    "write a record": Case(_writes("fact"), ("delete:shop", "apply:shop/env/x")),
    "delete an entity": Case(
        _writes("deletion"), ("delete:shop/customer",), ("apply:shop", "delete:shop/order")
    ),
    "write a blob": Case(lambda r: r.commit(blobs=[b"x"]), ("materialize:shop",)),
    "track a run": Case(
        _writes("run", "delay/1a2b"),
        ("track:shop/delay", "track:shop", "apply:shop", "admin:shop"),
        ("track:shop/del", "track:shop/delay/1a2b", "push:shop", "apply:shop/env/prod"),
    ),
    "make a training set": Case(
        _moves("training_set/x", "training_set"),
        ("track:shop/x", "track:shop", "approve:shop"),
        ("track:shop/y", "apply:shop/env/prod", "push:shop"),
    ),
    "name a snapshot": Case(_writes("snapshot"), ("track:shop/any", "apply:shop/env/x")),
    "approve": Case(_moves("approval/x"), ("approve:shop",), ("apply:shop", "delete:shop")),
    "make a token": Case(_moves("token/z", "token"), ("admin:shop",), ("apply:shop",)),
    "revoke a token": Case(_removes("token/z"), ("admin:shop",), ("apply:shop", "delete:shop")),
    "do what nobody listed": Case(_moves("novelty/x"), ("admin:shop",), ("apply:shop",)),
    "change the policy": Case(_moves("security/policy", "policy"), ("admin:shop",)),
}


class RegistryAccessRules:
    """Mixed into `RegistryContract`; needs its fixture `opener`."""

    @contextmanager
    def _as(self, opener: Opener, token: str, *, project: str = PROJECT) -> Iterator[Registry]:
        with opener.open(project=project) as registry:
            registry.identity = Identity(author="ann", host="here", token=token)
            yield registry

    def _lock(self, opener: Opener, *tokens: Record, **roles: list[str]) -> None:
        with opener.open() as registry:
            commit_tokens(registry, token_record("root", "*:shop"), *tokens)
            commit_policy(registry, policy_record(enforced=True, **roles))

    def test_access_control_is_off_until_a_policy_says_so(self, opener: Opener) -> None:
        with opener.open() as registry:
            _moves("env/prod")(registry)
            commit_policy(registry, policy_record(enforced=False))
            _moves("env/test")(registry)
            assert registry.history("env/test")[-1].author == "ann"

    def test_each_commit_takes_its_own_grant(self, opener: Opener) -> None:
        tokens = [token_record("little0", "info:shop")]
        for number, case in enumerate(CASES.values(), start=1):
            tokens.append(token_record(f"little{number}", *case.too_little))
            for place, grant in enumerate(case.enough):
                tokens.append(token_record(f"enough{number}-{place}", grant))
        self._lock(opener, *tokens)
        for number, (what, case) in enumerate(CASES.items(), start=1):
            with opener.open() as registry:
                before = registry.aliases()
                for token in ("", "fs_nobody", "fs_little0", f"fs_little{number}"):
                    registry.identity = Identity(author="ann", token=token)
                    with pytest.raises((Unauthenticated, PermissionDenied)):
                        case.commit(registry)
                    assert registry.aliases() == before, what
                for place in range(len(case.enough)):
                    token = f"fs_enough{number}-{place}"
                    registry.identity = Identity(author="ann", token=token)
                    case.commit(registry)

    def test_whoever_may_administrate_may_end_it(self, opener: Opener) -> None:
        self._lock(opener, token_record("a", "apply:shop", "materialize:shop", "delete:shop"))
        with self._as(opener, "fs_a") as registry, pytest.raises(PermissionDenied, match="admin"):
            registry.commit(aliases={"security/policy": None})
        with self._as(opener, "fs_root") as registry:
            registry.commit(aliases={"security/policy": None})
        with self._as(opener, "") as registry:
            CASES["apply"].commit(registry)

    def test_who_has_any_grant_may_note_uses(self, opener: Opener) -> None:
        self._lock(opener, token_record("r", "read:shop/x"), token_record("o", "*:other"))
        with self._as(opener, "fs_r") as registry:
            registry.note_uses("prod", {"x": 1})
        for token in ("", "fs_o"):
            with (
                self._as(opener, token) as registry,
                pytest.raises((Unauthenticated, PermissionDenied)),
            ):
                registry.note_uses("prod", {"x": 2})
        with opener.open() as registry:
            assert [use.at_us for use in registry.last_uses(["x"])] == [1]
            # What servers try by themselves, time and again, is not for the audit log.
            assert registry.records(kind="audit") == []

    def test_the_ledger_takes_materialize(self, opener: Opener) -> None:
        row = LedgerRow(
            run_id="r", view="v", view_version="a" * 64, table="t", generation=0,
            mode="incremental", start_us=None, end_us=1, watermark_us=1, reach_us=None,
            rows_read=0, rows_written=0, rows_skipped=0, started_at_us=0, finished_at_us=1,
        )  # fmt: skip
        self._lock(opener, token_record("m", "materialize:shop"), token_record("a", "apply:shop"))
        with self._as(opener, "fs_a") as registry:
            with pytest.raises(PermissionDenied, match="materialize:shop"):
                registry.commit(ledger=[row])
            assert registry.ledger() == []
        with self._as(opener, "fs_m") as registry:
            registry.commit(ledger=[row])
            assert registry.ledger() == [row]

    def test_tokens_expire_are_revoked_and_follow_their_roles(self, opener: Opener) -> None:
        with opener.open() as registry:
            now_us = self._now(registry)
        self._lock(
            opener,
            token_record("old", "*:shop", expires_at_us=now_us),
            token_record("young", "*:shop", expires_at_us=now_us + 1),
            token_record("role", "deployer"),
            deployer=["apply:shop/env/prod"],
        )
        apply = CASES["apply"].commit
        with (
            self._as(opener, "fs_old") as registry,
            pytest.raises(Unauthenticated, match="expired"),
        ):
            apply(registry)
        for name in ("young", "role"):
            with self._as(opener, f"fs_{name}") as registry:
                apply(registry)
        with self._as(opener, "fs_root") as registry:
            registry.commit(aliases={"token/young": None})
            commit_policy(registry, policy_record(enforced=True))
        other = _moves("env/prod", "later")
        with self._as(opener, "fs_young") as registry, pytest.raises(Unauthenticated):
            other(registry)
        with self._as(opener, "fs_role") as registry, pytest.raises(PermissionDenied):
            other(registry)

    def test_who_proved_it_is_the_author(self, opener: Opener) -> None:
        self._lock(opener)
        with self._as(opener, "fs_root") as registry:
            CASES["apply"].commit(registry)
            assert registry.history("env/prod")[-1].author == "token:root"

    def test_what_is_denied_is_in_the_log(self, opener: Opener) -> None:
        self._lock(opener, token_record("reader", "read:shop"))
        for token, who in (("fs_reader", "token:reader"), ("", "unknown")):
            with self._as(opener, token) as registry:
                with pytest.raises((Unauthenticated, PermissionDenied)):
                    registry.commit(aliases={"env/prod": None}, reason="sneak")
                entry = registry.records(kind="audit")[-1].record
                assert (entry.name, entry.body["who"]) == ("sneak", who)
                assert (entry.body["outcome"], entry.body["host"]) == ("denied", "here")

    def test_the_log_is_pruned_and_says_so(self, opener: Opener) -> None:
        def note(text: str) -> Record:
            return Record(kind="audit", name=text, body={"who": "ann"})

        with opener.open(project="other") as other:
            other.commit(records=[note("theirs")])
        with opener.open() as registry:
            registry.commit(
                records=[note("old"), note("pointed at"), Record(kind="fact", name="f")]
            )
            registry.commit(aliases={"env/prod": note("pointed at").id})
            after_us = self._now(registry) + 1
            assert registry.prune_audit(before_us=after_us - 1_000_000_000_000) == 0
            registry.identity = Identity(author="ann", host="here")
            assert registry.prune_audit(before_us=after_us, reason="weekly") == 2
            left = [stored.record for stored in registry.records(kind="audit")]
            assert [record.name for record in left] == ["pointed at", "prune"]
            body = left[-1].body
            assert (body["who"], body["host"], body["outcome"]) == ("ann", "here", "allowed")
            assert body["detail"].startswith("2 entries from before ")
            assert body["detail"].endswith("; weekly")
            assert len(registry.records(kind="fact")) == 2
        with opener.open(project="other") as other:
            assert [stored.record.name for stored in other.records(kind="audit")] == ["theirs"]

    def test_pruning_takes_admin(self, opener: Opener) -> None:
        self._lock(
            opener,
            token_record("writer", "apply:shop", "delete:shop", "materialize:shop"),
            token_record("auditor", "admin:shop/audit"),
        )
        far_us = 2**57
        with self._as(opener, "fs_writer") as registry:
            with pytest.raises(PermissionDenied, match="admin:shop/audit"):
                registry.prune_audit(before_us=far_us)
            denied = registry.records(kind="audit")[-1].record
            assert (denied.name, denied.body["who"]) == ("prune", "token:writer")
        with self._as(opener, "fs_auditor") as registry:
            assert registry.prune_audit(before_us=far_us) == 1
            (left,) = registry.records(kind="audit")
            assert left.record.body["who"] == "token:auditor"
            assert left.author == "token:auditor"

    def test_one_project_does_not_lock_another(self, opener: Opener) -> None:
        self._lock(opener)
        with self._as(opener, "", project="other") as registry:
            CASES["apply"].commit(registry)
        with self._as(opener, "", project=PROJECT) as registry, pytest.raises(Unauthenticated):
            CASES["apply"].commit(registry)

    def _now(self, registry: Registry) -> int:
        """The time of the opener's clock, as a record tells it."""
        registry.commit(records=[Record(kind="fact", name="now")])
        (stored,) = registry.records(kind="fact", name="now")
        return stored.created_at_us
