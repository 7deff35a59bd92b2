"""The Redis store: the contract on Valkey 9 and Redis 8, and what only a server can do to us."""

from __future__ import annotations

import asyncio
import queue
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import pytest
import trustme
from free_ports import free_port
from patience import promised, wait_for
from redis_servers import RedisServer, redis_binary, valkey_binary

from featurestore.config import OnlineSettings
from featurestore.errors import (
    StoreAccessDenied,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreTimeout,
    StoreUnavailable,
)
from featurestore.stores.online.base import KeyFields, RowBatch, WriteResult
from featurestore.stores.online.redis import RedisStore
from featurestore.stores.online.resp import parse_target
from featurestore.testing.online_rows import (
    FIELD,
    OTHER_FIELD,
    PREFIX,
    get,
    numbered,
    put,
    row,
    rows,
)
from featurestore.testing.online_store import OnlineStoreContract, OnlineStoreOpener


class KeyExpiryStore(RedisStore):
    """As on a server that expires only whole keys."""

    @classmethod
    def open(cls, settings: OnlineSettings, *, root: Path, read_only: bool = False) -> Self:
        return cls(settings.url, expires="key", timeout_ms=30_000, read_only=read_only)


class KeyByKeyStore(RedisStore):
    """As a cluster asks for it: one key in each call."""

    @classmethod
    def open(cls, settings: OnlineSettings, *, root: Path, read_only: bool = False) -> Self:
        return cls(settings.url, rows_per_call=1, timeout_ms=30_000, read_only=read_only)


class TestRedisStoreOnValkey(OnlineStoreContract):
    """Valkey 9"""

    @pytest.fixture
    def opener(self, redis_url: str, tmp_path: Path) -> OnlineStoreOpener:
        return OnlineStoreOpener(RedisStore, redis_url, tmp_path)


class TestRedisStoreOnRedis(OnlineStoreContract):
    """Redis 8"""

    @pytest.fixture
    def opener(self, redis8_url: str, tmp_path: Path) -> OnlineStoreOpener:
        return OnlineStoreOpener(RedisStore, redis8_url, tmp_path)


@pytest.mark.slow
class TestRedisStoreWithKeyExpiry(OnlineStoreContract):
    """servers without expiry of hash fields"""

    @pytest.fixture
    def opener(self, redis_url: str, tmp_path: Path) -> OnlineStoreOpener:
        return OnlineStoreOpener(KeyExpiryStore, redis_url, tmp_path)


@pytest.mark.slow
class TestRedisStoreKeyByKey(OnlineStoreContract):
    """servers that refuse calls of several keys"""

    @pytest.fixture
    def opener(self, redis8_url: str, tmp_path: Path) -> OnlineStoreOpener:
        return OnlineStoreOpener(KeyByKeyStore, redis8_url, tmp_path)


@pytest.mark.slow
def test_a_cluster_node_serves_calls_of_one_key(tmp_path: Path) -> None:
    with RedisServer(valkey_binary(), "--cluster-enabled", "yes") as node:
        node.command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        wait_for(lambda: b"cluster_state:ok" in node.command("CLUSTER", "INFO"))
        keys = numbered(200)
        batch = RowBatch(field=FIELD, keys=keys, rows=[row(1)] * 200)
        with RedisStore(node.url, rows_per_call=1) as store:
            assert store.write(batch).written == 200
            assert store.read([KeyFields(k, (FIELD,)) for k in keys]) == [[row(1)]] * 200
            assert store.replace(FIELD, keys[0], expected=row(1), row=row(2), expire_at_us=None)
            assert sum(store.sweep(PREFIX, keep=[])) == 200
        with RedisStore(node.url) as store, pytest.raises(StoreError, match="node of a cluster"):
            store.write(batch)


@pytest.fixture(scope="module")
def locked() -> Iterator[RedisServer]:
    """A server with a password, and a user who may only read keys of project shop."""
    with RedisServer(valkey_binary(), "--requirepass", "open:se@me/") as server:
        with RedisStore(url(server, ":open%3Ase%40me%2F@")) as admin:
            rules = ["on", ">hunter2", "~fs/shop/*", "+hmget", "+hget", "+client"]
            admin._each([(b"ACL", b"SETUSER", b"reader", *(rule.encode() for rule in rules))])
        yield server


class TestAccess:
    def test_passwords_may_have_any_character(self, locked: RedisServer) -> None:
        with RedisStore(url(locked, ":open%3Ase%40me%2F@")) as store:
            assert put(store, PREFIX, row(1)).written + 1
            assert get(store, PREFIX) == row(1)
            assert asyncio.run(store.read_async([KeyFields(PREFIX, (FIELD,))])) == [[row(1)]]

    @pytest.mark.parametrize("who", ["", ":wrong-secret@", "reader:wrong-secret@", "no:secret@"])
    def test_wrong_credentials_are_denied_and_never_shown(
        self, locked: RedisServer, who: str
    ) -> None:
        with RedisStore(url(locked, who)) as store:
            for call in calls(store):
                with pytest.raises(StoreAccessDenied) as caught:
                    call()
                assert "secret" not in str(caught.value)
                assert "secret" not in repr(caught.value.__cause__)
            assert "secret" not in repr(store._target)

    def test_what_a_user_may_not_do_is_denied(self, locked: RedisServer) -> None:
        put_as_admin = RedisStore(url(locked, ":open%3Ase%40me%2F@"))
        with put_as_admin as admin, RedisStore(url(locked, "reader:hunter2@")) as store:
            put(admin, PREFIX + b"a", row(1))
            assert get(store, PREFIX + b"a") == row(1)
            with pytest.raises(StoreAccessDenied, match="NOPERM"):
                put(store, PREFIX + b"a", row(2))
            with pytest.raises(StoreAccessDenied, match="NOPERM"):
                get(store, b"fs/other/x")
            # One refusal breaks nothing.
            assert get(store, PREFIX + b"a") == row(1)

    def test_a_password_for_a_server_that_has_none(self, redis_url: str) -> None:
        store = RedisStore(redis_url.replace("//", "//:secret@"))
        with store, pytest.raises(StoreAccessDenied):
            store.ping()


class TestServerStates:
    def test_a_replica_is_read_only(self) -> None:
        options = ("--replicaof", "127.0.0.1 1")
        with RedisServer(valkey_binary(), *options) as replica, RedisStore(replica.url) as store:
            assert get(store, PREFIX) is None
            with pytest.raises(StoreReadOnly, match="READONLY"):
                put(store, PREFIX, row(1))

    def test_a_server_that_waits_for_its_primary_is_unavailable(self) -> None:
        options = ("--replicaof", "127.0.0.1 1", "--replica-serve-stale-data", "no")
        with RedisServer(valkey_binary(), *options) as replica, RedisStore(replica.url) as store:
            for call in calls(store)[:3]:
                with pytest.raises(StoreUnavailable, match="MASTERDOWN"):
                    call()

    @pytest.mark.parametrize("binary", [valkey_binary, redis_binary])
    def test_a_full_server_is_unavailable_and_still_reads(self, binary: Callable[[], str]) -> None:
        with RedisServer(binary(), "--maxmemory", "3mb") as small, RedisStore(small.url) as store:
            keys = numbered(100)
            put(store, keys[0], row(1))
            big = [row(1, text="x" * 100_000)] * len(keys)
            with pytest.raises(StoreFull, match="OOM"):
                store.write(RowBatch(field=OTHER_FIELD, keys=keys, rows=big))
            assert get(store, keys[0]) == row(1)

    def test_a_key_that_someone_else_uses(self, valkey: RedisServer, redis_url: str) -> None:
        valkey.command("SET", PREFIX.decode(), "text")
        with RedisStore(redis_url) as store:
            for call in calls(store)[:3]:
                with pytest.raises(StoreError, match="WRONGTYPE"):
                    call()
            assert get(store, PREFIX + b"x") is None

    def test_a_database_that_the_server_does_not_have(self, valkey: RedisServer) -> None:
        with RedisStore(f"redis://127.0.0.1:{valkey.port}/999") as store:
            for call in calls(store):
                with pytest.raises(StoreError, match="out of range"):
                    call()

    def test_databases_are_apart(self, valkey: RedisServer, redis_url: str) -> None:
        with RedisStore(redis_url) as first, RedisStore(redis_url[:-1] + "?db=3") as second:
            put(second, PREFIX, row(3))
            assert get(first, PREFIX) is None
            assert asyncio.run(second.read_async([KeyFields(PREFIX, (FIELD,))])) == [[row(3)]]

    def test_scripts_that_someone_flushes_are_sent_again(
        self, valkey: RedisServer, redis_url: str
    ) -> None:
        keys = numbered(3_000)
        with RedisStore(redis_url) as store:
            put(store, keys[0], row(0))
            valkey.command("SCRIPT", "FLUSH")
            batch = RowBatch(field=FIELD, keys=keys, rows=[row(1)] * len(keys))
            assert store.write(batch) == WriteResult(written=3_000, same=0, older=0)
            valkey.command("SCRIPT", "FLUSH")
            assert store.replace(FIELD, keys[0], expected=row(1), row=row(2), expire_at_us=None)

    def test_connections_are_named_and_closed(self, valkey: RedisServer, redis_url: str) -> None:
        def named() -> int:
            return valkey.command("CLIENT", "LIST").count(b"name=featurestore")

        async def look(store: RedisStore) -> int:
            await store.read_async([KeyFields(PREFIX, (FIELD,))])
            return named()

        store = RedisStore(redis_url)
        store.ping()
        assert asyncio.run(look(store)) == 2
        wait_for(lambda: named() == 1)
        store.close()
        wait_for(lambda: named() == 0)


class TestOutages:
    """The server goes away, hangs, and comes back."""

    @pytest.fixture
    def server(self) -> Iterator[RedisServer]:
        with RedisServer(valkey_binary()) as server:
            yield server

    @pytest.fixture
    def store(self, server: RedisServer) -> Iterator[RedisStore]:
        with RedisStore(server.url, timeout_ms=300) as store:
            yield store

    @pytest.fixture
    def patient(self, server: RedisServer) -> Iterator[RedisStore]:
        with RedisStore(server.url, timeout_ms=30_000) as store:
            yield store

    def test_opening_needs_no_server(self, tmp_path: Path) -> None:
        settings = OnlineSettings(url=f"redis://127.0.0.1:{free_port()}/0")
        with RedisStore.open(settings, root=tmp_path) as store:
            for call in calls(store):
                with pytest.raises(StoreUnavailable, match="not reachable"):
                    call()

    def test_a_server_that_was_killed_and_came_back(
        self, server: RedisServer, patient: RedisStore
    ) -> None:
        put(patient, PREFIX, row(1))
        server.kill()
        for call in calls(patient):
            with pytest.raises(StoreUnavailable):
                call()
        server.start()
        for call in calls(patient):
            call()

    async def test_an_async_reader_recovers_within_a_second(
        self, server: RedisServer, patient: RedisStore
    ) -> None:
        reads = [KeyFields(PREFIX, (FIELD,))]
        assert await patient.read_async(reads) == [[None]]
        server.kill()
        killed, failures = time.monotonic(), 0
        while time.monotonic() < killed + 1.5 or failures < 50:
            with pytest.raises(StoreUnavailable):
                await patient.read_async(reads)
            failures += 1
            await asyncio.sleep(0.005)
        await asyncio.to_thread(server.start)
        back = time.monotonic()
        while True:
            try:
                assert await patient.read_async(reads) == [[None]]
                break
            except StoreUnavailable:
                await asyncio.sleep(0.005)
        assert time.monotonic() - back < promised(1.0)

    async def test_calls_under_way_when_the_server_dies(
        self, server: RedisServer, patient: RedisStore
    ) -> None:
        reads = [KeyFields(key, (FIELD,)) for key in numbered(10)]
        await patient.read_async(reads)
        server.pause()
        tasks = [asyncio.create_task(patient.read_async(reads)) for _ in range(20)]
        await asyncio.sleep(0.05)
        server.kill()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}

    @pytest.mark.slow
    def test_deadlines_of_a_server_that_hangs(self, server: RedisServer, store: RedisStore) -> None:
        big = numbered(2_000)
        put(store, PREFIX, row(1))
        server.pause()
        # Some calls find an open connection, some must make one.
        for call in [*calls(store), *calls(store)]:
            begun = time.monotonic()
            with pytest.raises(StoreTimeout, match="did not answer in time"):
                call()
            assert 0.25 < time.monotonic() - begun < promised(0.9)
        begun = time.monotonic()
        with pytest.raises(StoreTimeout):
            store.read([KeyFields(key, (FIELD,)) for key in big], timeout_ms=50)
        assert time.monotonic() - begun < promised(0.3)
        server.resume()
        wait_for(lambda: all_succeed(store))
        assert get(store, PREFIX) == row(1)

    async def test_async_deadlines_of_a_server_that_hangs(
        self, server: RedisServer, store: RedisStore
    ) -> None:
        keys = numbered(40)
        values = rows([(i, i, str(i)) for i in range(40)])
        store.write(RowBatch(field=FIELD, keys=keys, rows=values))
        reads = [[KeyFields(key, (FIELD,))] for key in keys]
        assert await store.read_async(reads[0]) == [[values[0]]]
        server.pause()
        begun = time.monotonic()

        async def timed(i: int) -> float:
            with pytest.raises(StoreTimeout):
                await store.read_async(reads[i], timeout_ms=30 + 5 * i)
            return time.monotonic() - begun - (30 + 5 * i) / 1000

        late_s = await asyncio.gather(*(timed(i) for i in reversed(range(40))))
        assert min(late_s) > -0.005
        assert max(late_s) < promised(0.2)
        server.resume()
        # The late replies are for the calls that gave up; nobody gets another's row.
        found = await asyncio.gather(*(store.read_async(read, timeout_ms=30_000) for read in reads))
        assert found == [[[value]] for value in values]

    @pytest.mark.slow
    async def test_a_connection_that_hangs_for_long_is_given_up(
        self, server: RedisServer, store: RedisStore
    ) -> None:
        reads = [KeyFields(PREFIX, (FIELD,))]
        await store.read_async(reads)
        server.pause()
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            begun = time.monotonic()
            with pytest.raises((StoreTimeout, StoreUnavailable)):
                await store.read_async(reads, timeout_ms=100)
            assert time.monotonic() - begun < promised(0.4)
        server.resume()
        back = time.monotonic()
        while time.monotonic() - back < promised(1.0):
            try:
                assert await store.read_async(reads) == [[None]]
                return
            except (StoreTimeout, StoreUnavailable):
                await asyncio.sleep(0.01)
        pytest.fail("not back within a second")

    async def test_a_server_that_stops_reading_bounds_what_we_hold(
        self, server: RedisServer, store: RedisStore
    ) -> None:
        large = [KeyFields(PREFIX + bytes(1_000_000), (FIELD,))]
        await store.read_async(large)
        (client,) = store._clients.values()
        assert client._link is not None
        assert client._link._transport is not None
        transport, held = client._link._transport, 0
        server.pause()
        reads = [store.read_async(large, timeout_ms=300) for _ in range(60)]
        waiting = asyncio.gather(*reads, return_exceptions=True)
        while not waiting.done():
            held = max(held, transport.get_write_buffer_size())
            await asyncio.sleep(0.005)
        # On a slow machine the silence is long enough to give the connection up.
        assert {type(outcome) for outcome in waiting.result()} <= {StoreTimeout, StoreUnavailable}
        assert 0 < held < 8_000_000
        server.resume()
        assert await store.read_async(large, timeout_ms=30_000) == [[None]]


class TestTls:
    """TLS in front of a real server: a forwarder that ends TLS and passes bytes on, as stunnel or a
    cloud's proxy does."""

    @pytest.fixture
    def authority(self) -> trustme.CA:
        return trustme.CA()

    @pytest.fixture
    def tls_url(self, authority: trustme.CA, redis_url: str, tmp_path: Path) -> Iterator[str]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        ca_file = tmp_path / "ca.pem"
        authority.cert_pem.write_to_path(str(ca_file))
        with tls_forwarder(context, parse_target(redis_url).port) as port:
            yield f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={ca_file}"

    def test_blocking_and_async_calls_speak_tls(self, tls_url: str) -> None:
        with RedisStore(tls_url) as store:
            for call in calls(store):
                call()
            assert get(store, PREFIX) == row(1)
            big = row(2, text="x" * 3_000_000)
            put(store, PREFIX, big)
            assert asyncio.run(store.read_async([KeyFields(PREFIX, (FIELD,))])) == [[big]]

    def test_an_unknown_authority_is_refused(self, tls_url: str) -> None:
        with RedisStore(tls_url.partition("?")[0]) as store:
            for call in calls(store):
                with pytest.raises(StoreUnavailable, match="certificate"):
                    call()
        with RedisStore(tls_url.partition("?")[0] + "?ssl_cert_reqs=none") as store:
            assert get(store, PREFIX) is None

    def test_certificate_files_that_are_missing(self, tls_url: str) -> None:
        with RedisStore(tls_url + "x") as store:
            for call in calls(store):
                with pytest.raises(StoreError, match="certificate files"):
                    call()

    @pytest.mark.slow
    def test_tls_with_a_server_that_has_none(self, valkey: RedisServer) -> None:
        with RedisStore(f"rediss://127.0.0.1:{valkey.port}/0", timeout_ms=500) as store:
            for call in calls(store):
                with pytest.raises((StoreUnavailable, StoreTimeout)):
                    call()


@contextmanager
def tls_forwarder(context: ssl.SSLContext, port: int) -> Iterator[int]:
    """Listen with TLS on the port that is yielded, and pass bytes to and from `port`."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))
        finally:
            inner_writer.transport.abort()
            writer.transport.abort()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        listening.put((asyncio.get_running_loop(), server.sockets[0].getsockname()[1]))
        await stop.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    stop = asyncio.Event()
    listening: queue.Queue[tuple[asyncio.AbstractEventLoop, int]] = queue.Queue()
    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    loop, listens_on = listening.get(timeout=60)
    try:
        yield listens_on
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


def calls(store: RedisStore) -> list[Callable[[], object]]:
    """One call of each kind; reads and writes touch the key `PREFIX`."""
    return [
        lambda: get(store, PREFIX),
        lambda: put(store, PREFIX, row(1)),
        lambda: asyncio.run(store.read_async([KeyFields(PREFIX, (FIELD,))])),
        store.ping,
        lambda: list(store.sweep(b"fs/other/", keep=[])),
    ]


def url(server: RedisServer, who: str) -> str:
    return f"redis://{who}{server.host}:{server.port}/0"


def all_succeed(store: RedisStore) -> bool:
    """Whether one call of each kind is answered (in time, on a busy machine)."""
    try:
        for call in calls(store):
            call()
    except (StoreTimeout, StoreUnavailable):
        return False
    return True
