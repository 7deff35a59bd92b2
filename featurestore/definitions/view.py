"""Feature views, their features, and the selections of them that services use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from featurestore import dtypes
from featurestore.definitions.aggregation import Aggregation
from featurestore.definitions.entity import Entity
from featurestore.definitions.names import (
    Definition,
    check_duration,
    check_mapping,
    check_name,
    check_texts,
    locate,
    name_problem,
    read_dtype,
    report,
    set_field,
)
from featurestore.definitions.source import FileSource, Source, SqlSource
from featurestore.definitions.stream import StreamSource
from featurestore.dtypes import DType
from featurestore.errors import DuplicateName, InvalidName, TypeMismatch, UnknownReference, suggest
from featurestore.timeline import parse_duration

if TYPE_CHECKING:
    from featurestore.definitions.on_demand import OnDemandFeatureView

FeatureNames = str | Sequence[str]
CORRECTION_HORIZON_DEFAULT = "1d"


@dataclass(frozen=True, slots=True)
class Feature(Definition):
    """One feature of a view: a column of its source, or an SQL expression over them.

    `expression` left out is the column `name`; `dtype` left out is inferred, given it is checked.

    Raises `InvalidName` and `TypeMismatch`; while a repository is loaded these are gathered.
    """

    kind: ClassVar[str] = "feature"

    name: str
    expression: str | None = None
    _: KW_ONLY
    dtype: str | DType | None = None
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        locate(self)
        check_name(self, self.name)
        check_texts(self, "expression", "description")
        check_mapping(self, "tags")
        if self.dtype is not None:
            found = read_dtype(self, self.dtype, what="dtype")
            set_field(self, "dtype", None if found is None else str(found))

    @property
    def declared_dtype(self) -> DType | None:
        """`dtype`, parsed."""
        return None if self.dtype is None else dtypes.parse(str(self.dtype))


@dataclass(frozen=True, slots=True)
class FeatureView(Definition):
    """Features of the same entities from one source.

    `entities` is one entity, several, or none (one row for all). `features` left out are all
    columns of the source that are not a key, a time, `op` or `event_id`. A row is served while it
    is no older than `ttl` (left out: for ever), and reads as OUTSIDE_MAX_AGE for `grace` more
    (left out: as long as `ttl`).

    A view of `Aggregation`s is windowed: it has no `ttl`, and no `Feature`s among them. Its
    `correction_horizon` (left out: 1 day) is how long after a row another one of the same event id
    still replaces it.

    `view[["a", "b"]]`, `view.with_name("other")` and `view.with_join_key_map({"key": "column"})`
    select from it, in any order.

    Raises `InvalidName`, `DuplicateName`, `TypeMismatch` and plain `DefinitionError`; while a
    repository is loaded these are gathered.
    """

    kind: ClassVar[str] = "feature view"

    name: str
    entities: Entity | Sequence[Entity] = ()
    source: Source | StreamSource | None = None
    features: Sequence[Feature | Aggregation] = ()
    _: KW_ONLY
    ttl: str | timedelta | None = None
    grace: str | timedelta | None = None
    correction_horizon: str | timedelta | None = None
    description: str = ""
    owner: str = ""
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        locate(self)
        check_name(self, self.name)
        check_texts(self, "description", "owner")
        check_mapping(self, "tags")
        _check_entities(self)
        _check_view_source(self)
        _check_features(self)
        check_duration(self, "ttl")
        check_duration(self, "grace", zero=True)
        if self.grace is not None and self.ttl is None and self.valid:
            report(self, "grace needs a ttl; without one a row never gets too old")
        _check_windowed(self)

    @property
    def aggregations(self) -> tuple[Aggregation, ...]:
        """The features of a windowed view; empty for any other."""
        return tuple(f for f in self.features if isinstance(f, Aggregation))

    @property
    def columns(self) -> tuple[Feature, ...]:
        """The features of a view that is not windowed."""
        return tuple(f for f in self.features if isinstance(f, Feature))

    @property
    def correction_horizon_us(self) -> int:
        """`correction_horizon` in µs."""
        given = self.correction_horizon
        return parse_duration(CORRECTION_HORIZON_DEFAULT if given is None else given, zero=True)

    @property
    def keyed_by(self) -> tuple[Entity, ...]:
        """The entities in the order declared."""
        return (self.entities,) if isinstance(self.entities, Entity) else tuple(self.entities)

    @property
    def ttl_us(self) -> int | None:
        """`ttl` in µs; None is unbounded."""
        return None if self.ttl is None else parse_duration(self.ttl)

    @property
    def grace_us(self) -> int | None:
        """`grace` in µs, by default the ttl; None where there is no ttl."""
        return self.ttl_us if self.grace is None else parse_duration(self.grace, zero=True)

    def __getitem__(self, features: FeatureNames) -> FeatureSelection:
        """The named feature or features of this view. Names are checked against the source when
        the repository is resolved."""
        return FeatureSelection(self)[features]

    def with_name(self, name: str) -> FeatureSelection:
        """This view under another name, so that it can be used twice."""
        return FeatureSelection(self).with_name(name)

    def with_join_key_map(self, join_key_map: Mapping[str, str]) -> FeatureSelection:
        """This view with its join keys read from other columns: join key → column."""
        return FeatureSelection(self).with_join_key_map(join_key_map)


@dataclass(frozen=True, slots=True)
class FeatureSelection(Definition):
    """A view as it is used: `features` of it (None: all), under `name`, with `join_key_map`.

    An on-demand view has no join keys of its own: those of its inputs are mapped where they are
    named as inputs."""

    kind: ClassVar[str] = "selection of feature view"

    view: FeatureView | OnDemandFeatureView
    features: tuple[str, ...] | None = None
    alias: str | None = None
    join_key_map: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        locate(self)
        if self.alias is not None and (problem := name_problem(self.alias)):
            report(self, problem, InvalidName)
        check_mapping(self, "join_key_map")
        if self.join_key_map and not isinstance(self.view, FeatureView):
            hint = "map the keys of its inputs, where it names them"
            report(self, f"{self.view.kind} {self.view.name!r} has no join keys; {hint}")
        targets = list(self.join_key_map.values())
        for column in sorted({c for c in targets if targets.count(c) > 1}):
            report(self, f"join_key_map reads two keys from column {column!r}", DuplicateName)

    @property
    def name(self) -> str:
        """The name in use: the alias, or else the view's."""
        return self.view.name if self.alias is None else self.alias

    def __getitem__(self, features: FeatureNames) -> FeatureSelection:
        """The named feature or features of this selection."""
        names = (features,) if isinstance(features, str) else tuple(features)
        chosen = replace(self, features=names)
        if not names or not all(isinstance(name, str) for name in names):
            report(chosen, f"select features by name, not by {features!r}", TypeMismatch)
        for name in sorted({name for name in names if names.count(name) > 1}):
            report(chosen, f"feature {name!r} is selected twice", DuplicateName)
        for name in names if self.features is not None else ():
            if name not in (self.features or ()):
                close = suggest(name, self.features or ())
                report(chosen, f"feature {name!r} is not selected.{close}", UnknownReference)
        return chosen

    def with_name(self, name: str) -> FeatureSelection:
        """This selection under another name."""
        return replace(self, alias=name)

    def with_join_key_map(self, join_key_map: Mapping[str, str]) -> FeatureSelection:
        """This selection with its join keys read from other columns: join key → column."""
        return replace(self, join_key_map=join_key_map)


def _check_view_source(view: FeatureView) -> None:
    given: Any = view.source
    if isinstance(given, StreamSource):
        given = given.source
        set_field(view, "source", given)
    if not isinstance(given, FileSource | SqlSource):
        what = "is missing" if given is None else f"cannot be {given!r}"
        report(view, f"source {what}; pass a FileSource, SqlSource or StreamSource", TypeMismatch)
        set_field(view, "source", None)


def _check_entities(view: FeatureView) -> None:
    given: Any = view.entities
    listed = (given,) if isinstance(given, Entity) else given
    if isinstance(listed, str) or not isinstance(listed, Sequence):
        report(view, f"entities must be Entity objects, not {given!r}", TypeMismatch)
        listed = ()
    for wrong in [e for e in listed if not isinstance(e, Entity)]:
        report(view, f"entities must be Entity objects, not {wrong!r}", TypeMismatch)
    entities = tuple(e for e in listed if isinstance(e, Entity))
    set_field(view, "entities", entities)
    owners: dict[str, str] = {}
    for entity in entities:
        for key in entity.keys:
            if key in owners:
                message = f"join key {key!r} is of entities {owners[key]!r} and {entity.name!r}"
                report(view, f"{message}; a view needs each key once", DuplicateName)
            owners[key] = entity.name


def _check_features(view: FeatureView) -> None:
    given: Any = view.features
    listed = given if isinstance(given, Sequence) and not isinstance(given, str) else (given,)
    for wrong in [f for f in listed if not isinstance(f, Feature | Aggregation)]:
        hint = f"; write Feature({wrong!r})" if isinstance(wrong, str) else ""
        message = f"features must be Feature or Aggregation objects, not {wrong!r}{hint}"
        report(view, message, TypeMismatch)
    set_field(view, "features", tuple(f for f in listed if isinstance(f, Feature | Aggregation)))
    names = [str(feature.name) for feature in view.columns]
    names += [w.name for a in view.aggregations if a.valid for w in a.features]
    check_feature_names(view, names, hint="; give one a name=…" if view.aggregations else "")


def check_feature_names(view: Definition, names: Sequence[str], *, hint: str = "") -> None:
    """Report names of features that are there twice, or differ in case only."""
    seen: dict[str, str] = {}
    for name in dict.fromkeys(names):
        first = seen.setdefault(name.casefold(), name)
        if first != name:
            message = f"features {first!r} and {name!r} differ in case only, which SQL ignores"
            report(view, message, DuplicateName)
        if names.count(name) > 1:
            report(view, f"feature {name!r} is defined twice{hint}", DuplicateName)


def _check_windowed(view: FeatureView) -> None:
    check_duration(view, "correction_horizon", zero=True)
    if not view.aggregations:
        if view.correction_horizon is not None:
            report(view, "correction_horizon is for views of Aggregations")
        return
    if view.columns:
        first, other = view.columns[0].name, view.aggregations[0].column
        message = f"Feature {first!r} and the Aggregation over {other!r} can't be in one view"
        report(view, f"{message}; make two views of the same source", TypeMismatch)
    if view.ttl is not None or view.grace is not None:
        report(view, "a view of Aggregations has no ttl: its windows say how long a row counts")
