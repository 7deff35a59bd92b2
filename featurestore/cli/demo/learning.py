"""The demo's middle: a training set on record, two learners in one experiment, what a leak does to
them, and two versions of a model on their way to production."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

from featurestore.cli.demo import model
from featurestore.cli.demo.printing import heading
from featurestore.cli.model_output import show_gates, show_history
from featurestore.cli.output import say, show_table, working
from featurestore.errors import GateFailed
from featurestore.records import show_id
from featurestore.timeline import DAY_US, format_instant, to_datetime

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

    from featurestore.lifecycle.models import ModelVersion
    from featurestore.store import FeatureStore

SERVICE = "delay_model"
TRAINING_SET = "delays"
MODEL = "delay"
PRODUCTION = f"{MODEL}/production"
ASKS, APPROVES = "ada", "grace"
TRAINED_SHARE = 0.8
YEAR_US = 365 * DAY_US

AT_DEPARTURE, EARLIER = "at departure", "an hour before"
MOMENTS = {AT_DEPARTURE: 0, EARLIER: 60}
"""When the question is asked: minutes before the scheduled departure."""

ENTITIES = """
    SELECT flight_id, tailnum, carrier, origin, dest, arr_delay > 15 AS late,
           scheduled_at - INTERVAL {minutes} MINUTE AS event_timestamp
    FROM flights
    WHERE arr_delay IS NOT NULL AND known_at <= TIMESTAMPTZ '{now}' AND flight_id % 10 = 0
    ORDER BY scheduled_at, flight_id
"""
"""In one order always, so that the same rows make the same trees."""

AsOf = Literal["known", "event"]


class Learning:
    """From rows to a model in production. The present stands still at `now_us`, so that all tables
    have the same flights; `ends_us` is the end of the year that the data are of."""

    def __init__(self, store: FeatureStore, *, now_us: int, ends_us: int) -> None:
        self._store = store
        self._now = format_instant(now_us)
        begins_us = ends_us - YEAR_US
        cut_us = begins_us + int((now_us - begins_us) * TRAINED_SHARE)
        self._cut_us = cut_us // DAY_US * DAY_US
        self._parts: dict[str, pa.Table] = {}
        self._fitted: dict[str, Any] = {}
        self._runs: dict[str, str] = {}

    @property
    def run_ids(self) -> tuple[str, ...]:
        """The runs of this demo, shortened as people type them."""
        return tuple(run_id[:8] for run_id in self._runs.values())

    def write_set(self) -> None:
        """The rows, written once, and on record with all that they were made of."""
        heading("Training set", "will the flight arrive more than 15 minutes late?")
        began = time.monotonic()
        with working("joining features"):
            made = self._store.create_training_set(
                TRAINING_SET,
                self._entities(AT_DEPARTURE),
                SERVICE,
                label=model.LABEL,
                splits={"train": format_instant(self._cut_us), "test": None},
                known_until=self._now,
            )
        took_s = time.monotonic() - began
        self._features = made.features
        self._parts = {split: made.to_arrow(split) for split in made.splits}
        self._set_id = made.id
        say(f"{made.rows:,} flights × {len(made.features)} features of service {SERVICE} in")
        say(f"{took_s:.1f} s, each with what was known at its departure and no more. On record:")
        until = f"{to_datetime(self._cut_us):%Y-%m-%d}"
        snapshots = [edge for edge in made.record.record.parents if edge.role == "snapshot"]
        facts = {
            "training set": show_id(made.id),
            "split": f"train {made.splits['train']:,} before {until}, test {made.splits['test']:,}",
            "made of": f"{len(snapshots)} sources, every file of them pinned by its SHA-256",
            "row digest": made.row_digest,
        }
        for name, text in facts.items():
            say(f"  {name:<13} {text}")

    def experiment(self) -> None:
        """Two learners on the same rows, each a run with its parameters and metrics."""
        heading("Experiment", "two learners of scikit-learn on these rows, tracked as runs")
        rows = []
        with working("training"):
            for learner, params in model.PARAMS.items():
                with self._store.start_run(
                    MODEL, name=learner, training_set=self._set_id, params=params
                ) as run:
                    fitted = model.train(learner, self._parts["train"], self._features)
                    losses = list(model.losses(fitted, self._parts["test"]))
                    for step, loss in enumerate(losses):
                        run.log_metric("log_loss", loss, step=step)
                    auc = model.auc(fitted, self._parts["test"])
                    run.log_metric("auc", auc)
                self._fitted[learner], self._runs[learner] = fitted, run.run_id
                loss_text = f"{losses[-1]:.3f}"
                if len(losses) > 1:
                    loss_text = f"{losses[0]:.3f} → {loss_text} in {len(losses)} steps"
                rows.append([run.run_id[:8], learner, f"{auc:.3f}", loss_text])
        show_table(["run", "learner", "AUC", "log loss"], rows)
        say("A run keeps parameters, metrics by step, training set, code, packages, machine.")

    def show_the_leak(self) -> None:
        """The same learner on rows that know too much: why the training set is made as it is."""
        heading("The trap", "the same rows, joined as most feature stores do")
        say("as_of='known' joins what was known at each row's time. as_of='event' looks at event")
        say("times alone, and finds outcomes of flights in the air.")
        rows = [row for moment in MOMENTS for row in self._compare(moment)]
        say()
        show_table(
            ["features", "as_of", "rows", "AUC when tested", "AUC when served"],
            rows,
            title=f"{model.TREES.capitalize()}, trained on the first {TRAINED_SHARE:.0%} of the "
            "year, tested on the rest",
        )
        say("Served, a model gets what is known by then, whatever it was trained on: the leak")
        say("flatters in the test and is gone in production.")

    def _compare(self, moment: str) -> list[list[Any]]:
        began = time.monotonic()
        with working(f"joining features {moment}"):
            leaky = self._split(self._rows(moment, "event"))
            known = self._parts if moment == AT_DEPARTURE else self._split(self._rows(moment))
        took_s = time.monotonic() - began
        with working("training"):
            flattered = model.train(model.TREES, leaky["train"], self._features)
            honest = self._fitted[model.TREES]
            if moment != AT_DEPARTURE:
                honest = model.train(model.TREES, known["train"], self._features)
            share = model.share_different(_whole(known), _whole(leaky), "carrier_arr_delay")
            tested, served = (model.auc(flattered, split["test"]) for split in (leaky, known))
            auc = model.auc(honest, known["test"])
        rows = sum(table.num_rows for table in known.values())
        say(
            f"{moment}: joined in {took_s:.1f} s; the carrier's latest delay at the airport "
            f"differs in {share:.0%} of the rows"
        )
        return [
            [moment, "event", rows, f"{tested:.3f}", f"{served:.3f}"],
            [moment, "known", rows, f"{auc:.3f}", f"{auc:.3f}"],
        ]

    def _entities(self, moment: str) -> str:
        return ENTITIES.format(minutes=MOMENTS[moment], now=self._now)

    def _rows(self, moment: str, as_of: AsOf = "known") -> pa.Table:
        entities = self._entities(moment)
        return self._store.get_historical_features(entities, SERVICE, as_of=as_of).to_arrow()

    def _split(self, table: pa.Table) -> dict[str, pa.Table]:
        from pyarrow import compute as pc

        cut = to_datetime(self._cut_us)
        is_test = pc.greater_equal(table["event_timestamp"], cut)
        return {"train": table.filter(pc.invert(is_test)), "test": table.filter(is_test)}

    def promote(self) -> None:
        """Both models registered and asked for production: gates judge, somebody else consents."""
        heading("Model registry", f"versions of {MODEL!r}, the gates of flights.py, an approval")
        for learner, fitted in self._fitted.items():
            version = self._store.models.register(
                MODEL,
                fitted,
                run=self._runs[learner],
                metrics={"auc": model.auc(fitted, self._parts["test"])},
                description=learner,
            )
            self._ask(version, learner)
            say()
        show_history(self._store.models.history(MODEL)[-4:])

    def _ask(self, version: ModelVersion, learner: str) -> None:
        from threadpoolctl import threadpool_limits

        models = self._store.models
        say(f"{ASKS} asks for {version.ref}, {learner}, in production:")
        try:
            with working("running gates"), threadpool_limits(1):
                request = models.promote(
                    version.ref, "production", reason=f"{learner} of the demo", by=ASKS, trust=True
                )
        except GateFailed as failure:
            report = models.report(failure.request)
            if report is not None:
                show_gates(report)
            say(f"{version.ref} stays out: nobody is asked to approve what its gates refuse.")
            return
        report = models.report(request.id)
        if report is not None:
            show_gates(report)
        done = models.approve(request.id, by=APPROVES, reason="evidence read")
        say(f"{APPROVES} approves request {request.id} as it was judged: {done.state.value}")


def _whole(parts: Mapping[str, pa.Table]) -> pa.Table:
    import pyarrow as pa

    return pa.concat_tables(parts.values())
