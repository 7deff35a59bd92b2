"""A plan as a pull request shows it, and as text: whole, cut, and with hostile names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from shop_definitions import shop

from featurestore.compiler.change_markdown import MARKDOWN_CHARS_MAX, code, markdown
from featurestore.compiler.change_plan import (
    Affected,
    Backfill,
    Build,
    Category,
    Change,
    ChangePlan,
)
from featurestore.compiler.change_text import backfill_text, render, size
from featurestore.compiler.changes import definition_records, plan_changes
from featurestore.records import StoredRecord
from featurestore.timeline import DAY_US

GOLDEN = Path(__file__).parents[1] / "golden"
HASH = "0123456789abcdef" * 4
BACKFILL = Backfill(start_us=0, end_us=7 * DAY_US, rows=1200, bytes=48_123, exact=True)
MODEL = Affected(
    kind="model",
    name="delay",
    label="delay v3",
    id=f"model:delay@{HASH}",
    transformation="DIRECT",
    category=Category.BREAKING,
    aliases=("model/delay/production",),
    through=("weather.temp", "weather.wind"),
)
SET = Affected(
    kind="training_set",
    name="flights",
    label="flights@01234567",
    id=f"training_set:flights@{HASH}",
    transformation="INDIRECT",
    category=Category.REMOVAL,
)


def made(
    *changes: Change,
    builds: tuple[Build, ...] = (),
    affected: tuple[Affected, ...] = (),
    base: str | None = f"repo:shop@{HASH}",
) -> ChangePlan:
    return ChangePlan(
        project="shop",
        environment="prod",
        base=base,
        target=f"repo:shop@{HASH[::-1]}",
        changes=changes,
        builds=builds,
        affected=affected,
    )


def change(name: str, *details: str, kind: str = "view") -> Change:
    return Change(kind=kind, name=name, category=Category.BREAKING, details=details)


def test_a_plan_of_everything() -> None:
    plan = made(
        change("weather", "ttl 7d → 3d", "feature x added"),
        change("weather.temp", "ttl 7d → 3d", kind="feature"),
        builds=(
            Build(view="weather", storage_hash=HASH, beside=HASH[::-1], backfill=BACKFILL),
            Build(view="days", storage_hash=HASH, is_new=False),
        ),
        affected=(MODEL, SET),
    )
    assert markdown(plan) == plan.to_markdown()
    assert plan.to_markdown() == (GOLDEN / "plan_markdown.md").read_text(encoding="utf-8")


def test_the_same_as_text() -> None:
    plan = made(
        change("weather", "ttl 7d → 3d"),
        builds=(
            Build(view="weather", storage_hash=HASH, beside=HASH[::-1], backfill=BACKFILL),
            Build(view="days", storage_hash=HASH, is_new=False, backfill=BACKFILL),
        ),
        affected=(MODEL, SET),
    )
    assert render(plan).splitlines()[2:] == [
        "New online tables, to be filled by: featurestore materialize",
        (
            "    weather (01234567) beside (fedcba98): "
            "the last 7d, 1,200 rows of the source (about 48 kB)"
        ),
        "Online tables that must reach further back: featurestore materialize",
        "    days (01234567): the last 7d, 1,200 rows of the source (about 48 kB)",
        "Downstream of what breaks or goes:",
        "  ! DIRECT   model delay v3 (model/delay/production), through weather.temp, weather.wind",
        "  - INDIRECT training set flights@01234567",
        "In all: 1 BREAKING.",
    ]


def test_many_that_are_touched_are_cut_for_people_only() -> None:
    plan = made(change("weather"), affected=(MODEL,) * 25)
    assert "… 5 more models; --json lists them all" in render(plan)
    many = tuple(f"weather.f{n}" for n in range(9))
    assert "weather.f2 and 6 more" in render(
        made(change("weather"), affected=(Affected(**{**_fields(MODEL), "through": many}),))
    )


def _fields(one: Affected) -> dict[str, object]:
    return {name: getattr(one, name) for name in one.__slots__}


def test_nothing_to_do_says_so() -> None:
    plan = ChangePlan(project="shop", environment="prod", base="repo:a@1", target="repo:a@1")
    assert plan.to_markdown() == "### Feature plan for `prod` of `shop`\n\nNo changes.\n"


def test_a_first_plan() -> None:
    repo = shop()
    text = plan_changes(None, repo, environment="prod").to_markdown()
    assert "**9 ADDITIVE**, for the first time." in text
    assert "Downstream" not in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a | b", "`a \\| b`"),
        ("two\nlines", "`two lines`"),
        ("`tick`", "`` `tick` ``"),
        ("``", "``` `` ```"),
        ("<img src=x onerror=alert(1)>", "`<img src=x onerror=alert(1)>`"),
        ("@everyone", "`@everyone`"),
        ("", "` `"),
    ],
)
def test_texts_mean_nothing_to_markdown(text: str, shown: str) -> None:
    assert code(text) == shown


def test_a_description_can_not_leave_its_cell() -> None:
    hostile = "x` | </details> <script>alert(1)</script>\n\n# @everyone ``"
    old = [
        StoredRecord(id=r.id, record=r, created_at_us=0, author="ann")
        for r in definition_records(shop())
    ]
    plan = plan_changes(old, shop(wind_about=hostile), environment="prod")
    text = plan.to_markdown()
    (row,) = [line for line in text.splitlines() if "script" in line]
    assert re.search(r"```[^`].*script.*[^`] ?```", row)
    assert len(re.findall(r"(?<!\\)\|", row)) == 5
    assert not [line for line in text.splitlines() if line.startswith("# ")]


def test_a_long_plan_fits_a_comment() -> None:
    details = [f"tag {n} added: {'y' * 120}" for n in range(20)]
    plan = made(*(change(f"view{n}", *details) for n in range(3_000)), affected=(MODEL,) * 5_000)
    text = plan.to_markdown()
    assert len(text) <= MARKDOWN_CHARS_MAX
    assert re.search(r"… and 2,9\d\d more: `featurestore plan --json`", text)
    assert text.count("<details>") == text.count("</details>") == 1


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (48_123, "48 kB"),
        (5_400_000, "5.4 MB"),
        (2 * 10**11, "200 GB"),
        (3 * 10**15, "3,000.0 TB"),
    ],
)
def test_sizes(count: int, shown: str) -> None:
    assert size(count) == shown


def test_an_estimate_says_that_it_is_one() -> None:
    guess = Backfill(start_us=None, end_us=0, rows=1, bytes=10, exact=False)
    assert backfill_text(guess) == (
        "from the oldest row, an estimated 1 row of the source (about 10 bytes)"
    )
