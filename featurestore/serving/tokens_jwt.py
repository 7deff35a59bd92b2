"""Tokens of an identity provider (JWT, as OIDC issues them), checked by its published keys.

Keys come from a JWKS file or URL and are renewed beside the requests, never within one: a token
that names an unknown key is refused, and asks for a renewal. Only signatures by public-key
algorithms are ever accepted, whatever a token says of itself.
"""

from __future__ import annotations

import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from featurestore.errors import InsecureSettings, InvalidRequest, InvalidSettings, Unauthenticated
from featurestore.permissions import parse_allowance
from featurestore.serving.addresses import is_loopback
from featurestore.serving.logs import logger

if TYPE_CHECKING:
    from jwt import PyJWK

    from featurestore.config import Settings

PUBLIC_KEY_ALGORITHMS = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
FETCH_TIMEOUT_S = 5.0
FETCH_BYTES_MAX = 1024 * 1024
RENEW_S_MIN = 5.0
"""However many unknown keys are named, and however often fetching fails: not more often."""
_REQUIRED = ("exp", "iss", "aud", "sub")


class JwtVerifier:
    """Turns a JWT into a name and what it allows. `refresh` fetches the keys."""

    def __init__(self, settings: Settings) -> None:
        security = settings.security
        self._issuer, self._audience = security.jwt_issuer, security.jwt_audience
        self._algorithms = _algorithms(security.jwt_algorithms)
        self._claim = security.jwt_permissions_claim
        self._leeway_s = security.jwt_leeway_s
        self._refresh_s = security.jwt_refresh_s
        self._source = _source(security.jwt_jwks, settings.root)
        self._keys: dict[str | None, PyJWK] = {}
        self._stamp: object = None
        self._asked_at = float("-inf")
        self._wanted = False

    @classmethod
    def of(cls, settings: Settings) -> JwtVerifier | None:
        """By the `jwt_…` settings; None where there are none.

        Raises `InvalidSettings` for some without the others, for an algorithm that is none of a
        public key, and where `pyjwt` is not installed; `InsecureSettings` for keys over plain HTTP.
        """
        security = settings.security
        given = {
            key: bool(getattr(security, key)) for key in ("jwt_issuer", "jwt_audience", "jwt_jwks")
        }
        if not any(given.values()):
            return None
        if missing := [key for key, there in given.items() if not there]:
            raise InvalidSettings(f"[security] {', '.join(missing)} must be set too for JWT")
        try:
            import jwt  # noqa: F401 # so that a server without it does not start
        except ImportError as error:
            raise InvalidSettings(
                "JWT needs the package 'pyjwt': pip install 'featurestore[jwt]'"
            ) from error
        return cls(settings)

    def verify(self, token: str, *, now_us: int) -> tuple[str, tuple[str, ...], int]:
        """The name (`jwt:<sub>`), what is allowed (grants and roles), and when it ends (µs).

        Raises `Unauthenticated`, which never repeats the token.
        """
        import jwt

        try:
            key = self._key(jwt.get_unverified_header(token).get("kid"))
            claims = jwt.decode(
                token,
                key=key,
                algorithms=self._algorithms,
                audience=self._audience,
                issuer=self._issuer,
                leeway=self._leeway_s,
                options={"require": list(_REQUIRED)},
            )
        except jwt.ExpiredSignatureError as error:
            raise Unauthenticated("The token has expired; ask for a new one") from error
        except jwt.PyJWTError as error:
            raise Unauthenticated(f"The token is not valid here: {error}") from error
        expires_at_us = int((float(claims["exp"]) + self._leeway_s) * 1_000_000)
        if expires_at_us <= now_us:
            raise Unauthenticated("The token has expired; ask for a new one")
        return f"jwt:{claims['sub']}", tuple(_allowances(claims, self._claim)), expires_at_us

    def refresh(self) -> bool:
        """Renew the keys if it is time, or if an unknown one was named; whether they changed.

        What cannot be fetched is logged, and the keys at hand stay. Raises `InvalidSettings` for a
        file that cannot be read the first time.
        """
        now = time.monotonic()
        if isinstance(self._source, Path):
            return self._read_file(self._source)
        wait_s = RENEW_S_MIN if self._wanted else max(RENEW_S_MIN, self._refresh_s)
        if now < self._asked_at + wait_s:
            return False
        self._asked_at, self._wanted = now, False
        try:
            return self._take(_fetch(self._source))
        except (OSError, ValueError) as error:
            logger().warning("keys for JWT not renewed", url=self._source, reason=str(error))
            self._wanted = True
            return False

    def _read_file(self, path: Path) -> bool:
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp == self._stamp:
                return False
            changed = self._take(path.read_bytes())
        except (OSError, ValueError) as error:
            if self._stamp is None:
                raise InvalidSettings(f"[security] jwt_jwks {path}: {error}") from error
            logger().warning("keys for JWT not renewed", file=str(path), reason=str(error))
            return False
        self._stamp = stamp
        return changed

    def _take(self, text: bytes) -> bool:
        """Use the keys of a JWKS document. Raises `ValueError` for what is none."""
        import jwt

        found: dict[str | None, PyJWK] = {}
        document = json.loads(text)
        listed = document.get("keys") if isinstance(document, dict) else None
        for each in listed if isinstance(listed, list) else ():
            if not isinstance(each, dict) or each.get("kty") == "oct":
                continue
            try:
                key = jwt.PyJWK.from_dict(each)
            except (jwt.PyJWTError, KeyError, TypeError, ValueError):
                continue  # a key of a kind that we do not know says nothing about the others
            if key.algorithm_name in self._algorithms and each.get("use", "sig") == "sig":
                found[each.get("kid")] = key
        if not found:
            raise ValueError("no key of an allowed algorithm in it")
        self._keys = found
        return True

    def _key(self, kid: object) -> PyJWK:
        """The key that a token names; one without a name is meant where there is only one."""
        keys = self._keys
        if kid is None and len(keys) == 1:
            return next(iter(keys.values()))
        found = keys.get(kid) if isinstance(kid, str) else None
        if found is None:
            self._wanted = True
            raise Unauthenticated("The token is signed by a key that is not known here")
        return found


def _algorithms(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    bad = [name for name in names if name not in PUBLIC_KEY_ALGORITHMS]
    if bad or not names:
        raise InvalidSettings(
            f"[security] jwt_algorithms = {text!r}: choose of {', '.join(PUBLIC_KEY_ALGORITHMS)} "
            "(a shared secret, or no signature at all, proves nothing here)"
        )
    return names


def _source(text: str, root: Path) -> str | Path:
    parts = urlsplit(text)
    if "://" not in text:
        return (root / text).resolve()
    if parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or "")):
        return text
    raise InsecureSettings(
        f"[security] jwt_jwks: keys that come over {parts.scheme} could be anybody's; "
        "use https, or a file"
    )


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Keys come from where the settings say, or not at all."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _fetch(url: str) -> bytes:
    handlers = (
        _NoRedirects(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.ProxyHandler(),
    )
    opener = urllib.request.build_opener(*handlers)
    with opener.open(url, timeout=FETCH_TIMEOUT_S) as response:
        data: bytes = response.read(FETCH_BYTES_MAX + 1)
    if len(data) > FETCH_BYTES_MAX:
        raise ValueError(f"over FETCH_BYTES_MAX = {FETCH_BYTES_MAX:,} bytes")
    return data


def _allowances(claims: Mapping[str, Any], path: str) -> Iterable[str]:
    """The grants and roles that a claim lists (an array, or words in a text). `a.b` is `b` within
    `a`. Other words, which providers put there for others, mean nothing to us."""
    value: Any = claims.get(path)
    if value is None:
        value = claims
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
    words = value.split() if isinstance(value, str) else value if isinstance(value, list) else ()
    for word in words:
        try:
            yield parse_allowance(str(word))
        except InvalidRequest:
            continue
