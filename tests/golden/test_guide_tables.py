"""The guides' tables are those of the code."""

from __future__ import annotations

from pathlib import Path

from featurestore.aggregates import AGGREGATES
from featurestore.definitions.functions import FUNCTIONS, Function
from featurestore.errors import suggest
from featurestore.statuses import Status

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
GUIDE = GUIDES / "definitions.md"


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


def test_the_guide_names_every_function() -> None:
    lines = GUIDE.read_text(encoding="utf-8").splitlines()
    missing = [row(function) for function in FUNCTIONS.values() if row(function) not in lines]
    assert not missing, "write into the guide:\n" + "\n".join(missing)


def test_the_guide_names_no_function_that_is_gone() -> None:
    text = GUIDE.read_text(encoding="utf-8").partition("## Expressions")[2]
    table = [line for line in text.partition("## ")[0].splitlines() if line.startswith("| `")]
    known = {row(function) for function in FUNCTIONS.values()}
    gone = [line for line in table if line not in known]
    assert not gone, f"{gone[0]} is not a function.{suggest(gone[0], known)}"


def test_the_guide_names_every_status() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    assert all(f"| `{status.name}` |" in text for status in Status)


def test_the_guide_names_every_aggregate() -> None:
    text = (GUIDES / "windows.md").read_text(encoding="utf-8")
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert {(line[0], line[2]) for line in lines} == {
        (f"| `{row.name}`", f"{row.doc} |") for row in AGGREGATES.values()
    }
