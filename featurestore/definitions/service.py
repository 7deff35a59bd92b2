"""Feature services: the features that one model reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar

from featurestore.definitions.names import (
    Definition,
    check_mapping,
    check_name,
    check_texts,
    locate,
    report,
    set_field,
)
from featurestore.definitions.on_demand import OnDemandFeatureView
from featurestore.definitions.view import FeatureSelection, FeatureView
from featurestore.errors import DuplicateName, TypeMismatch

AnyUse = FeatureView | OnDemandFeatureView | FeatureSelection


@dataclass(frozen=True, slots=True)
class FeatureService(Definition):
    """The features that one model reads: views, and selections of them.

    A view that is used twice needs an alias: `view.with_name("other")`.

    Raises `InvalidName`, `DuplicateName`, `TypeMismatch` and plain `DefinitionError`; while a
    repository is loaded these are gathered.
    """

    kind: ClassVar[str] = "feature service"

    name: str
    features: AnyUse | Sequence[AnyUse] = ()
    _: KW_ONLY
    description: str = ""
    owner: str = ""
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        locate(self)
        check_name(self, self.name)
        check_texts(self, "description", "owner")
        check_mapping(self, "tags")
        set_field(self, "features", _selections(self))

    @property
    def uses(self) -> tuple[FeatureSelection, ...]:
        """The features as selections, in the order declared."""
        features: Any = self.features
        return tuple(features)


def _selections(service: FeatureService) -> tuple[FeatureSelection, ...]:
    given: Any = service.features
    listed = isinstance(given, Sequence) and not isinstance(given, str)
    uses: list[FeatureSelection] = []
    for use in given if listed else (given,):
        if isinstance(use, FeatureView | OnDemandFeatureView):
            uses.append(_whole(service, use))
        elif isinstance(use, FeatureSelection):
            uses.append(use)
        else:
            report(service, f"features must be views or view[[…]], not {use!r}", TypeMismatch)
    if not uses and service.valid:
        report(service, "features is empty; name the views that the model reads")
    names = [use.name for use in uses]
    for name in sorted({str(n) for n in names if names.count(n) > 1}):
        hint = 'give one another name with view.with_name("…")'
        report(service, f"two uses are named {name!r}; {hint}", DuplicateName)
    return tuple(uses)


def _whole(service: FeatureService, view: FeatureView | OnDemandFeatureView) -> FeatureSelection:
    selection = FeatureSelection(view)
    set_field(selection, "file", service.file)
    set_field(selection, "line", service.line)
    return selection
