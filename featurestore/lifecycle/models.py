"""What a model version is: its record, its signature, its stages and how it is referred to.

model/<name>                       the newest version, which has the next number
model/<name>/<stage>               the version in that stage of environment prod
env/<environment>/model/<name>/…   the same of another environment
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from featurestore import dtypes
from featurestore.dtypes import Kind
from featurestore.errors import InvalidRequest, LimitExceeded, suggest
from featurestore.fingerprint import canonical_json, fingerprint_bytes
from featurestore.records import Edge, Record, StoredRecord

Stage = Literal["development", "staging", "production", "archived"]
STAGES: tuple[Stage, ...] = get_args(Stage)
Target = Literal["staging", "production"]
TARGETS: tuple[Target, ...] = get_args(Target)
"""The stages that a promotion leads to. Every version begins in `development`; whoever is followed
in production is `archived`."""

Flavor = Literal["file", "folder", "joblib", "skops", "onnx", "mlflow", "callable"]
PROD = "prod"
MODEL = "model"
COLUMNS_MAX = 10_000
"""Inputs and outputs of a signature, each."""
SIGNATURE_BYTES_MAX = 16 * 1024
"""A signature that is longer stands in a blob beside the record."""
METRICS_MAX = 500
TEXT_CHARS_MAX = 2_000
"""Of a description or a reason."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}")
_REF = re.compile(r"(?P<name>[^/@]+)(/(?P<which>[^/@]+))?")


def check_model_name(name: Any) -> str:
    """`name`, if a model can have it. Raises `InvalidRequest`."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"{str(name)[:80]!r} is not a model's name: 1 to 128 letters, digits, _, - and ., "
            "beginning with a letter or digit"
        )
    return name


def check_text(text: str, what: str) -> str:
    """`text`, stripped. Raises `LimitExceeded` over `TEXT_CHARS_MAX`, `InvalidRequest` for what no
    database holds as text."""
    if len(text) > TEXT_CHARS_MAX:
        raise LimitExceeded(
            "TEXT_CHARS_MAX", asked=len(text), allowed=TEXT_CHARS_MAX, hint=f"Shorten the {what}."
        )
    if "\0" in text or not _is_unicode(text):
        raise InvalidRequest(f"the {what} holds NUL or half a surrogate pair, which is no text")
    return text.strip()


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_person(name: str) -> str:
    """The name by which somebody acts, stripped. Raises `InvalidRequest`, `LimitExceeded`."""
    given = check_text(name, "name")
    if not given or not given.isprintable():
        raise InvalidRequest(f"{name[:80]!r} names nobody; say who it is in printable characters")
    return given


def newest_alias(name: str) -> str:
    """`model/delay`: the version that was registered last."""
    return f"{MODEL}/{name}"


def model_alias(name: str, stage: str, environment: str = PROD) -> str:
    """`model/delay/production`, in other environments `env/staging/model/delay/production`."""
    alias = f"{MODEL}/{name}/{stage}"
    return alias if environment == PROD else f"env/{environment}/{alias}"


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A version by `number` or by the `stage` that it is in; neither: the newest."""

    name: str
    number: int | None = None
    stage: Stage | None = None


def parse_ref(ref: Any) -> ModelRef:
    """`delay`, `delay/latest`, `delay/3`, `delay/production`. Raises `InvalidRequest`."""
    parts = _REF.fullmatch(ref) if isinstance(ref, str) else None
    if parts is None:
        raise InvalidRequest(
            f"{str(ref)[:80]!r} is not a reference to a model; write delay (the newest), delay/3, "
            "delay/production or model:delay@1a2b3c4d"
        )
    name, which = check_model_name(parts["name"]), parts["which"]
    if which in (None, "latest"):
        return ModelRef(name)
    if which.isascii() and which.isdigit() and len(which) < 10:
        return ModelRef(name, number=int(which))
    for stage in STAGES[1:]:
        if which == stage:
            return ModelRef(name, stage=stage)
    raise InvalidRequest(
        f"{ref!r}: after the name stands a number, latest or a stage.{suggest(which, STAGES[1:])}"
    )


# --- signatures -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModelColumn:
    """A named, typed input or output."""

    name: str
    dtype: str

    def __post_init__(self) -> None:
        try:
            dtypes.parse(self.dtype)
        except ValueError as error:
            raise InvalidRequest(f"signature, {self.name!r}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What a model reads, in its order, and what it answers. Raises `InvalidRequest` for names that
    stand twice and for an output that is an input too, which means that the answer has leaked."""

    inputs: tuple[ModelColumn, ...]
    outputs: tuple[ModelColumn, ...] = ()

    def __post_init__(self) -> None:
        for side in (self.inputs, self.outputs):
            if len(side) > COLUMNS_MAX:
                raise LimitExceeded("COLUMNS_MAX", asked=len(side), allowed=COLUMNS_MAX)
        names = [column.name for column in (*self.inputs, *self.outputs)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InvalidRequest(
                f"signature: {', '.join(map(repr, twice))} stands there twice; an output that is "
                "also an input gives the answer away"
            )

    @classmethod
    def of(cls, given: object) -> Signature:
        """From `{"inputs": {"temp": "float64"}, "outputs": {"late": "float64"}}`, or with lists of
        `[name, type]`. Raises `InvalidRequest`."""
        if isinstance(given, Signature):
            return given
        if not isinstance(given, Mapping) or "inputs" not in given:
            raise InvalidRequest(
                'a signature is {"inputs": {"temp": "float64"}, "outputs": {"late": "float64"}}, '
                f"not {str(given)[:80]!r}"
            )
        unknown = sorted(map(str, given.keys() - {"inputs", "outputs"}))
        if unknown:
            raise InvalidRequest(f"a signature has inputs and outputs, not {', '.join(unknown)}")
        return cls(
            inputs=_columns(given["inputs"], "inputs"),
            outputs=_columns(given.get("outputs", ()), "outputs"),
        )

    def body(self) -> dict[str, Any]:
        """As JSON, in order."""
        return {
            "inputs": [[column.name, column.dtype] for column in self.inputs],
            "outputs": [[column.name, column.dtype] for column in self.outputs],
        }


def _columns(given: Any, what: str) -> tuple[ModelColumn, ...]:
    pairs = given.items() if isinstance(given, Mapping) else given
    try:
        return tuple(ModelColumn(str(name), str(dtype)) for name, dtype in pairs)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(
            f"signature: {what} are names and types in order, not {str(given)[:80]!r}"
        ) from error


def signature_problems(
    signature: Signature, served: Sequence[ModelColumn], beside: Mapping[str, str]
) -> tuple[str, ...]:
    """Why a model can't be fed from a feature service; nothing where it can.

    The model's inputs must be the features `served`, by name, in that order, each of a type that
    holds every value of the feature's. Between them may stand what comes `beside` them: request
    inputs and join keys, by name.
    """
    types = {column.name: column.dtype for column in served}
    inputs = [column for column in signature.inputs if column.name in types]
    names = [column.name for column in inputs]
    problems = [
        f"the service has no feature {column.name!r}.{suggest(column.name, types)}"
        for column in signature.inputs
        if column.name not in types and column.name not in beside
    ]
    problems += [
        f"the model does not read {column.name!r}, which the service has"
        for column in served
        if column.name not in names
    ]
    wanted = [column.name for column in served if column.name in names]
    if names != wanted:
        place = next(n for n, (a, b) in enumerate(zip(names, wanted, strict=True)) if a != b)
        problems.append(
            f"the order differs from feature {place + 1} on: the model reads {names[place]!r} "
            f"where the service has {wanted[place]!r}"
        )
    for column in signature.inputs:
        given = types.get(column.name, beside.get(column.name))
        if given is not None and not fits(given, column.dtype):
            problems.append(f"{column.name!r} is {given}, the model reads {column.dtype}")
    problems += [
        f"the model's output {column.name!r} is a feature of the service: the answer has leaked"
        for column in signature.outputs
        if column.name in types
    ]
    return tuple(problems)


_WIDER: Mapping[Kind, tuple[Kind, ...]] = {
    Kind.BOOL: (Kind.INT32, Kind.INT64, Kind.FLOAT32, Kind.FLOAT64),
    Kind.INT32: (Kind.INT64, Kind.FLOAT64),
    Kind.INT64: (Kind.FLOAT64,),
    Kind.FLOAT32: (Kind.FLOAT64,),
}
"""What a value may become on its way into a model. Integers beyond 2**53 lose digits as float64,
as they do in every numeric library that models are made with."""


def fits(given: str, wanted: str) -> bool:
    """Whether values of type `given` can be read as `wanted`."""
    have, want = dtypes.parse(given), dtypes.parse(wanted)
    return have == want or want.kind in _WIDER.get(have.kind, ())


# --- versions -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelArtifact:
    """The bytes of a model: `digest` (64 hex digits) finds them among the artifacts; `file` is the
    file's name. A callable's are the text of its module, and `reference` names it there."""

    digest: str
    kind: Literal["file", "folder"]
    size: int
    file: str = ""
    reference: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """One version of a model, as it was registered; nothing of it ever changes.

    `missing` says what keeps it from being promoted: pins of where it comes from that it has not.
    Instants are µs, UTC.
    """

    id: str
    name: str
    number: int
    flavor: Flavor
    artifact: ModelArtifact
    signature: Signature | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    run: str | None = None
    training_set: str | None = None
    service: str | None = None
    service_version: str | None = None
    missing: tuple[str, ...] = ()
    description: str = ""
    libraries: Mapping[str, str] = field(default_factory=dict)
    created_at_us: int = 0
    author: str = ""

    @property
    def lineage_complete(self) -> bool:
        """Whether all that it comes from is pinned."""
        return not self.missing

    @property
    def ref(self) -> str:
        """`delay/3`."""
        return f"{self.name}/{self.number}"

    @property
    def service_name(self) -> str | None:
        """The name of its feature service."""
        return None if self.service is None else self.service.partition(":")[2].partition("@")[0]

    @classmethod
    def of(cls, stored: StoredRecord, blob: Callable[[str], bytes]) -> ModelVersion:
        """From its record; `blob` reads what is too long for that, by its digest."""
        body, parents = stored.record.body, parents_by_role(stored.record)
        signature = body.get("signature")
        if signature is not None and "blob" in signature:
            signature = json.loads(blob(signature["blob"]))
        return cls(
            id=stored.id,
            name=stored.record.name,
            number=int(body["number"]),
            flavor=body["flavor"],
            artifact=ModelArtifact(**body["artifact"]),
            signature=None if signature is None else Signature.of(signature),
            metrics=dict(body.get("metrics", {})),
            run=parents.get("run"),
            training_set=parents.get("training_set"),
            service=parents.get("service"),
            service_version=body.get("service_version"),
            missing=tuple(body.get("missing", ())),
            description=str(body.get("description", "")),
            libraries=dict(body.get("libraries", {})),
            created_at_us=stored.created_at_us,
            author=stored.author,
        )


def parents_by_role(record: Record) -> dict[str, str]:
    """The parents of a record by their role; of several in one role the first."""
    found: dict[str, str] = {}
    for edge in record.parents:
        found.setdefault(edge.role, edge.parent)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a model comes from, as far as it was said: record ids, the version of the service, and
    the sources of the training set whose state is not pinned."""

    run: str | None = None
    training_set: str | None = None
    service: str | None = None
    service_version: str | None = None
    unpinned: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """What a promotion would need and is not there."""
        absent = [
            role
            for role, there in (
                ("run", self.run),
                ("training_set", self.training_set),
                ("service", self.service),
            )
            if there is None
        ]
        return (*absent, *(f"pin of source {name}" for name in self.unpinned))

    @property
    def parents(self) -> tuple[Edge, ...]:
        """The edges of the model's record."""
        roles = {"run": self.run, "training_set": self.training_set, "service": self.service}
        return tuple(Edge(parent=to, role=role) for role, to in roles.items() if to is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A model version that has no number yet."""

    name: str
    flavor: Flavor
    artifact: ModelArtifact
    signature: Signature | None
    metrics: Mapping[str, float]
    origin: Origin
    description: str = ""
    libraries: Mapping[str, str] = field(default_factory=dict)

    @property
    def blobs(self) -> tuple[bytes, ...]:
        """What is too long for its record."""
        text = b"" if self.signature is None else canonical_json(self.signature.body()).encode()
        return (text,) if len(text) > SIGNATURE_BYTES_MAX else ()

    def record(self, number: int) -> Record:
        """Its record as version `number`."""
        artifact = self.artifact
        signature = None if self.signature is None else self.signature.body()
        if self.blobs:
            signature = {"blob": fingerprint_bytes(self.blobs[0])}
        body = {
            "number": number,
            "flavor": self.flavor,
            "artifact": {
                "digest": artifact.digest,
                "kind": artifact.kind,
                "size": artifact.size,
                "file": artifact.file,
                "reference": artifact.reference,
            },
            "signature": signature,
            "metrics": dict(self.metrics),
            "service_version": self.origin.service_version,
            "lineage_complete": not self.origin.missing,
            "missing": list(self.origin.missing),
            "description": self.description,
            "libraries": dict(self.libraries),
        }
        return Record(kind=MODEL, name=self.name, body=body, parents=self.origin.parents)


def check_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """`metrics` as floats. Raises `LimitExceeded`, and `InvalidRequest` for no finite number."""
    if len(metrics) > METRICS_MAX:
        raise LimitExceeded("METRICS_MAX", asked=len(metrics), allowed=METRICS_MAX)
    found: dict[str, float] = {}
    for name, value in metrics.items():
        try:
            found[str(name)] = float(value)
        except (TypeError, ValueError) as error:
            raise InvalidRequest(f"metric {name!r} is {value!r}, which is no number") from error
        if not math.isfinite(found[str(name)]):
            raise InvalidRequest(f"metric {name!r} is {value!r}; a model has finite metrics")
    return found
