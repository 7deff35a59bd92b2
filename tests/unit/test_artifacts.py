"""Artifacts on this machine: kept once, by what they hold, checked when they are read."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import pytest

from featurestore.buckets import S3Options
from featurestore.errors import (
    CorruptRow,
    FileNotWritten,
    InvalidRequest,
    LimitExceeded,
    SnapshotMissing,
)
from featurestore.stores.offline import artifacts
from featurestore.stores.offline.artifacts import Artifact, ArtifactFile, ArtifactStore, check_path
from featurestore.stores.offline.folder import OfflineFolder


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(OfflineFolder.at("offline", tmp_path, S3Options()))


def kept(store: ArtifactStore) -> list[str]:
    return [file.name.rpartition("/")[2] for file in store.list()]


def path_of(store: ArtifactStore, digest: str) -> Path:
    return Path(store.folder.url(f"artifacts/{digest[:2]}/{digest}"))


@pytest.mark.parametrize("size", [0, 1, artifacts.CHUNK_BYTES, 3 * artifacts.CHUNK_BYTES + 7])
def test_a_file_comes_back_as_it_was(store: ArtifactStore, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "model.bin").write_bytes(data)
    artifact = store.put(tmp_path / "model.bin")
    assert artifact == Artifact(digest=sha256(data).hexdigest(), kind="file", size=size)
    assert store.read(artifact.digest) == data
    assert store.fetch(artifact, tmp_path / "a" / "copy.bin").read_bytes() == data
    assert store.put_bytes(data) == artifact
    assert kept(store) == [artifact.digest]


def test_a_folder_comes_back_as_it_was(store: ArtifactStore, tmp_path: Path) -> None:
    root = tmp_path / "model"
    (root / "deep" / "er").mkdir(parents=True)
    for name in ("a.txt", "deep/b ü.txt", "deep/er/same.txt", "deep/same.txt"):
        (root / name).write_text(Path(name).name)
    (root / "link.txt").symlink_to("a.txt")
    artifact = store.put(root)
    assert (artifact.kind, artifact.size) == ("folder", 34)
    assert [file.path for file in store.files(artifact)] == [
        "a.txt", "deep/b ü.txt", "deep/er/same.txt", "deep/same.txt", "link.txt",
    ]  # fmt: skip
    assert len(kept(store)) == 4  # three contents and the manifest
    copy = store.fetch(artifact, tmp_path / "copy")
    assert {p.relative_to(copy).as_posix(): p.read_text() for p in copy.rglob("*.txt")} == {
        file.path: Path(file.path).name.replace("link", "a") for file in store.files(artifact)
    }
    assert store.put(copy) == artifact


def test_an_empty_folder(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    artifact = store.put(tmp_path / "empty")
    assert store.files(artifact) == ()
    assert list(store.fetch(artifact, tmp_path / "copy").iterdir()) == []


def test_what_was_changed_or_removed_is_noticed(store: ArtifactStore, tmp_path: Path) -> None:
    artifact = store.put_bytes(b"x" * 100)
    path_of(store, artifact.digest).write_bytes(b"x" * 99 + b"y")
    with pytest.raises(CorruptRow, match="not what was put"):
        store.read(artifact.digest)
    with pytest.raises(CorruptRow):
        store.fetch(artifact, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    store.remove(artifact.digest)
    store.remove(artifact.digest)
    assert not store.there(artifact.digest)
    with pytest.raises(SnapshotMissing, match="is gone"):
        store.read(artifact.digest)


def test_a_manifest_that_leads_elsewhere_is_refused(store: ArtifactStore, tmp_path: Path) -> None:
    content = store.put_bytes(b"evil")
    for path in ("../evil", "/etc/evil", "a/../../evil"):
        with pytest.raises(InvalidRequest):
            store.put_manifest([ArtifactFile(path, content.digest, 4)])
        text = f'{{"files":[["{path}","{content.digest}",4]]}}'.encode()
        hostile = Artifact(digest=store.put_bytes(text).digest, kind="folder", size=4)
        with pytest.raises(CorruptRow, match="not the manifest"):
            store.fetch(hostile, tmp_path / "copy")
    for text in (b"", b"[]", b'{"files": 3}', b'{"files":[["a"]]}', b"\xff"):
        broken = Artifact(digest=store.put_bytes(text).digest, kind="folder", size=0)
        with pytest.raises(CorruptRow):
            store.files(broken)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    "path",
    ["", "/x", "../x", "a/..", "a//b", "./a", "a/", "a\\b", "a\0b", "a\nb", "\ud800", "x" * 513],
)
def test_paths_stay_below(path: str) -> None:
    with pytest.raises(InvalidRequest, match="not a path of an artifact"):
        check_path(path)


def test_what_is_no_file_is_refused(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidRequest, match="can't be read: No such file"):
        store.put(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidRequest, match="not a regular file"):
        store.put(tmp_path / "pipe")
    root = tmp_path / "folder"
    root.mkdir()
    for target in (tmp_path / "secret", root, tmp_path):
        (tmp_path / "secret").write_text("s")
        (root / "link").symlink_to(target)
        with pytest.raises(InvalidRequest, match="is a link"):
            store.put(root)
        (root / "link").unlink()
    with pytest.raises(InvalidRequest, match="not a folder"):
        store.put_folder(tmp_path / "secret")
    for digest in ("", "../../etc/passwd", "A" * 64, "a" * 63):
        with pytest.raises(InvalidRequest, match="not the digest"):
            store.read(digest)
    (root / "a").write_text("a")
    (root / "b").write_text("b")
    monkeypatch.setattr(artifacts, "ARTIFACT_FILES_MAX", 1)
    with pytest.raises(LimitExceeded, match="ARTIFACT_FILES_MAX"):
        store.put(root)
    monkeypatch.setattr(artifacts, "ARTIFACT_BYTES_MAX", 0)
    with pytest.raises(LimitExceeded, match="ARTIFACT_BYTES_MAX"):
        store.put(root / "a")
    assert kept(store) == []


def test_a_place_that_cannot_be_written(store: ArtifactStore, tmp_path: Path) -> None:
    artifact = store.put_bytes(b"x")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileNotWritten):
        store.fetch(artifact, tmp_path / "file" / "copy")
    blocked = ArtifactStore(OfflineFolder.at("file", tmp_path, S3Options()))
    with pytest.raises(FileNotWritten):
        blocked.put_bytes(b"x")


def test_no_part_is_left_where_a_copy_fails(store: ArtifactStore, tmp_path: Path) -> None:
    class Breaks:
        def __init__(self) -> None:
            self.left = 2

        def read(self, _: int) -> bytes:
            self.left -= 1
            if self.left == 0:
                raise OSError("cable")
            return b"x"

    with pytest.raises(OSError, match="cable"):
        store._keep(Breaks(), None)  # type: ignore[arg-type]
    assert [path for path in (tmp_path / "offline").rglob("*") if path.is_file()] == []
