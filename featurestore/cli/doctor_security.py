"""What `doctor` looks at of tokens and certificates: what has ended or soon will, what does not fit
together, and what allows more than it should."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from featurestore.cli.doctor import Check, Finding, State
from featurestore.errors import InvalidSettings, PermissionDenied, Unauthenticated
from featurestore.permissions import ACTIONS, Policy
from featurestore.serving.addresses import is_loopback, parse_address
from featurestore.serving.certificates import validities
from featurestore.serving.tls import ServerTls, TlsFiles
from featurestore.timeline import DAY_US, format_instant

if TYPE_CHECKING:
    from featurestore.store import FeatureStore

CERTIFICATE_DAYS_LEFT, TOKEN_DAYS_LEFT = 30, 14
"""With less time than this there is a warning."""
_STORE_CERTIFICATES = ("ssl_certfile", "ssl_ca_certs", "sslcert", "sslrootcert")
"""The parameters of store URLs that name certificates."""


def certificates(store: FeatureStore) -> Iterator[Finding]:
    """The servers' certificate, key and authorities, and those in the stores' URLs."""
    settings = store.settings
    try:
        files = TlsFiles.of(settings)
        if files is not None:
            ServerTls(files)
    except InvalidSettings as error:
        unfit = "KEY_VALUES_MISMATCH" in error.message
        yield Finding(
            check="certificates",
            state="problem",
            what="serving.tls_key is not the key of serving.tls_cert" if unfit else error.message,
            where=f"{settings.serving.tls_cert}, {settings.serving.tls_key}",
            to_do="set tls_cert and tls_key to files that were issued together (PEM), and give the "
            "server's user the right to read them",
        )
    serving = settings.serving
    named = {"serving.tls_cert": serving.tls_cert, "serving.tls_client_ca": serving.tls_client_ca}
    paths = {key: settings.path(text) for key, text in named.items() if text}
    for key, url in {"online": settings.online.url, "registry": settings.registry.url}.items():
        query = parse_qs(urlsplit(url).query)
        for name in _STORE_CERTIFICATES:
            if name in query and query[name][0] != "system":
                paths[f"{key}.url {name}"] = Path(query[name][0])
    for key, path in paths.items():
        yield _certificate(key, path, store.clock.now_us())


def _certificate(key: str, path: Path, now_us: int) -> Finding:
    """The certificate of the file that ends first."""
    try:
        found = validities(path)
    except InvalidSettings as error:
        to_do = f"set {key} to a file of certificates (PEM) that this user may read"
        return Finding(
            check="certificates", state="problem", what=f"{key}: {error.message}", to_do=to_do
        )
    ends_us = min(one.to_us for one in found)
    begins_us = max(one.from_us for one in found)
    state: State = "problem"
    to_do = f"renew it and write it to {path}; servers take it without a restart"
    if ends_us < now_us:
        what = f"{key} has expired on {format_instant(ends_us)}"
    elif begins_us > now_us:
        what = f"{key} is valid only from {format_instant(begins_us)}"
        to_do = "look at this machine's clock (NTP), or issue it anew"
    elif ends_us < now_us + CERTIFICATE_DAYS_LEFT * DAY_US:
        state, what = "warning", f"{key} expires on {format_instant(ends_us)}"
    else:
        state, what, to_do = "ok", f"{key} is valid until {format_instant(ends_us)}", ""
    return Finding(check="certificates", state=state, what=what, where=str(path), to_do=to_do)


def tokens(store: FeatureStore) -> Iterator[Finding]:
    """Whether tokens are demanded where they should be, ours is good, and the others are sound."""
    policy = store.access_policy()
    found = [*_demanded(store, policy), *_own(store, policy)]
    try:
        rows = store.list_tokens()
    except (Unauthenticated, PermissionDenied):
        what = f"not looked at: that takes a token with admin:{store.settings.project.name}"
        yield from [*found, Finding(check="tokens", state="ok", what=what)]
        return
    for row in rows:
        found += _token(store, policy, row)
    what = f"{len(rows)} tokens, none to worry about"
    yield from found or [Finding(check="tokens", state="ok", what=what)]


def _demanded(store: FeatureStore, policy: Policy) -> Iterator[Finding]:
    settings, security = store.settings, store.settings.security
    if policy.enforced or security.require_token or security.jwt_issuer:
        return
    for key in ("grpc", "http"):
        text = getattr(settings.serving, key)
        address = parse_address(text, key=key)
        if address is not None and not is_loopback(address.host):
            yield Finding(
                check="tokens",
                state="warning",
                what=f"whoever reaches serving.{key} may read every feature: no token is asked for",
                where=text,
                to_do="featurestore token create admin --allow '*:"
                f"{settings.project.name}', set FEATURESTORE__SECURITY__TOKEN to it, then "
                "featurestore access on",
            )


def _own(store: FeatureStore, policy: Policy) -> Iterator[Finding]:
    """The token of this very process, where it has or needs one."""
    token = store.settings.own_token()
    if not (token or policy.enforced):
        return
    try:
        policy.principal(token, now_us=store.clock.now_us())
    except Unauthenticated as error:
        yield Finding(
            check="tokens",
            state="problem" if policy.enforced else "warning",
            what=f"ours (security.token, token_file): {error.message}",
            to_do="ask an administrator for one (featurestore token create), and set "
            "FEATURESTORE__SECURITY__TOKEN or security.token_file; without one only reading works",
        )


def _token(store: FeatureStore, policy: Policy, row: Mapping[str, Any]) -> Iterator[Finding]:
    name, ends_us, now_us = row["name"], row["expires_at_us"], store.clock.now_us()
    revoke = f"featurestore token revoke {name}"
    if ends_us is None:
        grants = policy.grants(row["allow"])
        project = store.settings.project.name
        mighty = all(any(g.allows(a, project, "*") for g in grants) for a in ACTIONS)
        if mighty:
            yield Finding(
                check="tokens",
                state="warning",
                what=f"token {name!r} allows everything and never expires",
                to_do="featurestore token create NAME with the grants that are needed and "
                f"--expires 90d, put it where this one is used, then {revoke}",
            )
    elif ends_us <= now_us:
        yield Finding(
            check="tokens",
            state="warning",
            what=f"token {name!r} has expired on {format_instant(ends_us)}",
            to_do=f"{revoke}; if somebody still needs it: featurestore token create",
        )
    elif ends_us < now_us + TOKEN_DAYS_LEFT * DAY_US:
        yield Finding(
            check="tokens",
            state="warning",
            what=f"token {name!r} expires on {format_instant(ends_us)}",
            to_do="featurestore token create another one, put it where this one is used, then "
            f"{revoke}",
        )


SECURITY_CHECKS: Mapping[str, Check] = {"certificates": certificates, "tokens": tokens}
