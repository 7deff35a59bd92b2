"""Python functions of on-demand views: their text, cut out of the file and checked.

The text is all that is kept. It runs in a namespace of its own, which has the builtins and the
imports that the view declares, so that what it computes hangs on nothing else: no closure, no
global of the file, no argument's default.
"""

from __future__ import annotations

import ast
import builtins
import dis
import inspect
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any

from featurestore.user_functions import compiled

SOURCE_BYTES_MAX = 32 * 1024
"""Of one function with its imports."""
_GLOBAL_READS = ("LOAD_GLOBAL", "LOAD_NAME")
_GLOBAL_WRITES = ("STORE_GLOBAL", "DELETE_GLOBAL")


class Refused(ValueError):
    """A function that cannot be kept as its text; `line` is where in its file, if known."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonFunction:
    """A function as its text: `source` are its imports and its `def`; `parameters` are the inputs
    that it reads, by name."""

    name: str
    source: str
    parameters: tuple[str, ...]


def read_function(function: Callable[..., Any], imports: Sequence[str]) -> PythonFunction:
    """The text of `function` with the `imports` it declares (`"math"`, `"numpy as np"`,
    `"from decimal import Decimal"`).

    Raises `Refused` for a function whose text is not to be had or does not stand by itself.
    """
    lines = [_import(text) for text in imports]
    text, first = _text_of(function)
    definition = _definition(text, first)
    if inspect.isgeneratorfunction(function):
        raise Refused("it yields; it must return a dict or a tuple", first)
    if function.__code__.co_freevars:
        names = ", ".join(function.__code__.co_freevars)
        raise Refused(f"it closes over {names} of the function around it; pass values in", first)
    body = text.splitlines()[definition.lineno - 1 :]
    source = "\n".join([*lines, *(["", ""] if lines else []), *body]).rstrip() + "\n"
    size = len(source.encode())
    if size > SOURCE_BYTES_MAX:
        raise Refused(f"it has {size:,} bytes, over SOURCE_BYTES_MAX = {SOURCE_BYTES_MAX:,}", first)
    # Line n of `source` is line n + moved of the file.
    moved = first + definition.lineno - 2 - (len(lines) + 2 if lines else 0)
    _check_globals(source, definition.name, moved, _bound(lines))
    return PythonFunction(
        name=definition.name,
        source=source,
        parameters=tuple(argument.arg for argument in definition.args.args),
    )


def _text_of(function: Callable[..., Any]) -> tuple[str, int]:
    """The dedented text, decorators first, and the line at which it begins."""
    if not inspect.isfunction(function):
        raise Refused(f"it must be a function, not {function!r}")
    try:
        lines, first = inspect.getsourcelines(function)
    except (OSError, TypeError, SyntaxError):
        raise Refused("its text cannot be found; define it in a file") from None
    return textwrap.dedent("".join(lines)), first


def _definition(text: str, first: int) -> ast.FunctionDef:
    try:
        found = ast.parse(text).body[0]
    except (SyntaxError, IndexError):
        raise Refused("its text cannot be read by itself; write it as a def", first) from None
    if isinstance(found, ast.AsyncFunctionDef):
        raise Refused("it is async; it must answer at once", first)
    if not isinstance(found, ast.FunctionDef):
        raise Refused("it is no def; give it a name", first)
    arguments = found.args
    if arguments.vararg or arguments.kwarg:
        raise Refused("its parameters name its inputs, so it can't have * or **", first)
    if arguments.defaults or arguments.kw_defaults:
        raise Refused("its parameters have no defaults: every input has a value, or None", first)
    if arguments.posonlyargs or arguments.kwonlyargs:
        raise Refused("its parameters must be plain: no / and no *", first)
    return found


def _import(text: object) -> str:
    """One import as a line of Python."""
    if not isinstance(text, str) or not text.strip():
        raise Refused(f'imports are texts such as "math" or "numpy as np", not {text!r}')
    line = text.strip()
    if not line.startswith(("import ", "from ")):
        line = f"import {line}"
    try:
        (found,) = ast.parse(line).body
    except (SyntaxError, ValueError):
        raise Refused(f"{text!r} is not an import") from None
    if not isinstance(found, ast.Import | ast.ImportFrom):
        raise Refused(f"{text!r} is not an import")
    if isinstance(found, ast.ImportFrom) and found.level:
        raise Refused(f"{text!r} is relative to a file, of which servers know nothing")
    if any(alias.name == "*" for alias in found.names):
        raise Refused(f"{text!r} does not say what it imports")
    return line


def _bound(lines: Sequence[str]) -> set[str]:
    """The names that import lines bind."""
    names: set[str] = set()
    for line in lines:
        (found,) = ast.parse(line).body
        if isinstance(found, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name.partition(".")[0] for alias in found.names}
    return names


def _check_globals(source: str, name: str, moved: int, bound: set[str]) -> None:
    known = bound | set(vars(builtins)) | {name}
    for code in _codes(_function_code(compiled(source, name), name)):
        line = code.co_firstlineno
        for instruction in dis.get_instructions(code):
            if instruction.starts_line is not None:
                line = int(instruction.starts_line)
            if instruction.opname in _GLOBAL_WRITES:
                what = f"it changes the global {instruction.argval!r}, which no other call may see"
                raise Refused(what, line + moved)
            if instruction.opname in _GLOBAL_READS and instruction.argval not in known:
                raise Refused(
                    f"it reads {instruction.argval!r}, which is not its own; a module is declared "
                    f'with imports=["{instruction.argval}"], anything else stands in the function',
                    line + moved,
                )


def _function_code(module: CodeType, name: str) -> CodeType:
    consts = (const for const in module.co_consts if isinstance(const, CodeType))
    return next(code for code in consts if code.co_name == name)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _codes(const)
