"""What a plan is: frozen data that is printed, stored as JSON, reviewed, and applied later."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from featurestore.errors import FeatureStoreError, InvalidRequest
from featurestore.records import Transformation
from featurestore.timeline import format_instant, to_us

PLAN_FORMAT = 2
PLAN_FORMATS_READ = (1, PLAN_FORMAT)
"""Format 1 had neither estimates nor what is affected."""


class Category(StrEnum):
    """How much a change matters: METADATA describes, ADDITIVE brings something new and leaves all
    values alone, BREAKING changes the values of something that exists, REMOVAL takes it away."""

    METADATA = "METADATA"
    ADDITIVE = "ADDITIVE"
    BREAKING = "BREAKING"
    REMOVAL = "REMOVAL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One object's change. A feature's `name` is `view.feature`. `details` say what changed, each
    in a few words (`ttl 7d → 3d`); `services` are the feature services downstream of it."""

    kind: str
    name: str
    category: Category
    details: tuple[str, ...] = ()
    services: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Backfill:
    """What filling an online table reads: the source's rows with event times from `start_us` (None:
    the oldest there are) up to `end_us`, and the bytes of the columns that the view reads.

    Both come from the footers of files, without reading a row; `exact` is whether the footers say
    just these rows, or `rows` is an estimate (part of a row group, a CSV file, an SQL source, of
    which all that it reads counts). Bytes are an estimate always. What was pushed counts, too.
    """

    start_us: int | None
    end_us: int
    rows: int
    bytes: int
    exact: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """A view whose rows need an online table that does not exist yet, or (`is_new` false) that is
    there and has to reach further back. `beside` is the storage hash of the table that the
    environment has of the view now, which stays while anything needs it. `backfill` is None where
    nobody asked for an estimate or the source can't be read."""

    view: str
    storage_hash: str
    is_new: bool = True
    beside: str | None = None
    backfill: Backfill | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Affected:
    """Something downstream of what breaks or goes: a `service`, `training_set`, `run` or `model`.

    `label` is its name as people say it. `transformation` is whether the change reaches it by value
    (DIRECT) or as a filter, key, order or age limit (INDIRECT); `category` is BREAKING or REMOVAL.
    `aliases` are the names that point to it: environments of a service (`env/prod`), stages of a
    model (`model/delay/production`). `through` are the changed features and services that it
    depends on (where something goes, those that go).
    """

    kind: str
    name: str
    label: str
    id: str
    transformation: Transformation
    category: Category
    aliases: tuple[str, ...] = ()
    through: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangePlan:
    """What would happen to `environment`.

    `base` is the repo record that the environment has (None: nothing was ever applied), `target`
    the one that it would get. `builds` are the online tables to fill, `affected` is all that lies
    downstream of what breaks or goes.
    """

    project: str
    environment: str
    base: str | None
    target: str
    changes: tuple[Change, ...] = ()
    builds: tuple[Build, ...] = ()
    affected: tuple[Affected, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing changes. How definitions are laid out, and what a release records of
        them, is no change; an apply brings the records up to date all the same."""
        return not self.changes

    @property
    def moves(self) -> bool:
        """Whether the environment has other records than these."""
        return self.base != self.target

    def to_json(self) -> str:
        """The plan as JSON text, for a file, a review or a program."""
        values = {"format": PLAN_FORMAT, **asdict(self)}
        for build in values["builds"]:
            if build["backfill"] is not None:
                build["backfill"] = _shown(build["backfill"])
        return json.dumps(values, indent=2, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> ChangePlan:
        """The plan that `to_json` wrote. Raises `InvalidRequest` for any other text."""
        try:
            values = json.loads(text)
            if values.pop("format") not in PLAN_FORMATS_READ:
                raise ValueError("it has another format")
            changes = tuple(_change(change) for change in values.pop("changes"))
            builds = tuple(_build(build) for build in values.pop("builds"))
            affected = tuple(_affected(one) for one in values.pop("affected", ()))
            return cls(changes=changes, builds=builds, affected=affected, **values)
        except (ValueError, TypeError, KeyError, AttributeError, FeatureStoreError) as error:
            raise InvalidRequest(
                f"This is not a plan of ours ({error}). "
                "Make one with: featurestore plan --output plan.json"
            ) from error

    def to_markdown(self) -> str:
        """The plan as a pull request shows it: a summary and collapsible details."""
        from featurestore.compiler.change_markdown import markdown

        return markdown(self)

    def __str__(self) -> str:
        from featurestore.compiler.change_text import render

        return render(self)


def _shown(backfill: Mapping[str, Any]) -> dict[str, Any]:
    start = backfill["start_us"]
    return {
        "start": None if start is None else format_instant(start),
        "end": format_instant(backfill["end_us"]),
        **{name: backfill[name] for name in ("rows", "bytes", "exact")},
    }


def _change(values: dict[str, Any]) -> Change:
    return Change(
        kind=values["kind"],
        name=values["name"],
        category=Category(values["category"]),
        details=tuple(values["details"]),
        services=tuple(values["services"]),
    )


def _build(values: dict[str, Any]) -> Build:
    backfill = values.pop("backfill", None)
    if backfill is not None:
        start, end = backfill.pop("start"), backfill.pop("end")
        backfill = Backfill(
            start_us=None if start is None else to_us(start), end_us=to_us(end), **backfill
        )
    return Build(backfill=backfill, **values)


def _affected(values: dict[str, Any]) -> Affected:
    category = Category(values.pop("category"))
    aliases, through = tuple(values.pop("aliases")), tuple(values.pop("through"))
    return Affected(category=category, aliases=aliases, through=through, **values)
