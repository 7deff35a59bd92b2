"""What an offline engine is: it runs a Rel and hands back Arrow record batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from featurestore.dtypes import DType

if TYPE_CHECKING:
    import pyarrow as pa

    from featurestore.compiler.rel import Rel
    from featurestore.config import OfflineSettings

BATCH_ROWS = 61_440
"""Rows per record batch where the caller asks for nothing else. DuckDB ends a batch after 122,880
rows; frames are read in halves of that, so that what is put beside them need not be copied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What an engine declares of itself."""

    spills_to_disk: bool
    streams: bool


class SumOverflowWarning(UserWarning):
    """Sums in windows that are NULL because they do not fit their type."""


class BucketsExceededWarning(UserWarning):
    """Maps of windows that are NULL because they would have more than `BUCKETS_PER_KEY_MAX`
    entries."""


class Engine(ABC):
    """Runs relations. Use as a context manager, or call `close`.

    One engine may be used by several threads; each call has a cursor of its own.
    """

    capabilities: ClassVar[Capabilities]

    @classmethod
    @abstractmethod
    def open(cls, settings: OfflineSettings, *, temp_directory: str) -> Self:
        """An engine within the settings' memory limit, spilling into `temp_directory`."""

    @abstractmethod
    def schema(self, query: str, inputs: Mapping[str, Mapping[str, DType]]) -> dict[str, DType]:
        """The columns that an SQL query over named, typed, empty relations yields; runs nothing.

        Raises `InvalidExpression` with the engine's own words where the query is wrong.
        """

    @abstractmethod
    def stream(
        self,
        rel: Rel,
        *,
        inputs: Mapping[str, pa.Table | pa.RecordBatchReader] | None = None,
        batch_rows: int = BATCH_ROWS,
    ) -> pa.RecordBatchReader:
        """The rows of `rel` in batches of at most `batch_rows`; reading pulls, memory is bounded.

        `inputs` are the data of the `Input` nodes. Raises `SourceMissing`, `SourceSchemaChanged`,
        `InvalidValue` (also while the batches are read).
        """

    @abstractmethod
    def explain(self, rel: Rel, *, inputs: Mapping[str, pa.Table] | None = None) -> str:
        """The query text and the engine's plan, for people."""

    @abstractmethod
    def close(self) -> None:
        """Free everything; the engine can't be used afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
