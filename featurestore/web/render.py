"""Templates: Jinja2 with everything escaped, and the few words that all pages share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

import featurestore
from featurestore.fingerprint import short
from featurestore.records import show_id
from featurestore.timeline import format_duration, format_instant
from featurestore.web.graph import label_of, url_of

if TYPE_CHECKING:
    from fastapi import Request

    from featurestore.web.site import Site

WHOLE_FROM, WHOLE_TO = 1e6, 1e15
"""Between these a number has no decimals and no exponent."""
_STEPS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


class Renderer:
    """Makes pages of one site."""

    def __init__(self, site: Site) -> None:
        self._site = site
        folder = Path(str(files("featurestore.web"))) / "templates"
        self._templates = Environment(
            loader=FileSystemLoader(folder),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        filters: dict[str, Callable[..., object]] = {
            "instant": instant,
            "ago": self._ago,
            "duration": lambda us: "" if us is None else format_duration(us),
            "took": took,
            "short": short,
            "show_id": show_id,
            "number": number,
            "count": count,
            "run_label": lambda name: label_of("run", name),
            "segment": lambda text: quote(str(text), safe=""),
        }
        self._templates.filters |= filters
        self._templates.globals |= {
            "url_of": url_of,
            "version": featurestore.__version__,
            "project": site.settings.project.name,
            "environment": site.environment,
        }

    def page(
        self, request: Request, template: str, *, status: int = 200, **values: Any
    ) -> HTMLResponse:
        """A whole page."""
        session = request.state.session
        shared: Mapping[str, Any] = {
            "path": request.url.path,
            "who": request.state.who,
            "signed_in": bool(session.token),
            "mark": self._site.sessions.mark(session),
        }
        text = self._templates.get_template(template).render({**shared, **values})
        return HTMLResponse(text, status)

    def _ago(self, at_us: int | None) -> str:
        """How long ago, roughly; empty for never."""
        if at_us is None:
            return ""
        seconds = (self._site.store.clock.now_us() - at_us) // 1_000_000
        if seconds < 0:
            return instant(at_us)
        for size, unit in _STEPS:
            if seconds >= size:
                return f"{seconds // size} {unit} ago"
        return "just now"


def instant(at_us: int | None) -> str:
    """An instant for people; empty for none."""
    if at_us is None:
        return ""
    try:
        return datetime.fromtimestamp(at_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return format_instant(at_us)


def took(duration_us: int | None) -> str:
    """How long something took, roughly; empty where it has not ended."""
    if duration_us is None:
        return ""
    seconds = duration_us / 1e6
    return f"{seconds:.3g} s" if seconds < 120 else f"{seconds / 60:,.1f} min"


def number(value: object) -> str:
    """A number for people."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else str(value)
    if isinstance(value, int) or WHOLE_FROM <= abs(value) < WHOLE_TO:
        return f"{value:,.0f}"
    return f"{value:,.6g}"


def count(values: Sequence[Any] | Mapping[str, Any]) -> int:
    """How many values a list of a record has; one that is too long for it is its `count` alone."""
    return int(values["count"]) if isinstance(values, Mapping) else len(values)
