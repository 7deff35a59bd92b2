"""When a value is NULL because an operation has no result: a division by zero, an overflow, the
logarithm of a negative number. Such values are counted, for they are rarely meant."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import assert_never

from featurestore.definitions.expression import Call, Case, Cast, Column, Expression, Literal
from featurestore.definitions.functions import CAN_FAIL, FUNCTIONS, STRICT
from featurestore.dtypes import BOOL

_NEVER = Literal(False, BOOL)


def undefined(expression: Expression) -> Expression | None:
    """The condition, over the same columns, under which the value of `expression` is NULL because
    an operation in it has no result for arguments that are not NULL; None where that can't be.

    A NULL that is replaced (`coalesce(a / b, 0)`) or never asked for (a branch of CASE that is not
    taken) is none. The condition is true or false, never NULL.
    """
    match expression:
        case Column() | Literal():
            return None
        case Cast(argument=argument):
            return _any([undefined(argument), _fails(expression, (argument,))])
        case Case(branches=branches, default=default):
            values = [*(then for _, then in branches), default]
            causes = [undefined(value) for value in values]
            if not any(causes):
                return None
            *taken, rest = [cause or _NEVER for cause in causes]
            whens = tuple((when, cause) for (when, _), cause in zip(branches, taken, strict=True))
            return Case(whens, rest)
        case Call(function="nullif", arguments=(value, _)):
            return undefined(value)
        case Call(function=function, arguments=arguments):
            cause = _any([undefined(argument) for argument in arguments])
            if function in CAN_FAIL:
                return _any([cause, _fails(expression, arguments)])
            if cause is None or FUNCTIONS[function].nulls == STRICT:
                return cause
            return Call("and", (Call("is_null", (expression,)), cause))
        case _:
            assert_never(expression)


def _fails(expression: Expression, arguments: tuple[Expression, ...]) -> Expression:
    """`expression` is NULL, and none of its arguments is."""
    there = [
        Call("not", (Call("is_null", (argument,)),))
        for argument in arguments
        if not (isinstance(argument, Literal) and argument.dtype is not None)
    ]
    return _joined("and", [Call("is_null", (expression,)), *there])


def _any(causes: list[Expression | None]) -> Expression | None:
    found = [cause for cause in causes if cause is not None]
    return _joined("or", found) if found else None


def _joined(function: str, parts: Sequence[Expression]) -> Expression:
    return reduce(lambda left, right: Call(function, (left, right)), parts)
