"""The page's own server: one process, uvicorn, until it is told to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import uvicorn

from featurestore.errors import AddressUnavailable, InvalidSettings
from featurestore.serving.addresses import is_loopback, parse_address
from featurestore.serving.tls import TlsFiles, check_exposure
from featurestore.web.app import LOOPBACK_HOSTS, build_app
from featurestore.web.site import Site

if TYPE_CHECKING:
    from featurestore.config import Settings

CONNECTIONS_MAX = 1_000


def run(settings: Settings, listen: str, *, ready: Callable[[str], None]) -> None:
    """Serve the page at `listen` (`host:port`, port 0 is any); calls `ready` with its URL.

    TLS is that of `[serving]`. Raises `InsecureSettings` for plain text where other machines reach
    us, `InvalidSettings`, `AddressUnavailable`.
    """
    exposed = replace(settings, serving=replace(settings.serving, http=listen, grpc=""))
    check_exposure(exposed)
    address = parse_address(listen, key="http")
    if address is None:
        raise InvalidSettings("the page needs an address to listen at: 127.0.0.1:6570")
    files = TlsFiles.of(settings)
    hosts = LOOPBACK_HOSTS if is_loopback(address.host) else ("*",)
    with Site(settings) as site:
        app = build_app(site, hosts=hosts, secure=files is not None)
        config = uvicorn.Config(
            app,
            host=address.host,
            port=address.port,
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=CONNECTIONS_MAX,
            ssl_certfile=None if files is None else str(files.cert),
            ssl_keyfile=None if files is None else str(files.key),
            ssl_ca_certs=None if files is None or not files.client_ca else str(files.client_ca),
        )
        try:
            socket = config.bind_socket()
        except SystemExit as error:  # uvicorn says it in its log and leaves
            raise AddressUnavailable(f"{listen} can't be listened at: it is in use") from error
        socket.listen(CONNECTIONS_MAX)  # so that whoever reads the URL is let in
        host, port = socket.getsockname()[:2]
        scheme = "http" if files is None else "https"
        ready(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/")
        try:
            uvicorn.Server(config).run(sockets=[socket])
        finally:
            socket.close()
