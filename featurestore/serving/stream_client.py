"""The caller's side of `StreamOnlineFeatures` and `StreamPush`, without a channel.

At most `AHEAD_MAX` batches are taken from the caller's iterator before their answers have been
taken in turn, so neither side gathers what nobody reads.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from enum import Enum
from typing import Any, NamedTuple, TypeAlias

import grpc

from featurestore.errors import FeatureStoreError, ServerUnavailable
from featurestore.wire.entities import Entities
from featurestore.wire.response import ResponseSchema

AHEAD_MAX = 64


class Asked(NamedTuple):
    """What one answer will be read with."""

    entities: Entities
    schemas: dict[int, ResponseSchema]


class _Sent(NamedTuple):
    """A message is on its way; its answer is read with `asked`."""

    asked: Any


class _Raised(NamedTuple):
    """The caller's iterator failed."""

    error: BaseException


class _End(Enum):
    ASKED = "the caller's iterator has no more"
    OVER = "the call has ended"


Answer: TypeAlias = Any
"""What a message is answered with (a lookup, what became of a push), or its `FeatureStoreError`."""
Encode: TypeAlias = Callable[[Any], tuple[bytes, Any]]
Decode: TypeAlias = Callable[[bytes, Any], Answer]
Restore: TypeAlias = Callable[[grpc.RpcError], FeatureStoreError]
_Order: TypeAlias = _Sent | FeatureStoreError | _Raised | _End


class Words(NamedTuple):
    """How batches become messages, messages answers, and a broken call an error."""

    encode: Encode
    decode: Decode
    restore: Restore


def ask_all(
    call: Callable[[Iterator[bytes]], Any], batches: Iterable[Any], words: Words
) -> Iterator[Answer]:
    """The answer to each batch, in order; `call` opens the stream."""
    order = queue.SimpleQueue[_Order]()
    room = threading.Semaphore(AHEAD_MAX)
    over = threading.Event()

    def messages() -> Iterator[bytes]:
        # Runs in gRPC's thread: what the caller's iterator raises must be raised in the caller's.
        try:
            for rows in batches:
                room.acquire()
                if over.is_set():
                    return
                try:
                    message, asked = words.encode(rows)
                except FeatureStoreError as error:
                    order.put(error)
                    continue
                order.put(_Sent(asked))
                yield message
            order.put(_End.ASKED)
        except GeneratorExit:
            raise  # gRPC has let go of a call that has ended, which says so itself
        except BaseException as error:  # noqa: BLE001 # raised again where the caller waits
            order.put(_Raised(error))

    replies = call(messages())
    # A call may end while nothing is asked: who waits for the next question must hear of it.
    if not replies.add_callback(lambda: order.put(_End.OVER)):
        order.put(_End.OVER)
    try:
        while (answered := order.get()) is not _End.ASKED:
            match answered:
                case _End.OVER:
                    _there(next(replies, None))
                case _Raised(error):
                    raise error
                case FeatureStoreError():
                    yield answered
                case _Sent(asked):
                    yield words.decode(_there(next(replies, None)), asked)
            room.release()
    except grpc.RpcError as error:
        raise words.restore(error) from error
    finally:
        over.set()
        room.release()
        replies.cancel()


async def ask_all_async(
    call: Callable[[AsyncIterator[bytes]], Any],
    batches: Iterable[Any] | AsyncIterable[Any],
    words: Words,
) -> AsyncIterator[Answer]:
    """`ask_all` for asyncio."""
    order = asyncio.Queue[_Order]()
    room = asyncio.Semaphore(AHEAD_MAX)

    async def messages() -> AsyncIterator[bytes]:
        try:
            async for rows in _each(batches):
                await room.acquire()
                try:
                    message, asked = words.encode(rows)
                except FeatureStoreError as error:
                    order.put_nowait(error)
                    continue
                order.put_nowait(_Sent(asked))
                yield message
            order.put_nowait(_End.ASKED)
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 # raised again where the caller waits
            order.put_nowait(_Raised(error))

    replies = call(messages())
    replies.add_done_callback(lambda _: order.put_nowait(_End.OVER))
    arriving = aiter(replies)
    try:
        while (answered := await order.get()) is not _End.ASKED:
            match answered:
                case _End.OVER:
                    _there(await anext(arriving, None))
                case _Raised(error):
                    raise error
                case FeatureStoreError():
                    yield answered
                case _Sent(asked):
                    yield words.decode(_there(await anext(arriving, None)), asked)
            room.release()
    except grpc.RpcError as error:
        raise words.restore(error) from error
    finally:
        replies.cancel()


def _there(data: bytes | None) -> bytes:
    if data is None:
        raise ServerUnavailable("The server ended the stream before it had answered.")
    return data


async def _each(batches: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(batches, AsyncIterable):
        async for rows in batches:
            yield rows
    else:
        for rows in batches:
            yield rows
