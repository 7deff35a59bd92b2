"""The floors of `bench_serving.py`: servers that answer with as many bytes as we do.

    python benchmarks/echoes.py grpcio|native ADDRESS '{"request length": answer length, …}'

Both are what their libraries' own examples show, on uvloop. A call of `STREAM` answers each message
of the stream.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import grpc
import uvloop

from featurestore.serving.addresses import Address, reserve

SERVICE = "featurestore.v1.OnlineFeatures"
METHOD, STREAM = f"/{SERVICE}/GetOnlineFeatures", f"/{SERVICE}/StreamOnlineFeatures"


@contextlib.contextmanager
def echo(door: str, sizes: Mapping[int, int]) -> Iterator[str]:
    """A running echo server's address; `sizes` is the length of the answer by the request's."""
    held, address = reserve(Address("127.0.0.1", 0))
    command = [sys.executable, __file__, door, str(address), json.dumps(sizes)]
    with held, subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield str(address)
        finally:
            process.kill()


async def serve(door: str, address: str, sizes: Mapping[int, int]) -> None:
    answers = {asked: bytes(answer) for asked, answer in sizes.items()}

    async def one(request: bytes, _: object) -> bytes:
        return answers[len(request)]

    async def many(requests: AsyncIterator[bytes], _: object) -> AsyncIterator[bytes]:
        async for request in requests:
            yield answers[len(request)]

    if door == "native":
        import pygrpc_native.aio

        server: Any = pygrpc_native.aio.server(options=[("grpc.so_reuseport", 1)])
    else:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 1)])
    handlers = {
        "GetOnlineFeatures": grpc.unary_unary_rpc_method_handler(one),
        "StreamOnlineFeatures": grpc.stream_stream_rpc_method_handler(many),
    }
    server.add_registered_method_handlers(SERVICE, handlers)
    server.add_insecure_port(address)
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(
        serve(sys.argv[1], sys.argv[2], {int(k): v for k, v in json.loads(sys.argv[3]).items()})
    )
