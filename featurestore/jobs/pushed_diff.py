"""What differs between two versions of what was pushed to a source: rows, and keys.

Commits that count in both versions are not compared: only whether they hold the keys of the others
is asked of them. Rows of keys that were deleted are in neither.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from featurestore.compiler.deletions import DELETED_AT_US, deletions_name
from featurestore.compiler.rel import ARRIVED, DataFiles, Rel, Scan, Sql
from featurestore.compiler.scans import source_rel
from featurestore.definitions.source import FileSource
from featurestore.dtypes import DATE, INT64, STRING, TIMESTAMP
from featurestore.engines.sql import quote
from featurestore.errors import InvalidRequest
from featurestore.jobs.project import deletion_files, with_logged
from featurestore.jobs.push_rows import pushed_source
from featurestore.jobs.pushed_versions import TableState, counted_commits, find, source_of
from featurestore.stores.offline.push_manifest import LoggedFile
from featurestore.stores.offline.push_states import common, without
from featurestore.timeline import DAY_US

if TYPE_CHECKING:
    from featurestore.compiler.typed import TypedSource
    from featurestore.jobs.materialize import Context

LISTED = 20
"""So many keys that differ are listed by default."""
LISTED_MAX = 10_000
ROWS_PER_KEY = 5
"""So many rows of a listed key are shown of each version."""
ChangeOf = Literal["added", "removed", "changed"]
_THEN, _NOW, _CHANGE = "__then", "__now", "__change"
_ADDED, _REMOVED, _FOUND = "__added", "__removed", "__found"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyChange:
    """A key that differs: its values, rows that only the one version has, and those that only the
    other has, at most `ROWS_PER_KEY` of each, as values of `TableDiff.columns`."""

    change: ChangeOf
    key: tuple[Any, ...]
    then: tuple[tuple[Any, ...], ...] = ()
    now: tuple[tuple[Any, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TableDiff:
    """What differs between two versions of a table. `key` are the columns that say what a row is
    about: the source's event id, else the join keys of the views that read it and the event time;
    `columns` are the others. Counts are exact, repeated rows counted; `changes` are the first keys,
    in order."""

    then: str
    now: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    rows_added: int
    rows_removed: int
    keys_added: int
    keys_removed: int
    keys_changed: int
    changes: tuple[KeyChange, ...]


def diff(then_ref: str, now_ref: str, context: Context, *, limit: int = LISTED) -> TableDiff:
    """What differs between two versions of what was pushed to one source; lists `limit` keys.

    Raises as `pushed_versions.find` does, `UnknownSource` for one that is defined no more, and
    `InvalidRequest` for versions of two sources, or a limit over `LISTED_MAX`.
    """
    if source_of(then_ref) != source_of(now_ref):
        raise InvalidRequest(f"{then_ref} and {now_ref} are not versions of one table")
    if not 0 <= limit <= LISTED_MAX:
        raise InvalidRequest(f"limit is between 0 and LISTED_MAX = {LISTED_MAX:,}, not {limit}")
    source = pushed_source(context.repo, source_of(then_ref))
    work = _Work(context, source, find(then_ref, context), find(now_ref, context))
    return TableDiff(
        then=then_ref,
        now=now_ref,
        key=work.key,
        columns=work.others,
        changes=work.changes(limit) if limit else (),
        **work.counts(),
    )


class _Work:
    def __init__(
        self, context: Context, source: TypedSource, then: TableState, now: TableState
    ) -> None:
        self._context, self._source = context, source
        self.key = _key(context, source)
        self._columns = [*(column.name for column in source.columns), ARRIVED]
        self.others = tuple(c.name for c in source.columns if c.name not in self.key)
        self._inputs = {
            name: self._rows(files) for name, files in _parts(then.files, now.files).items()
        }
        self._inputs |= self._deletions()

    def counts(self) -> dict[str, int]:
        """How many rows and keys differ."""
        names = ("rows_added", "rows_removed", "keys_added", "keys_removed", "keys_changed")
        query = f"""{self._with()}
            SELECT coalesce(sum({_ADDED}), 0)::BIGINT AS rows_added,
                coalesce(sum({_REMOVED}), 0)::BIGINT AS rows_removed,
                count(*) FILTER ({_CHANGE} = 'added') AS keys_added,
                count(*) FILTER ({_CHANGE} = 'removed') AS keys_removed,
                count(*) FILTER ({_CHANGE} = 'changed') AS keys_changed
            FROM judged"""
        dtypes = dict.fromkeys(names, INT64)
        (found,) = self._ask(Sql(query=query, inputs=self._inputs, dtypes=dtypes))
        return {name: found[name] for name in names}

    def changes(self, limit: int) -> tuple[KeyChange, ...]:
        """The first keys that differ, with their rows."""
        keys = ", ".join(map(quote, self.key))
        columns = ", ".join(f"d.{quote(name)}" for name in self._columns)
        listed = f"SELECT * FROM judged ORDER BY {keys} LIMIT {limit}"
        ordered = ", ".join(f"d.{quote(name)}" for name in (*self.key, ARRIVED))
        dtypes = {column.name: column.dtype for column in self._source.columns}
        dtypes |= {ARRIVED: TIMESTAMP, _THEN: INT64, _NOW: INT64, _CHANGE: STRING}
        query = f"""{self._with()}
            SELECT {columns}, d.{_THEN}, d.{_NOW}, l.{_CHANGE}
            FROM different AS d JOIN ({listed}) AS l ON {_same(self.key, "d", "l")}
            ORDER BY {ordered}"""
        found: dict[str, KeyChange] = {}
        for row in self._ask(Sql(query=query, inputs=self._inputs, dtypes=dtypes)):
            self._add(found, row)
        return tuple(found.values())

    def _add(self, found: dict[str, KeyChange], row: Mapping[str, Any]) -> None:
        """Put a row to those of its key."""
        key = _shown(row, self.key)
        change = found.setdefault(repr(key), KeyChange(change=row[_CHANGE], key=key))
        values = _shown(row, self.others)
        if row[_THEN] > row[_NOW] and len(change.then) < ROWS_PER_KEY:
            found[repr(key)] = replace(change, then=(*change.then, values))
        elif row[_NOW] > row[_THEN] and len(change.now) < ROWS_PER_KEY:
            found[repr(key)] = replace(change, now=(*change.now, values))

    def _with(self) -> str:
        """`different`: rows with how often each version has them, beside the commits that both
        have; and `judged`: a row for each key of those that are not as often in both."""
        columns = ", ".join(map(quote, self._columns))
        keys = ", ".join(map(quote, self.key))
        mine = ", ".join(f"k.{quote(name)}" for name in self.key)
        sides = " UNION ALL ".join(
            f"SELECT {columns}, {int(name == 'then_rows')} AS {_THEN}, "
            f"{int(name == 'now_rows')} AS {_NOW} FROM {name} AS r{self._kept()}"
            for name in ("then_rows", "now_rows")
        )
        return f"""
            WITH different AS (
                SELECT {columns}, sum({_THEN})::BIGINT AS {_THEN}, sum({_NOW})::BIGINT AS {_NOW}
                FROM ({sides}) GROUP BY {columns}
            ), keyed AS (
                SELECT {keys}, sum({_THEN}) AS {_THEN}, sum({_NOW}) AS {_NOW},
                    sum(greatest({_NOW} - {_THEN}, 0)) AS {_ADDED},
                    sum(greatest({_THEN} - {_NOW}, 0)) AS {_REMOVED}
                FROM different GROUP BY {keys}
                HAVING sum(abs({_NOW} - {_THEN})) > 0
            ), there AS (
                SELECT DISTINCT {mine}, true AS {_FOUND} FROM keyed AS k
                JOIN (SELECT {keys} FROM both_rows AS r{self._kept()}) AS o
                ON {_same(self.key, "k", "o")}
            ), judged AS (
                SELECT k.*, CASE
                    WHEN t.{_FOUND} OR (k.{_THEN} > 0 AND k.{_NOW} > 0) THEN 'changed'
                    WHEN k.{_NOW} > 0 THEN 'added' ELSE 'removed' END AS {_CHANGE}
                FROM keyed AS k LEFT JOIN there AS t
                ON {_same(self.key, "k", "t")}
            )"""

    def _kept(self) -> str:
        """The condition that a row of `r` was not deleted."""
        conditions = [
            f"NOT EXISTS (SELECT 1 FROM {quote(name)} AS e WHERE {same} "
            f"AND {self._known()} <= e.{DELETED_AT_US})"
            for name, same in self._erasing()
        ]
        return f" WHERE {' AND '.join(conditions)}" if conditions else ""

    def _erasing(self) -> list[tuple[str, str]]:
        """The inputs of deletions, each with the condition that a row of `r` has such a key."""
        entities = self._context.repo.entities.values()
        by_input = {deletions_name(entity.name): entity for entity in entities}
        return [
            (
                name,
                " AND ".join(
                    f"r.{quote(key.name)}::VARCHAR = e.{quote(key.name)}::VARCHAR"
                    for key in by_input[name].keys
                ),
            )
            for name in self._inputs
            if name in by_input
        ]

    def _known(self) -> str:
        """When a row of `r` became known, in µs."""
        source = self._source
        event = f"r.{quote(source.event_time)}"
        if source.dtype(source.event_time) == DATE:
            day = DAY_US if source.event_time_is == "end" else 0
            event_us = f"epoch_us({event}::TIMESTAMP) + {day}"
        else:
            event_us = f"epoch_us({event})"
        created = f"r.{quote(source.created_time or ARRIVED)}"
        return f"greatest({event_us}, epoch_us({created}))"

    def _rows(self, files: Sequence[LoggedFile]) -> Rel:
        source, context = self._source, self._context
        offline = context.offline
        assert offline is not None  # noqa: S101 - `find` has seen to that
        definition = source.definition
        mapping = definition.field_mapping if isinstance(definition, FileSource) else {}
        in_files = {ours: theirs for theirs, ours in mapping.items()}
        schema = {in_files.get(c.name, c.name): c.dtype for c in source.columns}
        data = DataFiles(format="parquet", paths=(), schema={**schema, ARRIVED: TIMESTAMP})
        logged = {source.name: with_logged(data, files, offline)}
        return source_rel(source, context.repo, logged, with_arrival=True)

    def _deletions(self) -> dict[str, Rel]:
        context, columns = self._context, {c.name for c in self._source.columns}
        assert context.offline is not None  # noqa: S101 - `find` has seen to that
        files = deletion_files(context.repo, context.offline)
        found: dict[str, Rel] = {}
        for entity in context.repo.entities.values():
            name = deletions_name(entity.name)
            if name in files and columns.issuperset(key.name for key in entity.keys):
                dtypes = {key.name: key.dtype for key in entity.keys} | {DELETED_AT_US: INT64}
                columns_of = {one: one for one in dtypes}
                found[name] = Scan(
                    source=name, files=files[name], columns=columns_of, dtypes=dtypes
                )
        return found

    def _ask(self, rel: Sql) -> list[dict[str, Any]]:
        with self._context.engine.stream(rel) as reader:
            rows: list[dict[str, Any]] = reader.read_all().to_pylist()
        return rows


def _parts(
    then: Sequence[LoggedFile], now: Sequence[LoggedFile]
) -> dict[str, tuple[LoggedFile, ...]]:
    """The files of what only then, only now and both count."""
    old = {file.name: file for file in then}
    new = {file.name: file for file in now}
    found: dict[str, list[LoggedFile]] = {"then_rows": [], "now_rows": [], "both_rows": []}
    for name, file in {**old, **new}.items():
        theirs, ours = (counted_commits(side[name]) if name in side else () for side in (old, new))
        for part, spans in (
            ("then_rows", without(theirs, ours)),
            ("now_rows", without(ours, theirs)),
            ("both_rows", common(theirs, ours)),
        ):
            if spans:
                whole = spans == counted_commits(replace(file, counted=None))
                found[part].append(replace(file, counted=None if whole else spans))
    return {name: tuple(files) for name, files in found.items()}


def _key(context: Context, source: TypedSource) -> tuple[str, ...]:
    event_id = source.definition.event_id
    if event_id is not None:
        return (event_id,)
    columns = {column.name for column in source.columns}
    views = [v for v in context.repo.views.values() if v.source.name == source.name]
    keys = sorted({key.name for view in views for key in view.keys} & columns)
    return tuple(dict.fromkeys((*keys, source.event_time)))


def _same(key: Sequence[str], left: str, right: str) -> str:
    return " AND ".join(
        f"{left}.{quote(name)} IS NOT DISTINCT FROM {right}.{quote(name)}" for name in key
    )


def _shown(row: Mapping[str, Any], names: Sequence[str]) -> tuple[Any, ...]:
    """Values of a row; bytes, which JSON has not, as base64."""
    values = (row[name] for name in names)
    return tuple(base64.b64encode(v).decode() if isinstance(v, bytes) else v for v in values)
