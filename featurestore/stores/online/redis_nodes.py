"""The nodes of one cluster: their connections, and the map of slots, kept up to date.

The map is read when it is first needed, when a node says that a slot moved, and while a node does
not answer: as soon as the others have elected its successor, they name it.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from hiredis import ReplyError

from featurestore.errors import StoreError, StoreTimeout, StoreUnavailable
from featurestore.stores.online.redis_blocking import Pool, deadline_in
from featurestore.stores.online.redis_hosts import ClusterHosts
from featurestore.stores.online.redis_slots import Address, SlotMap
from featurestore.stores.online.resp import Target, refusal

REFRESH_INTERVAL_S = 0.05
"""The shortest time between two readings of the map."""
ASK_TIMEOUT_MS = 250
"""How long one node may take to say what the map is; then the next one is asked."""


class Nodes:
    """Used by any number of threads. `suspects` are nodes that did not answer when last asked."""

    def __init__(self, hosts: ClusterHosts, *, timeout_ms: int) -> None:
        self._hosts = hosts
        self._timeout_ms = timeout_ms
        self._template = hosts.seeds[0]
        self._map: SlotMap | None = None
        self._pools: dict[Address, Pool] = {}
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._read_at = 0.0
        self._closed = False
        self.suspects: set[Address] = set()

    @property
    def shown(self) -> str:
        """The URL without credentials."""
        return self._hosts.shown

    @property
    def known_map(self) -> SlotMap | None:
        """The map as it was last read; None before."""
        return self._map

    def map(self, deadline: float) -> SlotMap:
        """The map, read now if it never was, or if a node is suspect and it is time to look again.

        Raises as `refresh` does.
        """
        if self._map is None:
            return self.refresh(deadline)
        if self.suspects and self.is_due:
            return self.refresh(deadline)
        return self._map

    @property
    def is_due(self) -> bool:
        """Whether the last reading of the map is long enough ago."""
        return time.monotonic() - self._read_at >= REFRESH_INTERVAL_S

    def target(self, address: Address) -> Target:
        """A node, with our credentials."""
        host, port = address
        return replace(self._template, host=host, port=port)

    def pool(self, address: Address) -> Pool:
        """The blocking connections to a node."""
        pool = self._pools.get(address)
        if pool is None:
            pool = self._pools.setdefault(address, Pool(self.target(address)))
        return pool

    def refresh(self, deadline: float) -> SlotMap:
        """Read the map again, unless another thread has just done so.

        Raises `StoreUnavailable` where no node answers, `StoreTimeout` at the deadline, and
        `StoreError` where what answers is no cluster.
        """
        asked_at = time.monotonic()
        if self._process != os.getpid():
            # In a forked child: the thread that held the lock is not here.
            self._process, self._lock = os.getpid(), threading.Lock()
        if not self._lock.acquire(timeout=max(0.0, deadline - asked_at)):
            raise self.late()
        try:
            if self._map is not None and (self._read_at > asked_at or not self.is_due):
                return self._map
            found = self._ask_all(deadline)
            self._read_at = time.monotonic()
            self._map = found
        finally:
            self._lock.release()
        self._forget(found.masters)
        return found

    def _ask_all(self, deadline: float) -> SlotMap:
        error: StoreError = self.late()
        for target in self._candidates():
            until = min(deadline, deadline_in(min(self._timeout_ms, ASK_TIMEOUT_MS)))
            if until <= time.monotonic():
                break
            try:
                return self._ask(target, until)
            except StoreError as failed:
                # What a server says of itself tells more than that another is away.
                error = error if failed.retryable and not error.retryable else failed
        if self._map is not None and error.retryable:
            # Nobody answers: the old map is as good as any, and is read again soon.
            self._read_at = time.monotonic()
            return self._map
        raise error

    def _candidates(self) -> Iterator[Target]:
        """Masters that answer, then the seeds, then the suspects: a node that was cut off would
        tell what it last knew."""
        known = [] if self._map is None else list(self._map.masters)
        random.shuffle(known)
        seeds = [(seed.host, seed.port) for seed in self._hosts.seeds]
        order = dict.fromkeys([*known, *seeds])
        for address in sorted(order, key=lambda each: each in self.suspects):
            yield self.target(address)

    def _ask(self, target: Target, deadline: float) -> SlotMap:
        address = (target.host, target.port)
        (reply,) = self.pool(address).call([(b"CLUSTER", b"SLOTS")], deadline)
        if isinstance(reply, ReplyError):
            if "cluster support disabled" in str(reply):
                raise StoreError(
                    f"{target.shown} is no node of a cluster; write redis:// in the URL"
                )
            raise refusal(target, reply)
        found = SlotMap.read(reply, address)
        if not found.masters:
            raise StoreUnavailable(f"the cluster of {target.shown} has given no slots to its nodes")
        return found

    def _forget(self, masters: set[Address]) -> None:
        """Close what leads to nodes that have no slots any more."""
        self.suspects &= masters
        seeds = {(seed.host, seed.port) for seed in self._hosts.seeds}
        for address in [known for known in self._pools if known not in masters | seeds]:
            self._pools.pop(address).close()

    def late(self) -> StoreTimeout:
        """The error of a deadline that passed."""
        return StoreTimeout(f"the online store {self.shown} did not answer in time")

    def note(self, address: Address, error: StoreError | None = None) -> None:
        """Remember whether a node answered."""
        if error is None:
            self.suspects.discard(address)
        elif isinstance(error, StoreUnavailable | StoreTimeout):
            self.suspects.add(address)

    def call(self, address: Address, command: tuple[Any, ...], deadline: float) -> Any:
        """The answer of one node. Raises the typed error where it refuses."""
        try:
            (reply,) = self.pool(address).call([command], deadline)
        except StoreError as error:
            self.note(address, error)
            raise
        self.note(address)
        if isinstance(reply, ReplyError):
            raise refusal(self.target(address), reply)
        return reply

    def close(self) -> None:
        """Close the idle connections."""
        for pool in list(self._pools.values()):
            pool.close()
