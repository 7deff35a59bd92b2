"""Options that several commands share, and how a command opens the repository."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from featurestore.config import SETTINGS_FILE
from featurestore.errors import FeatureStoreError, InvalidRequest, UnknownService, UnknownView

if TYPE_CHECKING:
    from featurestore.store import FeatureStore

Answer = TypeVar("Answer")

TOKEN_VARIABLE = "FEATURESTORE__SECURITY__TOKEN"  # noqa: S105 # a name

Repo = Annotated[
    Path,
    typer.Option(
        "--repo",
        "-r",
        envvar="FEATURESTORE_REPO",
        metavar="FOLDER",
        help=f"The repository's folder, the one with {SETTINGS_FILE}.",
        show_default="the current folder",
    ),
]
At = Annotated[
    str | None,
    typer.Option("--at", metavar="INSTANT", help="As it stood then (ISO 8601); by default now."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

# How a command that asks a server gets there.
Tls = Annotated[
    bool, typer.Option("--tls", help="With --target: TLS, by the system's authorities.")
]
TlsCa = Annotated[
    Path | None, typer.Option(metavar="FILE", help="TLS, by these authorities (PEM).")
]
TlsCert = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Our own certificate (PEM), with --tls-key.")
]
TlsKey = Annotated[Path | None, typer.Option(metavar="FILE", help="The key of --tls-cert (PEM).")]
TokenFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help=f"Holds our token; else the environment's {TOKEN_VARIABLE}."),
]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Send the token to other machines in plain text.")
]

# Keys of entities.
Keys = Annotated[
    list[str] | None,
    typer.Option(
        "--entity",
        "-e",
        metavar="KEY=VALUE",
        help="A join key (KEY:=VALUE for a number). Repeat; a key that comes again begins the next "
        "entity.",
    ),
]
KeysFile = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help='JSON: [{"key": value}, …] or {"key": [values]}; - is stdin.'
    ),
]


class AsOf(Enum):
    """Which rows a training row may see."""

    KNOWN = "known"
    EVENT = "event"


# What a training set is asked for.
AsOfRows = Annotated[
    AsOf, typer.Option(help="known: what serving could have known. event: leaks late rows.")
]
EventTimestamp = Annotated[str, typer.Option(help="The column of request times.")]
FullFeatureNames = Annotated[
    bool, typer.Option("--full-feature-names", help="Name columns view__feature.")
]
IncludeStatus = Annotated[bool, typer.Option("--include-status", help="Add each view's status.")]


def open_store(repo: Path, overrides: Mapping[str, Any] | None = None) -> FeatureStore:
    """The feature store of folder `repo`; back ends open when first used."""
    from featurestore.store import FeatureStore

    return FeatureStore(repo, overrides=overrides)


def ask(call: Callable[[Any], Answer], text: str) -> Answer:
    """`call` with what the user means by `text`: a service, a view, or `view:feature` and views
    separated by commas. Raises `InvalidRequest` where nothing is named, and what `call` raises."""
    refs = [part.strip() for part in text.split(",") if part.strip()]
    if not refs:
        raise InvalidRequest("no features are asked for; name a service or view:feature,…")
    if len(refs) > 1 or ":" in refs[0]:
        return call(refs)
    try:
        return call(refs[0])
    except UnknownService as no_service:
        try:
            return call(refs)
        except UnknownView:
            raise no_service from None


def complete_service(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of services, for the shell's completion."""
    return _names(ctx, "services", incomplete)


def complete_view(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of views, for the shell's completion."""
    return _names(ctx, "views", incomplete)


def _names(ctx: typer.Context, kind: str, incomplete: str) -> list[str]:
    from featurestore.definitions.repo import load

    try:
        definitions = load(Path(ctx.params.get("repo") or "."))
    except (FeatureStoreError, OSError):
        return []
    names = [item.name for item in getattr(definitions, kind)]
    return sorted(name for name in names if name.startswith(incomplete))


Features = Annotated[
    str,
    typer.Option(
        "--features",
        "-f",
        help="A service, or view:feature,view:feature.",
        autocompletion=complete_service,
    ),
]
