"""Loading a repository: import its files, keep the definitions at module level, leave no trace.

The files are imported under a private package name with an import function of their own, so that
`from flights import plane` finds the repository's `flights.py` and nothing else does: no file of a
repository can shadow an installed module, and two repositories may use the same file names.
"""

from __future__ import annotations

import builtins
import importlib
import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import decode_source, spec_from_loader
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, TypeVar

from featurestore.definitions.entity import Entity
from featurestore.definitions.feature_test import FeatureTest
from featurestore.definitions.gates import Gates
from featurestore.definitions.names import Definition, gather
from featurestore.definitions.on_demand import OnDemandFeatureView, RequestSource
from featurestore.definitions.service import FeatureService
from featurestore.definitions.source import FileSource, Source, SqlSource
from featurestore.definitions.stream import StreamSource
from featurestore.definitions.view import FeatureView
from featurestore.errors import DefinitionError, DuplicateName

DATA_FOLDER = "data"
"""The folder at the top of a repository that holds data, and is not searched for definitions."""

_serial = itertools.count(1)
_Named = TypeVar(
    "_Named",
    Entity,
    FileSource | SqlSource,
    RequestSource,
    FeatureView | OnDemandFeatureView,
    FeatureService,
    FeatureTest,
    StreamSource,
    Gates,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Definitions:
    """All definitions of a repository, by file and line, and what is wrong with them.

    Of definitions that share a name the first stands here and the others are in `errors`."""

    entities: tuple[Entity, ...] = ()
    sources: tuple[Source, ...] = ()
    requests: tuple[RequestSource, ...] = ()
    views: tuple[FeatureView, ...] = ()
    on_demand: tuple[OnDemandFeatureView, ...] = ()
    services: tuple[FeatureService, ...] = ()
    tests: tuple[FeatureTest, ...] = ()
    streams: tuple[StreamSource, ...] = ()
    gates: tuple[Gates, ...] = ()
    errors: tuple[DefinitionError, ...] = field(default=(), compare=False)


def load(root: Path) -> Definitions:
    """The definitions in the Python files of folder `root` and the folders below it, except hidden
    ones, virtual environments and `data`.

    Never raises for what users wrote: errors of definitions, and anything raised while a file is
    imported, are in `errors`, with file (relative to `root`) and line. `sys.path`, `sys.modules`
    and the folder itself stay as they were.
    """
    root = root.resolve()
    with gather(root) as errors, _Importer(root) as importer:
        modules = [importer.load(name) for name in importer.names()]
    found = [value for module in modules if module for value in vars(module).values()]
    # Tests are many and nobody refers to them, so they may stand in a list.
    lists = [value for value in found if isinstance(value, list | tuple)]
    found += [one for value in lists for one in value if isinstance(one, FeatureTest)]
    # What a file defined before it failed is checked as well, so that all errors come at once.
    found += importer.unfinished
    definitions = collect(found)
    every = (*importer.errors, *errors, *definitions.errors)
    return replace(definitions, errors=every)


def definition_files(root: Path) -> list[Path]:
    """The files that `load` imports, in its order."""
    return list(_python_files(root.resolve(), DATA_FOLDER))


def collect(objects: Iterable[object]) -> Definitions:
    """The definitions among `objects`; the same object counts once, and two of one kind with one
    name are a `DuplicateName` (in `errors`) that names both places."""
    distinct = list({id(value): value for value in objects}.values())
    errors: list[DefinitionError] = []
    # One name, whichever kind of view: "view:feature" must say which is meant.
    views = [v for v in distinct if isinstance(v, FeatureView | OnDemandFeatureView)]
    named = _distinct(views, errors)
    streams = [v for v in distinct if isinstance(v, StreamSource)]
    sources = [v for v in distinct if isinstance(v, FileSource | SqlSource)]
    sources += [s.source for s in streams if s.source is not None and s.source.format == "stream"]
    return Definitions(
        entities=_distinct([v for v in distinct if isinstance(v, Entity)], errors),
        sources=_distinct([*{id(s): s for s in sources}.values()], errors),
        requests=_distinct([v for v in distinct if isinstance(v, RequestSource)], errors),
        views=tuple(view for view in named if isinstance(view, FeatureView)),
        on_demand=tuple(view for view in named if isinstance(view, OnDemandFeatureView)),
        services=_distinct([v for v in distinct if isinstance(v, FeatureService)], errors),
        tests=_distinct([v for v in distinct if isinstance(v, FeatureTest)], errors),
        streams=_distinct(streams, errors),
        gates=_distinct([v for v in distinct if isinstance(v, Gates)], errors),
        errors=tuple(errors),
    )


def _distinct(found: Sequence[_Named], errors: list[DefinitionError]) -> tuple[_Named, ...]:
    first: dict[str, _Named] = {}
    for definition in sorted(found, key=_place):
        is_table = definition.kind == "source"
        name = definition.name.casefold() if is_table else definition.name
        other = first.setdefault(name, definition)
        if other is not definition:
            errors.append(_duplicate(definition, other))
    return tuple(first.values())


def _place(definition: Definition) -> tuple[str, int]:
    return definition.file, definition.line


def _duplicate(second: _Named, first: _Named) -> DefinitionError:
    same = second.name == first.name
    what = "is already defined" if same else f"differs in case only from {first.name!r}, defined"
    return DuplicateName(
        f"{second.kind} {second.name!r} {what} at {first.file}:{first.line}; rename one of them",
        file=second.file or None,
        line=second.line or None,
    )


class _Failed(ImportError):
    """A file could not be imported, which has been noted already."""


class _Importer(MetaPathFinder, Loader):
    """Imports the files of one repository as modules of a private package; while it is entered,
    that package can be imported from."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.errors: list[DefinitionError] = []
        self.unfinished: list[object] = []
        self._package = f"_feature_repository_{next(_serial)}"
        self._failed: set[str] = set()
        self._files = {_name(root, path): path for path in _python_files(root, DATA_FOLDER)}

    def __enter__(self) -> _Importer:
        self._path_before = list(sys.path)
        sys.meta_path.insert(0, self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        sys.meta_path.remove(self)
        sys.path[:] = self._path_before
        for name in [n for n in list(sys.modules) if f"{n}.".startswith(f"{self._package}.")]:
            del sys.modules[name]

    def names(self) -> list[str]:
        """The modules of the repository, in file order."""
        return list(self._files)

    def load(self, name: str) -> ModuleType | None:
        """The module, or None where it (or a file it needs) fails, which is then in `errors`."""
        try:
            return importlib.import_module(f"{self._package}.{name}".removesuffix("."))
        except _Failed:
            return None

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 — the protocol's arguments
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """Part of the import protocol: knows the modules and folders of this repository only."""
        package, _, name = fullname.partition(".")
        if package != self._package or not (name in self._files or self._is_folder(name)):
            return None
        file = self._files.get(name)
        is_package = file is None or file.name == "__init__.py"
        origin = None if file is None else str(file)
        spec = spec_from_loader(fullname, self, origin=origin, is_package=is_package)
        if spec is not None and origin is not None:
            spec.has_location = True
        return spec

    def exec_module(self, module: ModuleType) -> None:
        """Part of the import protocol: runs the file. Raises `_Failed` when it raises anything."""
        name = module.__name__.partition(".")[2]
        file = self._files.get(name)
        if file is None:
            return
        if name in self._failed:
            raise _Failed(f"{name} has errors of its own", name=name)
        vars(module)["__builtins__"] = vars(builtins) | {"__import__": self._import}
        try:
            code = compile(decode_source(file.read_bytes()), str(file), "exec", dont_inherit=True)
            exec(code, vars(module))  # noqa: S102 — definition files are programs
        except _Failed:
            self._failed.add(name)
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 — user code may raise anything
            self._failed.add(name)
            self.unfinished += vars(module).values()
            self.errors.append(self._explain(error, file))
            raise _Failed(f"{name} has errors of its own", name=name) from None

    def _is_folder(self, name: str) -> bool:
        return not name or any(known.startswith(f"{name}.") for known in self._files)

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,  # noqa: A002 — the protocol's names
        locals: Mapping[str, Any] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        top = name.partition(".")[0]
        if level or not (top in self._files or self._is_folder(top)):
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        full = f"{self._package}.{name}"
        if fromlist:
            return builtins.__import__(full, globals, locals, fromlist, 0)
        importlib.import_module(full)
        return sys.modules[f"{self._package}.{top}"]

    def _explain(self, error: BaseException, file: Path) -> DefinitionError:
        """The error as a `DefinitionError` at the innermost line of the repository's own files."""
        place: tuple[Path, int | None] = self._frame(error.__traceback__) or (file, None)
        text = str(error)
        if isinstance(error, SyntaxError) and error.filename == str(file):
            place, text = (file, error.lineno), str(error.msg)
        where, line = place
        if isinstance(error, DefinitionError):
            message = error.message
        else:
            message = f"{type(error).__name__}: {text}".replace(f"{self._package}.", "")
        relative = where.relative_to(self.root).as_posix()
        return DefinitionError(message.removesuffix(": "), file=relative, line=line)

    def _frame(self, trace: TracebackType | None) -> tuple[Path, int] | None:
        ours = set(self._files.values())
        found = None
        while trace is not None:
            path = Path(trace.tb_frame.f_code.co_filename)
            if path in ours:
                found = (path, trace.tb_lineno)
            trace = trace.tb_next
        return found


def _python_files(root: Path, *left_out: str) -> Iterator[Path]:
    """The Python files below `root` in name order, files before folders."""
    entries = sorted(root.iterdir()) if root.is_dir() else []
    yield from (path for path in entries if path.suffix == ".py" and path.is_file())
    for folder in entries:
        hidden = folder.name.startswith((".", "__")) or (folder / "pyvenv.cfg").exists()
        if folder.is_dir() and not hidden and folder.name not in left_out:
            yield from _python_files(folder)


def _name(root: Path, path: Path) -> str:
    """The module name of a file: `flights`, `models.delay`; of `__init__.py`, its folder's."""
    relative = path.relative_to(root)
    parts = relative.parts[:-1] if path.name == "__init__.py" else relative.with_suffix("").parts
    return ".".join(parts)
