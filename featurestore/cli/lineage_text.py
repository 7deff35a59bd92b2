"""Answers about lineage as people read them: lists with counts, and trees."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from featurestore.cli.output import say, show_table
from featurestore.permissions import VIEWS
from featurestore.records import show_id
from featurestore.timeline import SECOND_US, format_duration, format_instant

if TYPE_CHECKING:
    from featurestore.jobs.lineage_blast import BadData
    from featurestore.jobs.lineage_erase import Erasure, Holds
    from featurestore.jobs.lineage_freshness import Freshness
    from featurestore.jobs.lineage_gc import Collected
    from featurestore.jobs.lineage_history import Diff
    from featurestore.jobs.lineage_impact import Impact, Touched
    from featurestore.jobs.lineage_tree import Lineage, Node
    from featurestore.jobs.lineage_uses import Uses
    from featurestore.lifecycle.lineage import Blast, Hit
    from featurestore.records import AliasEvent, Link

LINES_MAX = 50
"""Of one list; --json has all."""
TREE_LINES_MAX = 500
_LEGEND = "(= by value, ~ indirectly)"


def impact(found: Impact) -> str:
    """What a change would touch."""
    from featurestore.lifecycle.changes import in_use

    head = f"A change of {found.target}{_as_of(found.at_us)} touches"
    if found.is_empty:
        return f"{head} nothing that the registry knows of."
    lines = [f"{head} {_LEGEND}:", *_features(found.features), *_blast(found.blast)]
    if found.doubts:
        lines.append("It can't be told whether these read it:")
        lines += [f"  ? source {d.source}, {_column(d.column)}: {d.why}" for d in found.doubts]
    if found.maybe.every:
        lines += ["Behind those, and so maybe touched:", *_blast(found.maybe)]
    live = [
        f"{hit.label} ({', '.join(in_use(hit.aliases))})" for hit in found.blast.models_in_stage
    ]
    lines.append(f"In a stage: {', '.join(live) or 'no model of these'}.")
    return "\n".join(lines)


def uses(found: Uses) -> str:
    """Who uses something."""
    head = f"{found.target}{_as_of(found.at_us)} is used by"
    if found.is_unused:
        lines = [f"{head} nothing that the registry knows of."]
    else:
        lines = [f"{head} {_LEGEND}:", *_features(found.features), *_blast(found.blast)]
    trained = "never"
    if found.last_trained_us is not None and found.last_training_set is not None:
        trained = f"{format_instant(found.last_trained_us)} ({show_id(found.last_training_set)})"
    written = found.last_materialized_us
    lines += [
        f"Last trained on:    {trained}",
        f"Last materialized:  {'never' if written is None else format_instant(written)}",
        f"Last online use:    {_online(found)}",
    ]
    if found.lookups is not None:
        lines.append(f"Online:             {found.lookups:,} rows since that server started")
    return "\n".join(lines)


def _online(found: Uses) -> str:
    if not found.last_online:
        return "none that a server has told of"
    newest, *others = found.last_online
    more = f" and {len(others):,} more" if others else ""
    name = newest.name.removeprefix(VIEWS)
    what = f"view {name}" if name != newest.name else f"service {name}"
    return f"{format_instant(newest.at_us)} ({what} in {newest.environment}{more})"


def bad_data(found: BadData) -> str:
    """Who saw bad data."""
    since = "" if found.from_us is None else f" from {format_instant(found.from_us)}"
    until = "" if found.to_us is None else f" until {format_instant(found.to_us)}"
    what = f"rows of {found.target}{since}{until}{_as_of(found.at_us)}"
    if not (found.snapshots or found.maybe.every):
        return f"No snapshot holds {what}."
    lines = [f"Snapshots that hold {what}:"]
    lines += _some([f"  {show_id(seen.id)}: {seen.why}" for seen in found.snapshots]) or ["  none"]
    lines += ["Seen by:", *_blast(found.blast)] if found.blast.every else ["Seen by nothing."]
    if found.maybe.every:
        lines += ["Maybe seen, for they read it without a pin:", *_blast(found.maybe)]
    return "\n".join(lines)


def diff(found: Diff) -> str:
    """What moved below an alias."""
    span = f"{format_instant(found.from_us)} → {format_instant(found.to_us)}"
    lines = [
        f"{found.alias}, {span}:",
        f"  from {_named(found.before)}",
        f"  to   {_named(found.after)}",
    ]
    lines += [f"  {_event(event)}" for event in found.events]
    if found.is_empty:
        return "\n".join([*lines, "Nothing differs."])
    if found.fields:
        lines += ["Of itself:", *_some([f"  {field}" for field in found.fields])]
    if found.objects:
        lines.append("What it is made of:")
        lines += _some(
            [
                f"  {o.change:<8} {_spoken(o.kind)} {o.name}"
                + (f": {'; '.join(o.details)}" if o.details else "")
                for o in found.objects
            ]
        )
    return "\n".join(lines)


def show_events(events: Sequence[AliasEvent]) -> None:
    """The moves of an alias, as a table."""
    rows = [
        [
            event.serial,
            format_instant(event.at_us),
            event.author,
            _named(event.target),
            event.reason,
        ]
        for event in events
    ]
    show_table(["move", "at", "by", "to", "why"], rows)


def show_freshness(found: Freshness) -> None:
    """How fresh the answers of a service are."""
    age = found.age_us
    fresh = "never filled" if age is None else f"{_age(age)} old"
    say(f"{found.service} in {found.environment}, {format_instant(found.at_us)}: {fresh}")
    rows = [
        [
            _spoken(node.kind),
            node.name,
            "never" if node.watermark_us is None else format_instant(node.watermark_us),
            "—" if node.watermark_us is None else _age(found.at_us - node.watermark_us),
            ", ".join(node.inputs) or "—",
        ]
        for node in found.nodes
    ]
    show_table(["kind", "name", "watermark", "age", "inputs"], rows)


def tree(found: Lineage) -> str:
    """A graph as a tree: what stands in it twice is drawn out once. `~` marks what enters
    indirectly, with its role."""
    nodes = {node.id: node for node in found.nodes}
    below: dict[str, list[Link]] = {}
    for link in found.links:
        below.setdefault(link.child if found.direction == "up" else link.parent, []).append(link)
    lines = list(_branches(found, nodes, below))
    way = "made of" if found.direction == "up" else "made into"
    head = f"{_node(nodes[found.root])}{_as_of(found.at_us)}"
    if not lines:
        return f"{head} is {way} nothing that the registry knows of."
    if len(lines) > TREE_LINES_MAX:
        more = len(lines) - TREE_LINES_MAX
        lines = [*lines[:TREE_LINES_MAX], f"… {more} more lines; --json has all, --depth fewer"]
    return "\n".join([head, *lines])


def erasure(found: Erasure) -> str:
    """Which training sets hold erased keys, and what was deleted."""
    what = f"{found.keys:,} of {found.entity}"
    lines = [f"No training set of {found.scanned:,} holds {what}."]
    if found.sets:
        lines = [f"Training sets that hold {what} ({len(found.sets)} of {found.scanned:,}):"]
        lines += _some([f"  {_holding(holds)}" for holds in found.sets])
    if found.blast.every:
        lines += ["Made of those:", *_blast(found.blast)]
    if found.deletion is None:
        return "\n".join([*lines, "Nothing was deleted (--dry-run)."])
    at, removed = format_instant(found.deletion.at_us), found.deletion.rows_removed
    lines.append(f"Deleted as of {at}; {removed:,} online rows removed.")
    if found.sets:
        lines.append("The files of these training sets stay as they are: make them anew.")
    return "\n".join(lines)


def collected(found: Collected) -> str:
    """What garbage there was."""
    if not found.files:
        return f"Nothing to collect; {found.kept:,} files are named by something, or too young."
    lines = [
        f"  {_spoken(file.kind)} {file.name}: {file.size:,} bytes, "
        f"{format_instant(file.written_us)}"
        for file in found.files
    ]
    head = f"Nothing names these {len(found.files):,} files ({found.size:,} bytes):"
    end = f"Removed {found.removed:,}." if found.removed else "None was removed."
    return "\n".join([head, *_some(lines), end])


def _holding(holds: Holds) -> str:
    what = holds.problem if holds.rows is None else f"{holds.rows:,} rows"
    return f"{show_id(holds.id).partition(':')[2]}: {what}"


def _branches(
    found: Lineage, nodes: dict[str, Node], below: dict[str, list[Link]]
) -> Iterator[str]:
    drawn = {found.root}
    # A stack of what is still to draw; a graph may be deeper than Python's own stack.
    todo = _children(found, below, found.root, "")
    while todo:
        far, mark, indent, last = todo.pop()
        again = far in drawn and bool(below.get(far))
        yield f"{indent}{'└─' if last else '├─'}{mark}{_node(nodes[far])}{' …' if again else ''}"
        if far not in drawn:
            drawn.add(far)
            todo += _children(found, below, far, indent + ("   " if last else "│  "))


def _children(
    found: Lineage, below: dict[str, list[Link]], node: str, indent: str
) -> list[tuple[str, str, str, bool]]:
    """What hangs below a node, last first, each once with all its roles."""
    ways: dict[str, list[Link]] = {}
    for link in below.get(node, ()):
        ways.setdefault(link.parent if found.direction == "up" else link.child, []).append(link)
    items = list(ways.items())
    return [
        (far, _mark(links), indent, place == len(items) - 1)
        for place, (far, links) in reversed(list(enumerate(items)))
    ]


def _mark(links: Iterable[Link]) -> str:
    """How something enters: nothing by value, else its roles."""
    known = list(links)
    if any(link.transformation == "DIRECT" for link in known):
        return " "
    return f"~ {', '.join(dict.fromkeys(link.role for link in known))}: "


def _node(node: Node) -> str:
    aliases = f" [{', '.join(node.aliases)}]" if node.aliases else ""
    if node.id.endswith(("#*", "#?")):  # not one column: its rows, or any column
        return node.label
    return f"{_spoken(node.kind)} {node.label}{aliases}"


def _features(features: Sequence[Touched]) -> list[str]:
    lines = [
        f"  {_sign(f.transformation)} {f.name}  ({', '.join(f.roles)}"
        f"{'' if f.environments else '; in no environment now'})"
        for f in features
    ]
    return [f"features ({len(lines)})", *_some(lines)] if lines else []


def _blast(blast: Blast) -> list[str]:
    groups: dict[str, Sequence[Hit]] = {
        "services": blast.services,
        "training sets": blast.training_sets,
        "runs": blast.runs,
        "models": blast.models,
    }
    lines = []
    for name, hits in groups.items():
        if hits:
            shown = [f"  {_sign(hit.transformation)} {hit}" for hit in hits]
            lines += [f"{name} ({len(hits)})", *_some(shown)]
    return lines


def _some(lines: Sequence[str]) -> list[str]:
    more = len(lines) - LINES_MAX
    return [*lines[:LINES_MAX], *([f"  … {more} more; --json has all"] if more > 0 else [])]


def _sign(transformation: str) -> str:
    return "=" if transformation == "DIRECT" else "~"


def _spoken(kind: str) -> str:
    return kind.replace("on_demand", "on-demand").replace("_", " ")


def _column(column: str) -> str:
    return "its rows" if column == "*" else f"column {column}"


def _as_of(at_us: int | None) -> str:
    return "" if at_us is None else f" as of {format_instant(at_us)}"


def _named(record_id: str | None) -> str:
    return "nothing" if record_id is None else show_id(record_id)


def _event(event: AliasEvent) -> str:
    why = f": {event.reason}" if event.reason else ""
    return f"{format_instant(event.at_us)} {event.author} → {_named(event.target)}{why}"


def _age(age_us: int) -> str:
    """To the second; shorter ages in full."""
    return format_duration(age_us - age_us % SECOND_US if age_us >= SECOND_US else age_us)
