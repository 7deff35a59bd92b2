"""Running the Python functions of on-demand views, the same way in training and in serving.

A function is its text (`definitions.python_function` cuts it out of a file), run in a namespace
that holds the builtins and what the text itself imports. A row that a function fails on has NULLs,
and is counted: one poison row never fails a batch.

This guards against surprise, not against malice: whoever may apply definitions may run code.
"""

from __future__ import annotations
import __future__

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from types import CodeType
from typing import TYPE_CHECKING, Any

from featurestore import exprlib
from featurestore.dtypes import DType
from featurestore.errors import InvalidFunction
from featurestore.fingerprint import fingerprint_bytes, short
from featurestore.plain_values import reader, showing
from featurestore.timeline import to_datetime

if TYPE_CHECKING:
    from featurestore.exprlib import Losses

REQUEST_TIME = "request_time"
"""The parameter that is given the time of the request, as an aware datetime in UTC."""
FUNCTIONS_HELD_MAX = 1_024
"""Functions that stay loaded; the least used goes first."""

BatchFunction = Callable[..., Sequence[Sequence[Any]]]
"""`(request_time_us, rows, *columns) → columns` of outputs."""
RowFunction = Callable[..., tuple[Any, ...]]
"""`(request_time_us, *arguments) → outputs`; timestamps are int µs and dates int days, as in rows,
None is NULL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCode:
    """How the features of one on-demand view are computed: a Python function of its user
    (`is_function`), or one that was generated from its expressions.

    `arguments` are the values that it is given, in order. A user's function takes `parameters`:
    indices into them, or None for the request's time. `outputs` are what it yields, in order.
    `batch` is the source of a generated function's form for many rows.
    """

    name: str
    source: str
    is_function: bool
    arguments: tuple[tuple[str, DType], ...]
    parameters: tuple[int | None, ...]
    outputs: tuple[tuple[str, DType], ...]
    batch: str = ""


class Failures:
    """What went wrong in the calls of one function: how many values are NULL for it, and the first
    reason."""

    __slots__ = ("count", "first")

    def __init__(self) -> None:
        self.count = 0
        self.first = ""

    def add(self, reason: str, values: int) -> None:
        """`values` outputs are NULL because of `reason`."""
        if not self.count:
            self.first = reason
        self.count += values

    def take(self) -> int:
        """The count since the last time."""
        count, self.count = self.count, 0
        return count


def compiled(source: str, name: str) -> CodeType:
    """The code of a function's text. Annotations stay text, as `from __future__ import annotations`
    has it, so that they need no import. Raises `SyntaxError`, `ValueError`."""
    flags = __future__.annotations.compiler_flag
    digest = short(fingerprint_bytes(source.encode()))
    code: CodeType = compile(source, f"<{name}@{digest}>", "exec", flags=flags, dont_inherit=True)
    return code


@lru_cache(maxsize=FUNCTIONS_HELD_MAX)
def load(source: str, name: str) -> Callable[..., Any]:
    """The function `name` of the text. Raises `InvalidFunction` where it cannot be loaded: a module
    that it imports is not here, or it is no function of ours."""
    namespace: dict[str, Any] = {"__name__": f"featurestore.functions.{name}"}
    try:
        exec(compiled(source, name), namespace)  # noqa: S102 - definitions are programs
        found: Callable[..., Any] = namespace[name]
    except Exception as error:
        raise InvalidFunction(
            f"Function {name!r} of an on-demand view can't be loaded: "
            f"{type(error).__name__}: {error}"
        ) from error
    return found


def row_function(code: StepCode, failures: Failures) -> RowFunction:
    """The function over values as rows carry them. Raises `InvalidFunction`."""
    if not code.is_function:
        return exprlib.load(code.source, code.name)
    call, name = load(code.source, code.name), code.name
    shows = [showing(dtype) for _, dtype in code.arguments]
    picks = [(i, None if i is None else shows[i]) for i in code.parameters]
    plain = picks == [(i, None) for i in range(len(code.arguments))]
    reads = tuple(reader(dtype) for _, dtype in code.outputs)
    names = tuple(output for output, _ in code.outputs)
    nothing = (None,) * len(names)

    def run(request_time_us: int, *arguments: Any) -> tuple[Any, ...]:
        given: Sequence[Any] = arguments
        if not plain:
            given = [
                to_datetime(request_time_us)
                if index is None
                else arguments[index]
                if show is None or arguments[index] is None
                else show(arguments[index])
                for index, show in picks
            ]
        try:
            result = call(*given)
        except Exception as error:  # noqa: BLE001 - user code may raise anything
            failures.add(f"{name} raised {type(error).__name__}: {error}", len(nothing))
            return nothing
        return _outputs(name, result, names, reads, failures)

    return run


def batch_function(code: StepCode, by_row: RowFunction) -> BatchFunction:
    """The same for many rows with one request time; `by_row` is `row_function` of the code."""
    if code.batch:
        return exprlib.load(code.batch, code.name)
    width = len(code.outputs)

    def run(request_time_us: int, rows: int, *columns: Sequence[Any]) -> Sequence[Sequence[Any]]:
        given = zip(*columns, strict=True) if columns else repeat((), rows)
        found = [by_row(request_time_us, *row) for row in given]
        return list(zip(*found, strict=True)) if found else [()] * width

    return run


def counted_in(code: StepCode) -> list[Losses]:
    """Where a generated function counts values that are NULL for want of a result."""
    if code.is_function:
        return []
    texts = [code.source, *([code.batch] if code.batch else [])]
    return [exprlib.losses(exprlib.load(text, code.name)) for text in texts]


def _outputs(
    function: str,
    result: Any,
    names: tuple[str, ...],
    reads: tuple[Callable[[Any], Any], ...],
    failures: Failures,
) -> tuple[Any, ...]:
    if isinstance(result, Mapping):
        values = [result.get(name, failures) for name in names]
        if len(result) > len(names) - sum(value is failures for value in values):
            strange = next(repr(key) for key in result if key not in names)
            failures.add(f"{function} returned {strange}, which is not in its schema", 0)
    elif isinstance(result, (tuple, list)) and len(result) == len(names):
        values = list(result)
    else:
        what = f"{len(result)} values" if isinstance(result, (tuple, list)) else repr(result)
        wanted = f"a dict, or a tuple of {len(names)}"
        failures.add(f"{function} returned {what[:200]}, not {wanted}", len(names))
        return (None,) * len(names)
    for index, value in enumerate(values):
        if value is None:
            continue
        if value is failures:
            values[index] = None
            failures.add(f"{function} returned no {names[index]!r}", 1)
            continue
        try:
            values[index] = reads[index](value)
        except ValueError as error:
            values[index] = None
            failures.add(f"{function} returned for {names[index]!r} {error}", 1)
    return tuple(values)
