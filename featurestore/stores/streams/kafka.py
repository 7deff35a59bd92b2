"""Kafka topics: a consumer group, its offsets committed when the rows are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self
from urllib.parse import parse_qsl

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from featurestore.errors import InvalidSettings, StoreAccessDenied, StoreTimeout, StoreUnavailable
from featurestore.stores.streams.base import MESSAGES_PER_READ, Message, StreamReader, expanded

TIMEOUT_S = 10.0
LINGER_S = 0.01
"""How long more messages are waited for when one has come."""
_EXAMPLE = "kafka://host:9092,host:9092/topic"
_DENIED = (
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError._AUTHENTICATION,  # noqa: SLF001 - librdkafka's own codes have such names
)
_LOST = (
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError._NO_OFFSET,  # noqa: SLF001
    KafkaError._STATE,  # noqa: SLF001
)
"""Our partitions went to another consumer, who reads the same messages again."""


class KafkaTopic(StreamReader):
    """`kafka://host:9092,host:9092/topic`; what stands behind `?` are settings of librdkafka
    (`security.protocol=SASL_SSL&sasl.username=…`)."""

    def __init__(self, url: str, *, group: str) -> None:
        address, _, query = expanded(url).partition("?")
        hosts, _, topic = address.partition("://")[2].partition("/")
        if not hosts or not topic:
            raise InvalidSettings(f"the URL of a Kafka topic is {_EXAMPLE}")
        self._topic = topic
        self._positions: dict[int, int] = {}
        try:
            self._consumer = Consumer(
                {
                    "bootstrap.servers": hosts,
                    "group.id": group,
                    "auto.offset.reset": "earliest",
                    "enable.auto.commit": False,
                    "logger": None,
                    **dict(parse_qsl(query)),
                }
            )
            self._consumer.subscribe([topic])
        except KafkaException as error:
            raise InvalidSettings(f"librdkafka refuses the settings of {hosts}: {error}") from error

    @classmethod
    def open(cls, url: str, *, group: str) -> Self:
        """See `StreamReader`."""
        return cls(url, group=group)

    def read(self, *, wait_ms: int) -> list[Message]:
        """See `StreamReader`."""
        found = []
        try:
            # `consume` waits until it has as many as it is asked for, or the time is over.
            messages = self._consumer.consume(1, wait_ms / 1_000)
            if messages:
                messages += self._consumer.consume(MESSAGES_PER_READ - 1, LINGER_S)
        except KafkaException as error:
            raise self._error(error.args[0]) from error
        for message in messages:
            problem = message.error()
            if problem is not None:
                if problem.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                    continue
                raise self._error(problem)
            _, at_ms = message.timestamp()
            place = f"{message.partition()}:{message.offset()}"
            found.append(Message(place, max(at_ms, 0) * 1_000, message.value()))
        return found

    def done(self, messages: Sequence[Message]) -> None:
        """See `StreamReader`."""
        ends: dict[int, int] = {}
        for message in messages:
            partition, _, offset = message.place.partition(":")
            ends[int(partition)] = max(ends.get(int(partition), 0), int(offset) + 1)
        offsets = [TopicPartition(self._topic, p, end) for p, end in ends.items()]
        if not offsets:
            return
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            if error.args[0].code() not in _LOST:
                raise self._error(error.args[0]) from error

    def lag(self) -> int | None:
        """See `StreamReader`: of the partitions that are ours."""
        try:
            mine = self._consumer.assignment()
            if not mine:
                return None
            total = 0
            for place in self._consumer.committed(mine, timeout=TIMEOUT_S):
                low, high = self._consumer.get_watermark_offsets(place, timeout=TIMEOUT_S)
                total += high - (place.offset if place.offset >= 0 else low)
        except KafkaException as error:
            raise self._error(error.args[0]) from error
        return total

    def close(self) -> None:
        """See `StreamReader`."""
        self._consumer.close()

    def _error(self, error: Any) -> StoreUnavailable | StoreTimeout | StoreAccessDenied:
        text = f"Kafka topic {self._topic!r}: {error.str()}"
        if error.code() in _DENIED:
            return StoreAccessDenied(text)
        if error.code() == KafkaError._TIMED_OUT:  # noqa: SLF001
            return StoreTimeout(text)
        return StoreUnavailable(text)
