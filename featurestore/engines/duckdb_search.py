"""What an as-of join looks for, and where: what all forms of the search start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from featurestore.engines.duckdb_sql import ROW, Table
from featurestore.engines.duckdb_ties import Right
from featurestore.engines.sql import quote


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """One as-of join while its winners are searched: `keys` and `time` are SQL over the left row
    `l`, `reach_us` how far back a row can stand to be of interest, `bounds` the first and the last
    time. The tables of winners have `beside`: the position of the left row, and `with_time` its
    time as `t`."""

    left: Table
    right: Right
    keys: Sequence[str]
    time: str
    reach_us: int | None
    bounds: tuple[int, int] | None
    with_time: bool

    @property
    def beside(self) -> list[str]:
        return [quote(ROW), *(["t"] if self.with_time else [])]

    @property
    def key_names(self) -> list[str]:
        return [f"k{number}" for number in range(len(self.keys))]

    @property
    def same_key(self) -> list[str]:
        return [f"s.{r} = {left}" for r, left in zip(self.right.keys, self.keys, strict=True)]

    @property
    def asked_keys(self) -> list[str]:
        return [f"{have} AS {name}" for have, name in zip(self.keys, self.key_names, strict=True)]
