"""The demo's end: what depends on a column, whether the model's data can be built again, and what
its last promotion changed."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from featurestore.cli import lineage_text
from featurestore.cli.demo.learning import PRODUCTION
from featurestore.cli.demo.printing import abridged, heading
from featurestore.cli.output import say, working
from featurestore.cli.training_sets import show_reproduction
from featurestore.timeline import format_instant

if TYPE_CHECKING:
    from featurestore.store import FeatureStore

COLUMN = "outcomes.arr_delay"
ALIAS = f"model/{PRODUCTION}"
LINES_MAX = 6


def impact(store: FeatureStore) -> None:
    """Down from a column of a source to the models that live on it."""
    heading("Impact", f"what would a change of column {COLUMN} touch?")
    _command("impact", COLUMN)
    say(abridged(lineage_text.impact(store.lineage.impact(COLUMN)), most=LINES_MAX))


def reproduce(store: FeatureStore) -> None:
    """Up from the model in production to the rows that it learned from, built again."""
    heading("Reproduce", "can the training data of the model in production be built again?")
    _command("reproduce", ALIAS)
    with working("rebuilding"):
        found = store.reproduce(ALIAS)
    show_reproduction(found)


def diff(store: FeatureStore) -> None:
    """What the newest promotion changed, from the instant before it until now."""
    heading("Diff", "what did the last promotion change?")
    before_us = store.lineage.history(ALIAS)[-1].at_us - 1
    _command("diff", f"{ALIAS}@{format_instant(before_us)}")
    say(abridged(lineage_text.diff(store.lineage.diff(ALIAS, before_us)), most=LINES_MAX))


def _command(*words: str) -> None:
    say(f"$ featurestore {shlex.join(words)}")
