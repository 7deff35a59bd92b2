"""The contract of every registry, as a pytest suite.

A registry's test file gives the fixture `opener` and inherits the rest::

    class TestMyRegistry(RegistryContract):
        @pytest.fixture
        def opener(self, tmp_path: Path) -> RegistryOpener:
            return RegistryOpener(MyRegistry, "my://registry", tmp_path)

It is one class, since that is what a test file inherits; the rules about access and about runs
stand in files of their own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from multiprocessing import get_context
from pathlib import Path

import pytest

from featurestore.errors import (
    AmbiguousRecord,
    CommitConflict,
    InvalidRecord,
    LimitExceeded,
    RecordNotFound,
)
from featurestore.fingerprint import fingerprint_bytes
from featurestore.records import (
    RECORD_BODY_BYTES_MAX,
    AliasEvent,
    AliasIs,
    Edge,
    LedgerRow,
    OnlineUse,
    Record,
    show_id,
)
from featurestore.stores.registry.base import Registry
from featurestore.stores.registry.online_uses import USE_DAYS_MAX
from featurestore.testing.registry_access import RegistryAccessRules
from featurestore.testing.registry_runs import RegistryRunRules
from featurestore.timeline import ManualClock

NOW_US = 1_700_000_000_000_000
RACERS = 8
ROUNDS = 10
MOVES_PER_PROCESS = 12


@dataclass(frozen=True, slots=True)
class RegistryOpener:
    """How to open one and the same, at first empty, database again: from a test, a thread or
    another process."""

    registry: type[Registry]
    url: str
    root: Path

    def open(self, *, project: str = "shop", author: str = "ann") -> Registry:
        """A registry of its own on the database; its clock stands at `NOW_US`."""
        return self.registry.open(
            self.url, project=project, root=self.root, clock=ManualClock(NOW_US), author=author
        )


def fact(name: str, *parents: Record, **body: object) -> Record:
    """A record of kind `fact` with `parents`."""
    edges = tuple(Edge(parent=parent.id, role="fact") for parent in parents)
    return Record(kind="fact", name=name, body=body, parents=edges)


def run(run_id: str, **changes: object) -> LedgerRow:
    """A ledger row with `changes`."""
    row = LedgerRow(
        run_id=run_id,
        view="plane_history",
        view_version="ab" * 32,
        table="0011223344556677",
        generation=0,
        mode="incremental",
        start_us=None,
        end_us=NOW_US,
        watermark_us=NOW_US,
        reach_us=None,
        rows_read=2**40,
        rows_written=3,
        rows_skipped=0,
        started_at_us=NOW_US - 5,
        finished_at_us=NOW_US,
    )
    return replace(row, **changes)  # type: ignore[arg-type]  # the fields are the tests' concern


def advance(opener: RegistryOpener, author: str, start_at_s: float) -> int:
    """Extend the chain below the alias `head` by `MOVES_PER_PROCESS` records, each the child of
    the one before, whoever wrote that; returns how often another writer was first."""
    lost = 0
    time.sleep(max(0.0, start_at_s - time.time()))
    with opener.open(author=author) as registry:
        for move in range(MOVES_PER_PROCESS):
            while not _extend(registry, f"{author}_{move}"):
                lost += 1
    return lost


def _extend(registry: Registry, name: str) -> bool:
    head = registry.aliases("head").get("head")
    parents = (Edge(parent=head.target, role="before"),) if head else ()
    link = Record(kind="fact", name=name, parents=parents)
    try:
        registry.commit(
            requires=[AliasIs("head", head.target if head else None)],
            records=[link],
            aliases={"head": link.id},
        )
    except CommitConflict:
        return False
    return True


def _claim(registry: Registry, claim: tuple[str, str | None, Record]) -> bool:
    alias, seen, record = claim
    try:
        registry.commit(
            requires=[AliasIs(alias, seen)], records=[record], aliases={alias: record.id}
        )
    except CommitConflict:
        return False
    return True


class RegistryContract(RegistryAccessRules, RegistryRunRules):
    """What every registry does. All tests but those on projects use one project, `shop`."""

    @pytest.fixture
    def opener(self) -> RegistryOpener:
        """How to open the registry under test on an empty database."""
        raise NotImplementedError("give a RegistryOpener in the subclass")

    @pytest.fixture
    def registry(self, opener: RegistryOpener) -> Iterator[Registry]:
        with opener.open() as opened:
            yield opened

    # --- records ----------------------------------------------------------------------------------

    def test_begins_empty(self, registry: Registry) -> None:
        assert registry.records() == []
        assert registry.aliases() == {}
        assert registry.ledger() == []
        assert registry.history("env/prod") == []

    def test_a_record_reads_back_as_written(self, registry: Registry) -> None:
        body = {"größe": [1, 2.5, None, True], "of": {"a": "quote ' \" \\ \0 %", "b": {}}}
        one, two = fact("größe", **body), fact("it's: 100 %")
        three = fact("three", two, one, n=2**60)
        registry.commit(records=[one, two, three])
        stored = registry.record(three.id)
        assert stored.record == three
        assert stored.record.parents == three.parents
        assert (stored.created_at_us, stored.author) == (NOW_US, "ann")
        assert registry.record(one.id).record == one

    def test_the_same_record_twice_is_a_no_op(self, opener: RegistryOpener) -> None:
        record = fact("a")
        with opener.open(author="ann") as first, opener.open(author="bob") as second:
            first.commit(records=[record, record])
            second.commit(records=[record])
            assert [stored.author for stored in second.records()] == ["ann"]

    def test_parents_may_stand_anywhere_in_the_commit(self, registry: Registry) -> None:
        one = fact("one")
        two = fact("two", one)
        registry.commit(records=[two, one])
        assert registry.walk(two.id, direction="up") == [(two.id, one.id, "fact", "DIRECT")]

    def test_an_unknown_parent_is_refused(self, registry: Registry) -> None:
        child = fact("child", fact("nobody"))
        with pytest.raises(InvalidRecord, match=r"fact:child names the parent fact:nobody@"):
            registry.commit(records=[child])
        assert registry.records() == []

    def test_a_body_has_a_limit(self, registry: Registry) -> None:
        rest = RECORD_BODY_BYTES_MAX - len('{"text":""}')
        largest = fact("largest", text="x" * rest)
        registry.commit(records=[largest])
        assert registry.record(largest.id).record == largest
        with pytest.raises(InvalidRecord, match="RECORD_BODY_BYTES_MAX"):
            fact("larger", text="x" * (rest + 1))

    def test_names_have_a_limit(self, registry: Registry) -> None:
        longest = fact("ß" * 512)
        registry.commit(records=[longest], aliases={"ü" * 512: longest.id})
        assert registry.record("ü" * 512).record == longest
        for alias in ("", "a" * 513, "a@b", "a\0b"):
            with pytest.raises(InvalidRecord, match="not an alias name"):
                registry.commit(aliases={alias: longest.id})

    def test_records_are_found_by_kind_name_and_ids(self, registry: Registry) -> None:
        facts = [fact(f"f{number}") for number in range(1200)]
        other = Record(kind="other", name="f0")
        registry.commit(records=facts)
        registry.commit(records=[other])
        assert [stored.record.name for stored in registry.records(kind="other")] == ["f0"]
        assert {s.record.kind for s in registry.records(name="f0")} == {"fact", "other"}
        assert [s.id for s in registry.records(kind="fact", name="f0")] == [facts[0].id]
        found = registry.records(ids=[record.id for record in reversed(facts)])
        assert [stored.id for stored in found] == [record.id for record in facts]
        assert registry.records(ids=["fact:no@00", other.id])[0].id == other.id
        assert registry.records(ids=[]) == []

    def test_a_record_is_found_by_shortened_id_and_by_alias(self, registry: Registry) -> None:
        record = fact("delay:model")
        registry.commit(records=[record], aliases={"env/prod": record.id})
        assert registry.record(show_id(record.id)).id == record.id
        assert registry.record("env/prod").id == record.id
        for ref in ("fact:other@12345678", "env/Prod", "nonsense@x", show_id(record.id)[:-1] + "g"):
            with pytest.raises(RecordNotFound):
                registry.record(ref)

    def test_what_is_close_is_suggested(self, registry: Registry) -> None:
        record = fact("a")
        registry.commit(records=[record], aliases={"env/prod": record.id})
        with pytest.raises(RecordNotFound, match=r"Did you mean 'env/prod'\?"):
            registry.record("env/prd")

    def test_a_shortened_id_must_be_unambiguous(self, registry: Registry) -> None:
        by_prefix: dict[str, Record] = {}
        for number in count():
            record = fact("same", number=number)
            twin = by_prefix.setdefault(record.hash[:4], record)
            if twin is not record:
                break
        registry.commit(records=[record, twin])
        with pytest.raises(AmbiguousRecord) as raised:
            registry.record(f"fact:same@{record.hash[:4]}")
        assert sorted(raised.value.found) == sorted([show_id(record.id), show_id(twin.id)])
        assert registry.record(twin.id).record == twin

    # --- commits ----------------------------------------------------------------------------------

    def test_a_commit_happens_whole_or_not_at_all(self, registry: Registry) -> None:
        old, new = fact("old"), fact("new")
        registry.commit(records=[old], aliases={"env/prod": old.id})
        with pytest.raises(RecordNotFound):
            registry.commit(
                records=[new],
                blobs=[b"new"],
                aliases={"env/prod": new.id, "z": fact("nobody").id},
                ledger=[run("new")],
            )
        registry.commit(ledger=[run("taken")])
        with pytest.raises(InvalidRecord):
            registry.commit(
                records=[new],
                blobs=[b"new"],
                aliases={"env/prod": new.id},
                ledger=[run("new"), run("taken", rows_read=1)],
            )
        assert [stored.id for stored in registry.records()] == [old.id]
        assert registry.aliases()["env/prod"].target == old.id
        assert len(registry.history("env/prod")) == 1
        assert [row.run_id for row in registry.ledger()] == ["taken"]
        with pytest.raises(RecordNotFound):
            registry.blob(fingerprint_bytes(b"new"))

    def test_a_wrong_belief_is_a_conflict(self, registry: Registry) -> None:
        one, two = fact("one"), fact("two")
        registry.commit(requires=[AliasIs("env/prod", None)], records=[one], aliases={"a": one.id})
        for belief in (AliasIs("a", None), AliasIs("a", two.id), AliasIs("b", one.id)):
            with pytest.raises(CommitConflict) as raised:
                registry.commit(requires=[belief], records=[two], aliases={"c": two.id})
            assert raised.value.alias == belief.alias
        assert list(registry.aliases()) == ["a"]
        assert len(registry.records()) == 1

    @pytest.mark.parametrize("text", ["a\0b", "\ud800"])
    def test_what_is_no_text_is_neither_found_nor_stored(
        self, registry: Registry, text: str
    ) -> None:
        for ask in (registry.record, registry.aliases, registry.history):
            try:
                found = ask(text)
            except (RecordNotFound, InvalidRecord):
                continue
            assert not found
        with pytest.raises(InvalidRecord):
            registry.commit(records=[fact(text)])
        with pytest.raises(InvalidRecord):
            registry.commit(records=[fact("x")], aliases={text: fact("x").id})
        assert registry.records() == []

    def test_an_empty_commit_is_fine(self, registry: Registry) -> None:
        registry.commit()
        assert registry.records() == []

    # --- aliases ----------------------------------------------------------------------------------

    def test_aliases_move_and_keep_their_history(self, opener: RegistryOpener) -> None:
        one, two = fact("one"), fact("two")
        with opener.open(author="ann") as registry:
            registry.commit(records=[one, two], aliases={"a": one.id}, reason="first")
            registry.commit(aliases={"a": two.id}, reason="better")
            registry.commit(aliases={"a": two.id}, reason="no move")
            assert registry.aliases()["a"].serial == 2
        with opener.open(author="bob") as registry:
            registry.commit(aliases={"a": None, "never": None}, reason="gone")
            assert registry.aliases() == {}
            with pytest.raises(RecordNotFound):
                registry.record("a")
            registry.commit(aliases={"a": one.id}, reason="back")
            assert registry.aliases()["a"].serial == 4
            moves = [
                (None, one.id, "ann", "first"),
                (one.id, two.id, "ann", "better"),
                (two.id, None, "bob", "gone"),
                (None, one.id, "bob", "back"),
            ]
            assert registry.history("a") == [
                AliasEvent(
                    name="a",
                    serial=serial,
                    previous=previous,
                    target=target,
                    at_us=NOW_US,
                    author=author,
                    reason=reason,
                )
                for serial, (previous, target, author, reason) in enumerate(moves, start=1)
            ]
            assert registry.history("never") == []

    def test_a_prefix_is_taken_literally(self, registry: Registry) -> None:
        names = ["env/a", "env/B", "env_c", "Env/d", "envXc", "env%"]
        record = fact("a")
        registry.commit(records=[record], aliases=dict.fromkeys(names, record.id))
        assert list(registry.aliases()) == sorted(names)
        assert list(registry.aliases("env/")) == ["env/B", "env/a"]
        assert list(registry.aliases("env_")) == ["env_c"]
        assert list(registry.aliases("env%")) == ["env%"]
        assert registry.aliases("nothing") == {}
        assert registry.histories("env/") == {
            name: registry.history(name) for name in ("env/B", "env/a")
        }

    # --- lineage ----------------------------------------------------------------------------------

    def test_a_walk_is_directed_and_siblings_never_leak(self, registry: Registry) -> None:
        top = fact("top")
        left, right = fact("left", top), fact("right", top)
        bottom = fact("bottom", left, right)
        alone = fact("alone", left)
        registry.commit(records=[top, left, right, bottom, alone])

        def edges(record: Record, *parents: Record) -> list[tuple[str, str, str, str]]:
            return [(record.id, parent.id, "fact", "DIRECT") for parent in parents]

        up = registry.walk(bottom.id, direction="up")
        assert up[:2] == edges(bottom, left, right)
        assert sorted(up[2:]) == sorted(edges(left, top) + edges(right, top))
        assert registry.walk(left.id, direction="up") == edges(left, top)
        down = registry.walk(left.id, direction="down")
        assert sorted(down) == sorted(edges(bottom, left) + edges(alone, left))
        assert sorted(registry.walk(top.id, direction="down")[:2]) == sorted(
            edges(left, top) + edges(right, top)
        )
        assert registry.walk(top.id, direction="up") == []

    def test_edges_say_how_a_parent_enters(self, registry: Registry) -> None:
        source = fact("source")
        child = Record(
            kind="fact",
            name="child",
            parents=(
                Edge(parent=source.id, role="value"),
                Edge(parent=source.id, role="time", transformation="INDIRECT"),
            ),
        )
        registry.commit(records=[source, child])
        assert registry.walk(child.id, direction="up") == [
            (child.id, source.id, "value", "DIRECT"),
            (child.id, source.id, "time", "INDIRECT"),
        ]

    def test_a_walk_goes_as_deep_as_it_is_told(self, registry: Registry) -> None:
        chain = [fact("0")]
        for number in range(1, 300):
            chain.append(fact(str(number), chain[-1]))
        registry.commit(records=chain)
        deep = registry.walk(chain[-1].id, direction="up")
        assert [child for child, *_ in deep] == [link.id for link in reversed(chain[1:])]
        assert len(registry.walk(chain[0].id, direction="down")) == 299
        assert len(registry.walk(chain[-1].id, direction="up", depth_max=7)) == 7

    def test_a_walk_may_begin_at_several_records(self, registry: Registry) -> None:
        one, two = fact("one"), fact("two")
        both = fact("both", one, two)
        registry.commit(records=[one, two, both])
        links = registry.walk([one.id, two.id, one.id], direction="down")
        assert [(link.child, link.parent) for link in links] == [
            (both.id, one.id),
            (both.id, two.id),
        ]
        assert registry.walk([], direction="down") == []

    def test_every_depth_of_a_diamond_is_walked_once(self, registry: Registry) -> None:
        """Paths of many lengths lead to one record; its edges come once, at its nearest level."""
        chain = [fact("0")]
        for number in range(1, 30):
            chain.append(fact(str(number), *chain[-2:]))
        registry.commit(records=chain)
        for depth_max, edges in ((1, 2), (2, 6), (15, 57), (16, 57), (17, 57), (100, 57)):
            links = registry.walk(chain[-1].id, direction="up", depth_max=depth_max)
            assert len(links) == len(set(links)) == edges

    def test_a_walk_as_of_an_instant(self, opener: RegistryOpener) -> None:
        old = fact("old")
        with opener.open() as registry:
            registry.commit(records=[old])
        clock = ManualClock(NOW_US + 10)
        with opener.registry.open(
            opener.url, project="shop", root=opener.root, clock=clock, author="ann"
        ) as registry:
            young = fact("young", old)
            registry.commit(records=[young])
            assert registry.walk(old.id, direction="down", at_us=NOW_US + 9) == []
            assert len(registry.walk(old.id, direction="down", at_us=NOW_US + 10)) == 1
            assert len(registry.walk(young.id, direction="up", at_us=NOW_US + 10)) == 1

    def test_a_walk_stops_at_what_it_must_not_pass(self, registry: Registry) -> None:
        top = fact("top")
        list_ = Record(kind="list", name="all", parents=(Edge(parent=top.id, role="fact"),))
        below = fact("below", list_)
        registry.commit(records=[top, list_, below])
        assert [link.child for link in registry.walk(top.id, direction="down")] == [
            list_.id,
            below.id,
        ]
        stopped = registry.walk(top.id, direction="down", past=("list",))
        assert [link.child for link in stopped] == [list_.id]

    def test_twins_say_the_same_of_the_same(self, registry: Registry) -> None:
        about, other = fact("owner", by="ann"), fact("owner", by="bob")
        one = fact("f", about, version="aa")
        twin, changed = fact("f", other, version="aa"), fact("f", other, version="bb")
        namesake = Record(kind="view", name="f", body={"version": "aa"})
        bare = fact("bare")
        registry.commit(
            records=[about, other, one, twin, changed, namesake, bare, fact("bare", one)]
        )
        assert registry.twins([one.id]) == [one.id, twin.id]
        assert registry.twins([changed.id, bare.id]) == [changed.id, bare.id]
        assert registry.twins([fact("nobody").id]) == []

    def test_a_glance_is_a_record_as_it_is_stored(self, registry: Registry) -> None:
        one, two = fact("one", n=1), fact("two", n=2)
        both = fact("both", two, one)
        registry.commit(records=[one, two, both, Record(kind="other", name="one")])
        (seen,) = registry.glances(ids=[both.id])
        assert (seen.id, seen.kind, seen.name) == (both.id, "fact", "both")
        assert (seen.parents, seen.created_at_us) == (both.parents, NOW_US)
        assert [g.body["n"] for g in registry.glances(kind="fact", name="one")] == [1]
        assert [g.name for g in registry.glances(kind="fact")] == ["one", "two", "both"]
        assert len(registry.glances()) == 4
        assert [g.name for g in registry.glances(kind="fact", newest=2)] == ["two", "both"]
        (bare,) = registry.glances(kind="fact", newest=1, with_parents=False)
        assert (bare.name, bare.parents) == ("both", ())
        assert registry.glances(ids=[]) == []
        assert registry.glances(ids=[fact("nobody").id]) == []

    def test_aliases_are_found_by_what_they_point_to(self, opener: RegistryOpener) -> None:
        part, other = fact("part"), fact("other")
        whole = fact("whole", part)
        with opener.open() as registry:
            records = [part, other, whole]
            registry.commit(records=records, aliases={"env/b": whole.id, "x": part.id})
            registry.commit(aliases={"env/a": whole.id})
            ids = [part.id, other.id, whole.id]
            assert registry.pointing(ids) == {part.id: ("x",), whole.id: ("env/a", "env/b")}
            assert registry.pointing(ids, through_child=True) == {part.id: ("env/a", "env/b")}
            assert registry.pointing([]) == {}
            assert registry.pointing(ids, at_us=NOW_US - 1) == {}
            assert registry.pointing(ids, at_us=NOW_US)[part.id] == ("x",)
            through = registry.pointing(ids, through_child=True, at_us=NOW_US)
            assert through == {part.id: ("env/a", "env/b")}

    def test_a_session_is_one_transaction_of_one_thread(self, opener: RegistryOpener) -> None:
        one, two = fact("one"), fact("two")
        with opener.open() as registry, ThreadPoolExecutor(1) as thread:
            registry.commit(records=[one])
            with registry.session(), registry.session():
                assert len(registry.glances()) == 1
                thread.submit(registry.commit, records=[two]).result()
                assert thread.submit(registry.glances).result()
                with pytest.raises(RecordNotFound):
                    registry.record("nothing")
                assert registry.walk(one.id, direction="up") == []
            assert len(registry.glances()) == 2

    def test_what_anything_names_is_mentioned(self, opener: RegistryOpener) -> None:
        digests = [fingerprint_bytes(str(number).encode()) for number in range(4)]
        build = "0123456789abcdef" * 2
        with opener.open() as registry, opener.open(project="other") as other:
            named = fact("a", deep={"in": [f"training_sets/x/{build}"], "digest": digests[0]})
            registry.commit(records=[named], blobs=[f'["{digests[1]}"]'.encode()])
            other.commit(records=[fact("b", digest=digests[2], half=digests[3][:40])])
            for asked in (registry, other):
                found = asked.mentions()
                assert {build, *digests[:3]} <= found
                assert digests[3] not in found

    def test_aliases_as_of_an_instant(self, opener: RegistryOpener) -> None:
        one, two = fact("one"), fact("two")
        moves: list[dict[str, str | None]] = [
            {"a/x": one.id, "b": one.id},
            {"a/x": two.id},
            {"a/x": None},
        ]
        for after, aliases in enumerate(moves):
            with opener.registry.open(
                opener.url,
                project="shop",
                root=opener.root,
                clock=ManualClock(NOW_US + 10 * after),
                author="ann",
            ) as registry:
                registry.commit(records=[one, two], aliases=aliases)
        with opener.open() as registry:
            assert registry.aliases("a/", at_us=NOW_US - 1) == {}
            assert registry.aliases(at_us=NOW_US + 9).keys() == {"a/x", "b"}
            assert registry.aliases("a/", at_us=NOW_US + 9)["a/x"].target == one.id
            assert registry.aliases("a/", at_us=NOW_US + 19)["a/x"].target == two.id
            assert registry.aliases(at_us=NOW_US + 20).keys() == {"b"}

    def test_a_walk_begins_at_a_record(self, registry: Registry) -> None:
        with pytest.raises(RecordNotFound):
            registry.walk(fact("nobody").id, direction="up")

    # --- projects, blobs, ledger ------------------------------------------------------------------

    def test_projects_do_not_see_each_other(self, opener: RegistryOpener) -> None:
        one = fact("one")
        two = fact("two", one)
        with opener.open(project="p") as p, opener.open(project="shop") as shop:
            p.commit(
                records=[one], blobs=[b"p"], aliases={"a": one.id}, ledger=[run("r")], reason="p"
            )
            assert (shop.records(), shop.aliases(), shop.ledger()) == ([], {}, [])
            assert shop.history("a") == []
            with pytest.raises(RecordNotFound):
                shop.record(one.id)
            with pytest.raises(RecordNotFound):
                shop.blob(fingerprint_bytes(b"p"))
            with pytest.raises(InvalidRecord):
                shop.commit(records=[two])
            with pytest.raises(RecordNotFound):
                shop.commit(aliases={"a": one.id})
            shop.commit(
                requires=[AliasIs("a", None)],
                records=[one, two],
                blobs=[b"p"],
                aliases={"a": two.id},
                ledger=[run("r", rows_read=7)],
            )
            assert p.aliases()["a"].target == one.id
            assert p.walk(one.id, direction="down") == []
            assert [row.rows_read for row in shop.ledger()] == [7]

    def test_blobs_are_kept_by_their_content(self, registry: Registry) -> None:
        small, large = b"", bytes(range(256)) * 8192
        registry.commit(blobs=[small, large, large])
        registry.commit(blobs=[large])
        assert registry.blob(fingerprint_bytes(small)) == small
        assert registry.blob(fingerprint_bytes(large)) == large
        with pytest.raises(RecordNotFound):
            registry.blob("00" * 32)

    def test_blobs_have_a_limit(self, registry: Registry) -> None:
        with pytest.raises(LimitExceeded, match="BLOB_BYTES_MAX"):
            registry.commit(blobs=[bytes(64 * 1024 * 1024 + 1)])

    def test_the_ledger_keeps_the_order_of_runs(self, registry: Registry) -> None:
        rows = [
            run("z", table="t0"),
            run("a", table="t1", watermark_us=None, mode="interval", start_us=-5),
            run("m", table="t0", view="weather", reach_us=2**50),
        ]
        for row in rows:
            registry.commit(ledger=[row])
        registry.commit(ledger=[rows[0]])
        assert registry.ledger() == rows
        assert registry.ledger(table="t0") == [rows[0], rows[2]]
        assert registry.ledger(view="plane_history") == rows[:2]
        assert registry.ledger(table="t1", view="weather") == []
        with pytest.raises(InvalidRecord, match="another run 'z'"):
            registry.commit(ledger=[run("z", table="t9")])

    def test_the_last_run_of_each_table_and_view(self, registry: Registry) -> None:
        rows = [
            run("first", table="t0", finished_at_us=NOW_US - 9),
            run("second", table="t0", finished_at_us=NOW_US - 5),
            run("part", table="t0", watermark_us=None, mode="interval", start_us=-5),
            run("other", table="t1", view="weather", watermark_us=None),
        ]
        for row in rows:
            registry.commit(ledger=[row])
        asked = ["t0", "t1", "t'; DROP TABLE record; --"]
        assert registry.last_runs("table", asked) == {"t0": rows[2], "t1": rows[3]}
        assert registry.last_runs("table", asked, with_watermark=True) == {"t0": rows[1]}
        assert registry.last_runs("table", asked, at_us=NOW_US - 6) == {"t0": rows[0]}
        assert registry.last_runs("view", ["weather", "plane_history"]) == {
            "weather": rows[3], "plane_history": rows[2],
        }  # fmt: skip
        assert registry.last_runs("view", []) == {}
        many = [f"t{number}" for number in range(1_200)]
        assert set(registry.last_runs("table", many)) == {"t0", "t1"}

    # --- races ------------------------------------------------------------------------------------

    def test_last_online_uses(self, registry: Registry) -> None:
        day = 24 * 3600 * 1_000_000
        assert registry.last_uses(["late_model"]) == []
        registry.note_uses("prod", {"late_model": NOW_US, "views/load": NOW_US + 1})
        registry.note_uses("dev", {"late_model": NOW_US + 2})
        registry.note_uses("prod", {"late_model": NOW_US - 5})  # told late
        registry.note_uses("prod", {})
        of_both = registry.last_uses(["late_model", "nobody"])
        assert of_both == [
            OnlineUse(environment="dev", name="late_model", at_us=NOW_US + 2),
            OnlineUse(environment="prod", name="late_model", at_us=NOW_US),
        ]
        registry.note_uses("prod", {"late_model": NOW_US + day})
        assert registry.last_uses(["late_model"])[0].at_us == NOW_US + day
        assert registry.last_uses(["late_model"], at_us=NOW_US + day - 1) == of_both
        assert registry.last_uses(["late_model"], at_us=NOW_US - 6) == []
        later = NOW_US + (USE_DAYS_MAX + 1) * day
        registry.note_uses("prod", {"late_model": later})
        assert registry.last_uses(["views/load"])[0].at_us == NOW_US + 1
        days = registry.last_uses(["late_model"], at_us=later - 1)
        assert [use.environment for use in days] == ["dev"], "what is too old is forgotten"

    def test_one_of_many_threads_wins(self, opener: RegistryOpener) -> None:
        registries = [opener.open(author=f"racer {number}") for number in range(RACERS)]
        seen: str | None = None
        with ThreadPoolExecutor(RACERS) as pool:
            for turn in range(ROUNDS):
                claims = [("head", seen, fact(f"{turn}", by=n)) for n in range(RACERS)]
                won = list(pool.map(_claim, registries, claims))
                assert won.count(True) == 1
                seen = claims[won.index(True)][2].id
                assert registries[0].aliases()["head"].target == seen
        assert len(registries[0].records()) == ROUNDS
        for registry in registries:
            registry.close()

    def test_threads_may_share_a_registry(self, registry: Registry) -> None:
        claims = [("head", None, fact("claim", by=number)) for number in range(RACERS)]
        with ThreadPoolExecutor(RACERS) as pool:
            won = list(pool.map(_claim, [registry] * RACERS, claims))
        assert won.count(True) == 1
        assert len(registry.records()) == 1

    def test_overlapping_commits_in_any_order_all_succeed(self, registry: Registry) -> None:
        records = [fact(str(number)) for number in range(40)]
        orders = [records[start:] + records[:start] for start in range(0, 40, 5)]
        with ThreadPoolExecutor(len(orders)) as pool:
            jobs = [
                pool.submit(
                    registry.commit,
                    records=order,
                    aliases={r.name: r.id for r in order},
                    blobs=[r.name.encode() for r in order],
                )
                for order in orders
            ]
            for job in jobs:
                job.result()
        assert len(registry.records()) == 40
        assert {alias.serial for alias in registry.aliases().values()} == {1}

    @pytest.mark.slow
    def test_processes_lose_nothing(self, opener: RegistryOpener) -> None:
        start_at_s = time.time() + 2
        with ProcessPoolExecutor(RACERS, mp_context=get_context("forkserver")) as pool:
            jobs = [
                pool.submit(advance, opener, f"p{number}", start_at_s) for number in range(RACERS)
            ]
            for job in jobs:
                job.result()
        with opener.open() as registry:
            total = RACERS * MOVES_PER_PROCESS
            head = registry.aliases()["head"]
            assert head.serial == total
            assert len(registry.walk(head.target, direction="up")) == total - 1
            assert len(registry.history("head")) == total
            assert len(registry.records()) == total
