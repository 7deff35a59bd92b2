"""What a loaded model says of rows, as one number for each: the probability of the positive class
of a two-class classifier, otherwise the prediction."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from featurestore.errors import InvalidRequest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd
    import pyarrow as pa

    from featurestore.lifecycle.models import ModelVersion

    Scores = npt.NDArray[np.float64]
    Predict = Callable[[pa.Table], Scores]

LATENCY_SAMPLES = 200


def predictor(version: ModelVersion, model: Any, features: Sequence[str]) -> Predict:
    """How to ask a loaded model: a function of a table that has at least its inputs.

    Without a signature the inputs are those that the model remembers, or `features`. Raises
    `InvalidRequest` for what can't predict.
    """
    names = list(features)
    if version.signature is not None:
        names = [column.name for column in version.signature.inputs]
    elif getattr(model, "feature_names_in_", None) is not None:
        names = [str(name) for name in model.feature_names_in_]
    ask = _asker(version, model)

    def predict(table: pa.Table) -> Scores:
        absent = [name for name in names if name not in table.column_names]
        if absent:
            raise InvalidRequest(f"{version.ref} reads {absent[0]!r}, which the rows do not have")
        return scores_of(ask(table.select(names)), table.num_rows, of=version.ref)

    return predict


def _asker(version: ModelVersion, model: Any) -> Callable[[pa.Table], Any]:
    ask: Callable[[pa.Table], Any] = model
    match version.flavor:
        case "joblib" | "skops":
            return _of_estimator(version, model)
        case "onnx":
            return lambda table: _of_onnx(model, table)
        case "callable":
            return ask
        case "mlflow":
            return lambda table: model.predict(frame(table))
        case "file" | "folder":
            raise InvalidRequest(
                f"{version.ref} is a {version.flavor}, which can't be asked; give its scores: "
                "models.evaluate(…, scores=…)"
            )


def _of_estimator(version: ModelVersion, model: Any) -> Callable[[pa.Table], Any]:
    if not hasattr(model, "predict"):
        raise InvalidRequest(f"{version.ref} is a {type(model).__name__}, which has no predict")
    with_names = getattr(model, "feature_names_in_", None) is not None
    classes = getattr(model, "classes_", ())
    ask = model.predict_proba if len(classes) == 2 and hasattr(model, "predict_proba") else None

    def of_table(table: pa.Table) -> Any:
        rows = frame(table) if with_names else matrix(table)
        return model.predict(rows) if ask is None else ask(rows)[:, 1]

    return of_table


def frame(table: pa.Table) -> pd.DataFrame:
    """The table for pandas; booleans with NULLs among them are floats with NaN, as integers are,
    for models know no other missing value."""
    import pyarrow as pa

    for place, field in enumerate(table.schema):
        if pa.types.is_boolean(field.type) and table.column(place).null_count:
            numbers = table.column(place).cast(pa.int8())
            table = table.set_column(place, field.name, numbers)
    found: pd.DataFrame = table.to_pandas()
    return found


def matrix(table: pa.Table) -> Scores:
    """The columns as floats side by side; NULL is NaN."""
    import numpy as np

    columns = [column.to_numpy(zero_copy_only=False) for column in table.columns]
    return np.column_stack([np.asarray(column, dtype=np.float64) for column in columns])


def _of_onnx(session: Any, table: pa.Table) -> Any:
    """The last output; of probabilities by class those of the last class. A model with one input
    gets the columns as a matrix, one with more each by its name."""
    types = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(int64)": "int64"}
    inputs = session.get_inputs()
    if len(inputs) == 1:
        feed = {inputs[0].name: matrix(table).astype(types.get(inputs[0].type, "float32"))}
    else:
        feed = {
            one.name: matrix(table.select([one.name])).astype(types.get(one.type, "float32"))
            for one in inputs
        }
    answer = session.run(None, feed)[-1]
    if isinstance(answer, list):  # a map from class to probability for each row
        return [list(row.values())[-1] for row in answer]
    return answer[:, -1] if answer.ndim == 2 else answer


def scores_of(answer: Any, rows: int, *, of: str) -> Scores:
    """An answer as one float for each row. Raises `InvalidRequest`."""
    import numpy as np

    try:
        scores = np.asarray(answer, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"{of} does not answer with numbers: {error}") from error
    if len(scores) != rows:
        raise InvalidRequest(f"{of} gave {len(scores):,} answers for {rows:,} rows")
    if not np.isfinite(scores).all():
        raise InvalidRequest(f"{of} answers {int((~np.isfinite(scores)).sum()):,} rows with NaN")
    return scores


def latency(predict: Predict, table: pa.Table) -> dict[str, float]:
    """How long single predictions take: `p50_ms`, `p99_ms` over up to `LATENCY_SAMPLES` rows."""
    import numpy as np

    count = min(table.num_rows, LATENCY_SAMPLES)
    if not count:
        return {}
    predict(table.slice(0, 1))  # what is done once is not counted
    took = []
    for row in range(count):
        one = table.slice(row, 1)
        began = time.perf_counter_ns()
        predict(one)
        took.append((time.perf_counter_ns() - began) / 1e6)
    p50, p99 = np.percentile(took, [50, 99])
    return {"p50_ms": round(float(p50), 6), "p99_ms": round(float(p99), 6), "samples": count}
