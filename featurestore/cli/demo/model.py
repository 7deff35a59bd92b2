"""The demo's learners: will the flight be late? Pipelines of scikit-learn that take the features of
the service by their names, and use those that are numbers or bools.

A pipeline holds nothing of ours, so whoever has scikit-learn can load it. Missing values stay
missing for the trees and become the mean for the line. All of it runs on one thread: scikit-learn's
threads wait for one another thousands of times, which on a busy machine takes ten times as long as
doing without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    import pyarrow as pa

LABEL = "late"
LINE, TREES = "logistic regression", "gradient boosting"
PARAMS: dict[str, dict[str, Any]] = {
    LINE: {"C": 1.0, "max_iter": 300},
    TREES: {
        "max_iter": 150,
        "learning_rate": 0.05,
        "max_features": 0.2,
        "min_samples_leaf": 200,
        "max_leaf_nodes": 15,
    },
}
"""Each learner with its parameters, in the order in which they are tried."""


def train(learner: str, table: pa.Table, features: Sequence[str]) -> Any:
    """A fitted pipeline: the learner `LINE` or `TREES` on the columns `features` of `table`."""
    from sklearn.pipeline import Pipeline
    from threadpoolctl import threadpool_limits

    pipeline = Pipeline([("numbers", _numbers(table, features)), *_steps(learner)])
    with threadpool_limits(1):
        return pipeline.fit(_frame(table, features), _labels(table))


def _numbers(table: pa.Table, features: Sequence[str]) -> Any:
    """Takes the columns that are numbers or bools, and makes floats of them."""
    import numpy as np
    from sklearn.compose import ColumnTransformer
    from sklearn.preprocessing import FunctionTransformer

    floats = FunctionTransformer(np.asarray, kw_args={"dtype": np.float64})
    return ColumnTransformer([("floats", floats, [n for n in features if _is_number(table, n)])])


def _is_number(table: pa.Table, name: str) -> bool:
    from pyarrow import types

    dtype = table.schema.field(name).type
    return bool(types.is_integer(dtype) or types.is_floating(dtype) or types.is_boolean(dtype))


def _steps(learner: str) -> list[tuple[str, Any]]:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    params = PARAMS[learner]
    if learner == TREES:
        return [("learner", HistGradientBoostingClassifier(**params, random_state=0))]
    line = LogisticRegression(**params)
    return [("fill", SimpleImputer()), ("scale", StandardScaler()), ("learner", line)]


def probabilities(model: Any, table: pa.Table) -> np.ndarray[Any, Any]:
    """The probability of being late, per row of `table`."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        found: np.ndarray[Any, Any] = model.predict_proba(_frame(table, model.feature_names_in_))
    return found[:, 1]


def auc(model: Any, table: pa.Table) -> float:
    """Area under the ROC curve: 0.5 is guessing, 1.0 knows everything."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(_labels(table), probabilities(model, table)))


def losses(model: Any, table: pa.Table) -> Iterator[float]:
    """The log loss on `table` after each tree; of a learner that has no steps, its only one."""
    from sklearn.metrics import log_loss
    from threadpoolctl import threadpool_limits

    learner = model[-1]
    if not hasattr(learner, "staged_predict_proba"):
        yield float(log_loss(_labels(table), probabilities(model, table)))
        return
    labels, rows = _labels(table), model[:-1].transform(_frame(table, model.feature_names_in_))
    with threadpool_limits(1):
        for said in learner.staged_predict_proba(rows):
            yield float(log_loss(labels, said[:, 1]))


def share_different(left: pa.Table, right: pa.Table, column: str) -> float:
    """The share of flights for which `column` has another value (or only one has any)."""
    tables = [table.sort_by("flight_id") for table in (left, right)]
    pairs = zip(*(table[column].to_pylist() for table in tables), strict=True)
    different: list[bool] = [one != other for one, other in pairs]
    return sum(different) / max(len(different), 1)


def _frame(table: pa.Table, columns: Sequence[str]) -> Any:
    return table.select(list(columns)).to_pandas()


def _labels(table: pa.Table) -> Any:
    return table[LABEL].to_numpy()
