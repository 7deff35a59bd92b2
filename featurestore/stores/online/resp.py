"""What the blocking and the asyncio connection to a Redis-protocol server share: the URL, the first
commands, and what the server's errors mean. Nothing here does I/O.

A password never enters a message: servers are named by `Target.shown`.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from hiredis import HiredisError, ReplyError, pack_command

from featurestore.errors import (
    InvalidSettings,
    StoreAccessDenied,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreTimeout,
    StoreUnavailable,
    suggest,
)

PORT = 6379
CLIENT_NAME = b"featurestore"
BROKEN = (OSError, EOFError, HiredisError)
"""What a connection that is no use any more raises (`ssl.SSLError` and timeouts are OSErrors)."""

_OPTIONS = ("db", "ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile", "ssl_keyfile")
_DENIED = ("NOAUTH", "WRONGPASS", "NOPERM")
_DENIED_IN_SCRIPTS = ("ACL failure in script", "The user executing the script")
_AWAY = (
    "LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "MISCONF", "NOREPLICAS",
    "UNBLOCKED",
)  # fmt: skip
_CLUSTER = ("MOVED", "ASK", "CROSSSLOT")
_EXAMPLE = "redis://user:password@host:6379/0"

Command = tuple[bytes | int, ...]

pack_one = cast("Callable[[Command], bytes]", pack_command)
"""A command as the server reads it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a server is and who we are there; `tls` holds the `ssl_…` options of a `rediss` URL,
    or is None for plain TCP. With `master`, a server that is a replica now is refused."""

    host: str
    port: int
    db: int = 0
    username: str = ""
    password: str = field(default="", repr=False)
    tls: dict[str, str] | None = None
    master: bool = False

    @property
    def address(self) -> str:
        """`host:port`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def shown(self) -> str:
        """The URL without credentials."""
        return f"{'redis' if self.tls is None else 'rediss'}://{self.address}/{self.db}"

    def ssl_context(self) -> ssl.SSLContext | None:
        """The TLS settings of a connection; None for plain TCP.

        Raises `StoreError` for certificate files that cannot be read.
        """
        if self.tls is None:
            return None
        try:
            context = ssl.create_default_context(cafile=self.tls.get("ssl_ca_certs"))
            if self.tls.get("ssl_cert_reqs") == "none":
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if certificate := self.tls.get("ssl_certfile"):
                context.load_cert_chain(certificate, self.tls.get("ssl_keyfile"))
        except OSError as error:
            raise StoreError(
                f"the certificate files for {self.shown} cannot be used: {error}"
            ) from error
        return context


def parse_target(url: str, *, example: str = _EXAMPLE) -> Target:
    """`redis://user:password@host:6379/0`, or `rediss://…?ssl_ca_certs=file` with TLS.

    Raises `InvalidSettings`, without showing the password, for what is no such URL.
    """
    try:
        parts = urlsplit(url)
        port, host = parts.port or PORT, parts.hostname or "localhost"
        options = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
        db = int(options.pop("db", parts.path.strip("/") or 0))
    except ValueError:
        raise InvalidSettings(
            f"the online store's URL is malformed; write {example} "
            "(special characters of the password percent-encoded)"
        ) from None
    for name in options:
        if name not in _OPTIONS:
            raise InvalidSettings(
                f"the online store's URL has no option {name!r}.{suggest(name, _OPTIONS)}"
            )
    if parts.scheme != "rediss" and options:
        raise InvalidSettings("the online store's URL has ssl options; use rediss:// for TLS")
    if options.get("ssl_cert_reqs", "required") not in ("required", "none"):
        raise InvalidSettings("the online store's ssl_cert_reqs must be required or none")
    return Target(
        host=host,
        port=port,
        db=db,
        username=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        tls=options if parts.scheme == "rediss" else None,
    )


def greeting(target: Target) -> list[Command]:
    """The first commands on a connection; all are answered before it is used."""
    commands: list[Command] = []
    if target.password:
        user = (target.username.encode(),) if target.username else ()
        commands.append((b"AUTH", *user, target.password.encode()))
    if target.db:
        commands.append((b"SELECT", target.db))
    if target.master:
        commands.append((b"ROLE",))
    commands.append((b"CLIENT", b"SETNAME", CLIENT_NAME))
    return commands


def check_greeting(target: Target, replies: Sequence[Any]) -> None:
    """Raises the typed error of the first refused command. (That the server keeps no client names,
    the last one, is none.)"""
    for reply in replies[:-1]:
        if isinstance(reply, ReplyError):
            raise refusal(target, reply)
    if target.master and replies[-2][0] != b"master":
        raise StoreUnavailable(f"the online store {target.shown} is a replica now, not the master")
    last = replies[-1]
    if isinstance(last, ReplyError) and str(last).split(" ", 1)[0] in (*_DENIED, *_AWAY):
        raise refusal(target, last)


def pack(commands: Iterable[Command]) -> bytes:
    """The commands as the server reads them, one after the other."""
    return b"".join(map(pack_one, commands))


def refusal(target: Target, reply: ReplyError) -> StoreError:
    """The typed error for an error that the server answered."""
    text = str(reply)
    word = text.split(" ", 1)[0]
    message = f"the online store {target.shown} answered: {text}"
    if word == "NOPERM" or any(part in text for part in _DENIED_IN_SCRIPTS):
        return StoreAccessDenied(f"{message}. Check the rights of the user in [online] url")
    if word in _DENIED or "AUTH" in text or "invalid password" in text:
        return StoreAccessDenied(f"{message}. Check user and password in [online] url")
    if word in _CLUSTER:
        return StoreError(
            f"{message}. It is a node of a cluster; write redis+cluster:// in the URL"
        )
    if word == "READONLY":
        return StoreReadOnly(f"{message}. Name the master in [online] url")
    if word == "OOM":
        return StoreFull(f"{message}. Give it more memory, or sweep; reads go on")
    if word in _AWAY or "max number of clients" in text:
        return StoreUnavailable(message)
    return StoreError(message)


def failure(target: Target, cause: BaseException) -> StoreError:
    """The typed error for a connection that could not be made, or broke."""
    if isinstance(cause, StoreError):
        return cause
    if isinstance(cause, TimeoutError):
        return StoreTimeout(f"the online store {target.shown} did not answer in time")
    reason = str(cause) or type(cause).__name__
    return StoreUnavailable(f"the online store {target.shown} is not reachable: {reason}")
