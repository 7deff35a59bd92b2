"""The caller's side of a stream, with a bare gRPC server that ends calls when a test says so."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from featurestore.errors import FeatureStoreError, ServerUnavailable
from featurestore.serving.stream_client import Words, ask_all, ask_all_async

METHOD = "/test.Echo/Stream"
GOES_AWAY, SAYS_GOODBYE = b"goes away", b"says goodbye"


def restore(error: grpc.RpcError) -> FeatureStoreError:
    assert isinstance(error, grpc.Call | grpc.aio.AioRpcError)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    return ServerUnavailable("It went away.")


WORDS = Words(lambda batch: (batch, None), lambda data, _: data, restore)


def echo(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    """Each message again; a last word also ends the call, well or badly."""
    for message in requests:
        yield message
        if message == GOES_AWAY:
            context.abort(grpc.StatusCode.UNAVAILABLE, "draining")
        if message == SAYS_GOODBYE:
            return


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(4))
    handler = grpc.stream_stream_rpc_method_handler(echo)
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("test.Echo", {"Stream": handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.mark.parametrize("last", [GOES_AWAY, SAYS_GOODBYE])
def test_a_call_that_ends_while_the_caller_has_nothing_to_ask_is_an_error(
    target: str, last: bytes
) -> None:
    more = threading.Event()

    def batches() -> Iterator[bytes]:
        yield b"first"
        yield last
        more.wait(60)

    answered: list[Any] = []
    try:
        with grpc.insecure_channel(target) as channel, pytest.raises(ServerUnavailable):
            answered.extend(ask_all(channel.stream_stream(METHOD), batches(), WORDS))
        assert answered == [b"first", last]
    finally:
        more.set()


@pytest.mark.parametrize("last", [GOES_AWAY, SAYS_GOODBYE])
def test_a_call_that_ends_under_a_busy_caller_is_an_error_and_loses_no_answer(
    target: str, last: bytes
) -> None:
    """The caller always has more to ask, so gRPC lets go of its iterator wherever that stands."""

    def batches() -> Iterator[bytes]:
        yield from (b"%d" % n for n in range(20))
        yield last
        while True:
            yield b"more"

    for _ in range(20):
        answered: list[Any] = []
        with grpc.insecure_channel(target) as channel, pytest.raises(ServerUnavailable):
            answered.extend(ask_all(channel.stream_stream(METHOD), batches(), WORDS))
        assert answered == [*(b"%d" % n for n in range(20)), last]


@pytest.mark.parametrize("last", [GOES_AWAY, SAYS_GOODBYE])
def test_asyncio_hears_of_a_call_that_ends_while_nothing_is_asked(target: str, last: bytes) -> None:
    async def batches() -> AsyncIterator[bytes]:
        yield b"first"
        yield last
        await asyncio.Event().wait()

    answered: list[Any] = []

    async def ask() -> None:
        async with grpc.aio.insecure_channel(target) as channel:
            async for answer in ask_all_async(channel.stream_stream(METHOD), batches(), WORDS):
                answered.append(answer)  # noqa: PERF401 # what comes before the error counts

    with pytest.raises(ServerUnavailable):
        asyncio.run(asyncio.wait_for(ask(), 60))
    assert answered == [b"first", last]
