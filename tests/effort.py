"""How hard the property tests try.

By default they draw the same examples each time, on every machine, few enough to take less than a
minute in all: what a test finds by chance belongs to who looks for it, not to who submits next.
`FEATURESTORE_FUZZ=5` draws other ones each time, five times as many; `make fuzz` does so, again and
again, for as long as it is told to.
"""

from __future__ import annotations

import os

FUZZ = int(os.environ.get("FEATURESTORE_FUZZ", "0"))
FIRST_SEED = int(os.environ.get("FEATURESTORE_FUZZ_SEED", "0"))


def examples(usual: int) -> int:
    """How many examples to draw where `usual` are enough for every day."""
    return usual * max(FUZZ, 1)


def seeds(usual: int) -> range:
    """Seeds for tests that draw from a generator of their own; the same in each process."""
    return range(FIRST_SEED, FIRST_SEED + examples(usual))
