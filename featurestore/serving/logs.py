"""Structured logs on standard error: JSON lines, or coloured text on a terminal. No secrets."""

from __future__ import annotations

import logging
import sys
import uuid
from typing import Any

import structlog
from structlog.typing import EventDict, WrappedLogger

from featurestore.errors import FeatureStoreError, InvalidSettings, RequestError
from featurestore.masking import mask, visible

REQUEST_ID = "x-request-id"
"""Metadata key and HTTP header by which a caller names its request in our logs."""
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
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _mask_all,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def logger() -> Any:
    """A logger: `logger().info("event", key=value)`."""
    return structlog.get_logger()


def log_failure(error: FeatureStoreError, door: str, code: str, request_id: str | None) -> None:
    """A request failed. The caller's own mistakes are answered, not logged, and neither is a store
    that is away: readiness says that once."""
    if not isinstance(error, RequestError) and not error.retryable:
        logger().error(
            "request failed",
            door=door,
            request_id=request_id or uuid.uuid4().hex,
            code=code,
            error=str(error),
        )


def log_slow(door: str, code: str, seconds: float, request_id: str | None) -> None:
    """A request took longer than `SLOW_REQUEST_S`."""
    logger().warning(
        "slow request",
        door=door,
        request_id=request_id or uuid.uuid4().hex,
        code=code,
        seconds=round(seconds, 4),
    )


def _mask_all(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {
        key: visible(mask(value)) if isinstance(value, str) else value
        for key, value in event.items()
    }
