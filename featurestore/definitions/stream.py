"""Streams: where rows of a source arrive by themselves."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import timedelta
from typing import Any, ClassVar

from featurestore.definitions.names import (
    Definition,
    check_mapping,
    check_name,
    check_texts,
    locate,
    read_dtype,
    report,
    set_field,
)
from featurestore.definitions.source import LATENESS_DEFAULT, DayEdge, FileSource
from featurestore.errors import TypeMismatch
from featurestore.masking import mask

_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://[^/]+/(?:.*/)?(?P<stream>[^/?]+)(?:\?.*)?")


@dataclass(frozen=True, slots=True)
class StreamSource(Definition):
    """A stream whose messages are rows: JSON objects with the source's columns.

    `url` is `redis://host:6379/0/stream` (a Redis stream; `rediss` with TLS),
    `redis+cluster://host:6379,host:6379/stream`,
    `redis+sentinel://sentinel:26379,sentinel:26379/master_name/0/stream` or
    `kafka://host:9092,host:9092/topic`; `${NAME}` in it stands for an environment variable. `name`
    is by default that of the stream.

    The rows are those of `source`, a `FileSource`; or of a source of their own, which has no other
    rows: then `schema` (column → type) and `event_time` are given, and what else a `FileSource`
    has. Views take the stream itself as their source.

    Raises `InvalidName`, `TypeMismatch` and plain `DefinitionError`; while a repository is loaded
    these are gathered.
    """

    kind: ClassVar[str] = "stream"

    url: str
    _: KW_ONLY
    source: FileSource | None = None
    name: str = ""
    schema: Mapping[str, str] = field(default_factory=dict, hash=False)
    event_time: str | None = None
    created_time: str | None = None
    event_time_is: DayEdge | None = None
    tiebreak: str | Sequence[str] = ()
    op: str | None = None
    event_id: str | None = None
    lateness: str | timedelta = LATENESS_DEFAULT
    description: str = ""
    owner: str = ""
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        locate(self)
        check_texts(self, "url", "description", "owner")
        check_mapping(self, "schema", "tags")
        found = _URL.fullmatch(str(self.url))
        if found is None:
            shown = mask(repr(self.url))
            report(self, f"url is redis://host/0/stream or kafka://host/topic, not {shown}")
        if not self.name:
            set_field(self, "name", _name_of(found["stream"]) if found is not None else "stream")
        check_name(self, self.name)
        given: Any = self.source
        if given is None:
            set_field(self, "source", self._own_source())
        elif not isinstance(given, FileSource):
            report(self, f"source is a FileSource, not {given!r}", TypeMismatch)
            set_field(self, "source", None)
        elif self.schema or self.event_time:
            report(self, "schema and event_time are those of source; leave them out")

    @property
    def scheme(self) -> str:
        """`redis`, `kafka`, …"""
        return self.url.partition("://")[0]

    def _own_source(self) -> FileSource | None:
        if not self.schema or not self.event_time:
            report(self, "a stream needs a source, or a schema and an event_time of its own")
            return None
        for column, text in self.schema.items():
            read_dtype(self, text, what=f"schema[{column!r}]")
        if not self.valid:
            return None
        # Where the messages come from changes no row: the address is not a part of the source.
        source = FileSource(
            self.name,
            self.name,
            self.event_time,
            self.created_time,
            column_types=self.schema,
            event_time_is=self.event_time_is,
            tiebreak=self.tiebreak,
            op=self.op,
            event_id=self.event_id,
            lateness=self.lateness,
            description=self.description,
            owner=self.owner,
            tags=self.tags,
        )
        set_field(source, "format", "stream")
        set_field(source, "file", self.file)
        set_field(source, "line", self.line)
        return source


def _name_of(stream: str) -> str:
    """A name for a stream called so: `shop.orders` is `shop_orders`."""
    found = re.sub(r"\W+", "_", stream)
    return re.sub(r"_{2,}", "_", found).strip("_") or "stream"
