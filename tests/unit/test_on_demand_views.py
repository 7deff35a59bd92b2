"""Definitions of on-demand views: what they read, what is refused and where, what a version covers,
what a serving plan holds of them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from featurestore import dtypes
from featurestore.compiler.definition_records import definition_records, function_blobs
from featurestore.compiler.online import ALL_VIEWS, compile_serving_plan
from featurestore.compiler.program import program_of
from featurestore.compiler.resolve import resolve, select
from featurestore.compiler.selection import named
from featurestore.compiler.typed import TypedRepo
from featurestore.definitions.repo import load
from featurestore.errors import (
    CorruptPlan,
    DefinitionError,
    InvalidRepository,
    InvalidRequestInput,
    UnknownFeature,
)
from featurestore.fingerprint import fingerprint_bytes
from featurestore.serving.compiled import compile_plan
from featurestore.wire import serving_plan_pb2
from featurestore.wire.plan_parts import cut, merged
from featurestore.wire.plans import Origin, ServingPlan

SCHEMAS = {
    "landings": {
        "tailnum": dtypes.STRING,
        "at": dtypes.TIMESTAMP,
        "delay": dtypes.INT64,
        "name": dtypes.STRING,
    },
    "observed": {"airport": dtypes.STRING, "at": dtypes.TIMESTAMP, "temp": dtypes.FLOAT64},
}
BASE = """\
import math
from featurestore import (
    Entity, Feature, FeatureService, FeatureView, FileSource, OnDemandFeatureView, RequestSource,
    on_demand_feature_view,
)

plane = Entity("plane", {"tailnum": "string"})
airport = Entity("airport", {"airport": "string"})
landings = FileSource("landings", path="l.parquet", event_time="at")
observed = FileSource("observed", path="o.parquet", event_time="at")
history = FeatureView("history", [plane], landings, [Feature("delay"), Feature("name")])
weather = FeatureView("weather", [airport], observed, [Feature("temp")])
booking = RequestSource("booking", {"distance": "float64"})
"""
LINES = BASE.count("\n")


def defined(folder: Path, text: str) -> TypedRepo:
    folder.mkdir(exist_ok=True)
    (folder / "defs.py").write_text(BASE + textwrap.dedent(text))
    return resolve(load(folder), SCHEMAS, project="p")


def errors(folder: Path, text: str) -> Sequence[DefinitionError]:
    with pytest.raises(InvalidRepository) as caught:
        defined(folder, text)
    return caught.value.errors


class TestExpressions:
    def test_names_and_types(self, tmp_path: Path) -> None:
        repo = defined(
            tmp_path,
            """
            there = weather.with_name("there").with_join_key_map({"airport": "to"})
            view = OnDemandFeatureView("view", [history[["delay"]], there, weather, booking], [
                Feature("a", "delay / distance"),
                Feature("b", "there__temp - weather__temp", dtype="float64"),
                Feature("c", "booking__distance > 1"),
                Feature("d", "there__temp > delay"),
                Feature("e", "request_time()"),
            ])
            """,
        )
        view = repo.on_demand["view"]
        assert [str(f.dtype) for f in view.features] == [
            "float64", "float64", "bool", "bool", "timestamp",
        ]  # fmt: skip
        assert [a.name for a in view.arguments] == [
            "history__delay", "there__temp", "weather__temp", "booking__distance",
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("features", "code", "says"),
        [
            ('Feature("x", "delai + 1")', "invalid-expression", "Did you mean 'delay'"),
            ('Feature("x", "temp")', "invalid-expression", "there__temp or weather__temp"),
            ('Feature("x", "history__dela")', "invalid-expression", "history__delay"),
            ('Feature("x", "frobnicate(delay)")', "invalid-expression", "frobnicate"),
            ('Feature("x", "upper(delay)")', "type-mismatch", "upper"),
            ('Feature("x", "delay > length(delay)")', "type-mismatch", "(at character 8)"),
            ('Feature("x", "delay", dtype="string")', "type-mismatch", "CAST(delay AS VARCHAR)"),
            ('Feature("x", "NULL")', "type-mismatch", "always NULL"),
            ('Feature("x")', "definition-error", "no expression"),
            ('Feature("x", "delay"), Feature("X", "delay")', "duplicate-name", "case only"),
            ('Feature("Distance", "delay")', "duplicate-name", "a request input"),
            ('Feature("tailnum", "delay")', "duplicate-name", "a join key"),
            ('Feature("a__b", "delay")', "invalid-name", "__"),
            ("", "definition-error", "features is empty"),
        ],
    )
    def test_wrong_features(self, tmp_path: Path, features: str, code: str, says: str) -> None:
        text = f"""
            there = weather.with_name("there").with_join_key_map({{"airport": "to"}})
            view = OnDemandFeatureView("view", [history, there, weather, booking], [{features}])
            """
        (error, *_) = errors(tmp_path, text)
        assert error.code == code
        assert says in error.message
        assert error.file == "defs.py"
        assert error.line is not None
        assert error.line > LINES

    @pytest.mark.parametrize(
        ("inputs", "code", "says"),
        [
            ("['histori']", "unknown-reference", "Did you mean 'history'"),
            ("[history[['dela']]]", "unknown-reference", "Did you mean 'delay'"),
            ("[history, history]", "duplicate-name", "two inputs are named 'history'"),
            ("[]", "definition-error", "inputs is empty"),
            ("[plane]", "type-mismatch", "inputs must be"),
            ("[RequestSource('other', {'x': 'int64'})]", "unknown-reference", "module level"),
            ("['view']", "cyclic-reference", "reads itself: view → view"),
        ],
    )
    def test_wrong_inputs(self, tmp_path: Path, inputs: str, code: str, says: str) -> None:
        text = f"""
            view = OnDemandFeatureView("view", {inputs}, [Feature("x", "delay")])
            """
        (error, *_) = errors(tmp_path, text)
        assert (error.code, error.line) == (code, LINES + 2)
        assert says in error.message

    def test_circles_are_named(self, tmp_path: Path) -> None:
        found = errors(
            tmp_path,
            """
            a = OnDemandFeatureView("a", ["b", booking], [Feature("x", "z")])
            b = OnDemandFeatureView("b", ["c"], [Feature("y", "x")])
            c = OnDemandFeatureView("c", [a], [Feature("z", "x")])
            """,
        )
        circle = next(error for error in found if error.code == "cyclic-reference")
        assert "a → b → c → a" in circle.message

    def test_one_name_for_all_kinds_of_views(self, tmp_path: Path) -> None:
        (error,) = errors(
            tmp_path, 'x = OnDemandFeatureView("weather", [booking], [Feature("x", "distance")])'
        )
        assert error.code == "duplicate-name"

    @pytest.mark.parametrize(
        ("schema", "code"),
        [
            ("{}", "definition-error"),
            ("['x']", "type-mismatch"),
            ("{'x': 'float'}", "type-mismatch"),
            ("{'x y': 'int64'}", "invalid-name"),
            ("{'x': 'int64', 'X': 'int64'}", "duplicate-name"),
            ("{'request_time': 'timestamp'}", "duplicate-name"),
        ],
    )
    def test_wrong_request_sources(self, tmp_path: Path, schema: str, code: str) -> None:
        (error, *_) = errors(tmp_path, f'wrong = RequestSource("wrong", {schema})')
        assert error.code == code

    def test_inputs_of_two_types(self, tmp_path: Path) -> None:
        text = """
            other = RequestSource("other", {"distance": "string"})
            a = OnDemandFeatureView("a", [booking], [Feature("x", "distance")])
            b = OnDemandFeatureView("b", [other], [Feature("y", "distance")])
            """
        repo = defined(tmp_path, text)
        with pytest.raises(InvalidRequestInput, match="float64 and b as string"):
            select(repo, ["a", "b"])
        text = """
            keyed = RequestSource("keyed", {"tailnum": "int64"})
            c = OnDemandFeatureView("c", [history, keyed], [Feature("z", "delay + keyed__tailnum")])
            """
        repo = defined(tmp_path, text)
        with pytest.raises(InvalidRequestInput, match="string and c as int64"):
            select(repo, ["history", "c"])


FUNCTION = """
OUTER = 5
@on_demand_feature_view(inputs=[history, booking], schema={{"x": "float64"}}, imports={imports})
def view({parameters}):
{body}
"""


class TestFunctions:
    @pytest.mark.parametrize(
        ("parameters", "imports", "body", "line", "says"),
        [
            ("delay", [], "    y = 1\n    return {'x': OUTER}", 6, "reads 'OUTER'"),
            ("delay", [], "    return {'x': math.pi}", 5, 'imports=["math"]'),
            ("delay", [], "    return [math.pi for _ in (1,)]", 5, "reads 'math'"),
            ("delay", [], "    global OUTER\n    OUTER = 1\n    return 1.0,", 6, "changes the"),
            ("delay, *more", [], "    return 1.0,", 3, "can't have *"),
            ("delay=1", [], "    return 1.0,", 3, "no defaults"),
            ("delay, /", [], "    return 1.0,", 3, "plain"),
            ("delay", [], "    yield 1.0", 3, "yields"),
            ("delay", ["no_such_module"], "    return 1.0,", 3, "No module named"),
            ("delay", ["from . import x"], "    return 1.0,", 3, "relative"),
            ("delay", ["from math import *"], "    return 1.0,", 3, "does not say what"),
            ("delay", ["1 + 1"], "    return 1.0,", 3, "is not an import"),
            ("delay", [3], "    return 1.0,", 3, "texts such as"),
            ("delay", [], "    return 1.0, # " + "x" * 33_000, 3, "SOURCE_BYTES_MAX"),
        ],
    )  # fmt: skip
    def test_what_does_not_stand_by_itself(
        self,
        tmp_path: Path,
        *,
        parameters: str,
        imports: list[Any],
        body: str,
        line: int,
        says: str,
    ) -> None:
        text = FUNCTION.format(parameters=parameters, imports=imports, body=body)
        (error, *_) = errors(tmp_path, text)
        assert error.code == "invalid-function"
        assert says in error.message
        assert (error.file, error.line) == ("defs.py", LINES + line)

    def test_closures_and_what_is_no_function(self, tmp_path: Path) -> None:
        found = errors(
            tmp_path,
            """
            def make(factor):
                @on_demand_feature_view(inputs=[history], schema={"x": "float64"})
                def view(delay):
                    return {"x": delay * factor}
                return view
            closed = make(3)
            decorate = on_demand_feature_view(inputs=[history], schema={"x": "float64"}, name="l")
            one = decorate(lambda delay: {"x": 1.0})
            """,
        )
        assert [error.code for error in found] == ["invalid-function"] * 2
        assert "closes over factor" in found[0].message
        assert found[0].line == LINES + 3
        assert "is no def" in found[1].message

    def test_parameters_name_inputs(self, tmp_path: Path) -> None:
        (error, *_) = errors(
            tmp_path, FUNCTION.format(parameters="delai", imports=[], body="    return 1.0,")
        )
        assert error.code == "unknown-reference"
        assert "parameter 'delai': " in error.message
        assert "Did you mean 'delay'" in error.message

    def test_what_is_kept(self, tmp_path: Path) -> None:
        body = (
            '    """About it.\n\n    More."""\n    return (math.sqrt(len(np.array([distance]))),)'
        )
        imports = ["math", "numpy as np", "from decimal import Decimal"]
        parameters = "request_time: 'datetime', history__delay: int, distance"
        text = FUNCTION.format(parameters=parameters, imports=imports, body=body)
        repo = defined(tmp_path, text)
        view = repo.on_demand["view"]
        assert view.function is not None
        lines = view.function.source.splitlines()
        assert lines[:3] == ["import math", "import numpy as np", "from decimal import Decimal"]
        assert lines[5].startswith("def view(request_time")
        assert view.parameters == (None, "history__delay", "booking__distance")
        assert view.metadata.description == "About it."
        (blob,) = function_blobs(repo)
        record = next(r for r in definition_records(repo) if r.kind == "on_demand_view")
        assert record.body["blob"] == fingerprint_bytes(blob)
        assert blob.decode() == view.function.source


CHAIN = """
@on_demand_feature_view(inputs=[history, booking], schema={"x": "float64", "y": "string"})
def first(delay, distance):
    return {"x": distance, "y": str(delay)}
second = OnDemandFeatureView("second", [first, weather], [
    Feature("p", "x + temp"), Feature("q", "upper(y)"), Feature("r", "temp * 2")])
third = OnDemandFeatureView("third", [second, first], [Feature("s", "p || q || y")])
"""


class TestVersions:
    def versions(self, folder: Path, text: str) -> dict[str, str]:
        repo = defined(folder, text)
        return {
            f"{view.name}.{f.name}": f.version
            for view in repo.on_demand.values()
            for f in view.features
        }

    def changed(self, folder: Path, old: str, new: str, text: str = CHAIN) -> set[str]:
        before, after = self.versions(folder, text), self.versions(folder, text.replace(old, new))
        assert text.replace(old, new) != text
        return {name for name in before if before[name] != after.get(name)}

    def test_a_change_travels_downstream_and_not_sideways(self, tmp_path: Path) -> None:
        text = CHAIN.replace('"p || q || y"', '"q || y"')
        every = {"first.x", "first.y", "second.p", "second.q", "third.s"}
        assert self.changed(tmp_path, "str(delay)", "str(delay + 1)", text) == every
        assert self.changed(tmp_path, '"x + temp"', '"x - temp"', text) == {"second.p"}
        assert self.changed(tmp_path, '"upper(y)"', '"lower(y)"', text) == {"second.q", "third.s"}
        layout = self.changed(tmp_path, '"upper(y)"', '"UPPER( first__y )"', text)
        assert layout == set()

    def test_other_keys_are_other_values(self, tmp_path: Path) -> None:
        text = CHAIN.replace('"p || q || y"', '"y"')
        moved = 'weather.with_join_key_map({"airport": "to"})'
        found = self.changed(tmp_path, "[first, weather]", f"[first, {moved}]", text)
        assert found == {"second.p", "second.r"}

    def test_records_name_what_is_read(self, tmp_path: Path) -> None:
        repo = defined(tmp_path, CHAIN.replace('"p || q || y"', '"q || y"'))
        records = {(r.kind, r.name): r for r in definition_records(repo)}
        by_id = {r.id: (r.kind, r.name) for r in records.values()}
        edges = {by_id[e.parent] for e in records["feature", "first.x"].parents}
        assert edges == {("feature", "history.delay"), ("request_source", "booking")}
        edges = {by_id[e.parent] for e in records["feature", "second.r"].parents}
        assert edges == {("feature", "weather.temp")}
        assert records["feature", "second.q"].body["columns"] == ["first__y"]


PLANNED = """
there = weather.with_name("there").with_join_key_map({"airport": "to"})
trip = OnDemandFeatureView("trip", [history, booking, there], [
    Feature("a", "delay / distance"), Feature("b", "temp > 1")])
more = OnDemandFeatureView("more", [trip, weather], [
    Feature("c", "b AND temp > 2"), Feature("d", "a")])
model = FeatureService("model", [more, weather, trip[["b"]]])
"""


class TestPlans:
    def plan(self, folder: Path, service: str = "model") -> ServingPlan:
        repo = defined(folder, PLANNED)
        uses = repo.services["model"].uses
        if service == ALL_VIEWS:
            views = {**repo.views, **repo.on_demand}
            uses = tuple(named(view, view.features) for _, view in sorted(views.items()))
        return compile_serving_plan(service, "0" * 64, uses, project="p", tables={})

    def test_a_plan_holds_what_a_server_needs(self, tmp_path: Path) -> None:
        plan = self.plan(tmp_path)
        assert ServingPlan.from_bytes(plan.to_bytes()) == plan
        assert [use.name for use in plan.sent] == ["more", "weather", "trip"]
        assert [(use.name, use.selected) for use in plan.lookups] == [
            ("weather", (0,)),
            ("trip__history", ()),
            ("trip__there", ()),
        ]
        assert [use.name for use in plan.on_demand] == ["trip", "more"]
        assert [r.name for r in plan.request_inputs] == ["distance"]
        trip, more = plan.on_demand
        assert trip.origins == (
            Origin("lookup", 1, 0),
            Origin("request", 0),
            Origin("lookup", 2, 0),
        )
        assert trip.reads == ((0, 1), (2,))
        assert more.origins[0] == Origin("on_demand", 0, 0)
        assert "def features(request_time_us, " in trip.code.source

    def test_only_what_is_needed_is_computed(self, tmp_path: Path) -> None:
        repo = defined(tmp_path, PLANNED)
        program = program_of(select(repo, ["more:c"]))
        assert [(s.view.name, [f.name for f in s.features]) for s in program.steps] == [
            ("trip", ["b"]),
            ("more", ["c"]),
        ]
        assert not program.requests
        assert [use.key_columns for use in program.joined] == [("to",), ("airport",)]

    def test_cuts_read_what_they_need(self, tmp_path: Path) -> None:
        whole = self.plan(tmp_path, ALL_VIEWS)
        part = cut(whole, ["more:c", "weather"])
        assert [k.name for k in part.request_keys] == ["to", "airport"]
        assert part.request_inputs == ()
        assert [use.name for use in part.sent] == ["more", "weather"]
        compile_plan(part)
        assert cut(whole, ["history", "weather"]).on_demand == ()
        with pytest.raises(UnknownFeature):
            cut(whole, ["more:x"])
        assert ServingPlan.from_bytes(part.to_bytes()) == part

    def test_merging_keeps_names(self, tmp_path: Path) -> None:
        whole = self.plan(tmp_path, ALL_VIEWS)
        some, others = cut(whole, ["trip", "weather"]), cut(whole, ["more", "history", "trip"])
        again = merged(some, others)
        assert [use.name for use in again.sent] == ["history", "more", "trip", "weather"]
        compile_plan(again)
        assert merged(again, again) == again

    def test_a_plan_that_contradicts_itself(self, tmp_path: Path) -> None:
        message = serving_plan_pb2.ServingPlan.FromString(self.plan(tmp_path).to_bytes())
        for damage in (
            lambda m: m.on_demand[1].arguments[0].on_demand.__setattr__("view", 1),
            lambda m: m.on_demand[0].arguments[0].lookup.__setattr__("feature", 9),
            lambda m: m.request_inputs.pop(),
            lambda m: m.outputs.append(7),
            lambda m: m.on_demand[0].reads.pop(),
        ):
            broken = serving_plan_pb2.ServingPlan()
            broken.CopyFrom(message)
            damage(broken)
            with pytest.raises(CorruptPlan):
                ServingPlan.from_bytes(broken.SerializeToString())

    def test_services_check_what_hidden_inputs_read(self, tmp_path: Path) -> None:
        (error,) = errors(
            tmp_path,
            """
            there = weather.with_join_key_map({"airport": "number"})
            view = OnDemandFeatureView("view", [there], [Feature("x", "temp")])
            keyed = RequestSource("keyed", {"number": "int64"})
            other = OnDemandFeatureView("other", [keyed], [Feature("y", "number")])
            service = FeatureService("service", [view, other])
            """,
        )
        assert error.code == "type-mismatch"
        assert "string and other as int64" in error.message
