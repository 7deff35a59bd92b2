"""Where the master is that sentinels watch, and what we have opened on it."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Generic, NamedTuple, Protocol, TypeVar

from hiredis import ReplyError

from featurestore.errors import StoreError, StoreTimeout, StoreUnavailable
from featurestore.stores.online.redis_blocking import Connection, deadline_in
from featurestore.stores.online.redis_hosts import SentinelHosts
from featurestore.stores.online.resp import Target, pack, refusal

ASK_TIMEOUT_MS = 250
"""How long one sentinel, or the server that it names, may take; then the next is asked."""
ASK_INTERVAL_S = 0.05
"""The shortest time between two rounds of questions."""
LOOK_INTERVAL_S = 1.0
"""How long writers believe what the sentinels said."""


class Closes(Protocol):
    """What is opened on a server."""

    def close(self) -> None:
        """Close its connections."""


T = TypeVar("T", bound=Closes)


class _Answer(NamedTuple):
    """What a sentinel says: the master's address, the number of the failover that made it so (-1:
    we may not know), and whether another server is just being made the master instead."""

    named: Target
    epoch: int
    replaces: bool


class Master(Generic[T]):
    """Where the master is, as far as we know, and what `open_at` has opened on it. Any thread may
    use it."""

    def __init__(
        self, hosts: SentinelHosts, open_at: Callable[[Target], T], *, timeout_ms: int
    ) -> None:
        self._hosts = hosts
        self._open_at = open_at
        self._timeout_ms = timeout_ms
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._current: tuple[Target, T] | None = None
        self._doubted = self._aged = False
        self._asked_at = 0.0

    @property
    def store(self) -> T | None:
        """What is open on the master; None when it must be located (again)."""
        if self._current is None or self._doubted or self._aged:
            return None
        return self._current[1]

    def doubt(self) -> None:
        """Ask the sentinels before the next call: the master did not answer."""
        self._doubted = True

    def look_again(self) -> None:
        """Ask them also where it is long ago: a master that hung and was replaced may go on for
        some time before it learns so, and what it takes then is lost."""
        self._aged = time.monotonic() - self._asked_at >= LOOK_INTERVAL_S

    def locate(self, deadline: float) -> T:
        """What is open on the master; the sentinels are asked if it is not known, or in doubt.

        Raises `StoreUnavailable` where no sentinel answers or the server that they name is no
        master, `StoreTimeout` at the deadline, `StoreError` where they know no such name.
        """
        known = self.store
        if known is not None:
            return known
        asked_at = time.monotonic()
        if self._process != os.getpid():
            # In a forked child: the thread that held the lock is not here.
            self._process, self._lock = os.getpid(), threading.Lock()
        if not self._lock.acquire(timeout=max(0.0, deadline - asked_at)):
            raise self.late()
        try:
            if self._current is not None and (
                self._asked_at > asked_at or asked_at - self._asked_at < ASK_INTERVAL_S
            ):
                return self._current[1]
            try:
                found = self._find(deadline)
            except StoreError:
                if self._current is None or self._doubted:
                    raise
                # The master does well; only the sentinels do not answer.
                found = self._current[0]
            self._asked_at, self._doubted, self._aged = time.monotonic(), False, False
            if self._current is None or self._current[0] != found:
                left, self._current = self._current, (found, self._open_at(found))
                if left is not None:
                    left[1].close()
            return self._current[1]
        finally:
            self._lock.release()

    def _find(self, deadline: float) -> Target:
        """The master that the sentinels name. Where none was known before, the end of a failover is
        waited for."""
        while True:
            answers = self._answers(deadline)
            try:
                return self._confirmed(answers, deadline)
            except (StoreUnavailable, StoreTimeout) as error:
                late = time.monotonic() + ASK_INTERVAL_S >= deadline
                if self._current is not None or late or not error.retryable:
                    raise
            time.sleep(ASK_INTERVAL_S)

    def _answers(self, deadline: float) -> list[_Answer]:
        """What the sentinels say, all that answer: while a failover goes on, a few know its outcome
        and the others name the old master."""
        found: list[_Answer] = []
        errors: list[StoreError] = [self.late()]
        for sentinel in random.sample(self._hosts.sentinels, len(self._hosts.sentinels)):
            try:
                found.append(self._answer_of(sentinel, deadline))
            except StoreError as error:
                errors.append(error)
        if not found:
            raise next((error for error in errors if not error.retryable), errors[-1])
        return found

    def _confirmed(self, answers: Sequence[_Answer], deadline: float) -> Target:
        """The server that the latest failover made the master, if it says so itself.

        Each failover has a greater number, so one sentinel that knows of it outweighs any that do
        not; where none may say numbers, what most name comes first, and a successor of what we
        have before that. A server that is being replaced is no master any more, whatever it says:
        one that hung and goes on does not know, and what it took would be lost.
        """
        old = None if self._current is None else self._current[0]
        epoch = max(answer.epoch for answer in answers)
        latest = [answer for answer in answers if answer.epoch == epoch]
        replaced = {answer.named.address for answer in latest if answer.replaces}
        votes = Counter(answer.named.address for answer in latest)
        servers = {answer.named.address: answer.named for answer in latest}
        errors: list[StoreError] = []
        for address, named in sorted(servers.items(), key=lambda s: (s[1] == old, -votes[s[0]])):
            try:
                if address in replaced:
                    raise StoreUnavailable(
                        f"the online store {named.shown} is being replaced by its replica"
                    )
                self._check(named, deadline)
            except StoreError as error:
                errors.append(error)
            else:
                return named
        # What a server says of itself tells more than that another is away.
        raise next((error for error in errors if not error.retryable), errors[-1])

    def _answer_of(self, sentinel: Target, deadline: float) -> _Answer:
        name = self._hosts.name.encode()
        questions = (
            (b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", name),
            (b"SENTINEL", b"MASTER", name),
        )
        until = self._until(deadline)
        connection = Connection(sentinel, until)
        try:
            connection.send(pack(questions), until)
            reply, about = connection.replies(len(questions), until)
        finally:
            connection.close()
        if isinstance(reply, ReplyError):
            raise refusal(sentinel, reply)
        if reply is None:
            raise StoreError(
                f"the sentinel {sentinel.address} knows no master {self._hosts.name!r}; "
                "see its SENTINEL MASTERS"
            )
        named = replace(self._hosts.server, host=reply[0].decode(), port=int(reply[1]))
        if isinstance(about, ReplyError):
            # A user of the sentinel may have no right to ask for more than the address.
            return _Answer(named, -1, False)
        facts = dict(zip(*[iter(about)] * 2, strict=True))
        # Once a replica is promoted it is named, and the facts go on being of the old master.
        is_old = [facts.get(b"ip"), facts.get(b"port")] == reply
        replaces = is_old and b"failover_in_progress" in facts.get(b"flags", b"")
        return _Answer(named, int(facts.get(b"config-epoch", -1)), replaces)

    def _check(self, server: Target, deadline: float) -> None:
        """Raises unless it answers, and as a master: the greeting asks."""
        Connection(server, self._until(deadline)).close()

    def _until(self, deadline: float) -> float:
        return min(deadline, deadline_in(min(self._timeout_ms, ASK_TIMEOUT_MS)))

    def late(self) -> StoreTimeout:
        """The error of a deadline that passed."""
        return StoreTimeout(f"the online store {self._hosts.shown} did not answer in time")

    def close(self) -> None:
        """Close what is open on the master."""
        current, self._current = self._current, None
        if current is not None:
            current[1].close()
