"""Messages that mean ill: malformed protobuf, bombs of JSON, bodies without end.

Each is refused as the caller's mistake (never as a failure of ours), and the server is as well
afterwards as before.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from hostile import BODY, Served, both_doors, served

from featurestore.wire import serving_pb2 as pb

GET = "/featurestore.v1.OnlineFeatures/GetOnlineFeatures"
MESSAGE_BYTES_MAX = 200_000
THE_CALLERS = {"INVALID_ARGUMENT", "NOT_FOUND", "OK"}
VALID = pb.GetOnlineFeaturesRequest(
    feature_service="m", keys=[pb.KeyColumn(name="id", int64s=pb.Int64Values(values=[7, 8]))]
)

pytestmark = pytest.mark.slow


server, native, either = both_doors(message_bytes_max=MESSAGE_BYTES_MAX, keys_per_request_max=1_000)


@pytest.fixture
def call(either: Served) -> Iterator[grpc.UnaryUnaryMultiCallable[bytes, bytes]]:
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(either.process.grpc_target, options=options) as channel:
        yield channel.unary_unary(GET)


def status_of(call: Any, data: bytes) -> tuple[str, str]:
    try:
        call(data, timeout=20)
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return "OK", ""


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    out.append(value)
    return bytes(out)


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited field of protobuf."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def nested(depth: int, number: int) -> bytes:
    data = b""
    for _ in range(depth):
        data = field(number, data)
    return data


class TestProtobuf:
    def test_random_bytes(self, either: Served, call: Any) -> None:
        random_ = random.Random(1)
        codes = {status_of(call, random_.randbytes(random_.randrange(300)))[0] for _ in range(200)}
        assert codes <= THE_CALLERS
        either.answers_right()

    def test_every_truncation(self, either: Served, call: Any) -> None:
        data = VALID.SerializeToString()
        codes = {status_of(call, data[:length])[0] for length in range(len(data))}
        assert codes <= THE_CALLERS
        assert "INVALID_ARGUMENT" in codes
        either.answers_right()

    def test_every_byte_changed(self, either: Served, call: Any) -> None:
        data, random_ = VALID.SerializeToString(), random.Random(2)
        for index in range(len(data)):
            for _ in range(6):
                changed = bytearray(data)
                changed[index] = random_.randrange(256)
                code, text = status_of(call, bytes(changed))
                assert code in THE_CALLERS, (bytes(changed), text)
        either.answers_right()

    @pytest.mark.parametrize(
        "data",
        [
            pytest.param(nested(5_000, 1), id="deep in the first field"),
            pytest.param(nested(5_000, 3), id="deep in keys"),
            pytest.param(nested(5_000, 1_000), id="deep in an unknown field"),
            pytest.param(b"\x0b" * 20_000, id="groups without end"),
            pytest.param(b"\xff" * 11 + b"\x01", id="a varint of 12 bytes"),
            pytest.param(b"\x0a" + b"\xff" * 9 + b"\x01", id="a length of 2^64 - 1"),
            pytest.param(b"\x0a\xff\xff\xff\xff\x07abc", id="a length of 2^31 - 1"),
            pytest.param(field(1, b"\xff\xfe\xfd"), id="text that is not UTF-8"),
            pytest.param(field(1, b"m\x00"), id="NUL in a name"),
            pytest.param(b"".join(field(1, b"m") for _ in range(20_000)), id="one field again"),
        ],
    )
    def test_bombs(self, either: Served, call: Any, data: bytes) -> None:
        code, text = status_of(call, data)
        assert code in THE_CALLERS, text
        either.answers_right()

    @pytest.mark.parametrize("number", range(1, 8))
    def test_wrong_wire_types(self, either: Served, call: Any, number: int) -> None:
        for wire_type, payload in (
            (0, b"\x07"),
            (1, b"12345678"),
            (2, b"\x03abc"),
            (3, b""),
            (4, b""),
            (5, b"1234"),
            (6, b""),
            (7, b""),
        ):
            code, text = status_of(call, bytes([number << 3 | wire_type]) + payload)
            assert code in THE_CALLERS, (number, wire_type, text)

    def test_counts_that_lie(self, either: Served, call: Any) -> None:
        for count in (0, 1, 3, 1_000, 1_001, 2**31 - 1, 2**32 - 1):
            request = pb.GetOnlineFeaturesRequest()
            request.CopyFrom(VALID)
            request.entity_count = count
            assert status_of(call, request.SerializeToString())[0] == "INVALID_ARGUMENT", count
        none = pb.GetOnlineFeaturesRequest(feature_service="m", entity_count=2**31)
        assert status_of(call, none.SerializeToString())[0] == "INVALID_ARGUMENT"
        either.answers_right()

    def test_the_same_column_twice_and_many_columns(self, either: Served, call: Any) -> None:
        request = pb.GetOnlineFeaturesRequest()
        request.CopyFrom(VALID)
        request.keys.append(VALID.keys[0])
        assert status_of(call, request.SerializeToString())[0] in THE_CALLERS
        for number in range(3_000):
            request.keys.append(pb.KeyColumn(name=f"c{number}"))
        assert status_of(call, request.SerializeToString())[0] in THE_CALLERS
        either.answers_right()

    @pytest.mark.parametrize("times", [1.1, 1.9, 10, 300])
    def test_oversized(self, either: Served, call: Any, times: float) -> None:
        """Up to twice the limit it is refused in our words, above by the transport's."""
        memory = either.memory_mb()
        data = field(1, b"m" * int(times * MESSAGE_BYTES_MAX))
        code, text = status_of(call, data)
        if times < 2:
            assert (code, "message_bytes_max = 200,000" in text) == ("INVALID_ARGUMENT", True)
        else:
            assert code in ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT"), (code, text)
        either.answers_right()
        assert either.memory_mb() < memory + 250

    def test_headers_of_all_sizes(self, either: Served) -> None:
        with grpc.insecure_channel(either.process.grpc_target) as channel:
            method = channel.unary_unary(GET)
            for size in (10_000, 100_000, 1_000_000):
                metadata = (("x-bomb", "x" * size), ("x-bomb-bin", b"\x00\xff" * 100))
                with contextlib.suppress(grpc.RpcError):
                    method(VALID.SerializeToString(), metadata=metadata, timeout=10)
            metadata = (("x-fine", "x" * 1_000),)
            assert method(VALID.SerializeToString(), metadata=metadata, timeout=10)
        either.answers_right()

    def test_methods_that_are_none(self, either: Served) -> None:
        with grpc.insecure_channel(either.process.grpc_target) as channel:
            for path in ("/", "//", "/x", "/../../etc/passwd", GET + "/", GET.lower()):
                code, _ = status_of(channel.unary_unary(path), b"")
                assert code == "UNIMPLEMENTED"


def deep(text: str, depth: int) -> bytes:
    opening = {"[": "]", '{"a":': "}"}[text]
    return f"{text * depth}1{opening * depth}".encode()


def entity(value: str) -> bytes:
    return b'{"feature_service":"m","entities":[{"id":' + value.encode() + b"}]}"


class TestJson:
    @pytest.mark.parametrize(
        "body",
        [
            pytest.param(deep("[", 100_000), id="deep lists"),
            pytest.param(deep('{"a":', 30_000), id="deep objects"),
            pytest.param(entity("[" * 20_000 + "]" * 20_000), id="a deep key"),
            pytest.param(entity("NaN"), id="NaN"),
            pytest.param(entity("Infinity"), id="infinity"),
            pytest.param(entity("1e999"), id="a number beyond double"),
            pytest.param(entity("9" * 10_000), id="a number of 10,000 digits"),
            pytest.param(entity("1" + "0" * 100_000), id="a number of 100,000 digits"),
            pytest.param(entity("9223372036854775808"), id="2^63"),
            pytest.param(entity("-9223372036854775809"), id="-2^63 - 1"),
            pytest.param(entity("1.5"), id="a fraction"),
            pytest.param(entity("true"), id="a truth value"),
            pytest.param(entity('"7"'), id="text"),
            pytest.param(entity('"\\ud800"'), id="half a surrogate pair"),
            pytest.param(entity('{"a":{"b":[]}}'), id="an object as a key"),
            pytest.param(b'{"feature_service":"m","entities":[{"id":"\xff\xfe"}]}', id="no UTF-8"),
            pytest.param(b"\xef\xbb\xbf{}", id="a byte order mark"),
            pytest.param(b"\x00" * 1_000, id="NULs"),
            pytest.param(b"", id="nothing"),
            pytest.param(b"null", id="null"),
            pytest.param(b'"' + b"\\u0000" * 30_000 + b'"', id="30,000 NULs"),
            pytest.param(b'{"a":1,' * 20_000, id="objects without end"),
            pytest.param(
                b'{"feature_service":"m","entities":{"id":[' + b"1," * 50_000 + b"1]}}",
                id="too many keys",
            ),
            pytest.param(
                json.dumps({**BODY, **{f"k{n}": n for n in range(10_000)}}).encode(),
                id="10,000 fields",
            ),
            pytest.param(
                json.dumps({**BODY, "features": None, "feature_service": "\u0000m"}).encode(),
                id="NUL in a name",
            ),
        ],
    )
    def test_bombs(self, server: Served, body: bytes) -> None:
        answer = httpx.post(
            f"{server.process.http_url}/v1/online-features", content=body, timeout=20
        )
        assert answer.status_code in (400, 404), answer.text
        assert set(answer.json()) == {"code", "message", "details"}
        assert len(answer.content) < 20_000
        server.answers_right()

    def test_a_key_given_twice_counts_as_one(self, server: Served) -> None:
        body = b'{"feature_service":"x","feature_service":"m","entities":[{"id":1,"id":7}]}'
        answer = httpx.post(f"{server.process.http_url}/v1/online-features", content=body)
        assert answer.status_code == 200
        assert answer.json()["entities"] == {"id": [7]}

    def test_whatever_the_content_type_says(self, server: Served) -> None:
        for kind in ("text/plain", "multipart/form-data", "application/x-www-form-urlencoded", "x"):
            answer = httpx.post(
                f"{server.process.http_url}/v1/online-features",
                content=json.dumps(BODY).encode(),
                headers={"content-type": kind},
            )
            assert answer.status_code in (200, 415)


class TestBodies:
    def test_a_length_over_the_limit_is_refused_unread(self, server: Served) -> None:
        with server.connect_http() as connection:
            connection.sendall(
                b"POST /v1/online-features HTTP/1.1\r\nhost: x\r\n"
                b"content-length: 99999999999\r\n\r\n"
            )
            answer = b""
            while not answer.endswith(b"}") and (chunk := connection.recv(65_536)):
                answer += chunk
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert b"message_bytes_max = 200,000" in answer

    def test_chunks_without_end(self, server: Served) -> None:
        memory, sent = server.memory_mb(), 0
        with server.connect_http() as connection:
            connection.sendall(
                b"POST /v1/online-features HTTP/1.1\r\nhost: x\r\n"
                b"transfer-encoding: chunked\r\n\r\n"
            )
            with contextlib.suppress(OSError):
                while sent < 200 * 1024 * 1024:
                    connection.sendall(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
                    sent += 65_536
            assert sent < 100 * 1024 * 1024, "the connection was not closed"
        server.answers_right()
        assert server.memory_mb() < memory + 50

    def test_many_large_bodies_share_a_limit(self, tmp_path: Path) -> None:
        most = 4 * 1024 * 1024
        with (
            served(tmp_path, message_bytes_max=most) as large,
            contextlib.ExitStack() as stack,
        ):
            large.answers_right()
            memory, connections = large.memory_mb(), []
            for _ in range(60):
                connection = stack.enter_context(large.connect_http())
                connection.sendall(
                    b"POST /v1/online-features HTTP/1.1\r\nhost: x\r\n"
                    b"content-length: %d\r\n\r\n" % most
                )
                with contextlib.suppress(OSError):
                    connection.sendall(b" " * (most - 10))
                connections.append(connection)
            # 60 bodies of 4 MB would be 240 MB; 16 are held.
            assert large.memory_mb() < memory + 160
            large.answers_right()
            with contextlib.suppress(OSError):
                assert b"server-overloaded" in connections[-1].recv(65_536)

    @pytest.mark.parametrize(
        "text",
        [
            b"GET / HTTP/9.9\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"GET /\x00 HTTP/1.1\r\nhost: x\r\n\r\n",
            b"GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
            b"GET / HTTP/1.1\r\nhost: x\r\n x: folded\r\n\r\n",
            b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
            b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n",
            b"\xff" * 1_000 + b"\r\n\r\n",
        ],
        ids=["version", "TLS", "NUL", "hosts", "folded", "length", "lengths", "chunk", "bytes"],
    )
    def test_what_is_no_http(self, server: Served, text: bytes) -> None:
        with server.connect_http() as connection:
            connection.sendall(text)
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            with contextlib.suppress(ConnectionError):
                while chunk := connection.recv(65_536):
                    answer += chunk
            assert answer.split(b" ")[1] in (b"400", b"404", b"405")
        server.answers_right()
