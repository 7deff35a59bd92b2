"""`fs.models`: the model registry. One line per method; the work is in `jobs`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.jobs import (
    access,
    evaluations,
    gates,
    model_comparison,
    model_history,
    promotion_applying,
    promotion_records,
    promotions,
)
from featurestore.jobs import models as jobs
from featurestore.lifecycle.promotions import PROMOTION_LIFE_US
from featurestore.timeline import to_us

if TYPE_CHECKING:
    from featurestore.definitions.gates import Gates
    from featurestore.jobs.evaluations import Evaluation
    from featurestore.jobs.gates import Bench, GateReport
    from featurestore.jobs.model_comparison import ModelComparison
    from featurestore.jobs.model_history import StageMove
    from featurestore.jobs.models import Models, Staged
    from featurestore.jobs.promotion_records import Rules
    from featurestore.jobs.promotions import Judge
    from featurestore.lifecycle.models import ModelVersion
    from featurestore.lifecycle.promotions import Promotion

Instant = datetime | str | int


@dataclass(frozen=True, slots=True)
class ModelRegistry:
    """Versions of models, their stages, and how they get there.

    A version is named `"delay"` (the newest), `"delay/3"`, `"delay/production"`, or by its record's
    id. Stages are those of the settings' environment.
    """

    _models: Callable[[], Models]
    _bench: Callable[[], Bench]
    _gates: Callable[[], Mapping[str, Gates]]

    def register(
        self,
        name: str,
        artifact: Any,
        *,
        run: Any = None,
        training_set: Any = None,
        service: Any = None,
        signature: Any = None,
        metrics: Mapping[str, float] | None = None,
        flavor: str | None = None,
        description: str = "",
    ) -> ModelVersion:
        """Keep a model as the next version of `name`.

        Args:
            artifact: a path (file, folder, MLflow folder), `"module:function"`, a function, or an
                object, which is written by joblib, or as `flavor` says.
            run, training_set, service: what it comes from, as objects, ids or names. What is left
                out is taken from the run or the training set; what is missing then keeps the
                version from being promoted.
            signature: `{"inputs": {"temp": "float64"}, "outputs": {…}}`; by default what the
                training set has, in the order that a scikit-learn model remembers.

        Raises `SignatureMismatch` where the service can't feed the model, `InvalidRequest`,
        `RecordNotFound`, `UnknownService`, `PermissionDenied`, `FileNotWritten`.
        """
        return jobs.register(
            self._models(),
            name,
            artifact,
            run=run,
            training_set=training_set,
            service=service,
            signature=signature,
            metrics=metrics,
            flavor=flavor,
            description=description,
        )

    def list(self, name: str | None = None, *, at: Instant | None = None) -> tuple[Staged, ...]:
        """All versions (of `name`) with their stages, as of an instant."""
        models = self._models()
        return jobs.list_models(
            models.registry, name, environment=models.environment, at_us=_us(at)
        )

    def get(self, ref: str, *, at: Instant | None = None) -> ModelVersion:
        """One version: `get("delay/production", at="2026-07-01")` is who was champion then. Raises
        `RecordNotFound`."""
        models = self._models()
        return jobs.get(models.registry, ref, environment=models.environment, at_us=_us(at))

    def history(self, name: str, *, at: Instant | None = None) -> tuple[StageMove, ...]:
        """Which version moved into or out of a stage, when and why, up to an instant: who asked,
        who approved which evidence (or broke the glass), and who applied it."""
        models = self._models()
        return model_history.history(
            models.registry, name, environment=models.environment, at_us=_us(at)
        )

    def compare(self, ref: str, champion: str | None = None) -> ModelComparison:
        """A version beside the one in production, or beside `champion`: metrics, what else differs,
        and a paired bootstrap where both were evaluated on the same rows."""
        return model_comparison.compare(self._models(), ref, champion)

    def load(self, ref: str, *, trust: bool = False) -> Any:
        """The model itself, of checked bytes. What runs code when it is loaded (a pickle, a
        function, an MLflow folder) takes `trust=True`. Raises `InvalidRequest`, `SnapshotMissing`,
        `CorruptRow`."""
        return jobs.load(self._models(), ref, trust=trust)

    def download(self, ref: str, to: str | Path) -> Path:
        """Copy the artifact into the folder `to`, checked; returns where it is."""
        return jobs.download(self._models(), ref, to)

    def evaluate(
        self,
        ref: str,
        on: Any,
        *,
        split: str | None = None,
        label: str | None = None,
        metrics: Iterable[str] = (),
        scores: Any = None,
        trust: bool = False,
    ) -> Evaluation:
        """Ask a version about the rows of a training set (`"flights/test"`: of a split), and keep
        what it says and is worth. `scores`: predictions made elsewhere, one per row."""
        return evaluations.evaluate(
            self._models(),
            ref,
            on,
            split=split,
            label=label,
            metrics=metrics,
            scores=scores,
            trust=trust,
        )

    def evaluations(self, name: str) -> tuple[Evaluation, ...]:
        """All evaluations of the model's versions, oldest first."""
        return evaluations.list_evaluations(self._models().registry, name)

    def check_gates(self, ref: str, *, trust: bool = False) -> GateReport:
        """Run the gates that the repository declares for a version. With `trust`, models that run
        code when loaded are loaded to make evaluations that are missing."""
        bench = self._bench_with(trust)
        version = jobs.get(bench.models.registry, ref, environment=bench.models.environment)
        declared = self._gates().get(version.name)
        return gates.run_gates(bench, declared, version, bench.models.environment)

    def promote(
        self,
        ref: str,
        to: str,
        *,
        reason: str,
        by: str | None = None,
        expires: str | None = None,
        trust: bool = False,
        break_glass: bool = False,
    ) -> Promotion:
        """Ask that a version comes into `staging` or `production`, and run its gates. Production
        waits for approval by somebody else; staging is reached at once.

        Args:
            by: who asks, where no access control proves it (by default the process's user).
            expires: how long the request stays open, `"7d"` by default.
            trust: as in `check_gates`.
            break_glass: put it there now, unchecked and unapproved; takes the right to approve.

        Raises `LineageIncomplete`, `GateFailed`, `InvalidRequest`, `PermissionDenied`,
        `RecordNotFound`.
        """
        models = self._models()
        return promotions.promote(
            models,
            ref,
            to,
            reason=reason,
            by=by,
            life_us=PROMOTION_LIFE_US if expires is None else access.duration_us(expires),
            judge=self._judge(trust),
            rules=self._rules(ref),
            break_glass=break_glass,
        )

    def check(self, request: str, *, trust: bool = False) -> Promotion:
        """Run the gates of a request again; what was approved before is void."""
        models = self._models()
        rules = self._rules_of(request)
        return promotions.check(models, request, judge=self._judge(trust), rules=rules)

    def approve(
        self, request: str, *, by: str | None = None, reason: str = "", apply: bool = True
    ) -> Promotion:
        """Consent to a request as it was judged, and apply it when as many as needed have. Raises
        `ApprovalRequired` (one's own request, changed evidence), `IllegalTransition`,
        `PermissionDenied`."""
        rules = self._rules_of(request)
        return promotions.approve(
            self._models(), request, rules=rules, by=by, reason=reason, then_apply=apply
        )

    def apply(self, request: str) -> Promotion:
        """Put the version of an approved request into its stage: one commit, one winner."""
        return promotion_applying.apply(self._models(), request, rules=self._rules_of(request))

    def reject(self, request: str, *, reason: str, by: str | None = None) -> Promotion:
        """Refuse a request, for good."""
        return promotions.reject(self._models(), request, reason=reason, by=by)

    def withdraw(self, request: str, *, reason: str = "", by: str | None = None) -> Promotion:
        """Take one's own request back."""
        return promotions.withdraw(self._models(), request, reason=reason, by=by)

    def archive(self, ref: str, *, reason: str, by: str | None = None) -> ModelVersion:
        """Take a version out of its stage; nobody takes its place there."""
        return promotion_applying.archive(self._models(), ref, reason=reason, by=by)

    def promotion(self, request: str) -> Promotion:
        """A request as it stands now. Raises `RecordNotFound`."""
        models = self._models()
        return promotion_records.read(models.registry, request, now_us=models.clock.now_us())

    def promotions(self, name: str | None = None) -> tuple[Promotion, ...]:
        """All requests (for one model) as they stand now, oldest first."""
        models = self._models()
        return promotion_records.list_promotions(
            models.registry, name, environment=models.environment, now_us=models.clock.now_us()
        )

    def report(self, request: str) -> GateReport | None:
        """What the gates said when a request was judged last; None before they ran."""
        models = self._models()
        found = promotion_records.read(models.registry, request).report
        return None if found is None else gates.read_report(models, found)

    def _bench_with(self, trust: bool) -> Bench:
        return self._bench().trusting() if trust else self._bench()

    def _judge(self, trust: bool) -> Judge:
        bench, declared = self._bench_with(trust), self._gates()
        return lambda version, environment: gates.run_gates(
            bench, declared.get(version.name), version, environment
        )

    def _rules(self, ref: str) -> Rules:
        models = self._models()
        version = jobs.get(models.registry, ref, environment=models.environment)
        return promotion_records.Rules.of(self._gates().get(version.name))

    def _rules_of(self, request: str) -> Rules:
        name = promotion_records.read(self._models().registry, request).name
        return promotion_records.Rules.of(self._gates().get(name))


def _us(at: Instant | None) -> int | None:
    return None if at is None else to_us(at)
