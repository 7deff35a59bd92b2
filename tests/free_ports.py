"""Ports for servers that can't be told to take any: chosen first, bound later."""

from __future__ import annotations

import os
import random
import socket
from contextlib import suppress

PORTS = range(10_000, 32_000)
"""Below those that the kernel gives to outgoing connections."""
PROCESSES = 8
_chance = random.SystemRandom()  # Hypothesis lets `random` begin anew with each example


def free_port() -> int:
    """A port that nobody listens on now, and that neither the kernel gives to a connection nor
    another process of this test run to a server: one that is killed comes back to it."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % PROCESSES
    while True:
        port = _chance.choice(PORTS[number::PROCESSES])
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
