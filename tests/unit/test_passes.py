"""Passes over relations."""

from __future__ import annotations

import pytest

from featurestore.compiler.passes import prune, run_passes
from featurestore.compiler.rel import (
    AsOfJoin,
    DataFiles,
    Derive,
    Filter,
    Input,
    Latest,
    Limit,
    Project,
    Rel,
    Scan,
    Sql,
    Stamped,
    Union,
    walk,
)
from featurestore.definitions.expression import Column, parse_expression
from featurestore.dtypes import INT64, STRING, TIMESTAMP

DTYPES = {"key": STRING, "at": TIMESTAMP, "known": TIMESTAMP, "a": INT64, "b": INT64, "c": INT64}
FILES = DataFiles(format="parquet", paths=("x.parquet",), schema=DTYPES)
SCAN = Scan(source="s", files=FILES, columns={n: n for n in DTYPES}, dtypes=DTYPES)


def stamped(rel: Rel, *tiebreak: str) -> Stamped:
    return Stamped(
        input=rel,
        keys=("key",),
        event_time="at",
        created_time="known",
        event_time_is=None,
        op=None,
        tiebreak=tiebreak,
    )


def scanned(rel: Rel) -> list[list[str]]:
    """The columns that each scan reads."""
    return [list(node.columns) for node in walk(rel) if isinstance(node, Scan)]


def only(rel: Rel, *names: str) -> Project:
    return Project(input=rel, columns={name: name for name in names})


PRUNED: dict[str, tuple[Rel, list[list[str]]]] = {
    "scan": (SCAN, [list(DTYPES)]),
    "project": (only(SCAN, "b"), [["b"]]),
    "filter": (only(Filter(input=SCAN, predicate=parse_expression("a > 1")), "b"), [["a", "b"]]),
    "derive": (
        only(
            Derive(
                input=SCAN,
                columns={
                    "d": (parse_expression("a + b"), INT64),
                    "unused": (Column("c"), INT64),
                },
            ),
            "d",
        ),
        [["a", "b"]],
    ),
    "latest": (only(Latest(input=stamped(SCAN, "c")), "a"), [["key", "at", "known", "a", "c"]]),
    "limit": (only(Limit(input=SCAN, rows=1), "c"), [["c"]]),
    "union": (only(Union(inputs=(SCAN, SCAN)), "a"), [["a"], ["a"]]),
    "sql": (
        Sql(query="SELECT a FROM t", inputs={"t": only(SCAN, "a")}, dtypes={"a": INT64}),
        [["a"]],
    ),
    "as of": (
        only(
            AsOfJoin(
                left=Input(name="left", dtypes={"k": STRING, "t": INT64}),
                right=stamped(SCAN, "b"),
                keys={"k": "key"},
                left_time="t",
                columns={"x": "a", "y": "c"},
                status="status",
                as_of="known",
                known_until_us=None,
                ttl_us=None,
                grace_us=None,
            ),
            "x",
        ),
        [["key", "at", "known", "a", "b"]],
    ),
    "nothing": (Project(input=SCAN, columns={}), [["key"]]),
}


@pytest.mark.parametrize("name", PRUNED)
def test_scans_read_what_is_needed(name: str) -> None:
    rel, expected = PRUNED[name]
    pruned = prune(rel)
    assert scanned(pruned) == expected
    assert list(pruned.schema.items()) == list(rel.schema.items())
    assert run_passes(rel) == pruned
    assert prune(pruned) == pruned


def test_columns_that_were_needed_below_alone_are_dropped_again() -> None:
    rel = Limit(input=only(Filter(input=SCAN, predicate=parse_expression("a > 1")), "b"), rows=1)
    assert list(prune(rel).schema) == ["b"]
