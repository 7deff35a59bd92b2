"""What all definitions share: a name that follows the rules, the place where it was written, and
what happens when it is wrong.

A wrong definition raises at once. While a repository is being loaded its errors are gathered
instead (`gather`), so that all errors of all files are reported together; the definition is then
marked (`valid` is False) and nothing more is derived from it.
"""

from __future__ import annotations

import inspect
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from featurestore import dtypes
from featurestore.dtypes import DType
from featurestore.errors import DefinitionError, InvalidName, TypeMismatch
from featurestore.timeline import parse_duration

NAME_CHARS_MAX = 128
_PACKAGE = __name__.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class Definition:
    """Where a definition was written (`file` is relative to the repository's folder while one is
    loaded), and whether it is free of errors."""

    kind: ClassVar[str] = "definition"

    file: str = field(init=False, default="", compare=False, repr=False)
    line: int = field(init=False, default=0, compare=False, repr=False)
    valid: bool = field(init=False, default=True, compare=False, repr=False)

    @property
    def title(self) -> str:
        """What errors call it."""
        return repr(getattr(self, "name", ""))


@dataclass(frozen=True, slots=True)
class _Loading:
    root: Path
    errors: list[DefinitionError]


_loading: ContextVar[_Loading | None] = ContextVar("featurestore_loading", default=None)


@contextmanager
def gather(root: Path) -> Iterator[list[DefinitionError]]:
    """Within the block, errors of definitions go into the list that is yielded, and files below
    `root` are named relative to it."""
    errors: list[DefinitionError] = []
    token = _loading.set(_Loading(root, errors))
    try:
        yield errors
    finally:
        _loading.reset(token)


def refuse_while_loading(what: str) -> None:
    """Raises `DefinitionError` while a repository is being loaded: what a program does, none of its
    files may do then, or every command would do it, and load the repository anew for it."""
    if _loading.get() is not None:
        raise DefinitionError(
            f"{what} is opened while this file is read for definitions, as every .py file of a "
            "repository is. Keep the program in another folder, or what it does below "
            'if __name__ == "__main__":'
        )


def shown_path(file: str) -> str:
    """`file` as errors name it: relative to the repository that is being loaded, if below it."""
    loading = _loading.get()
    return file if loading is None else _relative(file, loading.root)


@lru_cache(maxsize=1024)
def _relative(file: str, root: Path) -> str:
    """Asked once for each definition, of which a file has many."""
    path = Path(file)
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else file


def locate(definition: Definition) -> None:
    """Note the first frame outside our own modules (and `dataclasses.replace`) as the place."""
    frame = inspect.currentframe()
    while frame is not None and _is_ours(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
    if frame is not None:
        set_field(definition, "file", shown_path(frame.f_code.co_filename))
        set_field(definition, "line", frame.f_lineno)


def _is_ours(module: str) -> bool:
    return module in (_PACKAGE, "dataclasses") or module.startswith(f"{_PACKAGE}.")


def set_field(definition: Definition, name: str, value: object) -> None:
    """Settle a field of a frozen definition; for its own `__post_init__` only."""
    object.__setattr__(definition, name, value)


def report(
    definition: Definition, message: str, error: type[DefinitionError] = DefinitionError
) -> None:
    """Say that `definition` is wrong: raises `error`, or gathers it while a repository is loaded.

    The message is preceded by what the definition is: `entity 'plane': …`.
    """
    set_field(definition, "valid", False)
    found = error(f"{definition.kind} {definition.title}: {message}", file=definition.file or None)
    found.line = definition.line or None
    loading = _loading.get()
    if loading is None:
        raise found
    loading.errors.append(found)


def name_problem(name: object) -> str | None:
    """Why `name` cannot be a name, or None: Unicode identifiers (NFC) of at most `NAME_CHARS_MAX`
    characters without `__`, which joins view and feature in full names."""
    if not isinstance(name, str):
        return f"a name is text, not {name!r}"
    if not name.isidentifier():
        return f"{name!r} is not a name: use letters, digits and _, beginning with no digit"
    if len(name) > NAME_CHARS_MAX:
        return f"a name has at most {NAME_CHARS_MAX} characters, this one has {len(name)}"
    if "__" in name:
        return f"{name!r} contains '__', which is reserved for full names (view__feature)"
    if unicodedata.normalize("NFC", name) != name:
        return f"{name!r} is not in Unicode normal form C; type it anew with composed letters"
    return None


def check_name(definition: Definition, name: object) -> None:
    """Report `InvalidName` where the definition's own name breaks the rules."""
    if problem := name_problem(name):
        report(definition, problem, InvalidName)
        set_field(definition, "name", str(name))


def check_texts(definition: Definition, *fields: str) -> None:
    """Report fields that are neither text nor, where they were left out, None."""
    for name in fields:
        value = getattr(definition, name)
        if value is not None and not isinstance(value, str):
            report(definition, f"{name} must be text, not {value!r}", TypeMismatch)
        elif value == "" and name not in ("description", "owner", "null_text"):
            report(definition, f"{name} is empty")


def check_mapping(definition: Definition, *fields: str) -> None:
    """Settle mappings of text to text as plain dicts; report what is something else."""
    for name in fields:
        value: Any = getattr(definition, name)
        fine = isinstance(value, Mapping) and all(
            isinstance(part, str) for pair in value.items() for part in pair
        )
        if not fine:
            report(definition, f"{name} must map text to text, not {value!r}", TypeMismatch)
        set_field(definition, name, dict(value) if fine else {})


def check_duration(definition: Definition, name: str, *, zero: bool = False) -> None:
    """Report a duration that cannot be read, and leave it out."""
    value: str | timedelta | None = getattr(definition, name)
    if value is None:
        return
    try:
        parse_duration(value, zero=zero)
    except ValueError as error:
        report(definition, f"{name}: {error}")
        set_field(definition, name, None)


def read_dtype(
    definition: Definition, value: object, *, what: str, maps: bool = False
) -> DType | None:
    """The type that `value` names; None, after a report, where it names none, or a map where there
    are none."""
    try:
        found = value if isinstance(value, DType) else dtypes.parse(str(value))
        if not maps and dtypes.holds_map(found):
            raise ValueError(f"{found}: only an aggregation with by yields a map")
    except ValueError as error:
        report(definition, f"{what}: {error}", TypeMismatch)
        return None
    return found
