"""Answers as JSON holds them, for the command line and for HTTP alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import fields, is_dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

from featurestore.timeline import format_instant


def to_plain(found: Any) -> Any:
    """An answer in JSON's own types: what is named `…_us`, an instant, becomes ISO 8601 under the
    name without the unit; a number that is not finite is null. Raises `TypeError`."""
    return _plain(found)


def _plain(value: Any, name: str = "") -> Any:
    match value:
        case Enum():
            return value.value
        case bool() | None | str():
            return value
        case int():
            return format_instant(value) if name.endswith("_us") else value
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {_name(str(key)): _plain(item, str(key)) for key, item in value.items()}
        case _ if is_dataclass(value) and not isinstance(value, type):
            return {
                _name(field.name): _plain(getattr(value, field.name), field.name)
                for field in fields(value)
                if field.repr
            }
        case tuple() if hasattr(value, "_asdict"):
            return _plain(value._asdict())
        case list() | tuple() | Set():
            return [_plain(item) for item in value]
        case datetime() | date():
            return value.isoformat()
        case Decimal() | Path():
            return str(value)
        case _:
            raise TypeError(f"{type(value).__name__} has no JSON form")


def _name(name: str) -> str:
    return name.removesuffix("_us") if name.endswith("_us") else name
