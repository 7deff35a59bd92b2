"""The registry on Debian's Postgres over TLS, which asks its clients for certificates too (the
wheel's server is built without TLS)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psycopg
import pytest
from free_ports import free_port
from security_servers import Certificates

from featurestore.errors import FeatureStoreError, StoreAccessDenied
from featurestore.stores.registry.sql import SqlRegistry
from featurestore.testing.registry import RegistryOpener, fact

pytestmark = pytest.mark.full

PASSWORD = "open/sesame"
PASSWORD_IN_URL = "open%2Fsesame"
_serial = count()


def debian_postgres() -> Path:
    """The folder of the newest Postgres that Debian installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parts[-2]))
    assert found, "install Debian's package: apt-get install postgresql"
    return found[-1]


@dataclass(frozen=True)
class TlsPostgres:
    """A server on 127.0.0.1 and 127.0.0.2; its certificate names the first alone."""

    port: int
    certificates: Certificates

    def url(
        self, database: str = "postgres", *, host: str = "127.0.0.1", client: str = "client",
        ca: str = "ca.pem", mode: str = "verify-full", password: str = PASSWORD_IN_URL,
    ) -> str:  # fmt: skip
        options = [f"sslmode={mode}", f"sslrootcert={self.certificates.path(ca)}"]
        if client:
            options.append(f"sslcert={self.certificates.path(f'{client}.pem')}")
            options.append(f"sslkey={self.certificates.path(f'{client}.key')}")
        where = f"{host}:{self.port}/{database}"
        return f"postgresql://keeper:{password}@{where}?{'&'.join(options)}"

    def new_database(self) -> str:
        name = f"registry_{next(_serial)}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
        return name


RULES = """
local   all all                 trust
hostssl all all 127.0.0.0/8     scram-sha-256 clientcert=verify-ca
"""


@pytest.fixture(scope="module")
def server() -> Iterator[TlsPostgres]:
    programs = debian_postgres()
    folder = Path(tempfile.mkdtemp(prefix="fs_pg_tls_"))
    user = "postgres" if os.geteuid() == 0 else None  # as root it does not run
    certificates = Certificates.make(folder)
    data = folder / "data"
    data.mkdir()
    for key in folder.glob("*.key"):
        key.chmod(0o600)  # libpq and the server take no other
    for name in ("server.pem", "server.key", "ca.pem"):
        shutil.copy(folder / name, data.parent / f"pg-{name}")
    if user is not None:
        folder.chmod(0o755)
        for path in (data, folder / "pg-server.key"):
            shutil.chown(path, user, user)
    (folder / "pg-server.key").chmod(0o600)
    initdb = [programs / "initdb", "-D", data, "-U", "keeper", "--auth=trust", "--no-sync"]
    subprocess.run(initdb, user=user, check=True, capture_output=True, cwd="/")
    (data / "pg_hba.conf").write_text(RULES)
    port = free_port()
    settings = {
        "listen_addresses": "127.0.0.1,127.0.0.2", "port": port, "fsync": "off",
        "unix_socket_directories": data, "ssl": "on", "ssl_cert_file": folder / "pg-server.pem",
        "ssl_key_file": folder / "pg-server.key", "ssl_ca_file": folder / "pg-ca.pem",
    }  # fmt: skip
    words = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
    log = (folder / "log").open("w")
    process = subprocess.Popen(
        [programs / "postgres", "-D", data, *words], user=user, stdout=log, stderr=log, cwd="/"
    )
    try:
        give_up = time.monotonic() + 60
        ready = [programs / "pg_isready", "-q", "-h", data, "-p", str(port)]
        while subprocess.run(ready, check=False).returncode != 0:
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < give_up
            time.sleep(0.05)
        with psycopg.connect(
            f"host={data} port={port} user=keeper dbname=postgres", autocommit=True
        ) as connection:
            connection.execute(f"ALTER ROLE keeper PASSWORD '{PASSWORD}'")  # type: ignore[call-overload]
        yield TlsPostgres(port, certificates)
    finally:
        process.send_signal(signal.SIGINT)  # without waiting for clients to leave
        process.wait(30)
        log.close()
        shutil.rmtree(folder)


def refused(url: str) -> FeatureStoreError:
    with pytest.raises(FeatureStoreError) as raised:
        RegistryOpener(SqlRegistry, url, Path("/unused")).open()
    error: BaseException | None = raised.value
    while error is not None:
        assert PASSWORD not in str(error)
        assert PASSWORD_IN_URL not in str(error)
        error = error.__cause__
    assert "keeper:***@" in str(raised.value)
    return raised.value


def test_what_is_said_is_encrypted(server: TlsPostgres) -> None:
    database = server.new_database()
    with RegistryOpener(SqlRegistry, server.url(database), Path("/unused")).open() as registry:
        registry.commit(records=[fact("secret")])
        with psycopg.connect(server.url()) as connection:
            rows = connection.execute(
                "SELECT s.ssl, s.version FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) "
                "WHERE a.application_name = 'featurestore'"
            ).fetchall()
    assert rows
    assert all(ssl and version.startswith("TLSv1.") for ssl, version in rows)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ca": "stranger-ca.pem"}, "certificate"),
        ({"host": "127.0.0.2"}, "does not match host name"),
        ({"client": "stranger"}, "certificate|unknown ca"),
        ({"client": "expired"}, "certificate"),
        ({"client": ""}, "valid client certificate"),
        ({"mode": "disable"}, "no encryption|pg_hba"),
        ({"password": "wrong%2Fword"}, "password authentication failed"),
        ({"ca": "nothing.pem"}, "does not exist"),
    ],
)
def test_who_does_not_fit_is_refused_and_told_why(
    server: TlsPostgres, options: dict[str, str], said: str
) -> None:
    error = refused(server.url(**options))
    assert isinstance(error, StoreAccessDenied), error
    assert any(part in str(error) for part in said.split("|")), error


def test_a_name_that_is_not_the_servers_passes_only_where_nobody_looks(
    server: TlsPostgres,
) -> None:
    url = server.url(server.new_database(), host="127.0.0.2", mode="verify-ca")
    RegistryOpener(SqlRegistry, url, Path("/unused")).open().close()
