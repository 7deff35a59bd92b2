"""Texts: sequences of Unicode code points, with the rules of the expression language."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

SPACES = (
    " \u00a0\u1680\u2000\u2001\u2002\u2003\u2004"
    "\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
)
"""What `trim` takes off: Unicode's space separators (no tabs, no line ends)."""

OFFSET_MAX = 2**32 - 1
"""The greatest offset, length or position of a text function; NULL beyond it."""

PADDED_MAX = 10_000
"""The most code points that `lpad` and `rpad` make; NULL beyond it."""

INDEX_MAX = 2**31 - 1
"""The greatest number of a part or of a list's item; NULL beyond it."""

length = len


def lower(text: str) -> str:
    """Lower case, one code point for one."""
    if "İ" not in text and "Σ" not in text:
        return text.lower()  # the two that Python's full mapping treats by context or lengthens
    return "".join("i" if c == "İ" else c.lower() for c in text)


def upper(text: str) -> str:
    """Upper case, one code point for one."""
    raised = text.upper()
    return raised if len(raised) == len(text) else "".join(map(_upper, text))


def _upper(character: str) -> str:
    if character == "ß":
        return "ẞ"
    for raised in (character.upper(), character.title()):
        if len(raised) == 1:
            return raised
    return character


def replace(text: str, old: str, new: str) -> str:
    """Every `old` replaced; the text itself where `old` is empty."""
    return text.replace(old, new) if old else text


def substring(text: str, offset: int, length: int = OFFSET_MAX) -> str | None:
    """From code point `offset` (1 is the first, -1 the last), `length` of them."""
    if not (-OFFSET_MAX <= offset <= OFFSET_MAX and -OFFSET_MAX <= length <= OFFSET_MAX):
        return None
    start = offset - 1 if offset >= 0 else len(text) + offset
    low, high = (start, start + length) if length >= 0 else (start + length, start)
    return text[max(low, 0) : max(high, 0)]


def left(text: str, count: int) -> str | None:
    """The first `count` code points; all but the last where it is negative."""
    if not -OFFSET_MAX <= count <= OFFSET_MAX:
        return None
    return text[:count] if count >= 0 else text[: max(len(text) + count, 0)]


def right(text: str, count: int) -> str | None:
    """The last `count` code points; all but the first where it is negative."""
    if not -OFFSET_MAX <= count <= OFFSET_MAX:
        return None
    return text[max(len(text) - count, 0) :] if count >= 0 else text[min(-count, len(text)) :]


def lpad(text: str, count: int, fill: str) -> str | None:
    """Cut, or filled on the left, to `count` code points."""
    if not fill or not 0 <= count <= PADDED_MAX:
        return None
    missing = count - len(text)
    return _filling(fill, missing) + text if missing > 0 else text[:count]


def rpad(text: str, count: int, fill: str) -> str | None:
    """Cut, or filled on the right, to `count` code points."""
    if not fill or not 0 <= count <= PADDED_MAX:
        return None
    missing = count - len(text)
    return text + _filling(fill, missing) if missing > 0 else text[:count]


def _filling(fill: str, count: int) -> str:
    return (fill * (count // len(fill) + 1))[:count]


def split_part(text: str, separator: str, index: int) -> str | None:
    """One part of the text, from the left by 1, 2, …, from the right by -1, -2, …."""
    if not separator or not -INDEX_MAX <= index <= INDEX_MAX:
        return None
    parts = text.split(separator)
    if not 1 <= abs(index) <= len(parts):
        return ""
    return parts[index - 1 if index > 0 else index]


def concat_ws(separator: str, *texts: str | None) -> str:
    """The texts that are not None, joined."""
    return separator.join([text for text in texts if text is not None])


def list_extract(items: list[Any], index: int) -> Any:
    """One item, from the left by 1, 2, …, from the right by -1, -2, …; None where there is none."""
    if not 1 <= abs(index) <= len(items):
        return None
    return items[index - 1 if index > 0 else index]


def like_pattern(pattern: str) -> Callable[[str], object]:
    """A test of one LIKE pattern; `%` is any text, `_` any code point, there is no escape."""
    middle = pattern.strip("%")
    if "%" not in middle and "_" not in middle:
        if not pattern.startswith("%") and not pattern.endswith("%"):
            return middle.__eq__
        if pattern.startswith("%") and pattern.endswith("%"):
            return lambda text: middle in text
        ends = str.endswith if pattern.startswith("%") else str.startswith
        return lambda text: ends(text, middle)
    return _segments(pattern.split("%"))


def _segments(segments: list[str]) -> Callable[[str], object]:
    """The first segment begins the text, the last one ends it, and each between them may stand as
    far left as possible: linear, where a regular expression with as many `.*` is not."""
    begins = _segment(segments[0])
    if len(segments) == 1:
        return lambda text: begins.fullmatch(text) is not None
    finds = [_segment(part) for part in segments[1:-1] if part]
    ends, tail = _segment(segments[-1]), len(segments[-1])

    def matches(text: str) -> bool:
        found = begins.match(text)
        for part in finds:
            if found is None:
                return False
            found = part.search(text, found.end())
        start = len(text) - tail
        return found is not None and start >= found.end() and ends.match(text, start) is not None

    return matches


def _segment(segment: str) -> re.Pattern[str]:
    return re.compile("".join("." if c == "_" else re.escape(c) for c in segment), re.DOTALL)


_patterns = lru_cache(maxsize=1_000)(like_pattern)


def like(text: str, pattern: str) -> bool:
    """Whether the text matches a LIKE pattern that another column holds."""
    return bool(_patterns(pattern)(text))
