"""Certificates for servers of 127.0.0.1 that speak TLS, and for clients whom they ask for one."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class TlsFiles:
    """A folder with `ca.pem`, and certificate and key of the server and of a client."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> TlsFiles:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / "ca.pem")
        for name in ("127.0.0.1", "client.example"):
            issued = authority.issue_cert(name)
            issued.private_key_pem.write_to_path(folder / f"{name}.key")
            issued.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
        return cls(folder)

    @property
    def context(self) -> ssl.SSLContext:
        """What a client brings."""
        context = ssl.create_default_context(cafile=self.folder / "ca.pem")
        name = self.folder / "client.example"
        context.load_cert_chain(f"{name}.pem", f"{name}.key")
        return context

    @property
    def server_options(self) -> list[str]:
        """For a Redis server."""
        options = {
            "--tls-ca-cert-file": "ca.pem",
            "--tls-cert-file": "127.0.0.1.pem",
            "--tls-key-file": "127.0.0.1.key",
        }
        return [word for name, file in options.items() for word in (name, str(self.folder / file))]

    @property
    def query(self) -> str:
        """The URL's options."""
        client = f"{self.folder}/client.example"
        return (
            f"?ssl_ca_certs={self.folder}/ca.pem&ssl_certfile={client}.pem&ssl_keyfile={client}.key"
        )
