"""When services and views were last asked for online: a row for each of their days.

Coarse on purpose. Servers write at most once an hour what they were asked, and a day has one row,
so that the table grows by the names that are served and not by requests.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from featurestore.records import OnlineUse
from featurestore.stores.registry import schema, writes
from featurestore.timeline import DAY_US

USE_DAYS_MAX = 400
"""How many days of use are remembered; the last one of a name is for ever."""


def note(connection: Connection, project: str, environment: str, uses: Mapping[str, int]) -> None:
    """Remember that each name was asked for at that instant (µs), and forget what is too old."""
    table = schema.online_use
    for name, at_us in sorted(uses.items()):
        of_name = sa.and_(
            table.c.project == project, table.c.environment == environment, table.c.name == name
        )
        day = at_us // DAY_US
        here = sa.and_(of_name, table.c.day == day)
        there = connection.scalar(sa.select(table.c.last_us).where(here))
        if there is None:
            values = {
                "project": project, "environment": environment, "name": name, "day": day,
                "last_us": at_us,
            }  # fmt: skip
            connection.execute(sa.insert(table), values)
        elif there < at_us:
            connection.execute(sa.update(table).where(here).values(last_us=at_us))
        connection.execute(sa.delete(table).where(of_name, table.c.day <= day - USE_DAYS_MAX))


def last(
    connection: Connection, project: str, names: Collection[str], at_us: int | None
) -> list[OnlineUse]:
    """The last use of each name in each environment, up to an instant; the newest first."""
    table = schema.online_use
    newest = sa.func.max(table.c.last_us).label("newest")
    found = list[OnlineUse]()
    for chunk in writes.chunks(sorted(set(names))):
        query = (
            sa.select(table.c.environment, table.c.name, newest)
            .where(table.c.project == project, table.c.name.in_(chunk))
            .group_by(table.c.environment, table.c.name)
        )
        if at_us is not None:
            query = query.where(table.c.last_us <= at_us)
        found += [
            OnlineUse(environment=environment, name=name, at_us=int(used_us))
            for environment, name, used_us in connection.execute(query)
        ]
    return sorted(found, key=lambda use: (-use.at_us, use.environment, use.name))
