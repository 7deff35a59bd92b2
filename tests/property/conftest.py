"""Profiles of the property tests: see `effort`."""

from __future__ import annotations

import pytest
from effort import FUZZ, examples
from hypothesis import HealthCheck, settings

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
    max_examples=examples(100),
    print_blob=True,
    suppress_health_check=ALLOWED,
)


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("--hypothesis-profile"):
        settings.load_profile("fuzz" if FUZZ else "featurestore")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fuzzing takes as long as it was asked to."""
    if FUZZ:
        for item in items:
            item.add_marker(pytest.mark.timeout(0))
