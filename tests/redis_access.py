"""Users of a Redis-protocol server with the rights that docs/guides/operations.md names."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from redis_servers import RedisServer

from featurestore.errors import StoreAccessDenied
from featurestore.stores.online.base import OnlineStore, RowBatch
from featurestore.stores.online.redis import RedisStore
from featurestore.stores.online.redis_writes import NEW_ROWS_MIN
from featurestore.testing.online_rows import FIELD, PREFIX, get, numbered, put, row

GUIDE = Path(__file__).parents[1] / "docs" / "guides" / "operations.md"
PASSWORD = "opensesame"
KEY = PREFIX + b"access"
FAR_US = 4_000_000_000_000_000

StoreType = Callable[[str], OnlineStore]


def documented_rules(user: str, *, knows: str = "") -> list[str]:
    """The words after `ACL SETUSER user` as the guide has them; where it has several lines for the
    user, the one that allows `knows`."""
    lines = re.findall(rf"^user {user} (.*)$", GUIDE.read_text(), re.MULTILINE)
    (found,) = [line.split() for line in lines if not knows or f"+{knows}" in line.split()]
    return found


def commands_of(rules: list[str]) -> list[str]:
    """The commands that the rules allow."""
    return [rule[1:] for rule in rules if rule.startswith("+")]


def add_user(server: RedisServer, name: str, rules: list[str]) -> None:
    """Make the user anew with these rights and no others."""
    server.command("ACL", "DELUSER", name)
    answer = server.command("ACL", "SETUSER", name, *rules)
    assert answer == b"+OK\r\n", answer


def documented_extras(where: str) -> tuple[list[str], list[str]]:
    """The rules that the guide adds `where` (in a cluster, behind Sentinel): for both users, and
    for the writer besides."""
    pattern = rf"^- {where}, for both users: `(.*)`; for the writer also `(.*)`"
    (found,) = re.findall(pattern, GUIDE.read_text(), re.MULTILINE)
    return found[0].split(), found[1].split()


def denied_to(
    server: RedisServer, url: str, *, store_type: StoreType = RedisStore, key: bytes = KEY
) -> bytes:
    """Do with the store at `url` everything that a store does; returns the server's record of what
    it refused."""
    server.command("ACL", "LOG", "RESET")
    with store_type(url) as store:
        calls = (
            store.ping,
            lambda: put(store, key, row(1), until=FAR_US),
            lambda: put(store, key, row(1), until=FAR_US + 1_000_000),
            lambda: put(store, key, row(2), until=FAR_US + 2_000_000),
            lambda: put(store, key, row(2)),
            lambda: put(store, key, row(3)),
            # Rows that are all new are written by commands of their own.
            lambda: store.write(
                RowBatch(field=FIELD, keys=numbered(NEW_ROWS_MIN), rows=[row(1)] * NEW_ROWS_MIN)
            ),
            lambda: store.replace(FIELD, key, expected=row(3), row=row(4), expire_at_us=None),
            lambda: get(store, key),
            lambda: list(store.sweep(PREFIX, keep=[])),
        )
        for call in calls:
            with suppress(StoreAccessDenied):
                call()
    return server.command("ACL", "LOG")
