"""TLS of both doors, and when a server may do without.

Certificates are read again when their files change, so that renewing one needs no restart:
connections that stand keep theirs, new ones get the new one.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from featurestore.errors import InsecureSettings, InvalidSettings
from featurestore.serving.addresses import is_loopback, parse_address
from featurestore.serving.logs import logger

if TYPE_CHECKING:
    import grpc

    from featurestore.config import Settings


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of a server: its certificate chain, its key, and with `client_ca` the authorities
    of those clients that it lets in."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    @classmethod
    def of(cls, settings: Settings) -> TlsFiles | None:
        """By `[serving] tls_…`; None for plain text. Raises `InvalidSettings`."""
        serving = settings.serving
        if not (serving.tls_cert or serving.tls_key or serving.tls_client_ca):
            return None
        if not (serving.tls_cert and serving.tls_key):
            raise InvalidSettings("[serving] tls_cert and tls_key must both be set for TLS")
        ca = settings.path(serving.tls_client_ca) if serving.tls_client_ca else None
        return cls(settings.path(serving.tls_cert), settings.path(serving.tls_key), ca)

    @property
    def stamp(self) -> tuple[tuple[int, int], ...]:
        """Changes when a file does. Raises `OSError`."""
        paths = (self.cert, self.key, *((self.client_ca,) if self.client_ca else ()))
        found = [path.stat() for path in paths]
        return tuple((status.st_mtime_ns, status.st_ino) for status in found)


def check_exposure(settings: Settings) -> None:
    """Refuse to listen in plain text where other machines can reach us.

    Raises `InsecureSettings`, which says what to do, and `InvalidSettings` for TLS files that are
    missing or do not fit together.
    """
    files = TlsFiles.of(settings)
    if files is not None:
        ServerTls(files)
        return
    for key in ("grpc", "http"):
        text = getattr(settings.serving, key)
        address = parse_address(text, key=key)
        if address is None or is_loopback(address.host) or settings.serving.insecure:
            continue
        raise InsecureSettings(
            f"[serving] {key} = {text!r} can be reached from other machines, and without TLS "
            "tokens and features would travel in the clear. Set tls_cert and tls_key, or listen on "
            "127.0.0.1, or, behind a proxy or in a network that encrypts, say --insecure "
            "(FEATURESTORE__SERVING__INSECURE=true)"
        )


class ServerTls:
    """The TLS settings of both doors, from files that are checked when it is made.

    Raises `InvalidSettings` for files that cannot be read, are no PEM, or do not fit together.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._stamp = self._checked()
        self.context = self._new_context()

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """For the gRPC door; new connections get the certificate that the files hold by then."""
        import grpc

        initial = self._grpc_configuration()
        given = self._stamp

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            nonlocal given
            self.reload()
            if self._stamp == given:
                return None
            given = self._stamp
            return self._grpc_configuration()

        return grpc.dynamic_ssl_server_credentials(
            initial,
            fetch,  # type: ignore[arg-type]  # None is "as before", says gRPC's documentation
            require_client_authentication=self._files.client_ca is not None,
        )

    def reload(self) -> None:
        """Look at the files; take them if they changed and fit together, else keep what is."""
        try:
            stamp = self._files.stamp
            if stamp == self._stamp:
                return
            self._checked()
        except (OSError, InvalidSettings) as error:
            logger().warning("TLS files not taken; the old ones stay", reason=str(error))
            return
        self._stamp = stamp
        self.context.load_cert_chain(self._files.cert, self._files.key)
        if self._files.client_ca is not None:
            self.context.load_verify_locations(self._files.client_ca)
        logger().info("TLS files loaded", cert=str(self._files.cert))

    def _checked(self) -> tuple[tuple[int, int], ...]:
        files = self._files
        try:
            stamp = files.stamp
            self._new_context()
        except (OSError, ssl.SSLError) as error:
            shown = ", ".join(
                str(path) for path in (files.cert, files.key, files.client_ca) if path
            )
            raise InvalidSettings(
                f"[serving] TLS files can't be used ({shown}): {error}"
            ) from error
        return stamp

    def _new_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._files.cert, self._files.key)
        if self._files.client_ca is not None:
            context.load_verify_locations(self._files.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _grpc_configuration(self) -> grpc.ServerCertificateConfiguration:
        import grpc

        files = self._files
        pair = (files.key.read_bytes(), files.cert.read_bytes())
        roots = files.client_ca.read_bytes() if files.client_ca else None
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=roots)
