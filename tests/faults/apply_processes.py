"""What the processes of the apply tests run: importable, so that a fresh process can find it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any, Literal

from shop_definitions import shop
from sqlalchemy import event

from featurestore.compiler.typed import TypedRepo
from featurestore.jobs.apply import apply, online_tables, publish
from featurestore.jobs.store_identity import table_name
from featurestore.records import LedgerRow, Record
from featurestore.stores.registry.base import Registry
from featurestore.stores.registry.sql import SqlRegistry
from featurestore.timeline import ManualClock

NOW_US = 1_700_000_000_000_000
STORE = "00112233aabbccdd"
Moment = Literal["before", "within", "after"]


class MortalRegistry(SqlRegistry):
    """Kills its own process (SIGKILL) at one of its commits: before, within or after it."""

    moment: Moment = "before"
    commits_left: int = sys.maxsize

    def commit(self, **parts: Any) -> None:
        self.commits_left -= 1
        last = self.commits_left < 0
        if last and self.moment == "before":
            die()
        if last and self.moment == "within":
            event.listen(self._database._engine, "commit", die)
        super().commit(**parts)
        if last:
            die()


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def open_registry(root: Path, kind: type[SqlRegistry] = SqlRegistry) -> SqlRegistry:
    return kind.open(
        "sqlite:///r.db", project="shop", root=root, clock=ManualClock(NOW_US), author="ann"
    )


def old() -> TypedRepo:
    return shop()


def new() -> TypedRepo:
    return shop(wind="temp", ttl="3d", owner="bob")


def roll_out(registry: Registry, repo: TypedRepo) -> None:
    """Apply, say in the ledger that all rows are there, and serve."""
    apply(repo, registry, "prod")
    tables = online_tables(registry, repo.views.values())
    for view in repo.views.values():
        table = tables[view.storage_hash]
        row = LedgerRow(
            run_id=f"{view.name} {view.storage_hash}",
            view=view.name,
            view_version=view.version,
            table=table_name(STORE, table.field),
            generation=table.generation,
            mode="incremental",
            start_us=None,
            end_us=NOW_US,
            watermark_us=NOW_US,
            reach_us=view.reach_us,
            rows_read=0,
            rows_written=0,
            rows_skipped=0,
            started_at_us=NOW_US,
            finished_at_us=NOW_US,
        )
        store = Record(kind="online_store", name="prod", body={"id": STORE})
        registry.commit(ledger=[row], records=[store], aliases={"store/prod": store.id})
        publish(repo, registry, "prod")


def roll_out_new(root: Path) -> None:
    with open_registry(root) as registry:
        roll_out(registry, new())


def roll_out_and_die(root: Path, moment: Moment, commits: int) -> None:
    registry = open_registry(root, MortalRegistry)
    assert isinstance(registry, MortalRegistry)
    registry.moment, registry.commits_left = moment, commits
    roll_out(registry, new())


def apply_to(root: Path, environment: str, owner: str) -> str:
    with open_registry(root) as registry:
        return apply(shop(owner=owner), registry, environment).repo
