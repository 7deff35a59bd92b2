"""Reading a sorted copy for an entity frame of few keys: the row groups that can hold them take the
place of the source's files."""

from __future__ import annotations

import warnings
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from featurestore.compiler.passes import run_passes
from featurestore.compiler.rel import (
    ARRIVED,
    AsOfJoin,
    DataFiles,
    Derive,
    Input,
    Project,
    Rel,
    Scan,
    SortedCopy,
    Stamped,
    Union,
    WindowJoin,
    some_files,
)
from featurestore.dtypes import to_arrow

if TYPE_CHECKING:
    import pyarrow as pa

    from featurestore.stores.offline.folder import OfflineFolder

KEYS_MAX = 1_000
"""Different keys of a frame for which copies are read."""
SHARE_MAX = 0.5
"""Share of a copy's row groups up to which reading it is worth while."""


class CopyUnreadableWarning(UserWarning):
    """A sorted copy can't be read; the source's own files are read instead."""


@dataclass(frozen=True, slots=True)
class Narrowed:
    """A relation in which copies took the place of files, and the data of its new inputs."""

    rel: Rel
    inputs: Mapping[str, pa.Table]


def narrowed(
    rel: Rel, keys: Mapping[str, Iterable[object]], offline: OfflineFolder | None
) -> Narrowed:
    """`rel` for a frame that holds only the values `keys` (by column of the `Input`), with what it
    reads of copies. Without a copy that helps, `rel` as it is."""
    work = _Work({name: sorted(set(values) - {None}) for name, values in keys.items()}, offline)
    if offline is None or any(len(values) > KEYS_MAX for values in work.keys.values()):
        return Narrowed(rel, {})
    found = work.rewrite(run_passes(rel))
    return Narrowed(found if work.inputs else rel, work.inputs)


class _Work:
    def __init__(self, keys: Mapping[str, list[Any]], offline: OfflineFolder | None) -> None:
        self.keys = keys
        self.inputs: dict[str, pa.Table] = {}
        self._offline = offline

    def rewrite(self, rel: Rel) -> Rel:
        """`rel` with copies below the right sides of its as-of joins."""
        match rel:
            case Project():
                return replace(rel, input=self.rewrite(rel.input))
            case AsOfJoin() | WindowJoin():
                by_right = {right: left for left, right in rel.keys.items()}
                right = self._stamped(rel.right, by_right)
                return replace(rel, left=self.rewrite(rel.left), right=right)
            case _:
                return rel

    def _stamped(self, rel: Stamped, by_right: Mapping[str, str]) -> Stamped:
        inner = rel.input.input if isinstance(rel.input, Derive) else rel.input
        if not isinstance(inner, Scan) or inner.files.copy is None:
            return rel
        values = self.keys.get(by_right.get(inner.files.copy.key, ""))
        if values is None:
            return rel
        found = self._scan(inner, inner.files.copy, values)
        if found is None:
            return rel
        return replace(
            rel, input=replace(rel.input, input=found) if isinstance(rel.input, Derive) else found
        )

    def _scan(self, scan: Scan, copy: SortedCopy, values: list[Any]) -> Rel | None:
        """The rows of `values` from the copy, and those of the files that it does not hold."""
        import pyarrow as pa

        groups = [group for group in copy.groups if _may_hold(group, values)]
        if len(groups) > max(1.0, SHARE_MAX * len(copy.groups)):
            return None
        try:
            table = self._read(scan, copy, groups, values)
        except (OSError, pa.ArrowException) as error:
            warnings.warn(
                f"The sorted copy of source {scan.source!r} can't be read ({error}), so its own "
                "files are. Write it anew: featurestore optimize",
                CopyUnreadableWarning,
                stacklevel=2,
            )
            return None
        name = f"copy {len(self.inputs)} of {scan.source}"
        self.inputs[name] = table
        rows: Rel = Input(name=name, dtypes=scan.dtypes)
        rest = _without(scan.files, copy.paths)
        return rows if rest is None else Union(inputs=(rows, replace(scan, files=rest)))

    def _read(self, scan: Scan, copy: SortedCopy, groups: list[Any], values: list[Any]) -> pa.Table:
        import pyarrow as pa
        import pyarrow.compute as pc
        from pyarrow import parquet

        assert self._offline is not None  # noqa: S101 - `narrowed` has seen to that
        schema = pa.schema([(name, to_arrow(dtype)) for name, dtype in scan.dtypes.items()])
        wanted = pa.array(values, to_arrow(copy.columns[copy.key]))
        by_file: dict[str, list[int]] = {}
        for file, group, *_ in groups:
            by_file.setdefault(file, []).append(group)
        parts = [schema.empty_table()]
        for file, numbers in by_file.items():
            with self._offline.open(file) as opened:
                # A copy holds no pushed rows.
                columns = [c for c in dict.fromkeys([*scan.dtypes, copy.key]) if c != ARRIVED]
                table = parquet.ParquetFile(opened).read_row_groups(numbers, columns=columns)
            table = table.filter(pc.is_in(table[copy.key], value_set=wanted))
            if ARRIVED in scan.dtypes:
                nulls = pa.nulls(table.num_rows, schema.field(ARRIVED).type)
                table = table.append_column(ARRIVED, nulls)
            parts.append(table.select(list(scan.dtypes)).cast(schema))
        return pa.concat_tables(parts)


def _may_hold(group: tuple[str, int, Any, Any], values: list[Any]) -> bool:
    _, _, least, greatest = group
    place = bisect_left(values, least)
    return place < len(values) and bool(values[place] <= greatest)


def _without(files: DataFiles, paths: frozenset[str]) -> DataFiles | None:
    """The files that are not among `paths`."""
    kept = [n for n, path in enumerate(files.paths) if path not in paths]
    if not kept and not files.pushed:
        return None
    return some_files(files, kept)
