"""Sorted copies: when they are read, when they are not, and what is left of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import FeatureStore
from featurestore.cli.main import run
from featurestore.errors import InvalidRequest, SnapshotMissing, UnknownReference
from featurestore.jobs import copies, optimize
from featurestore.jobs.copies import CopyUnreadableWarning
from tests.conftest import INSTANT, MakeRepo

DEFINITIONS = """
from featurestore import Entity, Feature, FeatureView, FileSource, SqlSource

item = Entity("item", join_keys={"item": "string"})
prices = FileSource("prices", "prices/*.parquet", "at")
texts = FileSource("texts", "texts.csv", "at")
summed = SqlSource("summed", "SELECT item, max(at) AS latest FROM prices GROUP BY item", "latest")
price = FeatureView("price", item, prices, [Feature("cents")])
text = FeatureView("text", item, texts, [Feature("word")])
world = FeatureView("world", features=[Feature("cents")], source=prices)
""".replace("max(at)", 'max(\\"at\\")')
ITEMS = 50
COPIES = ".featurestore/offline/managed"


def write(folder: Path, name: str, *, cents: int, at: int = 0) -> None:
    (folder / "prices").mkdir(exist_ok=True)
    table = pa.table(
        {
            "item": [None, *(f"ü{n:02}" for n in range(ITEMS))],
            "at": pa.array([at] * (ITEMS + 1), INSTANT),
            "cents": [cents + n for n in range(ITEMS + 1)],
        }
    )
    pq.write_table(table, folder / "prices" / name)


@pytest.fixture
def store(make_repo: MakeRepo, monkeypatch: pytest.MonkeyPatch) -> Iterator[FeatureStore]:
    monkeypatch.setattr(optimize, "GROUP_ROWS", 4)
    monkeypatch.setattr(optimize, "FILE_ROWS", 20)
    folder = make_repo(DEFINITIONS)
    write(folder, "1.parquet", cents=100)
    words = "".join(f"ü{n:02},2024-01-01T00:00:00Z,w{n}\n" for n in range(ITEMS))
    (folder / "texts.csv").write_text(f"item,at,word\n{words}", encoding="utf-8")
    with FeatureStore(folder) as opened:
        yield opened


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the sources of which copies are read."""
    found: list[str] = []
    plain = copies._Work._read

    def noting(self: Any, scan: Any, *rest: Any) -> Any:
        found.append(scan.source)
        return plain(self, scan, *rest)

    monkeypatch.setattr(copies._Work, "_read", noting)
    return found


def ask(store: FeatureStore, *items: str | None, view: str = "price") -> list[Any]:
    times = pa.array([2_000_000_000_000_000] * len(items), INSTANT)
    frame = pa.table({"item": pa.array(items, pa.string()), "event_timestamp": times})
    table = store.get_historical_features(frame, [view]).to_arrow()
    column: list[Any] = table[table.column_names[-1]].to_pylist()
    return column


def folders(store: FeatureStore) -> set[str]:
    root = store.settings.root / COPIES / "prices"
    return {path.name for path in root.iterdir() if path.is_dir() and any(path.iterdir())}


def test_it_is_read_while_its_files_are_as_they_were(store: FeatureStore, read: list[str]) -> None:
    done = {one.source: one for one in store.optimize()}
    assert {name: (d.key, d.rows, d.written) for name, d in done.items()} == {
        "prices": ("item", ITEMS, True),
        "texts": ("item", ITEMS, True),
    }
    asked = ["ü03", "ü03", None, "none", "ü49"]
    assert ask(store, *asked) == [104, 104, None, None, 150]
    assert ask(store, *asked, view="text") == ["w3", "w3", None, None, "w49"]
    assert read == ["prices", "texts"]
    # Another file lands: the copy and the file are read side by side.
    write(store.settings.root, "2.parquet", cents=500, at=7)
    assert ask(store, "ü03") == [504]
    assert read == ["prices", "texts", "prices"]
    # A file that was copied is restated: the copy is not read any more.
    write(store.settings.root, "1.parquet", cents=900, at=9)
    assert ask(store, "ü03") == [904]
    assert len(read) == 3
    before = folders(store)
    assert {one.source: one.written for one in store.optimize()} == {"prices": True, "texts": False}
    assert not folders(store) & before, "what is superseded is gone"
    assert len(folders(store)) == 1
    assert ask(store, "ü03") == [904]
    assert len(read) == 4
    (store.settings.root / "prices/2.parquet").unlink()
    assert ask(store, "ü03") == [904]
    assert len(read) == 4, "a file that it holds is gone"
    records = store.registry.records(kind="managed_table", name="prices")
    assert [stored.record.body["rows"] for stored in records] == [ITEMS, 2 * ITEMS]


def test_many_keys_are_read_from_the_files(
    store: FeatureStore, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.optimize(["prices"])
    everything = [f"ü{n:02}" for n in range(ITEMS)]
    assert ask(store, *everything) == [101 + n for n in range(ITEMS)]
    monkeypatch.setattr(copies, "KEYS_MAX", 1)
    assert ask(store, "ü01", "ü02") == [102, 103]
    assert ask(store, view="world") == []
    assert not read


def test_a_changed_definition_does_not_read_it(store: FeatureStore, read: list[str]) -> None:
    store.optimize()
    path = store.settings.root / "definitions.py"
    text = path.read_text()
    path.write_text(text.replace('"texts.csv", "at"', '"texts.csv", "at", null_text="w3"'))
    with FeatureStore(store.settings.root) as other:
        assert ask(other, "ü03", view="text") == [None]
        assert not read
        assert [one.written for one in other.optimize("texts")] == [True]
        assert ask(other, "ü03", view="text") == [None]
        assert read == ["texts"]


def test_a_copy_that_is_damaged_or_gone(store: FeatureStore) -> None:
    store.optimize()
    for path in (store.settings.root / COPIES / "prices").rglob("part-*.parquet"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.warns(CopyUnreadableWarning, match="featurestore optimize"):
        assert ask(store, "ü03") == [104]
    for path in (store.settings.root / COPIES / "texts").rglob("part-*.parquet"):
        path.unlink()
    with pytest.warns(CopyUnreadableWarning):
        assert ask(store, "ü03", view="text") == ["w3"]
    manifest = store.settings.root / COPIES / "prices/manifest.parquet"
    manifest.write_bytes(b"PAR1 nothing PAR1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ask(store, "ü03") == [104]
    assert [one.written for one in store.optimize(["prices"])] == [True]


def test_files_rewritten_while_they_are_copied(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch, read: list[str]
) -> None:
    plain = optimize._sorted

    def slow(*given: Any) -> Any:
        yield from plain(*given)
        write(store.settings.root, "1.parquet", cents=700, at=1)

    with monkeypatch.context() as patch:
        patch.setattr(optimize, "_sorted", slow)
        with pytest.raises(SnapshotMissing):
            store.optimize(["prices"])
    assert ask(store, "ü03") == [704]
    assert not read
    store.optimize(["prices"])
    assert ask(store, "ü03") == [704]
    assert read == ["prices"]


def test_deleted_entities_stay_deleted(store: FeatureStore, read: list[str]) -> None:
    store.optimize()
    store.apply()
    store.materialize()
    store.delete_entity("item", {"item": "ü03"})
    assert ask(store, "ü03", "ü04") == [None, 105]
    assert read == ["prices"]
    assert store.verify("price" if "price" in store.repo.services else None).rate == 1.0


def test_the_sweep_removes_copies_of_sources_that_are_no_more(store: FeatureStore) -> None:
    store.optimize()
    path = store.settings.root / "definitions.py"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if "text" not in line))
    with FeatureStore(store.settings.root) as other:
        other.apply()
        other.sweep()
    left = {p.parts[-2] for p in (store.settings.root / COPIES).rglob("manifest.parquet")}
    assert left == {"prices"}


def test_what_it_does_not_take(store: FeatureStore, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnknownReference, match="Did you mean 'prices'"):
        store.optimize(["price"])
    with pytest.raises(InvalidRequest, match="SQL source"):
        store.optimize(["summed"])
    repo = ["--repo", str(store.settings.root)]
    assert run(["optimize", "prices", *repo], debug=False) == 0
    assert "written" in capsys.readouterr().out
    assert run(["optimize", "--json", *repo], debug=False) == 0
    assert '"written": false' in capsys.readouterr().out
    assert run(["optimize", "nothing", *repo], debug=False) == 1
