"""Promotions: requests, approvals, one winner, and everything that must not happen."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from model_repository import NOW_US, Pinned, logistic, open_store, template

from featurestore import FeatureStore
from featurestore.errors import (
    ApprovalRequired,
    GateFailed,
    IllegalTransition,
    InvalidRequest,
    LimitExceeded,
    LineageIncomplete,
    PermissionDenied,
    RecordNotFound,
)
from featurestore.jobs import promotion_records
from featurestore.lifecycle.promotions import State
from featurestore.permissions import Identity
from featurestore.records import AliasIs, Record
from featurestore.timeline import DAY_US, ManualClock


@pytest.fixture(scope="module")
def model() -> Any:
    return logistic()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Pinned]:
    return template(tmp_path_factory.mktemp("template") / "repo")


@pytest.fixture
def store(tmp_path: Path, made: tuple[Path, Pinned]) -> Iterator[FeatureStore]:
    shutil.copytree(made[0], tmp_path / "repo")
    with open_store(tmp_path / "repo") as opened:
        yield opened


@pytest.fixture
def pinned(made: tuple[Path, Pinned]) -> Pinned:
    return made[1]


@pytest.fixture
def register(store: FeatureStore, pinned: Pinned, model: Any) -> Callable[[], str]:
    return lambda: store.models.register("late", model, run=pinned.run).ref


def advance(store: FeatureStore, by_us: int) -> None:
    assert isinstance(store.clock, ManualClock)
    store.clock.advance(by_us)


def produce(store: FeatureStore, ref: str) -> str:
    """Bring a version into production as two people do; returns the request's id."""
    request = store.models.promote(ref, "production", reason="better", by="ann")
    store.models.approve(request.id, by="bob")
    return request.id


def in_production(store: FeatureStore) -> str | None:
    try:
        return store.models.get("late/production").ref
    except RecordNotFound:
        return None


class TestTheWay:
    def test_from_a_request_to_production(
        self, store: FeatureStore, register: Callable[[], str]
    ) -> None:
        version = store.models.get(register())
        request = store.models.promote("late/1", "production", reason="the first", by="ann")
        assert request.state is State.PENDING_APPROVAL
        assert request.evidence is not None
        assert request.evidence.artifact == version.artifact.digest
        assert request.expires_at_us == NOW_US + 7 * DAY_US
        assert in_production(store) is None
        done = store.models.approve(request.id, by="bob", reason="looks fine")
        assert done.state is State.APPLIED
        assert [(a.by, a.reason) for a in done.approvals] == [("bob", "looks fine")]
        assert in_production(store) == "late/1"
        report = store.models.report(request.id)
        assert report is not None
        assert report.passed
        (move,) = store.models.history("late")
        assert (move.stage, move.before, move.after) == ("production", None, "late/1")
        assert "the first" in move.reason
        below = {child for child, *_ in store.registry.walk(version.id, direction="down")}
        assert {record.partition(":")[0] for record in below} == {
            "promotion", "approval", "gate_report",
        }  # fmt: skip

    def test_the_next_one_archives_it(
        self, store: FeatureStore, register: Callable[[], str]
    ) -> None:
        register()
        register()
        first = produce(store, "late/1")
        advance(store, 10)
        produce(store, "late/2")
        assert in_production(store) == "late/2"
        assert store.models.promotion(first).state is State.SUPERSEDED
        stages = {s.version.ref: s.stage for s in store.models.list("late")}
        assert stages == {"late/1": "archived", "late/2": "production"}
        assert store.models.get("late/production", at=NOW_US + 9).ref == "late/1"
        assert store.models.get("late/archived").ref == "late/1"
        before = {s.version.ref: s.stage for s in store.models.list("late", at=NOW_US + 9)}
        assert before == {"late/1": "production"} or before["late/1"] == "production"
        assert len(store.models.history("late", at=NOW_US + 9)) == 1
        with pytest.raises(RecordNotFound, match="then"):
            store.models.get("late/production", at=NOW_US - 1)
        advance(store, 10)
        produce(store, "late/1")  # back again
        assert in_production(store) == "late/1"
        moves = [(m.stage, m.before, m.after) for m in store.models.history("late")]
        assert moves == [
            ("production", None, "late/1"),
            ("production", "late/1", "late/2"),
            ("archived", None, "late/1"),
            ("production", "late/2", "late/1"),
            ("archived", "late/1", "late/2"),
        ]

    def test_staging_needs_no_approval(
        self, store: FeatureStore, register: Callable[[], str]
    ) -> None:
        register()
        assert store.models.promote("late/1", "staging", reason="try it").state is State.APPLIED
        assert store.models.get("late/staging").ref == "late/1"
        assert in_production(store) is None
        with pytest.raises(InvalidRequest, match="is in staging"):
            store.models.promote("late/1", "staging", reason="again")
        request = store.models.promote("late/1", "production", reason="it works", by="ann")
        assert request.source == "staging"

    @pytest.mark.slow
    def test_environments_are_apart(self, store: FeatureStore, register: Callable[[], str]) -> None:
        register()
        produce(store, "late/1")
        with open_store(store.settings.root, **{"project.environment": "dev"}) as dev:
            dev.apply()
            assert in_production(dev) is None
            produce(dev, "late/1")
            assert in_production(dev) == "late/1"
            assert "env/dev/model/late/production" in dev.registry.aliases("env/dev/")
            dev.materialize()  # what lists environments takes it for none
            dev.sweep()

    def test_a_champion_is_compared_with(
        self, store: FeatureStore, register: Callable[[], str]
    ) -> None:
        register()
        register()
        produce(store, "late/1")
        assert store.models.compare("late/2").champion == "late/1"


class TestNoLineageNoPromotion:
    def test_incomplete_pins(self, store: FeatureStore, model: Any) -> None:
        store.models.register("late", model)
        for glass in (False, True):
            with pytest.raises(LineageIncomplete) as raised:
                store.models.promote("late/1", "production", reason="now", break_glass=glass)
            assert raised.value.missing == ["run", "training_set", "service"]
        assert store.models.promotions() == ()

    def test_a_service_that_is_another_now(
        self, store: FeatureStore, register: Callable[[], str]
    ) -> None:
        register()
        change_service(store.settings.root)
        with open_store(store.settings.root) as changed:
            changed.apply()
            with pytest.raises(GateFailed, match="the model was made with") as raised:
                changed.models.promote("late/1", "production", reason="x", by="ann")
            request = changed.models.promotion(raised.value.request)
            assert request.state is State.CHECKS_FAILED
            with pytest.raises(IllegalTransition, match="CHECKS_FAILED"):
                changed.models.approve(request.id, by="bob")


def change_service(root: Path) -> None:
    file = root / "definitions.py"
    file.write_text(
        file.read_text().replace('Feature("weight")', 'Feature("weight", "weight * 2")')
    )


class TestApproval:
    @pytest.fixture
    def request_id(self, store: FeatureStore, register: Callable[[], str]) -> str:
        register()
        return store.models.promote("late/1", "production", reason="x", by="ann").id

    def test_nobody_approves_their_own_request(self, store: FeatureStore, request_id: str) -> None:
        with pytest.raises(ApprovalRequired, match="nobody approves their own request"):
            store.models.approve(request_id, by="ann")
        assert store.models.promotion(request_id).state is State.PENDING_APPROVAL

    def test_the_process_is_somebody_too(
        self, store: FeatureStore, register: Callable[[], str]
    ) -> None:
        register()
        request = store.models.promote("late/1", "production", reason="x")
        assert request.requester == store.registry.identity.author
        with pytest.raises(ApprovalRequired):
            store.models.approve(request.id)
        store.registry.identity = Identity(author="somebody-else")
        assert store.models.approve(request.id).state is State.APPLIED

    def test_evidence_that_changed_before_the_approval(
        self, store: FeatureStore, request_id: str
    ) -> None:
        change_service(store.settings.root)
        with open_store(store.settings.root) as changed:
            changed.apply()
            with pytest.raises(ApprovalRequired, match=r"changed .*\(service version\)"):
                changed.models.approve(request_id, by="bob")
            assert in_production(changed) is None

    def test_evidence_that_changed_after_the_approval(
        self, store: FeatureStore, request_id: str
    ) -> None:
        approved = store.models.approve(request_id, by="bob", apply=False)
        assert approved.state is State.APPROVED
        add_evaluation(store)
        with pytest.raises(
            ApprovalRequired, match=r"\(evaluations\), so that the approval is void"
        ):
            store.models.apply(request_id)
        assert in_production(store) is None
        again = store.models.check(request_id)
        assert (again.state, again.approvals) == (State.PENDING_APPROVAL, ())
        assert store.models.approve(request_id, by="bob").state is State.APPLIED

    def test_many_evaluations_fit_into_a_record(
        self, store: FeatureStore, request_id: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(promotion_records, "EVALUATIONS_LISTED_MAX", 2)
        rows = store.training_set("parcels").rows
        for number in range(4):
            advance(store, 1)
            store.models.evaluate("late", "parcels", scores=[0.5 + number / 100] * rows)
        again = store.models.check(request_id)
        assert again.evidence is not None
        assert len(again.evidence.evaluations) == 3
        store.models.evaluate("late", "parcels", scores=[0.4] * rows)
        with pytest.raises(ApprovalRequired, match=r"\(evaluations\)"):
            store.models.approve(request_id, by="bob")
        store.models.check(request_id)
        assert store.models.approve(request_id, by="bob").state is State.APPLIED

    def test_gates_that_changed(self, store: FeatureStore, request_id: str) -> None:
        file = store.settings.root / "definitions.py"
        text = "from featurestore import Gates\ngates = Gates('late', size_bytes_max=1)\n"
        file.write_text(file.read_text() + text)
        with pytest.raises(ApprovalRequired, match=r"\(gates\)"):
            store.models.approve(request_id, by="bob")
        with pytest.raises(GateFailed, match="size ≤ 1 bytes"):
            store.models.check(request_id)

    def test_an_expired_request(self, store: FeatureStore, request_id: str) -> None:
        advance(store, 7 * DAY_US)
        assert store.models.promotion(request_id).state is State.EXPIRED
        for _ in range(2):
            with pytest.raises(IllegalTransition, match="EXPIRED") as raised:
                store.models.approve(request_id, by="bob")
            assert raised.value.state == "EXPIRED"
        assert store.models.promotions("late")[0].state is State.EXPIRED
        with pytest.raises(InvalidRequest, match="PROMOTION_LIFE_US_MAX"):
            store.models.promote("late/1", "production", reason="x", expires="91d")

    def test_two_approvals(self, store: FeatureStore, register: Callable[[], str]) -> None:
        file = store.settings.root / "definitions.py"
        text = "from featurestore import Gates\ngates = Gates('late', approvals=2)\n"
        file.write_text(file.read_text() + text)
        request = store.models.promote(register(), "production", reason="x", by="ann")
        assert request.approvals_needed == 2
        first = store.models.approve(request.id, by="bob")
        assert first.state is State.PENDING_APPROVAL
        with pytest.raises(ApprovalRequired, match="bob has approved it already"):
            store.models.approve(request.id, by="bob")
        assert store.models.approve(request.id, by="cem").state is State.APPLIED

    def test_reject_and_withdraw_are_final(
        self, store: FeatureStore, register: Callable[[], str], request_id: str
    ) -> None:
        with pytest.raises(InvalidRequest, match="a rejection needs a reason"):
            store.models.reject(request_id, reason=" ", by="bob")
        refused = store.models.reject(request_id, reason="too slow", by="bob")
        assert (refused.state, refused.note) == (State.REJECTED, "too slow")
        second = store.models.promote("late/1", "production", reason="x", by="ann")
        with pytest.raises(PermissionDenied, match="ann asked for"):
            store.models.withdraw(second.id, by="bob")
        assert store.models.withdraw(second.id, by="ann").state is State.WITHDRAWN
        for request in (request_id, second.id):
            for act in (store.models.approve, store.models.apply, store.models.check):
                with pytest.raises(IllegalTransition, match="which is final"):
                    act(request)  # type: ignore[operator]

    def test_what_is_not_there(self, store: FeatureStore, request_id: str) -> None:
        with pytest.raises(RecordNotFound, match="Did you mean"):
            store.models.approve(request_id[:-1] + "x", by="bob")
        for arguments in (("late/9", "production"), ("nope", "production")):
            with pytest.raises(RecordNotFound):
                store.models.promote(*arguments, reason="x")
        for stage in ("archived", "development", "prod"):
            with pytest.raises(InvalidRequest, match="staging or production"):
                store.models.promote("late/1", stage, reason="x")
        with pytest.raises(InvalidRequest, match="needs a reason"):
            store.models.promote("late/1", "production", reason="")

    @pytest.mark.parametrize("name", ["", "  ", " ann ", "b\nob", "b\0b", "b\ud800b"])
    def test_an_approval_is_somebody_elses(
        self, store: FeatureStore, request_id: str, name: str
    ) -> None:
        with pytest.raises((InvalidRequest, ApprovalRequired)):
            store.models.approve(request_id, by=name)
        assert store.models.promotion(request_id).approvals == ()
        if name != " ann ":
            with pytest.raises(InvalidRequest):
                store.models.promote("late/1", "production", reason="x", by=name)

    @pytest.mark.parametrize("text", ["a\0b", "\ud800", "x" * 2_001])
    def test_a_reason_is_text(self, store: FeatureStore, request_id: str, text: str) -> None:
        acts = (
            lambda: store.models.promote("late/1", "production", reason=text, by="ann"),
            lambda: store.models.approve(request_id, by="bob", reason=text),
            lambda: store.models.reject(request_id, by="bob", reason=text),
            lambda: store.models.archive("late/1", reason=text),
            lambda: store.models.register("late", "x", description=text),
        )
        for act in acts:
            with pytest.raises((InvalidRequest, LimitExceeded)):
                act()

    def test_no_stage_points_to_nothing(self, store: FeatureStore, request_id: str) -> None:
        with pytest.raises(RecordNotFound):
            store.registry.commit(aliases={"model/late/production": "model:late@" + "0" * 64})
        assert in_production(store) is None


def add_evaluation(store: FeatureStore) -> None:
    """As `evaluate` writes one."""
    from featurestore.records import Edge

    version = store.models.get("late/1")
    record = Record(
        kind="evaluation", name="late", body={"number": 1},
        parents=(Edge(parent=version.id, role="model"),),
    )  # fmt: skip
    store.registry.commit(
        requires=[AliasIs("evaluation/late", None)],
        records=[record],
        aliases={"evaluation/late": record.id},
    )


class TestOneWinner:
    @pytest.mark.slow
    def test_of_two_approved_requests_one_is_applied(
        self, store: FeatureStore, register: Callable[[], str]
    ) -> None:
        count = 5
        refs = [register() for _ in range(count)]
        requests = [store.models.promote(r, "production", reason="x", by="ann").id for r in refs]
        for request in requests:
            store.models.approve(request, by="bob", apply=False)

        def apply(request: str) -> str | None:
            with open_store(store.settings.root) as own:
                try:
                    return own.models.apply(request).ref
                except (IllegalTransition, ApprovalRequired):
                    return None

        with ThreadPoolExecutor(count) as pool:
            winners = [ref for ref in pool.map(apply, requests) if ref is not None]
        assert len(winners) == 1
        assert in_production(store) == winners[0]
        states = [store.models.promotion(request).state for request in requests]
        assert sorted(state.value for state in states) == ["APPLIED", *["SUPERSEDED"] * (count - 1)]
        assert len(store.models.history("late")) == 1

    def test_of_one_request_approved_twice_at_once_there_is_one_move(
        self, store: FeatureStore, register: Callable[[], str]
    ) -> None:
        request = store.models.promote(register(), "production", reason="x", by="ann").id

        def approve(name: str) -> str:
            with open_store(store.settings.root) as own:
                try:
                    return own.models.approve(request, by=name).state.value
                except IllegalTransition as error:
                    return error.code

        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(approve, ["bob", "cem", "dan", "eve"]))
        assert "APPLIED" in answers
        assert len(store.models.history("late")) == 1
        assert store.models.apply(request).state is State.APPLIED  # an answer lost is no harm


class TestBreakingTheGlass:
    def test_it_is_an_event_of_its_own(
        self, store: FeatureStore, register: Callable[[], str]
    ) -> None:
        register()
        register()
        produce(store, "late/1")
        done = store.models.promote(
            "late/2", "production", reason="late/1 burns", by="ann", break_glass=True
        )
        assert (done.state, done.break_glass) == (State.APPLIED, True)
        assert in_production(store) == "late/2"
        (event,) = store.registry.records(kind="break_glass", name="late")
        assert event.record.body["reason"] == "late/1 burns"
        assert event.record.body["by"] == "ann"
        assert store.models.history("late")[-2].reason.startswith("break-glass: late/1 burns")
        with pytest.raises(InvalidRequest, match="needs a reason"):
            store.models.promote("late/1", "production", reason=" ", break_glass=True)

    def test_not_into_an_environment_that_is_not_there(
        self, store: FeatureStore, register: Callable[[], str]
    ) -> None:
        register()
        with open_store(store.settings.root, **{"project.environment": "ghost"}) as ghost:
            with pytest.raises(InvalidRequest, match="no environment 'ghost'"):
                ghost.models.promote("late/1", "production", reason="x", break_glass=True)
            with pytest.raises(GateFailed, match="featurestore apply"):
                ghost.models.promote("late/1", "production", reason="x")
        assert not [name for name in store.registry.aliases() if "ghost" in name]


class TestHistory:
    def test_it_names_everybody_who_is_answerable(
        self, store: FeatureStore, register: Callable[[], str]
    ) -> None:
        register()
        register()
        request = store.models.promote("late/1", "production", reason="the first", by="ann")
        store.models.approve(request.id, by="bob", reason="looks fine")
        process = store.registry.identity.author
        advance(store, 10)
        glass = store.models.promote(
            "late/2", "production", reason="late/1 burns", by="cem", break_glass=True
        )
        advance(store, 10)
        store.models.archive("late/2", reason="burns too", by="dan")
        first, second, left, gone, archived = store.models.history("late")

        assert (first.request, first.requester, first.by) == (request.id, "ann", process)
        assert [(a.by, a.reason) for a in first.approvals] == [("bob", "looks fine")]
        assert request.evidence is not None
        assert first.evidence == first.approvals[0].evidence == request.evidence.hash
        assert first.reason.startswith("the first")
        assert not first.break_glass
        for move in (second, left):  # one commit: late/2 came, and late/1 was archived
            assert (move.request, move.requester, move.approvals) == (glass.id, "cem", ())
            assert move.break_glass
            assert move.reason.startswith("break-glass: late/1 burns")
        assert (left.stage, left.after) == ("archived", "late/1")
        assert second.evidence is not None
        for move in (gone, archived):
            assert (move.request, move.requester, move.evidence) == (None, None, None)
            assert move.reason == "archive late/2: burns too (by dan)"
        # What a request became later does not change who was answerable then.
        assert store.models.promotion(request.id).state is State.SUPERSEDED
        assert store.models.history("late", at=NOW_US + 9) == (first,)
        assert store.models.history("late", at=NOW_US + 10) == (first, second, left)

    def test_an_approval_that_was_void_is_not_named(
        self, store: FeatureStore, register: Callable[[], str]
    ) -> None:
        register()
        request = store.models.promote("late/1", "production", reason="x", by="ann")
        store.models.approve(request.id, by="bob", apply=False)
        store.models.check(request.id)
        store.models.approve(request.id, by="cem")
        (move,) = store.models.history("late")
        assert [a.by for a in move.approvals] == ["cem"]


class TestAccess:
    @pytest.fixture
    def tokens(self, store: FeatureStore, register: Callable[[], str]) -> dict[str, str]:
        register()
        grants = {
            "root": ["*:parcels"],
            "ann": ["track:parcels/late"],
            "bob": ["approve:parcels/model/late"],
            "cem": ["approve:parcels/model/other", "track:parcels/other"],
        }
        made = {name: store.create_token(name, allow=allow)[0] for name, allow in grants.items()}
        store.registry.identity = Identity(author="root", token=made["root"])
        store.set_access_control(True)
        return made

    def act_as(self, store: FeatureStore, tokens: dict[str, str], name: str) -> None:
        store.registry.identity = Identity(author="shared", token=tokens[name])

    def test_whose_token_it_is_is_who_acts(
        self, store: FeatureStore, tokens: dict[str, str]
    ) -> None:
        self.act_as(store, tokens, "ann")
        with pytest.raises(PermissionDenied, match="not bob's"):
            store.models.promote("late/1", "production", reason="x", by="bob")
        request = store.models.promote("late/1", "production", reason="x")
        assert request.requester == "token:ann"
        with pytest.raises(PermissionDenied, match="approve:parcels/model/late"):
            store.models.approve(request.id)
        with pytest.raises(PermissionDenied, match="approve:parcels/model/late"):
            store.models.promote("late/1", "production", reason="x", break_glass=True)
        self.act_as(store, tokens, "cem")
        with pytest.raises(PermissionDenied):
            store.models.approve(request.id)
        self.act_as(store, tokens, "bob")
        with pytest.raises(PermissionDenied, match="not cem's"):
            store.models.approve(request.id, by="cem")
        assert store.models.approve(request.id).state is State.APPLIED
        self.act_as(store, tokens, "root")
        assert store.models.history("late")[0].by == "token:bob"
        denied = store.audit_log(denied=True)
        assert {entry["who"] for entry in denied} == {"token:ann", "token:cem"}

    def test_who_may_do_both_still_needs_another(
        self, store: FeatureStore, tokens: dict[str, str]
    ) -> None:
        request = store.models.promote("late/1", "production", reason="x")
        with pytest.raises(ApprovalRequired, match="their own"):
            store.models.approve(request.id)

    def test_the_registry_itself_guards_production(
        self, store: FeatureStore, tokens: dict[str, str]
    ) -> None:
        version = store.models.get("late/1")
        store.materialize()
        self.act_as(store, tokens, "ann")
        with pytest.raises(PermissionDenied):
            store.registry.commit(aliases={"model/late/production": version.id})
        store.models.promote("late/1", "staging", reason="may do that")
        # What servers answer is not for her to say; the next publication pins it.
        assert store.registry.aliases("pinned/") == {}
        self.act_as(store, tokens, "root")
        store.sweep()
        assert len(store.registry.aliases("pinned/")) == 1

    def test_a_forged_approval_counts_for_nothing(
        self, store: FeatureStore, tokens: dict[str, str]
    ) -> None:
        from dataclasses import replace

        from featurestore.jobs.promotion_records import record_of
        from featurestore.lifecycle.promotions import Approval

        self.act_as(store, tokens, "ann")
        pending = store.models.promote("late/1", "production", reason="x")
        assert pending.evidence is not None
        forged = replace(
            pending,
            state=State.APPROVED,
            approvals=(Approval("token:bob", NOW_US, pending.evidence.hash),),
        )
        record = record_of(forged, before=pending.record)
        store.registry.commit(records=[record], aliases={pending.alias: record.id})
        self.act_as(store, tokens, "bob")
        with pytest.raises(ApprovalRequired, match="whose token has not signed it"):
            store.models.apply(pending.id)
