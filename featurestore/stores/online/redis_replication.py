"""Whether what was written would survive the loss of the master that took it."""

from __future__ import annotations

import time

from hiredis import ReplyError

from featurestore.errors import StoreTimeout, StoreUnavailable
from featurestore.stores.online.redis_blocking import Connection, deadline_in
from featurestore.stores.online.resp import pack, refusal


def await_replica(connection: Connection, *, timeout_ms: int) -> None:
    """Wait until a replica has what was written on this connection, if the master has any replica.

    Raises `StoreTimeout` where none has it within `timeout_ms`, and `StoreUnavailable` on a server
    that is no master any more.
    """
    target, deadline = connection.target, deadline_in(timeout_ms)
    connection.send(pack([(b"ROLE",)]), deadline)
    (role,) = connection.replies(1, deadline)
    if isinstance(role, ReplyError):
        raise refusal(target, role)
    if role[0] != b"master":
        raise StoreUnavailable(f"the online store {target.shown} is a replica now, not the master")
    if not role[2]:
        return
    # The server's own limit ends a little earlier than ours, so that it can say so.
    left_ms = max(1, round(900 * (deadline - time.monotonic())))
    connection.send(pack([(b"WAIT", 1, left_ms)]), deadline)
    (reached,) = connection.replies(1, deadline)
    if isinstance(reached, ReplyError):
        raise refusal(target, reached)
    if not reached:
        raise StoreTimeout(
            f"no replica of the online store {target.shown} has the written rows after "
            f"{timeout_ms} ms; are its replicas well?"
        )
