"""Copies of our modules with a bug planted in their text."""

from __future__ import annotations

import inspect
import sys
from types import ModuleType
from typing import Any

Change = tuple[str, str]


def mutant(module: ModuleType, *changes: Change) -> Any:
    """A copy of `module` in which each first text is replaced by the second, wherever it stands."""
    source = inspect.getsource(module)
    for right, wrong in changes:
        assert right in source, f"{module.__name__} has no {right!r} any more"
        source = source.replace(right, wrong)
    copy = ModuleType(f"{module.__name__}_with_a_bug")
    copy.__dict__.update(__file__=module.__file__, __package__=module.__package__)
    # Dataclasses look their module up by its name.
    sys.modules[copy.__name__] = copy
    exec(compile(source, copy.__name__, "exec", dont_inherit=True), copy.__dict__)
    return copy
