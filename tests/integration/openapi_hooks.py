"""What schemathesis calls while it makes requests (`SCHEMATHESIS_HOOKS`): half of the bodies name a
service that is there, so that they come past "there is no such service"."""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.hook
def map_body(_: schemathesis.HookContext, body: Any) -> Any:
    """The body, with a service, and with the key where there are entities."""
    if not isinstance(body, dict) or "feature_service" not in body:
        return body
    entities = body.get("entities")
    if isinstance(entities, list):
        entities = [
            {"id": next(iter(entity.values()), 7), **entity} if isinstance(entity, dict) else entity
            for entity in entities
        ]
    elif isinstance(entities, dict):
        entities = {"id": next(iter(entities.values()), [7]), **entities}
    return {**body, "feature_service": "m", "entities": entities}
