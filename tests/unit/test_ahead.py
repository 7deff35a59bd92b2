"""Working one item ahead."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator

import pytest

from featurestore.jobs.ahead import one_ahead


def test_all_items_come_in_order() -> None:
    assert list(one_ahead(iter(range(100)))) == list(range(100))
    assert list(one_ahead(iter(()))) == []


def test_the_next_item_is_made_while_the_present_one_is_used() -> None:
    made = [threading.Event() for _ in range(4)]

    def items() -> Iterator[int]:
        for number, event in enumerate(made[:3]):
            event.set()
            yield number

    for number in one_ahead(items()):
        if number < 2:
            assert made[number + 1].wait(30)
        assert not made[number + 2 if number < 2 else 3].is_set()


def test_what_making_an_item_raises_comes_in_its_turn() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("third")

    ahead = one_ahead(items())
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(ValueError, match="third"):
        next(ahead)


def test_leaving_early_leaves_no_thread_and_an_iterator_that_can_be_closed() -> None:
    ended = threading.Event()

    def items() -> Generator[int]:
        try:
            yield from range(10)
        finally:
            ended.set()

    before = threading.active_count()
    source = items()
    ahead = one_ahead(source)
    assert next(ahead) == 0
    ahead.close()
    source.close()
    assert ended.is_set()
    assert threading.active_count() == before
