"""On-demand views in a training set: by the engine as far as they are expressions, in the very
statement that joins; by Python for functions, and for what reads what a function returned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from featurestore.compiler.on_demand import renamed
from featurestore.compiler.program import OfRequest, OfStep, OfView, Program, Source, Step
from featurestore.compiler.pysource import python_batch, python_function
from featurestore.compiler.rel import Derive, Rel
from featurestore.definitions.expression import Column, Expression, with_request_time
from featurestore.definitions.undefined import undefined
from featurestore.dtypes import BOOL, DType
from featurestore.user_functions import StepCode

Outputs = Mapping[str, tuple[Expression, DType]]
"""Expressions and their types, by the names of what they yield."""
GENERATED_NAME = "features"
"""What generated functions are called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaterStep:
    """An on-demand view that Python computes: `arguments` are the columns that `code` is given, in
    order, `columns` those that it adds. `asks_time`: each row's own time counts."""

    view: str
    code: StepCode
    arguments: tuple[str, ...]
    columns: tuple[str, ...]
    asks_time: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived:
    """`rel` with what the engine computes, and what is left to do `later`. `undefined` are, by
    feature (`view:feature`), the bool columns that say where its value is NULL for want of a
    result; where there is none, it always has one."""

    rel: Rel
    later: tuple[LaterStep, ...]
    undefined: Mapping[str, str]


def step_column(step: int, feature: str) -> str:
    """The column that holds a feature of an on-demand view."""
    return f"step:{step}:{feature}"


def derived(
    rel: Rel,
    program: Program,
    cells: Mapping[tuple[int, str], str],
    requests: Mapping[str, str],
    instant: str,
    *,
    with_undefined: bool = False,
) -> Derived:
    """All steps of `program` over `rel`, whose columns hold the features of joined views (`cells`,
    by view and feature), the request inputs (`requests`, by name) and the request's time as a
    timestamp (`instant`). `with_undefined`, also where they have no result."""

    def column_of(source: Source) -> str:
        match source:
            case OfView(view, feature):
                return cells[view, feature]
            case OfRequest(name, _):
                return requests[name]
            case OfStep(step, feature):
                return step_column(step, feature)

    later: list[LaterStep] = []
    lost: dict[str, str] = {}
    waiting: set[int] = set()
    for index, step in enumerate(program.steps):
        columns = {name: column_of(source) for name, source in step.sources.items()}
        outputs: dict[str, tuple[Expression, DType]] = {
            f.name: (f.expression, f.dtype) for f in step.features
        }
        if with_undefined and step.view.function is None:
            conditions = _undefined(step)
            outputs |= conditions
            lost |= {
                f"{step.view.name}:{f.name}": step_column(index, _undefined_name(f.name))
                for f in step.features
                if _undefined_name(f.name) in conditions
            }
        added = {name: step_column(index, name) for name in outputs}
        reads = {source.step for source in step.sources.values() if isinstance(source, OfStep)}
        if step.view.function is not None or reads & waiting:
            waiting.add(index)
            later.append(
                LaterStep(
                    view=step.view.name,
                    code=step_code(step, outputs),
                    arguments=tuple(columns[argument.name] for argument in step.arguments),
                    columns=tuple(added.values()),
                    asks_time=step.asks_time or None in step.view.parameters,
                )
            )
            continue
        trees = {
            added[name]: (with_request_time(renamed(tree, columns), Column(instant)), dtype)
            for name, (tree, dtype) in outputs.items()
        }
        rel = Derive(input=rel, columns=trees)
    return Derived(rel=rel, later=tuple(later), undefined=lost)


def _undefined(step: Step) -> Outputs:
    """Where the step's features are NULL for want of a result, for those that can be."""
    found = {_undefined_name(f.name): undefined(f.expression) for f in step.features}
    return {name: (tree, BOOL) for name, tree in found.items() if tree is not None}


def _undefined_name(feature: str) -> str:
    return f"undefined:{feature}"


def step_code(step: Step, wanted: Outputs | None = None) -> StepCode:
    """How Python computes a step: its user's function, or one generated from its expressions (by
    default those of its features)."""
    if wanted is None:
        wanted = {f.name: (f.expression, f.dtype) for f in step.features}
    arguments = {argument.name: argument.dtype for argument in step.arguments}
    outputs = tuple((name, dtype) for name, (_, dtype) in wanted.items())
    function = step.view.function
    if function is not None:
        order = list(arguments)
        return StepCode(
            name=function.name,
            source=function.source,
            is_function=True,
            arguments=tuple(arguments.items()),
            parameters=tuple(None if n is None else order.index(n) for n in step.view.parameters),
            outputs=outputs,
        )
    trees = [(name, tree, dtype) for name, (tree, dtype) in wanted.items()]
    return StepCode(
        name=GENERATED_NAME,
        source=python_function(GENERATED_NAME, arguments, trees),
        batch=python_batch(GENERATED_NAME, arguments, trees),
        is_function=False,
        arguments=tuple(arguments.items()),
        parameters=(),
        outputs=outputs,
    )
