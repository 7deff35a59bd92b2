"""Settings: `featurestore.toml` of a repository.

Built-in defaults < the file < environment variables `FEATURESTORE__SECTION__KEY` < arguments.
An unknown key is an error, wherever it stands. Relative paths are relative to the repository.
"""

from __future__ import annotations

import dataclasses
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featurestore.errors import InvalidSettings, suggest

SETTINGS_FILE = "featurestore.toml"
ENVIRONMENT_PREFIX = "FEATURESTORE__"
INTEGER_MAX = 2**31 - 1
"""The greatest number of any setting: what C libraries below take."""
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-]{0,62}")
"""Of a project and of an environment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectSettings:
    """`name` separates the projects that share a registry or an online store; `environment` is
    the set of aliases that `apply` moves (`env/<environment>`)."""

    name: str
    environment: str = "prod"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrySettings:
    """`url` is an SQLAlchemy URL: `sqlite:///relative.db` or `postgresql://…`."""

    url: str = field(default="sqlite:///.featurestore/registry.db", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class OfflineSettings:
    """The engine of training sets and materialization.

    `threads` 0 means all cores; `memory_limit` is DuckDB's (what does not fit spills to
    `temp_directory`, by default below `path`). `s3_endpoint` and `s3_region` say where sources on
    S3 are, by default where AWS's own variables say."""

    engine: str = "duckdb"
    path: str = ".featurestore/offline"
    memory_limit: str = "4GB"
    threads: int = 0
    temp_directory: str = ""
    s3_endpoint: str = ""
    s3_region: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineSettings:
    """`url`'s scheme picks the store. `map_size_mb` is LMDB's first map (it grows by itself)."""

    url: str = field(default="lmdb:.featurestore/online", repr=False)
    timeout_ms: int = 1000
    map_size_mb: int = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingSettings:
    """Where `featurestore serve` listens, and its limits. An empty address switches a door off.

    `tls_cert` and `tls_key` are PEM files (relative to the repository); with `tls_client_ca` only
    clients come in that show a certificate by one of these authorities. `insecure` allows plain
    text on an address that other machines reach."""

    grpc: str = "127.0.0.1:6566"
    http: str = "127.0.0.1:6567"
    grpc_door: str = "auto"
    workers: int = 1
    reload_interval_ms: int = 1000
    drain_timeout_ms: int = 10_000
    request_timeout_ms: int = 5_000
    keys_per_request_max: int = 10_000
    features_per_request_max: int = 1_000
    message_bytes_max: int = 16 * 1024 * 1024
    concurrent_requests_max: int = 1_000
    connections_max: int = 20_000
    connection_idle_timeout_ms: int = 300_000
    log_format: str = "auto"
    tls_cert: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    insecure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PushSettings:
    """How rows are pushed. `path` is the folder of the write-ahead log, on a disk of this machine;
    `server` is whether servers take pushes (they then need the definitions, and may write to the
    online store and to the offline folder).

    The log is drained every `commit_interval_ms`, or after `commit_rows_max` rows. Rows that are
    due up to `clock_skew_ms_max` after our clock are held until they are. Pushes are refused while
    more than `backlog_rows_max` rows wait for the store or for the push log."""

    path: str = ".featurestore/push"
    server: bool = True
    rows_per_push_max: int = 100_000
    commit_interval_ms: int = 1_000
    commit_rows_max: int = 10_000
    clock_skew_ms_max: int = 1_000
    backlog_rows_max: int = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SecuritySettings:
    """Who we are, and how servers know their callers.

    `token` (best from the environment) or the file `token_file` holds the token by which this
    process proves who it is. `require_token` has a server demand tokens even where the registry's
    access control is off. The `jwt_…` keys make it take the tokens of an identity provider."""

    token: str = field(default="", repr=False)
    token_file: str = ""
    require_token: bool = False
    open_metrics: bool = False
    log_reads: bool = False
    jwt_issuer: str = ""
    jwt_audience: str = ""
    jwt_jwks: str = ""
    jwt_algorithms: str = "RS256,ES256"
    jwt_permissions_claim: str = "permissions"
    jwt_leeway_s: int = 30
    jwt_refresh_s: int = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class TracingSettings:
    """Where OpenTelemetry traces go (OTLP over HTTP); nowhere where the endpoint is empty.
    `sample_percent` of the traces that begin with us are kept; a caller's own decision stands."""

    otlp_endpoint: str = ""
    sample_percent: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class LineageSettings:
    """Where OpenLineage events go: `file:PATH` or `http(s)://HOST:PORT`; nowhere where it is empty.
    `openlineage_token` is the bearer token of that endpoint (best from the environment)."""

    openlineage: str = field(default="", repr=False)
    openlineage_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of one repository; `root` is its folder (absolute)."""

    root: Path
    project: ProjectSettings
    registry: RegistrySettings = field(default_factory=RegistrySettings)
    offline: OfflineSettings = field(default_factory=OfflineSettings)
    online: OnlineSettings = field(default_factory=OnlineSettings)
    serving: ServingSettings = field(default_factory=ServingSettings)
    push: PushSettings = field(default_factory=PushSettings)
    security: SecuritySettings = field(default_factory=SecuritySettings)
    tracing: TracingSettings = field(default_factory=TracingSettings)
    lineage: LineageSettings = field(default_factory=LineageSettings)

    def own_token(self) -> str:
        """The token by which this process proves who it is; nothing where none is set.

        Raises `InvalidSettings` for a `token_file` that cannot be read.
        """
        if self.security.token or not self.security.token_file:
            return self.security.token.strip()
        path = self.path(self.security.token_file)
        try:
            return path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidSettings(f"[security] token_file {path} can't be read: {error}") from error

    def path(self, relative: str) -> Path:
        """`relative` as an absolute path below the repository's folder."""
        return (self.root / relative).resolve()


_SECTIONS: dict[str, type[Any]] = {
    "project": ProjectSettings,
    "registry": RegistrySettings,
    "offline": OfflineSettings,
    "online": OnlineSettings,
    "serving": ServingSettings,
    "push": PushSettings,
    "security": SecuritySettings,
    "tracing": TracingSettings,
    "lineage": LineageSettings,
}
_KINDS: dict[object, type] = {"int": int, "str": str, "bool": bool}
_MAY_BE_ZERO = ("threads", "clock_skew_ms_max", "jwt_leeway_s")
_SECRET = ("token", "url", "openlineage", "openlineage_token")
"""Keys whose values no message repeats."""


def load_settings(
    root: str | Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """The settings of the repository in folder `root`.

    `overrides` are the arguments, keyed `"online.url"`. Raises `InvalidSettings` (file, and line
    where TOML knows it) for a missing or malformed file, an unknown section or key, a value of the
    wrong type, and a missing or ill-formed `project.name`.
    """
    folder = Path(root).expanduser().resolve()
    environ = os.environ if environ is None else environ
    values = _read_file(folder)
    for name, text in sorted(environ.items()):
        if name.startswith(ENVIRONMENT_PREFIX):
            where = _printable(name)
            section, _, key = where.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
            _set(values, section, key, _from_text(section, key, text, where), where=where)
    for dotted, value in (overrides or {}).items():
        section, _, key = _printable(dotted).partition(".")
        _set(values, section, key, value, where=f"argument {dotted!r}")
    return _build(folder, values)


def _read_file(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / SETTINGS_FILE
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidSettings(
            f"{folder} has no {SETTINGS_FILE}, so it is not a feature repository. "
            "Make one with: featurestore init <folder>"
        ) from None
    except OSError as error:
        raise InvalidSettings(f"cannot be read: {error.strerror}", file=str(path)) from error
    except RecursionError as error:
        raise InvalidSettings("not valid TOML: nested too deeply", file=str(path)) from error
    except ValueError as error:  # of TOML, of UTF-8, of a number with thousands of digits
        found = re.search(r"line (\d+)", str(error))
        line = int(found[1]) if found else None
        raise InvalidSettings(f"not valid TOML: {error}", file=str(path), line=line) from error
    checked: dict[str, dict[str, Any]] = {}
    for section, keys in values.items():
        if not isinstance(keys, dict):
            raise InvalidSettings(
                f"{section!r} stands outside a section; the sections are {', '.join(_SECTIONS)}",
                file=str(path),
            )
        if section not in _SECTIONS:
            raise InvalidSettings(
                f"there is no section [{section}].{suggest(section, _SECTIONS)}", file=str(path)
            )
        for key, value in keys.items():
            _set(checked, section, key, value, where=str(path))
    return checked


def _set(
    values: dict[str, dict[str, Any]], section: str, key: str, value: Any, *, where: str
) -> None:
    if section not in _SECTIONS:
        raise InvalidSettings(
            f"there is no section [{section}].{suggest(section, _SECTIONS)}", file=where
        )
    known = {f.name: f for f in dataclasses.fields(_SECTIONS[section])}
    if key not in known:
        raise InvalidSettings(f"[{section}] has no key {key!r}.{suggest(key, known)}", file=where)
    wanted = _KINDS[known[key].type]
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        shown = f"a {type(value).__name__}" if key in _SECRET else _shown(value)
        raise InvalidSettings(
            f"[{section}] {key} must be {wanted.__name__}, not {shown}", file=where
        )
    if isinstance(value, str) and ("\0" in value or _printable(value) != value):
        raise InvalidSettings(f"[{section}] {key} holds a NUL, or is no UTF-8", file=where)
    if isinstance(value, int) and value > INTEGER_MAX:
        raise InvalidSettings(f"[{section}] {key} is over {INTEGER_MAX:,}", file=where)
    values.setdefault(section, {})[key] = value


def _printable(text: str) -> str:
    """`text` with what can't be written as UTF-8 spelled out: bytes of the environment that were
    none."""
    return text.encode("utf-8", "backslashreplace").decode()


def _shown(value: object) -> str:
    """A value for a message: long ones by their beginning or their type."""
    if not isinstance(value, (str, int, float)) or (
        isinstance(value, int) and abs(value) > INTEGER_MAX**2
    ):
        return f"this {type(value).__name__}"
    return repr(value) if len(str(value)) <= _SHOWN_CHARS_MAX else f"{str(value)[:40]!r}…"


_SHOWN_CHARS_MAX = 200
_BOOLS = {"true": True, "1": True, "false": False, "0": False}


def _from_text(section: str, key: str, text: str, where: str) -> Any:
    kinds = (
        {f.name: f.type for f in dataclasses.fields(_SECTIONS[section])}
        if (section in _SECTIONS)
        else {}
    )
    if kinds.get(key) == "bool":
        if text.lower() not in _BOOLS:
            raise InvalidSettings(f"[{section}] {key} must be true or false", file=where)
        return _BOOLS[text.lower()]
    if kinds.get(key) != "int":
        return text
    try:
        return int(text)
    except ValueError:
        raise InvalidSettings(
            f"[{section}] {key} must be int, not {_shown(text)}", file=where
        ) from None


def _build(folder: Path, values: dict[str, dict[str, Any]]) -> Settings:
    file = str(folder / SETTINGS_FILE)
    name = values.get("project", {}).get("name")
    if name is None:
        raise InvalidSettings('[project] name is missing; write name = "my_project"', file=file)
    for key, text in values["project"].items():
        if not NAME_PATTERN.fullmatch(text):
            raise InvalidSettings(
                f"[project] {key} = {_shown(text)}: use 1 to 63 letters, digits, _ and -, "
                "beginning with a letter or digit",
                file=file,
            )
    for section, keys in values.items():
        for key, value in keys.items():
            if isinstance(value, bool) or not isinstance(value, int):
                continue
            if value < (0 if key in _MAY_BE_ZERO else 1):
                raise InvalidSettings(f"[{section}] {key} must be positive", file=file)
    return settings_of(folder, values)


def settings_of(root: Path, values: Mapping[str, Mapping[str, Any]]) -> Settings:
    """Settings from checked values by section and key; what is left out has its default."""
    sections = {section: kind(**values.get(section, {})) for section, kind in _SECTIONS.items()}
    return Settings(root=root, **sections)
