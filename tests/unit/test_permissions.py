"""Who may do what: grants, tokens, roles, and what a commit takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.errors import InvalidRequest, PermissionDenied, Unauthenticated
from featurestore.permissions import (
    ACTIONS,
    TOKEN_BYTES,
    Grant,
    Policy,
    Principal,
    TokenFacts,
    digest_of,
    needs_of_commit,
    new_token,
    parse_allowance,
    parse_grant,
)

names = st.text(st.characters(categories=("L", "Nd"), include_characters="_-"), min_size=1)


@pytest.mark.parametrize(
    ("grant", "action", "resource", "allowed"),
    [
        ("read:shop/model", "read", "model", True),
        ("read:shop/model", "read", "models", False),
        ("read:shop/model", "read", "mode", False),
        ("read:shop/model", "read", "Model", False),
        ("read:shop/model", "read", "views/model", False),
        ("read:shop/model", "read", None, True),
        ("read:shop/model", "push", "model", False),
        ("read:shop", "read", "views/weather", True),
        ("read:shop/*", "read", "model", True),
        ("read:shop/views/*", "read", "views/weather", True),
        ("read:shop/views/*", "read", "views", False),
        ("read:shop/views/*", "read", "viewsx/weather", False),
        ("read:shop/views/*", "read", "model", False),
        ("read:*/model", "read", "model", True),
        ("read:*", "read", "model", True),
        ("read:other", "read", "model", False),
        ("read:shopping", "read", "model", False),
        ("*:shop", "admin", "tokens/x", True),
        ("*:shop/model", "read", "model", True),
        ("*:shop/model", "admin", "access", False),
        ("*:other", "info", None, False),
        ("metrics:shop", "info", None, True),
        ("apply:shop/env/prod", "apply", "env/prod", True),
        ("apply:shop/env/prod", "apply", "env/production", False),
        ("admin:shop", "read", "model", False),
    ],
)
def test_what_a_grant_allows(grant: str, action: str, resource: str, allowed: bool) -> None:
    assert parse_grant(grant).allows(action, "shop", resource) is allowed  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    ["", "read", ":", "read:", ":shop", "reed:shop", "read:shop/a b", "read:a,b", "read:shop/a//b",
     "read:shop/*/x", "read:sh*p", "read:shop/m*", "READ:shop", "read:shop/a:b", "read: shop"],
)  # fmt: skip
def test_what_is_no_grant(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_grant(text)


@given(action=st.sampled_from(["*", *ACTIONS]), project=names, parts=st.lists(names, max_size=3))
def test_grants_read_back_as_written(action: str, project: str, parts: list[str]) -> None:
    text = f"{action}:{project}" + "".join(f"/{part}" for part in parts)
    grant = parse_grant(text)
    assert parse_grant(str(grant)) == grant
    assert grant.project == project
    resource = "/".join(parts) or "anything"
    assert grant.allows("read" if action == "*" else action, project, resource)  # type: ignore[arg-type]


@given(
    grant=st.builds(Grant, st.sampled_from(ACTIONS), names, names),
    action=st.sampled_from([a for a in ACTIONS if a != "info"]),
    project=names,
    resource=names,
)
def test_a_grant_without_stars_allows_itself_only(
    grant: Grant, action: str, project: str, resource: str
) -> None:
    same = (grant.action, grant.project, grant.resource) == (action, project, resource)
    assert grant.allows(action, project, resource) is same  # type: ignore[arg-type]


def test_nobody_may_anything_without_grants() -> None:
    nobody = Principal("nobody", ())
    for action in ACTIONS:
        with pytest.raises(PermissionDenied, match=f"{action}:shop"):
            nobody.check(action, "shop", None)


def test_tokens_are_long_and_random() -> None:
    tokens = {new_token() for _ in range(200)}
    assert len(tokens) == 200
    assert TOKEN_BYTES * 8 == 256
    assert all(token.startswith("fs_") and len(token) == 46 for token in tokens)


class TestPolicy:
    facts = TokenFacts("ci", digest_of("right"), ("read:shop/a", "deployer", "gone"), 100)
    policy = Policy.of({"enforced": True, "roles": {"deployer": ["apply:shop"]}}, [facts])

    def test_a_token_has_its_grants_and_those_of_its_roles(self) -> None:
        principal = self.policy.principal("right", now_us=99)
        assert principal.name == "token:ci"
        assert list(map(str, principal.grants)) == ["read:shop/a", "apply:shop/*"]

    @pytest.mark.parametrize("token", ["", "wrong", "Right", "right ", digest_of("right"), "ci"])
    def test_any_other_is_nobodys(self, token: str) -> None:
        with pytest.raises(Unauthenticated):
            self.policy.principal(token, now_us=0)

    def test_the_instant_of_expiry_is_too_late(self) -> None:
        with pytest.raises(Unauthenticated, match="expired"):
            self.policy.principal("right", now_us=100)

    def test_neither_token_nor_hash_is_shown(self) -> None:
        shown = f"{self.policy!r} {self.facts!r}"
        assert digest_of("right") not in shown.replace(f"'{digest_of('right')}': ", "")
        assert digest_of("right") not in repr(self.facts)

    def test_what_a_newer_version_grants_allows_nothing_here(self) -> None:
        assert self.policy.grants(["levitate:shop", "read:shop/a", "read:"]) == (
            Grant("read", "shop", "a"),
        )

    def test_no_policy_is_off(self) -> None:
        assert Policy.of(None, []).enforced is False


def test_a_commit_takes_what_it_moves() -> None:
    needs = needs_of_commit(
        ["env/prod", "serving/prod/model"], [("view", "v")], blobs=False, ledger=True
    )
    assert (("apply",), "env/prod") in needs
    assert (("apply", "materialize"), "env/prod") in needs
    assert (("materialize",), None) in needs
    assert needs_of_commit([], [("audit", "apply")], blobs=False, ledger=False) == ()
    for alias in ("token/x", "security/policy", "unheard/of", "", "environment/prod"):
        assert needs_of_commit([alias], [], blobs=False, ledger=False) == ((("admin",), None),)
    for kind in ("token", "policy"):
        assert (("admin",), None) in needs_of_commit([], [(kind, "x")], blobs=False, ledger=False)


def test_production_takes_approval_of_the_model() -> None:
    def need(*aliases: str, records: tuple[tuple[str, str], ...] = ()) -> set[object]:
        return set(needs_of_commit(aliases, records, blobs=False, ledger=False))

    trackers, approvers = (("track", "apply", "approve", "admin"), "delay"), (
        ("approve",), "model/delay",
    )  # fmt: skip
    assert need("model/delay", "model/delay/staging", "evaluation/delay") == {trackers}
    assert need("env/dev/model/delay/staging") == {trackers}
    for stage in ("production", "archived", "unheard-of", "production/more"):
        assert need(f"model/delay/{stage}") == need(f"env/dev/model/delay/{stage}") == {approvers}
    assert need(records=(("approval", "delay"), ("break_glass", "delay"))) == {approvers}
    for other in ("env/dev/token/x", "env/dev/", "env/dev/env/prod", "env//x"):
        assert need(other) <= {(("admin",), None), (("apply",), "env/dev")}


def test_a_deletion_takes_its_entity() -> None:
    needs = needs_of_commit([], [("deletion", "customer")], blobs=False, ledger=False)
    assert needs == ((("delete",), "customer"),)


def test_a_run_takes_its_experiment() -> None:
    needs = needs_of_commit(
        ["training_set/trips"],
        [("run", "team/delay/1a2b"), ("training_set", "trips"), ("snapshot", "landings")],
        blobs=False,
        ledger=False,
    )
    anyone = ("track", "apply", "approve", "admin")
    assert set(needs) == {
        (anyone, "team/delay"),
        (anyone, "trips"),
        (anyone, None),
    }


def test_roles_have_names() -> None:
    assert parse_allowance("deployer") == "deployer"
    for text in ("", "Deployer", "a b", "a/b", "-x", "x" * 64):
        with pytest.raises(InvalidRequest):
            parse_allowance(text)
