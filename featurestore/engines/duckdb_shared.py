"""What several windowed views read is read once, where reading is dear: the rows of an SQL source,
whose query may do anything, and files on S3. For files of this machine reading the few columns of
each view between its own bounds costs less than keeping those of all views."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from featurestore.buckets import is_s3
from featurestore.compiler.rel import Derive, Input, Rel, Scan, Sql, Stamped, WindowJoin, walk

if TYPE_CHECKING:
    from featurestore.dtypes import DType


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """A relation that several windows read, and the `Input` that stands for its rows."""

    rel: Rel
    input: Input


def shared_sources(rel: Rel) -> dict[str, Shared]:
    """What more than one window join of `rel` reads, by `_key`."""
    found: dict[str, list[Rel]] = {}
    for node in walk(rel):
        if isinstance(node, WindowJoin):
            base = _base(node.right)
            key = _key(base)
            if key is not None:
                found.setdefault(key, []).append(base)
    shared: dict[str, Shared] = {}
    for key, rels in found.items():
        if len(rels) > 1:
            whole = _with_all_columns(rels)
            name = f"shared {len(shared)}"
            shared[key] = Shared(rel=whole, input=Input(name=name, dtypes=dict(whole.schema)))
    return shared


def of_shared(rows: Stamped, shared: Mapping[str, Shared]) -> tuple[Stamped, Shared | None]:
    """`rows`, read from what is shared, if they are; and that."""
    found = shared.get(_key(_base(rows)) or "")
    if found is None:
        return rows, None
    inner = rows.input
    read = replace(inner, input=found.input) if isinstance(inner, Derive) else found.input
    return replace(rows, input=read), found


def _base(rows: Stamped) -> Rel:
    return rows.input.input if isinstance(rows.input, Derive) else rows.input


def _key(rel: Rel) -> str | None:
    """The same for relations of the same rows; None for those that are read anew each time."""
    match rel:
        case Sql():
            scans = (node.source for node in walk(rel) if isinstance(node, Scan))
            return "\n".join([*sorted(scans), rel.query])
        case Scan() if any(is_s3(path) for path in rel.files.paths):
            return rel.source
        case _:
            return None


def _with_all_columns(rels: list[Rel]) -> Rel:
    """The first of them, with the columns of all."""
    first = rels[0]
    if not isinstance(first, Scan):
        return first
    columns: dict[str, str] = {}
    dtypes: dict[str, DType] = {}
    for rel in rels:
        if isinstance(rel, Scan):
            columns |= rel.columns
            dtypes |= rel.dtypes
    return replace(first, columns=columns, dtypes=dtypes)
