"""What a caller asks for, as uses of typed views, and how the output columns are named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from featurestore.compiler.program import input_problems, program_of
from featurestore.compiler.typed import (
    OnDemandUse,
    TypedFeature,
    TypedOnDemandView,
    TypedRepo,
    TypedView,
    Use,
    ViewUse,
)
from featurestore.definitions.on_demand import OnDemandFeatureView
from featurestore.definitions.service import FeatureService
from featurestore.definitions.view import FeatureSelection, FeatureView
from featurestore.errors import (
    InvalidJoinKey,
    InvalidRequest,
    NameClash,
    RequestError,
    UnknownFeature,
    UnknownService,
    UnknownView,
    suggest,
)

FeatureRef = str | FeatureView | OnDemandFeatureView | FeatureSelection
AnyView = TypedView | TypedOnDemandView
Features = FeatureRef | FeatureService | Sequence[FeatureRef]


def select(repo: TypedRepo, features: Features) -> tuple[Use, ...]:
    """The uses of views that `features` names: a service (by name or as object), a view, a
    selection, or a list of `"view:feature"`, `"view"`, views and selections.

    References to one view are one use, where the view is first named, with its features in the
    order named. Raises `UnknownService`, `UnknownView`, `UnknownFeature`, `InvalidJoinKey` (a join
    key map that does not fit; one column read as two types), `NameClash` (two uses of one name that
    differ) and `InvalidRequest` (nothing asked for, or something else than a reference).
    """
    if isinstance(features, str) and ":" not in features:
        return _service(repo, features)
    if isinstance(features, FeatureService):
        refs: Sequence[Any] = features.uses
    elif isinstance(features, Sequence) and not isinstance(features, str):
        refs = features
    else:
        refs = (features,)
    if not refs:
        raise InvalidRequest("no features are asked for; name a service or a list of features")
    uses: dict[str, Use] = {}
    for ref in refs:
        use = _use(repo, ref)
        uses[use.name] = _merge(uses[use.name], use) if use.name in uses else use
    for problem in input_problems(program_of(tuple(uses.values()))):
        raise problem
    return tuple(uses.values())


def output_names(
    uses: Iterable[Use], *, full_feature_names: bool, taken: Iterable[str] = ()
) -> dict[tuple[str, str], str]:
    """(use, feature) → output column, in output order: `feature`, or `use__feature` in full.

    `taken` are columns that the output has already. Raises `NameClash` where two columns would have
    one name; names that differ in case only clash too, because SQL does not tell them apart.
    """
    names = {
        (use.name, feature.name): f"{use.name}__{feature.name}"
        if full_feature_names
        else feature.name
        for use in uses
        for feature in use.features
    }
    seen = {name.casefold() for name in taken}
    clashes: dict[str, None] = {}
    for name in names.values():
        if name.casefold() in seen:
            clashes[name] = None
        seen.add(name.casefold())
    if clashes:
        hint = (
            'Rename those columns, or give the view another name with view.with_name("…").'
            if full_feature_names
            else "Ask with full_feature_names=True, which names them view__feature."
        )
        raise NameClash(list(clashes), hint=hint)
    return names


def use_of(view: AnyView, selection: FeatureSelection) -> Use:
    """The use that `selection` means. It must be free of `selection_problems`."""
    features = view.features
    if selection.features is not None:
        features = tuple(view.feature(name) for name in selection.features)
    if isinstance(view, TypedOnDemandView):
        return OnDemandUse(name=selection.name, view=view, features=features)
    return ViewUse(
        name=selection.name,
        view=view,
        features=features,
        join_key_map=dict(selection.join_key_map),
    )


def selection_problems(view: AnyView, selection: FeatureSelection) -> Iterator[RequestError]:
    """All features and join keys in `selection` that `view` does not have."""
    known = [feature.name for feature in view.features]
    for name in selection.features or ():
        if name not in known:
            yield UnknownFeature(name, view=view.name, known=known)
    keys = [key.name for key in view.keys] if isinstance(view, TypedView) else []
    for key in selection.join_key_map:
        if key not in keys:
            message = f"{view.name} has no such join key.{suggest(key, keys)}"
            yield InvalidJoinKey(key, message)


def _service(repo: TypedRepo, name: str) -> tuple[Use, ...]:
    if name not in repo.services:
        hint = (
            f'For the whole view {name!r} ask for ["{name}"].' if name in _all_views(repo) else ""
        )
        raise UnknownService(name, known=repo.services, hint=hint)
    return repo.services[name].uses


def _all_views(repo: TypedRepo) -> dict[str, AnyView]:
    return {**repo.views, **repo.on_demand}


def _use(repo: TypedRepo, ref: object) -> Use:
    views = _all_views(repo)
    if isinstance(ref, str):
        name, colon, feature = ref.partition(":")
        view = _view(views, name)
        if not colon:
            return named(view, view.features)
        known = {f.name: f for f in view.features}
        if feature not in known:
            raise UnknownFeature(feature, view=name, known=known)
        return named(view, (known[feature],))
    if isinstance(ref, FeatureView | OnDemandFeatureView):
        ref = FeatureSelection(ref)
    if not isinstance(ref, FeatureSelection):
        raise InvalidRequest(
            f"{ref!r} names no features; write a service's name, "
            '["view:feature", …], or views and view[[…]]'
        )
    view = _view(views, ref.view.name)
    for problem in selection_problems(view, ref):
        raise problem
    return use_of(view, ref)


def named(view: AnyView, features: tuple[TypedFeature, ...]) -> Use:
    """The use of `features` of a view under its own name."""
    if isinstance(view, TypedOnDemandView):
        return OnDemandUse(name=view.name, view=view, features=features)
    return ViewUse(name=view.name, view=view, features=features)


def _view(views: Mapping[str, AnyView], name: str) -> AnyView:
    if name not in views:
        raise UnknownView(name, known=views)
    return views[name]


def _merge(first: Use, second: Use) -> Use:
    if replace(first, features=()) != replace(second, features=()):
        raise NameClash([first.name], hint='Give one use another name with view.with_name("…").')
    merged = dict.fromkeys((*first.features, *second.features))
    return replace(first, features=tuple(merged))
