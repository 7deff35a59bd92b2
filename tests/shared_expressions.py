"""Expressions computed by DuckDB in both ways that engine SQL has: each as one text, and all of
them over projections that hold what they share."""

from __future__ import annotations

from collections.abc import Mapping

import duckdb
import pyarrow as pa

from featurestore.definitions.expression import Expression
from featurestore.dtypes import DType
from featurestore.engines.sql import quote
from featurestore.engines.sql_expressions import expression_sql, shared_sql


def computed(
    relation: duckdb.DuckDBPyRelation,
    expressions: Mapping[str, Expression],
    schema: Mapping[str, DType],
) -> pa.Table:
    """The values, in which both ways agree to the bit."""
    alone = relation.project(
        ", ".join(f"{expression_sql(e, schema)} AS {quote(n)}" for n, e in expressions.items())
    )
    shared = shared_sql(expressions, schema)
    for layer in shared.layers:
        items = ", ".join(f"{text} AS {name}" for name, text in layer.items())
        relation = relation.project(f"*, {items}")
    together = relation.project(", ".join(f"{t} AS {quote(n)}" for n, t in shared.texts.items()))
    assert together.types == alone.types
    found = together.to_arrow_table()
    assert repr(found.to_pylist()) == repr(alone.to_arrow_table().to_pylist())
    return found
