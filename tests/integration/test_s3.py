"""Sources on S3, beside the same files on this machine: what is found, what is read, how little of
it, and what goes wrong."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from pyarrow import fs
from s3_servers import BUCKET, KEY, SECRET, S3Server

from featurestore import FeatureStore
from featurestore.buckets import S3Options, duckdb_filesystem, etag_of
from featurestore.cli.main import run
from featurestore.compiler.rel import Project, Scan
from featurestore.config import OfflineSettings
from featurestore.definitions.source import FileSource
from featurestore.engines.duckdb import DuckDBEngine
from featurestore.errors import (
    CorruptRow,
    FeatureStoreError,
    InvalidRepository,
    InvalidSettings,
    SnapshotMissing,
    SourceMissing,
    StoreAccessDenied,
    StoreUnavailable,
)
from featurestore.jobs import training_sets
from featurestore.jobs.project import files_of
from featurestore.lifecycle.datasets import Verdict
from featurestore.stores.offline import contents
from featurestore.stores.offline.artifacts import ArtifactStore
from featurestore.stores.offline.folder import OfflineFolder

SOURCES = {
    "one": "one.parquet",
    "folder": "folder",
    "glob": "globbed/*/part-?.parquet",
    "deep": "globbed/**/part-2.parquet",
    "odd": "odd [1] name*.parquet",
    "hive": "hive",
    "texts": "texts.csv",
    "packed": "packed/*.csv.gz",
    "lake": "lake",
}
"""Name of a source → its path below a folder or a bucket."""


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as running:
        yield running


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


def rows(first: int, count: int = 4) -> pa.Table:
    number = list(range(first, first + count))
    times = pa.array([n * 1_000_000 for n in number], pa.int64()).cast(pa.timestamp("us", "UTC"))
    return pa.table({"key": [f"k{n % 3}" for n in number], "at": times, "v": number})


def csv_of(table: pa.Table) -> bytes:
    lines = [f"{r['key']},{r['at'].isoformat()},{r['v']}" for r in table.to_pylist()]
    return "\n".join(["key,at,v", *lines, ""]).encode()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, server: S3Server) -> Path:
    """The files on this machine; copies of them are in the bucket."""
    folder = tmp_path_factory.mktemp("local")
    tables = {
        "one.parquet": rows(0),
        "folder/a.parquet": rows(10),
        "folder/below/b.parquet": rows(20),
        "folder/_tmp/c.parquet": rows(900),
        "folder/.d.parquet": rows(900),
        "folder/readme.txt": rows(900),
        "globbed/x/part-1.parquet": rows(30),
        "globbed/y/part-2.parquet": rows(40),
        "globbed/y/z/part-2.parquet": rows(50),
        "globbed/y/part-10.parquet": rows(900),
        "odd [1] name*.parquet": rows(60),
        "odd 1 nameX.parquet": rows(900),
        "hive/region=eu/day=1/f.parquet": rows(70),
        "hive/region=us/day=2/f.parquet": rows(80).drop_columns(["v"]),
    }
    for name, table in tables.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, folder / name)
    (folder / "texts.csv").write_bytes(csv_of(rows(90)))
    (folder / "packed").mkdir()
    (folder / "packed/1.csv.gz").write_bytes(gzip.compress(csv_of(rows(100))))
    lake = str(folder / "lake")
    write_deltalake(lake, rows(110), partition_by=["key"])
    write_deltalake(lake, rows(120), mode="overwrite")
    write_deltalake(lake, rows(130), mode="append")
    fs.copy_files(str(folder), BUCKET, destination_filesystem=server.files())
    return folder


def source(name: str, path: str) -> FileSource:
    return FileSource(name, path, "at")


def definitions(base: str) -> str:
    lines = [
        "from featurestore import Entity, Feature, FeatureService, FeatureView, FileSource",
        'key = Entity("key", join_keys={"key": "string"})',
    ]
    for name, path in SOURCES.items():
        lines.append(f"s_{name} = FileSource('s_{name}', {f'{base}/{path}'!r}, 'at')")
        lines.append(f"{name} = FeatureView('{name}', entities=[key], source=s_{name},")
        names = ["v", "region", "day"] if name == "hive" else ["v"]
        features = ", ".join(f"Feature({feature!r})" for feature in names)
        lines.append(f"    features=[{features}])")
    lines.append(f"everything = FeatureService('everything', features=[{', '.join(SOURCES)}])")
    return "\n".join(lines)


def repository(folder: Path, base: str, endpoint: str) -> Path:
    folder.mkdir()
    (folder / "definitions.py").write_text(definitions(base))
    settings = f'[project]\nname = "buckets"\n[offline]\ns3_endpoint = "{endpoint}"\n'
    (folder / "featurestore.toml").write_text(settings)
    return folder


def options(server: S3Server) -> S3Options:
    return S3Options(endpoint=server.endpoint)


# --- what is read ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOURCES)
def test_the_same_files_as_on_this_machine(
    server: S3Server, local: Path, name: str, tmp_path: Path
) -> None:
    here = files_of(source(name, f"{local}/{SOURCES[name]}"), tmp_path)
    there = files_of(source(name, f"s3://{BUCKET}/{SOURCES[name]}"), tmp_path, options(server))
    below = [path.removeprefix(f"{local}/") for path in here.paths]
    assert [path.removeprefix(f"s3://{BUCKET}/") for path in there.paths] == below
    assert there.schema == here.schema
    assert there.partitions == here.partitions
    assert there.csv_options == here.csv_options


def test_the_main_job_from_a_bucket(server: S3Server, local: Path, tmp_path: Path) -> None:
    frame = pa.table(
        {
            "key": ["k0", "k1", "k2", "kx"] * 2,
            "event_timestamp": pa.array([95_000_000] * 4 + [999_000_000] * 4, pa.int64()).cast(
                pa.timestamp("us", "UTC")
            ),
        }
    )
    found = {}
    for where, base in {"here": str(local), "there": f"s3://{BUCKET}"}.items():
        repo = repository(tmp_path / where, base, server.endpoint)
        with FeatureStore(repo) as store:
            job = store.get_historical_features(frame, "everything", full_feature_names=True)
            found[where] = job.to_arrow()
            if where == "there":
                store.apply()
                store.materialize()
                report = store.verify()
                assert report.values > 0
                assert report.rate == 1.0
                job.to_parquet(f"s3://{BUCKET}/out/training.parquet")
                with pytest.raises(SourceMissing, match="no bucket 'nowhere'"):
                    job.to_parquet("s3://nowhere/training.parquet")
    assert found["there"].equals(found["here"])
    assert found["there"]["lake__v"].null_count < found["there"].num_rows
    written = pq.read_table(f"{BUCKET}/out/training.parquet", filesystem=server.files())
    assert written.equals(found["here"])


class _Counted:
    """A file that notes how many bytes are read of it."""

    def __init__(self, file: Any, read: list[int]) -> None:
        self._file, self._read = file, read

    def read(self, *arguments: int) -> bytes:
        data: bytes = self._file.read(*arguments)
        self._read.append(len(data))
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_only_what_is_asked_for_is_read(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A narrow question about a wide file moves a small part of its bytes."""
    count, width = 200_000, 12
    columns = {f"c{n}": pa.array(range(n, count * 97 + n, 97)) for n in range(width)}
    times = pa.array(range(count), pa.int64()).cast(pa.timestamp("us", "UTC"))
    table = pa.table({"key": [f"{n:07}" for n in range(count)], "at": times, **columns})
    files = server.files()
    pq.write_table(table, f"{BUCKET}/wide.parquet", filesystem=files, row_group_size=20_000)
    size = files.get_file_info([f"{BUCKET}/wide.parquet"])[0].size
    read: list[int] = []

    def counting(where: S3Options) -> Any:
        bucket = duckdb_filesystem(where)
        opened = bucket.open
        bucket.open = lambda *given, **more: _Counted(opened(*given, **more), read)
        return bucket

    monkeypatch.setattr("featurestore.engines.duckdb.duckdb_filesystem", counting)
    resolved = files_of(source("wide", f"s3://{BUCKET}/wide.parquet"), tmp_path, options(server))
    settings = OfflineSettings(s3_endpoint=server.endpoint, threads=4)
    with DuckDBEngine.open(settings, temp_directory=str(tmp_path)) as engine:
        scan = Scan(
            source="wide", files=resolved, columns={n: n for n in resolved.schema},
            dtypes=resolved.schema,
        )  # fmt: skip
        rel = Project(input=scan, columns={"c3": "c3"})
        assert sum(batch.num_rows for batch in engine.stream(rel)) == count
        assert 0 < sum(read) < size / 4
        for _ in range(3):  # the threads of a query share its file and may not mix up its parts
            found = engine.stream(Project(input=scan, columns={"c3": "c3", "c9": "c9"})).read_all()
            sums = [pc.sum(found[name]).as_py() for name in found.column_names]
            assert sums == [sum(columns[name].to_pylist()) for name in found.column_names]


# --- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (f"s3://{BUCKET}/none.parquet", "nothing at s3://lake/none.parquet"),
        (f"s3://{BUCKET}/none/*.parquet", "nothing at"),
        ("s3://nowhere/x.parquet", "no bucket 'nowhere'"),
        ("s3://nowhere/*.parquet", "no bucket 'nowhere'"),
        ("s3://", "names no bucket"),
        ("gs://lake/one.parquet", "on this machine|of this machine"),
    ],
)
def test_files_that_are_not_there(
    server: S3Server, local: Path, tmp_path: Path, path: str, words: str
) -> None:
    with pytest.raises(SourceMissing, match=words):
        files_of(source("x", path), tmp_path, options(server))
    if path.startswith("s3://nowhere"):
        with pytest.raises(FeatureStoreError):
            files_of(FileSource("x", path, "at", format="delta"), tmp_path, options(server))


@pytest.mark.usefixtures("local")
@pytest.mark.parametrize("kind", [None, "csv", "delta"])
@pytest.mark.parametrize("keys", [("", ""), ("tester", "a wrong secret"), ("nobody", "x")])
def test_credentials_that_do_not_open(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: Any, kind: Any
) -> None:
    for name, value in zip(("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"), keys, strict=True):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("HOME", str(tmp_path))
    asked = FileSource("x", f"s3://{BUCKET}/lake", "at", format=kind)
    with pytest.raises(StoreAccessDenied, match="AWS_ACCESS_KEY_ID") as raised:
        files_of(asked, tmp_path, options(server))
    assert "wrong secret" not in str(raised.value)


def test_a_file_that_is_rewritten_under_a_job(server: S3Server, tmp_path: Path) -> None:
    files = server.files()
    pq.write_table(rows(0), f"{BUCKET}/moving.parquet", filesystem=files)
    repo = tmp_path / "repo"
    repo.mkdir()
    (repo / "definitions.py").write_text(
        "from featurestore import Entity, Feature, FeatureView, FileSource\n"
        'key = Entity("key", join_keys={"key": "string"})\n'
        f'moving = FileSource("moving", "s3://{BUCKET}/moving.parquet", "at")\n'
        'view = FeatureView("view", entities=[key], source=moving, features=[Feature("v")])\n'
    )
    (repo / "featurestore.toml").write_text('[project]\nname = "x"\n')
    frame = pa.table({"key": ["k0"], "event_timestamp": rows(9, 1)["at"]})
    overrides = {"offline.s3_endpoint": server.endpoint}
    with FeatureStore(repo, overrides=overrides) as store:
        job = store.get_historical_features(frame, ["view"])
        assert job.to_arrow()["v"].to_pylist() == [3]
        pin = job.pins["moving"]
        pq.write_table(rows(1), f"{BUCKET}/moving.parquet", filesystem=files)
        with pytest.raises(SnapshotMissing, match="was rewritten"):
            job.to_arrow()
        again = store.get_historical_features(frame, ["view"])
        assert again.pins["moving"] != pin
        files.delete_file(f"{BUCKET}/moving.parquet")
        with pytest.raises((SnapshotMissing, SourceMissing)):
            again.to_arrow()
        with pytest.raises(SourceMissing):
            store.get_historical_features(frame, ["view"])


def test_an_etag_tells_contents_of_one_size_and_second(server: S3Server) -> None:
    files, found = server.files(), []
    for content in (b"one", b"two", b"one"):
        with files.open_output_stream(f"{BUCKET}/content") as out:
            out.write(content)
        found.append(etag_of(files, f"{BUCKET}/content"))
    assert [size for size, _ in found] == [3, 3, 3]
    assert found[0] == found[2] != found[1]


def test_artifacts_are_kept_in_the_bucket(server: S3Server, tmp_path: Path) -> None:
    options_here = options(server)
    store = ArtifactStore(OfflineFolder.at(f"s3://{BUCKET}/kept", tmp_path, options_here))
    big = os.urandom(20 * 2**20)
    (tmp_path / "model" / "deep").mkdir(parents=True)
    (tmp_path / "model" / "deep" / "weights.bin").write_bytes(big)
    (tmp_path / "model" / "notes.txt").write_text("notes")
    artifact = store.put(tmp_path / "model")
    assert store.put(tmp_path / "model") == artifact
    assert len(store.list()) == 3
    copy = store.fetch(artifact, tmp_path / "copy")
    assert (copy / "deep" / "weights.bin").read_bytes() == big
    assert (copy / "notes.txt").read_text() == "notes"
    [notes] = [file for file in store.files(artifact) if file.path == "notes.txt"]
    with server.files().open_output_stream(
        f"{BUCKET}/kept/artifacts/{notes.digest[:2]}/{notes.digest}"
    ) as out:
        out.write(b"other")
    with pytest.raises(CorruptRow, match="not what was put"):
        store.read(notes.digest)
    store.remove(notes.digest)
    assert not store.there(notes.digest)
    with pytest.raises(SnapshotMissing, match="is gone"):
        store.read(notes.digest)


def test_a_server_that_is_gone(tmp_path: Path) -> None:
    with S3Server() as server:
        pq.write_table(rows(0), f"{BUCKET}/one.parquet", filesystem=server.files())
        asked = source("x", f"s3://{BUCKET}/one.parquet")
        resolved = files_of(asked, tmp_path, options(server))
        settings = OfflineSettings(s3_endpoint=server.endpoint)
        with DuckDBEngine.open(settings, temp_directory=str(tmp_path)) as engine:
            scan = Scan(
                source="x", files=resolved, columns={"v": "v"}, dtypes={"v": resolved.schema["v"]}
            )
            assert engine.stream(scan).read_all().num_rows == 4
            server.kill()
            with pytest.raises(StoreUnavailable, match="s3_endpoint"):
                engine.stream(scan).read_all()
            with pytest.raises(StoreUnavailable, match="s3_endpoint"):
                files_of(asked, tmp_path, options(server))
            with pytest.raises(StoreUnavailable):
                files_of(FileSource("x", f"s3://{BUCKET}/t", "at", format="delta"), tmp_path,
                         options(server))  # fmt: skip


def test_settings_and_what_they_show(
    server: S3Server, local: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with pytest.raises(InvalidSettings, match="credentials come from the environment"):
        S3Options(endpoint="http://me:password@127.0.0.1:1")
    with pytest.raises(InvalidSettings, match="no URL"):
        S3Options(endpoint="127.0.0.1:1")
    environ = {"AWS_ENDPOINT_URL": "http://b", "AWS_ENDPOINT_URL_S3": "http://a"}
    assert S3Options().resolved(environ) == S3Options(endpoint="http://a", region="us-east-1")
    assert S3Options(endpoint="http://c", region="eu").resolved(environ).endpoint == "http://c"
    assert S3Options().resolved({"AWS_DEFAULT_REGION": "eu"}).region == "eu"

    repo = repository(tmp_path / "repo", f"s3://{BUCKET}", "")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    assert run(["plan", "--repo", str(repo)], debug=False) in (0, 2)
    for command in ("plan", "info", "list sources", "describe sources s_one"):
        run([*command.split(), "--json", "--repo", str(repo)], debug=False)
    printed = capsys.readouterr()
    assert SECRET not in printed.out + printed.err
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with FeatureStore(repo) as store, pytest.raises(InvalidRepository) as raised:
        store.plan()
    assert "s3 refuses our credentials" in str(raised.value).lower()


def test_a_training_set_that_stays(server: S3Server, tmp_path: Path) -> None:
    files = server.files()
    for number in range(2):
        pq.write_table(rows(10 * number), f"{BUCKET}/sets/{number}.parquet", filesystem=files)
    definitions = f"""
from featurestore import Entity, Feature, FeatureView, FileSource

key = Entity("key")
s = FileSource("s", "s3://{BUCKET}/sets", event_time="at")
v = FeatureView("v", entities=[key], source=s, features=[Feature("v")])
"""
    repo = tmp_path / "repo"
    repo.mkdir()
    (repo / "definitions.py").write_text(definitions)
    settings = [f'path = "s3://{BUCKET}/managed"', f's3_endpoint = "{server.endpoint}"']
    (repo / "featurestore.toml").write_text(
        "\n".join(['[project]\nname = "lake"', "[offline]", *settings])
    )
    read: list[str] = []
    keys = rows(0)["key"]
    frame = pa.table({"key": keys, "event_timestamp": [datetime(2020, 1, 1, tzinfo=UTC)] * 4})
    with FeatureStore(repo) as store:
        made = store.create_training_set("kept", frame, ["v:v"])
        assert made.body["location"].startswith("training_sets/kept/")
        assert made.to_arrow().num_rows == len(keys)
        assert made.to_arrow()["v"].null_count < len(keys)
        made.to_parquet(f"s3://{BUCKET}/out.parquet")
        assert pq.read_metadata(f"{BUCKET}/out.parquet", filesystem=files).num_rows == len(keys)
        pq.write_table(rows(50), f"{BUCKET}/sets/9.parquet", filesystem=files)
        assert store.reproduce("kept").verdict is Verdict.EXACT
        original = contents.sha256_of
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(
                contents, "sha256_of", lambda path, s3: read.append(path) or original(path, s3)
            )
            store.create_training_set("kept", frame, ["v:v"])
        own = f"s3://{BUCKET}/managed/training_sets/"
        assert [path for path in read if not path.startswith(own)] == [
            f"s3://{BUCKET}/sets/9.parquet"
        ]
        pq.write_table(rows(60), f"{BUCKET}/sets/0.parquet", filesystem=files)
        found = store.reproduce(made.id)
        assert found.verdict is Verdict.DATA_EXPIRED
        assert [one.path for one in found.expired] == [f"s3://{BUCKET}/sets/0.parquet"]
        files.delete_file(f"{BUCKET}/sets/1.parquet")
        assert {one.why for one in store.reproduce(made.id).expired} == {"gone", "changed"}
        files.delete_file(f"{BUCKET}/managed/{made.files.files[0].name}")
        with pytest.raises(SnapshotMissing, match="a file of the training set"):
            made.to_arrow()
        assert training_sets.sweep(store._sets(), now_us=0) == 0
