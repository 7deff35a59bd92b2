"""How the demo's steps print: headings, and the first lines of long answers."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from featurestore.cli.output import say


def heading(title: str, text: str) -> None:
    """The title of a step and what it is about."""
    say()
    say(f"── {title}: {text}")
    sys.stdout.flush()


def abridged(text: str, *, most: int, indent: str = "  ") -> str:
    """`text` with at most `most` lines of each list, that is of lines which begin with `indent`,
    and a count of those that are left out."""
    return "\n".join(_abridged(text.splitlines(), most, indent))


def _abridged(lines: list[str], most: int, indent: str) -> Iterator[str]:
    count = 0
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        count = count + 1 if line.startswith(indent) else 0
        if count <= most:
            yield line
        elif not following.startswith(indent):
            yield f"{indent}… {count - most} more"
