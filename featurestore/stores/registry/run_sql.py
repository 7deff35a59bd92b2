"""A search for runs as SQL. Whatever the user wrote, names of metrics too, is a bound parameter."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, assert_never

import sqlalchemy as sa

from featurestore.errors import InvalidRequest
from featurestore.stores.registry import schema
from featurestore.stores.registry.run_query import (
    INSTANTS,
    Both,
    Comparison,
    Field,
    Node,
    Not,
    Order,
    Value,
)
from featurestore.stores.registry.run_schema import run, run_metric, run_note, run_param, run_tag
from featurestore.stores.registry.run_words import CRASHED_AFTER_US
from featurestore.timeline import SECOND_US, to_us

Condition = sa.ColumnElement[bool]
PARENT = run.alias("parent_run")
_above = run.alias("above")
_set_edge, _set = schema.edge.alias("set_edge"), schema.record.alias("training_set")
TRAINING_SET = "training_set"


def crashed(now_us: int) -> Condition:
    """Runs that say RUNNING and have not been heard of."""
    return sa.and_(
        run.c.status == "RUNNING",
        run.c.heartbeat_at_us.is_not(None),
        run.c.heartbeat_at_us < now_us - CRASHED_AFTER_US,
    )


def status(now_us: int) -> sa.ColumnElement[str]:
    """How a run stands: one that crashed is KILLED."""
    return sa.case((crashed(now_us), "KILLED"), else_=run.c.status)


def ended(now_us: int) -> sa.ColumnElement[int]:
    """When it ended; one that crashed, when it was last heard of."""
    return sa.case((crashed(now_us), run.c.heartbeat_at_us), else_=run.c.ended_at_us)


def condition(node: Node, *, dialect: str, now_us: int) -> Condition:
    """Which rows of `run` a tree means. Each part is true or false, never NULL."""
    match node:
        case Not():
            return sa.not_(condition(node.part, dialect=dialect, now_us=now_us))
        case Both():
            parts = [condition(part, dialect=dialect, now_us=now_us) for part in node.parts]
            return sa.and_(*parts) if node.word == "and" else sa.or_(*parts)
        case Comparison():
            return _Compared(dialect, now_us).of(node)
        case _:
            assert_never(node)


def sorting(order: Order, *, dialect: str, now_us: int) -> list[sa.ColumnElement[Any]]:
    """What to sort by: what is missing comes last, NaN with it."""
    values = _Compared(dialect, now_us).values(order.field)
    directed = [value.desc() if order.descending else value.asc() for value in values]
    return [sa.case((values[0].is_(None), 1), else_=0), *directed]


class _Compared:
    def __init__(self, dialect: str, now_us: int) -> None:
        self._dialect, self._now_us = dialect, now_us

    def of(self, node: Comparison) -> Condition:
        space, key = node.field.space, node.field.key
        match space:
            case "metrics":
                column = run_metric.c.value
                here = sa.and_(run_metric.c.run == run.c.run, run_metric.c.key == key)
                return self._has(node, here, self._numbers, column)
            case "params":
                here = sa.and_(run_param.c.run == run.c.run, run_param.c.key == key)
                return self._param(node, here)
            case "tags":
                here = sa.and_(run_tag.c.run == run.c.run, run_tag.c.key == key)
                return self._has(node, here, self._texts, run_tag.c.text)
            case "attributes":
                return self._attribute(node)
            case _:
                assert_never(space)

    def values(self, field: Field) -> list[sa.ColumnElement[Any]]:
        """What to sort by: one value, or for parameters a number and, where there is none, text."""
        match field.space:
            case "metrics":
                return [_one(run_metric, run_metric.c.value, field.key)]
            case "params":
                columns = run_param.c.number, run_param.c.text
                return [_one(run_param, column, field.key) for column in columns]
            case "tags":
                return [_one(run_tag, run_tag.c.text, field.key)]
            case "attributes":
                if field.key in ("note", TRAINING_SET):
                    raise InvalidRequest(f"runs can't be sorted by {field.key}: one may have many")
                return [self._column(field.key)]
            case _:
                assert_never(field.space)

    def _attribute(self, node: Comparison) -> Condition:
        key = node.field.key
        if key == "note":
            here = run_note.c.run == run.c.run
            return self._has(node, here, self._texts, run_note.c.text)
        if key == TRAINING_SET:
            return self._training_set(node)
        column = self._column(key)
        is_number = key in INSTANTS or key == "duration"
        if node.operator == "is null":
            # Texts that nobody gave are empty in the table: the error of a run without one.
            return column.is_(None) if is_number else sa.func.coalesce(column, "") == ""
        if is_number:
            unit = 1 if key in INSTANTS else SECOND_US
            values = tuple(
                to_us(value) if isinstance(value, str) else float(value) * unit
                for value in node.values
            )
            node = Comparison(node.field, node.operator, values)
            return sa.and_(column.is_not(None), self._numbers(column, node))
        return sa.and_(column.is_not(None), self._texts(column, node))

    def _column(self, key: str) -> sa.ColumnElement[Any]:
        columns: dict[str, sa.ColumnElement[Any]] = {
            "status": status(self._now_us),
            "started": run.c.started_at_us,
            "ended": ended(self._now_us),
            "duration": ended(self._now_us) - run.c.started_at_us,
            "parent": sa.select(_above.c.run_id)
            .where(_above.c.run == run.c.parent)
            .scalar_subquery(),
        }
        return columns[key] if key in columns else run.c[key]

    def _training_set(self, node: Comparison) -> Condition:
        """By name, or by id: the records that the run's record names."""
        edge, record = _set_edge, _set
        here = sa.and_(
            edge.c.child == run.c.record,
            edge.c.role == TRAINING_SET,
            record.c.seq == edge.c.parent,
        )
        column = record.c.id if any("@" in str(v) for v in node.values) else record.c.name
        return self._has(node, here, self._texts, column)

    def _has(
        self,
        node: Comparison,
        here: Condition,
        compare: Callable[[sa.ColumnElement[Any], Comparison], Condition],
        column: sa.ColumnElement[Any],
    ) -> Condition:
        """Whether something stands `here`, and its `column` compares so."""
        if node.operator == "is null":
            return ~sa.exists().where(here)
        return sa.exists().where(here, compare(column, node))

    def _param(self, node: Comparison, here: Condition) -> Condition:
        """Numbers compare with numbers; text with the text of any value, so that what MLflow's
        users write, `params.depth = '6'`, is met too."""
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in node.values):
            return self._has(node, here, self._numbers, run_param.c.number)
        return self._has(node, here, self._texts, run_param.c.text)

    def _numbers(self, column: sa.ColumnElement[Any], node: Comparison) -> Condition:
        numbers = [_finite(value) for value in node.values]
        match node.operator:
            case "like" | "ilike":
                raise InvalidRequest(f"{node.field.key} is a number; like compares texts")
            case "!=":
                # NaN is NULL in the table, and differs from every number.
                return sa.or_(column != numbers[0], column.is_(None))
            case "in":
                return column.in_(numbers)
            case _:
                return _PLAIN[node.operator](column, numbers[0])

    def _texts(self, column: sa.ColumnElement[Any], node: Comparison) -> Condition:
        texts = [str(v).lower() if isinstance(v, bool) else str(v) for v in node.values]
        sqlite = self._dialect == "sqlite"
        match node.operator:
            case "in":
                return column.in_(texts)
            case "like" if sqlite:  # whose LIKE ignores case
                return column.op("GLOB", is_comparison=True)(_glob(texts[0]))
            case "like":
                return column.like(texts[0], escape="\\")
            case "ilike":
                return column.ilike(texts[0], escape="\\")
            case _:
                # By code points everywhere; Postgres would sort by the rules of some language.
                ordered = column if sqlite else sa.collate(column, "C")
                return _PLAIN[node.operator](ordered, texts[0])


_PLAIN: Mapping[str, Callable[[Any, Any], Condition]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _one(table: sa.Table, column: sa.ColumnElement[Any], key: str) -> sa.ColumnElement[Any]:
    here = sa.and_(table.c.run == run.c.run, table.c.key == key)
    return sa.select(column).where(here).scalar_subquery()


def _finite(value: Value) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if str(value)[0] != "-" else float("-inf")


def _glob(pattern: str) -> str:
    """A pattern of LIKE as one of SQLite's GLOB."""
    out, letters = list[str](), iter(pattern)
    for letter in letters:
        match letter:
            case "%":
                out.append("*")
            case "_":
                out.append("?")
            case "\\":
                out.append(_literal(next(letters, "\\")))
            case _:
                out.append(_literal(letter))
    return "".join(out)


def _literal(letter: str) -> str:
    return f"[{letter}]" if letter in "*?[" else letter
