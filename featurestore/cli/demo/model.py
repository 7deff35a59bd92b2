"""The demo's model: will the flight be late? Trained on a table of features, tested on the future.

Only numbers and bools of the table are used; missing values stay missing (the trees know them).
It trains on one thread: scikit-learn's threads wait for one another thousands of times, which on a
busy machine takes ten times as long as doing without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

LABEL = "late"
TRAINED_SHARE = 0.8
NOT_FEATURES = {"flight_id", LABEL}


@dataclass(frozen=True, slots=True)
class Model:
    """A fitted classifier and the columns that it takes, in order."""

    classifier: Any
    columns: tuple[str, ...]

    def probabilities(self, table: pa.Table) -> np.ndarray[Any, Any]:
        """The probability of being late, per row of `table`."""
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1):
            found: np.ndarray[Any, Any] = self.classifier.predict_proba(
                _matrix(table, self.columns)
            )
        return found[:, 1]


def split(table: pa.Table, *, time: str = "event_timestamp") -> tuple[pa.Table, pa.Table]:
    """The earlier `TRAINED_SHARE` of the rows and the rest: a model is tested on its future."""
    ordered = table.sort_by([(time, "ascending"), ("flight_id", "ascending")])
    cut = int(table.num_rows * TRAINED_SHARE)
    return ordered.slice(0, cut), ordered.slice(cut)


def train(table: pa.Table) -> Model:
    """Gradient-boosted trees on all numeric columns of `table` that are not the label."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    columns = tuple(name for name in table.column_names if _is_feature(table, name))
    classifier = HistGradientBoostingClassifier(max_iter=80, random_state=0)
    with threadpool_limits(1):
        classifier.fit(_matrix(table, columns), _labels(table))
    return Model(classifier, columns)


def auc(model: Model, table: pa.Table) -> float:
    """Area under the ROC curve: 0.5 is guessing, 1.0 knows everything."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(_labels(table), model.probabilities(table)))


def share_different(left: pa.Table, right: pa.Table, column: str) -> float:
    """The share of flights for which `column` has another value (or only one has any)."""
    tables = [table.sort_by("flight_id") for table in (left, right)]
    pairs = zip(*(table[column].to_pylist() for table in tables), strict=True)
    different: list[bool] = [one != other for one, other in pairs]
    return sum(different) / max(len(different), 1)


def _is_feature(table: pa.Table, name: str) -> bool:
    from pyarrow import types

    dtype = table.schema.field(name).type
    numeric = types.is_integer(dtype) or types.is_floating(dtype) or types.is_boolean(dtype)
    return numeric and name not in NOT_FEATURES


def _labels(table: pa.Table) -> Any:
    return table[LABEL].to_numpy()


def _matrix(table: pa.Table, columns: tuple[str, ...]) -> Any:
    import numpy as np
    import pyarrow as pa

    return np.column_stack(
        [table[name].cast(pa.float64()).to_numpy(zero_copy_only=False) for name in columns]
    )
