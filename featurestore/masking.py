"""Text without secrets, and without commands to a terminal: what logs, errors, reports and
tracebacks pass through.

Masks too much rather than too little: in a URL all that stands before its last `@`.
"""

from __future__ import annotations

import re

# Names come from anywhere, and are long: nothing here may begin anew at each letter of one, or at
# each word in it. What is looked for is looked for once (`(?>…)`), and only where what must stand
# behind it does.
_RUN = re.compile(r"[^\s\"]+")
_PARAMETER = re.compile(
    r"(?P<name>(?<![a-z0-9_.\-])(?=[a-z0-9_.\-]*+=)"
    r"(?>[a-z0-9_.\-]*?(?:password|passwd|token|secret|access_key|key_id|signature))"
    r"[a-z0-9_.\-]*+=)[^&\s\"';]+",
    re.IGNORECASE,
)
_BEARER = re.compile(r"(?P<scheme>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/\-]{8,}=*", re.IGNORECASE)
_TOKEN = re.compile(r"\bfs_[A-Za-z0-9_\-]{20,}")
_JWT = re.compile(
    r"(?<![A-Za-z0-9_\-])(?=[A-Za-z0-9_\-]++\.[A-Za-z0-9_\-]++\.)"
    r"(?P<before>(?>[A-Za-z0-9_\-]*?\b(?=eyJ)))[A-Za-z0-9_\-]++\.[A-Za-z0-9_\-]++\.[\w\-]*"
)
_HIDDEN = "***"
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control characters but tab and newline, and what turns the direction of text round."""


def mask(text: str) -> str:
    """The text with the user and password of every URL, secret parameters and tokens replaced."""
    return _rest(_RUN.sub(_without_credentials, text))


def _without_credentials(run: re.Match[str]) -> str:
    head, slashes, rest = run[0].partition("//")
    _, at, host = rest.rpartition("@")
    return f"{head}//{_HIDDEN}@{host}" if slashes and at else run[0]


def mask_url(url: str) -> str:
    """The URL as people are shown it: with its user, without its password."""
    head, at, rest = url.rpartition("@")
    scheme, slashes, who = head.partition("//")
    if not at or not slashes:
        # Whatever this is, what stands before an @ may be a password.
        return _rest(f"{_HIDDEN}@{rest}" if at else url)
    user, colon, _ = who.partition(":")
    return _rest(f"{scheme}//{user}{':' + _HIDDEN if colon else ''}@{rest}")


def visible(text: str) -> str:
    """The text with every character that a terminal would obey written out (`\\u001b`), as JSON
    does: names and values come from anywhere, and may want to rewrite what people see."""
    return _COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _rest(text: str) -> str:
    text = _PARAMETER.sub(rf"\g<name>{_HIDDEN}", text)
    text = _JWT.sub(rf"\g<before>{_HIDDEN}", _BEARER.sub(rf"\g<scheme>{_HIDDEN}", text))
    return _TOKEN.sub(_HIDDEN, text)
