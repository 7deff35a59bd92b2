"""Parts of serving plans: what of the plan of all views a list of features needs, and two plans as
one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import assert_never

from featurestore.errors import UnknownFeature, UnknownView
from featurestore.wire.plans import (
    Lookup,
    OnDemand,
    Origin,
    Output,
    RequestInput,
    RequestKey,
    ServingPlan,
)


def cut(plan: ServingPlan, refs: Sequence[str]) -> ServingPlan:
    """The part of `plan` that `refs` name: `"view:feature"`, or `"view"` for all its features.

    Views stand in the order of their first mention, features in the order asked; a repetition
    changes nothing. Raises `UnknownView`, `UnknownFeature` (each with what there is).
    """
    uses = {use.name: use for use in plan.sent}
    wanted: dict[str, dict[int, None]] = {}
    for ref in refs:
        view, colon, feature = ref.partition(":")
        if view not in uses:
            raise UnknownView(
                view,
                known=uses,
                hint="A view is served when it is applied and materialized.",
            )
        known = _features_of(uses[view])
        if colon and feature not in known:
            raise UnknownFeature(feature, view=view, known=known)
        indices = [known[feature]] if colon else uses[view].selected
        wanted.setdefault(view, {}).update(dict.fromkeys(indices))
    part = _Part()
    chosen = [(uses[view], tuple(found)) for view, found in wanted.items()]
    needs = _needs(plan, [(use, found) for use, found in chosen if isinstance(use, OnDemand)])
    outputs = [part.sent(plan, use, found, needs) for use, found in chosen]
    return part.plan(plan, outputs)


def merged(plan: ServingPlan, other: ServingPlan) -> ServingPlan:
    """A plan that sends what both send, in name order; `plan` decides where both have one."""
    names = {use.name for use in plan.sent}
    chosen = [(use.name, plan, use) for use in plan.sent]
    chosen += [(use.name, other, use) for use in other.sent if use.name not in names]
    needs = {
        id(source): _needs(
            source,
            [
                (use, use.selected)
                for _, owner, use in chosen
                if owner is source and isinstance(use, OnDemand)
            ],
        )
        for source in (plan, other)
    }
    part = _Part()
    ordered = sorted(chosen, key=lambda one: one[0])
    outputs = [part.sent(owner, use, use.selected, needs[id(owner)]) for _, owner, use in ordered]
    return part.plan(plan, outputs)


def _features_of(use: Output) -> dict[str, int]:
    features = use.stored if isinstance(use, Lookup) else use.computed
    return {feature.name: index for index, feature in enumerate(features)}


Needs = dict[int, set[int]]
"""Of the on-demand views of a plan, by index, the features that something hangs on."""


def _needs(plan: ServingPlan, wanted: Sequence[tuple[OnDemand, tuple[int, ...]]]) -> Needs:
    found: Needs = {}

    def need(index: int, features: Iterable[int]) -> None:
        step, known = plan.on_demand[index], found.setdefault(index, set())
        new = set(features) - known
        known |= new
        for number in {argument for feature in new for argument in step.reads[feature]}:
            origin = step.origins[number]
            if origin.kind == "on_demand":
                need(origin.index, [origin.feature])

    for step, features in wanted:
        need(_index(plan, step), features)
    return found


def _index(plan: ServingPlan, step: OnDemand) -> int:
    return next(index for index, one in enumerate(plan.on_demand) if one is step)


@dataclass(slots=True)
class _Part:
    """A plan while it is put together of parts of others: what is there twice stands once."""

    keys: dict[RequestKey, int] = field(default_factory=dict)
    inputs: dict[RequestInput, int] = field(default_factory=dict)
    lookups: list[Lookup] = field(default_factory=list)
    steps: list[OnDemand] = field(default_factory=list)

    def sent(
        self, plan: ServingPlan, use: Output, selected: tuple[int, ...], needs: Needs
    ) -> tuple[bool, int]:
        """Take a part that is sent: whether it is an on-demand view, and its index."""
        if isinstance(use, Lookup):
            self.lookups.append(self._keyed(plan, replace(use, selected=selected)))
            return False, len(self.lookups) - 1
        index = self._step(plan, _index(plan, use), needs)
        if self.steps[index].selected:  # sent already, under another name
            self.steps.append(self.steps[index])
            index = len(self.steps) - 1
        self.steps[index] = replace(self.steps[index], name=use.name, selected=selected)
        return True, index

    def plan(self, like: ServingPlan, outputs: Sequence[tuple[bool, int]]) -> ServingPlan:
        """The plan, which sends `outputs`."""
        count = len(self.lookups)
        order = tuple(index + count if is_step else index for is_step, index in outputs)
        lookups = tuple(self.lookups if self.steps else (self.lookups[index] for index in order))
        return replace(
            like,
            request_keys=tuple(self.keys),
            request_inputs=tuple(self.inputs),
            lookups=lookups,
            on_demand=tuple(self.steps),
            outputs=order if self.steps else (),
        )

    def _keyed(self, plan: ServingPlan, use: Lookup) -> Lookup:
        wanted = (plan.request_keys[index] for index in use.keys)
        return replace(use, keys=tuple(self.keys.setdefault(k, len(self.keys)) for k in wanted))

    def _step(self, plan: ServingPlan, index: int, needs: Needs) -> int:
        """A view that is computed; of its arguments those from which something needed follows."""
        use = plan.on_demand[index]
        read = {argument for feature in needs[index] for argument in use.reads[feature]}
        origins = tuple(
            self._origin(plan, origin, needs) if number in read else Origin("nowhere")
            for number, origin in enumerate(use.origins)
        )
        step = replace(use, origins=origins, selected=())
        for number, one in enumerate(self.steps):
            if replace(one, name=step.name, selected=()) == step:
                return number
        self.steps.append(step)
        return len(self.steps) - 1

    def _origin(self, plan: ServingPlan, origin: Origin, needs: Needs) -> Origin:
        match origin.kind:
            case "request":
                found = plan.request_inputs[origin.index]
                return replace(origin, index=self.inputs.setdefault(found, len(self.inputs)))
            case "on_demand":
                return replace(origin, index=self._step(plan, origin.index, needs))
            case "lookup":
                return replace(origin, index=self._lookup(plan, plan.lookups[origin.index]))
            case "nowhere":
                return origin
            case _:
                assert_never(origin.kind)

    def _lookup(self, plan: ServingPlan, use: Lookup) -> int:
        """A lookup for its values: one that is there for whatever reason will do."""
        wanted = self._keyed(plan, replace(use, name="", selected=()))
        for index, one in enumerate(self.lookups):
            if replace(one, name="", selected=()) == wanted:
                return index
        self.lookups.append(replace(wanted, name=use.name))
        return len(self.lookups) - 1
