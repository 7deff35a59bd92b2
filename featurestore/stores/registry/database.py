"""The SQL database below a registry: its URL, its transactions, its errors, its schema.

The rest of the room sees two transactions, `reading` and `writing`, and typed errors; what differs
between SQLite and Postgres stays here.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.pool import NullPool

from featurestore.errors import (
    FeatureStoreError,
    InvalidRecord,
    InvalidSettings,
    SchemaTooNew,
    StoreAccessDenied,
    StoreError,
    StoreExhausted,
    StoreFull,
    StoreReadOnly,
    StoreTimeout,
    StoreUnavailable,
)
from featurestore.masking import mask_url
from featurestore.stores.registry.schema import SCHEMA_REVISION, VERSION_TABLE

LOCK_TIMEOUT_S = 30
"""How long a transaction waits for another one's lock."""
CONNECT_TIMEOUT_S = 10

_WRITES = "featurestore_writes"
_MIGRATION = "featurestore schema"


class Database:
    """One database, reached through SQLAlchemy. `shown` is its URL without the password."""

    def __init__(self, engine: Engine, shown: str) -> None:
        self._engine = engine
        self._held: sqlite3.Connection | None = None
        self._here = threading.local()
        self.shown = shown
        _OPEN.add(self)

    @classmethod
    def open(cls, url: str, *, root: Path) -> Database:
        """Connect, and bring the schema up to date.

        Raises `InvalidSettings` for a URL that names no database of ours, `SchemaTooNew`,
        `StoreUnavailable`, `StoreAccessDenied`, `StoreReadOnly`.
        """
        parsed = _parse(url, root)
        database = cls(_engine(parsed), mask_url(parsed.render_as_string(hide_password=True)))
        try:
            if parsed.get_backend_name() == "sqlite":
                database._prepare_file(Path(parsed.database or ""))
            database._migrate()
            if parsed.get_backend_name() == "sqlite":
                database._hold(parsed.database or "")
        except FeatureStoreError:
            database.close()
            raise
        return database

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only reads: that of the `session` around it in this thread, or one of
        its own."""
        around: Connection | None = getattr(self._here, "connection", None)
        with self._translated():
            if around is not None:
                yield around
                return
            with self._engine.begin() as connection:
                yield connection

    @contextmanager
    def session(self) -> Iterator[None]:
        """One transaction for all that this thread reads within the block."""
        with self.reading() as connection:
            before = getattr(self._here, "connection", None)
            self._here.connection = connection
            try:
                yield
            finally:
                self._here.connection = before

    @contextmanager
    def writing(self, lock: str) -> Iterator[Connection]:
        """A transaction that writes, alone among those that name the same `lock`: SQLite has one
        writer at a time anyway, Postgres takes an advisory lock until the end of it.

        Raises `SchemaTooNew` where a newer version has changed the schema since it was opened.
        """
        options = {_WRITES: True}
        with (
            self._translated(),
            self._engine.connect().execution_options(**options) as connection,
            connection.begin(),
        ):
            if connection.dialect.name == "postgresql":
                _lock_postgres(connection, lock)
            if lock != _MIGRATION:
                _check_revision(connection, self.shown)
            yield connection

    def close(self) -> None:
        """Release all connections."""
        if self._held is not None:
            self._held.close()
            self._held = None
        self._engine.dispose()

    def forget_connections(self) -> None:
        """Leave the connections to the process that opened them."""
        if self._held is not None:
            # Not closed as long as this process lives: that would end the parent's locks.
            _OF_PARENT.append(self._held)
            self._held = None
        self._engine.dispose(close=False)

    def _hold(self, path: str) -> None:
        """Keep a connection that nobody uses: whoever closes the last one to a file writes back its
        whole log, which takes as long as the commit before it."""
        try:
            self._held = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._held.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.Error as error:
            raise _translate(error, self.shown) from error

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except exc.DBAPIError as error:
            raise _translate(error.orig, self.shown) from error
        except UnicodeEncodeError as error:
            raise InvalidRecord(
                f"The registry {self.shown} holds text, not half a surrogate pair ({error.reason})"
            ) from error
        except exc.TimeoutError as error:
            raise StoreUnavailable(
                f"The registry {self.shown} has no free connection; try again"
            ) from error

    def _prepare_file(self, path: Path) -> None:
        """Create the folder, and let readers and the writer work side by side (WAL, for good)."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreUnavailable(
                f"The folder of the registry {self.shown} can't be made: {error.strerror}"
            ) from error
        # Switching needs the file alone for a moment and ignores the lock timeout, so that the
        # first openers of a new file have to take turns by themselves.
        give_up = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            try:
                with closing(self._engine.raw_connection()) as connection:
                    connection.cursor().execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.Error as error:
                if not _is_busy(error) or time.monotonic() >= give_up:
                    raise _translate(error, self.shown) from error
                time.sleep(0.02)

    def _migrate(self) -> None:
        with self.reading() as connection:
            found = _revision(connection)
        if found == SCHEMA_REVISION:
            return
        with self.writing(_MIGRATION) as connection:
            # Another process may have migrated while this one waited for the lock.
            found = _revision(connection)
            if found != SCHEMA_REVISION:
                _upgrade(connection, found, self.shown)


_OPEN: weakref.WeakSet[Database] = weakref.WeakSet()
_OF_PARENT: list[sqlite3.Connection] = []


def _after_fork() -> None:
    """A forked process that spoke on its parent's connections would end both."""
    for database in list(_OPEN):
        database.forget_connections()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _translate(cause: BaseException | None, shown: str) -> FeatureStoreError:
    """The error of ours that a driver's error means. Never holds a password or a statement."""
    text = (str(cause).strip() or type(cause).__name__).splitlines()[0]
    where = f"The registry {shown}"
    if isinstance(cause, sqlite3.Error):
        return _translate_sqlite(cause, where, text)
    return _translate_postgres(cause, where, text)


# A file that may not grow is an error of its write or of the shared memory beside it.
_NO_ROOM = ("SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHM")


def _translate_sqlite(cause: sqlite3.Error, where: str, text: str) -> FeatureStoreError:
    name = getattr(cause, "sqlite_errorname", "")
    if _is_busy(cause):
        return StoreUnavailable(f"{where} is locked by another process; try again")
    if name.startswith("SQLITE_READONLY"):
        return StoreReadOnly(f"{where} can't be written: {text}; check the file's permissions")
    if name.startswith(("SQLITE_PERM", "SQLITE_AUTH")):
        return StoreAccessDenied(f"{where} can't be opened: {text}; check the file's permissions")
    if name.startswith(_NO_ROOM):
        return StoreFull(f"{where} can't be written: {text}; free some disk space")
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return StoreError(f"{where} is damaged or no SQLite database ({text}); restore a backup")
    if isinstance(cause, sqlite3.OperationalError) and not name.startswith("SQLITE_ERROR"):
        return StoreUnavailable(f"{where} can't be used: {text}; check the path and the disk")
    return StoreError(f"{where} refused a statement: {text}")


def _is_busy(cause: sqlite3.Error) -> bool:
    return getattr(cause, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


_DENIED = ("password authentication failed", "no password supplied", "no pg_hba.conf entry")
_TLS_FAILED = ("certificate", "SSL error", "tlsv1 alert", "does not support SSL", "private key")


def _translate_postgres(cause: BaseException | None, where: str, text: str) -> FeatureStoreError:
    state = getattr(cause, "sqlstate", None) or ""
    # A refused connection carries no SQLSTATE; its text is all there is.
    if state[:2] == "28" or state == "42501" or any(part in str(cause) for part in _DENIED):
        return StoreAccessDenied(f"{where} refuses access: {text}; check user and password")
    if not state and any(part in str(cause) for part in _TLS_FAILED):
        return StoreAccessDenied(
            f"{where} can't be reached by TLS: {text}; check sslmode, sslrootcert and sslcert"
        )
    if state == "57014":
        return StoreTimeout(f"{where} took too long: {text}")
    if state[:2] == "22" or (not state and "NUL (0x00)" in text):  # the driver's own refusal
        return InvalidRecord(f"{where} can't hold a value: {text}")
    if state == "25006":
        return StoreReadOnly(f"{where} can't be written: {text}")
    if state[:2] == "53" or any(part in str(cause) for part in _NO_CONNECTIONS):
        return _exhausted(state, where, text)
    if not state or state[:2] in ("08", "3D", "40", "55", "57", "58"):
        return StoreUnavailable(f"{where} is away: {text}; check that it runs and try again")
    return StoreError(f"{where} refused a statement: {text}")


_NO_CONNECTIONS = ("too many clients", "too many connections", "connection slots are reserved")


def _exhausted(state: str, where: str, text: str) -> FeatureStoreError:
    """Class 53, "insufficient resources": the server is there and says what it lacks."""
    if state == "53100":
        return StoreFull(
            f"The disk of the server of {where[0].lower()}{where[1:]} is full: {text}; free some "
            "disk space there. Reads go on"
        )
    match state:
        case "53200":
            lacks = "is out of memory", "give it more, or lower its work_mem and max_connections"
        case "" | "53300":
            lacks = "has no connection left", "raise its max_connections, or close other clients"
        case _:
            lacks = "is at a limit of its own", "raise that limit"
    return StoreExhausted(f"{where} runs, but {lacks[0]}: {text}; {lacks[1]}")


def _parse(url: str, root: Path) -> URL:
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        raise InvalidSettings(
            "[registry] url is not a database URL; write sqlite:///path or "
            "postgresql://user:password@host:5432/database"
        ) from None
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise InvalidSettings(
            f"[registry] url begins with {backend!r}; registries are sqlite or postgresql"
        )
    if not parsed.database or parsed.database == ":memory:" or "uri" in parsed.query:
        raise InvalidSettings(
            "[registry] url must name a file, for it is shared: sqlite:///.featurestore/registry.db"
        )
    return parsed.set(drivername="sqlite", database=str(root / parsed.database))


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        # A connection per transaction: opening a file is quick, and nothing is shared by a fork.
        timeout = {} if "timeout" in url.query else {"timeout": LOCK_TIMEOUT_S}
        engine = sa.create_engine(url, poolclass=NullPool, connect_args=timeout)
        event.listen(engine, "connect", _on_sqlite_connect)
        event.listen(engine, "begin", _on_sqlite_begin)
        return engine
    try:
        return sa.create_engine(
            url,
            # Read committed, so that what a transaction reads after it waited for its lock is new.
            isolation_level="READ COMMITTED",
            pool_pre_ping=True,
            pool_size=2,
            connect_args={
                "connect_timeout": CONNECT_TIMEOUT_S,
                "application_name": "featurestore",
            },
        )
    except ModuleNotFoundError as error:
        raise InvalidSettings(
            f"A postgresql registry needs the package {error.name!r}: "
            "pip install 'featurestore[postgres]'"
        ) from error


def _on_sqlite_connect(connection: Any, _: object) -> None:
    # Python's driver would begin transactions on its own account, and never an immediate one.
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys=ON")


def _on_sqlite_begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _lock_postgres(connection: Connection, lock: str) -> None:
    number = int.from_bytes(hashlib.sha256(lock.encode()).digest()[:8], "big", signed=True)
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'")
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(number)))


def _revision(connection: Connection) -> str | None:
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(
        sa.select(sa.column("version_num")).select_from(sa.table(VERSION_TABLE))
    ).scalar()


def _check_revision(connection: Connection, shown: str) -> None:
    found = connection.scalar(
        sa.select(sa.column("version_num")).select_from(sa.table(VERSION_TABLE))
    )
    if found != SCHEMA_REVISION:
        raise _too_new(str(found), shown)


def _too_new(found: str, shown: str) -> SchemaTooNew:
    return SchemaTooNew(
        f"The registry {shown} has schema {found!r}, which this version of featurestore "
        f"(schema {SCHEMA_REVISION!r}) does not know: a newer one wrote it. "
        "Upgrade: pip install --upgrade featurestore"
    )


def _upgrade(connection: Connection, found: str | None, shown: str) -> None:
    # Alembic takes 0.2 s to import and most openings need none of it.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    with resources.as_file(resources.files("featurestore.stores.registry")) as folder:
        config = Config(config_args={"script_location": str(folder / "migrations")})
        config.set_main_option("path_separator", "os")
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if found is not None and found not in known:
            raise _too_new(found, shown)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def server_facts(connection: Connection) -> tuple[str, str, int | None]:
    """Product, version, and the server's clock in µs where it has one of its own.

    Raises `StoreReadOnly` where the database takes no writes.
    """
    if connection.dialect.name == "sqlite":
        return "SQLite", sqlite3.sqlite_version, None
    row = connection.execute(
        sa.text(
            "SELECT current_setting('server_version'), "
            "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint), "
            "current_setting('transaction_read_only')"
        )
    ).one()
    if row[2] == "on":
        raise StoreReadOnly("The registry's database takes no writes: is it a replica?")
    return "PostgreSQL", str(row[0]).split()[0], int(row[1])
