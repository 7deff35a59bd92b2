"""Dead letters: rows that could not be taken, as text, with the reason."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from featurestore.dtypes import TIMESTAMP, to_arrow
from featurestore.stores.offline import push_log
from featurestore.timeline import format_instant, to_us
from featurestore.wire.pushes import Dead

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from featurestore.compiler.typed import TypedSource
    from featurestore.jobs.materialize import Context

NOT_DUE = "not-due"
"""The reason of a row from the future."""
LETTER = ("at", "reason", "message", "origin", "row")
"""The columns of a letter."""
ROW_CHARS_MAX = 65_536
"""Longer rows are kept cut."""


def not_due(known: npt.NDArray[np.int64], late_us: int) -> tuple[Dead, ...]:
    """The rows that are known later than `late_us`."""
    return tuple(
        Dead(
            row=int(row),
            reason=NOT_DUE,
            message=f"known at {format_instant(int(known[row]))}, later than clock_skew_ms_max "
            "after our clock",
        )
        for row in (known > late_us).nonzero()[0]
    )


def dead_letters(rows: pa.Table, dead: Sequence[Dead], *, at_us: int, origin: str) -> pa.Table:
    """The letters of these rows of a table."""
    taken = rows.take([letter.row for letter in dead]).to_pylist()
    texts = [json.dumps(row, default=_plain, ensure_ascii=False)[:ROW_CHARS_MAX] for row in taken]
    reasons = [(letter.reason, letter.message) for letter in dead]
    return letters_of(texts, reasons, at_us=at_us, origins=[origin] * len(texts))


def letters_of(
    texts: Sequence[str], reasons: Sequence[tuple[str, str]], *, at_us: int, origins: Sequence[str]
) -> pa.Table:
    """Letters of rows that are text already, with reason and message, and where each came from."""
    count = len(texts)
    return pa.table(
        {
            "at": pa.array([at_us] * count, to_arrow(TIMESTAMP)),
            "reason": pa.array([reason for reason, _ in reasons], pa.string()),
            "message": pa.array([message for _, message in reasons], pa.string()),
            "origin": pa.array(list(origins), pa.string()),
            "row": pa.array([text[:ROW_CHARS_MAX] for text in texts], pa.string()),
        }
    )


def dead_letters_of(context: Context, source: TypedSource) -> list[dict[str, Any]]:
    """The dead letters of a source, oldest first, a dict each: at (datetime), reason, message,
    origin, row."""
    offline = context.offline
    if offline is None:
        return []
    push_log.drain(offline, now_us=context.clock.now_us())
    files = push_log.logged_files(offline).get(push_log.dead_table(source.name), ())
    rows = [row for file in files for row in offline.read(file.name, LETTER).to_pylist()]
    return sorted(rows, key=lambda row: (row["at"], row["row"]))


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return format_instant(to_us(value))
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)
