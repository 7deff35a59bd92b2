"""What a Redis-protocol server says of itself, for `featurestore doctor`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from featurestore.stores.online.base import ServerFacts
from featurestore.stores.online.redis_blocking import Pool


def server_facts(pool: Pool, deadline: float, now_us: Callable[[], int]) -> ServerFacts:
    """Ask one server; what our user may not ask is None. `now_us` is our clock."""
    asked = (b"TIME",), (b"INFO", b"server"), (b"INFO", b"memory")
    began = now_us()
    clock, *told = pool.call(asked, deadline)
    at_us = (began + now_us()) // 2
    (policy,) = pool.call([(b"CONFIG", b"GET", b"maxmemory-policy")], deadline)
    info = _facts_of(told)
    product = next((p for p in ("valkey", "redis") if f"{p}_version" in info), "redis")
    asked_clock = isinstance(clock, list)
    return ServerFacts(
        product=product,
        version=info.get(f"{product}_version", ""),
        asked_us=at_us,
        clock_us=int(clock[0]) * 1_000_000 + int(clock[1]) if asked_clock else None,
        eviction=policy[1].decode() if isinstance(policy, list) and policy else None,
        used_bytes=_number(info, "used_memory"),
        limit_bytes=_number(info, "maxmemory"),
    )


def neediest(all_facts: Iterable[ServerFacts]) -> ServerFacts:
    """Of the servers of one cluster, the one to worry about: it evicts rows, or is the fullest."""

    def need(facts: ServerFacts) -> tuple[bool, float]:
        evicts = facts.eviction not in (None, "noeviction")
        return evicts, (facts.used_bytes or 0) / (facts.limit_bytes or float("inf"))

    return max(all_facts, key=need)


def _facts_of(replies: Iterable[Any]) -> dict[str, str]:
    """The lines `name:value` of the answers to INFO; refusals have none."""
    lines = [line for reply in replies if isinstance(reply, bytes) for line in reply.splitlines()]
    pairs = (line.decode("utf-8", "replace").partition(":") for line in lines if b":" in line)
    return {name: value for name, _, value in pairs}


def _number(info: Mapping[str, str], name: str) -> int | None:
    return int(info[name]) if name in info else None
