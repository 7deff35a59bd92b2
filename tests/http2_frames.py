"""HTTP/2 by hand, for callers that no library would be: frames as bytes, and the answers' kinds."""

from __future__ import annotations

import socket
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    0, 1, 3, 4, 6, 7, 8, 9,
)  # fmt: skip
END_STREAM, ACK, END_HEADERS = 1, 1, 4
METHOD = "/featurestore.v1.OnlineFeatures/GetOnlineFeatures"


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    """One frame."""
    head = struct.pack(">I", len(payload))[1:] + bytes([kind, flags])
    return head + struct.pack(">I", stream) + payload


def literal(name: str, value: str) -> bytes:
    """A header of HPACK, without any compression."""
    return b"\x00" + _text(name) + _text(value)


def _text(text: str) -> bytes:
    data = text.encode()
    if len(data) < 127:
        return bytes([len(data)]) + data
    rest, out = len(data) - 127, bytearray([127])
    while rest >= 128:
        out.append(rest % 128 + 128)
        rest //= 128
    out.append(rest)
    return bytes(out) + data


def request_headers(stream: int, *, flags: int = END_HEADERS, path: str = METHOD) -> bytes:
    """The headers of a gRPC call."""
    block = b"".join(
        literal(name, value)
        for name, value in (
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "test"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        )
    )
    return frame(HEADERS, block, flags=flags, stream=stream)


def message(data: bytes) -> bytes:
    """A gRPC message as it stands in DATA frames."""
    return b"\x00" + struct.pack(">I", len(data)) + data


def greet(connection: socket.socket) -> None:
    """What a client begins a connection with."""
    connection.sendall(PREFACE + frame(SETTINGS) + frame(SETTINGS, flags=ACK))


def kinds_until_closed(connection: socket.socket) -> list[int]:
    """The kinds of all frames that come until the peer closes (or the socket's time-out)."""
    kinds, data = list[int](), b""
    try:
        while chunk := connection.recv(65_536):
            data += chunk
            while len(data) >= 9 and len(data) >= (whole := 9 + int.from_bytes(data[:3], "big")):
                kinds.append(data[3])
                data = data[whole:]
    except ConnectionError:
        pass
    return kinds
