"""Sources and views as relations: what training and materialization both begin with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from featurestore.compiler.deletions import erased
from featurestore.compiler.rel import ARRIVED, DataFiles, Derive, Input, Rel, Scan, Sql, Stamped
from featurestore.compiler.typed import TypedFeature, TypedRepo, TypedSource, TypedView
from featurestore.compiler.window_inputs import version_order, window_inputs
from featurestore.definitions.expression import Column, Expression
from featurestore.definitions.source import FileSource
from featurestore.definitions.undefined import undefined
from featurestore.dtypes import BOOL, TIMESTAMP, DType
from featurestore.errors import InternalError

Files = Mapping[str, DataFiles]
"""The files of each file source, by the source's name."""


def source_rel(
    source: TypedSource, repo: TypedRepo, files: Files, *, with_arrival: bool = False
) -> Rel:
    """All rows of `source`, pushed ones included, its columns under our names; `with_arrival` adds
    the column `ARRIVED` (only where there is a push log)."""
    dtypes = {column.name: column.dtype for column in source.columns}
    if with_arrival:
        dtypes[ARRIVED] = TIMESTAMP
    definition = source.definition
    if isinstance(definition, FileSource):
        if source.name not in files:
            raise InternalError(f"the files of source {source.name!r} were not resolved")
        in_files = {ours: theirs for theirs, ours in definition.field_mapping.items()}
        return Scan(
            source=source.name,
            files=files[source.name],
            columns={name: in_files.get(name, name) for name in dtypes},
            dtypes=dtypes,
        )
    inputs = {name: source_rel(repo.sources[name], repo, files) for name in source.inputs}
    return Sql(query=definition.query, inputs=inputs, dtypes=dtypes)


def feature_column(feature: str) -> str:
    """The column of `view_rel` that holds a feature. Features may be named like a column of the
    source that they are not, which keys, times and tiebreak still read."""
    return f"feature:{feature}"


def undefined_column(feature: str) -> str:
    """The column of `view_rel` that says whether a feature is NULL for want of a result."""
    return f"undefined:{feature}"


def undefined_conditions(view: TypedView) -> dict[str, Expression]:
    """For the features that can be NULL for want of a result: the condition under which they are,
    over columns of the source."""
    found = {feature.name: undefined(feature.expression) for feature in view.features}
    return {name: condition for name, condition in found.items() if condition is not None}


def derived_columns(
    view: TypedView, features: Sequence[TypedFeature] | None = None
) -> dict[str, tuple[Expression, DType]]:
    """What `view` computes of a row of its source: keys of another type there, and the features
    (all by default) as `feature_column`s, or what its windows read."""
    derived: dict[str, tuple[Expression, DType]] = {
        key.name: (Column(key.name), key.dtype)
        for key in view.keys
        if view.source.dtype(key.name) != key.dtype
    }
    if view.is_windowed:
        return {**derived, **window_inputs(view).columns}
    wanted = view.features if features is None else features
    return derived | {feature_column(f.name): (f.expression, f.dtype) for f in wanted}


def view_rel(
    view: TypedView,
    repo: TypedRepo,
    files: Files,
    *,
    features: Sequence[TypedFeature] | None = None,
    with_deleted: bool = False,
    with_undefined: bool = False,
    with_arrival: bool = False,
    pushed: str | None = None,
) -> Stamped:
    """The rows of `view`, their times settled: keys under their names and in the view's types,
    features (all by default) as `feature_column`s, and the source's columns. What was deleted is
    left out, or not (`with_deleted`). `with_undefined` adds an `undefined_column` for each feature
    of `undefined_conditions`, `with_arrival` the column `ARRIVED` where there is a push log.
    Instead of the source's own rows, those of the `Input` that `pushed` names: the source's columns
    and `ARRIVED`."""
    source = view.source
    derived = derived_columns(view, features)
    if with_undefined:
        for name, condition in undefined_conditions(view).items():
            derived[undefined_column(name)] = (condition, BOOL)
    # What `tiebreak` leaves open is settled by the other columns, so that no tie is settled by
    # chance.
    rest = [column.name for column in source.columns if column.name not in source.tiebreak]
    # A pushed row is known from when it arrived; where the source says no created time itself, its
    # files' rows are known when they happened.
    has_pushed = pushed is not None or _has_pushed(source, files)
    arrival = source.created_time is None and has_pushed
    rows: Rel
    if pushed is None:
        wanted = arrival or (with_arrival and has_pushed)
        rows = source_rel(source, repo, files, with_arrival=wanted)
    else:
        dtypes = {column.name: column.dtype for column in source.columns}
        rows = Input(name=pushed, dtypes={**dtypes, ARRIVED: TIMESTAMP})
    tiebreak = version_order(view) if view.is_windowed else (*source.tiebreak, *rest)
    return Stamped(
        input=Derive(input=rows, columns=derived),
        keys=tuple(key.name for key in view.keys),
        event_time=source.event_time,
        created_time=ARRIVED if arrival else source.created_time,
        event_time_is=source.event_time_is,
        op=source.op,
        tiebreak=tiebreak,
        erased=() if with_deleted else erased(view, repo, files),
    )


def _has_pushed(source: TypedSource, files: Files) -> bool:
    return source.name in files and bool(files[source.name].pushed)
