"""Artifacts: files and folders, kept in our folder under the SHA-256 of what they hold.

    artifacts/3f/3f9a…   the bytes of a file, or the manifest of a folder

The same bytes are kept once, whoever puts them. A folder is its manifest, canonical JSON of
`[path, digest, size]` per file, and is named by the manifest's own digest; so whatever an artifact
is, its digest proves all of it. Reading checks what was promised. Nothing is ever changed in place.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, Literal

from featurestore.buckets import is_s3, translated
from featurestore.errors import (
    CorruptRow,
    InvalidRequest,
    LimitExceeded,
    SnapshotMissing,
    SourceMissing,
)
from featurestore.fingerprint import canonical_json, fingerprint_bytes, short
from featurestore.stores.offline.folder import KeptFile, OfflineFolder, writable

if TYPE_CHECKING:
    import pyarrow as pa

ARTIFACTS_FOLDER = "artifacts"
ARTIFACT_BYTES_MAX = 1024**4
"""Of one file."""
ARTIFACT_FILES_MAX = 100_000
"""Of one folder."""
ARTIFACT_PATH_CHARS_MAX = 512
MANIFEST_BYTES_MAX = 256 * 1024 * 1024
CHUNK_BYTES = 1024 * 1024
"""What is read and hashed at a time."""


@dataclass(frozen=True, slots=True)
class ArtifactFile:
    """A file of an artifact: its path there (`/` between folders), its SHA-256, its bytes."""

    path: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """What was put: `digest` (64 hex digits) finds it again; `size` is that of all its files."""

    digest: str
    kind: Literal["file", "folder"]
    size: int


def check_path(path: str) -> str:
    """`path` as it stands in an artifact: below it, `/` between folders.

    Raises `InvalidRequest` for one that leads elsewhere, is absolute, empty, too long, or has
    control characters.
    """
    parts = path.split("/")
    bad = (
        not path
        or len(path) > ARTIFACT_PATH_CHARS_MAX
        or any(part in ("", ".", "..") for part in parts)
        or "\\" in path
        or any(ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 for c in path)
    )
    if bad:
        raise InvalidRequest(
            f"{path[:80]!r} is not a path of an artifact; write it relative, with / between "
            f"folders, without '..', at most {ARTIFACT_PATH_CHARS_MAX} characters"
        )
    return path


@dataclass(frozen=True, slots=True)
class ArtifactStore:
    """The artifacts of the offline folder `folder`, here or on S3.

    Writes raise `FileNotWritten`; all raise what S3 does: `StoreAccessDenied`, `StoreUnavailable`,
    `StoreTimeout`.
    """

    folder: OfflineFolder

    def put(self, path: Path | str) -> Artifact:
        """Keep a file or a folder. Raises as `put_file` and `put_folder` do."""
        return self.put_folder(path) if Path(path).is_dir() else self.put_file(path)

    def put_file(self, path: Path | str) -> Artifact:
        """Keep a file; its bytes go through memory in pieces. Raises `InvalidRequest` for what is
        no readable file, `LimitExceeded`."""
        file = self._put_path(Path(path), Path(path).name)
        return Artifact(digest=file.digest, kind="file", size=file.size)

    def put_bytes(self, data: bytes) -> Artifact:
        """Keep bytes as a file."""
        digest = fingerprint_bytes(data)
        self._keep(io.BytesIO(data), digest)
        return Artifact(digest=digest, kind="file", size=len(data))

    def put_folder(self, path: Path | str) -> Artifact:
        """Keep all files below a folder, and what links to files in it lead to.

        Raises `InvalidRequest` for what is no folder, a link out of it or to a folder, and what is
        neither file nor folder; `LimitExceeded`.
        """
        root = Path(path)
        if not root.is_dir():
            raise InvalidRequest(f"{root} is not a folder; artifacts are files and folders")
        files = [self._put_path(found, name) for name, found in _below(root)]
        return self.put_manifest(files)

    def put_manifest(self, files: Iterable[ArtifactFile]) -> Artifact:
        """Keep a folder of files that are kept already."""
        listed = sorted(files, key=lambda file: file.path)
        rows = [[check_path(file.path), file.digest, file.size] for file in listed]
        manifest = self.put_bytes(canonical_json({"files": rows}).encode())
        size = sum(file.size for file in listed)
        return Artifact(digest=manifest.digest, kind="folder", size=size)

    def files(self, artifact: Artifact) -> tuple[ArtifactFile, ...]:
        """The files of an artifact, in path order; that of a single file has the path ''.

        Raises `SnapshotMissing`, `CorruptRow`.
        """
        if artifact.kind == "file":
            return (ArtifactFile("", artifact.digest, artifact.size),)
        with self.open(artifact.digest) as manifest:
            data = manifest.read(MANIFEST_BYTES_MAX + 1)
        try:
            files = tuple(
                ArtifactFile(check_path(str(path)), str(digest), int(size))
                for path, digest, size in json.loads(data)["files"]
            )
        except (ValueError, KeyError, TypeError, InvalidRequest) as error:
            raise CorruptRow(f"{artifact.digest} is not the manifest of a folder") from error
        return files

    @contextmanager
    def open(self, digest: str) -> Iterator[IO[bytes]]:
        """The bytes of a kept file (of a folder: its manifest), to read from front to back. Whoever
        reads to the end knows that they are what was put.

        Raises `SnapshotMissing` where it is gone, `CorruptRow` at its end where it was changed.
        """
        where = f"{self.folder.base}: artifact {short(digest)}"
        try:
            source = self._opened(digest, where)
        except (SourceMissing, FileNotFoundError) as error:
            raise SnapshotMissing(f"{where} is gone; it was put there and is needed") from error
        with source, io.BufferedReader(_Verified(source, digest, where), CHUNK_BYTES) as reader:
            yield reader

    def read(self, digest: str) -> bytes:
        """All bytes of a kept file, checked. Raises as `open` does."""
        with self.open(digest) as file:
            return file.read()

    def fetch(self, artifact: Artifact, to: Path | str) -> Path:
        """Copy an artifact to the path `to` (a folder is made where it is one), checked. Returns
        `to`. Raises as `open` does, `FileNotWritten`."""
        target = Path(to)
        if artifact.kind == "folder":
            with writable(target):
                target.mkdir(parents=True, exist_ok=True)
        for file in self.files(artifact):
            self._copy(file, target / file.path if file.path else target)
        return target

    def there(self, digest: str) -> bool:
        """Whether it is kept."""
        return self.folder.size(_name(digest)) is not None

    def list(self) -> tuple[KeptFile, ...]:
        """All that is kept; the last part of a file's name is its digest."""
        return self.folder.list(ARTIFACTS_FOLDER, ending="")

    def remove(self, digest: str) -> None:
        """Remove what nothing names any more; one that is gone is fine."""
        self.folder.remove(_name(digest))

    def _put_path(self, path: Path, name: str) -> ArtifactFile:
        try:
            facts = path.stat()
            if not stat.S_ISREG(facts.st_mode):
                raise InvalidRequest(f"{path} is not a regular file; it can't be an artifact")
            if facts.st_size > ARTIFACT_BYTES_MAX:
                raise LimitExceeded(
                    "ARTIFACT_BYTES_MAX", asked=facts.st_size, allowed=ARTIFACT_BYTES_MAX
                )
            with path.open("rb") as file:
                digest, size = self._keep(file, None)
        except OSError as error:
            raise InvalidRequest(f"{path} can't be read: {error.strerror or error}") from error
        return ArtifactFile(name, digest, size)

    def _keep(self, source: IO[bytes], known: str | None) -> tuple[str, int]:
        """Copy first and name afterwards, so that a file that changes meanwhile is kept as what was
        read of it. What is known to be there is not copied again, but young again, so that no
        garbage collection under way takes it."""
        if known is not None and self.there(known):
            self.folder.touch(_name(known))
            return known, 0
        with self.folder.beside(f"{ARTIFACTS_FOLDER}/{known or 'new'}") as part:
            digest, size = _copy_hashed(source, part)
            if self.folder.size(_name(digest)) != size:
                self.folder.adopt(part, _name(digest))
            else:
                self.folder.touch(_name(digest))
        return digest, size

    def _opened(self, digest: str, where: str) -> pa.NativeFile:
        name = _name(digest)
        if not is_s3(self.folder.base):
            return self.folder.open(name)
        with translated(where):
            return self.folder.open(name)

    def _copy(self, file: ArtifactFile, target: Path) -> None:
        part = target.with_name(f".{target.name}.part")
        with writable(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.open(file.digest) as source:
                _copy_hashed(source, part)
            with writable(target):
                part.replace(target)
        finally:
            part.unlink(missing_ok=True)


class _Verified(io.RawIOBase):
    """Reads on, and knows at the end whether it was what `digest` says."""

    def __init__(self, source: pa.NativeFile, digest: str, where: str) -> None:
        self._source, self._digest, self._where = source, digest, where
        self._hash = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with translated(self._where):
            data: bytes = self._source.read(len(buffer))
        if not data and self._hash.hexdigest() != self._digest:
            raise CorruptRow(f"{self._where} is not what was put there; restore it from a copy")
        self._hash.update(data)
        buffer[: len(data)] = data
        return len(data)


def _name(digest: str) -> str:
    if len(digest) != 64 or not all(c in "0123456789abcdef" for c in digest):
        raise InvalidRequest(f"{digest[:80]!r} is not the digest of an artifact (64 hex digits)")
    return f"{ARTIFACTS_FOLDER}/{digest[:2]}/{digest}"


def _below(root: Path) -> list[tuple[str, Path]]:
    """The files below a folder by their names there."""
    inside, found = root.resolve(), list[tuple[str, Path]]()
    for folder, folders, names in os.walk(root):
        for name in [*folders, *names]:
            path = Path(folder) / name
            if path.is_symlink() and (name in folders or not path.resolve().is_relative_to(inside)):
                raise InvalidRequest(
                    f"{path} is a link to a folder, or out of {root}; an artifact holds what is in "
                    "it. Copy there what is meant"
                )
            if name in folders:
                continue
            if len(found) == ARTIFACT_FILES_MAX:
                raise LimitExceeded(
                    "ARTIFACT_FILES_MAX", asked=len(found) + 1, allowed=ARTIFACT_FILES_MAX
                )
            found.append((check_path(PurePosixPath(path.relative_to(root)).as_posix()), path))
    return found


def _copy_hashed(source: IO[bytes], part: Path) -> tuple[str, int]:
    """Copy to the file `part`; the SHA-256 and the number of the bytes."""
    digest, size = hashlib.sha256(), 0
    with writable(part):
        file = part.open("wb")
    with file:
        while data := source.read(CHUNK_BYTES):
            digest.update(data)
            size += len(data)
            with writable(part):
                file.write(data)
        with writable(part):
            file.flush()
            os.fsync(file.fileno())
    return digest.hexdigest(), size
