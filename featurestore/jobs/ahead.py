"""Working one item ahead: the next is made while the present one is used."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def one_ahead(items: Iterator[T]) -> Generator[T]:
    """The same items; each but the first is made in a thread while its predecessor is in use.

    Never more than two exist at a time. What making an item raises is raised here, in its turn. The
    first is made by the caller's own thread, which a signal can interrupt. Leaving early waits for
    the item under way.
    """
    present = next(items, None)
    if present is None:
        return
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead") as thread:
        while present is not None:
            coming = thread.submit(next, items, None)
            yield present
            present = coming.result()
