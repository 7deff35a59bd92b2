"""Versions of what was pushed to a source: a log, tags, a way back, a vacuum.

A version is named by an instant, for machines write without asking each other and nobody counts
what they commit: `pushed/landings/2026-11-26T18:00:00Z` is the table as it was then,
`pushed/landings/audited` a tag, `pushed/landings` the table now. A restore is a record under the
alias `restored/<table>`, so that of two at once one wins; then it is put beside the log, where all
who read the log see it. Rows that were pushed meanwhile, here or elsewhere, count in any case.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from heapq import nlargest
from itertools import islice
from typing import TYPE_CHECKING, Literal

from featurestore.compiler.rel import COMMITTED
from featurestore.errors import (
    InvalidRequest,
    RecordNotFound,
    SnapshotMissing,
    StreamWrites,
    UnknownSource,
)
from featurestore.jobs import push
from featurestore.jobs.online_tables import online_tables
from featurestore.lifecycle.versions import check_tag
from featurestore.records import AliasIs, Record
from featurestore.stores.offline import push_log, push_vacuum
from featurestore.stores.offline.push_manifest import LoggedFile, PushLog
from featurestore.stores.offline.push_states import (
    BEFORE,
    RESTORED,
    Restore,
    Spans,
    State,
    common,
    hidden_by,
    read_restore,
    restores_among,
    state_at,
    without,
    write_restore,
)
from featurestore.timeline import MINUTE_US, format_duration, format_instant, to_us

if TYPE_CHECKING:
    from featurestore.compiler.typed import TypedRepo
    from featurestore.jobs.materialize import Context
    from featurestore.records import StoredRecord
    from featurestore.stores.offline.folder import OfflineFolder

PREFIX = "pushed/"
"""How a table of pushed rows is named: `pushed/<source>`."""
RESTORE_KIND, TAG_KIND = "restore", "data_version"
_RESTORED, _TAGGED = "restored", "tagged"
LIVE_US = MINUTE_US
"""A source whose stream brought rows so lately is being written to."""
HIDDEN_KEPT_US_MIN = 60 * MINUTE_US
"""How long what a restore hides stays at least."""
LOG_VERSIONS = 1_000
"""So many versions are listed by default."""
Operation = Literal["push", "vacuum", "restore"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableVersion:
    """One version of a table: what made it, when (µs) and who: the machine that pushed, or whoever
    restored. `id` names it. `rows_added` and `rows_removed` are what it changed; a `restore` made
    the table what `target` says it was."""

    id: str
    at_us: int
    operation: Operation
    author: str
    rows_added: int
    rows_removed: int
    current: bool
    tags: tuple[str, ...] = ()
    target: str | None = None
    reason: str = ""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class TableState:
    """A table of pushed rows as a reference names it."""

    source: str
    id: str
    state: State
    log: PushLog = field(repr=False)

    @property
    def files(self) -> tuple[LoggedFile, ...]:
        """Its files; of those with `counted`, these commits."""
        return self.log.files(push_log.rows_table(self.source), self.state)


class OnlineDiffersWarning(UserWarning):
    """Online tables still hold rows that a restore has taken away; materialize."""


def is_pushed(ref: object) -> bool:
    """Whether a reference names pushed rows."""
    return isinstance(ref, str) and ref.startswith(PREFIX)


def source_of(ref: str) -> str:
    """The source that a reference is about."""
    return ref.removeprefix(PREFIX).partition("/")[0]


def find(ref: str, context: Context) -> TableState:
    """The table, in the state that `ref` names; what this machine acknowledged is in it.

    Raises `UnknownSource` where nothing was ever pushed to it, `RecordNotFound` for what is neither
    a tag nor an instant, `SnapshotMissing` for what was vacuumed, and what reading the log does.
    """
    offline = _offline(context)
    push_log.drain(offline, now_us=context.clock.now_us())
    log = PushLog.read(offline)
    source, _, version = ref.removeprefix(PREFIX).partition("/")
    table = push_log.rows_table(source)
    if table not in log.tables:
        known = [name.partition("/")[2] for name in log.tables if name.startswith("rows/")]
        raise UnknownSource(source, known=known)
    state = _state(context, log, source, version) if version else log.now(table)
    if log.vacuumed(table, state):
        raise SnapshotMissing(
            f"{ref}: rows of this version were vacuumed. Take a later one; tag what has to stay"
        )
    return TableState(source=source, id=ref, state=state, log=log)


def _offline(context: Context) -> OfflineFolder:
    if context.offline is None:
        raise InvalidRequest("pushed rows need an offline folder")
    return context.offline


def _state(context: Context, log: PushLog, source: str, version: str) -> State:
    restores = log.restores(push_log.rows_table(source))
    tags = _tags(context, source)
    if version in tags:
        body = tags[version].record.body
        by_number = {restore.number: restore for restore in restores}
        return State(restore=by_number.get(body["restore"]), upto=body["upto"], default=BEFORE)
    try:
        return state_at(restores, to_us(version))
    except (ValueError, InvalidRequest) as error:
        raise RecordNotFound(f"{PREFIX}{source}/{version}", known=tags) from error


def _tags(context: Context, source: str) -> dict[str, StoredRecord]:
    prefix = f"{_TAGGED}/{PREFIX}{source}/"
    aliases = context.registry.aliases(prefix)
    found = context.registry.records(ids=[alias.target for alias in aliases.values()])
    by_id = {stored.id: stored for stored in found}
    return {name.removeprefix(prefix): by_id[alias.target] for name, alias in aliases.items()}


# --- log and tags ---------------------------------------------------------------------------------


def log(ref: str, context: Context, *, limit: int = LOG_VERSIONS) -> tuple[TableVersion, ...]:
    """The versions of a table, newest first. Raises as `find` does."""
    source = source_of(ref)
    found = find(f"{PREFIX}{source}", context)
    versions = nlargest(limit, _versions(found, limit), key=lambda one: one.at_us)
    tags: dict[int, tuple[str, ...]] = {}
    for name, stored in sorted(_tags(context, source).items()):
        at_us = stored.record.body["version_us"]
        tags[at_us] = (*tags.get(at_us, ()), name)
    return tuple(
        replace(one, current=place == 0, tags=tags.get(one.at_us, ()))
        for place, one in enumerate(versions)
    )


def _versions(found: TableState, limit: int) -> Iterator[TableVersion]:
    """In no order, at most `limit` of each machine."""
    table = push_log.rows_table(found.source)
    for manifest in found.log.manifests.values():
        for commit in islice(found.log.commits(manifest, table), limit):
            rows = commit.rows[table]
            pushed = commit.operation == "push"
            yield TableVersion(
                id=_id(found.source, commit.at_us),
                at_us=commit.at_us,
                operation=commit.operation,
                author=manifest.host,
                rows_added=rows if pushed else 0,
                rows_removed=0 if pushed else rows,
                current=False,
            )
    for restore in found.log.restores(table):
        yield TableVersion(
            id=_id(found.source, restore.at_us),
            at_us=restore.at_us,
            operation="restore",
            author=restore.author,
            rows_added=restore.rows_added,
            rows_removed=restore.rows_removed,
            current=False,
            target=restore.target,
            reason=restore.reason,
        )


def _id(source: str, at_us: int) -> str:
    return f"{PREFIX}{source}/{format_instant(at_us)}"


def tag(ref: str, name: str, context: Context, *, move: bool = False) -> TableState:
    """Give a version a tag, by which `pushed/<source>/<tag>` finds it, and which a vacuum keeps.

    Raises as `find` does, and `InvalidRequest` for a tag that another version has, unless it is to
    `move`; `CommitConflict`.
    """
    check_tag(name)
    found = find(ref, context)
    state, log_now = found.state, found.log
    upto = {
        writer: min(state.upto.get(writer, state.default), last)
        for writer, last in log_now.upto().items()
    }
    versions = [one.at_us for one in _versions(found, LOG_VERSIONS) if _is_of(one.at_us, state)]
    body = {
        "table": f"{PREFIX}{found.source}",
        "upto": upto,
        "restore": 0 if state.restore is None else state.restore.number,
        "version_us": max(versions, default=0),
    }
    record = Record(kind=TAG_KIND, name=f"{PREFIX}{found.source}", body=body)
    alias = f"{_TAGGED}/{PREFIX}{found.source}/{name}"
    there = context.registry.aliases(alias).get(alias)
    target = None if there is None else there.target
    if target not in (None, record.id) and not move:
        raise InvalidRequest(
            f"tag {name!r} stands at another version of {PREFIX}{found.source}; move it with "
            "move=True (--move), or take another one"
        )
    if target != record.id:
        context.registry.commit(
            requires=[AliasIs(alias, target)],
            records=[record],
            aliases={alias: record.id},
            reason="tag",
        )
    return found


def _is_of(at_us: int, state: State) -> bool:
    """Whether what was committed at that instant is no later than a state."""
    latest = max([*state.upto.values(), state.restore.at_us if state.restore else BEFORE])
    return at_us <= max(latest, state.default)


# --- restore --------------------------------------------------------------------------------------


def restore(
    ref: str, context: Context, *, reason: str = "", author: str = "", live: bool = False
) -> RestoredTable:
    """Make the table what it was in the version `ref`. All that was pushed stays, and can be had
    again by restoring a later version; what is pushed meanwhile counts.

    Raises as `find` does; `StreamWrites` where a stream brings rows, unless `live`;
    `CommitConflict` where another restore was first (nothing was done), `FileNotWritten`.
    """
    source, offline = source_of(ref), _offline(context)
    table, alias = push_log.rows_table(source), f"{_RESTORED}/{PREFIX}{source}"
    there = context.registry.aliases(alias).get(alias)
    push.recover(context)  # else rows that count no more might go online later
    found = find(ref, context)
    if not live:
        _refuse_stream(found, context)
    now, upto = found.log.now(table), found.log.upto()
    hidden = hidden_by(found.state, upto)
    views = views_with_tables(context, source)
    if hidden == hidden_by(now, upto):
        return RestoredTable(
            id=PREFIX + source, target=ref, rows_added=0, rows_removed=0, to_materialize=()
        )
    last = 0 if there is None else context.registry.record(there.target).record.body["number"]
    made = Restore(
        table=table,
        number=1 + max([last, *(one.number for one in found.log.restores(table))]),
        at_us=max([context.clock.now_us(), *(at_us + 1 for at_us in _instants(found, now))]),
        target=ref,
        upto=upto,
        hidden=hidden,
        rows_added=_difference(found.log, table, found.state, now),
        rows_removed=_difference(found.log, table, now, found.state),
        author=author,
        reason=reason,
    )
    record = Record(kind=RESTORE_KIND, name=PREFIX + source, body=made.to_json())
    context.registry.commit(
        requires=[AliasIs(alias, None if there is None else there.target)],
        records=[record],
        aliases={alias: record.id},
        reason=reason or "restore",
    )
    write_restore(offline, made)
    if views:
        warnings.warn(
            OnlineDiffersWarning(
                f"The online tables of {', '.join(views)} hold what {source!r} was before it was "
                "restored, until they are written anew: featurestore materialize"
            ),
            stacklevel=3,
        )
    return RestoredTable(
        id=_id(source, made.at_us),
        target=ref,
        rows_added=made.rows_added,
        rows_removed=made.rows_removed,
        to_materialize=views,
    )


def _instants(found: TableState, now: State) -> Iterator[int]:
    yield from found.log.upto().values()
    if now.restore is not None:
        yield now.restore.at_us


def _refuse_stream(found: TableState, context: Context) -> None:
    streams = [one.name for one in context.repo.streams.values() if one.source == found.source]
    if not streams:
        return
    since_us = context.clock.now_us() - LIVE_US
    if any(one.operation == "push" and one.at_us > since_us for one in _versions(found, 1)):
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
            rows += file.rows if more == _whole(file) else _rows_of(log.offline, file, more)
    return rows


def _whole(file: LoggedFile) -> Spans:
    return ((file.first_us - 1, file.last_us),)


def counted_commits(file: LoggedFile) -> Spans:
    """The commits of a file that count."""
    return _whole(file) if file.counted is None else file.counted


def _rows_of(offline: OfflineFolder, file: LoggedFile, spans: Spans) -> int:
    commits = offline.read(file.name, [COMMITTED])[COMMITTED].value_counts().to_pylist()
    return sum(
        one["counts"] for one in commits if common([(one["values"] - 1, one["values"])], spans)
    )


def views_with_tables(context: Context, source: str) -> tuple[str, ...]:
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
    table, tags = push_log.rows_table(source), _tags(context, source)
    now_us = context.clock.now_us()

    def kept(log_now: PushLog) -> list[State]:
        restores = log_now.restores(table)
        before = [None, *restores]
        states = [
            State(restore=older, upto=restore.upto)
            for older, restore in zip(before, restores, strict=False)
            if restore.at_us > now_us - older_than_us
        ]
        return states + [_state(context, log_now, source, name) for name in tags]

    found = push_vacuum.vacuum(_offline(context), table, kept=kept, now_us=now_us, dry_run=dry_run)
    return VacuumedTable(
        table=PREFIX + source,
        rows=found.rows,
        files=found.files,
        kept_tags=tuple(sorted(tags)),
        removed=not dry_run,
    )
