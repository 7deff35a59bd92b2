"""The guides' tables are those of the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from featurestore.aggregates import AGGREGATES
from featurestore.definitions.functions import ALIASES, FUNCTIONS, Function
from featurestore.statuses import Status

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
EXPRESSIONS = GUIDES / "expressions.md"
HEAD = "| function | what it yields | NULLs |\n|---|---|---|\n"


def row(function: Function) -> str:
    """A function's line in the guide."""
    return f"| `{_written(function)}` | {_cell(function.doc)} | {function.nulls} |"


def _written(function: Function) -> str:
    if function.symbol is not None:
        return _cell(function.symbol)
    if function.maximum > 3:
        arguments = [*"abc"[: function.minimum], "…"]
    else:
        required, optional = "abc"[: function.minimum], "abc"[function.minimum : function.maximum]
        arguments = [*required, *(f"[{letter}]" for letter in optional)]
    return f"{function.name}({', '.join(arguments)})"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def test_the_table_of_functions(request: pytest.FixtureRequest) -> None:
    text = EXPRESSIONS.read_text(encoding="utf-8")
    before, _, rest = text.partition(HEAD)
    table, _, after = rest.partition("\n\n")
    wanted = "\n".join(map(row, FUNCTIONS.values()))
    if request.config.getoption("--update-golden", default=False):
        EXPRESSIONS.write_text(f"{before}{HEAD}{wanted}\n\n{after}", encoding="utf-8")
        return
    assert table == wanted


def test_the_guide_names_every_other_spelling() -> None:
    text = EXPRESSIONS.read_text(encoding="utf-8")
    missing = [f"`{alias}` is `{name}`" for alias, name in ALIASES.items()]
    assert not [spelling for spelling in missing if spelling not in " ".join(text.split())]


def test_the_guide_names_every_status() -> None:
    text = (GUIDES / "definitions.md").read_text(encoding="utf-8")
    assert all(f"| `{status.name}` |" in text for status in Status)


def test_the_guide_names_every_aggregate() -> None:
    text = (GUIDES / "windows.md").read_text(encoding="utf-8")
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert {(line[0], line[2]) for line in lines} == {
        (f"| `{row.name}`", f"{row.doc} |") for row in AGGREGATES.values()
    }
