"""Access control from the shell: tokens, roles, the switch, who is turned away, the audit log."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import structlog
from security_servers import Certificates, lock, make_token, prepare
from shells import TOKEN, Shell, applied_shop

from featurestore import FeatureStore
from featurestore.errors import (
    DuplicateName,
    InvalidRequest,
    InvalidSettings,
    PermissionDenied,
    RecordNotFound,
    Unauthenticated,
)
from featurestore.serving.serve import ServerProcess
from featurestore.timeline import DAY_US, ManualClock, SystemClock

LOOK_UP = ("get-online", "offer_model", "--entity", "customer_id:=1001")


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return applied_shop(tmp_path_factory.mktemp("repos") / "my_shop")


@pytest.fixture
def shell(applied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(shutil.copytree(applied, tmp_path / "my_shop"), capsys)


def stored_bytes(repo: Path) -> bytes:
    """All that stands in the registry's files."""
    folder = repo / ".featurestore"
    return b"".join(path.read_bytes() for path in sorted(folder.glob("registry.db*")))


@pytest.fixture
def locked(shell: Shell) -> tuple[Shell, str]:
    """Access control on, and the administrator's token."""
    root = shell("token", "create", "root", "--allow", "*:my_shop").out.strip()
    assert shell("access", "on", token=root).status == 0
    return shell, root


def create(shell: Shell, root: str, name: str, *allow: str) -> str:
    words = [word for grant in allow for word in ("--allow", grant)]
    return shell("token", "create", name, *words, token=root).out.strip()


def test_a_token_is_shown_once_and_kept_as_its_hash(shell: Shell) -> None:
    made = shell(
        "token", "create", "offers", "--allow", "read:my_shop/offer_model,push:my_shop",
        "--expires", "30d", "--json",
    ).json  # fmt: skip
    token = made["token"]
    assert len(token) > 43
    assert made["allow"] == ["read:my_shop/offer_model", "push:my_shop/*"]
    listed = shell("token", "list", "--json")
    (row,) = listed.json
    assert (row["name"], row["expired"]) == ("offers", False)
    assert row["expires_at"] > row["created_at"]
    for printed in (listed, shell("token", "list"), shell("audit"), shell("audit", "--json")):
        assert token not in printed.out + printed.err
        assert token[3:] not in printed.out + printed.err
    assert token.encode() not in stored_bytes(shell.repo)


def test_switching_on_takes_a_token_that_could_switch_it_off(shell: Shell) -> None:
    reader = shell("token", "create", "reader", "--allow", "read:my_shop").out.strip()
    for token in ("", "fs_wrong", reader):
        refused = shell("access", "on", token=token)
        assert refused.status == 1
        assert "featurestore token create admin" in refused.err
    assert shell("access", "show", "--json").json["on"] is False
    assert shell("apply").status == 0


def test_every_command_that_writes_asks_for_a_token(locked: tuple[Shell, str]) -> None:
    shell, root = locked
    reader = create(shell, root, "reader", "read:my_shop")
    commands = [
        ("apply",), ("materialize",), ("sweep",), ("audit",), ("token", "list"),
        ("delete-entity", "customer", "--entity", "customer_id:=9"),
        ("token", "create", "x", "--allow", "*:*"), ("token", "revoke", "root"),
        ("access", "off"), ("access", "role", "r", "--allow", "*:*"),
    ]  # fmt: skip
    for command in commands:
        for token, code in (
            ("", "unauthenticated"),
            ("fs_" + "x" * 43, "unauthenticated"),
            (reader, "permission-denied"),
        ):
            refused = shell(*command, "--json", token=token)
            assert (refused.status, refused.code) == (1, code), (command, refused.err)
            assert refused.out == ""
    assert shell("access", "show", "--json").json["on"] is True
    (names,) = [{row["name"] for row in shell("token", "list", "--json", token=root).json}]
    assert names == {"root", "reader"}
    for command in commands[:6]:
        assert shell(*command, token=root).status == 0, command


def test_reading_here_takes_a_grant_too(locked: tuple[Shell, str]) -> None:
    shell, root = locked
    tokens = {
        "own": create(shell, root, "own", "read:my_shop/offer_model"),
        "other": create(shell, root, "other", "read:my_shop/another"),
        "apply": create(shell, root, "apply", "apply:my_shop"),
    }
    assert shell(*LOOK_UP, token=tokens["own"]).status == 0
    assert shell(*LOOK_UP, "--json").code == "unauthenticated"
    for name in ("other", "apply"):
        assert shell(*LOOK_UP, "--json", token=tokens[name]).code == "permission-denied"


def test_environments_and_roles(locked: tuple[Shell, str], monkeypatch: pytest.MonkeyPatch) -> None:
    shell, root = locked
    shell("access", "role", "deployer", "--allow", "apply:my_shop/env/staging", token=root)
    deployer = create(shell, root, "deployer", "deployer")
    assert shell("apply", "--json", token=deployer).code == "permission-denied"
    monkeypatch.setenv("FEATURESTORE__PROJECT__ENVIRONMENT", "staging")
    assert shell("apply", token=deployer).status == 0
    monkeypatch.delenv("FEATURESTORE__PROJECT__ENVIRONMENT")
    shown = shell("access", "show", "--json").json
    assert shown["roles"] == {"deployer": ["apply:my_shop/env/staging"]}
    assert "deployer" in shell("access", "show").out
    assert shell("access", "role", "deployer", "--drop", token=root).status == 0
    monkeypatch.setenv("FEATURESTORE__PROJECT__ENVIRONMENT", "staging")
    assert shell("apply", "--json", token=deployer).code == "permission-denied"


def test_a_revoked_token_ends_at_once_where_one_commits(locked: tuple[Shell, str]) -> None:
    shell, root = locked
    token = create(shell, root, "ci", "apply:my_shop")
    assert shell("apply", token=token).status == 0
    assert shell("token", "revoke", "ci", token=root).status == 0
    assert shell("apply", "--json", token=token).code == "unauthenticated"
    missing = shell("token", "revoke", "cj", "--json", token=root)
    assert missing.code == "record-not-found"
    assert shell("access", "off", token=root).status == 0
    assert shell("apply").status == 0


def test_the_audit_log_says_who_when_where_and_whether(locked: tuple[Shell, str]) -> None:
    shell, root = locked
    reader = create(shell, root, "reader", "read:my_shop")
    shell("apply", token=reader)
    shell("apply")
    shell("sweep", token=reader)
    shell("sweep", token=root)
    shell("delete-entity", "customer", "--entity", "customer_id:=9", token=root)
    shell("apply", token=root)
    log = shell("audit", "--json", token=root).json
    told = [(row["action"], row["who"], row["resource"], row["outcome"]) for row in log]
    assert told[-6:] == [
        ("apply", "token:reader", "env/prod", "denied"),
        ("apply", "unknown", "env/prod", "denied"),
        ("materialize", "token:reader", None, "denied"),
        ("materialize", "token:root", None, "allowed"),
        ("delete", "token:root", "customer", "allowed"),
        ("apply", "token:root", "env/prod", "allowed"),
    ]
    user = log[0]["user"]
    assert ("apply", user, "env/prod", "allowed") == told[0]  # before access control was on
    assert ("materialize", user, "env/prod", "allowed") == told[1]
    assert ("admin", "token:root", "access", "allowed") in told
    assert ("admin", "token:root", "tokens/reader", "allowed") in told
    assert all(row["host"] and row["user"] and row["at"].endswith("Z") for row in log)
    denied = shell("audit", "--denied", "--newest", "1", "--json", token=root).json
    assert [row["who"] for row in denied] == ["token:reader"]
    late = shell("audit", "--since", log[-1]["at"], "--json", token=root).json
    assert log[-1] in late
    assert len(late) < len(log)
    assert "token:reader" in shell("audit", token=root).out


def test_the_audit_log_is_pruned(
    locked: tuple[Shell, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shell, root = locked
    shell("apply", token=root)
    reader = shell("token", "create", "r", "--allow", "read:my_shop", token=root).out.strip()
    prune = ("audit", "prune", "--older-than", "30d", "--json")
    before = shell("audit", "--json", token=root).json
    assert shell(*prune, token=reader).code == "permission-denied"
    for text in ("23h", "soon", "0s", "-90d"):
        refused = shell("audit", "prune", "--older-than", text, "--json", token=root)
        assert refused.code == "invalid-request"
    assert shell(*prune, token=root).json == {"entries_deleted": 0}
    later = ManualClock(SystemClock().now_us() + 31 * DAY_US)
    with FeatureStore(shell.repo, clock=later, overrides={"security.token": root}) as fs:
        assert fs.prune_audit_log("30d") == len(before) + 2  # what was denied, and pruning nothing
    (left,) = shell("audit", "--json", token=root).json
    assert (left["action"], left["who"], left["outcome"]) == ("prune", "token:root", "allowed")
    assert f"{len(before) + 2} entries" in left["detail"]
    printed = shell("audit", "prune", "--older-than", "3000000d", token=root).out
    assert printed == "0 entries older than 3000000d deleted.\n"
    with pytest.raises(InvalidRequest), FeatureStore(shell.repo) as fs:
        fs.create_token("x", allow=["read:my_shop"], expires="soon")


def test_a_token_may_stand_in_a_file(locked: tuple[Shell, str]) -> None:
    shell, root = locked
    (shell.repo / "root.token").write_text(root + "\n")
    settings = shell.repo / "featurestore.toml"
    settings.write_text(settings.read_text() + '\n[security]\ntoken_file = "root.token"\n')
    assert shell("apply").status == 0
    (shell.repo / "root.token").unlink()
    assert "token_file" in shell("apply").err


@pytest.mark.slow
def test_a_server_is_asked_with_certificate_and_token(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates = Certificates.make(tmp_path)
    files = {"tls_cert": "server.pem", "tls_key": "server.key", "tls_client_ca": "ca.pem"}
    served = tmp_path / "served"
    served.mkdir()
    settings = prepare(served, **{key: certificates.path(name) for key, name in files.items()})
    root = lock(settings)
    token = tmp_path / "token"
    token.write_text(make_token(settings, root, "reader", "read:served/model"))
    words = ["get-online", "model", "--entity", "airport=EWR", "--json"]
    with ServerProcess.start(settings) as server:
        to = ["--target", server.grpc_target]
        ca = ["--tls-ca", certificates.path("ca.pem")]
        pair = ["--tls-cert", certificates.path("client.pem")]
        key = ["--tls-key", certificates.path("client.key")]
        found = shell(*words, *to, *ca, *pair, *key, "--token-file", str(token))
        assert found.json["entities"][0]["features"] == {"temp": 1.5}
        found = shell(*words, *to, *ca, *pair, *key, token=token.read_text())
        assert found.status == 0
        assert shell(*words, *to, *ca, *pair, *key).code == "unauthenticated"
        assert shell(*words, *to, *ca, "--token-file", str(token)).code == "server-unavailable"
        assert shell(*words, *to, *ca, *pair).code == "invalid-request"
        missing = shell(*words, *to, "--token-file", str(tmp_path / "nothing"))
        assert missing.code == "invalid-request"


@pytest.mark.slow
def test_a_token_does_not_leave_the_machine_in_plain_text(shell: Shell, tmp_path: Path) -> None:
    served = tmp_path / "served"
    served.mkdir()
    settings = prepare(served)
    token = make_token(settings, lock(settings), "reader", "read:served/model")
    with ServerProcess.start(settings) as server:
        # Another name of this machine, which does not say so.
        target = server.grpc_target.replace("127.0.0.1", "0.0.0.0")
        words = ["get-online", "model", "--entity", "airport=EWR", "--json", "--target", target]
        assert shell(*words, token=token).code == "insecure-settings"
        found = shell(*words, "--insecure", token=token)
        assert found.json["entities"][0]["features"] == {"temp": 1.5}


def test_a_server_is_not_exposed_by_mistake(shell: Shell) -> None:
    try:
        refused = shell("serve", "--grpc", "0.0.0.0:0", "--http", "")
    finally:
        structlog.reset_defaults()  # it logs to what the test captures
    assert refused.status == 1
    assert "--insecure" in refused.err
    assert "[insecure-settings]" in refused.err


class TestPython:
    @pytest.fixture
    def store(self, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.delenv(TOKEN, raising=False)
        clock = ManualClock(SystemClock().now_us())
        with FeatureStore(shell.repo, clock=clock) as store:
            yield store

    def test_mistakes_are_told(self, store: FeatureStore) -> None:
        store.create_token("a", allow=["read:my_shop"])
        with pytest.raises(DuplicateName, match="'a'"):
            store.create_token("a", allow=["read:my_shop"])
        with pytest.raises(InvalidRequest, match="Did you mean 'read'"):
            store.create_token("b", allow=["reed:my_shop"])
        for allow in (["read:"], ["read:a b"], ["read"[:0]], ["read:a//b"], ["read:a/*x"], []):
            with pytest.raises(InvalidRequest):
                store.create_token("b", allow=allow)
        for name in ("", "a b", "a/b", "x" * 200):
            with pytest.raises(InvalidRequest):
                store.create_token(name, allow=["read:my_shop"])
        with pytest.raises(RecordNotFound):
            store.set_role("nobody", [])

    def test_a_token_ends_by_the_clock(self, store: FeatureStore) -> None:
        token, facts = store.create_token("short", allow=["*:my_shop"], expires="1h")
        assert facts.expires_at_us == store.clock.now_us() + 3_600_000_000
        policy = store.access_policy()
        assert policy.principal(token, now_us=facts.expires_at_us - 1).name == "token:short"
        with pytest.raises(Unauthenticated, match="expired"):
            policy.principal(token, now_us=facts.expires_at_us)

    def test_an_open_store_sees_the_switch(self, shell: Shell, store: FeatureStore) -> None:
        root, _ = store.create_token("root", allow=["*:my_shop"])
        rows = {"customer_id": [1001]}
        assert store.get_online_features("offer_model", rows).to_dict()
        with FeatureStore(shell.repo, overrides={"security.token": root}) as admin:
            admin.set_access_control(True)
            assert admin.get_online_features("offer_model", rows).to_dict()
        store._local.refresh()
        with pytest.raises(Unauthenticated):
            store.get_online_features("offer_model", rows)
        with pytest.raises(Unauthenticated):
            store.materialize()
        with pytest.raises(Unauthenticated):
            store.registry.commit(aliases={"env/prod": None})
        with FeatureStore(shell.repo, overrides={"security.token": root}) as admin:
            assert admin.get_online_features("offer_model", rows).to_dict()
            reader, _ = admin.create_token("r", allow=["read:my_shop/views/customer_profile"])
        with FeatureStore(shell.repo, overrides={"security.token": reader}) as third:
            assert third.get_online_features(["customer_profile:country"], rows).to_dict()
            with pytest.raises(PermissionDenied):
                third.get_online_features("offer_model", rows)
            with pytest.raises(PermissionDenied):
                third.get_online_features(["customer_profile", "last_order"], rows)

    def test_settings_never_show_the_token(self, shell: Shell) -> None:
        overrides = {"security.token": "fs_secret-word", "online.url": "redis://a:pw@h/0"}
        with FeatureStore(shell.repo, overrides=overrides) as store:
            assert "fs_secret-word" not in repr(store.settings)
            assert "pw" not in repr(store.settings)
        with pytest.raises(InvalidSettings) as raised:
            FeatureStore(shell.repo, overrides={"security.token": 12345678})
        assert "12345678" not in str(raised.value)


def test_the_environment_of_these_tests_has_no_token() -> None:
    assert not os.environ.get(TOKEN)
