"""Definitions from their records: what was applied once, however the folder looks today.

Records hold no Python objects, so definitions are written anew from what they say and checked like
any others. That this gives the same features, and not just similar ones, shows in their versions:
`differences` says which of them came out otherwise.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from featurestore.compiler.problems import Schemas
from featurestore.compiler.resolve import resolve
from featurestore.compiler.typed import OnDemandUse, TypedRepo, Use, ViewUse
from featurestore.definitions.aggregation import ROWS, Aggregation
from featurestore.definitions.entity import Entity
from featurestore.definitions.expression import from_canonical, show
from featurestore.definitions.names import set_field
from featurestore.definitions.on_demand import OnDemandFeatureView, RequestSource
from featurestore.definitions.python_function import PythonFunction
from featurestore.definitions.repo import Definitions, collect
from featurestore.definitions.source import FileSource, SqlSource
from featurestore.definitions.view import Feature, FeatureSelection, FeatureView
from featurestore.dtypes import parse
from featurestore.errors import CyclicReference, InternalError
from featurestore.records import Record
from featurestore.windows import HOP_EXACT, LIFETIME

STREAM = "stream"


def recorded_definitions(records: Iterable[Record], blob: Callable[[str], bytes]) -> Definitions:
    """The definitions that these records are of: entities, sources, request sources, views and
    on-demand views, with all that they name. `blob` gives the texts of functions.

    Raises `InternalError` for records that do not name each other.
    """
    return _Recorded(records, blob).definitions()


def recorded_schemas(records: Iterable[Record]) -> Schemas:
    """The columns of the sources among these records, as far as the records list them."""
    return {
        record.name: {name: parse(text) for name, text in record.body["columns"].items()}
        for record in records
        if record.kind == "source" and "columns" in record.body
    }


def recorded_repo(definitions: Definitions, schemas: Schemas, *, project: str) -> TypedRepo:
    """The typed repository of recorded definitions. Raises `InvalidRepository` where they do not
    pass the checks of today."""
    return resolve(definitions, schemas, project=project)


def uses_of(repo: TypedRepo, uses: Sequence[Mapping[str, Any]]) -> tuple[Use, ...]:
    """Uses of views as a training set's request names them. Raises `KeyError` for a view or a
    feature that `repo` does not have."""
    found: list[Use] = []
    for use in uses:
        if use["kind"] == "view":
            view = repo.views[use["view"]]
            features = tuple(view.feature(name) for name in use["features"])
            keys = dict(use["join_key_map"])
            found.append(ViewUse(name=use["name"], view=view, features=features, join_key_map=keys))
        else:
            computed = repo.on_demand[use["view"]]
            features = tuple(computed.feature(name) for name in use["features"])
            found.append(OnDemandUse(name=use["name"], view=computed, features=features))
    return tuple(found)


def differences(uses: Sequence[Use], versions: Mapping[str, str]) -> tuple[str, ...]:
    """The features whose versions are not those of `versions` (by `view.feature`)."""
    return tuple(
        name
        for use in uses
        for feature in use.features
        if versions.get(name := f"{use.view.name}.{feature.name}") != feature.version
    )


class _Recorded:
    def __init__(self, records: Iterable[Record], blob: Callable[[str], bytes]) -> None:
        self._records = {record.id: record for record in records}
        self._blob = blob
        self._made: dict[str, Any] = {}
        self._making: list[str] = []

    def definitions(self) -> Definitions:
        """All of them."""
        makers = {
            "entity": _entity,
            "source": _source,
            "request_source": _request,
            "view": self._view,
            "on_demand_view": self._on_demand,
        }
        wanted = [record for record in self._records.values() if record.kind in makers]
        for record in sorted(wanted, key=lambda one: list(makers).index(one.kind)):
            if record.kind != "on_demand_view":
                self._made[f"{record.kind}:{record.name}"] = makers[record.kind](record)
        for record in wanted:
            if record.kind == "on_demand_view":
                self._on_demand(record)
        return collect(self._made.values())

    def _get(self, kind: str, name: str) -> Any:
        found = self._made.get(f"{kind}:{name}")
        if found is None:
            raise InternalError(f"the records name {kind} {name!r} and have none of it")
        return found

    def _features(self, record: Record) -> list[Record]:
        ids = [edge.parent for edge in record.parents if edge.role == "feature"]
        missing = [one for one in ids if one not in self._records]
        if missing:
            raise InternalError(f"{record.id} names {missing[0]}, which is not among the records")
        return [self._records[one] for one in ids]

    def _view(self, record: Record) -> FeatureView:
        body = record.body
        windowed = "correction_horizon_us" in body
        make = _aggregation if windowed else _feature
        return FeatureView(
            record.name,
            [self._get("entity", name) for name in body["entities"]],
            self._get("source", body["source"]),
            [make(one) for one in self._features(record)],
            ttl=_span(body["ttl_us"]),
            grace=_span(body["grace_us"]),
            correction_horizon=_span(body["correction_horizon_us"]) if windowed else None,
        )

    def _on_demand(self, record: Record) -> OnDemandFeatureView:
        """Views that read others are made after them."""
        key = f"on_demand_view:{record.name}"
        if key in self._made:
            return self._made[key]  # type: ignore[no-any-return]
        if key in self._making:
            raise CyclicReference(f"on-demand feature view {record.name!r} reads itself")
        self._making.append(key)
        body = record.body
        function = None
        if body.get("blob") is not None:
            function = _function(body["function"], self._blob(body["blob"]).decode())
        made = OnDemandFeatureView(
            record.name,
            self._inputs(body["reads"].values()),
            [_computed(one, function) for one in self._features(record)],
            function=function,
        )
        self._making.remove(key)
        self._made[key] = made
        return made

    def _inputs(self, reads: Iterable[Mapping[str, Any]]) -> list[Any]:
        inputs: dict[str, Any] = {}
        views = {r.name: r for r in self._records.values() if r.kind == "on_demand_view"}
        for read in reads:
            name, view = read["input"], read.get("view")
            if name in inputs:
                continue
            if view is None:
                inputs[name] = self._get("request_source", name)
                continue
            stored = self._made.get(f"view:{view}")
            found = stored or (self._on_demand(views[view]) if view in views else None)
            if found is None:
                raise InternalError(f"the records name view {view!r} and have none of it")
            selection = found.with_name(name) if name != view else FeatureSelection(found)
            keys = dict(read.get("join_key_map") or {})
            inputs[name] = selection.with_join_key_map(keys) if keys else selection
        return list(inputs.values())


def _entity(record: Record) -> Entity:
    keys = {key["name"]: key["dtype"] for key in record.body["join_keys"]}
    return Entity(record.name, keys)


def _request(record: Record) -> RequestSource:
    return RequestSource(record.name, dict(record.body["columns"]))


def _source(record: Record) -> FileSource | SqlSource:
    body = record.body
    shared: dict[str, Any] = {
        "event_time": body["event_time"],
        "created_time": body["created_time"],
        "event_time_is": body["event_time_is"],
        "tiebreak": tuple(body["tiebreak"]),
        "op": body["op"],
        "event_id": body["event_id"],
        "lateness": timedelta(microseconds=body["lateness_us"]),
    }
    if "query" in body:
        return SqlSource(record.name, body["query"], **shared)
    csv = body["csv"]
    source = FileSource(
        record.name,
        body["path"],
        field_mapping=dict(body["field_mapping"]),
        format=None if body["format"] == STREAM else body["format"],
        delimiter=csv["delimiter"],
        header=csv["header"],
        null_text=csv["null_text"],
        column_types=dict(csv["column_types"]),
        **shared,
    )
    if body["format"] == STREAM:  # only a stream's own source says so
        set_field(source, "format", STREAM)
    return source


def _feature(record: Record) -> Feature:
    name = record.name.rpartition(".")[2]
    return Feature(name, show(from_canonical(record.body["tree"])), dtype=record.body["dtype"])


def _computed(record: Record, function: PythonFunction | None) -> Feature:
    if function is None:
        return _feature(record)
    return Feature(record.name.rpartition(".")[2], dtype=record.body["dtype"])


def _aggregation(record: Record) -> Aggregation:
    body = record.body
    tree = body["tree"]
    parameters = body["parameters"]
    return Aggregation(
        ROWS if tree is None else _argument(from_canonical(tree)),
        body["function"],
        LIFETIME if body["window_us"] is None else _whole(body["window_us"]),
        delay=_whole(body["delay_us"]) if body["delay_us"] else 0,
        hop=_whole(body["hop_us"]) if body["hop_us"] else HOP_EXACT,
        where=body["where"],
        by=body.get("by"),
        name=record.name.rpartition(".")[2],
        n=parameters.get("n"),
        q=parameters.get("q"),
        error=parameters.get("error"),
    )


def _argument(tree: Any) -> str:
    """A column by its bare name, anything else as an expression."""
    return str(getattr(tree, "name", "")) or show(tree)


def _function(name: str, source: str) -> PythonFunction:
    tree = ast.parse(source)
    (definition,) = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name]
    parameters = tuple(argument.arg for argument in definition.args.args)
    return PythonFunction(name=name, source=source, parameters=parameters)


def _span(us: int | None) -> timedelta | None:
    return None if us is None else _whole(us)


def _whole(us: int) -> timedelta:
    return timedelta(microseconds=us)
