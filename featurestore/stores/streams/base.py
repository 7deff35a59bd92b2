"""What a stream is to us: messages that come in batches and are acknowledged when they are kept."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, NamedTuple, Self

from featurestore.errors import InvalidSettings

MESSAGES_PER_READ = 30_000
"""Messages that are read, written and acknowledged at a time."""
READ_BYTES_MAX = 64 * 1024 * 1024
"""So many bytes of messages are written at a time, and no further call reads more (or one message).
"""
CLAIM_IDLE_MS = 30_000
"""After how long without a sign of life a consumer's messages go to another one."""
_VARIABLE = re.compile(r"\$\{(\w+)\}")


class Message(NamedTuple):
    """One message: where it stands (unique in its stream), when it arrived there (µs), and its
    bytes: a JSON object; or columns as texts (a byte that is no UTF-8 as the surrogate that stands
    for it); None for one that has neither."""

    place: str
    at_us: int
    data: bytes | Mapping[str, str] | None


def bytes_of(messages: Iterable[Message]) -> int:
    """How long messages are together, about."""
    return sum(
        len(data) if isinstance(data, bytes) else sum(map(len, (*data, *data.values())))
        for _, _, data in messages
        if data is not None
    )


class StreamReader(ABC):
    """A consumer of one stream in one group. What it has read and not acknowledged comes again,
    here or at another consumer. Used by one thread, but where it `reads_ahead`; use as a context
    manager, or call `close`.

    All methods raise `StoreUnavailable`, `StoreTimeout` and `StoreAccessDenied`; reading goes on
    when the server is back.
    """

    reads_ahead: ClassVar[bool] = False
    """Whether one thread may read, and ask for the lag, while another one says what is done."""

    @classmethod
    @abstractmethod
    def open(cls, url: str, *, group: str) -> Self:
        """A consumer in `group`, from the beginning of the stream where the group is new. Connects
        when first read. Raises `InvalidSettings` for a URL that names no stream."""

    @abstractmethod
    def read(self, *, wait_ms: int) -> list[Message]:
        """The next messages, at most `MESSAGES_PER_READ`, first those that a consumer that is gone
        has left; none after `wait_ms`."""

    @abstractmethod
    def done(self, messages: Sequence[Message]) -> None:
        """Their rows are kept: they need not come again."""

    @abstractmethod
    def lag(self) -> int | None:
        """Messages of the stream that the group has not acknowledged; None where it is unknown."""

    @abstractmethod
    def close(self) -> None:
        """Leave the group and close connections."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def expanded(url: str) -> str:
    """The URL with its `${NAME}`s replaced from the environment. Raises `InvalidSettings`."""

    def value(found: re.Match[str]) -> str:
        if found[1] not in os.environ:
            raise InvalidSettings(
                f"the URL of a stream names ${{{found[1]}}}, which the environment does not have"
            )
        return os.environ[found[1]]

    return _VARIABLE.sub(value, url)
