"""Profiles of the property tests.

By default they draw the same examples each time, few enough to take less than a minute in all.
`FEATURESTORE_FUZZ_SECONDS=600` draws new ones for about so long per test; so does
`--hypothesis-profile=fuzz`, until it is stopped.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

FUZZ_SECONDS = int(os.environ.get("FEATURESTORE_FUZZ_SECONDS", "0"))
EXAMPLES_PER_SECOND = 20
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
    max_examples=FUZZ_SECONDS * EXAMPLES_PER_SECOND or 1_000_000,
    print_blob=True,
    suppress_health_check=ALLOWED,
)


def pytest_configure(config: pytest.Config) -> None:
    if FUZZ_SECONDS:
        settings.load_profile("fuzz")
    elif not config.getoption("--hypothesis-profile"):
        settings.load_profile("featurestore")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fuzzing takes as long as it was asked to."""
    if settings.get_current_profile_name() == "fuzz":
        for item in items:
            item.add_marker(pytest.mark.timeout(0))
