"""Expressions as statements over the plain values of one row.

What is used twice is computed once; branches of CASE, COALESCE, AND and OR are computed only when
they are needed.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import assert_never

from featurestore import exprlib
from featurestore.compiler.pyforms import ONE_LINE, Form, cast_form, form_of
from featurestore.compiler.pyterms import (
    Term,
    apply,
    argument,
    literal,
    null,
    type_bounds,
    variable,
    widened,
)
from featurestore.definitions.expression import (
    Call,
    Case,
    Cast,
    Column,
    Expression,
    Inferred,
    Literal,
    asked_only,
    case_type,
    children,
    inferred,
    signature,
    walk,
)
from featurestore.dtypes import BOOL, FLOAT64, STRING, DType
from featurestore.exprlib import numbers

INDENTATION_MAX = 40
"""Levels of lazy branches; below them all branches are computed (Python's own limit is 100)."""

_LIBRARY_NAME = re.compile(r"@(\w+)")


class RowCode:
    """The statements for one row: `lines` grows, `_known` says which block has what in a variable.
    `columns` are the variables that hold the columns' values; `library` is what must be imported
    under which name; `loses` says whether the statements set bits in `lost`."""

    def __init__(
        self,
        columns: Mapping[str, tuple[str, DType]],
        outputs: Sequence[tuple[int, Expression]],
        *,
        indent: int,
    ) -> None:
        self.lines: list[str] = []
        self.library: dict[str, str] = {}
        self.loses = False
        self._schema = {name: dtype for name, (_, dtype) in columns.items()}
        self._columns = {name: variable for name, (variable, _) in columns.items()}
        self._uses = Counter(node for _, tree in outputs for node in walk(tree))
        self._readers = readers(outputs)
        self._known: list[dict[Expression, Term]] = [{}]
        self._indent = indent
        self._count = 0
        self._losers = 0
        self.results = [self._result(position, tree) for position, tree in outputs]

    def _result(self, position: int, tree: Expression) -> str:
        self._losers = 1 << position
        return self._hold(self._term(tree)).text

    # --- statements -------------------------------------------------------------------------------

    def _emit(self, line: str) -> None:
        self.lines.append("    " * self._indent + line)

    def _variable(self) -> str:
        self._count += 1
        return f"t{self._count}"

    @contextmanager
    def _block(self, head: str) -> Iterator[None]:
        """Statements under `head`; what is computed there is not known outside."""
        self._emit(head)
        self._indent += 1
        self._known.append({})
        yield
        self._known.pop()
        self._indent -= 1

    def _lose(self, target: str) -> None:
        self._emit(f"{target} = None")
        if self._losers:
            self.loses = True
            self._emit(f"lost |= {self._losers}")

    def _assign(self, target: str, term: Term) -> bool:
        """Write `target = term`; whether it may be None then."""
        if term.is_null or (term.is_ready and term.fits):
            self._emit(f"{target} = {term.text}")
            return bool(term.nulls)
        branch = "if"
        if term.nulls:
            with self._block(f"if {' or '.join(f'{n} is None' for n in term.nulls)}:"):
                self._emit(f"{target} = None")
            branch = "elif"
        if term.fails:
            with self._block(f"{branch} {' or '.join(term.fails)}:"):
                self._lose(target)
        if not term.nulls and not term.fails:
            return self._evaluate(target, term)
        with self._block("else:"):
            self._evaluate(target, term)
        return True

    def _evaluate(self, target: str, term: Term) -> bool:
        self._emit(f"{target} = {term.text}{' + 0.0' if term.loose else ''}")
        checks = [f"{target} is None"] if term.maybe and not term.quiet else []
        if term.loose:
            checks.append(f"not -{numbers.FLOAT_MAX!r} <= {target} <= {numbers.FLOAT_MAX!r}")
        elif not term.fits:
            low, high = type_bounds(term.dtype)
            checks.append(f"not {low} <= {target} <= {high}")
        if checks:
            with self._block(f"if {' or '.join(checks)}:"):
                self._lose(target)
        return term.maybe or bool(checks)

    def _hold(self, term: Term) -> Term:
        """The term as a variable, or as the constant or argument that it is."""
        if term.is_null or (term.is_ready and term.fits):
            return term
        target = self._variable()
        return variable(target, term, nullable=self._assign(target, term))

    # --- terms ------------------------------------------------------------------------------------

    def _term(self, node: Expression, wanted: Inferred = None) -> Term:
        """The term of `node`, read as `wanted`."""
        term = literal(node, wanted) if isinstance(node, Literal) else self._known_term(node)
        return term if wanted is None or term.dtype == wanted else self._cast(term, wanted)

    def _known_term(self, node: Expression) -> Term:
        for known in reversed(self._known):
            if node in known:
                return known[node]
        if self._uses[node] < 2:
            return self._new_term(node)
        losers, self._losers = self._losers, self._readers[node]
        term = self._known[-1][node] = self._hold(self._new_term(node))
        self._losers = losers
        return term

    def _new_term(self, node: Expression) -> Term:
        match node:
            case Column(name=name):
                return argument(self._columns[name], self._schema[name])
            case Literal():
                return literal(node)
            case Cast(argument=inner, dtype=dtype):
                return self._term(inner, dtype)
            case Case():
                return self._case(node)
            case Call(function=function):
                special = _SPECIAL.get(function)
                return special(self, node) if special else self._strict(node)
            case _:
                assert_never(node)

    def _apply(self, form: Form, terms: Sequence[Term], dtype: Inferred) -> Term:
        return apply(form, terms, dtype, hold=self._hold, write=self._write)

    def _write(self, template: str, terms: Sequence[Term]) -> str:
        def imported(found: re.Match[str]) -> str:
            self.library[f"_{found[1]}"] = exprlib.path_of(found[1])
            return f"_{found[1]}"

        texts = [term.text for term in terms]
        text = _LIBRARY_NAME.sub(imported, template)
        return text.format(*texts, all=", ".join(texts))

    def _cast(self, term: Term, dtype: DType) -> Term:
        if term.dtype is None or term.is_null:
            return null(dtype)
        form = cast_form(term.dtype, dtype)
        return widened(term, dtype) if form is None else self._apply(form, [term], dtype)

    def _strict(self, call: Call) -> Term:
        read = self._signature(call)
        form, taken = form_of(call, read[0])
        arguments, types = call.arguments[taken], read[0][taken]
        if call.function == "like" and isinstance(arguments[1], Literal):
            return self._like(arguments[0], arguments[1])
        have = [inferred(a, self._schema) for a in arguments]
        if call.function in ("add", "sub", "mul") and types[0] == FLOAT64 in have:
            # Python itself makes float64 of an int beside a float.
            types = tuple(h if h and h.is_integer else FLOAT64 for h in have)
        terms = [self._term(a, t) for a, t in zip(arguments, types, strict=True)]
        return self._apply(form, terms, read[1])

    def _signature(self, call: Call) -> tuple[tuple[Inferred, ...], Inferred]:
        read = signature(call, tuple(inferred(a, self._schema) for a in call.arguments))
        return read.arguments, read.result

    def _like(self, text: Expression, pattern: Literal) -> Term:
        if not isinstance(pattern.value, str):
            return null(BOOL)
        name = f"_like_{hashlib.sha256(pattern.value.encode()).hexdigest()[:16]}"
        self.library[name] = f"texts.like_pattern({pattern.value!r})"
        return self._apply(Form(f"{name}({{0}})"), [self._term(text, STRING)], BOOL)

    # --- functions whose NULLs follow rules of their own ------------------------------------------

    def _arguments(self, call: Call) -> list[Term]:
        """All arguments as variables."""
        types, _ = self._signature(call)
        return [self._hold(self._term(a, t)) for a, t in zip(call.arguments, types, strict=True)]

    def _quiet(self, text: str, dtype: Inferred, *, null: bool = True) -> Term:
        """A term of its own, which may be None without loss."""
        return Term(text, dtype, maybe=null, quiet=null, depth=1)

    def is_null_term(self, call: Call) -> Term:
        [held] = [self._hold(self._term(a)) for a in call.arguments]
        if held.is_null:
            return Term("True", BOOL)
        return Term(f"({held.text} is None)", BOOL, depth=1) if held.nulls else Term("False", BOOL)

    def logic_term(self, call: Call) -> Term:
        """AND, or OR with true and false changed over: `ends` is the side that decides alone."""
        ends, goes_on = ("False", "True") if call.function == "and" else ("True", "False")
        first = self._hold(self._term(call.arguments[0], BOOL))
        target = self._variable()

        def rest() -> None:
            second = self._hold(self._term(call.arguments[1], BOOL))
            unknown = [f"{t.text} is None" for t in (first, second) if t.nulls]
            text = f"None if {' or '.join(unknown)} else {goes_on}" if unknown else goes_on
            self._emit(f"{target} = {ends} if {second.text} is {ends} else {text}")

        if self._indent > INDENTATION_MAX:
            rest()
            self._emit(f"if {first.text} is {ends}: {target} = {ends}")
        else:
            with self._block(f"if {first.text} is {ends}:"):
                self._emit(f"{target} = {ends}")
            with self._block("else:"):
                rest()
        return Term(target, BOOL, (target,))

    def between_term(self, call: Call) -> Term:
        value, low, high = self._arguments(call)
        if any(end.nulls for end in (low, high)):
            both = Call("and", (Call("ge", call.arguments[:2]), Call("le", call.arguments[::2])))
            return self.logic_term(both)
        return self._apply(Form("({1} <= {0} <= {2})"), [value, low, high], BOOL)

    def in_term(self, call: Call) -> Term:
        value, *items = self._arguments(call)
        known = dict.fromkeys(item.text for item in items if not item.is_null)
        if not known or value.is_null:
            return null(BOOL)
        text = f"({value.text} in {{{', '.join(known)}}})"
        if not any(item.is_null for item in items):
            return Term(text, BOOL, value.nulls, depth=1)
        return Term(f"({text} or None)", BOOL, value.nulls, maybe=True, quiet=True, depth=1)

    def concat_ws_term(self, call: Call) -> Term:
        first, *rest = self._arguments(call)
        if first.is_null:
            return null(STRING)
        text = self._write("@concat_ws({all})", [first, *rest])
        return Term(text, STRING, first.nulls, depth=1)

    def is_distinct_term(self, call: Call) -> Term:
        left, right = self._arguments(call)
        return self._quiet(f"({left.text} != {right.text})", BOOL, null=False)

    def request_time_term(self, call: Call) -> Term:
        return Term("request_time_us", self._signature(call)[1])

    def coalesce_term(self, call: Call) -> Term:
        types, dtype = self._signature(call)
        target = self._variable()
        eager = self._indent > INDENTATION_MAX
        nullable = True
        for position, node in enumerate(call.arguments):
            if position == 0 or eager:
                held = self._hold(self._term(node, types[position]))
                guard = "" if position == 0 else f"if {target} is None: "
                self._emit(f"{guard}{target} = {held.text}")
                nullable = bool(held.nulls)
            else:
                with self._block(f"if {target} is None:"):
                    nullable = self._assign(target, self._term(node, types[position]))
            if not nullable:
                break
        return variable(target, Term(target, dtype), nullable=nullable)

    def nullif_term(self, call: Call) -> Term:
        types, _ = self._signature(call)
        value = self._hold(self._term(call.arguments[0], types[0]))
        losers, self._losers = self._losers, 0  # the other side decides only
        other = self._hold(self._term(call.arguments[1], types[1]))
        self._losers = losers
        if value.is_null or other.is_null:
            return value
        return self._quiet(f"None if {value.text} == {other.text} else {value.text}", value.dtype)

    def extreme_term(self, call: Call) -> Term:
        _, dtype = self._signature(call)
        terms = [term for term in self._arguments(call) if not term.is_null]
        if len(terms) < 2:
            return terms[0] if terms else null(dtype)
        if len(terms) == 2 and not any(t.nulls for t in terms):
            a, b = (t.text for t in terms)
            sign = ">=" if call.function == "greatest" else "<="
            return self._quiet(f"({a} if {a} {sign} {b} else {b})", dtype, null=False)
        template = f"@{call.function}({{all}})"
        return self._quiet(
            self._write(template, terms), dtype, null=all(term.nulls for term in terms)
        )

    def concat_term(self, call: Call) -> Term:
        terms = [term for term in self._arguments(call) if not term.is_null]
        texts = [f"({t.text} or '')" if t.nulls else t.text for t in terms]
        return self._quiet(f"({' + '.join(texts) or repr('')})", STRING, null=False)

    # --- CASE -------------------------------------------------------------------------------------

    def _case(self, case: Case) -> Term:
        values = (*(then for _, then in case.branches), case.default)
        dtype = case_type(case, tuple(inferred(value, self._schema) for value in values))
        target = self._variable()
        self._branches(target, case.branches, case.default, dtype)
        return Term(target, dtype, (target,))

    def _branches(
        self, target: str, branches: Branches, default: Expression, dtype: Inferred
    ) -> None:
        """Conditions in turn; one that needs statements of its own goes under an `else`."""
        if self._indent > INDENTATION_MAX:
            self._all_branches(target, branches, default, dtype)
            return
        depth, word = 0, "if"
        for place, (when, then) in enumerate(branches):
            if word == "elif" and self._indent > INDENTATION_MAX:
                with self._block("else:"):
                    self._all_branches(target, branches[place:], default, dtype)
                break
            if word == "elif":
                before, self.lines = self.lines, []
                self._indent += 1
                self._known.append({})
                condition = self._condition(when)
                statements, self.lines = self.lines, before
                if statements:
                    self.lines += ["    " * (self._indent - 1) + "else:", *statements]
                    depth, word = depth + 1, "if"
                else:
                    self._indent -= 1
                    self._known.pop()
            else:
                condition = self._condition(when)
            with self._block(f"{word} {condition}:"):
                self._assign(target, self._term(then, dtype))
            word = "elif"
        else:
            with self._block("else:"):
                self._assign(target, self._term(default, dtype))
        for _ in range(depth):
            self._indent -= 1
            self._known.pop()

    def _all_branches(
        self, target: str, branches: Branches, default: Expression, dtype: Inferred
    ) -> None:
        conditions = [self._condition(when) for when, _ in branches]
        values = [self._hold(self._term(then, dtype)) for _, then in branches]
        self._emit(f"{target} = {self._hold(self._term(default, dtype)).text}")
        for condition, value in reversed([*zip(conditions, values, strict=True)]):
            self._emit(f"if {condition}: {target} = {value.text}")

    def _condition(self, node: Expression) -> str:
        """Text that is true where `node` is true, and false where it is false or NULL."""
        losers, self._losers = self._losers, 0  # a branch that is not taken is no loss
        text = self._truth(node)
        self._losers = losers
        return text

    def _truth(self, node: Expression) -> str:
        if isinstance(node, Call) and node.function in ("and", "or") and self._is_one_line(node):
            word = f" {node.function} "
            return f"({word.join(self._truth(part) for part in node.arguments)})"
        term = self._term(node, BOOL)
        if term.is_null:
            return "False"
        if not term.is_pure:
            term = self._hold(term)
        known = [f"{name} is not None" for name in term.nulls if name != term.text]
        return f"({' and '.join([*known, term.text])})" if known else term.text

    def _is_one_line(self, node: Expression) -> bool:
        """Whether the term of `node` takes no statements, so that it may stand in a condition."""
        match node:
            case Column() | Literal():
                return True
            case Call(function=name, arguments=arguments) if self._uses[node] == 1:
                if name in ("is_null", "in"):
                    return isinstance(arguments[0], Column)
                return name in ONE_LINE and all(map(self._is_one_line, arguments))
            case _:
                return False


def readers(outputs: Sequence[tuple[int, Expression]]) -> dict[Expression, int]:
    """For each node the outputs whose value may be NULL for its sake, as bits: not those that only
    ask for it in a condition."""
    found: dict[Expression, int] = {}

    def visit(node: Expression, bit: int) -> None:
        found[node] = found.get(node, 0) | bit
        deciding = asked_only(node)
        for place, child in enumerate(children(node)):
            visit(child, 0 if place in deciding else bit)

    for position, tree in outputs:
        visit(tree, 1 << position)
    return found


Branches = tuple[tuple[Expression, Expression], ...]
_SPECIAL: Mapping[str, Callable[[RowCode, Call], Term]] = {
    "and": RowCode.logic_term,
    "or": RowCode.logic_term,
    "is_null": RowCode.is_null_term,
    "between": RowCode.between_term,
    "in": RowCode.in_term,
    "coalesce": RowCode.coalesce_term,
    "nullif": RowCode.nullif_term,
    "greatest": RowCode.extreme_term,
    "least": RowCode.extreme_term,
    "concat": RowCode.concat_term,
    "concat_ws": RowCode.concat_ws_term,
    "is_distinct": RowCode.is_distinct_term,
    "request_time": RowCode.request_time_term,
}
