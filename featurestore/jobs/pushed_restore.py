"""Making what was pushed to a source what it was once, and removing what that hides.

A restore is a record under the alias `restored/<table>`, so that of two at once one wins; then it
is put beside the log, where all who read the log see it. Rows that were pushed meanwhile, here or
elsewhere, count in any case.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featurestore.compiler.rel import COMMITTED
from featurestore.errors import InvalidRequest, StreamWrites
from featurestore.jobs import push
from featurestore.jobs.online_tables import online_tables
from featurestore.jobs.pushed_versions import (
    PREFIX,
    TableState,
    counted_commits,
    find,
    offline_of,
    source_of,
    state_of,
    tags_of,
    version_id,
    versions_of,
    whole,
)
from featurestore.records import AliasIs, Record
from featurestore.stores.offline import push_log, push_vacuum
from featurestore.stores.offline.push_manifest import LoggedFile, PushLog
from featurestore.stores.offline.push_states import (
    RESTORED,
    Restore,
    Spans,
    State,
    common,
    hidden_by,
    read_restore,
    restores_among,
    without,
    write_restore,
)
from featurestore.timeline import MINUTE_US, format_duration

if TYPE_CHECKING:
    from featurestore.compiler.typed import TypedRepo
    from featurestore.jobs.materialize import Context
    from featurestore.stores.offline.folder import OfflineFolder

KIND = "restore"
LIVE_US = MINUTE_US
"""A source whose stream brought rows so lately is being written to."""
HIDDEN_KEPT_US_MIN = 60 * MINUTE_US
"""How long what a restore hides stays at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredTable:
    """What a restore did: `id` is the version that it made. `to_materialize` are the views whose
    online tables still hold what was there before; the next `materialize` writes them anew."""

    id: str
    target: str
    rows_added: int
    rows_removed: int
    to_materialize: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VacuumedTable:
    """What a vacuum took from this machine's part of a table, or would: `rows` that a restore hides
    and that no tag, and no state of late, needs; `files` were rewritten."""

    table: str
    rows: int
    files: tuple[str, ...]
    kept_tags: tuple[str, ...]
    removed: bool


class OnlineDiffersWarning(UserWarning):
    """Online tables still hold rows that a restore has taken away; materialize."""


def restore(
    ref: str, context: Context, *, reason: str = "", author: str = "", live: bool = False
) -> RestoredTable:
    """Make the table what it was in the version `ref`. All that was pushed stays, and can be had
    again by restoring a later version; what is pushed meanwhile counts.

    Raises as `find` does; `StreamWrites` where a stream brings rows, unless `live`;
    `CommitConflict` where another restore was first (nothing was done), `FileNotWritten`.
    """
    source, registry = source_of(ref), context.registry
    alias = f"restored/{PREFIX}{source}"
    there = registry.aliases(alias).get(alias)
    push.recover(context)  # else rows that count no more might go online later
    found = find(ref, context)
    if not live:
        _refuse_stream(found, context)
    earlier = 0 if there is None else registry.record(there.target).record.body["number"]
    made = _made(found, context, earlier=earlier, author=author, reason=reason)
    if made is None:
        return RestoredTable(
            id=PREFIX + source, target=ref, rows_added=0, rows_removed=0, to_materialize=()
        )
    record = Record(kind=KIND, name=PREFIX + source, body=made.to_json())
    registry.commit(
        requires=[AliasIs(alias, None if there is None else there.target)],
        records=[record],
        aliases={alias: record.id},
        reason=reason or "restore",
    )
    write_restore(offline_of(context), made)
    views = _views_with_tables(context, source)
    if views:
        warnings.warn(
            OnlineDiffersWarning(
                f"The online tables of {', '.join(views)} hold what {source!r} was before it was "
                "restored, until they are written anew: featurestore materialize"
            ),
            stacklevel=3,
        )
    return RestoredTable(
        id=version_id(source, made.at_us),
        target=ref,
        rows_added=made.rows_added,
        rows_removed=made.rows_removed,
        to_materialize=views,
    )


def _made(
    found: TableState, context: Context, *, earlier: int, author: str, reason: str
) -> Restore | None:
    """The restore that puts `found` in force, with a number over `earlier`; None where it is."""
    log, table = found.log, push_log.rows_table(found.source)
    now, upto = log.now(table), log.upto()
    hidden = hidden_by(found.state, upto)
    if hidden == hidden_by(now, upto):
        return None
    last = 0 if now.restore is None else now.restore.number
    known_us = [*upto.values(), 0 if now.restore is None else now.restore.at_us]
    return Restore(
        table=table,
        number=1 + max(earlier, last),
        at_us=max(context.clock.now_us(), 1 + max(known_us)),
        target=found.id,
        upto=upto,
        hidden=hidden,
        rows_added=_difference(log, table, found.state, now),
        rows_removed=_difference(log, table, now, found.state),
        author=author,
        reason=reason,
    )


def _refuse_stream(found: TableState, context: Context) -> None:
    """Raises `StreamWrites` while a stream brings rows."""
    streams = [one.name for one in context.repo.streams.values() if one.source == found.source]
    if not streams:
        return
    since_us = context.clock.now_us() - LIVE_US
    if any(one.operation == "push" and one.at_us > since_us for one in versions_of(found, 1)):
        raise StreamWrites(
            f"Stream {streams[0]!r} brought rows of {found.source!r} within the last "
            f"{format_duration(LIVE_US)}; what it brings after the restore counts beside what is "
            "restored. Stop it first, or restore nevertheless with live=True (--live)",
            stream=streams[0],
        )


def _difference(log: PushLog, table: str, these: State, those: State) -> int:
    """How many rows count in `these` and not in `those`."""
    other = {file.name: counted_commits(file) for file in log.files(table, those)}
    rows = 0
    for file in log.files(table, these):
        mine = counted_commits(file)
        if more := without(mine, other.get(file.name, ())):
            rows += file.rows if more == whole(file) else _rows_of(log.offline, file, more)
    return rows


def _rows_of(offline: OfflineFolder, file: LoggedFile, spans: Spans) -> int:
    commits = offline.read(file.name, [COMMITTED])[COMMITTED].value_counts().to_pylist()
    return sum(
        one["counts"] for one in commits if common([(one["values"] - 1, one["values"])], spans)
    )


def _views_with_tables(context: Context, source: str) -> tuple[str, ...]:
    """The views that read a source, by queries or not, and have an online table."""
    repo = context.repo
    views = [v for v in repo.views.values() if source in sources_of(repo, v.source.name)]
    tables = online_tables(context.registry, views)
    return tuple(sorted(view.name for view in views if view.storage_hash in tables))


def sources_of(repo: TypedRepo, source: str) -> set[str]:
    """A source and all that it reads."""
    found, todo = set[str](), [source]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += repo.sources[name].inputs
    return found


def restored_at(context: Context) -> Mapping[str, int]:
    """When pushed rows were restored last, by source (µs)."""
    if context.offline is None:
        return {}
    offline = context.offline
    names = restores_among(kept.name for kept in offline.list(RESTORED))
    return {
        table.partition("/")[2]: read_restore(offline, listed[-1]).at_us
        for table, listed in names.items()
    }


# --- vacuum ---------------------------------------------------------------------------------------


def vacuum(ref: str, context: Context, *, older_than_us: int, dry_run: bool) -> VacuumedTable:
    """Remove from this machine's part of a table the rows that a restore hides, that no tag has,
    and that counted at no time since `older_than_us` ago.

    Raises as `find` does, and `InvalidRequest` below `HIDDEN_KEPT_US_MIN`.
    """
    source = source_of(ref)
    if older_than_us < HIDDEN_KEPT_US_MIN:
        raise InvalidRequest(
            f"what a restore hides stays for {format_duration(HIDDEN_KEPT_US_MIN)} at least; "
            "give a longer time"
        )
    find(f"{PREFIX}{source}", context)
    table, tags = push_log.rows_table(source), tags_of(context, source)
    now_us = context.clock.now_us()

    def kept(log_now: PushLog) -> list[State]:
        restores = log_now.restores(table)
        before = [None, *restores]
        states = [
            State(restore=older, upto=restore.upto)
            for older, restore in zip(before, restores, strict=False)
            if restore.at_us > now_us - older_than_us
        ]
        return states + [state_of(context, log_now, source, name) for name in tags]

    found = push_vacuum.vacuum(
        offline_of(context), table, kept=kept, now_us=now_us, dry_run=dry_run
    )
    return VacuumedTable(
        table=PREFIX + source,
        rows=found.rows,
        files=found.files,
        kept_tags=tuple(sorted(tags)),
        removed=not dry_run,
    )
