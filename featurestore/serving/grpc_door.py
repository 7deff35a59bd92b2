"""Which gRPC server answers: grpcio, or `pygrpc-native` where it is installed and can."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from featurestore.errors import InvalidSettings
from featurestore.serving import native_server
from featurestore.serving.addresses import is_loopback, parse_address
from featurestore.serving.grpc_server import GrpcServer
from featurestore.serving.native_server import NativeServer

if TYPE_CHECKING:
    from featurestore.config import ServingSettings
    from featurestore.serving.service import Collaborators

GrpcDoorServer: TypeAlias = GrpcServer | NativeServer
Door = Literal["grpcio", "native"]


def chosen_door(serving: ServingSettings) -> Door:
    """The door that `grpc_door` names or, for `auto`, the faster one where it is here and nobody
    but this machine can call: it bounds neither connections nor the size of what arrives.

    Raises `InvalidSettings` for another name, and for `native` where it is not installed or TLS is
    asked for.
    """
    match serving.grpc_door:
        case "grpcio":
            return "grpcio"
        case "auto":
            address = parse_address(serving.grpc, key="grpc")
            among_us = address is None or is_loopback(address.host)
            fast = native_server.is_installed() and not serving.tls_cert
            return "native" if fast and among_us else "grpcio"
        case "native":
            if not native_server.is_installed():
                raise InvalidSettings(
                    "[serving] grpc_door = \"native\" needs the package 'pygrpc-native': "
                    "pip install 'featurestore[native]'"
                )
            if serving.tls_cert:
                raise InvalidSettings(
                    '[serving] grpc_door = "native" has no TLS; leave it at auto, or let a proxy '
                    "in front do TLS"
                )
            return "native"
        case other:
            raise InvalidSettings(
                f"[serving] grpc_door must be auto, grpcio or native, not {other!r}"
            )


def open_grpc(parts: Collaborators, address: str) -> GrpcDoorServer:
    """The server, bound to `address` and not started. Raises `AddressUnavailable`."""
    kind = NativeServer if chosen_door(parts.settings.serving) == "native" else GrpcServer
    return kind(parts, address)
