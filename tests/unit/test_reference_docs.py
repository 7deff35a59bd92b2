"""The reference names everything that a user can set, call, type, meet or measure, and nothing that
is gone."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import pytest
import typer

import featurestore
from featurestore import config, errors
from featurestore.cli.main import app
from featurestore.client import AsyncFeatureClient, FeatureClient
from featurestore.errors import FeatureStoreError
from featurestore.facades.data import DataVersions
from featurestore.facades.environments import Environments
from featurestore.facades.lineage import LineageQuestions
from featurestore.facades.models import ModelRegistry
from featurestore.facades.runs import Runs
from featurestore.jobs.tracking import ActiveRun
from featurestore.jobs.training import RetrievalJob
from featurestore.jobs.training_sets import TrainingSet
from featurestore.plugins import Group
from featurestore.serving import http_server
from featurestore.serving.edge import codes_of
from featurestore.serving.ingest_metrics import IngestMetrics
from featurestore.serving.metrics import Metrics
from featurestore.store import FeatureStore
from featurestore.wire import serving_pb2
from featurestore.wire.response import OnlineResponse

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def read(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


def sections(text: str) -> dict[str, str]:
    """The text below each second-level heading."""
    found = re.split(r"^## (.*)$", text, flags=re.MULTILINE)
    return dict(zip(found[1::2], found[2::2], strict=True))


def rows(text: str) -> list[list[str]]:
    """The cells of all table rows but the headings."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return [row for row in cells if row[0].startswith("`")]


def quoted(text: str) -> set[str]:
    """What stands in backticks."""
    return set(re.findall(r"`([^`]+)`", text))


class TestSettings:
    kinds: MappingProxyType[str, type[Any]] = MappingProxyType(dict(config._SECTIONS))

    @pytest.mark.parametrize("section", sorted(kinds))
    def test_every_key_with_its_default_and_variable(self, section: str) -> None:
        text = sections(read("settings.md"))[f"`[{section}]`"]
        documented = {row[0]: row[1:3] for row in rows(text) if len(row) == 4}
        expected = {}
        for field in dataclasses.fields(self.kinds[section]):
            needed = field.default is dataclasses.MISSING
            default = "(needed)" if needed else f"`{json.dumps(field.default)}`"
            variable = f"{config.ENVIRONMENT_PREFIX}{section}__{field.name}".upper()
            expected[f"`{field.name}`"] = [default, f"`{variable}`"]
        assert documented == expected

    def test_every_section(self) -> None:
        headings = [name.strip("`[]") for name in sections(read("settings.md"))]
        assert headings == list(self.kinds)

    def test_every_scheme(self) -> None:
        text = read("settings.md")
        for group in ("registries", "online_stores"):
            for point in entry_points(group=f"featurestore.{group}"):
                assert f"`{point.name}:" in text


def error_classes(root: type[FeatureStoreError] = FeatureStoreError) -> set[type]:
    below = {leaf for child in root.__subclasses__() for leaf in error_classes(child)}
    return {kind for kind in {root, *below} if kind.__module__.startswith(f"{errors.__name__}.")}


class TestErrors:
    def test_every_code_with_class_and_status(self) -> None:
        text, _, reserved = read("errors.md").partition("## Reserved")
        documented = {(row[0], row[1], row[2]) for row in rows(text)}
        expected = set()
        for kind in error_classes():
            if f"`{kind.code}`" not in reserved:
                wire = codes_of(kind.__new__(kind))
                code = f"`{kind.code}`{' ↻' if kind.retryable else ''}"
                expected.add((code, f"`{kind.__name__}`", f"{wire.grpc.name} {wire.http}"))
        assert documented == expected

    def test_every_error_says_what_to_do(self) -> None:
        bare = [row[1] for row in rows(read("errors.md")) if not row[3]]
        assert bare == []

    def test_what_is_reserved_is_not_raised(self) -> None:
        reserved = read("errors.md").partition("## Reserved")[2]
        names = {kind.__name__ for kind in error_classes() if f"`{kind.code}`" in reserved}
        assert names
        raised = set()
        for path in (ROOT / "featurestore").rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                    raised.add(ast.unparse(node.exc.func).rpartition(".")[2])
        assert not names & raised


def all_commands(group: Any, above: str = "") -> dict[str, Any]:
    """The commands of a group and of the groups in it, by their words: `token create`."""
    found = {}
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found |= all_commands(command, f"{name} ")
        if not hasattr(command, "commands") or command.invoke_without_command:
            found[f"{above}{name}"] = command
    return found


class TestCommandLine:
    commands: MappingProxyType[str, Any] = MappingProxyType(
        all_commands(typer.main.get_command(app))
    )

    def test_every_command(self) -> None:
        headings = [
            h.strip("`") for h in sections(read("cli.md")) if h.startswith("`featurestore ")
        ]
        words = [[word for word in h.split()[1:] if word.islower()] for h in headings]
        assert sorted(map(" ".join, words)) == sorted(self.commands)

    @pytest.mark.parametrize("command", sorted(commands))
    def test_every_option_and_no_other(self, command: str) -> None:
        heading, text = next(
            (heading, text)
            for heading, text in sections(read("cli.md")).items()
            if f"{heading.strip('`')} ".startswith(f"featurestore {command} ")
        )
        options, arguments = set[str](), []
        for parameter in self.commands[command].params:
            if parameter.param_type_name == "option":
                options |= {*parameter.opts, *parameter.secondary_opts}
            else:
                arguments.append(parameter)
        common = {"-r"} | ({"-e"} & options)
        documented = {name for name in quoted(text) if re.fullmatch(r"--?[a-z-]+", name)}
        assert documented | common == options | common
        assert len(heading.strip("`").split()) == 1 + len(command.split()) + len(
            [a for a in arguments if a.required or "[" in heading]
        )

    def test_the_options_of_all_commands(self) -> None:
        everywhere = quoted(read("cli.md").partition("## ")[0])
        root = cast(Any, typer.main.get_command(app))
        context = typer.Context(root)
        for parameter in root.get_params(context):
            assert set(parameter.opts) <= everywhere


def public(kind: type) -> set[str]:
    """The public methods and attributes of a class, and of those of ours that it stands on."""
    ours = [one for one in kind.__mro__ if one.__module__.startswith("featurestore.")]
    return {name for one in ours for name in vars(one) if not name.startswith("_")}


def documented_names(text: str) -> set[str]:
    """The names in the first cell of each row: `name(…)`, `.name`."""
    return {
        re.split(r"\W", name)[0] for row in rows(text) for name in quoted(row[0]) if name[0] != "["
    }


class TestPython:
    text = sections(read("python.md"))

    def test_every_public_name(self) -> None:
        block = re.search(r"```python\n(.*?)```", read("python.md"), re.DOTALL)
        assert block is not None
        (statement,) = ast.parse(block[1]).body
        assert isinstance(statement, ast.ImportFrom)
        assert [alias.name for alias in statement.names] == featurestore.__all__

    def test_every_argument_of_every_definition(self) -> None:
        documented = {row[0].strip("`"): row[1] for row in rows(self.text["Definitions"])}
        assert set(documented) == {
            "Aggregation", "Entity", "FileSource", "SqlSource", "Feature", "FeatureView",
            "FeatureService", "FeatureTest", "StreamSource",
            "RequestSource", "OnDemandFeatureView", "@on_demand_feature_view",
            "Gates", "DataContract",
        }  # fmt: skip
        for name, arguments in documented.items():
            listed = arguments.partition("`;")[0].strip("` ")
            names = {part.partition("=")[0].strip() for part in listed.split(",")} - {"*"}
            kind = getattr(featurestore, name.removeprefix("@"))
            if name.startswith("@"):
                assert names == set(inspect.signature(kind).parameters), name
                continue
            fields = dataclasses.fields(kind)
            assert names == {field.name for field in fields if field.init}, name

    @pytest.mark.parametrize(
        ("section", "kind"),
        [
            ("FeatureStore", FeatureStore),
            ("fs.environments", Environments),
            ("fs.lineage", LineageQuestions),
            ("fs.models", ModelRegistry),
            ("fs.data", DataVersions),
            ("RetrievalJob", RetrievalJob),
            ("TrainingSet", TrainingSet),
            ("FeatureClient", FeatureClient),
            ("FeatureClient", AsyncFeatureClient),
            ("OnlineResponse", OnlineResponse),
        ],
    )
    def test_every_method_and_no_other(self, section: str, kind: type) -> None:
        wanted = public(kind)
        if kind is FeatureStore:
            attributes = {"repo", "engine", "registry", "online_store"}
            attributes |= {"lineage", "runs", "models", "environments", "data"}
            assert attributes <= wanted & quoted(self.text[section])
            wanted -= attributes
        if kind is TrainingSet:
            wanted |= {"record"}  # a field
        if kind is RetrievalJob:
            made_of = {"frame", "run", "check", "counting", "report", "states", "check_files"}
            wanted -= made_of
        assert documented_names(self.text[section]) == wanted

    def test_every_method_of_runs_and_no_other(self) -> None:
        wanted = public(Runs) - {"tracker"} | public(ActiveRun) | {"run_id"}
        assert documented_names(self.text["Runs"]) == wanted

    @pytest.mark.parametrize(
        ("section", "kind"),
        [
            ("FeatureStore", FeatureStore),
            ("fs.models", ModelRegistry),
            ("fs.data", DataVersions),
            ("FeatureClient", FeatureClient),
            ("FeatureClient", AsyncFeatureClient),
        ],
    )
    def test_every_parameter(self, section: str, kind: type) -> None:
        for row in rows(self.text[section]):
            name, _, written = row[0].strip("`").partition("(")
            parameters = list(inspect.signature(getattr(kind, name)).parameters.values())[1:]
            assert [part.partition("=") for part in _split(written.removesuffix(")"))] == [
                part.partition("=") for part in _as_written(parameters)
            ], name

    def test_every_plug_in(self) -> None:
        documented = {row[0].strip("`"): quoted(row[3]) for row in rows(self.text["Plug-ins"])}
        for group in Group.__args__:  # type: ignore[attr-defined]
            own = {p.name for p in entry_points(group=group) if p.value.startswith("featurestore.")}
            assert documented[group] == own

    def test_every_contract(self) -> None:
        suites = set()
        for path in (ROOT / "featurestore" / "testing").glob("*.py"):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef) and re.fullmatch(
                    "(OnlineStore|Engine|Registry)Contract", node.name
                ):
                    suites.add(node.name)
        assert len(suites) == 3
        assert suites <= quoted(self.text["Plug-ins"])


def _split(arguments: str) -> list[str]:
    return [part.strip() for part in arguments.split(",")] if arguments else []


def _as_written(parameters: Iterable[inspect.Parameter]) -> list[str]:
    written, starred = [], False
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            written.append("*")
            starred = True
        default = parameter.default
        text = json.dumps(default) if isinstance(default, str) else repr(default)
        written.append(parameter.name if default is parameter.empty else f"{parameter.name}={text}")
    return written


class TestServers:
    def test_every_metric_with_its_type_and_labels(self) -> None:
        expected = {}
        for registry in (Metrics()._registry, IngestMetrics()._registry):
            for family in registry.collect():
                collector = registry._names_to_collectors[family.name]
                suffix = "_total" if family.type == "counter" else ""
                labels = ", ".join(f"`{label}`" for label in cast(Any, collector)._labelnames)
                expected[f"`{family.name}{suffix}`"] = [family.type, labels]
        documented = {row[0]: row[1:3] for row in rows(read("metrics.md"))}
        assert documented == expected

    def test_every_path(self) -> None:
        served = {"GET /docs", "GET /openapi.json"}  # FastAPI's own
        for node in ast.walk(ast.parse(inspect.getsource(http_server))):
            for decorator in getattr(node, "decorator_list", ()):
                if found := re.match(r"app\.(get|post)\('(.*?)'", ast.unparse(decorator)):
                    served.add(f"{found[1].upper()} {found[2]}")
        assert len(served) > 5
        text = sections(read("servers.md"))["HTTP"]
        assert {path for row in rows(text) for path in quoted(row[0])} == served

    def test_every_method(self) -> None:
        service = serving_pb2.DESCRIPTOR.services_by_name["OnlineFeatures"]
        text = read("servers.md")
        assert service.full_name in text
        documented = {row[0].strip("`") for row in rows(sections(text)["gRPC"])}
        assert documented == set(service.methods_by_name)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!https?:|#)([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        found = (document.parent / path).resolve()
        assert found.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {_anchor(heading) for heading in headings}, target


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
