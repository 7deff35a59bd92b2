"""Shared fixtures: small repositories on disk. Profiles of the property tests: see `effort`."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from effort import FUZZ, examples
from hypothesis import HealthCheck, settings

Rows = Sequence[Mapping[str, Any]]
MakeRepo = Callable[..., Path]

INSTANT = pa.timestamp("us", tz="UTC")

ALLOWED = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture)
settings.register_profile(
    "featurestore",
    deadline=None,
    derandomize=True,
    max_examples=100,
    database=None,
    suppress_health_check=ALLOWED,
)
settings.register_profile(
    "fuzz",
    deadline=None,
    derandomize=False,
    max_examples=examples(100),
    print_blob=True,
    suppress_health_check=ALLOWED,
)


def utc(*parts: int) -> datetime:
    """An aware instant: `utc(2024, 5, 1, 12)`."""
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]


def write_rows(path: Path, rows: Rows, types: Mapping[str, pa.DataType]) -> None:
    """Write `rows` as one Parquet file with the columns and types of `types`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=pa.schema(types)), path)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write the golden files anew, then review them"
    )


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("--hypothesis-profile"):
        settings.load_profile("fuzz" if FUZZ else "featurestore")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A gap of a back end is a test that must fail: `notyet` and `never` are strict xfails. Fuzzing
    takes as long as it was asked to."""
    for item in items:
        if FUZZ:
            item.add_marker(pytest.mark.timeout(0))
        for name in ("notyet", "never"):
            for mark in item.iter_markers(name):
                item.add_marker(pytest.mark.xfail(reason=mark.args[0], strict=True))


@pytest.fixture
def make_repo(tmp_path: Path) -> MakeRepo:
    """Write a repository: its definitions' text and its settings by section and key."""

    def make(definitions: str, *, name: str = "shop", **sections: Mapping[str, Any]) -> Path:
        folder = tmp_path / "repo"
        folder.mkdir(exist_ok=True)
        (folder / "definitions.py").write_text(textwrap.dedent(definitions))
        if "redis" in str(sections.get("online", {}).get("url", "")):
            # Tests of deadlines set their own; a busy machine must not fail the others.
            sections["online"] = {"timeout_ms": 30_000, **sections["online"]}
        settings: dict[str, Mapping[str, Any]] = {"project": {"name": name}, **sections}
        lines = []
        for section, keys in settings.items():
            lines.append(f"[{section}]")
            lines += [
                f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}"
                for key, value in keys.items()
            ]
        (folder / "featurestore.toml").write_text("\n".join(lines) + "\n")
        return folder

    return make
