"""What conditional writes must do: the newer row wins, ties are told, replacing compares."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from featurestore.errors import LimitExceeded
from featurestore.stores.online.base import (
    KEY_BYTES_MAX,
    ROWS_PER_WRITE_MAX,
    KeyFields,
    OnlineStore,
    RowBatch,
    Tie,
    WriteResult,
)
from featurestore.testing.online_rows import (
    FIELD,
    HOSTILE_KEYS,
    INSTANTS,
    OTHER_FIELD,
    PREFIX,
    OnlineStoreOpener,
    get,
    numbered,
    put,
    row,
    rows,
    tombstone,
)


class OnlineWrites:
    """Conditional writes. Mixed into `OnlineStoreContract`; needs its fixtures."""

    def test_an_empty_batch(self, store: OnlineStore) -> None:
        empty = RowBatch(field=FIELD, keys=[], rows=[])
        assert store.write(empty) == WriteResult(written=0, same=0, older=0)

    @pytest.mark.parametrize(("later", "earlier"), INSTANTS)
    def test_the_later_event_wins_in_whatever_order(
        self, store: OnlineStore, later: int, earlier: int
    ) -> None:
        up, down = numbered(2)
        # The created times point the other way: they decide only between equal event times.
        new, old = row(later, 0), row(earlier, 7)
        assert put(store, up, old).written == put(store, up, new).written == 1
        assert put(store, down, new).written == put(store, down, old).older == 1
        assert get(store, up) == get(store, down) == new

    @pytest.mark.parametrize(("later", "earlier"), INSTANTS)
    def test_among_equal_events_the_later_created_wins(
        self, store: OnlineStore, later: int, earlier: int
    ) -> None:
        up, down = numbered(2)
        new, old = row(5, later), row(5, earlier)
        assert put(store, up, old).written == put(store, up, new).written == 1
        assert put(store, down, new).written == put(store, down, old).older == 1
        assert get(store, up) == get(store, down) == new

    def test_the_newest_of_one_batch_wins(self, store: OnlineStore) -> None:
        up, down = numbered(2)
        versions = [row(i) for i in range(5)]
        keys = [up] * 5 + [down] * 5
        result = store.write(RowBatch(field=FIELD, keys=keys, rows=versions + versions[::-1]))
        assert result == WriteResult(written=6, same=0, older=4)
        assert get(store, up) == get(store, down) == versions[4]

    def test_equal_times_with_other_bytes_are_ties_for_the_writer(self, store: OnlineStore) -> None:
        keys = numbered(1_500)
        first = rows([(5, 6, f"first {i}") for i in range(len(keys))])
        second = [*first]
        tied = [0, 3, 499, 500, 1_499]
        for i in tied:
            second[i] = row(5, 6, "second")
        store.write(RowBatch(field=FIELD, keys=keys, rows=first))
        result = store.write(RowBatch(field=FIELD, keys=keys, rows=second))
        ties = tuple(Tie(i, first[i]) for i in tied)
        assert result == WriteResult(written=0, same=1_495, older=0, ties=ties)
        assert [get(store, keys[i]) for i in tied] == [first[i] for i in tied]

    def test_ties_within_one_batch(self, store: OnlineStore) -> None:
        (key,) = numbered(1)
        result = store.write(
            RowBatch(field=FIELD, keys=[key, key], rows=[row(1, text="a"), row(1, text="b")])
        )
        assert result == WriteResult(written=1, same=0, older=0, ties=(Tie(1, row(1, text="a")),))

    def test_replace_is_compare_and_set(self, store: OnlineStore) -> None:
        (key,) = numbered(1)
        a, b, c = (row(1, text=text) for text in "abc")

        def swap(expected: bytes, new: bytes) -> bool:
            return store.replace(FIELD, key, expected=expected, row=new, expire_at_us=None)

        assert not swap(a, b)
        assert get(store, key) is None
        put(store, key, a)
        assert not swap(b, c)
        assert swap(a, b)
        assert not swap(a, c)
        assert get(store, key) == b
        assert get(store, key, OTHER_FIELD) is None

    @pytest.mark.parametrize("key", ["empty", "not-utf8", "493-bytes", "600-bytes", "1-MB"])
    def test_delete_is_compare_and_delete(self, store: OnlineStore, key: str) -> None:
        """Only the row that was seen goes, and nothing beside it; a key may come back."""
        place, seen, newer = PREFIX + HOSTILE_KEYS[key], row(5, text="seen"), row(6, text="newer")
        assert not store.delete(FIELD, place, expected=seen), "nothing is there"
        put(store, place, seen)
        put(store, place, seen, field=OTHER_FIELD)
        put(store, place + b"?", seen)
        assert not store.delete(FIELD, place, expected=newer)
        assert get(store, place) == seen
        assert store.delete(FIELD, place, expected=seen)
        assert get(store, place) is None
        assert not store.delete(FIELD, place, expected=seen), "it is gone"
        assert get(store, place, OTHER_FIELD) == seen
        assert get(store, place + b"?") == seen
        assert put(store, place, row(1, text="older")).written == 1
        assert store.delete(OTHER_FIELD, place, expected=seen)

    def test_one_replacer_wins(self, opener: OnlineStoreOpener, store: OnlineStore) -> None:
        (key,) = numbered(1)
        put(store, key, row(1, text="old"))

        def race(number: int) -> bool:
            with opener.open() as mine:
                new = row(1, text=str(number))
                return mine.replace(
                    FIELD, key, expected=row(1, text="old"), row=new, expire_at_us=None
                )

        with ThreadPoolExecutor(8) as threads:
            won = list(threads.map(race, range(8)))
        assert won.count(True) == 1
        assert get(store, key) == row(1, text=str(won.index(True)))

    def test_tombstones_compete_like_rows(self, store: OnlineStore) -> None:
        (key,) = numbered(1)
        put(store, key, row(1))
        assert put(store, key, tombstone(2)).written == 1
        assert put(store, key, row(1)).older == 1
        assert get(store, key) == tombstone(2)
        assert put(store, key, row(3)).written == 1
        assert put(store, key, tombstone(2)).older == 1
        assert get(store, key) == row(3)

    def test_what_is_no_row_loses_to_any(self, store: OnlineStore) -> None:
        (key,) = numbered(1)
        put(store, key, b"short")
        assert put(store, key, row(-(2**63))).written == 1
        assert get(store, key) == row(-(2**63))

    def test_a_field_written_does_not_touch_another(self, store: OnlineStore) -> None:
        (key,) = numbered(1)
        put(store, key, row(9), field=FIELD)
        assert put(store, key, row(1), field=OTHER_FIELD).written == 1
        assert store.read([KeyFields(key, (FIELD, OTHER_FIELD))]) == [[row(9), row(1)]]

    def test_limits_have_names(self, store: OnlineStore) -> None:
        with pytest.raises(LimitExceeded, match="KEY_BYTES_MAX"):
            put(store, b"k" * (KEY_BYTES_MAX + 1), row(1))
        count = ROWS_PER_WRITE_MAX + 1
        with pytest.raises(LimitExceeded, match="ROWS_PER_WRITE_MAX"):
            store.write(RowBatch(field=FIELD, keys=[PREFIX] * count, rows=[row(1)] * count))

    @pytest.mark.parametrize("until", [None, 4_000_000_000_000_000])
    @pytest.mark.parametrize("every", [1, 3, 700])
    def test_a_large_batch_decides_row_by_row(
        self, store: OnlineStore, every: int, until: int | None
    ) -> None:
        """Stores may write what is new in another way than what is there already: every so many
        keys have a row that is older, the same, newer or tied; two keys come twice."""
        keys, new = numbered(3_000), row(5, 5, "new")
        old = [row(4, 9, "old"), new, row(5, 6, "old"), row(5, 5, "old")]
        there = {key: old[i % 4] for i, key in enumerate(keys[every // 2 :: every])}
        self._write_all(store, there, until)
        twice = [keys[every // 2 + 1], keys[-1]]
        batch = [(key, new) for key in keys] + [(twice[0], row(7)), (twice[1], row(3))]
        result = self._write_all(store, batch, until)
        kinds = [old.index(there[key]) if key in there else -1 for key in keys]
        assert result.written == kinds.count(-1) + kinds.count(0) + 1
        assert result.same == kinds.count(1)
        assert result.older == kinds.count(2) + 1
        tied = [i for i, kind in enumerate(kinds) if kind == 3]
        assert result.ties == tuple(Tie(i, old[3]) for i in tied)
        wanted = [there[key] if kind > 1 else new for key, kind in zip(keys, kinds, strict=True)]
        wanted[keys.index(twice[0])] = row(7)
        assert store.read([KeyFields(key, (FIELD,)) for key in keys]) == [[w] for w in wanted]

    @staticmethod
    def _write_all(
        store: OnlineStore, pairs: dict[bytes, bytes] | list[tuple[bytes, bytes]], until: int | None
    ) -> WriteResult:
        items = list(pairs.items()) if isinstance(pairs, dict) else pairs
        keys, values = [key for key, _ in items], [value for _, value in items]
        expiry = None if until is None else [until] * len(items)
        return store.write(RowBatch(field=FIELD, keys=keys, rows=values, expire_at_us=expiry))
