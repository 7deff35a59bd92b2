"""The URLs that name several servers: `redis+cluster://` and `redis+sentinel://`, and with TLS
`rediss+cluster://` and `rediss+sentinel://`. Nothing here does I/O."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, quote, unquote, urlencode

from featurestore.errors import InvalidSettings
from featurestore.stores.online.resp import Target, parse_target

SENTINEL_PORT = 26379
_CLUSTER_EXAMPLE = "redis+cluster://user:password@host:6379,host:6379"
_SENTINEL_EXAMPLE = "redis+sentinel://user:password@sentinel:26379,sentinel:26379/master_name/0"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterHosts:
    """`seeds` are nodes to ask for the others; one that answers is enough."""

    seeds: tuple[Target, ...]

    @property
    def shown(self) -> str:
        """The URL without credentials and options."""
        scheme = "redis" if self.seeds[0].tls is None else "rediss"
        return f"{scheme}+cluster://{_listed(self.seeds)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SentinelHosts:
    """`sentinels` to ask where the master called `name` is; `server` is who we are there, its host
    and port being what the sentinels say."""

    sentinels: tuple[Target, ...]
    name: str
    server: Target

    @property
    def shown(self) -> str:
        """The URL without credentials and options."""
        scheme = "redis" if self.server.tls is None else "rediss"
        return f"{scheme}+sentinel://{_listed(self.sentinels)}/{self.name}/{self.server.db}"


def parse_cluster(url: str) -> ClusterHosts:
    """`redis+cluster://user:password@h1:6379,h2:6379/?ssl_ca_certs=file`.

    Raises `InvalidSettings`, without showing the password, for what is no such URL.
    """
    parts = _Parts.of(url, _CLUSTER_EXAMPLE)
    seeds = tuple(parts.targets(parts.hosts, example=_CLUSTER_EXAMPLE))
    if any(seed.db for seed in seeds):
        raise InvalidSettings(
            "the online store's URL names a database; a cluster has number 0 only"
        )
    return ClusterHosts(seeds=seeds)


def parse_sentinel(url: str) -> SentinelHosts:
    """`redis+sentinel://user:password@s1:26379,s2:26379/master_name/0?sentinel_password=secret`:
    user and password are for the server, those of the options for the sentinels.

    Raises `InvalidSettings`, without showing a password, for what is no such URL.
    """
    parts = _Parts.of(url, _SENTINEL_EXAMPLE)
    name, _, db = parts.path.partition("/")
    if not name:
        raise InvalidSettings(
            "the online store's URL does not say what the sentinels call the master; "
            f"write {_SENTINEL_EXAMPLE}"
        )
    options = dict(parts.options)
    user, password = options.pop("sentinel_username", ""), options.pop("sentinel_password", "")
    server = replace(parts, path=db, options=tuple(options.items()))
    (template,) = server.targets(["server"], example=_SENTINEL_EXAMPLE)
    ours = f"{quote(user, safe='')}:{quote(password, safe='')}" if password else ""
    watched = replace(server, user=ours, path="", options=tuple(_tls_only(options)))
    return SentinelHosts(
        sentinels=tuple(
            watched.targets(parts.hosts, port=SENTINEL_PORT, example=_SENTINEL_EXAMPLE)
        ),
        name=unquote(name),
        server=replace(template, master=True),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """A URL in pieces. Each host with all the rest is the URL of one server."""

    scheme: str
    user: str
    hosts: tuple[str, ...]
    path: str
    options: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, url: str, example: str) -> _Parts:
        # `urlsplit` refuses several IPv6 addresses.
        scheme, _, rest = url.partition("://")
        rest, _, query = rest.partition("?")
        authority, _, path = rest.partition("/")
        user, _, hosts = authority.rpartition("@")
        found = tuple(hosts.split(","))
        try:
            options = parse_qsl(query, strict_parsing=True) if query else []
        except ValueError:
            options, found = [], ()
        if not all(found) or not found:
            raise InvalidSettings(
                f"the online store's URL is malformed; write {example} "
                "(special characters of the password percent-encoded)"
            )
        return cls(
            scheme=scheme.partition("+")[0].lower(),
            user=user,
            hosts=found,
            path=path.strip("/"),
            options=tuple(options),
        )

    def targets(
        self, hosts: tuple[str, ...] | list[str], *, port: int | None = None, example: str
    ) -> Iterator[Target]:
        user = f"{self.user}@" if self.user else ""
        query = f"?{urlencode(self.options)}" if self.options else ""
        for host in hosts:
            single = f"{self.scheme}://{user}{host}/{self.path}{query}"
            target = parse_target(single, example=example)
            has_port = host.rpartition("]")[2].count(":") > 0
            yield target if has_port or port is None else replace(target, port=port)


def _tls_only(options: dict[str, str]) -> Iterator[tuple[str, str]]:
    return ((name, value) for name, value in options.items() if name.startswith("ssl_"))


def _listed(targets: tuple[Target, ...]) -> str:
    return ",".join(target.address for target in targets)
