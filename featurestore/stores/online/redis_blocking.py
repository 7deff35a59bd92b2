"""Blocking connections to a Redis-protocol server: bytes out, parsed replies in, by a deadline.

A deadline is an instant of `time.monotonic`. It covers connecting, the greeting, sending and all
replies together, which a timeout per socket operation would not.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import hiredis

from featurestore.stores.online.resp import (
    BROKEN,
    Command,
    Target,
    check_greeting,
    failure,
    greeting,
    pack,
)

_RECEIVE_BYTES = 64 * 1024
"""Below what the allocator asks the kernel for each time anew."""
_EARLIER = 0.95
"""A socket's time-out is set to so much of what is left, and stays while it fits: setting it is a
system call."""


class Connection:
    """One socket, greeted. Raises the typed errors of `resp`; after any error it is of no use."""

    def __init__(self, target: Target, deadline: float) -> None:
        self.target = target
        self._reader = hiredis.Reader()
        self._socket = self._connect(deadline)
        self._timeout = 0.0
        self._readable = select.poll()
        self._readable.register(self._socket, select.POLLIN)
        self.mode = b""
        """How rows expire on this server, once a writer has asked."""
        try:
            commands = greeting(target)
            self.send(pack(commands), deadline)
            check_greeting(target, self.replies(len(commands), deadline))
        except BaseException:
            self.close()
            raise

    def _connect(self, deadline: float) -> socket.socket:
        target = self.target
        context = target.ssl_context()
        try:
            plain = socket.create_connection((target.host, target.port), _left(deadline))
        except OSError as error:
            raise failure(target, error) from error
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context is None:
                return plain
            plain.settimeout(_left(deadline))
            return context.wrap_socket(plain, server_hostname=target.host)
        except BROKEN as error:
            plain.close()
            raise failure(target, error) from error

    def send(self, payload: bytes, deadline: float) -> None:
        """Send all bytes of packed commands."""
        try:
            self._wait_until(deadline)
            self._socket.sendall(payload)
        except BROKEN as error:
            raise failure(self.target, error) from error

    def replies(self, count: int, deadline: float) -> list[Any]:
        """The next `count` replies; an error that the server answered is a `hiredis.ReplyError`
        among them."""
        found: list[Any] = []
        gets = self._reader.gets
        try:
            while len(found) < count:
                reply = gets()
                if reply is False:
                    self._receive(deadline)
                else:
                    found.append(reply)
        except BROKEN as error:
            raise failure(self.target, error) from error
        return found

    def _receive(self, deadline: float) -> None:
        # What came in time counts, even if we look at it later.
        self._socket.settimeout(max(0.0, deadline - time.monotonic()))
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError) as error:
            raise TimeoutError from error
        if not data:
            raise EOFError("the server closed the connection")
        self._reader.feed(data)

    def _wait_until(self, deadline: float) -> None:
        """Let the next operation end by the deadline, or at most a tenth earlier."""
        left = _left(deadline)
        if not self._timeout <= left <= 1.1 * self._timeout:
            self._timeout = _EARLIER * left
            self._socket.settimeout(self._timeout)

    def is_idle(self) -> bool:
        """Whether nothing waits to be read: a connection that the server closed is readable."""
        return not self._readable.poll(0)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class Pool:
    """Connections that are idle now; as many are open as threads have calls under way."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._idle: list[Connection] = []
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._closed = False

    @contextmanager
    def connection(self, deadline: float) -> Iterator[Connection]:
        """A connection of one's own, given back unless the block raises."""
        connection = self.take(deadline)
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        self.give(connection)

    def take(self, deadline: float) -> Connection:
        """A connection of one's own: to give back, or to close."""
        return self._idle_one() or Connection(self.target, deadline)

    def give(self, connection: Connection) -> None:
        """Keep a connection, whose replies were all read, for the next caller."""
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def _idle_one(self) -> Connection | None:
        if self._process != os.getpid():
            # A forked child shares its parent's sockets: it must not speak on them. And another
            # thread may have held the lock when it was forked.
            self._process, self._idle, self._lock = os.getpid(), [], threading.Lock()
        with self._lock:
            while self._idle:
                connection = self._idle.pop()
                if connection.is_idle():
                    return connection
                connection.close()
        return None

    def call(self, commands: Sequence[Command], deadline: float) -> list[Any]:
        """The replies to the commands, sent in one piece."""
        with self.connection(deadline) as connection:
            connection.send(pack(commands), deadline)
            return connection.replies(len(commands), deadline)

    def close(self) -> None:
        """Close the idle connections; those in use close when they come back."""
        with self._lock:
            self._closed = True
            while self._idle:
                self._idle.pop().close()


def deadline_in(timeout_ms: int) -> float:
    """The deadline of a call that begins now."""
    return time.monotonic() + timeout_ms / 1000


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
