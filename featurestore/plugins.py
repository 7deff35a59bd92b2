"""Back ends are plug-ins: a URL's scheme, or a plain name, picks an entry point.

The built-in ones stand in pyproject.toml like any other, so a third-party package adds a store by
declaring e.g. `[project.entry-points."featurestore.online_stores"] cassandra = "pkg.mod:Class"`.
"""

from __future__ import annotations

import functools
import re
import sys
from importlib.metadata import entry_points, requires
from typing import Any, Literal

from featurestore.errors import InvalidSettings, suggest
from featurestore.masking import mask

_REQUIREMENT = re.compile(r"""(?P<package>[\w.\-]+).*;\s*extra == ['"](?P<extra>\w+)['"]""")

Group = Literal[
    "featurestore.registries",
    "featurestore.online_stores",
    "featurestore.engines",
    "featurestore.file_formats",
    "featurestore.streams",
]


def scheme_of(url: str) -> str:
    """`redis` of `redis://…`, `lmdb` of `lmdb:path`; SQLAlchemy drivers (`+psycopg`) are dropped
    for registries by the caller.

    Raises `InvalidSettings` for text without a scheme.
    """
    scheme, colon, _ = url.partition(":")
    if not colon or not scheme:
        raise InvalidSettings(
            f"{mask(url)!r} has no scheme; write e.g. lmdb:path or redis://host:6379/0"
        )
    return scheme.lower()


def load(group: Group, name: str) -> Any:
    """The class that is registered in `group` under `name`.

    Raises `InvalidSettings` for a name that nobody registered, and for one whose package is not
    installed (says which).
    """
    return _load(group, name, tuple(sys.path))


@functools.cache
def _load(group: Group, name: str, _path: tuple[str, ...]) -> Any:
    """Looking at all installed packages takes several milliseconds; they change with the path."""
    found = {point.name: point for point in entry_points(group=group)}
    if name not in found:
        what = group.removeprefix("featurestore.").replace("_", " ")
        raise InvalidSettings(f"{name!r} is not among the installed {what}.{suggest(name, found)}")
    try:
        return found[name].load()
    except ImportError as error:
        raise InvalidSettings(f"{name!r} needs {_missing(error)}") from error


def _missing(error: ImportError) -> str:
    """What is not installed, and how to install it: by our extra that brings it, if one does."""
    if error.name is None:
        return f"a package that cannot be imported: {error}"
    package = error.name.partition(".")[0]
    extras: dict[str, list[str]] = {}
    for line in requires("featurestore") or ():
        if found := _REQUIREMENT.match(line):
            extras.setdefault(found["extra"], []).append(found["package"])
    fitting = [extra for extra, packages in extras.items() if package in packages]
    if not fitting:
        return f"the package {package!r}: pip install {package}"
    smallest = min(fitting, key=lambda extra: len(extras[extra]))
    return f"the package {package!r}: pip install 'featurestore[{smallest}]'"
