"""The graph of columns: what record bodies say of the columns that sources, features and features
on demand read, as links between nodes.

A node is a record's id or, for a column of a source, `<record id>#<column>`. `#*` is what decides
which rows a query has, `#?` any column that can't be told. Roles of links to columns:

    value   becomes the value                           DIRECT
    by      picks the bucket of a map                   DIRECT
    case    decides which value is taken                INDIRECT
    where   filters what an aggregation counts          INDIRECT
    key     is a join key                               INDIRECT
    time    is event time (ttl, windows), created, op   INDIRECT
    tie     breaks ties of one event time               INDIRECT
    rows    decides which rows a query has              INDIRECT
    unresolved   may be any of these: it can't be told from the query
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from featurestore.records import Glance, Link, Record, Transformation

Described = Record | Glance
ROWS, ANY = "*", "?"
UNRESOLVED = "unresolved"
_NOT_RECORDED = {"columns": {}, "rows": (), "unresolved": {ROWS: "its columns were not recorded"}}
_NO_VALUES = ("source:", "entity:", "request_source:")
"""Beginnings of ids whose links to the records below are told column by column."""


def column_node(record_id: str, column: str) -> str:
    """The node of a source's column."""
    return f"{record_id}#{column}"


def split_node(node: str) -> tuple[str, str | None]:
    """The record id of a node, and the column if it is one."""
    head, at, rest = node.partition("@")
    digest, sharp, column = rest.partition("#")
    return (f"{head}{at}{digest}", column) if sharp else (node, None)


def value_links(links: Iterable[Link], by_id: Mapping[str, Described]) -> list[Link]:
    """The graph of columns within what a walk has found: the links of columns of the sources and
    features in `by_id` (which has their parents, too), and those `links` between records that tell
    of values: features, views, services, training sets and what comes of them."""
    found = [link for link in links if not link.parent.startswith(_NO_VALUES)]
    for record in by_id.values():
        parents = [by_id[edge.parent] for edge in record.parents if edge.parent in by_id]
        if record.kind == "source":
            found += _query_links(record, parents)
        elif record.kind == "feature":
            found += _feature_links(record, parents)
    return list(dict.fromkeys(found))


def unresolved_of(source: Described) -> dict[str, str]:
    """What of a query is not known, and why, by output column (`*`: the rows). Empty for files."""
    if "inputs" not in source.body:
        return {}
    return dict(source.body.get("column_lineage", _NOT_RECORDED)["unresolved"])


def source_column(source: Described, column: str) -> str | None:
    """The name that a source has for `column`: its own, or that of its files which `field_mapping`
    changes. None: it has none such, as far as is recorded."""
    mapped = source.body.get("field_mapping", {}).get(column)
    for name in (column, mapped):
        if name is not None and ("columns" not in source.body or name in source.body["columns"]):
            return str(name)
    return None


def tree_lineage(tree: Sequence[Any] | None) -> dict[str, Transformation]:
    """As `definitions.expression.column_lineage`, of a canonical tree as records hold it."""
    found: dict[str, Transformation] = {}
    for name, how in _reads(tree or (), "DIRECT"):
        if found.get(name) != "DIRECT":
            found[name] = how
    return found


def _reads(tree: Sequence[Any], how: Transformation) -> Iterator[tuple[str, Transformation]]:
    match tree:
        case ["column", str(name)]:
            yield name, how
        case ["call", "nullif", value, other]:
            yield from _reads(value, how)
            yield from _reads(other, "INDIRECT")
        case ["call", str(), *arguments]:
            for argument in arguments:
                yield from _reads(argument, how)
        case ["cast", str(), argument]:
            yield from _reads(argument, how)
        case ["case", branches, default]:
            for when, then in branches:
                yield from _reads(when, "INDIRECT")
                yield from _reads(then, how)
            yield from _reads(default, how)
        case _:  # a literal, or the hash of a function
            return


def _query_links(record: Described, parents: Sequence[Described]) -> Iterator[Link]:
    if not parents:
        return
    by_name = {parent.name: parent for parent in parents}
    known = record.body.get("column_lineage", _NOT_RECORDED)
    rows = column_node(record.id, ROWS)
    for output, found in known["columns"].items():
        node = column_node(record.id, output)
        for at, how in found.items():
            role = "value" if how == "DIRECT" else "case"
            yield from _to_column(node, at, role, how, by_name=by_name)
    for at in known["rows"]:
        yield from _to_column(rows, at, "rows", "INDIRECT", by_name=by_name)
    for parent in parents:
        if "inputs" in parent.body:
            yield Link(rows, column_node(parent.id, ROWS), "rows", "INDIRECT")
        for output in known["unresolved"]:
            anything = column_node(parent.id, ANY)
            yield Link(column_node(record.id, output), anything, UNRESOLVED, "INDIRECT")
            for column in _columns(parent):
                yield Link(anything, column_node(parent.id, column), UNRESOLVED, "INDIRECT")


def _to_column(
    node: str, at: str, role: str, how: Transformation, *, by_name: Mapping[str, Described]
) -> Iterator[Link]:
    source, _, column = at.partition(".")
    if source in by_name:
        yield Link(node, column_node(by_name[source].id, column), role, how)


def _feature_links(record: Described, parents: Sequence[Described]) -> Iterator[Link]:
    for parent in parents:
        match parent.kind:
            case "source":
                for column, role, how in _source_reads(record, parent, parents):
                    yield Link(record.id, column_node(parent.id, column), role, how)
                    if parent.body.get("inputs") and "columns" not in parent.body:
                        listed = column_node(parent.id, column), column_node(parent.id, ROWS)
                        yield Link(*listed, UNRESOLVED, "INDIRECT")
                if "inputs" in parent.body:
                    yield Link(record.id, column_node(parent.id, ROWS), "rows", "INDIRECT")
            case "request_source":
                for column, how in _request_reads(record, parent):
                    role = "value" if how == "DIRECT" else "case"
                    yield Link(record.id, column_node(parent.id, column), role, how)


def _source_reads(
    record: Described, source: Described, parents: Sequence[Described]
) -> Iterator[tuple[str, str, Transformation]]:
    """The columns of its source that a feature reads: name, role and transformation."""
    body = record.body
    for column, how in tree_lineage(body["tree"]).items():
        yield column, "value" if how == "DIRECT" else "case", how
    for column in body.get("by_columns", ()):
        yield column, "by", "DIRECT"
    for column in body.get("where_columns", ()):
        yield column, "where", "INDIRECT"
    for parent in parents:
        if parent.kind == "entity":
            for key in parent.body["join_keys"]:
                yield key["name"], "key", "INDIRECT"
    for name in ("event_time", "created_time", "op"):
        if source.body.get(name):
            yield source.body[name], "time", "INDIRECT"
    for column in (source.body.get("event_id"), *source.body.get("tiebreak", ())):
        if column:
            yield column, "tie", "INDIRECT"


def _request_reads(record: Described, request: Described) -> Iterator[tuple[str, Transformation]]:
    """The values of a request that a feature reads; its expression calls them `request__column`."""
    known = tree_lineage(record.body["tree"])
    for column in request.body["columns"]:
        called = f"{request.name}__{column}"
        if called in record.body["columns"]:
            yield column, known.get(called, "DIRECT")


def _columns(source: Described) -> list[str]:
    """As the record lists them; none where they are too many for that."""
    return list(source.body.get("columns", ()))
