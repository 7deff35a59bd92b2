"""Where a server listens: parsing, and ports that several processes share.

A port is reserved by a socket that is bound with `SO_REUSEPORT` and never listens: workers that
bind the same way take the connections, and the port stays ours while one of them is restarted.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from dataclasses import dataclass

from featurestore.errors import AddressUnavailable, InvalidSettings

_BACKLOG = 1024


@dataclass(frozen=True, slots=True)
class Address:
    """A host (IPv4, IPv6 or a name) and a TCP port; port 0 is any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(text: str, *, key: str) -> Address | None:
    """`host:port` or `[::1]:port`; None for empty text (the door is switched off).

    Raises `InvalidSettings`, which names the setting `key`, for anything else.
    """
    if not text:
        return None
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise InvalidSettings(f"[serving] {key} = {text!r}: write host:port, e.g. 127.0.0.1:6566")
    return Address(host, int(port))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`: every address that it stands for is a loopback. A
    name that stands for none is not known to be."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    addresses = [ipaddress.ip_address(str(where[0]).partition("%")[0]) for *_, where in found]
    return bool(addresses) and all(address.is_loopback for address in addresses)


def is_local_target(target: str) -> bool:
    """Whether what is sent to a gRPC target never leaves this machine, by its text alone: a Unix
    socket, `localhost`, or nothing but loopback addresses. Names are not looked up."""
    scheme, colon, rest = target.partition(":")
    match scheme:
        case "unix" | "unix-abstract" if colon:
            return True
        case "ipv4" | "ipv6" if colon:
            return all(_is_local_host(one) for one in rest.split(","))
        case "dns" if colon and not rest.isdigit():
            # dns:host:port, dns:///host:port, or with a name server of its own in front.
            return _is_local_host(rest.rpartition("/")[2])
        case _:
            return _is_local_host(target)


def _is_local_host(text: str) -> bool:
    """Of `host:port`, `[::1]:port` or a bare host."""
    host, _, port = text.rpartition(":")
    if text.count(":") > 1 and not text.startswith("["):
        host = text  # IPv6, and no port
    elif not host or not port.isdigit():
        host = text
    host = host.removeprefix("[").removesuffix("]").partition("%")[0]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.casefold().removesuffix(".") == "localhost"


def reserve(address: Address) -> tuple[socket.socket, Address]:
    """A socket that keeps the port for processes which bind it with `SO_REUSEPORT`, and the address
    with its real port.

    Raises `AddressUnavailable` where another server listens, or the address is not this machine's.
    """
    # SO_REUSEPORT would let us share the port with any other server of this user, in silence. So
    # ask without it first.
    with _bound(address, share=False) as probe:
        real = Address(address.host, probe.getsockname()[1])
    return _bound(real, share=True), real


def listen(address: Address) -> socket.socket:
    """A listening socket on a reserved address."""
    listener = _bound(address, share=True)
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


def _bound(address: Address, *, share: bool) -> socket.socket:
    with contextlib.ExitStack() as undo:
        try:
            family, kind, protocol, _, where = socket.getaddrinfo(
                address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            found = undo.enter_context(socket.socket(family, kind, protocol))
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if share:
                found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            found.bind(where)
            if not share:
                # Only listening shows a listener on the same port.
                found.listen(1)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            why = "another process listens there" if taken else str(error)
            raise AddressUnavailable(f"cannot listen on {address}: {why}") from error
        undo.pop_all()
        return found
