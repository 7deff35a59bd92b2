"""S3, and what speaks like it: where it is, a client for it, and what its errors mean to us.

Paths are `s3://bucket/key`. Credentials come from where AWS's own tools take them (the variables
`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, a profile, the machine's role),
never from a setting.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featurestore.errors import (
    FeatureStoreError,
    InvalidSettings,
    SourceMissing,
    StoreAccessDenied,
    StoreError,
    StoreTimeout,
    StoreUnavailable,
)

if TYPE_CHECKING:
    from pyarrow import NativeFile
    from pyarrow.fs import S3FileSystem

SCHEME = "s3://"
CONNECT_TIMEOUT_S = 3.0
REQUEST_TIMEOUT_S = 30.0
ATTEMPTS_MAX = 3
"""How often one request is tried."""
REMOTE_THREADS = 16
"""Objects that are looked at side by side: each takes a few round trips."""
REGION_DEFAULT = "us-east-1"
"""What servers of one's own take for their region."""

_CODE = re.compile(r"AWS Error (\w+)")
_BUCKET = re.compile(r"in bucket '([^']*)'")
_DENIED = {
    "ACCESS_DENIED",
    "INVALID_ACCESS_KEY_ID",
    "INVALID_CLIENT_TOKEN_ID",
    "INVALID_SIGNATURE",
    "MISSING_AUTHENTICATION_TOKEN",
    "SIGNATURE_DOES_NOT_MATCH",
    "UNRECOGNIZED_CLIENT",
}
_MISSING = {"NO_SUCH_KEY", "RESOURCE_NOT_FOUND"}
_TIMED_OUT = {"REQUEST_TIMEOUT", "REQUEST_EXPIRED", "REQUEST_TIME_TOO_SKEWED"}


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Options:
    """Where S3 is: `endpoint` (`http://127.0.0.1:9000`) for servers that are not Amazon's, and
    `region`. What is empty comes from `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, `AWS_REGION` and
    `AWS_DEFAULT_REGION`.

    Raises `InvalidSettings` for an endpoint that is no http(s) URL, or holds a password.
    """

    endpoint: str = ""
    region: str = ""

    def __post_init__(self) -> None:
        if "@" in self.endpoint:
            raise InvalidSettings(
                "[offline] s3_endpoint holds a user or password; credentials come from the "
                "environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        if self.endpoint and not self.endpoint.startswith(("http://", "https://")):
            raise InvalidSettings(
                f"[offline] s3_endpoint = {self.endpoint!r} is no URL; write http://host:port"
            )

    def resolved(self, environ: Mapping[str, str] = os.environ) -> S3Options:
        """The same with what the environment says where nothing was set."""
        endpoint = self.endpoint
        for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
            endpoint = endpoint or environ.get(name, "")
        region = self.region
        for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
            region = region or environ.get(name, "")
        return S3Options(endpoint=endpoint, region=region or (REGION_DEFAULT if endpoint else ""))

    def client(self) -> S3FileSystem:
        """A client; it connects when it is first used. Paths are `bucket/key`."""
        from pyarrow import fs

        where = self.resolved()
        return fs.S3FileSystem(
            endpoint_override=where.endpoint or None,
            region=where.region or None,
            connect_timeout=CONNECT_TIMEOUT_S,
            request_timeout=REQUEST_TIMEOUT_S,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS_MAX),
        )

    def delta_options(self) -> dict[str, str]:
        """What deltalake needs to know beside the environment, which it reads itself."""
        where = self.resolved()
        options = {"timeout": f"{REQUEST_TIMEOUT_S}s", "connect_timeout": f"{CONNECT_TIMEOUT_S}s"}
        options |= {"max_retries": str(ATTEMPTS_MAX - 1), "conditional_put": "etag"}
        if where.endpoint:
            options["aws_endpoint"] = where.endpoint
            options["allow_http"] = str(where.endpoint.startswith("http://")).lower()
        return options | ({"aws_region": where.region} if where.region else {})


def is_s3(path: object) -> bool:
    """Whether `path` is of S3."""
    return str(path).startswith(SCHEME)


def bucket_path(url: str) -> str:
    """`bucket/key` of `s3://bucket/key`."""
    return url.removeprefix(SCHEME).rstrip("/")


def is_folder(options: S3Options, url: str) -> bool:
    """Whether something lies below `url`. Raises `OSError` as the client does."""
    from pyarrow.fs import FileType

    [found] = options.client().get_file_info([bucket_path(url)])
    return found.type is FileType.Directory


def etag_of(client: S3FileSystem, path: str) -> tuple[int, str]:
    """Size and ETag of the object at `bucket/key`. Raises `OSError` as the client does."""
    with client.open_input_file(path) as file:
        facts = file.metadata()
        return file.size(), facts["ETag"].decode()


def duckdb_filesystem(options: S3Options) -> Any:
    """What DuckDB reads `s3://` paths through: only the byte ranges that a query asks for.

    Raises `InvalidSettings` where the extra `s3` is not installed.
    """
    try:
        from fsspec.implementations.arrow import ArrowFSWrapper
    except ImportError as error:
        raise InvalidSettings(
            "sources on S3 need the package 'fsspec': pip install 'featurestore[s3]'"
        ) from error

    class Bucket(ArrowFSWrapper):  # type: ignore[misc]  # fsspec has no types
        protocol = "s3"
        cachable = False

        def open(self, path: str, mode: str = "rb", **_: object) -> _SharedFile:
            if mode != "rb":
                raise PermissionError(f"{path} is opened for reading only, not {mode!r}")
            return _SharedFile(self.fs.open_input_file(bucket_path(path)))

    return Bucket(options.client())


class _SharedFile:
    """A file that several threads read at once, each from its own position: DuckDB says `seek` and
    then `read`, and other threads come in between."""

    def __init__(self, file: NativeFile) -> None:
        self._file = file
        self._size = file.size()
        self._at = threading.local()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move this thread's position."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self._size}[whence]
        self._at.position = base + offset
        return self.tell()

    def tell(self) -> int:
        """This thread's position."""
        return getattr(self._at, "position", 0)

    def read(self, size: int = -1) -> bytes:
        """The next `size` bytes (-1: all), fewer at the end."""
        at = self.tell()
        rest = max(self._size - at, 0)
        data: bytes = self._file.read_at(rest if size < 0 else min(size, rest), at)
        self._at.position = at + len(data)
        return data

    def close(self) -> None:
        """Give the handle back."""
        self._file.close()


def is_storage_error(error: Exception) -> bool:
    """Whether S3 said no, rather than that what it gave can't be read."""
    return _CODE.search(str(error)) is not None


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Raise our errors for what a client raises; `what` names who asks (`Source 'x'`)."""
    try:
        yield
    except OSError as error:
        found = storage_error(what, str(error))
        if isinstance(error, FileNotFoundError) and type(found) is StoreError:
            found = SourceMissing(f"{what}: there is no {error}")
        raise found from error


def storage_error(what: str, words: str) -> FeatureStoreError:
    """The error for a client's `words`."""
    found = _CODE.search(words)
    code = found[1] if found else ""
    reason = next((line for line in words.splitlines() if "AWS Error" in line), words).strip()
    bucket = match[1] if (match := _BUCKET.search(words)) else ""
    if code == "NO_SUCH_BUCKET":
        return SourceMissing(f"{what}: there is no bucket {bucket!r}. Correct the path")
    if code in _DENIED or "HTTP status 403" in words or "HTTP status 401" in words:
        return StoreAccessDenied(
            f"{what}: S3 refuses our credentials for bucket {bucket!r} ({code}). Set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to those of someone who may read it"
        )
    if code in _MISSING or "HTTP status 404" in words or "does not exist" in words:
        return SourceMissing(f"{what}: {_after_prefix(reason)}. Correct the path")
    if code in _TIMED_OUT or "timeout" in words.lower():
        return StoreTimeout(f"{what}: S3 did not answer in time: {_after_prefix(reason)}")
    if code:
        return StoreUnavailable(
            f"{what}: S3 can't be used now: {_after_prefix(reason)}. Check [offline] s3_endpoint "
            "(or AWS_ENDPOINT_URL), or try again"
        )
    return StoreError(f"{what}: {_after_prefix(reason)}")


def _after_prefix(reason: str) -> str:
    return reason.removeprefix("OSError: ").removeprefix("FileNotFoundError: ")
