"""What a run records without being asked: the code, the packages, the machine.

Nothing here can stop a run: what can't be found out is left out.
"""

from __future__ import annotations

import functools
import getpass
import hashlib
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from featurestore.fingerprint import canonical_json, fingerprint_bytes
from featurestore.masking import mask

GIT_TIMEOUT_S = 10.0
DIFF_BYTES_MAX = 64 * 1024 * 1024
"""A larger difference from the commit is not hashed."""
LOCK_FILES = (
    "uv.lock", "poetry.lock", "pdm.lock", "Pipfile.lock", "pixi.lock", "conda-lock.yml",
    "requirements.txt",
)  # fmt: skip
SHOWN = (
    "featurestore", "numpy", "pandas", "polars", "pyarrow", "duckdb", "scikit-learn", "scipy",
    "torch", "tensorflow", "jax", "xgboost", "lightgbm", "catboost", "transformers", "mlflow",
)  # fmt: skip
"""Packages that stand in the record itself; all are in the list that it names."""


def surroundings() -> tuple[dict[str, Any], bytes]:
    """What a run's record holds of where it runs, and the list of all packages (JSON), whose
    SHA-256 the former names."""
    packages = _packages()
    listed = canonical_json(packages).encode()
    environment: dict[str, Any] = {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "packages": {name: packages[name] for name in SHOWN if name in packages},
        "packages_blob": fingerprint_bytes(listed),
        "lock": _lock(),
        "system": platform.platform(),
        "host": socket.gethostname(),
        "processors": os.cpu_count(),
        "machine": platform.machine(),
        "memory_bytes": _memory_bytes(),
        "gpus": _gpus(),
    }
    return {"code": code_version(), "environment": environment, "user": user()}, listed


def user() -> str:
    """Who runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def code_version() -> dict[str, Any]:
    """The program, and where git knows its folder: commit, branch, and a hash of what differs from
    the commit (tracked files' differences, names and contents of new files)."""
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    folder = Path(main).resolve().parent if main else Path.cwd()
    found: dict[str, Any] = {"program": Path(main).name if main else None}
    top = _git(folder, "rev-parse", "--show-toplevel")
    if top is None:
        return found
    root = Path(os.fsdecode(top).strip())
    commit, branch = (
        _git(root, "rev-parse", "HEAD"),
        _git(root, "rev-parse", "--abbrev-ref", "HEAD"),
    )
    remote = _git(root, "config", "--get", "remote.origin.url")
    status = _git(root, "status", "--porcelain", "--untracked-files=normal") or b""
    found |= {
        "commit": _text(commit),
        "branch": _text(branch),
        "remote": None if remote is None else mask(_without_user(_text(remote) or "")),
        "dirty": bool(status.strip()),
    }
    if found["dirty"]:
        difference = _git(root, "diff", "HEAD", "--binary", "--no-ext-diff", "--no-color") or b""
        if len(difference) <= DIFF_BYTES_MAX:
            digest = hashlib.sha256(status)
            digest.update(difference)
            found["diff_digest"] = digest.hexdigest()
    return found


def _git(folder: Path, *words: str) -> bytes | None:
    git = shutil.which("git")
    if git is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603 # our own words
            [git, "--no-optional-locks", "-C", str(folder), *words],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None


def _text(found: bytes | None) -> str | None:
    return None if found is None else found.decode("utf-8", "replace").strip()


def _without_user(url: str) -> str:
    """`https://token@host/x` as `https://host/x`: who may read it is nobody's business here."""
    return re.sub(r"//[^/@]*@", "//", url)


@functools.cache
def _packages() -> dict[str, str]:
    """All installed packages with their versions; they don't change while a process lives."""
    found = {}
    for each in metadata.distributions():
        name = each.metadata["Name"]
        if name:
            found[re.sub(r"[-_.]+", "-", name).lower()] = each.version or ""
    return dict(sorted(found.items()))


def _lock() -> dict[str, str] | None:
    """The first lock file at or above the working folder, as far as its repository goes."""
    for folder in (Path.cwd(), *Path.cwd().parents):
        for name in LOCK_FILES:
            try:
                data = (folder / name).read_bytes()
            except OSError:
                continue
            return {"file": name, "digest": fingerprint_bytes(data)}
        if (folder / ".git").exists():
            break
    return None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _gpus() -> list[str]:
    """What NVIDIA's driver lists."""
    found = []
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if model := re.search(r"^Model:\s*(.+)$", text, re.MULTILINE):
            found.append(model[1].strip())
    return found
