"""Connections that mean ill: too many, too slow, silent, talking nonsense. Others are answered."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import http2_frames as h2
import pytest
from hostile import Served, both_doors, served
from patience import promised, wait_for

HALF_A_HEADER = b"POST /v1/online-features HTTP/1.1\r\nhost: x\r\nx-slow: "
POST = b"POST /v1/online-features HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
MANY = 200

pytestmark = pytest.mark.slow


server, native, either = both_doors(
    request_timeout_ms=800, connection_idle_timeout_ms=1_600, message_bytes_max=100_000
)


@contextlib.contextmanager
def held(open_one: Callable[[], socket.socket], first: bytes, count: int) -> Iterator[list]:
    """`count` connections that have sent `first` and then nothing."""
    with contextlib.ExitStack() as stack:
        connections = []
        for _ in range(count):
            connections.append(stack.enter_context(open_one()))
            with contextlib.suppress(ConnectionError):
                connections[-1].sendall(first)
        yield connections


def everything(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while chunk := connection.recv(65_536):
            data += chunk
    return data


def one_answer(connection: socket.socket) -> bytes:
    """All of one answer with a body, of which headers and body may come one by one."""
    data = b""
    while not data.endswith(b"}"):
        chunk = connection.recv(65_536)
        assert chunk, data
        data += chunk
    return data


class TestSlowLoris:
    @pytest.mark.parametrize(
        ("first", "code"),
        [
            (HALF_A_HEADER, b'"request-timeout"'),
            (POST + b"content-length: 50\r\n\r\n{", b'"request-timeout"'),
            (POST + b"transfer-encoding: chunked\r\n\r\n5\r\n{", b'"request-timeout"'),
            (b"", b""),
        ],
        ids=["half headers", "half a body", "half a chunk", "silence"],
    )
    def test_http(self, server: Served, first: bytes, code: bytes) -> None:
        before = server.open_files()
        with held(server.connect_http, first, MANY) as connections:
            server.answers_right()
            last = everything(connections[-1])
            assert last.startswith(b"HTTP/1.1 408 " if code else b"")
            assert code in last
            server.let_go(before + 5)

    def test_a_byte_now_and_then_buys_no_time(self, server: Served) -> None:
        with server.connect_http() as connection:
            connection.sendall(HALF_A_HEADER)

            def is_cut_off() -> bool:
                try:
                    connection.sendall(b"x")
                except ConnectionError:
                    return True
                return False

            wait_for(is_cut_off, within_s=promised(10))

    def test_a_request_after_another_has_the_same_time(self, server: Served) -> None:
        with server.connect_http() as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert one_answer(connection).startswith(b"HTTP/1.1 200 ")
            connection.sendall(HALF_A_HEADER)
            assert everything(connection).startswith(b"HTTP/1.1 408 ")

    @pytest.mark.parametrize(
        "first",
        [b"", h2.PREFACE[:7], h2.PREFACE, h2.PREFACE + h2.frame(h2.SETTINGS)],
        ids=["silence", "half the preface", "preface", "settings not acknowledged"],
    )
    def test_grpc(self, either: Served, first: bytes) -> None:
        before = either.open_files()
        with held(either.connect_grpc, first, MANY):
            either.answers_right()
            if either.door == "grpcio":  # the native one keeps them
                either.let_go(before + 5)
        either.let_go(before + 5)

    def test_streams_that_never_bring_their_message(self, either: Served) -> None:
        """grpcio keeps such a stream as long as its connection; it costs a little memory."""
        before, open_files = either.memory_mb(), either.open_files()
        stalled = b"".join(
            h2.request_headers(stream)
            + h2.frame(h2.DATA, h2.message(b"x" * 100)[:50], stream=stream)
            for stream in range(1, 200, 2)
        )
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                connection = stack.enter_context(either.connect_grpc())
                h2.greet(connection)
                connection.sendall(stalled)
            either.answers_right()
            assert either.memory_mb() < before + 200
        either.let_go(open_files + 5)
        either.answers_right()


class TestFloods:
    """What a connection may send without end."""

    def storm(self, server: Served, first: bytes, again: bytes, times: int) -> list[int]:
        """The kinds of the frames that come back."""
        memory = server.memory_mb()
        with server.connect_grpc(5) as connection:
            h2.greet(connection)
            kinds = list[int]()
            try:
                connection.sendall(first)
                for _ in range(times):
                    connection.sendall(again)
            except OSError:
                pass  # it was cut off, as it should be
            server.answers_right()
            assert server.memory_mb() < memory + 200
            connection.settimeout(0.5)
            with contextlib.suppress(TimeoutError):
                kinds = h2.kinds_until_closed(connection)
        server.answers_right()
        return kinds

    def test_rapid_reset(self, either: Served) -> None:
        cancel = (8).to_bytes(4, "big")
        with either.connect_grpc(5) as connection:
            h2.greet(connection)
            with contextlib.suppress(OSError):
                for first in range(1, 20_000, 200):
                    connection.sendall(
                        b"".join(
                            h2.request_headers(stream)
                            + h2.frame(h2.RST_STREAM, cancel, stream=stream)
                            for stream in range(first, first + 200, 2)
                        )
                    )
            either.answers_right()

    def test_pings(self, either: Served) -> None:
        self.storm(either, b"", h2.frame(h2.PING, b"12345678") * 100, 500)

    def test_settings(self, either: Served) -> None:
        self.storm(either, b"", h2.frame(h2.SETTINGS) * 100, 500)

    def test_headers_without_end(self, either: Served) -> None:
        more = h2.frame(h2.CONTINUATION, h2.literal("x" * 100, "y" * 10_000), stream=1)
        self.storm(either, h2.request_headers(1, flags=0), more, 1_000)

    def test_http_headers_without_end(self, server: Served) -> None:
        with server.connect_http() as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"GET /healthz HTTP/1.1\r\n")
                for number in range(20_000):
                    connection.sendall(b"x-%d: %b\r\n" % (number, b"y" * 100))
            assert b"408" not in everything(connection)
        server.answers_right()

    def test_http_requests_in_one_go(self, server: Served) -> None:
        """Pipelining: each is answered, in order."""
        with server.connect_http() as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n" * 200)
            found = b""
            while found.count(b'{"status":"ok"}') < 200:
                found += (more := connection.recv(65_536))
                assert more
        server.answers_right()


class TestTooMany:
    def test_http_closes_whom_it_waited_for_longest(self, tmp_path: Path) -> None:
        with (
            served(tmp_path, connections_max=20) as small,
            held(small.connect_http, b"", 10) as old,
            small.connect_http() as used,
        ):
            for more in (0, 12):
                with held(small.connect_http, b"", more):
                    assert [everything(one) for one in old[: more // 4]] == [b""] * (more // 4)
                    used.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
                    assert one_answer(used).startswith(b"HTTP/1.1 200 ")
                    small.answers_right()

    def test_grpc_takes_no_more_and_those_it_has_are_answered(self, tmp_path: Path) -> None:
        limits = {"connections_max": 20, "request_timeout_ms": 1_000}
        with served(tmp_path, door="grpcio", **limits) as small:
            with held(small.connect_grpc, b"", 60):
                assert small.open_files() < 120
                # The silent ones are cut off after `request_timeout_ms`.
                small.answers_right()
            small.answers_right()


def thousands(default: int) -> int:
    """How many connections the test may open, both of its ends being on this machine."""
    wanted = int(os.environ.get("FEATURESTORE_TEST_CONNECTIONS", default))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard > wanted + 200, f"the limit of open files, {hard}, is too low for this test"
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return wanted


def crowd(root: Path, count: int, door: str) -> None:
    """Half of `count` connections at each door, all of them open at once."""
    with served(root, door=door, request_timeout_ms=60_000) as crowded:
        crowded.answers_right()
        memory, files = crowded.memory_mb(), crowded.open_files()
        with (
            held(crowded.connect_http, HALF_A_HEADER, count // 2),
            held(crowded.connect_grpc, h2.PREFACE + h2.frame(h2.SETTINGS), count // 2),
        ):
            wait_for(lambda: crowded.open_files() >= files + count)
            for _ in range(5):
                crowded.answers_right()
            assert crowded.memory_mb() < memory + 200 + count / 20
        crowded.let_go(files + 10)
        crowded.answers_right()


@pytest.mark.parametrize("door", ["grpcio", "native"])
def test_a_thousand_connections(tmp_path: Path, door: str) -> None:
    crowd(tmp_path, thousands(1_000), door)


@pytest.mark.full
@pytest.mark.parametrize("door", ["grpcio", "native"])
def test_ten_thousand_connections(tmp_path: Path, door: str) -> None:
    crowd(tmp_path, thousands(10_000), door)
