"""Expressions as statements over the columns of a batch, by numpy.

Float columns are arrays in which NaN is NULL, so that a chain of float operations is one line that
is looked at once, where it ends. Other columns are an array and a mask. All branches of a CASE are
computed; what a branch loses in rows that do not take it is no loss.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from featurestore import exprlib
from featurestore.compiler.pyforms import Bounds, Form, constant, date_diff_form, form_of
from featurestore.compiler.pyterms import INT64_BOUNDS, TEXT_DEPTH_MAX, literal, type_bounds
from featurestore.compiler.vectorforms import (
    CHECKED,
    FLOATS,
    VECTOR_FORMS,
    VECTOR_FUNCTIONS,
    VECTOR_INTEGERS,
    VECTOR_KINDS,
    vector_trunc_form,
)
from featurestore.definitions.expression import (
    Call,
    Case,
    Cast,
    Column,
    Expression,
    Inferred,
    Literal,
    case_type,
    children,
    infer,
    inferred,
    signature,
    walk,
)
from featurestore.definitions.undefined import undefined
from featurestore.dtypes import BOOL, FLOAT64, INT64, TIMESTAMP, DType, Kind
from featurestore.exprlib.instants import DAY_US

_IMPORTED = re.compile(r"([@$])(\w+)")


def is_vector(tree: Expression, schema: Mapping[str, DType]) -> bool:
    """Whether numpy computes `tree`, but for parts that a loop over the rows gives."""
    return _is_vector_node(tree, schema) and all(
        _kind(part, schema) in VECTOR_KINDS and undefined(part) is None
        for part in row_parts(tree, schema)
    )


def row_parts(tree: Expression, schema: Mapping[str, DType]) -> list[Expression]:
    """The greatest parts of `tree` that numpy does not compute."""
    if not _is_vector_node(tree, schema):
        return [tree]
    return [part for child in _operands(tree) for part in row_parts(child, schema)]


def _operands(node: Expression) -> tuple[Expression, ...]:
    unit = isinstance(node, Call) and node.function in ("date_trunc", "date_diff")
    return children(node)[1:] if unit else children(node)


def _kind(node: Expression, schema: Mapping[str, DType]) -> Kind | None:
    dtype = inferred(node, schema)
    return dtype.kind if dtype is not None else None


def _is_vector_node(node: Expression, schema: Mapping[str, DType]) -> bool:
    kinds = {_kind(child, schema) for child in (node, *_operands(node))}
    if not kinds <= VECTOR_KINDS | {None}:
        return False
    match node:
        case Call(function="greatest" | "least"):
            return Kind.BOOL not in kinds
        case Call(function=function):
            return function in VECTOR_FUNCTIONS
        case _:
            return True


@dataclass(frozen=True, slots=True)
class Vector:
    """A piece of numpy text. `mask` names the masks that together say what is NULL. Floats are NaN
    there; `loose`: what is inf or NaN besides has no result. `lost` names the masks of what had no
    result on the way. `constant`: one value for all rows."""

    text: str
    dtype: Inferred
    mask: tuple[str, ...] = ()
    loose: bool = False
    lost: tuple[str, ...] = ()
    bounds: Bounds = INT64_BOUNDS
    depth: int = 0
    constant: bool = False

    @property
    def is_float(self) -> bool:
        return self.dtype is not None and self.dtype.kind in FLOATS

    @property
    def is_null(self) -> bool:
        return self.text == "None"


def _null(dtype: Inferred) -> Vector:
    return Vector("None", dtype, constant=True)


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


class VectorCode:
    """The statements for a batch: `lines` grows. `columns` are the lists that hold the columns,
    `given` those of parts that a loop has computed."""

    def __init__(
        self,
        schema: Mapping[str, DType],
        columns: Mapping[str, str],
        given: Mapping[Expression, tuple[str, DType]],
        trees: Sequence[Expression],
    ) -> None:
        self.lines: list[str] = []
        self.library = {"_v_quietly": "vectors.quietly"}
        self._schema = schema
        self._columns = columns
        self._given = given
        self._uses = Counter(node for tree in trees for node in walk(tree))
        self._known: dict[Expression, Vector] = {}
        self._unions: dict[tuple[str, ...], str] = {}
        self._count = 0

    def output(self, position: int, tree: Expression) -> None:
        """Compute `tree`, into a list `r` with the number of its position."""
        dtype = infer(tree, self._schema)
        held = self._array(self._term(tree, dtype))
        nulls = self._one_mask(held.mask)
        if held.lost:
            counted = ", ".join([str(position), nulls, *held.lost])
            found = " or ".join(f"{name} is not None" for name in held.lost)
            self._emit(self._write(f"if {found}: @count_losses(losses, {counted})"))
        self._emit(self._write(f"r{position} = @list_out({held.text}, {nulls})"))

    # --- statements -------------------------------------------------------------------------------

    def _emit(self, line: str) -> None:
        self.lines.append(f"        {line}")

    def _names(self, *letters: str) -> list[str]:
        self._count += 1
        return [f"{letter}{self._count}" for letter in letters]

    def _write(self, template: str) -> str:
        def imported(found: re.Match[str]) -> str:
            name = found[2]
            path = f"vectors.{name}" if found[1] == "@" else exprlib.path_of(name)
            short = f"_v_{name}" if found[1] == "@" else f"_{name}"
            self.library[short] = path
            return short

        return _IMPORTED.sub(imported, template)

    def _fill(self, template: str, terms: Sequence[Vector]) -> str:
        texts = [term.text for term in terms]
        return self._write(template).format(*texts, all=", ".join(texts))

    def _one_mask(self, masks: Sequence[str]) -> str:
        """The name of a mask that is the union of all; None where nothing is NULL."""
        masks = _unique(masks)
        if len(masks) < 2:
            return masks[0] if masks else "None"
        if masks not in self._unions:
            [self._unions[masks]] = self._names("m")
            self._emit(self._write(f"{self._unions[masks]} = @union({', '.join(masks)})"))
        return self._unions[masks]

    def _hold(self, term: Vector) -> Vector:
        """The term as a variable; constants stay as they are."""
        if term.constant or term.is_null:
            return term
        if term.loose:
            value, mask, bad = self._names("v", "m", "b")
            nulls = self._one_mask(term.mask)
            self._emit(self._write(f"{value}, {mask}, {bad} = @settle({term.text}, {nulls})"))
            return Vector(value, term.dtype, mask=(mask,), lost=(*term.lost, bad))
        if term.depth:
            [value] = self._names("v")
            self._emit(f"{value} = {term.text}")
            term = replace(term, text=value, depth=0)
        return term

    def _array(self, term: Vector) -> Vector:
        """The held term as an array, also of a constant."""
        if not term.constant:
            return self._hold(term)
        value, mask = self._names("v", "m")
        if term.is_null:
            self._emit(self._write(f"{mask} = @full(n, True)"))
        self._emit(self._write(f"{value} = @full(n, {self._constant(term)})"))
        return replace(term, text=value, constant=False, mask=(mask,) if term.is_null else ())

    def _constant(self, term: Vector) -> str:
        """The text of a held term in which NULL is a value of the type."""
        if not term.is_null:
            return term.text
        return self._write("@NAN" if term.is_float else "False" if term.dtype == BOOL else "0")

    # --- terms ------------------------------------------------------------------------------------

    def _term(self, node: Expression, wanted: Inferred = None) -> Vector:
        """The term of `node`, read as `wanted`."""
        if isinstance(node, Literal):
            found = literal(node, wanted)
            term = Vector(found.text, found.dtype, bounds=found.bounds, constant=True)
        else:
            if node not in self._known:
                term = self._new_term(node)
                self._known[node] = self._hold(term) if self._uses[node] > 1 else term
            term = self._known[node]
        if wanted is None or term.dtype == wanted:
            return term
        return _null(wanted) if term.is_null else self._cast(term, wanted)

    def _new_term(self, node: Expression) -> Vector:
        if node in self._given:
            return self._column(*self._given[node])
        match node:
            case Column(name=name):
                return self._column(self._columns[name], self._schema[name])
            case Literal():
                return self._term(node)
            case Cast(argument=argument, dtype=dtype):
                return self._term(argument, dtype)
            case Case():
                return self._case(node)
            case Call(function=function):
                special = _SPECIAL.get(function)
                return special(self, node) if special else self._strict(node)
            case _:
                assert_never(node)

    def _column(self, name: str, dtype: DType) -> Vector:
        value, mask = self._names("v", "m")
        kind = "floats" if dtype.kind in FLOATS else "bools" if dtype == BOOL else "ints"
        self._emit(self._write(f"{value}, {mask} = @{kind}_in({name})"))
        return Vector(value, dtype, mask=(mask,), bounds=type_bounds(dtype))

    def _apply(self, form: Form, terms: Sequence[Vector], dtype: Inferred) -> Vector:
        """A strict function of terms."""
        if any(term.is_null for term in terms):
            return _null(dtype)
        ready = []
        for position, term in enumerate(terms):
            unfit = (term.loose and position not in form.chain) or term.depth >= TEXT_DEPTH_MAX
            ready.append(self._hold(term) if unfit or (form.twice and term.depth) else term)
        if all(term.constant for term in ready):
            ready[0] = self._array(ready[0])
        return Vector(
            self._fill(form.text, ready),
            dtype,
            mask=_unique([name for term in ready for name in term.mask]),
            loose=form.loose,
            lost=_unique([name for term in ready for name in term.lost]),
            bounds=form.bounds(*(t.bounds for t in ready)) if form.bounds else INT64_BOUNDS,
            depth=1 + max(term.depth for term in ready),
        )

    def _checked(
        self, template: str, terms: Sequence[Vector], dtype: DType, bounds: Bounds
    ) -> Vector:
        """A strict function to ints that says where it has no result."""
        if any(term.is_null for term in terms):
            return _null(dtype)
        ready = [self._hold(term) for term in terms]
        if all(term.constant for term in ready):
            ready[0] = self._array(ready[0])
        value, bad = self._names("v", "b")
        self._emit(f"{value}, {bad} = {self._fill(template, ready)}")
        masks = _unique([name for term in ready for name in term.mask])
        self._emit(self._write(f"{bad} = @without({bad}, {self._one_mask(masks)})"))
        low, high = type_bounds(dtype)
        lost = _unique([bad, *(name for term in ready for name in term.lost)])
        inside = max(low, bounds[0]), min(high, bounds[1])
        return Vector(value, dtype, mask=(*masks, bad), lost=lost, bounds=inside)

    def _strict(self, call: Call) -> Vector:
        name = call.function
        read = signature(call, tuple(inferred(a, self._schema) for a in call.arguments))
        form, taken = form_of(call, read.arguments)
        types = read.arguments[taken]
        terms = [self._term(a, t) for a, t in zip(call.arguments[taken], types, strict=True)]
        if name in VECTOR_INTEGERS and read.arguments[0] == INT64 and read.result == INT64:
            form = VECTOR_INTEGERS[name]
            bounds = form.bounds(*(t.bounds for t in terms)) if form.bounds else INT64_BOUNDS
            if not INT64_BOUNDS[0] <= bounds[0] <= bounds[1] <= INT64_BOUNDS[1] or form.fails:
                return self._checked(CHECKED[name], terms, INT64, bounds)
        elif name == "date_trunc":
            form = vector_trunc_form(constant(call.arguments[0]))
        elif name == "date_diff":
            form = date_diff_form(constant(call.arguments[0]))
        elif name != "round" or len(call.arguments) == 1:
            form = VECTOR_FORMS[name]
        if read.result is not None and read.result.kind in FLOATS:
            terms = [t if t.is_float or t.is_null else self._floats(t) for t in terms]
        return self._apply(form, terms, read.result)

    # --- casts ------------------------------------------------------------------------------------

    def _floats(self, term: Vector) -> Vector:
        """Ints, instants or truth values as floats."""
        if term.constant:
            return replace(term, text=f"({term.text} + 0.0)", dtype=FLOAT64)
        held = self._hold(term)
        [value] = self._names("v")
        mask = self._one_mask(held.mask)
        self._emit(self._write(f"{value} = @floats({held.text}, {mask})"))
        return replace(held, text=value, dtype=FLOAT64)

    def _cast(self, term: Vector, dtype: DType) -> Vector:
        if term.is_null or term.dtype is None:
            return _null(dtype)
        have, want = term.dtype.kind, dtype.kind
        term = self._array(term)
        match have, want:
            case (Kind.FLOAT32, Kind.FLOAT64) | (Kind.INT32, Kind.INT64):
                return replace(term, dtype=dtype)
            case Kind.FLOAT64, Kind.FLOAT32:
                return self._apply(Form("@float32({0})", loose=True), [term], dtype)
            case _, Kind.FLOAT32:
                [value] = self._names("v")
                mask = self._one_mask(term.mask)
                self._emit(self._write(f"{value} = @float32_of_int({term.text}, {mask})"))
                return replace(term, text=value, dtype=dtype)
            case _, Kind.FLOAT64:
                return replace(self._floats(term), dtype=dtype)
            case _, Kind.BOOL:
                return self._apply(Form("({0} != 0)"), [term], dtype)
            case Kind.DATE, Kind.TIMESTAMP:
                return self._apply(Form(f"({{0}} * {DAY_US})"), [term], dtype)
            case Kind.TIMESTAMP, Kind.DATE:
                return self._apply(Form(f"({{0}} // {DAY_US})"), [term], dtype)
            case Kind.BOOL, _:
                return self._apply(Form("@ints({0})", bounds=lambda _: (0, 1)), [term], dtype)
            case _:
                low, high = type_bounds(dtype)
                name = "int_of_float" if have in FLOATS else "narrowed"
                return self._checked(f"@{name}({{0}}, {low}, {high})", [term], dtype, (low, high))

    # --- functions whose NULLs follow rules of their own ------------------------------------------

    def _arguments(self, call: Call) -> list[Vector]:
        """All arguments held; constants are none of a function's own rules' concern."""
        read = signature(call, tuple(inferred(a, self._schema) for a in call.arguments))
        return [
            self._hold(self._term(a, t))
            for a, t in zip(call.arguments, read.arguments, strict=True)
        ]

    def _pair(self, function: str, left: Vector, right: Vector, *, dtype: Inferred) -> Vector:
        """A function of two columns with their masks, to one with its mask."""
        left, right = self._array(left), self._hold(right)
        value, mask = self._names("v", "m")
        parts = [part for t in (left, right) for part in (t.text, self._one_mask(t.mask))]
        self._emit(self._write(f"{value}, {mask} = @{function}({', '.join(parts)})"))
        bounds = min(left.bounds[0], right.bounds[0]), max(left.bounds[1], right.bounds[1])
        lost = _unique([*left.lost, *right.lost])
        return Vector(value, dtype, mask=(mask,), lost=lost, bounds=bounds)

    def logic_term(self, call: Call) -> Vector:
        left, right = (self._array(self._term(a, BOOL)) for a in call.arguments)
        name = {"and": "conjunction", "or": "disjunction"}[call.function]
        return self._pair(name, left, right, dtype=BOOL)

    def is_null_term(self, call: Call) -> Vector:
        held = self._array(self._term(call.arguments[0]))
        [value] = self._names("v")
        self._emit(self._write(f"{value} = @is_null({self._one_mask(held.mask)}, n)"))
        return Vector(value, BOOL)

    def between_term(self, call: Call) -> Vector:
        value, *ends = call.arguments
        low, high = (Call(name, (value, end)) for name, end in zip(("ge", "le"), ends, strict=True))
        sides = [self._array(self._term(side, BOOL)) for side in (low, high)]
        return self._pair("conjunction", *sides, dtype=BOOL)

    def in_term(self, call: Call) -> Vector:
        value, *items = self._arguments(call)
        known = _unique([item.text for item in items if not item.is_null])
        if value.is_null or not known:
            return _null(BOOL)
        held = self._array(value)
        if len(known) > 4:
            text = self._write(f"@among({held.text}, [{', '.join(known)}])")
        else:
            text = f"({' | '.join(f'({held.text} == {item})' for item in known)})"
        found = self._hold(Vector(text, BOOL, held.mask, lost=held.lost, depth=1))
        if not any(item.is_null for item in items):
            return found
        return replace(found, mask=(*found.mask, f"~{found.text}"))

    def coalesce_term(self, call: Call) -> Vector:
        terms = [term for term in self._arguments(call) if not term.is_null]
        if not terms:
            return _null(infer(call, self._schema) if inferred(call, self._schema) else None)
        result = self._array(terms[0])
        for term in terms[1:]:
            result = self._pair("coalesce", result, term, dtype=result.dtype)
        return result

    def nullif_term(self, call: Call) -> Vector:
        value, other = self._arguments(call)
        if value.is_null or other.is_null:
            return value
        held = self._array(value)
        [name] = self._names("m")
        theirs = self._one_mask(other.mask)
        self._emit(self._write(f"{name} = @without({held.text} == {other.text}, {theirs})"))
        found = replace(held, mask=(*held.mask, name))
        if not held.is_float:
            return found
        return replace(found, text=self._write(f"@nulled({held.text}, {name})"), depth=1)

    def extreme_term(self, call: Call) -> Vector:
        terms = [term for term in self._arguments(call) if not term.is_null]
        if not terms:
            return _null(inferred(call, self._schema))
        result = self._array(terms[0])
        for term in terms[1:]:
            if term.constant and result.is_float:
                [value] = self._names("v")
                name = {"greatest": "fmax", "least": "fmin"}[call.function]
                self._emit(self._write(f"{value} = @{name}({result.text}, {term.text})"))
                result = replace(result, text=value, mask=())
            else:
                result = self._pair(call.function, result, term, dtype=result.dtype)
        return result

    def request_time_term(self, _: Call) -> Vector:
        [value] = self._names("v")
        self._emit(self._write(f"{value} = @full(n, request_time_us)"))
        return Vector(value, TIMESTAMP)

    def _case(self, case: Case) -> Vector:
        values = (*(then for _, then in case.branches), case.default)
        dtype = case_type(case, tuple(inferred(value, self._schema) for value in values))
        conditions = [self._condition(when) for when, _ in case.branches]
        terms = [self._hold(self._term(value, dtype)) for value in values]
        result = self._array(terms[-1])
        value, mask = result.text, self._one_mask(result.mask)
        for condition, term in reversed([*zip(conditions, terms[:-1], strict=True)]):
            then = "True" if term.is_null else self._one_mask(term.mask)
            chosen, nulls = self._names("v", "m")
            text = self._constant(term)
            self._emit(self._write(f"{chosen} = @where({condition}, {text}, {value})"))
            self._emit(self._write(f"{nulls} = @chosen({condition}, {then}, {mask})"))
            value, mask = chosen, nulls
        bounds = min(t.bounds[0] for t in terms), max(t.bounds[1] for t in terms)
        lost = self._branch_losses(conditions, terms)
        return Vector(value, dtype, mask=(mask,), lost=lost, bounds=bounds)

    def _condition(self, node: Expression) -> str:
        held = self._array(self._term(node, BOOL))
        if not held.mask:
            return held.text
        [name] = self._names("k")  # not c, which columns are
        self._emit(self._write(f"{name} = @is_true({held.text}, {self._one_mask(held.mask)})"))
        return name

    def _branch_losses(self, conditions: Sequence[str], terms: Sequence[Vector]) -> tuple[str, ...]:
        lost = []
        for position, term in enumerate(terms):
            for bad in term.lost:
                [name] = self._names("b")
                before = f"@union({', '.join(conditions[:position])})" if position else "None"
                taken = (
                    f"@both({bad}, {conditions[position]})" if position < len(conditions) else bad
                )
                self._emit(self._write(f"{name} = @without({taken}, {before})"))
                lost.append(name)
        return tuple(lost)


_SPECIAL: Mapping[str, Callable[[VectorCode, Call], Vector]] = {
    "and": VectorCode.logic_term,
    "or": VectorCode.logic_term,
    "is_null": VectorCode.is_null_term,
    "between": VectorCode.between_term,
    "in": VectorCode.in_term,
    "coalesce": VectorCode.coalesce_term,
    "nullif": VectorCode.nullif_term,
    "greatest": VectorCode.extreme_term,
    "least": VectorCode.extreme_term,
    "request_time": VectorCode.request_time_term,
}
