"""On-demand feature views: features that are computed when they are asked for, from other features
and from what the request itself brings (`RequestSource`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar

from featurestore import dtypes
from featurestore.definitions.names import (
    Definition,
    check_mapping,
    check_name,
    check_texts,
    locate,
    name_problem,
    read_dtype,
    report,
    set_field,
    shown_path,
)
from featurestore.definitions.python_function import PythonFunction, Refused, read_function
from featurestore.definitions.view import (
    Feature,
    FeatureNames,
    FeatureSelection,
    FeatureView,
    check_feature_names,
)
from featurestore.dtypes import DType
from featurestore.errors import DuplicateName, InvalidFunction, InvalidName, TypeMismatch
from featurestore.user_functions import REQUEST_TIME, load


@dataclass(frozen=True, slots=True)
class RequestSource(Definition):
    """Values that come with each request, and in training from the columns of the entity frame.

    `schema` maps names to types (`float64`, `string`, `timestamp`, …).

    Raises `InvalidName`, `TypeMismatch` and plain `DefinitionError`; while a repository is loaded
    these are gathered.
    """

    kind: ClassVar[str] = "request source"

    name: str
    schema: Mapping[str, str | DType] = field(default_factory=dict, hash=False)
    _: KW_ONLY
    description: str = ""
    owner: str = ""
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        locate(self)
        check_name(self, self.name)
        check_texts(self, "description", "owner")
        check_mapping(self, "tags")
        set_field(self, "schema", _read_schema(self))
        if not self.schema and self.valid:
            report(self, "schema is empty; name the values that a request brings, with their types")

    @property
    def columns(self) -> dict[str, DType]:
        """Name → type, in the order declared."""
        return {name: dtypes.parse(str(text)) for name, text in self.schema.items()}


@dataclass(frozen=True, slots=True)
class OnDemandFeatureView(Definition):
    """Features computed from other features and request inputs, when they are asked for.

    `inputs` are feature views, selections of them (`view[["a"]]`, under other names and with other
    join keys), request sources and other on-demand views, or the name of one of these. A feature is
    an SQL expression over the inputs' features, which it calls by their names, or `view__feature`
    where two inputs have one of that name.
    With a `function` (see `on_demand_feature_view`) the features are what it returns.

    Raises `InvalidName`, `DuplicateName`, `TypeMismatch` and plain `DefinitionError`; while a
    repository is loaded these are gathered.
    """

    kind: ClassVar[str] = "on-demand feature view"

    name: str
    inputs: Input | Sequence[Input] = ()
    features: Sequence[Feature] = ()
    _: KW_ONLY
    function: PythonFunction | None = None
    description: str = ""
    owner: str = ""
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        locate(self)
        check_name(self, self.name)
        check_texts(self, "description", "owner")
        check_mapping(self, "tags")
        _check_inputs(self)
        _check_features(self)
        if not self.features and self.valid:
            report(self, "features is empty; say what it computes")
        for feature in self.features if self.function is None else ():
            if feature.expression is None and feature.valid:
                hint = f'write Feature({feature.name!r}, "an expression over its inputs")'
                report(self, f"feature {feature.name!r} has no expression; {hint}")

    @property
    def uses(self) -> tuple[InputUse, ...]:
        """The inputs in the order declared, views as selections."""
        inputs: Any = self.inputs
        return tuple(inputs)

    def __getitem__(self, features: FeatureNames) -> FeatureSelection:
        """The named feature or features of this view."""
        return FeatureSelection(self)[features]

    def with_name(self, name: str) -> FeatureSelection:
        """This view under another name."""
        return FeatureSelection(self).with_name(name)


Input = FeatureView | FeatureSelection | RequestSource | OnDemandFeatureView | str
InputUse = FeatureSelection | RequestSource | str


def on_demand_feature_view(
    *,
    inputs: Input | Sequence[Input],
    schema: Mapping[str, str | DType],
    imports: Sequence[str] = (),
    name: str | None = None,
    description: str | None = None,
    owner: str = "",
    tags: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., Any]], OnDemandFeatureView]:
    """Make an on-demand feature view of a Python function, for what SQL cannot say.

        @on_demand_feature_view(inputs=[plane_history, booking], schema={"risk": "float64"},
                                imports=["math"])
        def risk(arr_delay, distance):
            return {"risk": math.log1p(distance) * arr_delay}

    The parameters name the inputs that it reads: `feature`, or `view__feature`; a parameter
    `request_time` is the time of the request (in training: of the row). The function takes the
    plain values of one row (None for NULL) and returns a dict, or a tuple in the order of `schema`.
    Where it raises, or returns what `schema` does not say, the values are NULL and counted.

    Its text is kept and runs by itself, with the builtins and the `imports` (`"math"`,
    `"numpy as np"`, `"from decimal import Decimal"`).

    Args:
        inputs: as of `OnDemandFeatureView`.
        schema: what it returns: feature → type.
        imports: what it needs beside the builtins.
        name: of the view; by default the function's.
        description: by default the first paragraph of the function's docstring.

    Raises `InvalidFunction` with file and line for a function that reads something of its own file,
    closes over a variable, or is none; and what `OnDemandFeatureView` does. While a repository is
    loaded these are gathered.
    """

    def decorate(function: Callable[..., Any]) -> OnDemandFeatureView:
        about = (function.__doc__ or "").strip().partition("\n\n")[0]
        view_name = function.__name__ if name is None else name
        kept, problem = _kept(function, imports)
        made = OnDemandFeatureView(
            name=view_name,
            inputs=inputs,
            features=_returned(schema),
            function=kept or PythonFunction(name=view_name, source="", parameters=()),
            description=" ".join(about.split()) if description is None else description,
            owner=owner,
            tags=tags or {},
        )
        if problem is not None:
            _refuse(made, function, problem)
        return made

    return decorate


def _returned(schema: Any) -> Any:
    """The features that a schema declares; what is no schema goes on, to be reported."""
    if not isinstance(schema, Mapping):
        return schema
    return [Feature(name, dtype=dtype) for name, dtype in schema.items()]


def _kept(
    function: Callable[..., Any], imports: Sequence[str]
) -> tuple[PythonFunction | None, Refused | None]:
    try:
        kept = read_function(function, imports)
        load(kept.source, kept.name)
    except Refused as problem:
        return None, problem
    except InvalidFunction as error:
        return None, Refused(error.message)
    return kept, None


def _refuse(view: OnDemandFeatureView, function: Callable[..., Any], problem: Refused) -> None:
    code = getattr(function, "__code__", None)
    if code is not None:
        set_field(view, "file", shown_path(code.co_filename))
        set_field(view, "line", problem.line or code.co_firstlineno)
    report(view, f"function {function.__name__!r}: {problem}", InvalidFunction)


def _read_schema(source: RequestSource) -> dict[str, str]:
    given: Any = source.schema
    if not isinstance(given, Mapping):
        report(source, f"schema must map names to types, not {given!r}", TypeMismatch)
        return {}
    found: dict[str, str] = {}
    for name, text in given.items():
        if problem := name_problem(name):
            report(source, f"schema: {problem}", InvalidName)
            continue
        if name == REQUEST_TIME:
            what = f"{name!r} is the time of the request, which every function has already"
            report(source, f"schema: {what}; leave it out", DuplicateName)
        dtype = read_dtype(source, text, what=f"schema[{name!r}]")
        if dtype is not None:
            found[name] = str(dtype)
    folded = [name.casefold() for name in found]
    for name in found:
        if folded.count(name.casefold()) > 1:
            report(source, f"schema names {name!r} twice (SQL ignores case)", DuplicateName)
    return found


def _check_features(view: OnDemandFeatureView) -> None:
    given: Any = view.features
    listed = given if isinstance(given, Sequence) and not isinstance(given, str) else (given,)
    for wrong in [f for f in listed if not isinstance(f, Feature)]:
        hint = "; aggregate in a feature view and read that" if hasattr(wrong, "function") else ""
        report(view, f"features must be Feature objects, not {wrong!r}{hint}", TypeMismatch)
    features = tuple(f for f in listed if isinstance(f, Feature))
    set_field(view, "features", features)
    check_feature_names(view, [str(feature.name) for feature in features])


def _check_inputs(view: OnDemandFeatureView) -> None:
    given: Any = view.inputs
    listed = given if isinstance(given, Sequence) and not isinstance(given, str) else (given,)
    uses: list[InputUse] = []
    for use in listed:
        if isinstance(use, FeatureView | OnDemandFeatureView):
            selection = FeatureSelection(use)
            set_field(selection, "file", view.file)
            set_field(selection, "line", view.line)
            uses.append(selection)
        elif isinstance(use, FeatureSelection | RequestSource) or (use and isinstance(use, str)):
            uses.append(use)
        else:
            what = "views, view[[…]], on-demand views, request sources or the name of one"
            report(view, f"inputs must be {what}, not {use!r}", TypeMismatch)
    if not uses and view.valid:
        report(view, "inputs is empty; name the views and request sources that it reads")
    names = [use if isinstance(use, str) else use.name for use in uses]
    for name in sorted({str(n) for n in names if names.count(n) > 1}):
        hint = 'give one another name with view.with_name("…")'
        report(view, f"two inputs are named {name!r}; {hint}", DuplicateName)
    set_field(view, "inputs", tuple(uses))
