"""Certificates and tokens are made wrong, one way each, and `doctor` says so and what to do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509

from featurestore import FeatureStore
from featurestore.cli.doctor import Finding, examine
from featurestore.cli.init import write_repository
from featurestore.errors import InvalidSettings
from featurestore.permissions import ACTIONS, new_token
from featurestore.serving.certificates import validities
from featurestore.timeline import DAY_US, ManualClock, SystemClock, to_us

NOW = datetime.now(UTC).replace(microsecond=0)
CLOCK = ManualClock(to_us(NOW))


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "shop"
    write_repository(folder, now_us=SystemClock().now_us())
    for door in ("GRPC", "HTTP"):
        monkeypatch.setenv(f"FEATURESTORE__SERVING__{door}", "127.0.0.1:0")
    return folder


def found(repo: Path, check: str) -> list[Finding]:
    every = [one for one in examine(repo, clock=CLOCK) if one.check == check]
    assert all(bool(one.to_do) == (one.state != "ok") for one in every), every
    return every


class Pair:
    """Certificate and key in the repository, which its settings name."""

    def __init__(self, repo: Path, patch: pytest.MonkeyPatch) -> None:
        self.repo, self.authority = repo, trustme.CA()
        patch.setenv("FEATURESTORE__SERVING__TLS_CERT", "server.pem")
        patch.setenv("FEATURESTORE__SERVING__TLS_KEY", "server.key")
        self.issue(NOW + timedelta(days=90))

    def issue(
        self, until: datetime, since: datetime | None = None, *, key_too: bool = True
    ) -> None:
        made = self.authority.issue_cert("127.0.0.1", not_before=since, not_after=until)
        chain = b"".join(blob.bytes() for blob in made.cert_chain_pems)
        (self.repo / "server.pem").write_bytes(chain)
        if key_too:
            made.private_key_pem.write_to_path(self.repo / "server.key")

    def look(self) -> Finding:
        (one,) = found(self.repo, "certificates")
        return one


@pytest.fixture
def pair(repo: Path, monkeypatch: pytest.MonkeyPatch) -> Pair:
    return Pair(repo, monkeypatch)


def test_no_certificate_is_no_finding(repo: Path) -> None:
    assert found(repo, "certificates") == []


def test_a_certificate_that_ends(pair: Pair) -> None:
    assert (pair.look().state, "is valid until" in pair.look().what) == ("ok", True)
    pair.issue(NOW + timedelta(days=29))
    soon = pair.look()
    assert (soon.state, "expires on" in soon.what) == ("warning", True)
    assert "renew it and write it to" in soon.to_do
    pair.issue(NOW - timedelta(seconds=1), NOW - timedelta(days=9))
    over = pair.look()
    assert (over.state, "has expired on" in over.what) == ("problem", True)


def test_a_certificate_that_has_not_begun(pair: Pair) -> None:
    pair.issue(NOW + timedelta(days=99), NOW + timedelta(hours=1))
    early = pair.look()
    assert (early.state, "is valid only from" in early.what) == ("problem", True)
    assert "clock" in early.to_do


def test_a_key_of_another_certificate(pair: Pair) -> None:
    pair.issue(NOW + timedelta(days=90), key_too=False)
    unfit = found(pair.repo, "certificates")[0]
    assert unfit.state == "problem"
    assert "is not the key of" in unfit.what
    assert "issued together" in unfit.to_do


def test_files_that_are_missing_or_something_else(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pair.repo / "server.pem").write_text("-----BEGIN CERTIFICATE-----\nAA==\n")
    assert {one.state for one in found(pair.repo, "certificates")} == {"problem"}
    (pair.repo / "server.pem").unlink()
    assert {one.state for one in found(pair.repo, "certificates")} == {"problem"}
    monkeypatch.setenv("FEATURESTORE__SERVING__TLS_CERT", "")
    (half,) = found(pair.repo, "certificates")
    assert "must both be set" in half.what


def test_certificates_of_the_stores(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = trustme.CA().issue_cert("me", not_after=NOW - timedelta(days=1))
    mine.cert_chain_pems[0].write_to_path(repo / "me.pem")
    url = f"rediss://127.0.0.1:1/0?ssl_certfile={repo}/me.pem"
    monkeypatch.setenv("FEATURESTORE__ONLINE__URL", url)
    (one,) = found(repo, "certificates")
    assert one.what.startswith("online.url ssl_certfile has expired")


@pytest.mark.parametrize("until", ["2049-12-31", "2050-01-01", "2400-06-05"])
def test_validity_is_what_another_library_reads(tmp_path: Path, until: str) -> None:
    """Years from 2050 on are written otherwise."""
    end = datetime.fromisoformat(until).replace(tzinfo=UTC)
    made = trustme.CA().issue_cert("me", not_before=datetime(1950, 1, 1, tzinfo=UTC), not_after=end)
    made.cert_chain_pems[0].write_to_path(tmp_path / "me.pem")
    (one,) = validities(tmp_path / "me.pem")
    theirs = x509.load_pem_x509_certificate(made.cert_chain_pems[0].bytes())
    assert theirs.not_valid_after_utc == end
    assert one.from_us == to_us(theirs.not_valid_before_utc)
    assert one.to_us == to_us(theirs.not_valid_after_utc)


def test_a_damaged_certificate_is_a_typed_error(tmp_path: Path) -> None:
    authority = trustme.CA()
    pem = authority.cert_pem.bytes().decode().splitlines()
    path = tmp_path / "ca.pem"
    for kept in range(1, len(pem)):
        path.write_text("\n".join([*pem[:kept], pem[-1]]))
        try:
            assert len(validities(path)) == 1
        except InvalidSettings:
            continue
    path.write_text("no certificate")
    with pytest.raises(InvalidSettings, match="holds no certificate"):
        validities(path)


class TestTokens:
    def test_none_are_nothing_to_worry_about(self, repo: Path) -> None:
        (one,) = found(repo, "tokens")
        assert (one.state, one.what) == ("ok", "0 tokens, none to worry about")

    def test_what_ends_and_what_never_does(self, repo: Path) -> None:
        project = "shop"
        with FeatureStore(repo, clock=CLOCK) as fs:
            project = fs.settings.project.name
            fs.create_token("mighty", allow=[f"*:{project}"])
            fs.create_token("reader", allow=[f"read:{project}"])
            fs.create_token("monthly", allow=[f"*:{project}"], expires="30d")
            fs.create_token("weekly", allow=[f"read:{project}"], expires="7d")
        with FeatureStore(repo, clock=ManualClock(CLOCK.now_us() - 9 * DAY_US)) as fs:
            fs.create_token("old", allow=[f"read:{project}"], expires="8d")
        told = {one.what.split("'")[1]: one for one in found(repo, "tokens")}
        assert set(told) == {"mighty", "weekly", "old"}
        assert {one.state for one in told.values()} == {"warning"}
        assert "allows everything and never expires" in told["mighty"].what
        assert "--expires 90d" in told["mighty"].to_do
        assert "expires on" in told["weekly"].what
        assert "has expired on" in told["old"].what
        for name, one in told.items():
            assert f"featurestore token revoke {name}" in one.to_do

    def test_all_actions_one_by_one_are_everything(self, repo: Path) -> None:
        with FeatureStore(repo, clock=CLOCK) as fs:
            project = fs.settings.project.name
            fs.set_role("all", [f"{action}:*" for action in ACTIONS])
            fs.create_token("sum", allow=["all"])
            fs.create_token("part", allow=[f"{action}:{project}" for action in ACTIONS[:-1]])
        (one,) = found(repo, "tokens")
        assert "'sum' allows everything" in one.what

    def test_our_own(self, repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with FeatureStore(repo, clock=CLOCK) as fs:
            project = fs.settings.project.name
            root, _ = fs.create_token("root", allow=[f"*:{project}"], expires="60d")
            reader, _ = fs.create_token("reader", allow=[f"read:{project}"], expires="60d")
        monkeypatch.setenv("FEATURESTORE__SECURITY__TOKEN", new_token())
        unknown = found(repo, "tokens")[0]
        assert (unknown.state, "not known" in unknown.what) == ("warning", True)
        monkeypatch.setenv("FEATURESTORE__SECURITY__TOKEN", root)
        with FeatureStore(repo, clock=CLOCK) as fs:
            fs.set_access_control(True)
        assert [one.state for one in found(repo, "tokens")] == ["ok"]
        monkeypatch.setenv("FEATURESTORE__SECURITY__TOKEN", reader)
        (one,) = found(repo, "tokens")
        assert (one.state, "admin:" in one.what) == ("ok", True)
        monkeypatch.delenv("FEATURESTORE__SECURITY__TOKEN")
        none = found(repo, "tokens")[0]
        assert (none.state, "No token was given" in none.what) == ("problem", True)
        assert root not in repr(examine(repo))

    def test_a_server_that_asks_for_none(self, repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FEATURESTORE__SERVING__HTTP", "0.0.0.0:0")
        (one,) = found(repo, "tokens")
        assert "may read every feature" in one.what
        assert "featurestore access on" in one.to_do
        monkeypatch.setenv("FEATURESTORE__SECURITY__REQUIRE_TOKEN", "true")
        assert [one.state for one in found(repo, "tokens")] == ["ok"]
