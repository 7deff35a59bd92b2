"""What it takes to answer: the stored views to join or look up, the request inputs, and the
on-demand views to compute from them, in order.

The same program is compiled to a training set and to a serving plan. What is only an input is read,
and returned to nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from featurestore.compiler.typed import (
    Argument,
    OnDemandUse,
    TypedFeature,
    TypedOnDemandView,
    TypedRequestSource,
    TypedView,
    Use,
    ViewUse,
)
from featurestore.definitions.expression import columns_of, uses_request_time
from featurestore.dtypes import DType
from featurestore.errors import InvalidJoinKey, InvalidRequestInput, RequestError


@dataclass(frozen=True, slots=True)
class OfView:
    """A feature of a stored view: `view` is an index into `Program.joined`."""

    view: int
    feature: str


@dataclass(frozen=True, slots=True)
class OfRequest:
    """A request input."""

    name: str
    dtype: DType


@dataclass(frozen=True, slots=True)
class OfStep:
    """A feature of an on-demand view: `step` is an index into `Program.steps`."""

    step: int
    feature: str


Source = OfView | OfRequest | OfStep


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One on-demand view to compute: those of its features that someone needs, and where what they
    read comes from, by the arguments' names."""

    view: TypedOnDemandView
    features: tuple[TypedFeature, ...]
    arguments: tuple[Argument, ...]
    sources: Mapping[str, Source]

    @property
    def asks_time(self) -> bool:
        """Whether an expression asks for the time of the request."""
        return any(uses_request_time(feature.expression) for feature in self.features)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestInput:
    """A value that every request brings; `needed_by` names the on-demand views that read it."""

    name: str
    dtype: DType
    needed_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """`outputs` are what was asked for, in order: for each the index of its view in `joined` or of
    its step in `steps`. `joined` have all features that are read, under names of their own."""

    outputs: tuple[tuple[Use, int], ...]
    joined: tuple[ViewUse, ...]
    steps: tuple[Step, ...]
    requests: tuple[RequestInput, ...]

    @property
    def views(self) -> tuple[ViewUse, ...]:
        """The stored views among the outputs."""
        return tuple(use for use, _ in self.outputs if isinstance(use, ViewUse))


def program_of(uses: Sequence[Use]) -> Program:
    """How to answer for `uses`."""
    stored = [use for use in uses if isinstance(use, ViewUse)]
    needed: dict[str, set[str]] = {}
    for use in uses:
        if isinstance(use, OnDemandUse):
            _need(needed, use.view, [feature.name for feature in use.features])
    making = _Making(stored, needed)
    outputs: list[tuple[Use, int]] = []
    for use in uses:
        if isinstance(use, ViewUse):
            outputs.append((use, stored.index(use)))
        else:
            outputs.append((use, making.step(use.view)))
    return Program(
        outputs=tuple(outputs),
        joined=tuple(making.joined),
        steps=tuple(making.steps),
        requests=tuple(_requests(making.steps)),
    )


def _need(needed: dict[str, set[str]], view: TypedOnDemandView, features: Iterable[str]) -> None:
    """Note that `features` are needed, and what they need."""
    known = needed.setdefault(view.name, set())
    new = set(features) - known
    known |= new
    for argument in _read_by(view, new) if new else ():
        if isinstance(argument.origin, OnDemandUse):
            _need(needed, argument.origin.view, [argument.feature])


def over_views(view: TypedOnDemandView, views: Mapping[str, TypedView]) -> TypedOnDemandView:
    """The same on-demand view over other stored views of the same names, down all its inputs."""

    def moved(argument: Argument) -> Argument:
        origin = argument.origin
        if isinstance(origin, ViewUse):
            return replace(argument, origin=replace(origin, view=views[origin.view.name]))
        if isinstance(origin, OnDemandUse):
            return replace(argument, origin=replace(origin, view=over_views(origin.view, views)))
        return argument

    return replace(view, arguments=tuple(map(moved, view.arguments)))


def input_problems(program: Program) -> Iterator[RequestError]:
    """The columns of the caller that are read as different types: as keys of two views, as request
    inputs of two, or as both."""
    seen: dict[str, tuple[str, DType]] = {}
    for use in program.joined:
        for column, key in zip(use.key_columns, use.view.keys, strict=True):
            other, dtype = seen.setdefault(column, (use.name, key.dtype))
            if dtype != key.dtype:
                yield InvalidJoinKey(
                    column, f"{other} reads it as {dtype} and {use.name} as {key.dtype}"
                )
    for step in program.steps:
        for name, dtype in _request_columns(step):
            other, first = seen.setdefault(name, (step.view.name, dtype))
            if first != dtype:
                message = f"{other} reads it as {first} and {step.view.name} as {dtype}"
                yield InvalidRequestInput(name, message)


def _request_columns(step: Step) -> Iterator[tuple[str, DType]]:
    for argument in step.arguments:
        if isinstance(argument.origin, TypedRequestSource):
            yield argument.feature, argument.dtype


class _Making:
    """A program while it is being made. Steps stand behind those that they read."""

    def __init__(self, stored: Sequence[ViewUse], needed: Mapping[str, set[str]]) -> None:
        self.joined = list(stored)
        self.steps: list[Step] = []
        self._needed = needed
        self._index: dict[str, int] = {}

    def step(self, view: TypedOnDemandView) -> int:
        """The index of the step that computes the view."""
        if view.name not in self._index:
            names = self._needed[view.name]
            arguments = _read_by(view, names)
            # A function computes all that it computes.
            whole = view.function is not None
            step = Step(
                view=view,
                features=tuple(f for f in view.features if whole or f.name in names),
                arguments=tuple(arguments),
                sources={a.name: self._source(view, a) for a in arguments},
            )
            self._index[view.name] = len(self.steps)
            self.steps.append(step)
        return self._index[view.name]

    def _source(self, view: TypedOnDemandView, argument: Argument) -> Source:
        origin = argument.origin
        if isinstance(origin, TypedRequestSource):
            return OfRequest(argument.feature, argument.dtype)
        if isinstance(origin, OnDemandUse):
            return OfStep(self.step(origin.view), argument.feature)
        feature = origin.view.feature(argument.feature)
        return OfView(self._join(view, origin, feature), argument.feature)

    def _join(self, view: TypedOnDemandView, use: ViewUse, feature: TypedFeature) -> int:
        """The view that is joined already with the same keys, or one more."""
        for index, one in enumerate(self.joined):
            if (one.view.name, one.key_columns) == (use.view.name, use.key_columns):
                features = tuple(dict.fromkeys((*one.features, feature)))
                self.joined[index] = replace(one, features=features)
                return index
        # No name that a user gives contains "__".
        self.joined.append(replace(use, name=f"{view.name}__{use.name}", features=(feature,)))
        return len(self.joined) - 1


def _requests(steps: Sequence[Step]) -> Iterator[RequestInput]:
    """The request inputs, in the order of first use."""
    found: dict[tuple[str, DType], dict[str, None]] = {}
    for step in steps:
        for column in _request_columns(step):
            found.setdefault(column, {})[step.view.name] = None
    for (name, dtype), users in found.items():
        yield RequestInput(name=name, dtype=dtype, needed_by=", ".join(users))


def _read_by(view: TypedOnDemandView, features: set[str]) -> list[Argument]:
    """What computing these features reads: all that a function is given, or all columns of the
    expressions."""
    if view.function is not None:
        return list(view.arguments)
    used = {
        column
        for feature in view.features
        if feature.name in features
        for column in columns_of(feature.expression)
    }
    return [argument for argument in view.arguments if argument.name in used]
