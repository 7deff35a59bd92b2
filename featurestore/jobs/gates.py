"""Running the gates of a version: what was predicted is read, what is missing is said, and the
answer becomes a record."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from featurestore.definitions.gates import DataContract, Gates
from featurestore.errors import FeatureStoreError
from featurestore.fingerprint import canonical_json, fingerprint_bytes, short
from featurestore.jobs import data_facts, evaluations
from featurestore.jobs.model_origin import open_set
from featurestore.jobs.models import Models, read_version, service_version_in
from featurestore.jobs.promotion_records import champion_of
from featurestore.lifecycle import gates as rules
from featurestore.lifecycle.gates import GateResult, Judged, missing
from featurestore.records import Edge, Record

if TYPE_CHECKING:
    from featurestore.jobs.evaluations import Evaluation
    from featurestore.jobs.materialize import Context
    from featurestore.jobs.training_sets import TrainingSet
    from featurestore.jobs.verify import VerifyReport
    from featurestore.lifecycle.models import ModelVersion

GATE_REPORT = "gate_report"
FAILED_SHOWN = 100

Verify = Callable[[str, int, int], "VerifyReport"]
"""`(service, samples, seed) → report` of both paths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What gates are run with; `context` and `verify` only where a gate needs them. With `trust`
    models that run code when loaded are loaded to make evaluations that are missing."""

    models: Models
    context: Callable[[], Context]
    verify: Verify
    trust: bool = False

    def trusting(self) -> Bench:
        """The same, which loads any model."""
        return replace(self, trust=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class GateReport:
    """The gates of one version in one environment, and the record that says so."""

    record: str
    model: str
    environment: str
    results: tuple[GateResult, ...]
    at_us: int

    @property
    def passed(self) -> bool:
        """Whether every gate holds."""
        return all(result.passed for result in self.results)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for `--json`."""
        return {
            "record": self.record,
            "model": self.model,
            "environment": self.environment,
            "passed": self.passed,
            "at_us": self.at_us,
            "results": [result.to_dict() for result in self.results],
        }


def run_gates(
    bench: Bench, gates: Gates | None, version: ModelVersion, environment: str
) -> GateReport:
    """Run the gates that are declared for a version (None: none are), and that of its feature
    service, and write the report down."""
    results = tuple(_Run(bench, version, environment).all(gates))
    registry, now_us = bench.models.registry, bench.models.clock.now_us()
    data = canonical_json([result.to_dict() for result in results]).encode()
    passed = all(result.passed for result in results)
    body = {
        "number": version.number,
        "environment": environment,
        "passed": passed,
        "failed": [one.name[:200] for one in results if not one.passed][:FAILED_SHOWN],
        "gates": None if gates is None else gates.fingerprint,
        "results": fingerprint_bytes(data),
        "at_us": now_us,
    }
    used = dict.fromkeys(_evaluations_in(results))
    parents = (
        Edge(parent=version.id, role="model"),
        *(Edge(parent=one, role="evaluation") for one in used),
    )
    record = Record(kind=GATE_REPORT, name=version.name, body=body, parents=parents)
    registry.commit(records=[record], blobs=[data], reason=f"gates of {version.ref}")
    return GateReport(
        record=record.id,
        model=version.ref,
        environment=environment,
        results=results,
        at_us=now_us,
    )


def read_report(bench_models: Models, record_id: str) -> GateReport:
    """A report by its record. Raises `RecordNotFound`."""
    stored = bench_models.registry.record(record_id)
    body = stored.record.body
    found = json.loads(bench_models.registry.blob(body["results"]))
    return GateReport(
        record=stored.id,
        model=f"{stored.record.name}/{body['number']}",
        environment=body["environment"],
        results=tuple(GateResult(**one) for one in found),
        at_us=int(body["at_us"]),
    )


def _evaluations_in(results: tuple[GateResult, ...]) -> Iterator[str]:
    for result in results:
        for name in ("evaluation", "champion_evaluation"):
            if name in result.evidence:
                yield str(result.evidence[name])


class _Run:
    """One version's gates."""

    def __init__(self, bench: Bench, version: ModelVersion, environment: str) -> None:
        self._bench, self._version, self._environment = bench, version, environment
        self._registry = bench.models.registry

    def all(self, gates: Gates | None) -> Iterator[GateResult]:
        yield from self._service()
        if gates is None:
            return
        if gates.judges:
            try:
                yield from list(self._predictions(gates))
            except FeatureStoreError as error:
                yield missing("evaluation", "evaluation", str(error))
        if gates.size_bytes_max is not None:
            yield rules.size_gate(gates.size_bytes_max, self._version.artifact.size)
        for contract in gates.all_contracts:
            yield from self._contract(contract)
        if gates.skew_rate_min is not None:
            yield self._skew(gates.skew_rate_min, gates)

    def _service(self) -> Iterator[GateResult]:
        """The environment has the service in the version that the model was made with."""
        service, pinned = self._version.service_name, self._version.service_version
        if service is None:
            return
        there = service_version_in(self._registry, self._environment, service)
        message = f"environment {self._environment!r} has no such service; featurestore apply"
        if there is not None:
            message = f"environment {self._environment!r} has version {short(there)}"
            message += "" if there == pinned else f", the model was made with {short(str(pinned))}"
        yield GateResult(
            name=f"service {service} as the model knows it",
            kind="signature",
            passed=there == pinned,
            message=message,
            evidence={"service": service, "pinned": pinned, "applied": there},
        )

    def _predictions(self, gates: Gates) -> Iterator[GateResult]:
        on, split = evaluations.place(str(gates.evaluate_on), self._bench.models.sets)
        evaluation = self._evaluation(self._version, gates, on.id, split)
        if evaluation is None:
            yield missing(
                "evaluation",
                "evaluation",
                f"{self._version.ref} was not evaluated on {gates.evaluate_on}; run: featurestore "
                f"models evaluate {self._version.ref} --on {gates.evaluate_on} --trust",
            )
            return
        slices = self._slices(gates, on, split, evaluation.label)
        predicted = evaluations.judged(self._bench.models.artifacts, evaluation, slices)
        for metric, bound in gates.minimum.items():
            yield rules.bound_gate(metric, bound, predicted, at_least=True)
        for metric, bound in gates.maximum.items():
            yield rules.bound_gate(metric, bound, predicted, at_least=False)
        if gates.no_worse:
            yield from self._champion(gates, predicted, on.id, split)
        for column, bounds in gates.slices.items():
            for metric, bound in bounds.items():
                yield rules.slice_gate(
                    column, metric, bound, predicted, rows_min=gates.slice_rows_min
                )
        if gates.latency_ms_max is not None:
            yield self._latency(gates.latency_ms_max, evaluation)

    def _evaluation(
        self, version: ModelVersion, gates: Gates, on: str, split: str | None
    ) -> Evaluation | None:
        found = evaluations.find(self._registry, version, on, split)
        if found is not None or not self._bench.trust:
            return found
        return evaluations.evaluate(
            self._bench.models,
            version.ref,
            on,
            split=split,
            metrics=gates.metrics,
            trust=True,
        )

    def _slices(
        self, gates: Gates, on: TrainingSet, split: str | None, label: str
    ) -> dict[str, np.ndarray[Any, Any]]:
        if not gates.slices:
            return {}
        table = on.to_arrow(split)
        _, labelled = evaluations.truth_of(table, label)
        known = table.filter(labelled)
        return {
            column: np.asarray([str(value) for value in known.column(column).to_pylist()])
            for column in gates.slices
            if column in known.column_names
        }

    def _champion(
        self, gates: Gates, predicted: Judged, on: str, split: str | None
    ) -> Iterator[GateResult]:
        target = champion_of(self._registry, self._version.name, self._environment)
        if target in (None, self._version.id):
            for metric, delta in gates.no_worse.items():
                yield GateResult(
                    name=f"{metric} no worse than the champion's by {delta:g}",
                    kind="champion",
                    passed=True,
                    message="there is no champion yet",
                )
            return
        champion = read_version(self._registry, str(target))
        evaluation = self._evaluation(champion, gates, on, split)
        before = None
        if evaluation is not None:
            before = evaluations.judged(self._bench.models.artifacts, evaluation)
        for metric, delta in gates.no_worse.items():
            if before is None or not np.array_equal(before.truth, predicted.truth):
                yield missing(
                    f"{metric} no worse than the champion's by {delta:g}",
                    "champion",
                    f"the champion {champion.ref} was not evaluated on the same rows; run: "
                    f"featurestore models evaluate {champion.ref} --on {gates.evaluate_on} --trust",
                )
            else:
                yield rules.champion_gate(metric, delta, predicted, before, gates)

    def _latency(self, limit_ms: float, evaluation: Evaluation) -> GateResult:
        if not evaluation.latency:
            return missing(
                f"latency p99 ≤ {limit_ms:g} ms",
                "latency",
                "the evaluation was made of given scores and has no latency; evaluate the model",
            )
        return rules.latency_gate(limit_ms, evaluation.latency, evaluation.id)

    def _contract(self, contract: DataContract) -> Iterator[GateResult]:
        context, where = self._bench.context(), contract.of or "training set"
        try:
            if contract.of is not None:
                facts = data_facts.source_facts(contract, context)
            elif self._version.training_set is None:
                yield missing(f"{where}: contract", "contract", "the model has no training set")
                return
            else:
                rows = open_set(self._version.training_set, self._bench.models.sets)
                facts = data_facts.table_facts(contract, context, rows)
        except FeatureStoreError as error:
            yield missing(f"{where}: contract", "contract", str(error))
            return
        yield from rules.contract_gates(contract, facts, now_us=self._bench.models.clock.now_us())

    def _skew(self, limit: float, gates: Gates) -> GateResult:
        name = f"online and offline agree on at least {limit:.6g}"
        service = self._version.service_name
        if service is None:
            return missing(name, "skew", "the model has no feature service")
        try:
            report = self._bench.verify(service, gates.skew_samples, gates.seed)
        except FeatureStoreError as error:
            return missing(name, "skew", str(error))
        causes: Mapping[str, None] = dict.fromkeys(d.cause for d in report.differences)
        notes = [view.note for view in report.views if view.note]
        return rules.skew_gate(
            limit, equal=report.equal, values=report.values, causes=[*causes, *notes][:20]
        )
