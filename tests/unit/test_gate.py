"""The gate by itself: junk headers, bounds, what a refresh changes, keys of a provider."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from security_servers import (
    AUDIENCE,
    ISSUER,
    PROJECT,
    Provider,
    admin,
    asker,
    lock,
    make_token,
)

from featurestore.config import SecuritySettings, Settings
from featurestore.errors import (
    InsecureSettings,
    InvalidSettings,
    PermissionDenied,
    StoreUnavailable,
    Unauthenticated,
)
from featurestore.jobs import access
from featurestore.jobs.project import open_registry
from featurestore.serving import gate as gates
from featurestore.serving import tokens_jwt
from featurestore.serving.gate import Gate
from featurestore.serving.tokens_jwt import JwtVerifier
from featurestore.stores.registry.base import Registry
from featurestore.testing.served import served_settings
from featurestore.timeline import HOUR_US, Clock, ManualClock, SystemClock

NOW_US = SystemClock().now_us


@pytest.fixture
def served(tmp_path: Path) -> Settings:
    return served_settings(tmp_path)


@pytest.fixture
def registry(served: Settings) -> Iterator[Registry]:
    with open_registry(served, clock=SystemClock(), author="ann") as opened:
        yield opened


def opened_gate(
    served: Settings, registry: Registry, clock: Clock | None = None, **security: Any
) -> Gate:
    settings = replace(served, security=SecuritySettings(**security))
    gate = Gate(settings, registry, clock or SystemClock())
    gate.refresh()
    return gate


def test_a_gate_is_open_until_somebody_closes_it(served: Settings, registry: Registry) -> None:
    gate = opened_gate(served, registry)
    assert not gate.on
    assert gate.admit("GetOnlineFeatures", None, peer=str) is None
    lock(served)
    assert gate.refresh()
    assert gate.on
    assert not gate.refresh()
    with pytest.raises(Unauthenticated):
        gate.admit("GetOnlineFeatures", None, peer=str)


def test_settings_can_close_it_before_anything_was_read(
    served: Settings, registry: Registry
) -> None:
    demanding = replace(served, security=SecuritySettings(require_token=True))
    gate = Gate(demanding, registry, SystemClock())
    for _ in range(2):
        assert gate.on
        with pytest.raises(Unauthenticated):
            gate.admit("GetOnlineFeatures", "Bearer x", peer=str)
        gate.refresh()
    with pytest.raises(Unauthenticated):
        gate.check_read(None, "model", now_us=0)


def test_what_nobody_listed_takes_admin(served: Settings, registry: Registry) -> None:
    root = lock(served)
    token = make_token(served, root, "all", *[f"{a}:{PROJECT}" for a in ("read", "push", "apply")])
    gate = opened_gate(served, registry)
    for name in ("/v2/anything", "NewMethod", "", "/METRICS", "getonlinefeatures"):
        with pytest.raises(PermissionDenied, match="admin"):
            gate.admit(name, f"Bearer {token}", peer=str)
        assert gate.admit(name, f"Bearer {root}", peer=str) is not None


def test_metrics_may_be_opened(served: Settings, registry: Registry) -> None:
    lock(served)
    assert (
        opened_gate(served, registry, open_metrics=True).admit("/metrics", None, peer=str) is None
    )
    with pytest.raises(Unauthenticated):
        opened_gate(served, registry).admit("/metrics", None, peer=str)


def test_a_caller_is_forgotten_when_the_policy_changes(
    served: Settings, registry: Registry
) -> None:
    root = lock(served)
    header = f"Bearer {make_token(served, root, 'a', 'reader')}"
    gate = opened_gate(served, registry)
    with pytest.raises(PermissionDenied):
        gate.admit("GetOnlineFeatures", header, peer=str)
    with admin(served, root) as ask:
        access.set_role(ask, "reader", [f"read:{PROJECT}/model"])
    gate.refresh()
    caller = gate.admit("GetOnlineFeatures", header, peer=str)
    gate.check_read(caller, "model", now_us=NOW_US())
    assert gate.admit("GetOnlineFeatures", header, peer=str) is caller
    with admin(served, root) as ask:
        access.set_role(ask, "reader", [f"read:{PROJECT}/other"])
    gate.refresh()
    with pytest.raises(PermissionDenied):
        gate.check_read(gate.admit("GetOnlineFeatures", header, peer=str), "model", now_us=NOW_US())


def test_a_known_caller_still_expires(served: Settings, registry: Registry) -> None:
    root = lock(served)
    header = f"Bearer {make_token(served, root, 'a', f'read:{PROJECT}', expires_in_us=HOUR_US)}"
    clock = ManualClock(NOW_US())
    gate = opened_gate(served, registry, clock)
    caller = gate.admit("GetOnlineFeatures", header, peer=str)
    assert caller is not None
    with pytest.raises(Unauthenticated, match="expired"):
        gate.check_read(caller, "model", now_us=clock.now_us() + HOUR_US)
    clock.advance(HOUR_US)
    with pytest.raises(Unauthenticated, match="expired"):
        gate.admit("GetOnlineFeatures", header, peer=str)


def test_what_was_known_stands_while_the_registry_is_away(
    served: Settings, registry: Registry
) -> None:
    root = lock(served)
    gate = opened_gate(served, registry)

    class Away:
        def aliases(self, _: str) -> None:
            raise StoreUnavailable("away")

    gate._registry = Away()  # type: ignore[assignment]
    with pytest.raises(StoreUnavailable):
        gate.refresh()
    assert gate.admit("GetOnlineFeatures", f"Bearer {root}", peer=str) is not None


def test_what_is_kept_is_bounded(
    served: Settings, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "KNOWN_CALLERS_MAX", 4)
    monkeypatch.setattr(gates, "READABLE_HELD_MAX", 4)
    root = lock(served)
    gate = opened_gate(served, registry)
    for number in range(20):  # the same token, written in ever new ways
        header = f"Bearer {' ' * number}{root}"
        caller = gate.admit("GetOnlineFeatures", header, peer=str)
        assert caller is not None
        assert len(gate._callers) <= 4
        for other in range(20):
            gate.check_read(caller, f"s{other}", now_us=NOW_US())
        assert len(caller._readable) <= 4
    for number in range(50):  # nobody is remembered who did not prove anything
        with pytest.raises(Unauthenticated):
            gate.admit("GetOnlineFeatures", f"Bearer fs_{number}", peer=str)
    assert len(gate._callers) <= 4


def test_a_flood_of_denials_is_a_trickle_in_the_log(
    served: Settings, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    lock(served)
    gate = opened_gate(served, registry)
    began = time.monotonic()
    for _ in range(2_000):
        with pytest.raises(Unauthenticated):
            gate.admit("GetOnlineFeatures", "Bearer fs_x", peer=lambda: "ipv4:10.0.0.9:1")
    seconds = int(time.monotonic() - began) + 2
    printed = capsys.readouterr()
    lines = (printed.out + printed.err).count("request denied")
    assert 1 <= lines <= gates.DENIALS_LOGGED_PER_S * seconds
    assert "fs_x" not in printed.out + printed.err


@pytest.fixture(scope="module")
def provider() -> Provider:
    return Provider()


@pytest.fixture(scope="module")
def closed(
    tmp_path_factory: pytest.TempPathFactory, provider: Provider
) -> Iterator[tuple[Gate, Provider]]:
    folder = tmp_path_factory.mktemp("closed")
    (folder / "keys.json").write_text(provider.jwks())
    served = served_settings(folder)
    lock(served)
    with open_registry(served, clock=SystemClock(), author="ann") as registry:
        yield opened_gate(served, registry, **by("keys.json")), provider


def by(jwks: str, **more: Any) -> dict[str, Any]:
    """Settings for the tokens of the provider."""
    return {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "jwt_jwks": jwks} | more


JUNK = st.one_of(
    st.text(max_size=60),
    st.from_regex(r"(?i:bearer) [\w.=/+\-]{0,80}", fullmatch=True),
    st.from_regex(r"Bearer eyJ[\w\-]{0,40}\.[\w\-]{0,40}\.[\w\-]{0,40}", fullmatch=True),
    st.from_regex(r"Bearer fs_[\w\-]{0,60}", fullmatch=True),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=JUNK)
def test_no_junk_comes_in(closed: tuple[Gate, Provider], header: str) -> None:
    gate, _ = closed
    with pytest.raises(Unauthenticated) as raised:
        gate.admit("GetOnlineFeatures", header, peer=str)
    if len(header) > 20:
        assert header[7:] not in str(raised.value)


@given(data=st.data())
@settings(max_examples=60)
def test_no_changed_jwt_comes_in(closed: tuple[Gate, Provider], data: st.DataObject) -> None:
    gate, provider = closed
    good = provider.sign()
    place = data.draw(st.integers(0, len(good) - 2))  # the last character may hold unused bits
    letter = data.draw(st.sampled_from("Aa0-_.Z"))
    changed = good[:place] + letter + good[place + 1 :]
    if changed == good:
        assert gate.admit("GetOnlineFeatures", f"Bearer {good}", peer=str) is not None
    else:
        with pytest.raises(Unauthenticated):
            gate.admit("GetOnlineFeatures", f"Bearer {changed}", peer=str)


class TestProvider:
    def verifier(self, served: Settings, **security: Any) -> JwtVerifier:
        found = JwtVerifier.of(replace(served, security=SecuritySettings(**security)))
        assert found is not None
        return found

    def test_none_without_settings(self, served: Settings) -> None:
        assert JwtVerifier.of(served) is None

    @pytest.mark.parametrize("left_out", ["jwt_issuer", "jwt_audience", "jwt_jwks"])
    def test_all_three_are_needed(self, served: Settings, left_out: str) -> None:
        with pytest.raises(InvalidSettings, match=left_out):
            self.verifier(served, **(by("keys.json") | {left_out: ""}))

    @pytest.mark.parametrize("names", ["none", "HS256", "RS256,HS512", "", "rs256", "RS256;ES256"])
    def test_only_public_key_algorithms(self, served: Settings, names: str) -> None:
        with pytest.raises(InvalidSettings, match="jwt_algorithms"):
            self.verifier(served, **by("keys.json", jwt_algorithms=names))

    @pytest.mark.parametrize("url", ["http://login.example.org/keys", "ftp://127.0.0.1/keys"])
    def test_keys_do_not_come_in_the_clear(self, served: Settings, url: str) -> None:
        with pytest.raises(InsecureSettings, match="https"):
            self.verifier(served, **by(url))

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{}",
            "[]",
            '{"keys": []}',
            '{"keys": [{"kty": "oct"}, 1, {"kty": 2}, {"kty": "RSA", "n": 3}]}',
            '{"keys": 1}',
        ],
    )
    def test_a_file_must_hold_keys(self, served: Settings, text: str) -> None:
        (served.root / "keys.json").write_text(text)
        with pytest.raises(InvalidSettings, match="jwt_jwks"):
            self.verifier(served, **by("keys.json")).refresh()

    def test_a_file_is_read_again_when_it_changes(
        self, served: Settings, provider: Provider
    ) -> None:
        path = served.root / "keys.json"
        path.write_text(provider.jwks())
        verifier = self.verifier(served, **by("keys.json"))
        assert verifier.refresh()
        assert not verifier.refresh()
        token = provider.sign()
        assert verifier.verify(token, now_us=NOW_US())[0] == "jwt:svc-42"
        other = Provider()
        path.write_text(other.jwks())
        os.utime(path, ns=(1, 1))
        assert verifier.refresh()
        with pytest.raises(Unauthenticated):
            verifier.verify(token, now_us=NOW_US())
        assert verifier.verify(other.sign(), now_us=NOW_US())
        path.write_text("half a fi")
        assert not verifier.refresh()
        assert verifier.verify(other.sign(), now_us=NOW_US())

    def test_a_shared_secret_among_the_keys_is_no_key(
        self, served: Settings, provider: Provider
    ) -> None:
        secret = {"kty": "oct", "kid": "shared", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}
        document = json.loads(provider.jwks())
        document["keys"].append(secret)
        (served.root / "keys.json").write_text(json.dumps(document))
        verifier = self.verifier(served, **by("keys.json"))
        verifier.refresh()
        forged = jwt.encode(
            provider.claims(),
            b"secretsecretsecretsecretsecretsecret",
            algorithm="HS256",
            headers={"kid": "shared"},
        )
        with pytest.raises(Unauthenticated, match="not known"):
            verifier.verify(forged, now_us=NOW_US())

    def test_a_provider_that_is_away_is_asked_again(
        self, served: Settings, provider: Provider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tokens_jwt, "RENEW_S_MIN", 0.0)
        with provider.listening() as url:
            verifier = self.verifier(served, **by(url, jwt_refresh_s=1))
            assert verifier.refresh()
            asked = provider.asked
            for _ in range(20):
                verifier.refresh()
            assert provider.asked == asked
        with pytest.raises(Unauthenticated):
            verifier.verify(provider.sign(kid="unheard-of"), now_us=NOW_US())
        assert not verifier.refresh()  # away: what is known stays
        assert verifier.verify(provider.sign(), now_us=NOW_US())

    def test_grants_may_stand_deep_in_the_claims(
        self, served: Settings, provider: Provider
    ) -> None:
        (served.root / "keys.json").write_text(provider.jwks())
        verifier = self.verifier(
            served, **by("keys.json", jwt_permissions_claim="realm_access.roles")
        )
        verifier.refresh()
        for value, allow in (
            ({"roles": ["deployer", "read:served/model", "Not A Role"]}, 2),
            ({"roles": "deployer other"}, 2),
            ({"roles": {"deployer": True}}, 0),
            ({}, 0),
            ("deployer", 0),
            (None, 0),
        ):
            token = provider.sign(provider.claims(realm_access=value))
            assert len(verifier.verify(token, now_us=NOW_US())[1]) == allow


def test_the_audit_log_of_a_project_is_its_own(served: Settings, registry: Registry) -> None:
    access.note(registry, "ann", "apply", "env/prod")
    other = replace(served, project=replace(served.project, name="other"))
    with open_registry(other, clock=SystemClock(), author="bob") as second:
        assert access.audit_log(access.Asker(registry=second, project="other", now_us=0)) == []
    assert len(access.audit_log(asker(registry))) == 1
