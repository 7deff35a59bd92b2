"""Where the example repository stands: beside the package in a checkout, inside it in a wheel."""

from __future__ import annotations

import shutil
from pathlib import Path

from featurestore.errors import SourceMissing

FILES = ("featurestore.toml", "flights.py", "README.md")
"""What makes the repository; its data and its state are made beside these."""


def repository_folder() -> Path:
    """The folder that holds the example's definitions.

    Raises `SourceMissing` where the installation lost it.
    """
    package = Path(__file__).resolve().parent
    for folder in (package.parent.parent / "feature_repo", package / "repository"):
        if all((folder / name).is_file() for name in FILES):
            return folder
    raise SourceMissing(
        f"the example repository is neither beside nor inside {package}; reinstall featurestore"
    )


def is_checkout() -> bool:
    """Whether the example stands in a source tree, where its own folder may hold data."""
    return repository_folder().name == "feature_repo"


def copy_repository(folder: Path) -> Path:
    """Copy the definitions into `folder` and return it. Files that are there already stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if not (folder / name).exists():
            shutil.copyfile(repository_folder() / name, folder / name)
    return folder
