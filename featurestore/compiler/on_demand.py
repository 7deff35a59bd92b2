"""Typing on-demand views: what they read, in which types, and in which order they are computed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, assert_never

from featurestore.compiler import hashing
from featurestore.compiler.problems import Work, placed, reads_as, sound
from featurestore.compiler.selection import named, selection_problems, use_of
from featurestore.compiler.typed import (
    Argument,
    Column,
    Metadata,
    OnDemandUse,
    TypedFeature,
    TypedOnDemandView,
    TypedRequestSource,
    TypedView,
    ViewUse,
)
from featurestore.definitions import expression as expressions
from featurestore.definitions.expression import Call, Case, Cast, Expression, Literal, columns_of
from featurestore.definitions.on_demand import InputUse, OnDemandFeatureView, RequestSource
from featurestore.definitions.view import Feature, FeatureSelection, FeatureView
from featurestore.dtypes import DType, holds_map
from featurestore.errors import (
    CyclicReference,
    DefinitionError,
    DuplicateName,
    InvalidExpression,
    TypeMismatch,
    UnknownReference,
    suggest,
)
from featurestore.user_functions import REQUEST_TIME

Origin = ViewUse | OnDemandUse | TypedRequestSource


def typed_requests(work: Work) -> dict[str, TypedRequestSource]:
    """The request sources that are sound, by name."""
    return {source.name: _request(source) for source in sound(work.definitions.requests)}


def _request(source: RequestSource) -> TypedRequestSource:
    columns = tuple(Column(name, dtype) for name, dtype in source.columns.items())
    return TypedRequestSource(
        name=source.name,
        columns=columns,
        version=hashing.request_version(source.name, columns),
        metadata=_metadata(source),
    )


def typed_on_demand(
    work: Work, views: Mapping[str, TypedView], requests: Mapping[str, TypedRequestSource]
) -> dict[str, TypedOnDemandView]:
    """The on-demand views that are sound, each after those that it reads; errors go into `work`."""
    found: dict[str, TypedOnDemandView] = {}
    resolving = _Resolving(work, views, requests, found)
    for view in _in_order(work):
        if typed := resolving.view(view):
            found[view.name] = typed
    return dict(sorted(found.items()))


def _metadata(definition: Any) -> Metadata:
    return Metadata(
        description=definition.description,
        owner=definition.owner,
        tags=definition.tags,
        file=definition.file,
        line=definition.line,
    )


# --- order ----------------------------------------------------------------------------------------


def _in_order(work: Work) -> list[OnDemandFeatureView]:
    """The sound views, inputs first; those in a circle are reported and left out."""
    by_name = {view.name: view for view in sound(work.definitions.on_demand)}
    ordered: list[OnDemandFeatureView] = []
    state: dict[str, str] = {}

    def visit(view: OnDemandFeatureView, path: tuple[str, ...]) -> None:
        if state.get(view.name) == "done":
            return
        if view.name in path:
            circle = " → ".join([*path[path.index(view.name) :], view.name])
            work.add(view, f"{view.kind} {view.name!r} reads itself: {circle}", CyclicReference)
            return
        for use in view.uses:
            name = _view_name(use)
            if name in by_name:
                visit(by_name[name], (*path, view.name))
        state[view.name] = "done"
        ordered.append(view)

    for view in by_name.values():
        visit(view, ())
    circles = {(e.file, e.line) for e in work.errors if isinstance(e, CyclicReference) and e.line}
    return [view for view in ordered if (view.file or None, view.line or None) not in circles]


def _view_name(use: InputUse) -> str:
    if isinstance(use, str):
        return use
    return use.view.name if isinstance(use, FeatureSelection) else ""


# --- one view -------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Names:
    """How the expressions of one view may call what it can read."""

    full: dict[str, Argument] = field(default_factory=dict)
    short: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, origin: Origin, columns: Iterable[tuple[str, DType]]) -> None:
        for feature, dtype in columns:
            name = f"{origin.name}__{feature}"
            self.full[name] = Argument(name=name, dtype=dtype, origin=origin, feature=feature)
            self.short[feature].append(name)

    def find(self, name: str) -> Argument:
        """Raises `InvalidExpression` for a name that means nothing, or two things."""
        if name in self.full:
            return self.full[name]
        candidates = self.short.get(name, [])
        if len(candidates) == 1:
            return self.full[candidates[0]]
        if candidates:
            hint = f"write {' or '.join(candidates)}"
            raise InvalidExpression(f"More than one input has {name!r}; {hint}.")
        raise InvalidExpression(f"No input has {name!r}.{suggest(name, [*self.short, *self.full])}")


@dataclass(frozen=True, slots=True)
class _Resolving:
    work: Work
    views: Mapping[str, TypedView]
    requests: Mapping[str, TypedRequestSource]
    on_demand: Mapping[str, TypedOnDemandView]

    def view(self, view: OnDemandFeatureView) -> TypedOnDemandView | None:
        before = len(self.work.errors)
        origins = [self._origin(view, use) for use in view.uses]
        if any(origin is None for origin in origins):
            return None
        there = [origin for origin in origins if origin is not None]
        names = _Names()
        for origin in there:
            names.add(origin, _columns(origin))
        self._check_outputs(view, there)
        if view.function is None:
            made = self._expressions(view, names)
        else:
            made = self._function(view, names)
        if made is None or len(self.work.errors) > before:
            return None
        features, arguments, parameters = made
        return TypedOnDemandView(
            name=view.name,
            inputs=tuple(origin.name for origin in there),
            arguments=arguments,
            features=features,
            function=view.function,
            parameters=parameters,
            version=hashing.view_version(view.name, features),
            metadata=_metadata(view),
        )

    def _origin(self, view: OnDemandFeatureView, use: InputUse) -> Origin | None:
        """What an input means; None after an error, or where it has errors of its own."""
        definitions = self.work.definitions
        if isinstance(use, str):
            return self._named(view, use)
        if isinstance(use, RequestSource):
            fine = self.work.in_repo(view, use, definitions.requests)
            return self.requests.get(use.name) if fine else None
        known = definitions.views if isinstance(use.view, FeatureView) else definitions.on_demand
        if not self.work.in_repo(view, use.view, known) or not use.valid:
            return None
        typed = self._typed_view(use.view.name)
        if typed is None:
            return None
        problems = list(selection_problems(typed, use))
        for problem in problems:
            self.work.add(use, f"{view.kind} {view.name!r}: {problem.message}", UnknownReference)
        return None if problems else use_of(typed, use)

    def _named(self, view: OnDemandFeatureView, name: str) -> Origin | None:
        definitions = self.work.definitions
        known = [view.name for view in definitions.views]
        known += [view.name for view in definitions.on_demand]
        known += [source.name for source in definitions.requests]
        if name not in known:
            close = suggest(name, known)
            message = f"{view.kind} {view.name!r}: there is no view or request source {name!r}"
            self.work.add(view, f"{message}.{close}", UnknownReference)
            return None
        typed = self._typed_view(name)
        return self.requests.get(name) if typed is None else named(typed, typed.features)

    def _typed_view(self, name: str) -> TypedView | TypedOnDemandView | None:
        return self.views.get(name) or self.on_demand.get(name)

    def _check_outputs(self, view: OnDemandFeatureView, origins: Sequence[Origin]) -> None:
        """Callers have keys and request inputs already, under their names."""
        taken: dict[str, str] = {}
        for origin in origins:
            if isinstance(origin, TypedRequestSource):
                taken |= {c.name.casefold(): "a request input" for c in origin.columns}
            elif isinstance(origin, ViewUse):
                taken |= {name.casefold(): "a join key" for name in origin.key_columns}
        for feature in view.features:
            if what := taken.get(feature.name.casefold()):
                message = f"feature {feature.name!r} of {view.name!r} has the name of {what}"
                self.work.add(feature, f"{message}; callers have that already", DuplicateName)

    def _expressions(
        self, view: OnDemandFeatureView, names: _Names
    ) -> tuple[tuple[TypedFeature, ...], tuple[Argument, ...], tuple[str | None, ...]] | None:
        features, used = [], dict[str, Argument]()
        for feature in view.features:
            if not feature.valid:
                return None
            about = f"feature {feature.name!r} of {view.name!r}"
            try:
                parsed = expressions.parse_expression(feature.expression or "")
                mine = {name: names.find(name) for name in columns_of(parsed)}
                schema = {name: argument.dtype for name, argument in mine.items()}
                parsed, found = expressions.read_expression(feature.expression or "", schema)
                wanted = feature.declared_dtype or found or expressions.infer(parsed, schema)
                tree = renamed(parsed, {name: argument.name for name, argument in mine.items()})
            except DefinitionError as error:
                self.work.errors.append(placed(error, feature, f"{about}: "))
                continue
            if holds_map(wanted):
                message = f"{about} is {wanted}; only an aggregation with by yields a map"
                hint = "a Python function reads one as a dict"
                self.work.add(feature, f"{message}, and {hint}", TypeMismatch)
                continue
            if found is not None and found != wanted and not reads_as(found, wanted):
                message = f"{about} is {found}, which does not fit {wanted} without loss"
                hint = f"if that is meant, write CAST({feature.expression} AS {wanted.duckdb})"
                self.work.add(feature, f"{message}; {hint}", TypeMismatch)
                continue
            used |= {argument.name: argument for argument in mine.values()}
            tree = tree if found == wanted else Cast(tree, wanted)
            features.append(_feature(feature, tree, wanted, list(mine.values()), ""))
        ordered = tuple(argument for name, argument in names.full.items() if name in used)
        return tuple(features), ordered, ()

    def _function(
        self, view: OnDemandFeatureView, names: _Names
    ) -> tuple[tuple[TypedFeature, ...], tuple[Argument, ...], tuple[str | None, ...]] | None:
        function = view.function
        assert function is not None  # noqa: S101 - the caller has seen it
        arguments: dict[str, Argument] = {}
        parameters: list[str | None] = []
        for parameter in function.parameters:
            if parameter == REQUEST_TIME and parameter not in names.short:
                parameters.append(None)
                continue
            try:
                argument = names.find(parameter)
            except InvalidExpression as error:
                about = f"{view.kind} {view.name!r}: parameter {parameter!r}: "
                self.work.errors.append(placed(UnknownReference(error.message), view, about))
                continue
            arguments[argument.name] = argument
            parameters.append(argument.name)
        features = []
        for feature in view.features:
            dtype = feature.declared_dtype
            if not feature.valid:
                return None
            if dtype is None:
                message = f"feature {feature.name!r} of {view.name!r} has no dtype"
                self.work.add(feature, f"{message}; a function must say what it returns")
                continue
            tree = expressions.Column(feature.name)
            used = list(arguments.values())
            features.append(_feature(feature, tree, dtype, used, function.source))
        return tuple(features), tuple(arguments.values()), tuple(parameters)


def _columns(origin: Origin) -> Iterator[tuple[str, DType]]:
    if isinstance(origin, TypedRequestSource):
        return ((column.name, column.dtype) for column in origin.columns)
    return ((feature.name, feature.dtype) for feature in origin.features)


def _feature(
    feature: Feature, tree: Expression, dtype: DType, arguments: Sequence[Argument], code: str
) -> TypedFeature:
    return TypedFeature(
        name=feature.name,
        dtype=dtype,
        expression=tree,
        version=hashing.on_demand_version(tree, dtype, arguments, code),
        description=feature.description,
    )


def renamed(expression: Expression, names: Mapping[str, str]) -> Expression:
    """`expression` with its columns under other names; those that `names` does not have stay."""
    match expression:
        case expressions.Column(name):
            return expressions.Column(names.get(name, name))
        case Literal():
            return expression
        case Call(function, arguments):
            return Call(function, tuple(renamed(a, names) for a in arguments))
        case Cast(argument, dtype):
            return Cast(renamed(argument, names), dtype)
        case Case(branches, default):
            pairs = tuple((renamed(when, names), renamed(then, names)) for when, then in branches)
            return Case(pairs, renamed(default, names))
        case _:
            assert_never(expression)
