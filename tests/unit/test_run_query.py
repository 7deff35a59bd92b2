"""The language of searching runs: what it means, and what it says of what it can't read. What each
search finds is in the registry's contract."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql, sqlite

from featurestore.errors import InvalidRequest, InvalidSearch, LimitExceeded
from featurestore.stores.registry import run_sql
from featurestore.stores.registry.run_query import (
    SEARCH_CHARS_MAX,
    SEARCH_COMPARISONS_MAX,
    SEARCH_DEPTH_MAX,
    SEARCH_LIST_MAX,
    Both,
    Comparison,
    Field,
    Not,
    Order,
    parse,
)


def test_a_tree() -> None:
    query = parse(
        "Metrics.auc > .8 AND params.depth == 6 and (tags.team = 'it''s' or not status in "
        "('FAILED', 'KILLED')) ORDER BY metrics.auc DESC, started",
        ("name asc",),
    )
    assert query.where == Both(
        "and",
        (
            Comparison(Field("metrics", "auc"), ">", (0.8,)),
            Comparison(Field("params", "depth"), "=", (6,)),
            Both(
                "or",
                (
                    Comparison(Field("tags", "team"), "=", ("it's",)),
                    Not(Comparison(Field("attributes", "status"), "in", ("FAILED", "KILLED"))),
                ),
            ),
        ),
    )
    assert query.order == (
        Order(Field("metrics", "auc"), descending=True),
        Order(Field("attributes", "started"), descending=False),
        Order(Field("attributes", "name"), descending=False),
    )
    assert parse("  ").where is None


@pytest.mark.parametrize(
    ("text", "position", "words"),
    [
        ("metrics.auc", 11, "an operator is missing"),
        ("metrics.auc >", 13, "a value is missing"),
        ("metrics.auc > 'x'", 14, "metrics are numbers"),
        ("metrics.auc > 0.8 adn x = 1", 18, "'adn' is not expected here; and, or"),
        ("metric.auc = 1 and metrix.auc = 2", 19, "Did you mean 'metrics'"),
        ("statuss = 'FINISHED'", 0, "Did you mean 'status'"),
        ("status = 'finished'", 9, "Did you mean 'FINISHED'"),
        ("tags.team = x", 12, "text is quoted: 'x'"),
        ("tags.team = 'x", 12, "a quote is not closed"),
        ("tags.team like 5", 15, "like compares with text"),
        ("tags.team in 'x'", 13, "after `in` comes a list"),
        ("tags.team in ('x'", 17, "a closing ) is missing after the list"),
        ("(status = 'FAILED'", 18, "a closing ) is missing"),
        ("status is 5", 10, "null or not null"),
        ("metrics. > 1", 9, "a name is missing after the dot"),
        ("and status = 'FAILED'", 0, "a field is missing"),
        ("not", 3, "a field is missing"),
        ("params.on > true", 12, "compared by = and !="),
        ("duration > '5'", 11, "a number of seconds"),
        ("tags.a = 1 ; drop table run", 11, "';' is not known"),
        ("started > 'soon'", 10, "an instant is written"),
        ("ended < 1e999", 8, "an instant is written"),
        ("order metrics.auc", 6, "after `order` comes by"),
        ("tags.a = 1 order by name desc name", 30, "is not expected here"),
        ("tags.a = 12x", 9, "'1' is not known"),
        ("tags.team not = 'x'", 14, "an operator is missing"),
    ],
)
def test_errors_say_where(text: str, position: int, words: str) -> None:
    with pytest.raises(InvalidSearch) as raised:
        parse(text)
    assert words in str(raised.value)
    assert raised.value.position == position
    assert f"character {position + 1}:" in str(raised.value)
    assert "?." not in str(raised.value)


def test_limits() -> None:
    for text, limit in (
        ("x" * (SEARCH_CHARS_MAX + 1), "SEARCH_CHARS_MAX"),
        (" or ".join(["tags.a='b'"] * (SEARCH_COMPARISONS_MAX + 1)), "SEARCH_COMPARISONS_MAX"),
        ("(" * (SEARCH_DEPTH_MAX + 2), "SEARCH_DEPTH_MAX"),
        ("not " * (SEARCH_DEPTH_MAX + 2), "SEARCH_DEPTH_MAX"),
        (f"tags.a in ({', '.join(['1'] * (SEARCH_LIST_MAX + 1))})", "SEARCH_LIST_MAX"),
        (f"tags.{'a' * 251} = 1", "KEY_CHARS_MAX"),
    ):
        with pytest.raises(LimitExceeded, match=limit):
            parse(text)
    for text in ("tags.a = '\0'", "tags.a = '\ud800'"):
        with pytest.raises(InvalidSearch, match="no text"):
            parse(text)


WORDS = """
metrics.auc params.depth tags.team status started duration note training_set
and or not like ilike in is null order by asc desc ( ) , . = != < <= > >= true
'x' '%' "y" `z` 1 -2.5 1e999 99999999999999999999 'FAILED' '2026-01-01' ;
"""
HOSTILE = ['tags."x\'; drop table run; --"', "'x''; drop table run; --'"]
words = st.sampled_from([*WORDS.split(), *HOSTILE])


@settings(deadline=None)
@given(st.lists(words, max_size=14).map(" ".join) | st.text("mtas.=<>'\"`()%1 \\", max_size=40))
def test_whatever_is_written_is_read_or_refused_and_never_part_of_a_statement(text: str) -> None:
    try:
        query = parse(text)
    except (InvalidSearch, LimitExceeded):
        return
    for dialect in (sqlite.dialect(), postgresql.dialect()):
        try:
            where = (
                sa.true()
                if query.where is None
                else run_sql.condition(query.where, dialect=dialect.name, now_us=0)
            )
            order = [
                column
                for each in query.order
                for column in run_sql.sorting(each, dialect=dialect.name, now_us=0)
            ]
        except InvalidRequest:
            continue
        found = sa.select(run_sql.run.c.run).where(where).order_by(*order)
        statement = str(found.compile(dialect=dialect))
        assert "drop table" not in statement
        assert "team" not in statement
