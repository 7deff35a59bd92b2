"""TLS and mutual TLS at both doors, and who does not get in."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from patience import wait_for
from security_servers import Certificates, prepare

from featurestore.client import AsyncFeatureClient, FeatureClient
from featurestore.config import Settings
from featurestore.errors import InsecureSettings, InvalidRequest, InvalidSettings, ServerUnavailable
from featurestore.serving.addresses import is_loopback
from featurestore.serving.grpc_door import chosen_door
from featurestore.serving.serve import ServerProcess
from featurestore.serving.tls import ServerTls, TlsFiles, check_exposure

pytestmark = pytest.mark.slow

ASK = ("model", {"airport": ["EWR"]})


@dataclass
class Served:
    server: ServerProcess
    certificates: Certificates
    folder: Path | None = None

    def client(self, **options: Any) -> FeatureClient:
        options = {"tls": self.certificates.read("ca.pem"), "timeout_ms": 1_500} | options
        return FeatureClient(self.server.grpc_target, **options)

    def get(self, *, ca: str = "ca.pem", pair: str = "") -> httpx.Response:
        """`/v1/services` over HTTPS."""
        context = ssl.create_default_context(cafile=self.certificates.path(ca))
        if pair:
            context.load_cert_chain(
                self.certificates.path(f"{pair}.pem"), self.certificates.path(f"{pair}.key")
            )
        return httpx.get(f"{self.server.http_url}/v1/services", verify=context)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("certificates"))


def tls_settings(folder: Path, certificates: Certificates, **more: str) -> Settings:
    files = {"tls_cert": "server.pem", "tls_key": "server.key"} | more
    return prepare(folder, **{key: certificates.path(file) for key, file in files.items()})


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Served]:
    """A server whose clients need no certificate; its own files can be replaced."""
    folder = tmp_path_factory.mktemp("tls")
    for name in ("server.pem", "server.key"):
        shutil.copy(certificates.path(name), folder / name)
    settings = prepare(folder, tls_cert="server.pem", tls_key="server.key")
    with ServerProcess.start(settings) as server:
        yield Served(server, certificates, folder)


@pytest.fixture(scope="module")
def mutual(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[Served]:
    settings = tls_settings(tmp_path_factory.mktemp("mutual"), certificates, tls_client_ca="ca.pem")
    with ServerProcess.start(settings) as server:
        yield Served(server, certificates)


async def test_both_doors_answer_over_tls(tls: Served) -> None:
    with tls.client(timeout_ms=10_000) as client:
        assert client.get_online_features(*ASK).to_dict()["temp"] == [1.5]
    ca = tls.certificates.read("ca.pem")
    async with AsyncFeatureClient(tls.server.grpc_target, tls=ca, timeout_ms=10_000) as client:
        assert (await client.get_online_features(*ASK)).to_dict()["temp"] == [1.5]
    assert tls.server.http_url.startswith("https://")
    assert tls.get().status_code == 200


def test_plain_text_gets_nothing_from_a_tls_port(tls: Served, mutual: Served) -> None:
    for served in (tls, mutual):
        with (
            FeatureClient(served.server.grpc_target, timeout_ms=1_000) as client,
            pytest.raises(ServerUnavailable),
        ):
            client.get_online_features(*ASK)
        with pytest.raises(httpx.TransportError):
            httpx.get(served.server.http_url.replace("https", "http") + "/v1/services")


def test_a_client_refuses_a_server_that_it_does_not_know(tls: Served) -> None:
    others: list[Any] = [tls.certificates.read("stranger-ca.pem"), True]
    for authority in others:
        with (
            tls.client(tls=authority, timeout_ms=1_000) as client,
            pytest.raises(ServerUnavailable),
        ):
            client.get_online_features(*ASK)
    with pytest.raises(httpx.ConnectError, match=r"self-signed|unable to get local issuer"):
        tls.get(ca="stranger-ca.pem")


def test_old_protocols_are_refused(tls: Served) -> None:
    host, _, port = tls.server.http_url.removeprefix("https://").rpartition(":")
    context = ssl.create_default_context(cafile=tls.certificates.path("ca.pem"))
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    for target in ((host, int(port)), _split(tls.server.grpc_target)):
        with (
            socket.create_connection(target, timeout=10) as plain,
            pytest.raises((ssl.SSLError, ConnectionError)),
        ):
            context.wrap_socket(plain, server_hostname=host)


def _split(target: str) -> tuple[str, int]:
    host, _, port = target.rpartition(":")
    return host, int(port)


def test_mutual_tls_lets_in_its_own_clients_only(mutual: Served) -> None:
    pair = mutual.certificates.pair
    with mutual.client(certificate=pair("client"), timeout_ms=10_000) as client:
        assert client.get_online_features(*ASK).to_dict()["temp"] == [1.5]
    assert mutual.get(pair="client").status_code == 200
    wrong: list[tuple[bytes, bytes] | None] = [None, pair("stranger"), pair("expired")]
    for certificate in wrong:
        with (
            mutual.client(certificate=certificate, timeout_ms=1_000) as client,
            pytest.raises(ServerUnavailable),
        ):
            client.get_online_features(*ASK)
    for name in ("", "stranger", "expired"):
        # With TLS 1.3 a client hears of it when it first reads.
        with pytest.raises(httpx.TransportError):
            mutual.get(pair=name)


def install(folder: Path, certificates: Certificates, cert: str, key: str) -> None:
    """Replace the server's files, each whole at once, as renewing programs do."""
    for name, source in (("server.key", f"{key}.key"), ("server.pem", f"{cert}.pem")):
        shutil.copy(certificates.path(source), folder / f"{name}.new")
        (folder / f"{name}.new").replace(folder / name)


def reaches(served: Served, ca: str) -> bool:
    """Whether new connections to both doors succeed for somebody who trusts `ca`."""
    try:
        with served.client(tls=served.certificates.read(ca), timeout_ms=5_000) as client:
            client.get_serving_info()
        return served.get(ca=ca).status_code == 200
    except (ServerUnavailable, httpx.TransportError):
        return False


def test_a_renewed_certificate_is_used_without_a_restart(tls: Served) -> None:
    assert tls.folder is not None
    with tls.client(timeout_ms=10_000) as standing:
        standing.get_serving_info()
        install(tls.folder, tls.certificates, "stranger", "stranger")
        wait_for(lambda: reaches(tls, "stranger-ca.pem"))
        standing.get_serving_info()  # connections that stand keep what they have
    # An expired one is the administrator's mistake; clients refuse it.
    install(tls.folder, tls.certificates, "expired", "expired")
    wait_for(lambda: not reaches(tls, "stranger-ca.pem"))
    assert not reaches(tls, "ca.pem")
    install(tls.folder, tls.certificates, "stranger", "stranger")
    wait_for(lambda: reaches(tls, "stranger-ca.pem"))
    # A certificate without its key is not taken: what was there stays.
    install(tls.folder, tls.certificates, "server", "client")
    time.sleep(1.0)
    wait_for(lambda: reaches(tls, "stranger-ca.pem"))
    install(tls.folder, tls.certificates, "server", "server")
    wait_for(lambda: reaches(tls, "ca.pem"))


def test_a_certificate_is_shown_over_tls_only() -> None:
    with pytest.raises(InvalidRequest, match="over TLS only"):
        FeatureClient("127.0.0.1:1", certificate=(b"x", b"y"))


# --- what does not start --------------------------------------------------------------------------


def with_serving(settings: Settings, **serving: Any) -> Settings:
    return replace(settings, serving=replace(settings.serving, **serving))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return prepare(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "192.0.2.7", "no-such-host.invalid"])
@pytest.mark.parametrize("door", ["grpc", "http"])
def test_plain_text_where_others_reach_it_is_refused(plain: Settings, door: str, host: str) -> None:
    open_door = with_serving(plain, **{door: f"{host}:0"})
    with pytest.raises(InsecureSettings, match=r"tls_cert.*127\.0\.0\.1.*--insecure") as raised:
        check_exposure(open_door)
    assert f"[serving] {door}" in str(raised.value)
    check_exposure(with_serving(open_door, insecure=True))


def test_tokens_do_not_make_plain_text_safe(plain: Settings) -> None:
    exposed = with_serving(plain, http="0.0.0.0:0")
    tokens = replace(exposed, security=replace(exposed.security, require_token=True))
    with pytest.raises(InsecureSettings, match="tokens and features would travel in the clear"):
        check_exposure(tokens)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "[::1]", "localhost"])
def test_loopback_needs_no_tls(plain: Settings, host: str) -> None:
    check_exposure(with_serving(plain, grpc=f"{host}:0", http=""))
    assert is_loopback(host.strip("[]"))


def test_an_exposed_server_starts_with_tls(plain: Settings, certificates: Certificates) -> None:
    check_exposure(
        with_serving(
            plain,
            grpc="0.0.0.0:0",
            tls_cert=certificates.path("server.pem"),
            tls_key=certificates.path("server.key"),
        )
    )


def test_a_server_that_is_refused_does_not_listen(
    plain: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ServerUnavailable):
        ServerProcess.start(with_serving(plain, grpc="0.0.0.0:0"))
    assert "insecure-settings" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tls_cert": "server.pem"}, "must both be set"),
        ({"tls_key": "server.key"}, "must both be set"),
        ({"tls_client_ca": "ca.pem"}, "must both be set"),
        ({"tls_cert": "server.pem", "tls_key": "client.key"}, "(?i)key values mismatch"),
        ({"tls_cert": "nothing.pem", "tls_key": "server.key"}, "No such file"),
        ({"tls_cert": "server.key", "tls_key": "server.key"}, "can't be used"),
        (
            {"tls_cert": "server.pem", "tls_key": "server.key", "tls_client_ca": "server.key"},
            "can't be used",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused(
    plain: Settings, certificates: Certificates, files: dict[str, str], message: str
) -> None:
    named = {key: certificates.path(name) for key, name in files.items()}
    with pytest.raises(InvalidSettings, match=message) as raised:
        check_exposure(with_serving(plain, **named))
    assert "PRIVATE KEY" not in str(raised.value)


def test_the_native_door_has_no_tls(plain: Settings) -> None:
    serving = replace(plain.serving, tls_cert="x", tls_key="y")
    assert chosen_door(serving) == "grpcio"
    with pytest.raises(InvalidSettings, match="has no TLS"):
        chosen_door(replace(serving, grpc_door="native"))


def test_files_are_looked_at_by_their_time_and_place(
    tmp_path: Path, certificates: Certificates
) -> None:
    for name in ("server.pem", "server.key"):
        shutil.copy(certificates.path(name), tmp_path / name)
    files = TlsFiles(tmp_path / "server.pem", tmp_path / "server.key")
    before = ServerTls(files)
    stamp = files.stamp
    before.reload()
    os.utime(tmp_path / "server.pem", ns=(1, 1))
    assert files.stamp != stamp
    before.reload()
    (tmp_path / "server.key").unlink()
    before.reload()  # reported, not raised
    with pytest.raises(InvalidSettings):
        ServerTls(files)
