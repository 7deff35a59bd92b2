"""How models of MLflow are referred to: `mlflow:models:/delay@champion`, `mlflow:models:/delay/3`.

The first is an alias of ours, `mlflow/delay/champion`, as it stood when MLflow was last looked at;
the second the version of ours that was copied from it, which says so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from featurestore.errors import InvalidRequest

SCHEME = "mlflow:"
ALIASES = "mlflow/"
"""Before MLflow's aliases among ours: `mlflow/<model>/<alias>`."""
_REFERENCE = re.compile(r"mlflow:models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<number>\d+))")


@dataclass(frozen=True, slots=True)
class MlflowReference:
    """A model by its alias or by its number; one of them is None."""

    name: str
    alias: str | None
    number: str | None

    @classmethod
    def parse(cls, text: str) -> MlflowReference:
        """Raises `InvalidRequest`."""
        found = _REFERENCE.fullmatch(text)
        if found is None:
            raise InvalidRequest(
                f"{text[:120]!r} is no reference to a model of MLflow; write "
                "mlflow:models:/name@alias or mlflow:models:/name/3"
            )
        return cls(found["name"], found["alias"], found["number"])

    @property
    def our_alias(self) -> str:
        """`mlflow/delay/champion`."""
        return f"{ALIASES}{self.name}/{self.alias}"

    @property
    def origin(self) -> str:
        """What the copy of that number says in its description."""
        return origin(self.name, self.number or "")


def origin(name: str, number: str) -> str:
    """How a copy says what it is a copy of, in its description."""
    return f"{SCHEME}models:/{name}/{number}"
