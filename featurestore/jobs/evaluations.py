"""Evaluations: what a version said of the rows of a training set, kept row by row, so that two
versions can be compared on the very same rows."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from featurestore.errors import CommitConflict, InvalidRequest, LimitExceeded
from featurestore.jobs import access, model_flavors
from featurestore.jobs.model_origin import open_set
from featurestore.jobs.model_predictions import latency, predictor, scores_of
from featurestore.jobs.models import Models, get
from featurestore.jobs.training_sets import TrainingSet
from featurestore.lifecycle.gates import Judged
from featurestore.lifecycle.metrics import measure, metric_of
from featurestore.lifecycle.models import ModelVersion, parents_by_role
from featurestore.records import AliasIs, Edge, Record, StoredRecord

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from featurestore.jobs.model_predictions import Scores
    from featurestore.jobs.training_sets import SetStore
    from featurestore.stores.offline.artifacts import ArtifactStore
    from featurestore.stores.registry.base import Registry

EVALUATION = "evaluation"
EVALUATION_ROWS_MAX = 1_000_000
ATTEMPTS_MAX = 64
CLASS_METRICS = ("auc", "accuracy", "log_loss", "brier")
NUMBER_METRICS = ("mae", "rmse", "r2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What one version was worth on the rows of one training set (of a split of it).

    `predictions` is the digest of a Parquet artifact with the columns `truth` and `score`.
    `latency` may be empty. Instants are µs, UTC.
    """

    id: str
    model: str
    model_id: str
    on: str
    split: str | None
    label: str
    rows: int
    rows_without_label: int
    metrics: Mapping[str, float]
    predictions: str
    latency: Mapping[str, float] = field(default_factory=dict)
    created_at_us: int = 0
    author: str = ""

    @classmethod
    def of(cls, stored: StoredRecord) -> Evaluation:
        """From its record."""
        body, parents = stored.record.body, parents_by_role(stored.record)
        return cls(
            id=stored.id,
            model=f"{stored.record.name}/{body['number']}",
            model_id=parents["model"],
            on=parents["training_set"],
            split=body["split"],
            label=body["label"],
            rows=int(body["rows"]),
            rows_without_label=int(body["rows_without_label"]),
            metrics=dict(body["metrics"]),
            predictions=body["predictions"],
            latency=dict(body["latency"]),
            created_at_us=stored.created_at_us,
            author=stored.author,
        )


def place(on: str | TrainingSet, sets: SetStore) -> tuple[TrainingSet, str | None]:
    """The training set that is meant, and the split: `flights`, `flights/test`, an id, or a
    training set itself."""
    if isinstance(on, TrainingSet):
        return on, None
    if "@" in on:
        return open_set(on, sets), None
    name, _, split = on.partition("/")
    return open_set(name, sets), split or None


def evaluate(
    models: Models,
    ref: str,
    on: str | TrainingSet,
    *,
    split: str | None = None,
    label: str | None = None,
    metrics: Iterable[str] = (),
    scores: Any = None,
    trust: bool = False,
) -> Evaluation:
    """Ask a version about the rows of a training set and write down what it says and is worth.

    Rows without a label are left out. `scores` are predictions that were made elsewhere, one for
    each row. Raises `InvalidRequest`, `LimitExceeded`, and what loading the model does.
    """
    version = get(models.registry, ref, environment=models.environment)
    access.authorize(models.asker(), "track", version.name, detail=f"evaluate {version.ref}")
    for name in metrics:
        metric_of(name)
    rows, of_name = place(on, models.sets)
    split = split if split is not None else of_name
    wanted = label or rows.label
    if not wanted:
        raise InvalidRequest("the training set has no label; name the column: label=")
    table = rows.to_arrow(split)
    if table.num_rows > EVALUATION_ROWS_MAX:
        raise LimitExceeded(
            "EVALUATION_ROWS_MAX", asked=table.num_rows, allowed=EVALUATION_ROWS_MAX,
            hint="Evaluate on a split of it.",
        )  # fmt: skip
    truth, labelled = truth_of(table, str(wanted))
    known = table.filter(labelled)
    if not known.num_rows:
        raise InvalidRequest(f"no row of {rows.id} has a label {wanted!r}")
    if scores is None:
        model = model_flavors.load(version, models.artifacts, trust=trust)
        predict = predictor(version, model, rows.features)
        said, took = predict(known), latency(predict, known)
    else:
        every = scores_of(scores, table.num_rows, of="scores")
        said, took = every[labelled.to_numpy(zero_copy_only=False)], {}
    measured = {name: measure(name, truth, said) for name in _names(truth, metrics)}
    body = {
        "number": version.number,
        "split": split,
        "label": wanted,
        "rows": len(truth),
        "rows_without_label": table.num_rows - len(truth),
        "metrics": {name: value for name, value in measured.items() if value == value},  # noqa: PLR0124
        "predictions": models.artifacts.put_bytes(_to_parquet(truth, said)).digest,
        "latency": took,
    }
    parents = (Edge(parent=version.id, role="model"), Edge(parent=rows.id, role="training_set"))
    record = Record(kind=EVALUATION, name=version.name, body=body, parents=parents)
    return _commit(models, record, f"evaluate {version.ref}")


def _names(truth: Scores, asked: Iterable[str]) -> list[str]:
    is_classes = bool(((truth == 0) | (truth == 1)).all())
    return sorted({*(CLASS_METRICS if is_classes else NUMBER_METRICS), *asked})


def _commit(models: Models, record: Record, reason: str) -> Evaluation:
    alias = f"{EVALUATION}/{record.name}"
    for attempt in range(ATTEMPTS_MAX):
        newest = models.registry.aliases(alias).get(alias)
        try:
            models.registry.commit(
                requires=[AliasIs(alias, None if newest is None else newest.target)],
                records=[record],
                aliases={alias: record.id},
                reason=reason,
            )
            break
        except CommitConflict:
            if attempt == ATTEMPTS_MAX - 1:
                raise
    return Evaluation.of(models.registry.record(record.id))


def truth_of(table: pa.Table, label: str) -> tuple[Scores, pa.ChunkedArray]:
    """The labels as floats, where there are any, and which rows have one. Raises
    `InvalidRequest`."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import compute

    if label not in table.column_names:
        raise InvalidRequest(f"the training set has no column {label!r}; name another: label=")
    column = table.column(label)
    kind = column.type
    if not (
        pa.types.is_boolean(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
    ):
        raise InvalidRequest(f"label {label!r} is {kind}; a model is judged by numbers or booleans")
    values = column.cast(pa.float64()) if not pa.types.is_boolean(kind) else column
    labelled = compute.is_valid(values)
    found = np.asarray(values.filter(labelled).to_numpy(), dtype=np.float64)
    return found, labelled


def _to_parquet(truth: Scores, score: Scores) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    buffer = io.BytesIO()
    parquet.write_table(pa.table({"truth": truth, "score": score}), buffer)
    return buffer.getvalue()


def find(
    registry: Registry, version: ModelVersion, on: str, split: str | None
) -> Evaluation | None:
    """The newest evaluation of a version on exactly that training set and split."""
    found = [
        evaluation
        for evaluation in list_evaluations(registry, version.name)
        if (evaluation.model_id, evaluation.on, evaluation.split) == (version.id, on, split)
    ]
    return found[-1] if found else None


def list_evaluations(registry: Registry, name: str) -> tuple[Evaluation, ...]:
    """All evaluations of a model's versions, oldest first."""
    return tuple(Evaluation.of(one) for one in registry.records(kind=EVALUATION, name=name))


def judged(
    artifacts: ArtifactStore,
    evaluation: Evaluation,
    slices: Mapping[str, np.ndarray[Any, Any]] | None = None,
) -> Judged:
    """The predictions of an evaluation, checked. Raises `SnapshotMissing`, `CorruptRow`."""
    from pyarrow import parquet

    table = parquet.read_table(io.BytesIO(artifacts.read(evaluation.predictions)))
    return Judged(
        evaluation=evaluation.id,
        truth=table.column("truth").to_numpy(),
        score=table.column("score").to_numpy(),
        slices=slices or {},
    )
