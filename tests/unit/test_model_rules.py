"""What a model version is: names, references, signatures, origins."""

from __future__ import annotations

from typing import Any

import pytest

from featurestore.errors import InvalidRequest, LimitExceeded
from featurestore.lifecycle.models import (
    Draft,
    ModelArtifact,
    ModelColumn,
    ModelRef,
    ModelVersion,
    Origin,
    Signature,
    check_metrics,
    check_model_name,
    check_text,
    fits,
    model_alias,
    newest_alias,
    parse_ref,
    signature_problems,
)
from featurestore.records import Edge, StoredRecord

HOSTILE = (
    "", " ", ".", "..", "../x", "a/b", "a/production", "a@b", "a:b", "a b", "a\nb", "a\0b", "é",
    "-x", "a" * 129, "x'; DROP TABLE record; --", "<script>", None, 7,
)  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names(name: Any) -> None:
    with pytest.raises(InvalidRequest, match="not a model's name"):
        check_model_name(name)


@pytest.mark.parametrize("name", ["delay", "Delay-2.1_b", "7", "a" * 128])
def test_names(name: str) -> None:
    assert check_model_name(name) == name


def test_aliases() -> None:
    assert newest_alias("delay") == "model/delay"
    assert model_alias("delay", "production") == "model/delay/production"
    assert model_alias("delay", "production", "dev") == "env/dev/model/delay/production"


@pytest.mark.parametrize(
    ("ref", "meant"),
    [
        ("delay", ModelRef("delay")),
        ("delay/latest", ModelRef("delay")),
        ("delay/3", ModelRef("delay", number=3)),
        ("delay/production", ModelRef("delay", stage="production")),
        ("delay/archived", ModelRef("delay", stage="archived")),
    ],
)
def test_references(ref: str, meant: ModelRef) -> None:
    assert parse_ref(ref) == meant


@pytest.mark.parametrize("ref", ["", "a/b/c", "/3", "delay/", "a@b", None, 3])
def test_what_is_no_reference(ref: Any) -> None:
    with pytest.raises(InvalidRequest):
        parse_ref(ref)


def test_an_unknown_stage_is_told_from_the_known_ones() -> None:
    with pytest.raises(InvalidRequest, match="Did you mean 'production'"):
        parse_ref("delay/prodution")
    with pytest.raises(InvalidRequest, match="a number, latest or a stage"):
        parse_ref("delay/development")


class TestSignature:
    given = Signature.of({"inputs": {"a": "int64", "b": "float64"}, "outputs": {"y": "float64"}})

    def test_it_comes_back_from_its_body(self) -> None:
        assert Signature.of(self.given.body()) == self.given
        assert Signature.of(self.given) is self.given
        assert Signature.of({"inputs": [("a", "int64")]}).outputs == ()

    @pytest.mark.parametrize(
        ("bad", "words"),
        [
            ("x", "a signature is"),
            ({"outputs": {}}, "a signature is"),
            ({"inputs": {"a": "int65"}}, "'a'"),
            ({"inputs": "abc"}, "names and types in order"),
            ({"inputs": 7}, "names and types in order"),
            ({"inputs": {"a": "int64"}, "results": {}}, "not results"),
            ({"inputs": [("a", "int64"), ("a", "int64")]}, "'a' stands there twice"),
            ({"inputs": {"a": "int64"}, "outputs": {"a": "int64"}}, "gives the answer away"),
        ],
    )
    def test_what_is_none(self, bad: Any, words: str) -> None:
        with pytest.raises(InvalidRequest, match=words):
            Signature.of(bad)

    def test_too_many_columns(self) -> None:
        with pytest.raises(LimitExceeded, match="COLUMNS_MAX"):
            Signature.of({"inputs": {f"c{n}": "int64" for n in range(10_001)}})


def columns(*pairs: tuple[str, str]) -> tuple[ModelColumn, ...]:
    return tuple(ModelColumn(*pair) for pair in pairs)


class TestFit:
    served = columns(("temp", "float64"), ("count", "int64"), ("rainy", "bool"))

    def problems(self, *inputs: tuple[str, str], outputs: Any = ()) -> tuple[str, ...]:
        signature = Signature(inputs=columns(*inputs), outputs=columns(*outputs))
        return signature_problems(signature, self.served, {"distance": "int32"})

    def test_a_model_that_fits(self) -> None:
        assert self.problems(("temp", "float64"), ("count", "int64"), ("rainy", "bool")) == ()

    def test_what_comes_with_the_request_stands_anywhere(self) -> None:
        assert (
            self.problems(
                ("distance", "float64"), ("temp", "float64"), ("count", "float64"),
                ("rainy", "int32"),
            )
            == ()
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("inputs", "words"),
        [
            ([("temp", "float64"), ("count", "int64")], "does not read 'rainy'"),
            (
                [("temp", "float64"), ("count", "int64"), ("rainy", "bool"), ("tmp", "float64")],
                "no feature 'tmp'. Did you mean 'temp'",
            ),
            (
                [("count", "int64"), ("temp", "float64"), ("rainy", "bool")],
                "from feature 1 on: the model reads 'count' where the service has 'temp'",
            ),
            (
                [("temp", "float32"), ("count", "int64"), ("rainy", "bool")],
                "'temp' is float64, the model reads float32",
            ),
            (
                [("temp", "string"), ("count", "int64"), ("rainy", "bool")],
                "'temp' is float64, the model reads string",
            ),
        ],
    )
    def test_what_does_not_fit(self, inputs: Any, words: str) -> None:
        found = self.problems(*inputs)
        assert len(found) == 1
        assert words in found[0]

    def test_a_leaked_answer(self) -> None:
        inputs = [("temp", "float64"), ("count", "int64")]
        found = self.problems(*inputs, outputs=[("rainy", "bool")])
        assert any("the answer has leaked" in problem for problem in found)

    @pytest.mark.parametrize(
        ("given", "wanted", "fine"),
        [
            ("int32", "int64", True),
            ("int64", "float64", True),
            ("bool", "float32", True),
            ("float64", "float32", False),
            ("int64", "int32", False),
            ("decimal(9,2)", "decimal(9,2)", True),
            ("decimal(9,2)", "float64", False),
            ("string", "string", True),
            ("int32", "list<int64>", False),
        ],
    )
    def test_types(self, given: str, wanted: str, fine: bool) -> None:
        assert fits(given, wanted) is fine


def test_a_version_is_its_record() -> None:
    origin = Origin(run="run:r@1", training_set="training_set:t@2", unpinned=("weather",))
    draft = Draft(
        name="delay",
        flavor="joblib",
        artifact=ModelArtifact(digest="ab", kind="file", size=3, file="m.joblib"),
        signature=Signature.of({"inputs": {"a": "int64"}}),
        metrics={"auc": 0.75},
        origin=origin,
    )
    record = draft.record(4)
    assert record.parents == (
        Edge(parent="run:r@1", role="run"),
        Edge(parent="training_set:t@2", role="training_set"),
    )
    stored = StoredRecord(id=record.id, record=record, created_at_us=5, author="ann")
    version = ModelVersion.of(stored, no_blob)
    assert (version.ref, version.author, version.metrics) == ("delay/4", "ann", {"auc": 0.75})
    assert version.missing == ("service", "pin of source weather")
    assert not version.lineage_complete
    assert version.service_name is None
    assert version.signature == draft.signature
    assert version.artifact == draft.artifact


def no_blob(digest: str) -> bytes:
    raise AssertionError(digest)


def test_a_long_signature_stands_beside_the_record() -> None:
    names = {f"a_feature_with_a_long_name_{n}": "float64" for n in range(2_000)}
    draft = Draft(
        name="wide",
        flavor="file",
        artifact=ModelArtifact(digest="ab", kind="file", size=3),
        signature=Signature.of({"inputs": names}),
        metrics={},
        origin=Origin(),
    )
    record, (blob,) = draft.record(1), draft.blobs
    stored = StoredRecord(id=record.id, record=record, created_at_us=5, author="ann")
    kept = {record.body["signature"]["blob"]: blob}
    assert ModelVersion.of(stored, kept.__getitem__).signature == draft.signature


def test_metrics_are_finite_numbers() -> None:
    assert check_metrics({"auc": 1}) == {"auc": 1.0}
    for bad in (float("nan"), float("inf"), "much", None):
        with pytest.raises(InvalidRequest, match="metric 'auc'"):
            check_metrics({"auc": bad})
    with pytest.raises(LimitExceeded, match="METRICS_MAX"):
        check_metrics({f"m{n}": n for n in range(501)})


def test_texts_have_a_limit() -> None:
    assert check_text("  why ", "reason") == "why"
    with pytest.raises(LimitExceeded, match="Shorten the reason"):
        check_text("x" * 2001, "reason")
