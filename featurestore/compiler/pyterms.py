"""Terms: pieces of generated Python under a condition.

A term may be evaluated only where none of the variables `nulls` is None and none of the conditions
`fails` holds. Strict functions put texts together and unite their conditions, so that a chain of
operations becomes one line under one test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from featurestore import timeline
from featurestore.compiler.pyforms import Bounds, Form
from featurestore.definitions.expression import Inferred, Literal
from featurestore.dtypes import DATE, FLOAT64, TIMESTAMP, DType, Kind
from featurestore.errors import InternalError
from featurestore.exprlib import instants, numbers

TEXT_DEPTH_MAX = 20
"""Levels of parentheses in one line of generated text (Python's own limit is 200)."""

INT64_BOUNDS: Bounds = (numbers.INT64_MIN, numbers.INT64_MAX)
_INTS: dict[Kind, Bounds] = {Kind.INT32: (-(2**31), 2**31 - 1), Kind.INT64: INT64_BOUNDS}


@dataclass(frozen=True, slots=True)
class Term:
    """`loose`: inf and NaN in the text stand for NULL, and -0.0 for 0.0. `maybe`: the text may be
    None; `quiet`: such a None is no loss. `bounds`: all that an int can be. `depth`: levels of
    parentheses; 0 is a variable or a constant, which may be said twice."""

    text: str
    dtype: Inferred
    nulls: tuple[str, ...] = ()
    fails: tuple[str, ...] = ()
    loose: bool = False
    maybe: bool = False
    quiet: bool = False
    bounds: Bounds = INT64_BOUNDS
    depth: int = 0

    @property
    def is_null(self) -> bool:
        return self.text == "None"

    @property
    def fits(self) -> bool:
        """Whether every value of the text is one of its type."""
        low, high = type_bounds(self.dtype)
        return low <= self.bounds[0] and self.bounds[1] <= high

    @property
    def is_ready(self) -> bool:
        """Whether the text is all: nothing to compute, and nothing to test after it."""
        return self.depth == 0 and not self.fails and not self.loose and not self.maybe

    @property
    def is_pure(self) -> bool:
        """Whether the text is a value of its type wherever `nulls` are not None."""
        return not (self.fails or self.loose or self.maybe) and self.fits


def null(dtype: Inferred) -> Term:
    """NULL, whatever the row."""
    return Term("None", dtype, nulls=("None",))


def type_bounds(dtype: Inferred) -> Bounds:
    """What fits an int type; that of int64 for all others."""
    return _INTS.get(dtype.kind, INT64_BOUNDS) if dtype is not None else INT64_BOUNDS


def argument(name: str, dtype: DType) -> Term:
    """A parameter of the generated function."""
    return Term(name, dtype, (name,), bounds=type_bounds(dtype))


def variable(name: str, term: Term, *, nullable: bool) -> Term:
    """The variable that holds `term`'s value."""
    low, high = type_bounds(term.dtype)
    bounds = max(low, term.bounds[0]), min(high, term.bounds[1])
    return Term(name, term.dtype, (name,) if nullable else (), bounds=bounds)


def literal(node: Literal, wanted: Inferred = None) -> Term:
    """A constant, read as `wanted`."""
    value, dtype = node.value, node.dtype
    if dtype is None:
        return null(wanted)
    if dtype in (DATE, TIMESTAMP):
        instant = timeline.to_us(datetime.fromisoformat(str(value)))
        value = instant // instants.DAY_US if dtype == DATE else instant
        if dtype == DATE and wanted == TIMESTAMP:
            value, dtype = instant, TIMESTAMP
    elif wanted == FLOAT64 and dtype.is_integer and isinstance(value, int):
        value, dtype = float(value), FLOAT64
    text = repr(value)
    number = isinstance(value, int) and not isinstance(value, bool)
    bounds = (int(value), int(value)) if number and value is not None else INT64_BOUNDS
    return Term(f"({text})" if text.startswith("-") else text, dtype, bounds=bounds)


def apply(
    form: Form,
    terms: Sequence[Term],
    dtype: Inferred,
    *,
    hold: Callable[[Term], Term],
    write: Callable[[str, Sequence[Term]], str],
) -> Term:
    """A strict function of terms. `hold` makes a variable of a term, `write` fills in a text."""
    if any(term.is_null for term in terms):
        return null(dtype)
    ready = []
    for position, term in enumerate(terms):
        unfit = term.maybe or (term.loose and position not in form.chain) or not term.fits
        twice = form.twice and position not in form.chain
        deep = term.depth >= TEXT_DEPTH_MAX or (twice and term.depth > 0)
        ready.append(hold(term) if unfit or deep else term)
    if any(term.is_null for term in ready):
        raise InternalError("a term became NULL when it was held")
    fails = [f for term in ready for f in term.fails]
    if form.fails:
        fails.append(write(form.fails, ready))
    return Term(
        write(form.text, ready),
        dtype,
        tuple(dict.fromkeys(n for term in ready for n in term.nulls)),
        tuple(dict.fromkeys(fails)),
        loose=form.loose,
        maybe=form.maybe,
        quiet=form.quiet,
        bounds=form.bounds(*(t.bounds for t in ready)) if form.bounds else INT64_BOUNDS,
        depth=1 + max((t.depth for t in ready), default=0),
    )


def widened(term: Term, dtype: Inferred) -> Term:
    """A term whose values are also those of `dtype`, as they are."""
    return replace(term, dtype=dtype)
