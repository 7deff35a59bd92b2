"""Is known time why features are NULL? A history that was loaded in bulk has the day of the load as
its created time, so that nothing of it was known at the times asked about."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featurestore.engines.base import BucketsExceededWarning, SumOverflowWarning
from featurestore.jobs.entity_frame import Rows

if TYPE_CHECKING:
    import pyarrow as pa

    from featurestore.compiler.typed import ViewUse
    from featurestore.jobs.retrieval import Run

SAMPLE_ROWS = 10_000
"""Entity rows that are asked about again without regard to known time."""


class KnownTimeWarning(UserWarning):
    """Most features are NULL because the rows became known after the times asked about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownTimeCheck:
    """The same training set by known time and by event time."""

    known: Run
    event: Run
    uses: Sequence[ViewUse]

    def cause(self, rows: Rows) -> str | None:
        """What to tell the user, or None where known time is not why most values are NULL."""
        sample = _sample(rows)
        known, event = (self._nulls(run, sample) for run in (self.known, self.event))
        if not known or 2 * event > known:
            return None
        listed = {use.view.source.name: use.view.source.created_time for use in self.uses}
        columns = ", ".join(f"{name}.{c}" for name, c in sorted(listed.items()) if c is not None)
        return (
            f"More than half of the feature values are NULL, and {known - event:,} of {known:,} "
            f"NULLs in a sample are so because the rows became known ({columns}) after the times "
            "asked about. If these created times are when a history was loaded in bulk, correct "
            'them, leave created_time out of the source, or ask with as_of="event" (which lets '
            "late rows leak)."
        )

    def _nulls(self, run: Run, sample: Rows) -> int:
        names = list(run.compiled.features)
        with warnings.catch_warnings():
            # What overflows has been said of the whole frame.
            warnings.simplefilter("ignore", SumOverflowWarning)
            warnings.simplefilter("ignore", BucketsExceededWarning)
            batches = run.features(sample)
        return sum(batch.column(name).null_count for batch in batches for name in names)


def _sample(rows: Rows) -> Rows:
    """At most `SAMPLE_ROWS` rows, spread evenly."""
    step = max(1, -(-rows.rows // SAMPLE_ROWS))

    def batches() -> Iterator[pa.RecordBatch]:
        offset = 0
        for batch in rows.batches():
            first = -offset % step
            yield batch.take(list(range(first, batch.num_rows, step)))
            offset += batch.num_rows

    return Rows(-(-rows.rows // step), batches)
