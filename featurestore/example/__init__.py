"""The example: flights out of New York, as real data and as a feature repository."""

from __future__ import annotations

from featurestore.example.flights import Prepared, prepare
from featurestore.example.location import copy_repository, repository_folder

__all__ = ["Prepared", "copy_repository", "prepare", "repository_folder"]
