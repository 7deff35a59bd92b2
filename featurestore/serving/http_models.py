"""What the HTTP door takes and gives, as OpenAPI describes it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

_TEXT, _TEXTS, _NULL = {"type": "string"}, {"type": "array", "minItems": 1}, {"type": "null"}
_ONE_OF_TWO = [
    {"required": [one], "properties": {one: kind, other: _NULL}}
    for one, kind, other in (
        ("feature_service", _TEXT, "features"),
        ("features", _TEXTS, "feature_service"),
    )
]


class OnlineFeaturesRequest(BaseModel):
    """Exactly one of `feature_service` and `features`."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"oneOf": cast(Any, _ONE_OF_TWO)}
    )

    feature_service: Annotated[str | None, Field(description="name or name@version")] = None
    features: Annotated[list[str] | None, Field(description='"view:feature" or "view"')] = None
    entities: Annotated[
        list[dict[str, Any]] | dict[str, list[Any]],
        Field(description="one object per entity, or one list per join key"),
    ]
    request: Annotated[
        list[dict[str, Any]] | dict[str, list[Any]] | None,
        Field(
            description="what on-demand views read of the request: one object per entity, or one "
            "list per input"
        ),
    ] = None
    full_feature_names: bool = False


class FeatureValues(BaseModel):
    """One feature: a value and a status per entity."""

    values: list[Any]
    statuses: list[str]


class OnlineFeaturesResponse(BaseModel):
    """Columns in the order of the entities asked for."""

    plan_version: str
    request_time: str
    entities: dict[str, list[Any]]
    features: dict[str, FeatureValues]
    event_times: dict[str, list[str | None]]


class PushRequest(BaseModel):
    """Rows of one source."""

    model_config = ConfigDict(extra="forbid", strict=True)

    source: str
    rows: Annotated[
        list[dict[str, Any]] | dict[str, list[Any]],
        Field(description="one object per row, or one list per column"),
    ]


class DeadRow(BaseModel):
    """A row that was not taken: its place in the push, and why."""

    row: int
    reason: str
    message: str


class PushResponse(BaseModel):
    """What became of a push: rows that can be read now, and rows in the dead letters (the first 100
    are named). `waiting_views` are views over SQL sources: they have the rows after the next
    materialization."""

    source: str
    rows: int
    dead_count: int
    dead: list[DeadRow]
    waiting_views: list[str]


class Problem(BaseModel):
    """Any error: a stable code, what to tell a person, and typed details."""

    code: str
    message: str
    details: dict[str, Any]


class Liveness(BaseModel):
    """That the process answers."""

    status: Literal["ok"]


class ReadinessAnswer(BaseModel):
    """Whether requests should be sent here, and why not."""

    ready: bool
    reason: str


class ServiceDescription(BaseModel):
    """A feature service that is served; `keys` and `request_inputs` are name → type."""

    name: str
    version: str
    plan_version: str
    keys: dict[str, str]
    request_inputs: dict[str, str]
    features: list[str]


class ServicesResponse(BaseModel):
    """What is served, and the limits of a request."""

    project: str
    environment: str
    server_version: str
    services: list[ServiceDescription]
    limits: dict[str, int]
