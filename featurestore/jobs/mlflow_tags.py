"""What we say in the tags of an MLflow run of what it learned from, and how it is read back.

    featurestore.training_set      the record ids of its training sets, the newest last
    featurestore.retrievals        how many retrievals follow
    featurestore.retrieved.1       JSON: training_set, service, at, features, parts, pins
    featurestore.features.1.1      JSON: the names of the features, in as many parts as that says

MLflow cuts or refuses long values, so a long list goes into several tags.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from featurestore.fingerprint import fingerprint
from featurestore.jobs.retrieved import Retrieved
from featurestore.timeline import format_instant

TAG_CHARS_MAX = 4_000
"""Of one of our values; MLflow's own limits are 5,000 (2.x) and 8,000."""
RETRIEVALS_TAGGED_MAX = 16
"""Of one run, the newest."""
PARTS_MAX = 60
"""Parts of all lists of one run; a longer list is told by its number and hash alone."""
PREFIX = "featurestore."
TRAINING_SET_TAG = f"{PREFIX}training_set"
COUNT_TAG = f"{PREFIX}retrievals"


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A retrieval as the tags of a run tell it. `features` is empty where the list did not fit."""

    training_set: str | None
    service: str | None
    features: tuple[str, ...]
    features_digest: str


def tags_of(retrievals: Sequence[Retrieved]) -> dict[str, str]:
    """The tags for a run that learned from these."""
    newest = retrievals[-RETRIEVALS_TAGGED_MAX:]
    sets = list(dict.fromkeys(one.training_set for one in newest if one.training_set))
    tags = {COUNT_TAG: str(len(newest))}
    if sets:
        tags[TRAINING_SET_TAG] = _fitting(sets)
    parts_left = PARTS_MAX
    for number, one in enumerate(newest, start=1):
        text = json.dumps(list(one.features), ensure_ascii=False)
        parts = [text[at : at + TAG_CHARS_MAX] for at in range(0, len(text), TAG_CHARS_MAX)]
        if len(parts) > parts_left:
            parts = []
        parts_left -= len(parts)
        about = {
            "training_set": one.training_set,
            "service": one.service,
            "at": format_instant(one.at_us),
            "features": len(one.features),
            "features_digest": fingerprint(list(one.features)),
            "parts": len(parts),
            "pins": fingerprint({source: dict(pin) for source, pin in one.pins.items()}),
        }
        tags[f"{PREFIX}retrieved.{number}"] = json.dumps(about, ensure_ascii=False)
        for part, some in enumerate(parts, start=1):
            tags[f"{PREFIX}features.{number}.{part}"] = some
    return tags


def _fitting(sets: list[str]) -> str:
    """As many ids as fit, the newest last."""
    while len(sets) > 1 and len(" ".join(sets)) > TAG_CHARS_MAX:
        sets = sets[1:]
    return " ".join(sets)


def told_by(tags: Mapping[str, str]) -> tuple[Told, ...]:
    """What the tags of a run tell, in order; what somebody has changed so that it can't be read is
    left out."""
    found = []
    try:
        count = min(int(tags.get(COUNT_TAG, "0")), RETRIEVALS_TAGGED_MAX)
    except ValueError:
        return ()
    for number in range(1, count + 1):
        try:
            about = json.loads(tags[f"{PREFIX}retrieved.{number}"])
            parts = range(1, min(int(about["parts"]), PARTS_MAX) + 1)
            text = "".join(tags[f"{PREFIX}features.{number}.{part}"] for part in parts)
            told = Told(
                training_set=_text(about["training_set"]),
                service=_text(about["service"]),
                features=tuple(map(str, json.loads(text or "[]"))),
                features_digest=str(about["features_digest"]),
            )
        except (KeyError, TypeError, ValueError):
            continue
        found.append(told)
    return tuple(found)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
