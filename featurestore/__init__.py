"""A feature store: one declarative definition, the same value in training and in serving.

Names are loaded when first used (PEP 562), so `import featurestore` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Aggregation": "featurestore.definitions.aggregation",
    "AsyncFeatureClient": "featurestore.client",
    "DataContract": "featurestore.definitions.gates",
    "Entity": "featurestore.definitions.entity",
    "Feature": "featurestore.definitions.view",
    "FeatureClient": "featurestore.client",
    "FeatureService": "featurestore.definitions.service",
    "FeatureStore": "featurestore.store",
    "FeatureStoreError": "featurestore.errors",
    "FeatureTest": "featurestore.definitions.feature_test",
    "FeatureView": "featurestore.definitions.view",
    "FileSource": "featurestore.definitions.source",
    "Gates": "featurestore.definitions.gates",
    "OnDemandFeatureView": "featurestore.definitions.on_demand",
    "RequestBatch": "featurestore.client",
    "RequestSource": "featurestore.definitions.on_demand",
    "SqlSource": "featurestore.definitions.source",
    "StreamSource": "featurestore.definitions.stream",
    "column_lineage": "featurestore.definitions.expression",
    "on_demand_feature_view": "featurestore.definitions.on_demand",
}

__all__ = [
    "Aggregation",
    "AsyncFeatureClient",
    "DataContract",
    "Entity",
    "Feature",
    "FeatureClient",
    "FeatureService",
    "FeatureStore",
    "FeatureStoreError",
    "FeatureTest",
    "FeatureView",
    "FileSource",
    "Gates",
    "OnDemandFeatureView",
    "RequestBatch",
    "RequestSource",
    "SqlSource",
    "StreamSource",
    "column_lineage",
    "on_demand_feature_view",
]

if TYPE_CHECKING:
    from featurestore.client import AsyncFeatureClient, FeatureClient, RequestBatch
    from featurestore.definitions.aggregation import Aggregation
    from featurestore.definitions.entity import Entity
    from featurestore.definitions.expression import column_lineage
    from featurestore.definitions.feature_test import FeatureTest
    from featurestore.definitions.gates import DataContract, Gates
    from featurestore.definitions.on_demand import (
        OnDemandFeatureView,
        RequestSource,
        on_demand_feature_view,
    )
    from featurestore.definitions.service import FeatureService
    from featurestore.definitions.source import FileSource, SqlSource
    from featurestore.definitions.stream import StreamSource
    from featurestore.definitions.view import Feature, FeatureView
    from featurestore.errors import FeatureStoreError
    from featurestore.store import FeatureStore


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'featurestore' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
