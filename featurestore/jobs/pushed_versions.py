"""Versions of what was pushed to a source: their names, a log, tags.

A version is named by an instant, for machines write without asking each other and nobody counts
what they commit: `pushed/landings/2026-11-26T18:00:00Z` is the table as it was then,
`pushed/landings/audited` a tag, `pushed/landings` the table now. `pushed_restore` goes back to one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from heapq import nlargest
from itertools import islice
from typing import TYPE_CHECKING, Literal

from featurestore.errors import (
    InvalidRequest,
    RecordNotFound,
    SnapshotMissing,
    UnknownSource,
)
from featurestore.lifecycle.versions import check_tag
from featurestore.records import AliasIs, Record
from featurestore.stores.offline import push_log
from featurestore.stores.offline.push_manifest import LoggedFile, PushLog
from featurestore.stores.offline.push_states import (
    BEFORE,
    Spans,
    State,
    state_at,
)
from featurestore.timeline import format_instant, to_us

if TYPE_CHECKING:
    from featurestore.jobs.materialize import Context
    from featurestore.records import StoredRecord
    from featurestore.stores.offline.folder import OfflineFolder

PREFIX = "pushed/"
"""How a table of pushed rows is named: `pushed/<source>`."""
TAG_KIND = "data_version"
_TAGGED = "tagged"
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
    offline = offline_of(context)
    push_log.drain(offline, now_us=context.clock.now_us())
    log = PushLog.read(offline)
    source, _, version = ref.removeprefix(PREFIX).partition("/")
    table = push_log.rows_table(source)
    if table not in log.tables:
        known = [name.partition("/")[2] for name in log.tables if name.startswith("rows/")]
        raise UnknownSource(source, known=known)
    state = state_of(context, log, source, version) if version else log.now(table)
    if log.vacuumed(table, state):
        raise SnapshotMissing(
            f"{ref}: rows of this version were vacuumed. Take a later one; tag what has to stay"
        )
    return TableState(source=source, id=ref, state=state, log=log)


def offline_of(context: Context) -> OfflineFolder:
    """Where the push log is. Raises `InvalidRequest` where there is none."""
    if context.offline is None:
        raise InvalidRequest("pushed rows need an offline folder")
    return context.offline


def state_of(context: Context, log: PushLog, source: str, version: str) -> State:
    """The state that a tag or an instant names. Raises `RecordNotFound`."""
    restores = log.restores(push_log.rows_table(source))
    tags = tags_of(context, source)
    if version in tags:
        body = tags[version].record.body
        by_number = {restore.number: restore for restore in restores}
        return State(restore=by_number.get(body["restore"]), upto=body["upto"], default=BEFORE)
    try:
        return state_at(restores, to_us(version))
    except (ValueError, InvalidRequest) as error:
        raise RecordNotFound(f"{PREFIX}{source}/{version}", known=tags) from error


def tags_of(context: Context, source: str) -> dict[str, StoredRecord]:
    """The tags of a table, and the records that they point to."""
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
    versions = nlargest(limit, versions_of(found, limit), key=lambda one: one.at_us)
    tags: dict[int, tuple[str, ...]] = {}
    for name, stored in sorted(tags_of(context, source).items()):
        at_us = stored.record.body["version_us"]
        tags[at_us] = (*tags.get(at_us, ()), name)
    return tuple(
        replace(one, current=place == 0, tags=tags.get(one.at_us, ()))
        for place, one in enumerate(versions)
    )


def versions_of(found: TableState, limit: int) -> Iterator[TableVersion]:
    """In no order, at most `limit` of each machine."""
    table = push_log.rows_table(found.source)
    for manifest in found.log.manifests.values():
        for commit in islice(found.log.commits(manifest, table), limit):
            rows = commit.rows[table]
            pushed = commit.operation == "push"
            yield TableVersion(
                id=version_id(found.source, commit.at_us),
                at_us=commit.at_us,
                operation=commit.operation,
                author=manifest.host,
                rows_added=rows if pushed else 0,
                rows_removed=0 if pushed else rows,
                current=False,
            )
    for restore in found.log.restores(table):
        yield TableVersion(
            id=version_id(found.source, restore.at_us),
            at_us=restore.at_us,
            operation="restore",
            author=restore.author,
            rows_added=restore.rows_added,
            rows_removed=restore.rows_removed,
            current=False,
            target=restore.target,
            reason=restore.reason,
        )


def version_id(source: str, at_us: int) -> str:
    """The name of a version."""
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
    versions = [one.at_us for one in versions_of(found, LOG_VERSIONS) if _is_of(one.at_us, state)]
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


def whole(file: LoggedFile) -> Spans:
    """All commits of a file."""
    return ((file.first_us - 1, file.last_us),)


def counted_commits(file: LoggedFile) -> Spans:
    """The commits of a file that count."""
    return whole(file) if file.counted is None else file.counted
