"""The language of searching runs, as a tree.

    metrics.auc > 0.8 and (params.depth = 6 or tags.team in ('x', 'y')) and not status = 'FAILED'
    order by metrics.auc desc, started

A comparison of something that a run does not have is false, `is null` of it is true, and `not` of a
comparison is whatever the comparison is not: there is no third value. The tree is all that there
is: `run_sql` makes of it SQL in which every name and value is bound.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, NoReturn

from featurestore.errors import InvalidRequest, InvalidSearch, LimitExceeded, suggest
from featurestore.stores.registry.run_words import KEY_CHARS_MAX, STATUSES
from featurestore.timeline import to_us

SEARCH_CHARS_MAX = 10_000
SEARCH_COMPARISONS_MAX = 200
SEARCH_DEPTH_MAX = 50
SEARCH_LIST_MAX = 500

Value = str | int | float | bool
Operator = Literal["=", "!=", "<", "<=", ">", ">=", "like", "ilike", "in", "is null"]
Space = Literal["metrics", "params", "tags", "attributes"]

ATTRIBUTES = {
    "run_id": "run_id",
    "experiment": "experiment",
    "name": "name",
    "run_name": "name",
    "status": "status",
    "user": "user",
    "started": "started",
    "start_time": "started",
    "ended": "ended",
    "end_time": "ended",
    "duration": "duration",
    "parent": "parent",
    "training_set": "training_set",
    "error": "error",
    "note": "note",
}
"""What may be asked for, and what it is called here. Instants are ISO 8601 text or µs, a duration
is in seconds."""
INSTANTS = ("started", "ended")

_SPACES: dict[str, Space] = {
    "metrics": "metrics",
    "metric": "metrics",
    "params": "params",
    "param": "params",
    "parameters": "params",
    "parameter": "params",
    "tags": "tags",
    "tag": "tags",
    "attributes": "attributes",
    "attribute": "attributes",
    "attr": "attributes",
    "run": "attributes",
}
_WORDS = ("and", "or", "not", "like", "ilike", "in", "is", "null", "order", "by", "asc", "desc")
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
    | (?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`)
    | (?P<operator><=|>=|!=|<>|==|=|<|>)
    | (?P<mark>[(),.])
    | (?P<word>[^\W\d][\w/:-]*)
    )""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Field:
    """What is compared: `metrics.auc`, `attributes.status`."""

    space: Space
    key: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """One question; `values` has one value, several for `in`, none for `is null`."""

    field: Field
    operator: Operator
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """Whatever its part is not."""

    part: Node


@dataclass(frozen=True, slots=True)
class Both:
    """All of its parts, or any of them."""

    word: Literal["and", "or"]
    parts: tuple[Node, ...]


Node = Comparison | Not | Both


@dataclass(frozen=True, slots=True)
class Order:
    """A field to sort by; runs that do not have it come last."""

    field: Field
    descending: bool


@dataclass(frozen=True, slots=True)
class Query:
    """A search: which runs (None: all), in which order (after it, the newest first)."""

    where: Node | None = None
    order: tuple[Order, ...] = ()
    run_ids: tuple[str, ...] | None = None
    """Only among these."""


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


def parse(text: str, order_by: tuple[str, ...] = ()) -> Query:
    """The tree of a search, and of more to sort by (`"metrics.auc desc"`).

    Raises `InvalidSearch`, which says where and what was meant; `LimitExceeded`.
    """
    query = _Parser(text).query()
    more = [order for each in order_by for order in _Parser(f"order by {each}").query().order]
    return Query(where=query.where, order=(*query.order, *more))


@dataclass
class _Parser:
    text: str
    tokens: list[_Token] = field(init=False)
    next: int = 0
    comparisons: int = 0

    def __post_init__(self) -> None:
        if len(self.text) > SEARCH_CHARS_MAX:
            raise LimitExceeded("SEARCH_CHARS_MAX", asked=len(self.text), allowed=SEARCH_CHARS_MAX)
        if "\0" in self.text or any(0xD800 <= ord(c) < 0xE000 for c in self.text):
            raise InvalidSearch("it holds what is no text", text=ascii(self.text), position=0)
        self.tokens = [*_tokens(self.text), _Token("end", "", len(self.text.rstrip()))]

    def query(self) -> Query:
        where = None
        if self._peek().kind != "end" and not self._is("order"):
            where = self._either(0)
        order = self._order() if self._take("order") else ()
        self._expect_end()
        return Query(where=where, order=order)

    def _either(self, depth: int) -> Node:
        parts = [self._all(depth)]
        while self._take("or"):
            parts.append(self._all(depth))
        return parts[0] if len(parts) == 1 else Both("or", tuple(parts))

    def _all(self, depth: int) -> Node:
        parts = [self._negated(depth)]
        while self._take("and"):
            parts.append(self._negated(depth))
        return parts[0] if len(parts) == 1 else Both("and", tuple(parts))

    def _negated(self, depth: int) -> Node:
        if depth > SEARCH_DEPTH_MAX:
            raise LimitExceeded("SEARCH_DEPTH_MAX", asked=depth, allowed=SEARCH_DEPTH_MAX)
        if self._take("not"):
            return Not(self._negated(depth + 1))
        if self._take("("):
            inside = self._either(depth + 1)
            if not self._take(")"):
                self._fail("a closing ) is missing")
            return inside
        return self._comparison()

    def _comparison(self) -> Node:
        self.comparisons += 1
        if self.comparisons > SEARCH_COMPARISONS_MAX:
            raise LimitExceeded(
                "SEARCH_COMPARISONS_MAX", asked=self.comparisons, allowed=SEARCH_COMPARISONS_MAX
            )
        field_ = self._field()
        if self._take("is"):
            negated = self._take("not")
            if not self._take("null"):
                self._fail("after `is` comes null or not null")
            return _negate(Comparison(field_, "is null", ()), negated)
        negated = self._take("not")
        token = self._peek()
        for word in ("like", "ilike"):
            if self._take(word):
                at = self._peek()
                value = self._value(field_)
                if not isinstance(value, str):
                    self._fail(f"{word} compares with text: '%x%'", at)
                operator: Operator = "like" if word == "like" else "ilike"
                return _negate(Comparison(field_, operator, (value,)), negated)
        if self._take("in"):
            return _negate(Comparison(field_, "in", self._values(field_)), negated)
        if negated or token.kind != "operator":
            self._fail(
                "an operator is missing: =, !=, <, <=, >, >=, like, ilike, in, is null", token
            )
        self.next += 1
        symbol = {"==": "=", "<>": "!="}.get(token.text, token.text)
        at = self._peek()
        value = self._value(field_)
        if isinstance(value, bool) and symbol not in ("=", "!="):
            self._fail(f"{str(value).lower()} is compared by = and !=", at)
        return Comparison(field_, symbol, (value,))  # type: ignore[arg-type]  # by the pattern

    def _field(self) -> Field:
        token = self._peek()
        if token.kind != "word" or token.text.lower() in _WORDS:
            self._fail("a field is missing: metrics.auc, params.depth, tags.team, status", token)
        self.next += 1
        if not self._take("."):
            return self._attribute(token.text, token)
        space = _SPACES.get(token.text.lower())
        if space is None:
            known = ("metrics", "params", "tags", "attributes")
            self._fail(f"there is no {token.text!r}.{suggest(token.text.lower(), known)}", token)
        at = self._peek()
        key = self._key()
        return self._attribute(key, at) if space == "attributes" else Field(space, key)

    def _attribute(self, name: str, token: _Token) -> Field:
        found = ATTRIBUTES.get(name.lower())
        if found is None:
            self._fail(
                f"there is no attribute {name!r}; metrics, parameters and tags are written "
                f"metrics.{name}, params.{name}, tags.{name}.{suggest(name.lower(), ATTRIBUTES)}",
                token,
            )
        return Field("attributes", found)

    def _key(self) -> str:
        """The rest of `metrics.a.b`, or a quoted one: `metrics."val auc"`."""
        token = self._peek()
        if token.kind == "text":
            self.next += 1
            return self._unquoted(token)
        parts = list[str]()
        while True:
            token = self._peek()
            if token.kind not in ("word", "number"):
                self._fail('a name is missing after the dot; quote odd ones: metrics."val auc"')
            parts.append(token.text)
            self.next += 1
            if not self._take("."):
                break
        key = ".".join(parts)
        if len(key) > KEY_CHARS_MAX:
            raise LimitExceeded("KEY_CHARS_MAX", asked=len(key), allowed=KEY_CHARS_MAX)
        return key

    def _values(self, field_: Field) -> tuple[Value, ...]:
        if not self._take("("):
            self._fail("after `in` comes a list: ('a', 'b')")
        values = [self._value(field_)]
        while self._take(","):
            values.append(self._value(field_))
        if not self._take(")"):
            self._fail("a closing ) is missing after the list")
        if len(values) > SEARCH_LIST_MAX:
            raise LimitExceeded("SEARCH_LIST_MAX", asked=len(values), allowed=SEARCH_LIST_MAX)
        return tuple(values)

    def _value(self, field_: Field) -> Value:
        token = self._peek()
        self.next += 1
        value: Value
        match token.kind:
            case "text":
                value = self._unquoted(token)
            case "number":
                value = float(token.text) if re.search(r"[.eE]", token.text) else int(token.text)
            case "word" if token.text.lower() in ("true", "false"):
                value = token.text.lower() == "true"
            case "word":
                self._fail(f"text is quoted: '{token.text}'", token)
            case _:
                self._fail("a value is missing: a number, 'text', true or false", token)
        self._check(field_, value, token)
        return value

    def _check(self, field_: Field, value: Value, token: _Token) -> None:
        if field_.space == "metrics" and (isinstance(value, str | bool)):
            self._fail(f"metrics are numbers; metrics.{field_.key} is compared with one", token)
        if field_ == Field("attributes", "duration") and isinstance(value, str | bool):
            self._fail("a duration is a number of seconds", token)
        if field_.space == "attributes" and field_.key in INSTANTS:
            try:
                to_us(value if isinstance(value, str) else int(value))
            except (InvalidRequest, OverflowError):
                self._fail("an instant is written '2026-07-01T12:00:00Z', or in µs", token)
        if (
            field_ == Field("attributes", "status")
            and value not in STATUSES
            and "%" not in str(value)
        ):
            self._fail(
                f"there is no status {value!r}.{suggest(str(value).upper(), STATUSES)}", token
            )

    def _order(self) -> tuple[Order, ...]:
        if not self._take("by"):
            self._fail("after `order` comes by")
        orders = list[Order]()
        while True:
            field_ = self._field()
            descending = self._take("desc")
            if not descending:
                self._take("asc")
            orders.append(Order(field_, descending))
            if not self._take(","):
                return tuple(orders)

    def _unquoted(self, token: _Token) -> str:
        mark, inside = token.text[0], token.text[1:-1]
        return inside.replace(mark * 2, mark)

    def _peek(self) -> _Token:
        return self.tokens[self.next]

    def _is(self, word: str) -> bool:
        token = self._peek()
        return token.kind in ("word", "mark") and token.text.lower() == word

    def _take(self, word: str) -> bool:
        if self._is(word):
            self.next += 1
            return True
        return False

    def _expect_end(self) -> None:
        token = self._peek()
        if token.kind != "end":
            self._fail(f"{token.text[:40]!r} is not expected here; and, or, order by would be")

    def _fail(self, what: str, token: _Token | None = None) -> NoReturn:
        raise InvalidSearch(what, text=self.text, position=(token or self._peek()).at)


def _negate(node: Node, negated: bool) -> Node:
    return Not(node) if negated else node


def _tokens(text: str) -> Iterator[_Token]:
    position, end = 0, len(text.rstrip())
    while position < end:
        found = _TOKEN.match(text, position)
        if found is None or found.lastgroup is None:
            at = position + len(text[position:]) - len(text[position:].lstrip())
            what = "a quote is not closed" if text[at] in "'\"`" else f"{text[at]!r} is not known"
            raise InvalidSearch(what, text=text, position=at)
        yield _Token(found.lastgroup, found[found.lastgroup], found.start(found.lastgroup))
        position = found.end()
