"""The made-up data of a new repository: a small shop, up to the hour in which it is made."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from featurestore.timeline import DAY_US, HOUR_US, MINUTE_US, format_instant

CUSTOMERS = 200
FIRST_CUSTOMER = 1001
ORDERS = 2_000
VISITS = 500
DAYS = 60
COUNTRIES = ("AT", "BR", "IN", "KE", "NO", "US")
PLANS = ("free", "plus", "pro")


@dataclass(frozen=True, slots=True)
class Table:
    """A CSV file: where it goes below the repository, its header and its rows."""

    path: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[object]]

    def write(self, folder: Path) -> None:
        """Write the file, with the folders it needs."""
        target = folder / self.path
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(self.columns)
            writer.writerows(self.rows)


def shop_tables(now_us: int) -> tuple[Table, ...]:
    """Customers, orders and visits of the last `DAYS` days; the same for the same hour."""
    now_us = now_us // HOUR_US * HOUR_US
    rng = random.Random(0)  # noqa: S311 — made-up data, not secrets
    start_us = now_us - DAYS * DAY_US
    profiles = list(_profiles(rng, start_us))
    orders = sorted(_order(rng, number, start_us) for number in range(ORDERS))
    visits = sorted(_visit(rng, start_us) for _ in range(VISITS))
    return (
        Table(
            "data/customers.csv",
            ("customer_id", "changed_at", "country", "plan"),
            [(who, format_instant(at_us), country, plan) for at_us, who, country, plan in profiles],
        ),
        Table(
            "data/orders.csv",
            ("order_id", "customer_id", "ordered_at", "reported_at", "items", "amount", "refused"),
            [
                (number, who, format_instant(at_us), format_instant(known_us), items, amount, bad)
                for at_us, known_us, number, who, items, amount, bad in orders
                if known_us <= now_us
            ],
        ),
        Table(
            "visits.csv",
            ("customer_id", "event_timestamp", "bought"),
            [(who, format_instant(at_us), bought) for at_us, who, bought in visits],
        ),
    )


def _customer(rng: random.Random) -> int:
    return FIRST_CUSTOMER + rng.randrange(CUSTOMERS)


def _profiles(rng: random.Random, start_us: int) -> Iterable[tuple[int, int, str, str]]:
    for who in range(FIRST_CUSTOMER, FIRST_CUSTOMER + CUSTOMERS):
        at_us, country, plan = start_us - rng.randrange(365) * DAY_US, rng.choice(COUNTRIES), 0
        yield at_us, who, country, PLANS[plan]
        if rng.random() < 0.3:
            changed_us = start_us + rng.randrange(DAYS * 24) * HOUR_US
            yield changed_us, who, country, PLANS[rng.randrange(1, 3)]


def _order(
    rng: random.Random, number: int, start_us: int
) -> tuple[int, int, int, int, int, float, str]:
    at_us = start_us + rng.randrange(DAYS * 24 * 60) * MINUTE_US
    known_us = at_us + rng.randrange(30, 36 * 60) * MINUTE_US
    items = rng.randrange(0, 6)
    amount = round(items * rng.uniform(5, 40), 2)
    refused = "true" if rng.random() < 0.08 else "false"
    return at_us, known_us, number, _customer(rng), items, amount, refused


def _visit(rng: random.Random, start_us: int) -> tuple[int, int, str]:
    at_us = start_us + rng.randrange(5 * 24 * 60, DAYS * 24 * 60) * MINUTE_US
    return at_us, _customer(rng), "true" if rng.random() < 0.25 else "false"
