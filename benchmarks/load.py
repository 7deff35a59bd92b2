"""Load on a gRPC server: by `h2load` (Debian's nghttp2-client) where it is there, else from Python.

A Python client takes several times as much of the machine as the server that it asks, so its rates
say little about a fast server; lines that were measured with it say so.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import uvloop

H2LOAD = shutil.which("h2load")
GENERATOR = "h2load" if H2LOAD else "Python client"
_RATE = re.compile(r"finished in .*, ([\d.]+) req/s")
_DONE = re.compile(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout")


@dataclass(frozen=True)
class Load:
    """`connections`, each with so many `calls` under way, for `seconds` after a warm-up."""

    connections: int
    calls: int
    seconds: float


@dataclass(frozen=True)
class Served:
    """Calls answered per second, and how long single ones took."""

    rate: float
    p50_ms: float
    p99_ms: float


def ask(target: str, method: str, messages: Sequence[bytes], load: Load) -> Served:
    """Ask a server for a while; each call sends all `messages`. Raises `RuntimeError` where a call
    failed."""
    if H2LOAD:
        return _by_h2load(H2LOAD, target, method, messages, load)
    return uvloop.run(_from_python(target, method, messages, load))


def _by_h2load(
    h2load: str, target: str, method: str, messages: Sequence[bytes], load: Load
) -> Served:
    with tempfile.TemporaryDirectory(prefix="fs_load_") as folder:
        body, log = Path(folder) / "body", Path(folder) / "log"
        body.write_bytes(b"".join(b"\0" + struct.pack(">I", len(m)) + m for m in messages))
        command = [
            h2load,
            f"-D{load.seconds * 1000:.0f}ms",
            "--warm-up-time=200ms",
            f"--log-file={log}",
        ]
        command += [f"-c{load.connections}", f"-m{load.calls}", f"-d{body}"]
        command += ["-Hcontent-type: application/grpc", "-Hte: trailers"]
        ran = subprocess.run(
            [*command, f"http://{target}{method}"], capture_output=True, text=True, check=True
        )
        rate, done = _RATE.search(ran.stdout), _DONE.search(ran.stdout)
        if rate is None or done is None or int(done[2]) + int(done[3]):
            raise RuntimeError(f"calls of {target} failed:\n{ran.stdout}{ran.stderr}")
        times = [int(line.split("\t")[2]) / 1e3 for line in log.read_text().splitlines()]
    return Served(float(rate[1]), *_percentiles(times))


async def _from_python(target: str, method: str, messages: Sequence[bytes], load: Load) -> Served:
    times: list[float] = []
    async with contextlib.AsyncExitStack() as stack:
        calls = []
        for number in range(load.connections):
            # Channels of one process share a connection unless their options differ.
            channel = grpc.aio.insecure_channel(target, options=[("load.connection", number)])
            calls.append((await stack.enter_async_context(channel)).stream_stream(method))
        await asyncio.gather(*(_call(call, messages) for call in calls for _ in range(20)))
        began = time.perf_counter()
        until = began + load.seconds

        async def keep_asking(call: grpc.aio.StreamStreamMultiCallable) -> None:
            while (started := time.perf_counter()) < until:
                await _call(call, messages)
                times.append((time.perf_counter() - started) * 1e3)

        await asyncio.gather(*(keep_asking(call) for call in calls for _ in range(load.calls)))
        took = time.perf_counter() - began
    return Served(len(times) / took, *_percentiles(times))


async def _call(call: grpc.aio.StreamStreamMultiCallable, messages: Sequence[bytes]) -> None:
    answered = 0
    async for _ in call(iter(messages)):
        answered += 1
    assert answered == len(messages)


def _percentiles(times: list[float]) -> tuple[float, float]:
    times = sorted(times)
    return times[len(times) // 2], times[len(times) * 99 // 100]
