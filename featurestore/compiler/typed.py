"""The typed repository: what `resolve` makes of definitions and source schemas.

Everything after it (training, materialization, serving, plans) reads these frozen objects and
never looks a name up in user code again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from featurestore import windows
from featurestore.definitions.expression import Expression
from featurestore.definitions.python_function import PythonFunction
from featurestore.definitions.source import FileSource, SqlSource
from featurestore.dtypes import DType


@dataclass(frozen=True, slots=True)
class Column:
    """A named, typed column."""

    name: str
    dtype: DType


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What describes and never changes a value."""

    description: str = ""
    owner: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    file: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedEntity:
    name: str
    keys: tuple[Column, ...]
    version: str
    metadata: Metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedSource:
    """A source with its schema after field mapping (`columns`, in name order).

    `inputs` are the sources that an SQL source reads. `tiebreak` is the resolved order of columns
    that settles equal (event time, created time). `version` hashes all that can change a row.
    """

    name: str
    definition: FileSource | SqlSource
    columns: tuple[Column, ...]
    event_time: str
    created_time: str | None
    event_time_is: str | None
    op: str | None
    tiebreak: tuple[str, ...]
    lateness_us: int
    inputs: tuple[str, ...]
    version: str
    metadata: Metadata

    def dtype(self, column: str) -> DType:
        """The type of `column`. Raises `KeyError` where the source has none of that name."""
        return {c.name: c.dtype for c in self.columns}[column]


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedFeature:
    """One feature: its expression over the source's columns (a bare column included)."""

    name: str
    dtype: DType
    expression: Expression
    version: str
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedAggregation:
    """One windowed feature: `function` over `argument` (None: `count("*")`) of the rows for which
    `where` is true, within a window (`window_us` None: lifetime; `hop_us` 0: exact). `dtype` is
    what it yields, `argument_dtype` the type of its values. Where there is `by`, it yields a map
    from each value of `by`, of type `by_dtype`, to the function over the rows that have it."""

    name: str
    dtype: DType
    function: str
    argument: Expression | None
    argument_dtype: DType | None
    where: Expression | None
    window_us: int | None
    delay_us: int
    hop_us: int
    parameters: Mapping[str, int | float]
    by: Expression | None
    by_dtype: DType | None
    version: str
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedView:
    """A feature view. `keys` stand in storage order: entities by name, each one's join keys in
    its own order. `storage_hash` covers what changes stored bytes (not the ttl); `version` covers
    all that changes a served value.

    A windowed view has `aggregations`, one for each of its `features` (whose `expression` is the
    argument; a literal for `count("*")`), in the same order.
    """

    name: str
    entities: tuple[str, ...]
    keys: tuple[Column, ...]
    source: TypedSource
    features: tuple[TypedFeature, ...]
    ttl_us: int | None
    grace_us: int | None
    version: str
    storage_hash: str
    metadata: Metadata
    aggregations: tuple[TypedAggregation, ...] = ()
    correction_horizon_us: int = 0

    @property
    def is_windowed(self) -> bool:
        """Whether its features are aggregations over windows."""
        return bool(self.aggregations)

    @property
    def key_space(self) -> str:
        """The part of an online key that says which entities it is of: `dest+origin`, `-`."""
        return "+".join(self.entities) or "-"

    @property
    def reach_us(self) -> int | None:
        """How old a row may be and still change an answer (`ttl + grace`, or of a windowed view the
        longest window + delay + hop); None is unbounded."""
        if self.aggregations:
            return windows.reach_us(self.aggregations)
        if self.ttl_us is None:
            return None
        return self.ttl_us + (self.grace_us or 0)

    def feature(self, name: str) -> TypedFeature:
        """Raises `KeyError` where the view has no feature of that name."""
        return {f.name: f for f in self.features}[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewUse:
    """A view as a service or a request uses it: under a name, with some of its features, and with
    its join keys read from other columns (`join_key_map`: view's key → caller's column)."""

    name: str
    view: TypedView
    features: tuple[TypedFeature, ...]
    join_key_map: Mapping[str, str] = field(default_factory=dict)

    @property
    def key_columns(self) -> tuple[str, ...]:
        """The caller's columns that hold the keys, in the view's storage order."""
        return tuple(self.join_key_map.get(key.name, key.name) for key in self.view.keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedRequestSource:
    """Values that come with a request, in the order declared."""

    name: str
    columns: tuple[Column, ...]
    version: str
    metadata: Metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """Something that an on-demand view reads: `feature` of `origin`, a view as the on-demand view
    uses it, or a column of a request source. `name` (`origin__feature`) is what the view's
    expressions call it."""

    name: str
    dtype: DType
    origin: ViewUse | OnDemandUse | TypedRequestSource
    feature: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedOnDemandView:
    """An on-demand view. `arguments` are what it reads, each once.

    With a `function` the features are what it returns, each by a bare column of its own name, and
    `parameters` are the names of the arguments that it is given, in order (None: the request's
    time). `version` covers all that changes a value, the versions of what it reads among it.
    """

    name: str
    inputs: tuple[str, ...]
    arguments: tuple[Argument, ...]
    features: tuple[TypedFeature, ...]
    function: PythonFunction | None
    parameters: tuple[str | None, ...]
    version: str
    metadata: Metadata

    def feature(self, name: str) -> TypedFeature:
        """Raises `KeyError` where the view has no feature of that name."""
        return {f.name: f for f in self.features}[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class OnDemandUse:
    """An on-demand view as a service, a request or another view uses it."""

    name: str
    view: TypedOnDemandView
    features: tuple[TypedFeature, ...]


Use = ViewUse | OnDemandUse


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedService:
    name: str
    uses: tuple[Use, ...]
    version: str
    metadata: Metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedStream:
    """A stream that feeds `source`. It changes no value, so it is a part of no version."""

    name: str
    url: str = field(repr=False)
    source: str
    metadata: Metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedRepo:
    """A repository without errors. All mappings are keyed by name, in name order; `sources` are
    ordered so that each stands after the ones it reads."""

    project: str
    entities: Mapping[str, TypedEntity]
    sources: Mapping[str, TypedSource]
    views: Mapping[str, TypedView]
    services: Mapping[str, TypedService]
    version: str
    requests: Mapping[str, TypedRequestSource] = field(default_factory=dict)
    on_demand: Mapping[str, TypedOnDemandView] = field(default_factory=dict)
    streams: Mapping[str, TypedStream] = field(default_factory=dict)
