"""What a caller asks for, as uses of typed views, and how the output columns are named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from featurestore.compiler.typed import TypedRepo, TypedView, ViewUse
from featurestore.definitions.service import FeatureService
from featurestore.definitions.view import FeatureSelection, FeatureView
from featurestore.dtypes import DType
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

FeatureRef = str | FeatureView | FeatureSelection
Features = FeatureRef | FeatureService | Sequence[FeatureRef]


def select(repo: TypedRepo, features: Features) -> tuple[ViewUse, ...]:
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
    uses: dict[str, ViewUse] = {}
    for ref in refs:
        use = _use(repo, ref)
        uses[use.name] = _merge(uses[use.name], use) if use.name in uses else use
    for problem in key_problems(tuple(uses.values())):
        raise problem
    return tuple(uses.values())


def output_names(
    uses: Iterable[ViewUse], *, full_feature_names: bool, taken: Iterable[str] = ()
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


def use_of(view: TypedView, selection: FeatureSelection) -> ViewUse:
    """The use that `selection` means. It must be free of `selection_problems`."""
    features = view.features
    if selection.features is not None:
        features = tuple(view.feature(name) for name in selection.features)
    return ViewUse(
        name=selection.name,
        view=view,
        features=features,
        join_key_map=dict(selection.join_key_map),
    )


def selection_problems(view: TypedView, selection: FeatureSelection) -> Iterator[RequestError]:
    """All features and join keys in `selection` that `view` does not have."""
    known = [feature.name for feature in view.features]
    for name in selection.features or ():
        if name not in known:
            yield UnknownFeature(name, view=view.name, known=known)
    keys = [key.name for key in view.keys]
    for key in selection.join_key_map:
        if key not in keys:
            message = f"{view.name} has no such join key.{suggest(key, keys)}"
            yield InvalidJoinKey(key, message)


def key_problems(uses: Iterable[ViewUse]) -> Iterator[RequestError]:
    """The columns of the caller that two uses read as keys of different types."""
    seen: dict[str, tuple[str, DType]] = {}
    for use in uses:
        for column, key in zip(use.key_columns, use.view.keys, strict=True):
            other, dtype = seen.setdefault(column, (use.name, key.dtype))
            if dtype != key.dtype:
                yield InvalidJoinKey(
                    column, f"{other} reads it as {dtype} and {use.name} as {key.dtype}"
                )


def _service(repo: TypedRepo, name: str) -> tuple[ViewUse, ...]:
    if name not in repo.services:
        hint = f'For the whole view {name!r} ask for ["{name}"].' if name in repo.views else ""
        raise UnknownService(name, known=repo.services, hint=hint)
    return repo.services[name].uses


def _use(repo: TypedRepo, ref: object) -> ViewUse:
    if isinstance(ref, str):
        name, colon, feature = ref.partition(":")
        view = _view(repo.views, name)
        if not colon:
            return ViewUse(name=name, view=view, features=view.features)
        known = {f.name: f for f in view.features}
        if feature not in known:
            raise UnknownFeature(feature, view=name, known=known)
        return ViewUse(name=name, view=view, features=(known[feature],))
    if isinstance(ref, FeatureView):
        ref = FeatureSelection(ref)
    if not isinstance(ref, FeatureSelection):
        raise InvalidRequest(
            f"{ref!r} names no features; write a service's name, "
            '["view:feature", …], or views and view[[…]]'
        )
    view = _view(repo.views, ref.view.name)
    for problem in selection_problems(view, ref):
        raise problem
    return use_of(view, ref)


def _view(views: Mapping[str, TypedView], name: str) -> TypedView:
    if name not in views:
        raise UnknownView(name, known=views)
    return views[name]


def _merge(first: ViewUse, second: ViewUse) -> ViewUse:
    if first.view.name != second.view.name or first.join_key_map != second.join_key_map:
        raise NameClash([first.name], hint='Give one use another name with view.with_name("…").')
    merged = dict.fromkeys((*first.features, *second.features))
    return replace(first, features=tuple(merged))
