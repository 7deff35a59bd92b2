"""The README's table of back ends, from the classes that keep a contract and their marks.

`python tests/support_table.py` writes it anew. A class's docstring names what is tested; a test
that it marks `notyet`, `never` or `xfail`, with a reason, is a gap; `full` says which command runs
it.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- support table -->", "<!-- end of support table -->"
PARTS = {
    "EngineContract": "offline engine",
    "OnlineStoreContract": "online store",
    "RegistryContract": "registry",
}
GAPS = {"notyet": "not yet", "never": "never", "xfail": "except"}


@dataclass(frozen=True)
class Kept:
    """One class that keeps a contract."""

    contract: str
    file: str
    backend: str
    needs_more: bool
    gaps: tuple[str, ...]


def table() -> str:
    """The table, as Markdown."""
    lines = ["| part | tested with | held to | gaps |", "|---|---|---|---|"]
    for kept in sorted(kept_contracts(), key=lambda k: (list(PARTS).index(k.contract), k.backend)):
        where = " (`make test-full`)" if kept.needs_more else ""
        held = f"[`{kept.contract}`]({kept.file})"
        gaps = "; ".join(kept.gaps) or "none"
        lines.append(f"| {PARTS[kept.contract]} | {kept.backend}{where} | {held} | {gaps} |")
    return "\n".join(lines)


def kept_contracts() -> Iterator[Kept]:
    """Every test class below tests/contracts that is a whole contract's."""
    for path in sorted((ROOT / "tests" / "contracts").glob("test_*.py")):
        module = importlib.import_module(f"tests.contracts.{path.stem}")
        of_module = marks(module)
        for name, found in vars(module).items():
            bases = [base.__name__ for base in getattr(found, "__mro__", ())[1:]]
            contract = next((base for base in bases if base in PARTS), None)
            if contract is None or not name.startswith("Test"):
                continue
            yield Kept(
                contract=contract,
                file=path.relative_to(ROOT).as_posix(),
                backend=inspect.cleandoc(found.__doc__),
                needs_more="full" in {mark.name for mark in (*of_module, *marks(found))},
                gaps=tuple(dict.fromkeys(gaps(found))),
            )


def gaps(kept: type) -> Iterator[str]:
    """What a class says that its back end cannot do."""
    for name, test in inspect.getmembers(kept, callable):
        for mark in marks(test) if name.startswith("test") else ():
            if mark.name in GAPS:
                reason = mark.kwargs.get("reason") or mark.args[0]
                yield f"{GAPS[mark.name]}: {reason}"


def marks(of: object) -> tuple[pytest.Mark, ...]:
    """The pytest marks of a module, class or function."""
    found = getattr(of, "pytestmark", ())
    return tuple(found) if isinstance(found, (list, tuple)) else (found,)


def renewed(readme: str) -> str:
    """The README with the table of today."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    readme = ROOT / "README.md"
    readme.write_text(renewed(readme.read_text(encoding="utf-8")), encoding="utf-8")
