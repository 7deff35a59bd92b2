"""Conditional writes to a cluster of three nodes, beside a bare bulk write to the same cluster.

    python benchmarks/bench_cluster.py [--quick] [--json FILE]

The floor sends pre-encoded HSETs, one buffer for each node, all nodes at once. Client and nodes
share this machine's cores, so what one node can do is told by the processor time of the busiest.
"""

from __future__ import annotations

import os
import selectors
import socket
import statistics
import sys
import time
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import hiredis
import numpy as np
import pyarrow as pa
from results import RUNS, Result, parser, report

from featurestore.dtypes import FLOAT64, INT64, STRING, DType
from featurestore.stores.online.base import RowBatch
from featurestore.stores.online.redis_cluster import RedisClusterStore
from featurestore.stores.online.redis_slots import key_slot
from featurestore.wire.rows import RowLayout, encode_keys, encode_rows, key_prefix

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from cluster_servers import RedisCluster, slot_ranges
from redis_servers import RedisServer

FIELD = b"field--1"
BATCH_ROWS = 20_000
PER_NODE_LIMIT = 100_000
_CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True)
class Took:
    """Rows per second, and per second of the busiest node's processor time."""

    rate: float
    node_rate: float


def data(count: int) -> tuple[list[bytes], Callable[[int], list[bytes]]]:
    """Keys, and the rows of a version: 10 features, three of them strings."""
    random = np.random.default_rng(7)
    kinds: list[DType] = [FLOAT64] * 4 + [INT64] * 3 + [STRING] * 3
    layout = RowLayout(tuple((f"f{i}", kind) for i, kind in enumerate(kinds)), 0xBE7C)
    columns = [pa.array(random.normal(size=count)) for _ in range(4)]
    columns += [pa.array(random.integers(0, 10**9, count)) for _ in range(3)]
    texts = random.integers(0, 10**6, (3, count))
    columns += [pa.array([f"value {i}" for i in numbers]) for numbers in texts]
    keys = encode_keys([pa.array(random.permutation(count))], key_prefix("bench", "user"))

    def rows(version: int) -> list[bytes]:
        times = np.arange(count) + 1_700_000_000_000_000 + version
        return encode_rows(layout, times, times, columns)

    return keys, rows


def processor_s(node: RedisServer) -> float:
    """The processor time that a node has used."""
    fields = Path(f"/proc/{node.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def timed(cluster: RedisCluster, count: int, work: Callable[[], object]) -> Took:
    before = [processor_s(node) for node in cluster.nodes]
    begun = time.perf_counter()
    work()
    took = time.perf_counter() - begun
    busiest = max(processor_s(n) - s for n, s in zip(cluster.nodes, before, strict=True))
    share = count / len(cluster.nodes)
    return Took(count / took, share / max(busiest, 0.01))


def payloads(
    cluster: RedisCluster, keys: Sequence[bytes], rows: Sequence[bytes]
) -> list[tuple[int, bytes, int]]:
    """For each node: its port, the HSETs of its keys, and how many they are."""
    parts: list[list[bytes]] = [[] for _ in cluster.nodes]
    starts = [first for first, _ in slot_ranges(len(parts))]
    for key, row in zip(keys, rows, strict=True):
        parts[bisect(starts, key_slot(key)) - 1].append(
            hiredis.pack_command((b"HSET", key, FIELD, row))
        )
    return [
        (node.port, b"".join(part), len(part))
        for node, part in zip(cluster.nodes, parts, strict=True)
    ]


def write_bare(parts: Sequence[tuple[int, bytes, int]]) -> None:
    """Send all, and read all replies, of all nodes at once."""
    with selectors.DefaultSelector() as selector:
        for port, payload, count in parts:
            one = socket.create_connection(("127.0.0.1", port))
            one.setblocking(False)
            state = [memoryview(payload), hiredis.Reader(), count]
            selector.register(one, selectors.EVENT_READ | selectors.EVENT_WRITE, state)
        while selector.get_map():
            for key, events in selector.select():
                connection, state = key.fileobj, key.data
                assert isinstance(connection, socket.socket)
                if events & selectors.EVENT_WRITE:
                    state[0] = state[0][connection.send(state[0][:_CHUNK_BYTES]) :]
                    if not state[0]:
                        selector.modify(connection, selectors.EVENT_READ, state)
                if events & selectors.EVENT_READ:
                    state[1].feed(connection.recv(_CHUNK_BYTES))
                    while (reply := state[1].gets()) is not False:
                        assert not isinstance(reply, hiredis.ReplyError), reply
                        state[2] -= 1
                    if not state[2]:
                        selector.unregister(connection)
                        connection.close()


def write_ours(store: RedisClusterStore, keys: Sequence[bytes], rows: Sequence[bytes]) -> None:
    for first in range(0, len(keys), BATCH_ROWS):
        part = slice(first, first + BATCH_ROWS)
        result = store.write(RowBatch(field=FIELD, keys=keys[part], rows=rows[part]))
        assert result.written == len(keys[part])


def bench(count: int) -> list[Result]:
    keys, rows_of = data(count)
    runs: dict[str, list[Took]] = {"bare": [], "new": [], "newer": []}
    versions = [rows_of(version) for version in range(2)]
    with (
        RedisCluster(replicas=False) as cluster,
        RedisClusterStore(cluster.url, timeout_ms=30_000) as store,
    ):
        parts = payloads(cluster, keys, versions[0])
        for _ in range(RUNS):
            cluster.flush()
            runs["bare"].append(timed(cluster, count, lambda: write_bare(parts)))
            cluster.flush()
            for kind, rows in zip(("new", "newer"), versions, strict=True):
                took = timed(cluster, count, lambda r=rows: write_ours(store, keys, r))  # type: ignore[misc]
                runs[kind].append(took)
    middle = {kind: statistics.median(t.rate for t in took) for kind, took in runs.items()}
    node = {kind: statistics.median(t.node_rate for t in took) for kind, took in runs.items()}
    lines = []
    for kind, setting in (("new", "new rows"), ("newer", "newer rows")):
        lines += [
            Result(
                job="write to a cluster of 3",
                setting=f"{count:,} {setting}",
                ours=middle[kind],
                floor=middle["bare"],
                floor_name="bare HSETs",
                unit="rows/s",
                higher_is_better=True,
            ),
            Result(
                job="write to a cluster of 3, per node and core",
                setting=f"{count:,} {setting}",
                ours=node[kind],
                floor=node["bare"],
                floor_name="bare HSETs",
                unit="rows/s",
                higher_is_better=True,
                limit=PER_NODE_LIMIT,
                gates=False,
            ),
        ]
    return lines


def main() -> None:
    asked = parser(__doc__ or "").parse_args()
    report(bench(30_000 if asked.quick else 300_000), asked)


if __name__ == "__main__":
    main()
