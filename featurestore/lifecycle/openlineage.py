"""What OpenLineage is told: jobs, what they read and wrote, and which column came from which.

Everything is made from records. Datasets that are ours are named in the namespace
`featurestore://<project>`: `source/<name>` (a query's rows), `view/<name>`, `request/<name>`,
`service/<name>`, `training_set/<name>`, `model/<name>`; files are named as OpenLineage names them:
`file` and the path, `s3://bucket` and the key, with the columns as the files call them.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from featurestore.lifecycle.columns import ANY, ROWS, split_node, value_links
from featurestore.records import LedgerRow, Record, Transformation

State = Literal["START", "COMPLETE", "FAIL", "ABORT"]

_SUBTYPES = {
    "by": "TRANSFORMATION",
    "case": "CONDITIONAL",
    "where": "FILTER",
    "key": "GROUP_BY",
    "time": "WINDOW",
    "tie": "SORT",
    "rows": "FILTER",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A column of another dataset that a column is made from, and how, in OpenLineage's words."""

    namespace: str
    dataset: str
    column: str
    transformation: Transformation
    subtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A column of a dataset: its type, and what it is made from."""

    name: str
    dtype: str = ""
    readings: tuple[Reading, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A dataset; `readings` decide on all of its rows. `rows` is how many were written."""

    namespace: str
    name: str
    columns: tuple[Told, ...] = ()
    readings: tuple[Reading, ...] = ()
    uri: str = ""
    rows: int | None = None

    @property
    def bare(self) -> Dataset:
        """The same as an input: what it was made from was told by who made it."""
        columns = tuple(replace(column, readings=()) for column in self.columns)
        return replace(self, columns=columns, readings=(), rows=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A state of one run of a job at an instant (µs)."""

    namespace: str
    job: str
    run_id: str
    state: State
    at_us: int
    inputs: tuple[Dataset, ...] = ()
    outputs: tuple[Dataset, ...] = ()
    query: str = ""


@dataclass(frozen=True, slots=True)
class Teller:
    """Tells of the records in `by_id` (which has their parents). `root` is the absolute folder of
    the repository, which relative paths of files are below."""

    project: str
    root: str
    by_id: Mapping[str, Record]

    @property
    def namespace(self) -> str:
        """Of the datasets and jobs that are ours."""
        return f"featurestore://{self.project}"

    def run(
        self,
        job: str,
        *,
        key: str,
        started_us: int,
        ended_us: int,
        inputs: Iterable[Dataset],
        outputs: Iterable[Dataset],
        state: State = "COMPLETE",
        query: str = "",
    ) -> tuple[Event, Event]:
        """The two events of a run that is over. `key` tells it from other runs of the job."""
        run_id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self.namespace}/{job}/{key}"))
        begun = Event(
            namespace=self.namespace,
            job=job,
            run_id=run_id,
            state="START",
            at_us=started_us,
            inputs=tuple(dataset.bare for dataset in inputs),
        )
        ended = replace(begun, state=state, at_us=ended_us, outputs=tuple(outputs), query=query)
        return begun, ended

    def defined(self, record: Record, *, at_us: int) -> tuple[Event, ...]:
        """What an apply tells of an SQL source, a view, an on-demand view or a service."""
        if record.kind == "source" and "inputs" not in record.body:
            return ()
        inputs = [self.dataset(parent) for parent in self._read(record)]
        return self.run(
            f"apply/{record.kind}/{record.name}",
            key=f"{record.hash}/{at_us}",
            started_us=at_us,
            ended_us=at_us,
            inputs=inputs,
            outputs=[self.dataset(record)],
            query=str(record.body.get("query", "")),
        )

    def materialized(self, view: Record, row: LedgerRow, *, environment: str) -> tuple[Event, ...]:
        """What a materialization tells of one view: it reads what the view reads, and writes its
        online table, `online/<environment>/<view>`."""
        made = self._features(view)
        name = f"online/{environment}/{view.name}"
        table = replace(made, name=name, uri=f"{self.namespace}/{name}", rows=row.rows_written)
        return self.run(
            f"materialize/{environment}/{view.name}",
            key=row.run_id,
            started_us=row.started_at_us,
            ended_us=row.finished_at_us,
            inputs=[self.dataset(parent) for parent in self._read(view)],
            outputs=[table],
        )

    def dataset(self, record: Record) -> Dataset:
        """The dataset that a record stands for."""
        match record.kind:
            case "source" if "inputs" not in record.body:
                return self._files(record)
            case "source":
                return self._query(record)
            case "view" | "on_demand_view":
                return self._features(record)
            case "request_source":
                columns = tuple(Told(name=n, dtype=d) for n, d in record.body["columns"].items())
                return self._ours(f"request/{record.name}", columns)
            case "service":
                return self._service(record)
            case _:
                return self._ours(f"{record.kind}/{record.name}", ())

    def training_set(
        self,
        record: Record,
        schema: Sequence[tuple[str, str]],
        columns: Mapping[str, str],
        *,
        uri: str,
    ) -> Dataset:
        """A training set: `schema` are its columns with their types, `columns` name for each
        feature column the feature (`view.feature`) that it holds."""
        told = []
        for name, dtype in schema:
            view, _, feature = columns.get(name, "").partition(".")
            reading = self._reading(f"view/{view}", feature, "DIRECT", "IDENTITY")
            told.append(Told(name=name, dtype=dtype, readings=(reading,) if feature else ()))
        made = self._ours(f"training_set/{record.name}", tuple(told))
        return replace(made, uri=uri, rows=record.body.get("rows"))

    def views_of(self, record: Record) -> list[Dataset]:
        """The views whose features a record has as parents, with those features."""
        found = defaultdict[str, list[Told]](list)
        for edge in record.parents:
            parent = self.by_id.get(edge.parent)
            if parent is not None and parent.kind == "feature":
                view, _, feature = parent.name.partition(".")
                found[view].append(Told(name=feature, dtype=parent.body["dtype"]))
        return [
            self._ours(f"view/{view}", tuple(columns)) for view, columns in sorted(found.items())
        ]

    def _ours(self, name: str, columns: tuple[Told, ...]) -> Dataset:
        return Dataset(
            namespace=self.namespace, name=name, columns=columns, uri=f"{self.namespace}/{name}"
        )

    def _reading(self, name: str, column: str, how: Transformation, subtype: str) -> Reading:
        return Reading(
            namespace=self.namespace,
            dataset=name,
            column=column,
            transformation=how,
            subtype=subtype,
        )

    def _place(self, source: Record) -> tuple[str, str, str]:
        """Namespace, name and URI of what a file source reads."""
        path = str(source.body["path"])
        if path.startswith("s3://"):
            bucket, _, key = path.removeprefix("s3://").partition("/")
            return f"s3://{bucket}", key or "/", path
        path = path if path.startswith("/") else f"{self.root.rstrip('/')}/{path}"
        return "file", path, f"file://{path}"

    def _files(self, source: Record) -> Dataset:
        namespace, name, uri = self._place(source)
        theirs = _their_names(source)
        columns = tuple(
            Told(name=theirs.get(column, column), dtype=dtype)
            for column, dtype in source.body.get("columns", {}).items()
        )
        return Dataset(namespace=namespace, name=name, columns=columns, uri=uri)

    def _query(self, source: Record) -> Dataset:
        readings = self._readings(source)
        columns = tuple(
            Told(name=column, dtype=dtype, readings=readings.get(column, ()))
            for column, dtype in source.body.get("columns", {}).items()
        )
        made = self._ours(f"source/{source.name}", columns)
        return replace(made, readings=readings.get(ROWS, ()))

    def _features(self, view: Record) -> Dataset:
        columns = []
        for edge in view.parents:
            feature = self.by_id.get(edge.parent)
            if feature is not None and feature.kind == "feature":
                name = feature.name.partition(".")[2]
                readings = self._readings(feature).get("", ())
                columns.append(Told(name=name, dtype=feature.body["dtype"], readings=readings))
        return self._ours(f"view/{view.name}", tuple(columns))

    def _service(self, service: Record) -> Dataset:
        dtypes = {r.name: str(r.body["dtype"]) for r in self.by_id.values() if r.kind == "feature"}
        columns = tuple(
            Told(
                name=f"{use['name']}__{feature}",
                dtype=dtypes.get(f"{use['view']}.{feature}", ""),
                readings=(self._reading(f"view/{use['view']}", feature, "DIRECT", "IDENTITY"),),
            )
            for use in service.body["uses"]
            for feature in use["features"]
        )
        return self._ours(f"service/{service.name}", columns)

    def _read(self, record: Record) -> list[Record]:
        """The sources and views that a definition reads, each once."""
        found = dict[str, Record]()
        for edge in record.parents:
            parent = self.by_id.get(edge.parent)
            if parent is None:
                continue
            if parent.kind == "feature":
                found |= {r.id: r for r in self._homes(parent, record)}
            elif parent.kind in ("source", "request_source", "view", "on_demand_view"):
                found[parent.id] = parent
        return list(found.values())

    def _homes(self, feature: Record, reader: Record) -> list[Record]:
        """What a feature of `reader` reads; or, for any other reader, the view that has it."""
        if reader.kind in ("view", "on_demand_view"):
            parents = [self.by_id[e.parent] for e in feature.parents if e.parent in self.by_id]
            readers = [p for p in parents if p.kind in ("source", "request_source")]
            return readers + [v for p in parents if p.kind == "feature" for v in self._homes(p, p)]
        name = feature.name.partition(".")[0]
        return [
            r
            for r in self.by_id.values()
            if r.kind in ("view", "on_demand_view") and r.name == name
        ]

    def _readings(self, record: Record) -> dict[str, tuple[Reading, ...]]:
        """By column of a source (`*`: its rows), or '' of a feature: what it is made from."""
        parents = {e.parent: self.by_id[e.parent] for e in record.parents if e.parent in self.by_id}
        found = defaultdict[str, dict[Reading, None]](dict)
        for link in value_links((), {record.id: record, **parents}):
            child, column = split_node(link.child)
            parent, of = split_node(link.parent)
            if child == record.id and of not in (None, ROWS, ANY):
                reading = self._column(
                    parents[parent], str(of), link.role, link.transformation, record
                )
                found[column or ""][reading] = None
        for edge in record.parents:
            other = parents.get(edge.parent)
            if other is not None and other.kind == "feature":
                view, _, feature = other.name.partition(".")
                direct = edge.transformation == "DIRECT"
                subtype = "TRANSFORMATION" if direct else "CONDITIONAL"
                reading = self._reading(f"view/{view}", feature, edge.transformation, subtype)
                found[""][reading] = None
        return {column: tuple(readings) for column, readings in found.items()}

    def _column(
        self, source: Record, column: str, role: str, how: Transformation, reader: Record
    ) -> Reading:
        if role == "value":
            subtype = _value_subtype(reader)
        else:
            subtype = _SUBTYPES.get(role, "TRANSFORMATION")
        if source.kind == "request_source":
            return self._reading(f"request/{source.name}", column, how, subtype)
        if "inputs" in source.body:
            return self._reading(f"source/{source.name}", column, how, subtype)
        namespace, name, _ = self._place(source)
        theirs = _their_names(source).get(column, column)
        return Reading(
            namespace=namespace, dataset=name, column=theirs, transformation=how, subtype=subtype
        )


def _their_names(source: Record) -> dict[str, str]:
    """What the files call a column, by our name."""
    mapping: Mapping[str, Any] = source.body.get("field_mapping", {})
    return {str(ours): str(theirs) for theirs, ours in mapping.items()}


def _value_subtype(reader: Record) -> str:
    """How a value becomes one of `reader`: as it is, computed, or with others."""
    if reader.kind == "source":
        return "TRANSFORMATION"
    if "function" in reader.body and "window_us" in reader.body:
        return "AGGREGATION"
    tree = reader.body.get("tree") or [""]
    return "IDENTITY" if tree[0] == "column" else "TRANSFORMATION"
