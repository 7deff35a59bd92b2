"""What `doctor` looks at on this machine: versions, files, disk, ports, what is exposed."""

from __future__ import annotations

import os
import re
import resource
import shutil
import socket
import stat
import sys
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from featurestore.cli.doctor import Check, Finding, State
from featurestore.config import SETTINGS_FILE
from featurestore.serving.addresses import is_loopback, parse_address

if TYPE_CHECKING:
    from featurestore.store import FeatureStore

DISK_MB_LOW, DISK_MB_NONE = 2_048, 200
"""Free space below which there is a warning, and a problem."""
DUCKDB_TESTED = ("1.5", "2.0")
_NEEDS = re.compile(r"(?P<name>[A-Za-z0-9_.\-]+)(?:\[[^\]]*\])?>=(?P<least>[0-9.]+)")


def versions(_: FeatureStore) -> Iterator[Finding]:
    """Python and the libraries that we cannot do without."""
    running = ".".join(map(str, sys.version_info[:3]))
    yield Finding(check="versions", state="ok", what=f"Python {running}", where=sys.executable)
    old = []
    for line in requires("featurestore") or ():
        found = _NEEDS.match(line)
        if found is None or "extra ==" in line:
            continue
        name, least = found["name"], found["least"]
        try:
            here = version(name)
        except PackageNotFoundError:
            here = "0"
        if _numbers(here) < _numbers(least):
            old.append(f"{name} {here if here != '0' else 'is missing'} (needs {least})")
    if old:
        yield Finding(
            check="versions",
            state="problem",
            what=", ".join(old),
            to_do="pip install --upgrade featurestore, in this environment",
        )
    duckdb = version("duckdb")
    if not duckdb.startswith(DUCKDB_TESTED):
        yield Finding(
            check="versions",
            state="warning",
            what=f"DuckDB {duckdb} is not among those tested ({', '.join(DUCKDB_TESTED)})",
            to_do=f"pip install 'duckdb=={DUCKDB_TESTED[-1]}.*'",
        )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def files(store: FeatureStore) -> Iterator[Finding]:
    """Who may read what holds secrets, and whether we may write where we must."""
    settings = store.settings
    toml = settings.root / SETTINGS_FILE
    secrets = {"token_file": settings.security.token_file, "tls_key": settings.serving.tls_key}
    paths = {key: settings.path(text) for key, text in secrets.items() if text}
    if _holds_secrets(toml):
        paths["settings with a password or token"] = toml
    wrong = False
    for key, path in paths.items():
        if path.exists() and path.stat().st_mode & (stat.S_IRWXO | stat.S_IWGRP):
            wrong = True
            yield Finding(
                check="files",
                state="problem",
                what=f"others can read it: {key}",
                where=str(path),
                to_do=f"chmod 640 {path}; better, set it in the environment",
            )
    if not os.access(settings.root, os.W_OK | os.X_OK):
        wrong = True
        yield Finding(
            check="files",
            state="warning",
            what="this user cannot write to the repository's folder",
            where=str(settings.root),
            to_do="fine for a server of Redis and Postgres; else give the user the folder",
        )
    if not wrong:
        yield Finding(check="files", state="ok", what="permissions", where=str(settings.root))


def _holds_secrets(path: Path) -> bool:
    """Whether the file itself (not the environment) holds a password or a token."""
    sections = tomllib.loads(path.read_text(encoding="utf-8"))
    urls = (str(sections.get(name, {}).get("url", "")) for name in ("online", "registry"))
    has_password = any("@" in url and urlsplit(url).password for url in urls)
    return has_password or bool(sections.get("security", {}).get("token"))


def disk(store: FeatureStore) -> Iterator[Finding]:
    """Free space where queries spill and stores lie."""
    settings = store.settings
    wanted = {settings.root}
    if "://" not in settings.offline.path:
        wanted.add(settings.path(settings.offline.path))
    if settings.offline.temp_directory:
        wanted.add(settings.path(settings.offline.temp_directory))
    for folder in sorted(wanted):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        free_mb = shutil.disk_usage(there).free // 2**20
        state: State = "ok"
        if free_mb < DISK_MB_LOW:
            state = "problem" if free_mb < DISK_MB_NONE else "warning"
        yield Finding(
            check="disk",
            state=state,
            what=f"{free_mb:,} MB free",
            where=str(folder),
            to_do="" if state == "ok" else "free some space, or set offline.temp_directory",
        )


def descriptors(store: FeatureStore) -> Iterator[Finding]:
    """Whether a worker may open as many connections as its limit says."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = store.settings.serving.connections_max
    enough = hard == resource.RLIM_INFINITY or hard > wanted
    yield Finding(
        check="descriptors",
        state="ok" if enough else "warning",
        what=f"{hard:,} open files allowed, serving.connections_max = {wanted:,}",
        to_do="" if enough else "raise the limit (LimitNOFILE= in systemd), or lower the setting",
    )


def ports(store: FeatureStore) -> Iterator[Finding]:
    """Whether the servers' ports are free."""
    for key in ("grpc", "http"):
        text = getattr(store.settings.serving, key)
        address = parse_address(text, key=key)
        if address is None or not address.port:
            continue
        with socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET) as probe:
            probe.settimeout(1)
            taken = probe.connect_ex((address.host, address.port)) == 0
        yield Finding(
            check="ports",
            state="warning" if taken else "ok",
            what=f"{key}: " + ("somebody listens there" if taken else "free"),
            where=text,
            to_do="fine if it is our server; else choose another address" if taken else "",
        )


def exposure(store: FeatureStore) -> Iterator[Finding]:
    """What leaves this machine in plain text, and who may come in."""
    settings, serving = store.settings, store.settings.serving
    open_doors = [
        text
        for key in ("grpc", "http")
        if (address := parse_address(text := getattr(serving, key), key=key)) is not None
        and not is_loopback(address.host)
    ]
    found = []
    if open_doors and not serving.tls_cert:
        found.append(
            Finding(
                check="exposure",
                state="warning" if serving.insecure else "problem",
                what="other machines reach the servers in plain text"
                + ("" if serving.insecure else ", so that they will not start"),
                where=", ".join(open_doors),
                to_do="set serving.tls_cert and tls_key; insecure is for a network that encrypts",
            )
        )
    if open_doors and serving.grpc_door == "native":
        found.append(
            Finding(
                check="exposure",
                state="warning",
                what="the native gRPC door bounds neither connections nor messages in transit",
                where=serving.grpc,
                to_do='set serving.grpc_door = "grpcio", or put a proxy in front',
            )
        )
    for name, url in {"online": settings.online.url, "registry": settings.registry.url}.items():
        if _in_the_clear(url):
            found.append(
                Finding(
                    check="exposure",
                    state="warning",
                    what=f"the {name} store is spoken to in plain text",
                    where=urlsplit(url).hostname or "",
                    to_do="rediss://…" if name == "online" else "add ?sslmode=verify-full",
                )
            )
    yield from found or [Finding(check="exposure", state="ok", what="nothing in plain text")]


def _in_the_clear(url: str) -> bool:
    parts = urlsplit(url)
    plain = parts.scheme in ("redis", "redis+cluster", "redis+sentinel") or (
        parts.scheme.startswith("postgres") and "sslmode=" not in parts.query
    )
    return plain and bool(parts.hostname) and not is_loopback(parts.hostname or "")


def collector(store: FeatureStore) -> Iterator[Finding]:
    """Whether somebody takes our traces."""
    endpoint = store.settings.tracing.otlp_endpoint
    if not endpoint:
        return
    parts = urlsplit(endpoint)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 4318), 2).close()
    except OSError as error:
        yield Finding(
            check="tracing",
            state="warning",
            what=f"nobody takes traces: {error}",
            where=endpoint,
            to_do="start the collector, or empty tracing.otlp_endpoint",
        )
        return
    yield Finding(check="tracing", state="ok", what="a collector listens", where=endpoint)


MACHINE_CHECKS: Mapping[str, Check] = {
    "versions": versions,
    "files": files,
    "disk": disk,
    "descriptors": descriptors,
    "ports": ports,
    "exposure": exposure,
    "tracing": collector,
}
