"""The forms in which a model comes, and how each is packed into an artifact and loaded again.

What runs code when it is loaded (pickles, Python callables, MLflow folders) is loaded only by those
who say that they trust it; whose bytes they are is checked in any case.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from featurestore.errors import InvalidRequest, SnapshotMissing, suggest
from featurestore.fingerprint import fingerprint_bytes
from featurestore.lifecycle.models import Flavor, ModelArtifact, ModelVersion
from featurestore.stores.offline.artifacts import Artifact, ArtifactStore

if TYPE_CHECKING:
    from types import ModuleType

FLAVORS: tuple[Flavor, ...] = get_args(Flavor)
MLFLOW_FILE = "MLmodel"
_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_ENDINGS: Mapping[str, Flavor] = {
    ".joblib": "joblib",
    ".pkl": "joblib",
    ".pickle": "joblib",
    ".skops": "skops",
    ".onnx": "onnx",
}
LIBRARIES = {
    "catboost": "catboost",
    "joblib": "joblib",
    "lightgbm": "lightgbm",
    "mlflow": "mlflow",
    "numpy": "numpy",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "pandas": "pandas",
    "sklearn": "scikit-learn",
    "skops": "skops",
    "torch": "torch",
    "xgboost": "xgboost",
}
"""Modules by which models are made, and the distributions that they come in."""


def pack(
    artifact: object, store: ArtifactStore, *, flavor: str | None = None
) -> tuple[Flavor, ModelArtifact]:
    """Keep the bytes of a model: a path, `"module:function"`, a function, or an object, which is
    written by joblib (or `flavor="skops"`, `"onnx"`).

    Raises `InvalidRequest` for what is none of these, and what the artifact store does.
    """
    if flavor is not None and flavor not in FLAVORS:
        raise InvalidRequest(f"there is no flavor {flavor!r}.{suggest(flavor, FLAVORS)}")
    if isinstance(artifact, str) and _REFERENCE.fullmatch(artifact):
        return "callable", _pack_reference(artifact, store)
    if inspect.isfunction(artifact):
        return "callable", _pack_reference(_reference_of(artifact), store)
    if isinstance(artifact, str | Path):
        return _pack_path(Path(artifact), store, flavor)
    if artifact is None:
        raise InvalidRequest("a model needs its artifact: a path, an object, or module:function")
    return _pack_object(artifact, store, flavor)


def _pack_path(
    path: Path, store: ArtifactStore, flavor: str | None
) -> tuple[Flavor, ModelArtifact]:
    if not path.exists():
        raise InvalidRequest(
            f"the artifact {path} is not there; give a path, an object, or module:function"
        )
    kept = store.put(path)
    found: Flavor = _ENDINGS.get(path.suffix.lower(), "file")
    if path.is_dir():
        found = "mlflow" if (path / MLFLOW_FILE).is_file() else "folder"
    for one in FLAVORS:
        found = one if one == flavor else found
    if (found in ("folder", "mlflow")) != path.is_dir():
        kind = "folder" if path.is_dir() else "file"
        raise InvalidRequest(f"{path} is a {kind}, which can't be of flavor {found!r}")
    return found, _artifact(kept, file=path.resolve().name)


def _pack_object(
    model: object, store: ArtifactStore, flavor: str | None
) -> tuple[Flavor, ModelArtifact]:
    if flavor == "onnx" or (flavor is None and hasattr(model, "SerializeToString")):
        serialize = getattr(model, "SerializeToString", None)
        if serialize is None:
            raise InvalidRequest(f"a {type(model).__name__} is no ONNX model; convert it first")
        return "onnx", _artifact(store.put_bytes(serialize()), file="model.onnx")
    if flavor == "skops":
        data: bytes = needed("skops.io", "skops").dumps(model)
        return "skops", _artifact(store.put_bytes(data), file="model.skops")
    if flavor not in (None, "joblib"):
        raise InvalidRequest(f"an object is kept as joblib, skops or onnx, not as {flavor}")
    joblib = needed("joblib", "joblib")
    with tempfile.TemporaryDirectory(prefix="featurestore-") as folder:
        path = Path(folder) / "model.joblib"
        joblib.dump(model, path)
        return "joblib", _artifact(store.put_file(path), file=path.name)


def _artifact(kept: Artifact, *, file: str) -> ModelArtifact:
    return ModelArtifact(digest=kept.digest, kind=kept.kind, size=kept.size, file=file)


def _reference_of(function: Callable[..., Any]) -> str:
    reference = f"{function.__module__}:{function.__qualname__}"
    if not _REFERENCE.fullmatch(reference) or function.__module__ == "__main__":
        raise InvalidRequest(
            f"{reference} can't be found again by another process; put the function at the top of "
            "a module that is installed"
        )
    return reference


def _pack_reference(reference: str, store: ArtifactStore) -> ModelArtifact:
    source = _module_file(reference)
    _function(reference)
    kept = store.put_file(source)
    return ModelArtifact(
        digest=kept.digest, kind="file", size=kept.size, file=source.name, reference=reference
    )


def _module_file(reference: str) -> Path:
    module = _module(reference)
    found = inspect.getsourcefile(module) if getattr(module, "__file__", None) else None
    if found is None:
        raise InvalidRequest(f"{reference}: the module has no source file to be told from another")
    return Path(found)


def _module(reference: str) -> ModuleType:
    name = reference.partition(":")[0]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InvalidRequest(f"{reference}: {error}; is the module installed here?") from error


def _function(reference: str) -> Callable[..., Any]:
    name = reference.partition(":")[2]
    found = getattr(_module(reference), name, None)
    if not callable(found):
        raise InvalidRequest(f"{reference}: the module has no function {name!r}")
    function: Callable[..., Any] = found
    return function


def needed(module: str, package: str) -> Any:
    """A module that is no part of ours. Raises `InvalidRequest`, which says how to install it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise InvalidRequest(
            f"this needs the package {package!r}: pip install {package}"
        ) from error


def libraries_in_use() -> dict[str, str]:
    """Versions of Python and of the libraries for models that this process has imported."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for module, distribution in LIBRARIES.items():
        if module in sys.modules:
            try:
                found[distribution] = version(distribution)
            except PackageNotFoundError:
                continue
    return found


# --- loading --------------------------------------------------------------------------------------


def load(model: ModelVersion, store: ArtifactStore, *, trust: bool) -> Any:
    """The model, of checked bytes: an object, an ONNX session, a function, an MLflow model; of a
    plain file its bytes.

    Raises `InvalidRequest` where loading runs code and `trust` is not given, or a package is not
    installed; `SnapshotMissing` and `CorruptRow` where the bytes are gone or changed.
    """
    match model.flavor:
        case "file":
            return store.read(model.artifact.digest)
        case "folder":
            raise InvalidRequest(
                f"{model.ref} is a folder; copy it with: models.download({model.ref!r}, to=…)"
            )
        case "onnx":
            runtime = needed("onnxruntime", "onnxruntime")
            data = store.read(model.artifact.digest)
            return runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
        case "skops":
            return _load_skops(model, store, trust=trust)
        case "joblib":
            _check_trust(model, "a pickle", trust=trust)
            with tempfile.TemporaryDirectory(prefix="featurestore-") as folder:
                return needed("joblib", "joblib").load(download(model, store, Path(folder)))
        case "callable":
            _check_trust(model, f"the function {model.artifact.reference}", trust=trust)
            return _load_reference(model)
        case "mlflow":
            _check_trust(model, "an MLflow folder", trust=trust)
            return _load_mlflow(model, store)


def _check_trust(model: ModelVersion, what: str, *, trust: bool) -> None:
    if not trust:
        raise InvalidRequest(
            f"{model.ref} is {what}, which runs code when it is loaded. {model.author} registered "
            "it; if you trust it, load it with trust=True (in the shell: --trust). skops and ONNX "
            "need no trust"
        )


def _load_skops(model: ModelVersion, store: ArtifactStore, *, trust: bool) -> Any:
    """Loads by a list of what is known to be harmless; what is beyond it takes trust."""
    skops = needed("skops.io", "skops")
    data = store.read(model.artifact.digest)
    unknown = skops.get_untrusted_types(data=data)
    if unknown and not trust:
        raise InvalidRequest(
            f"{model.ref} holds {', '.join(unknown)}, which skops does not know to be harmless; if "
            "you trust it, load it with trust=True (in the shell: --trust)"
        )
    return skops.loads(data, trusted=unknown)


def _load_reference(model: ModelVersion) -> Callable[..., Any]:
    reference = model.artifact.reference
    source = _module_file(reference)
    if fingerprint_bytes(source.read_bytes()) != model.artifact.digest:
        raise SnapshotMissing(
            f"{model.ref} is {reference} as it was when it was registered; {source} has changed "
            "since. Install that version again, or register this one"
        )
    return _function(reference)


def _load_mlflow(model: ModelVersion, store: ArtifactStore) -> Any:
    if "mlflow" not in sys.modules:
        raise InvalidRequest(
            f"{model.ref} is an MLflow model, and this process has not imported mlflow, which we "
            f"never do. Import it first, or copy the folder: models.download({model.ref!r}, to=…)"
        )
    pyfunc = needed("mlflow.pyfunc", "mlflow")
    with tempfile.TemporaryDirectory(prefix="featurestore-") as folder:
        return pyfunc.load_model(str(download(model, store, Path(folder))))


def download(model: ModelVersion, store: ArtifactStore, folder: Path) -> Path:
    """Copy a model's artifact into a folder, under the name that it had; checked. Returns where it
    is. Raises `SnapshotMissing`, `CorruptRow`, `FileNotWritten`."""
    name = Path(model.artifact.file).name or "model"  # a record is no reason to leave the folder
    kept = Artifact(
        digest=model.artifact.digest, kind=model.artifact.kind, size=model.artifact.size
    )
    return store.fetch(kept, folder / name)
