"""A master is killed, or hangs, under mixed load, and another takes over."""

from __future__ import annotations

import time
from collections.abc import Callable

from cluster_servers import is_master
from patience import promised, wait_for
from redis_servers import RedisServer
from store_load import Load, under_load

from featurestore.errors import StoreTimeout, StoreUnavailable
from featurestore.stores.online.base import OnlineStore

TIMEOUT_MS = 1_000


def fail_over_under_load(
    open_store: Callable[[], OnlineStore],
    pair: tuple[RedisServer, RedisServer],
    fault: str,
    *,
    afterwards: Callable[[Load], None],
) -> None:
    """No wrong answer, typed errors within the deadline (stores are opened with `TIMEOUT_MS`), and
    answers again within a second of the successor's election. `afterwards` the load goes on."""
    victim, successor = pair
    with under_load(open_store) as load:
        load.settle(0.5)
        if fault == "kill":
            victim.kill()
        else:
            victim.pause()
        wait_for(lambda: is_master(successor))
        elected = time.monotonic()
        assert load.wait_for_success(elected) < promised(1.0)
        load.settle(0.5)
        afterwards(load)
    assert {type(error) for error in load.errors()} <= {StoreUnavailable, StoreTimeout}
    assert load.errors() != []
    assert load.slowest_s() < promised(TIMEOUT_MS / 1_000 + 1.5)
