"""A real server that speaks S3 (SeaweedFS, from a wheel), on free ports of 127.0.0.1."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

from free_ports import free_port
from pyarrow import fs

STARTS_WITHIN_S = 60.0
KEY, SECRET = "tester", "a very secret secret"
BUCKET = "lake"
PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
)


class S3Server:
    """A server with one identity and one bucket. Starts with the block and ends with it, or
    when it is killed."""

    host = "127.0.0.1"

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="fs_s3_"))
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: dict[str, int] = {}
        identity = {
            "name": "tester",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (self._folder / "s3.json").write_text(json.dumps({"identities": [identity]}))

    @property
    def endpoint(self) -> str:
        """Where it listens: `http://127.0.0.1:…`."""
        return f"http://{self.host}:{self._ports['s3.port']}"

    def files(self) -> fs.S3FileSystem:
        """A client of its own, with a bucket to write to."""
        return fs.S3FileSystem(
            access_key=KEY,
            secret_key=SECRET,
            endpoint_override=self.endpoint,
            region="us-east-1",
            allow_bucket_creation=True,
            allow_bucket_deletion=True,
        )

    def start(self) -> None:
        """Start on free ports; return when it answers."""
        self._ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
        command = [
            str(Path(sys.executable).parent / "weed"),
            *("server", f"-dir={self._folder}", f"-ip={self.host}", f"-ip.bind={self.host}"),
            *("-s3", f"-s3.config={self._folder / 's3.json'}", "-s3.port.iceberg=0"),
            *("-master.volumeSizeLimitMB=64", "-volume.max=50", "-volume.preStopSeconds=0"),
            *("-master.telemetry=false", "-s3.port.lance=0", "-s3.autoCreateBucket=false"),
            *(f"-{name}={port}" for name, port in self._ports.items()),
        ]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + STARTS_WITHIN_S
        while not self._takes_a_bucket():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError((self._folder / "log").read_text())
            time.sleep(0.1)

    def _takes_a_bucket(self) -> bool:
        try:
            with socket.create_connection((self.host, self._ports["s3.port"]), 1):
                pass
            files = self.files()
            files.create_dir(BUCKET)
            with files.open_output_stream(f"{BUCKET}/ready") as out:
                out.write(b"ready")
            files.delete_file(f"{BUCKET}/ready")
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    found: dict[int, None] = {}
    while len(found) < count:
        found[free_port()] = None
    return list(found)
