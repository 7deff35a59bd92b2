"""What we say in the tags of an MLflow run: nothing is cut, and what others wrote is survived."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.errors import InvalidRequest
from featurestore.jobs import mlflow_tags
from featurestore.jobs.mlflow_sync import experiment_name, typed
from featurestore.jobs.mlflow_tags import TAG_CHARS_MAX, tags_of, told_by
from featurestore.jobs.retrieved import Retrieved
from featurestore.lifecycle.mlflow_references import MlflowReference
from featurestore.stores.registry.run_words import check_experiment


def retrieval(number: int, features: int = 3, **more: object) -> Retrieved:
    names = tuple(f"view_{number}__a_feature_with_a_long_name_{i}_é" for i in range(features))
    return Retrieved(
        training_set=f"training_set:trips_{number}@{number:064x}", features=names, **more
    )  # type: ignore[arg-type]


def test_two_hundred_features_of_two_retrievals_survive() -> None:
    both = [retrieval(1, 200), retrieval(2, 200, service="delay_model")]
    tags = tags_of(both)
    assert max(map(len, tags.values())) <= TAG_CHARS_MAX
    told = told_by(tags)
    assert [one.features for one in told] == [one.features for one in both]
    assert [one.service for one in told] == [None, "delay_model"]
    assert tags["featurestore.training_set"].split() == [one.training_set for one in both]


def test_what_does_not_fit_is_told_by_its_hash() -> None:
    [told] = told_by(tags_of([retrieval(1, 10_000)]))
    assert told.features == ()
    assert told.features_digest == told_by(tags_of([retrieval(1, 10_000)]))[0].features_digest
    assert len(tags_of([retrieval(n, 500) for n in range(40)])) < 100


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(list(tags_of([retrieval(1), retrieval(2)]))),
        st.one_of(
            st.text('0{}[]",:. aé', max_size=20),
            st.just('{"parts": 1e9}'),
            st.just("[]"),
            st.just("9" * 5000),
        ),
    )
)
def test_tags_that_somebody_changed_do_no_harm(changed: dict[str, str]) -> None:
    for one in told_by(tags_of([retrieval(1), retrieval(2)]) | changed):
        assert isinstance(one.features, tuple)


def test_an_earlier_longer_list_leaves_no_trace() -> None:
    tags = tags_of([retrieval(1, 200)]) | tags_of([retrieval(2, 2)])
    assert told_by(tags)[0].features == retrieval(2, 2).features
    assert json.loads(tags["featurestore.retrieved.1"])["parts"] == 1


@settings(deadline=None)
@given(st.text("a/@ \n\té#.", max_size=400))
def test_any_name_becomes_one_of_an_experiment(name: str) -> None:
    assert check_experiment(experiment_name(name))


def test_names_and_parameters_of_mlflow() -> None:
    assert experiment_name("/Users/ann@x.org/delay") == "Users/ann(at)x.org/delay"
    assert experiment_name("") == "mlflow"
    texts = ("6", "0.1", "True", "None", "1e3", "06", "inf", "9" * 5000, "x")
    assert [typed(text) for text in texts] == [
        6, 0.1, True, "None", "1e3", "06", float("inf"), "9" * 5000, "x",
    ]  # fmt: skip


def test_references() -> None:
    found = MlflowReference.parse("mlflow:models:/delay@champion")
    assert (found.name, found.alias, found.number) == ("delay", "champion", None)
    assert found.our_alias == "mlflow/delay/champion"
    numbered = MlflowReference.parse("mlflow:models:/delay/3")
    assert (numbered.number, numbered.origin) == ("3", "mlflow:models:/delay/3")
    for text in ("mlflow:models:/delay", "models:/delay@x", "mlflow:models:/a/b/3", "mlflow:"):
        with pytest.raises(InvalidRequest, match=r"mlflow:models:/name@alias"):
            MlflowReference.parse(text)


assert mlflow_tags.PARTS_MAX + mlflow_tags.RETRIEVALS_TAGGED_MAX + 2 < 100
