"""Plug-ins: found by name through entry points, with an error that says what to install."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from featurestore import plugins
from featurestore.errors import InvalidSettings

Install = Callable[[str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a distribution whose one online store is `cassandra`, with this module text."""

    def into(text: str) -> None:
        info = tmp_path / "fs_cassandra-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fs-cassandra\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            "[featurestore.online_stores]\ncassandra = fs_cassandra_store:Store\n"
        )
        (tmp_path / "fs_cassandra_store.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "fs_cassandra_store", raising=False)

    return into


@pytest.mark.parametrize(
    ("url", "scheme"),
    [
        ("lmdb:.featurestore/online", "lmdb"),
        ("redis://localhost:6379/0", "redis"),
        ("REDISS://localhost", "rediss"),
        ("postgresql+psycopg://x", "postgresql+psycopg"),
    ],
)
def test_the_scheme_of_a_url(url: str, scheme: str) -> None:
    assert plugins.scheme_of(url) == scheme


@pytest.mark.parametrize("url", ["", "localhost", "://x"])
def test_a_url_without_a_scheme(url: str) -> None:
    with pytest.raises(InvalidSettings, match=r"has no scheme; write e.g. lmdb:path"):
        plugins.scheme_of(url)


def test_an_unknown_name_is_suggested() -> None:
    with pytest.raises(
        InvalidSettings, match=r"'redsi' is not among the installed online stores. Did you mean"
    ):
        plugins.load("featurestore.online_stores", "redsi")


def test_a_third_party_back_end_is_found(install: Install) -> None:
    install("class Store:\n    pass\n")
    assert plugins.load("featurestore.online_stores", "cassandra").__name__ == "Store"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import cassandra_driver.x", r"the package 'cassandra_driver': pip install cassandra_dr"),
        ("raise ImportError('no compiler')", "a package that cannot be imported: no compiler"),
        (
            "raise ModuleNotFoundError('x', name='hiredis.hiredis')",
            r"the package 'hiredis': pip install 'featurestore\[redis\]'",
        ),
        (
            "raise ModuleNotFoundError('x', name='psycopg')",
            r"the package 'psycopg': pip install 'featurestore\[postgres\]'",
        ),
    ],
)
def test_a_package_that_is_not_installed(install: Install, text: str, says: str) -> None:
    install(text)
    with pytest.raises(InvalidSettings, match=f"'cassandra' needs {says}"):
        plugins.load("featurestore.online_stores", "cassandra")
