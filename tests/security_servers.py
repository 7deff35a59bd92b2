"""Served views with access control on, certificates, and an identity provider: real ones."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import trustme
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from featurestore.config import Settings
from featurestore.jobs import access
from featurestore.jobs.project import open_online_store, open_registry
from featurestore.stores.registry.base import Registry
from featurestore.testing.served import (
    ServedView,
    publish_plans,
    served_settings,
    serving_plan,
)
from featurestore.timeline import SystemClock
from featurestore.wire.plans import ALL_VIEWS

PROJECT = "served"
WEATHER = ServedView(name="weather", keys={"airport": "string"}, features={"temp": "float64"})
PLANES = ServedView(name="planes", keys={"tailnum": "string"}, features={"seats": "int64"})
MODEL = serving_plan("model", [WEATHER])
OTHER = serving_plan("other", [PLANES])
EVERYTHING = dataclasses.replace(serving_plan("x", [WEATHER, PLANES]), service=ALL_VIEWS)
ISSUER, AUDIENCE = "https://login.example.org/", "featurestore"
DAY_US = 86_400_000_000


def prepare(root: Path, **serving: Any) -> Settings:
    """Settings of a project in `root` with two services, each with one row."""
    settings = served_settings(root, **serving)
    now_us = SystemClock().now_us()
    with open_registry(settings, clock=SystemClock(), author="ann") as registry:
        publish_plans(registry, MODEL, OTHER, EVERYTHING)
    with open_online_store(settings.online, root=root) as store:
        WEATHER.write(store, {("EWR",): {"temp": 1.5}}, event_us=now_us)
        PLANES.write(store, {("N1",): {"seats": 4}}, event_us=now_us)
    return settings


def asker(registry: Registry, *, now_us: int | None = None) -> access.Asker:
    """Whoever the registry's identity says, now."""
    now_us = SystemClock().now_us() if now_us is None else now_us
    return access.Asker(registry=registry, project=PROJECT, now_us=now_us)


@contextmanager
def admin(settings: Settings, token: str = "") -> Iterator[access.Asker]:
    """An administrator of the project's access control."""
    with open_registry(settings, clock=SystemClock(), author="ann") as registry:
        registry.identity = replace(registry.identity, token=token)
        yield asker(registry)


def lock(settings: Settings) -> str:
    """Switch access control on; returns the administrator's token."""
    with admin(settings) as ask:
        token, _ = access.create_token(ask, "root", allow=[f"*:{PROJECT}"], expires_in_us=None)
    with admin(settings, token) as ask:
        access.set_enforced(ask, True)
    return token


def make_token(
    settings: Settings, root: str, name: str, *allow: str, expires_in_us: int | None = DAY_US
) -> str:
    """A new token."""
    with admin(settings, root) as ask:
        return access.create_token(ask, name, allow=allow, expires_in_us=expires_in_us)[0]


@dataclass(frozen=True)
class Certificates:
    """PEM files: an authority, a server by it, a client by it, and strangers."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Certificates:
        ours, theirs = trustme.CA(), trustme.CA()
        ours.cert_pem.write_to_path(folder / "ca.pem")
        theirs.cert_pem.write_to_path(folder / "stranger-ca.pem")
        past = {"not_after": _past()}
        for authority, name, options in (
            (ours, "server", {}),
            (ours, "client", {}),
            (ours, "expired", past),
            (theirs, "stranger", {}),
        ):
            issued = authority.issue_cert("127.0.0.1", "localhost", **options)
            issued.private_key_pem.write_to_path(folder / f"{name}.key")
            (folder / f"{name}.pem").write_bytes(
                b"".join(blob.bytes() for blob in issued.cert_chain_pems)
            )
        return cls(folder)

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def pair(self, name: str) -> tuple[bytes, bytes]:
        return self.read(f"{name}.pem"), self.read(f"{name}.key")


def _past() -> Any:
    from datetime import UTC, datetime, timedelta

    return datetime.now(UTC) - timedelta(days=1)


class Provider:
    """An identity provider: signs tokens, and publishes its keys on a real HTTP server."""

    def __init__(self) -> None:
        self.rsa = rsa.generate_private_key(65537, 2048)
        self.ec = ec.generate_private_key(ec.SECP256R1())
        self.published = ["rsa", "ec"]
        self.asked = 0

    def jwks(self) -> str:
        keys = []
        for kid in self.published:
            private = getattr(self, kid)
            kind = jwt.algorithms.RSAAlgorithm if kid == "rsa" else jwt.algorithms.ECAlgorithm
            key = json.loads(kind.to_jwk(private.public_key()))
            keys.append(key | {"kid": kid, "use": "sig"})
        return json.dumps({"keys": keys})

    def claims(self, **changes: Any) -> dict[str, Any]:
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "svc-42",
            "iat": now,
            "exp": now + 600,
            "permissions": [f"read:{PROJECT}/model", "openid"],
        }
        return {k: v for k, v in (claims | changes).items() if v is not None}

    def sign(
        self,
        claims: Mapping[str, Any] | None = None,
        *,
        kid: str | None = "rsa",
        key: Any = None,
        algorithm: str = "RS256",
    ) -> str:
        headers = {} if kid is None else {"kid": kid}
        key = self.rsa if key is None else key
        return jwt.encode(dict(claims or self.claims()), key, algorithm=algorithm, headers=headers)

    @contextmanager
    def listening(self) -> Iterator[str]:
        """The keys' URL."""
        provider = self

        class Keys(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked += 1
                body = provider.jwks().encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Keys)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/keys.json"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
