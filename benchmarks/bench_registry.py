"""What the registry costs on a graph of 200,000 edges: walks, questions, commits.

    python benchmarks/bench_registry.py [--quick] [--json FILE]

The graph: sources with features over their columns, views, services, two versions of everything, a
repository of each; training sets of 40 features, runs, models. Walks are compared with the same
recursive query, written by hand over integer keys and sent through the driver; commits with a
transaction of the driver that writes one row. SQLite, and Postgres from a wheel.
"""

from __future__ import annotations

import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from results import Result, parser, report

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from postgres_servers import postgres_server

from featurestore.jobs.lineage import downstream, name_of
from featurestore.jobs.lineage_blast import bad_data
from featurestore.jobs.lineage_history import diff, history
from featurestore.jobs.lineage_impact import impact
from featurestore.jobs.lineage_tree import lineage
from featurestore.jobs.lineage_uses import who_uses
from featurestore.records import AliasIs, Edge, Record
from featurestore.stores.registry.base import Registry
from featurestore.stores.registry.sql import SqlRegistry
from featurestore.timeline import SystemClock

EDGES, EDGES_QUICK = 200_000, 20_000
ASKED, ASKED_QUICK = 60, 15
"""Questions of each kind; their median counts."""
COMMITS, COMMITS_QUICK = 300, 60
COLUMNS = 12
FEATURES_PER_VIEW, FEATURES_PER_SET = 10, 40
BATCH = 2_000
"""Records per commit while the graph is made."""

DOWN = """
WITH RECURSIVE reached(seq) AS (
    SELECT seq FROM record WHERE project = {0} AND id = {0}
    UNION SELECT edge.child FROM reached JOIN edge ON edge.parent = reached.seq
)
SELECT c.id, p.id, edge.role, edge.transformation FROM reached
JOIN edge ON edge.parent = reached.seq
JOIN record c ON c.seq = edge.child JOIN record p ON p.seq = edge.parent
"""
UP = DOWN.replace("edge.child FROM", "edge.parent FROM").replace(
    "ON edge.parent = reached", "ON edge.child = reached"
)

Rows = list[tuple[Any, ...]]
Ask = Callable[[str, tuple[str, ...]], Rows]


def graph(edges: int) -> Iterator[Record]:
    """Records, parents first, with about so many edges in all."""
    drawn = random.Random(7)
    views = max(edges // 460, 6)
    entity = Record(
        kind="entity", name="user", body={"version": "e", "join_keys": [{"name": "user"}]}
    )
    yield entity
    features = list[Record]()
    for generation in range(2):
        defined = [entity]
        for view in range(views):
            found = list(one_view(view, generation, entity))
            yield from found
            defined += found
            features += [record for record in found if record.kind == "feature"]
        repo = [Edge(parent=record.id, role=record.kind) for record in defined]
        yield Record(
            kind="repo", name="shop", body={"version": str(generation)}, parents=tuple(repo)
        )
    made = views * 2 * (FEATURES_PER_VIEW * 5 + 3)
    number = 0
    while made < edges:
        number += 1
        first = drawn.randrange(len(features))
        used = [features[(first + step * 7) % len(features)] for step in range(FEATURES_PER_SET)]
        yield from one_model(number, used)
        made += FEATURES_PER_SET + 3


def one_view(view: int, generation: int, entity: Record) -> Iterator[Record]:
    """A source, a view over it and its features, and a service."""
    columns = {f"c{n}": "float64" for n in range(COLUMNS)}
    body = {"version": f"s{view}", "columns": columns, "event_time": "c0", "note": generation}
    source = Record(kind="source", name=f"source{view}", body=body)
    yield source
    features = []
    for n in range(FEATURES_PER_VIEW):
        column = f"c{1 + n % (COLUMNS - 1)}"
        made = Record(
            kind="feature",
            name=f"view{view}.f{n}",
            body={
                "version": f"{generation}{view}.{n}",
                "view": f"view{view}",
                "tree": ["call", "add", ["column", column], ["literal", "int64", generation]],
                "columns": [column],
            },
            parents=(
                Edge(parent=source.id, role="source"),
                Edge(parent=source.id, role="time", transformation="INDIRECT"),
                Edge(parent=entity.id, role="entity", transformation="INDIRECT"),
            ),
        )
        features.append(made)
    yield from features
    edges = tuple(Edge(parent=made.id, role="feature") for made in features)
    body = {"version": f"v{generation}{view}"}
    whole = Record(kind="view", name=f"view{view}", body=body, parents=edges)
    yield whole
    parents = (Edge(parent=whole.id, role="view"),)
    yield Record(kind="service", name=f"service{view}", body=body, parents=parents)


def one_model(number: int, used: list[Record]) -> Iterator[Record]:
    """A training set, a run and a model."""
    parents = tuple(Edge(parent=made.id, role="feature") for made in used)
    data = Record(kind="training_set", name=f"set{number}", body={"rows": 1}, parents=parents)
    edge = Edge(parent=data.id, role="training_set")
    run = Record(kind="run", name=f"exp/{number}", parents=(edge,))
    yield from (data, run)
    parents = (Edge(parent=run.id, role="run"), edge)
    yield Record(kind="model", name=f"model{number}", body={"number": 1}, parents=parents)


def fill(registry: Registry, edges: int) -> dict[str, list[str]]:
    """Write the graph; the ids by kind."""
    ids, batch = dict[str, list[str]](), list[Record]()
    for record in graph(edges):
        ids.setdefault(record.kind, []).append(record.id)
        batch.append(record)
        if len(batch) == BATCH:
            registry.commit(records=batch)
            batch = []
    aliases: dict[str, str | None] = {"env/prod": ids["repo"][-1]}
    for model in ids["model"][::10]:
        aliases[f"model/{model.partition(':')[2].partition('@')[0]}/production"] = model
    registry.commit(records=batch, aliases=aliases)
    return ids


def median_ms(run: Callable[[str], object], items: list[str]) -> float:
    """The median time of a call, after one to warm up."""
    run(items[0])
    times = []
    for item in items:
        begun = time.perf_counter()
        run(item)
        times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1e3


def questions(
    name: str,
    registry: Registry,
    *,
    bare: Ask,
    mark: str,
    ids: dict[str, list[str]],
    asked: int,
) -> Iterator[Result]:
    """The lines of one database."""
    drawn = random.Random(3)
    features = drawn.sample(ids["feature"], asked)
    models = drawn.sample(ids["model"], asked)
    columns = [
        f"source{n}.c{1 + n % 9}"
        for n in drawn.sample(
            range(len(ids["view"]) // 2), min(asked, 6) if len(ids["view"]) < 2 * asked else asked
        )
    ]
    down, up = DOWN.format(mark), UP.format(mark)
    setting = f"{name}, {sum(map(len, ids.values())):,} records"
    for job, ours, floor in (
        (
            "walk down of a feature",
            median_ms(lambda i: registry.walk(i, direction="down"), features),
            median_ms(lambda i: bare(down, ("shop", i)), features),
        ),
        (
            "walk up of a model",
            median_ms(lambda i: registry.walk(i, direction="up"), models),
            median_ms(lambda i: bare(up, ("shop", i)), models),
        ),
    ):
        yield Result(
            job=job,
            setting=setting,
            ours=ours,
            floor=floor,
            unit="ms",
            higher_is_better=False,
            floor_name="the same query by hand",
            limit=10,
            gates=False,  # a few milliseconds each: other work takes a core for longer than that
        )
    for job, run, items in asked_of(registry, ids, features=features, models=models, asked=columns):
        yield Result(
            job=job,
            setting=setting,
            ours=median_ms(run, items),
            unit="ms",
            higher_is_better=False,
            limit=10,
        )


def asked_of(
    registry: Registry,
    ids: dict[str, list[str]],
    *,
    features: list[str],
    models: list[str],
    asked: list[str],
) -> list[tuple[str, Callable[[str], object], list[str]]]:
    """Every question, and what it is asked about."""
    now_us = SystemClock().now_us()
    names = [one.partition(":")[2].partition("@")[0].replace(".", ":", 1) for one in features]
    stages = [f"model/{name_of(one)}/production" for one in ids["model"][::10]][: len(models)]
    return [
        ("downstream of a feature", lambda i: downstream(registry, [i]), features),
        ("impact of a column", lambda c: impact(registry, c), asked),
        ("impact of a feature", lambda f: impact(registry, f), names),
        ("who-uses of a feature", lambda f: who_uses(registry, f), names),
        ("lineage of a model, up", lambda i: lineage(registry, i, direction="up"), models),
        ("lineage of a column, down", lambda c: lineage(registry, c, direction="down"), asked),
        (
            "blast of a source",
            lambda s: bad_data(registry, s),
            [f"source:{column.partition('.')[0]}" for column in asked],
        ),
        ("history of a stage", lambda a: history(registry, a), stages),
        (
            "diff of a stage",
            lambda a: diff(registry, a, from_us=0, to_us=now_us),
            stages,
        ),
    ]


def commits(
    name: str, registry: Registry, bare: Callable[[str], object], count: int, limit: float
) -> Result:
    """A commit of one record that moves an alias on a belief, beside a bare transaction."""
    head = [str(number) for number in range(count)]
    last: list[str | None] = [None]

    def commit(number: str) -> None:
        record = Record(kind="fact", name="head", body={"number": f"{number} {time.time_ns()}"})
        registry.commit(
            requires=[AliasIs("head", last[0])], records=[record], aliases={"head": record.id}
        )
        last[0] = record.id

    return Result(
        job="commit of a record and an alias",
        setting=name,
        ours=median_ms(commit, head),
        floor=median_ms(bare, head),
        unit="ms",
        higher_is_better=False,
        floor_name="a transaction that writes a row",
        limit=limit,
        gates=False,
    )


@contextmanager
def opened(url: str, root: Path) -> Iterator[Registry]:
    with SqlRegistry.open(
        url, project="shop", root=root, clock=SystemClock(), author="bench"
    ) as registry:
        yield registry


def sqlite(edges: int, asked: int, count: int) -> Iterator[Result]:
    """All lines on SQLite."""
    with (
        tempfile.TemporaryDirectory(prefix="fs_bench_") as folder,
        opened("sqlite:///r.db", Path(folder)) as registry,
        closing(sqlite3.connect(Path(folder) / "r.db", isolation_level=None)) as driver,
    ):
        ids = fill(registry, edges)

        def bare(query: str, values: tuple[str, ...]) -> Rows:
            return driver.execute(query, values).fetchall()

        def write(number: str) -> None:
            driver.execute("BEGIN IMMEDIATE")
            driver.execute("INSERT INTO bare VALUES (?)", (number,))
            driver.execute("COMMIT")

        driver.execute("CREATE TABLE bare (number TEXT)")
        yield from questions("SQLite", registry, bare=bare, mark="?", ids=ids, asked=asked)
        yield commits("SQLite", registry, bare=write, count=count, limit=5)


def postgres(edges: int, asked: int, count: int) -> Iterator[Result]:
    """All lines on Postgres."""
    import psycopg

    with postgres_server() as server:
        server.psql("CREATE DATABASE bench")
        url = server.get_uri("bench")
        with (
            opened(url, Path("/unused")) as registry,
            closing(psycopg.connect(url, autocommit=True)) as driver,
        ):
            ids = fill(registry, edges)
            driver.execute("ANALYZE")

            def bare(query: str, values: tuple[str, ...]) -> Rows:
                return driver.execute(query, values).fetchall()  # type: ignore[call-overload,no-any-return]

            def write(number: str) -> None:
                with driver.transaction():
                    driver.execute("INSERT INTO bare VALUES (%s)", (number,))

            driver.execute("CREATE TABLE bare (number TEXT)")
            yield from questions("Postgres", registry, bare=bare, mark="%s", ids=ids, asked=asked)
            yield commits("Postgres", registry, bare=write, count=count, limit=10)


def main() -> None:
    asked = parser(__doc__).parse_args()
    quick = asked.quick
    sizes = (
        EDGES_QUICK if quick else EDGES,
        ASKED_QUICK if quick else ASKED,
        COMMITS_QUICK if quick else COMMITS,
    )
    report([*sqlite(*sizes), *postgres(*sizes)], asked)


if __name__ == "__main__":
    main()
