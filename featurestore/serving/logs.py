"""Structured logs on standard error: JSON lines, or coloured text on a terminal. No secrets."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog
from structlog.typing import EventDict, WrappedLogger

from featurestore.errors import FeatureStoreError, InvalidSettings, RequestError
from featurestore.masking import mask, visible
from featurestore.serving import request_ids

SLOW_REQUEST_S = 0.5


def configure(log_format: str) -> None:
    """Set up logging for this process: `json`, `console`, or `auto` (console on a terminal).

    Raises `InvalidSettings` for another format.
    """
    if log_format not in ("auto", "json", "console"):
        raise InvalidSettings(f"[serving] log_format must be auto, json or console: {log_format!r}")
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    renderer: Any = (
        structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _name_request,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _mask_all,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_Libraries(logging.WARNING)], level=logging.WARNING, force=True)
    # It warns of every malformed request, which anybody may send.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)


def logger() -> Any:
    """A logger: `logger().info("event", key=value)`."""
    return structlog.get_logger()


def log_failure(error: FeatureStoreError, door: str, code: str) -> None:
    """A request failed. The caller's own mistakes are answered, not logged, and neither is a store
    that is away: readiness says that once."""
    if not isinstance(error, RequestError) and not error.retryable:
        logger().error("request failed", door=door, code=code, error=str(error))


def log_slow(door: str, code: str, seconds: float) -> None:
    """A request took longer than `SLOW_REQUEST_S`."""
    logger().warning("slow request", door=door, code=code, seconds=round(seconds, 4))


class _Libraries(logging.Handler):
    """What libraries log goes the way of our own lines."""

    def emit(self, record: logging.LogRecord) -> None:
        logger().log(
            record.levelno,
            "library",
            library=record.name,
            message=record.getMessage(),
            exc_info=record.exc_info,
        )


def _name_request(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Within a request, every line has its id."""
    if name := request_ids.current.get():
        event.setdefault("request_id", name)
    return event


def _mask_all(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {
        key: visible(mask(value)) if isinstance(value, str) else value
        for key, value in event.items()
    }
