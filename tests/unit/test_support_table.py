"""The README says what the contract suites say."""

from __future__ import annotations

from pathlib import Path

import pytest
import support_table


class Contract:
    def test_a(self) -> None: ...

    def test_b(self) -> None: ...


class Kept(Contract):
    @pytest.mark.notyet("holds one row")
    def test_a(self) -> None: ...

    @pytest.mark.never(reason="forgets")
    def test_b(self) -> None: ...


def test_the_readme_is_up_to_date() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert support_table.BEGIN in readme
    assert support_table.renewed(readme) == readme, "run: python tests/support_table.py"


def test_gaps_come_from_marks() -> None:
    assert list(support_table.gaps(Kept)) == ["not yet: holds one row", "never: forgets"]
    assert list(support_table.gaps(Contract)) == []


def test_every_back_end_is_there() -> None:
    text = support_table.table()
    for name in ("DuckDB", "LMDB", "Valkey 9", "Redis 8", "Redis 7.0", "SQLite", "PostgreSQL"):
        assert name in text
