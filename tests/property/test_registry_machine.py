"""The registry beside a model of dicts: random commits, right and wrong, whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from effort import examples
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from featurestore.errors import CommitConflict, InvalidRecord, RecordNotFound
from featurestore.records import AliasIs, Edge, Record
from featurestore.stores.registry.sql import SqlRegistry
from featurestore.timeline import ManualClock

NAMES = st.sampled_from(["a", "b", "ü", "a_b", "a%b", "A"])
ALIASES = st.sampled_from(["env/x", "env/X", "env/_", "serving/x/y"])
BODIES = st.fixed_dictionaries(
    {"n": st.integers(0, 3), "t": st.sampled_from(["", "ä", "\U0001f600"])}
)


class RegistryMachine(RuleBasedStateMachine):
    """Every commit is tried on both; what the model refuses the registry must refuse, too."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="fs_machine_"))
        self.clock = ManualClock(1)
        self.registry = self.open()
        self.records: dict[str, Record] = {}
        self.aliases: dict[str, str] = {}
        self.moves: dict[str, list[tuple[str | None, str | None]]] = {}

    def open(self) -> SqlRegistry:
        return SqlRegistry.open(
            "sqlite:///r.db", project="p", root=self.folder, clock=self.clock, author="ann"
        )

    def known(self, data: Any) -> str:
        return data.draw(st.sampled_from(sorted(self.records) or ["note:a@" + "0" * 64]))

    @rule(data=st.data(), believe=st.booleans(), count=st.integers(0, 3))
    def commit(self, data: Any, believe: bool, count: int) -> None:
        records = []
        for _ in range(count):
            parents = tuple(
                Edge(parent=self.known(data), role="r") for _ in range(data.draw(st.integers(0, 2)))
            )
            if len({edge.parent for edge in parents}) < len(parents):
                parents = parents[:1]
            record = Record(
                kind="note", name=data.draw(NAMES), body=data.draw(BODIES), parents=parents
            )
            records.append(record)
        options = [None, *(record.id for record in records), self.known(data)]
        moves = data.draw(st.dictionaries(ALIASES, st.sampled_from(options), max_size=3))
        requires = []
        if believe:
            name = data.draw(ALIASES)
            target = data.draw(st.sampled_from([self.aliases.get(name), self.known(data), None]))
            requires = [AliasIs(name, target)]
        wrong = self.refused(records, moves, requires)
        if wrong is not None:
            with pytest.raises(wrong):
                self.registry.commit(records=records, aliases=moves, requires=requires)
            return
        self.registry.commit(records=records, aliases=moves, requires=requires)
        self.records |= {record.id: record for record in records}
        for name, target in sorted(moves.items()):
            before = self.aliases.get(name)
            if before != target:
                self.moves.setdefault(name, []).append((before, target))
                self.aliases.pop(name, None)
                if target is not None:
                    self.aliases[name] = target

    def refused(self, records: Any, moves: Any, requires: Any) -> type[Exception] | None:
        if any(self.aliases.get(belief.alias) != belief.target for belief in requires):
            return CommitConflict
        there = {*self.records, *(record.id for record in records)}
        if any(edge.parent not in there for record in records for edge in record.parents):
            return InvalidRecord
        if any(target is not None and target not in there for target in moves.values()):
            return RecordNotFound
        return None

    @rule()
    def reopen(self) -> None:
        self.registry.close()
        self.registry = self.open()
        self.clock.advance(1)

    @invariant()
    def same(self) -> None:
        assert {a.name: a.target for a in self.registry.aliases().values()} == self.aliases
        assert {s.id: s.record for s in self.registry.records()} == self.records

    @invariant()
    def same_history(self) -> None:
        for name, moves in self.moves.items():
            found = [(event.previous, event.target) for event in self.registry.history(name)]
            assert found == moves

    @invariant()
    def prefixes_are_literal(self) -> None:
        for prefix in ("env/", "env/_", "env/x"):
            wanted = {name for name in self.aliases if name.startswith(prefix)}
            assert set(self.registry.aliases(prefix)) == wanted

    def teardown(self) -> None:
        self.registry.close()
        shutil.rmtree(self.folder)


TestRegistryMachine = RegistryMachine.TestCase
TestRegistryMachine.settings = settings(max_examples=examples(8), stateful_step_count=15)
