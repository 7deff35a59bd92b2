"""Loading a repository: what is found, what is reported, and that nothing is left behind."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from featurestore.definitions.entity import Entity
from featurestore.definitions.repo import Definitions, collect, load
from featurestore.errors import DefinitionError, DuplicateName, InvalidName

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes files (path → text) into a repository's folder, which it returns."""

    def into(**texts: str) -> Path:
        for name, text in texts.items():
            file = tmp_path / f"{name.replace('__', '/')}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(dedent(text))
        return tmp_path

    return into


def shown(definitions: Definitions) -> list[str]:
    return [str(error) for error in definitions.errors]


FLIGHTS = """
    from featurestore import Entity, Feature, FeatureView, FileSource

    plane = Entity("plane", join_keys={"tailnum": "string"})
    landings = FileSource("landings", "data/landings.parquet", "landed_at")
    history = FeatureView("history", [plane], landings, [Feature("delay")])
"""


class TestFinding:
    def test_every_definition_at_module_level_counts(self, write: Write) -> None:
        root = write(
            flights=FLIGHTS,
            models="""
                from featurestore import FeatureService, SqlSource
                from flights import history, plane

                _private = SqlSource("days", "select * from landings", "day")
                service = FeatureService("delay_model", [history])
            """,
        )
        found = load(root)
        assert found.errors == ()
        assert [entity.name for entity in found.entities] == ["plane"]
        assert [source.name for source in found.sources] == ["landings", "days"]
        assert [view.name for view in found.views] == ["history"]
        assert [service.name for service in found.services] == ["delay_model"]
        assert found.services[0].uses[0].view is found.views[0]

    def test_definitions_inside_functions_and_lists_do_not_count(self, write: Write) -> None:
        root = write(
            a="""
                from featurestore import Entity

                several = [Entity("plane")]

                def make():
                    return Entity("airport")

                make()
            """
        )
        assert load(root).entities == ()

    def test_files_and_lines_are_kept_relative_to_the_folder(self, write: Write) -> None:
        found = load(write(flights=FLIGHTS, models__delay=FLIGHTS.replace('("', '("other_')))
        assert [(e.file, e.line) for e in found.entities] == [
            ("flights.py", 4),
            ("models/delay.py", 4),
        ]

    def test_hidden_folders_environments_and_data_are_left_out(self, write: Write) -> None:
        root = write(
            a="",
            _hidden__x="raise ValueError",
            venv__lib="raise ValueError",
            data__x="raise ValueError",
            sub__data__y="from featurestore import Entity\nplane = Entity('plane')",
        )
        (root / "_hidden").rename(root / ".hidden")
        (root / "venv" / "pyvenv.cfg").touch()
        found = load(root)
        assert found.errors == ()
        assert [entity.file for entity in found.entities] == ["sub/data/y.py"]

    def test_packages_may_have_an_init_file(self, write: Write) -> None:
        define = "from featurestore import Entity\n{0} = Entity('{0}')"
        root = write(
            a="from models import plane as p\nimport models.delay\nx = models.delay.airport",
            models__delay=define.format("airport"),
        )
        (root / "models" / "__init__.py").write_text(define.format("plane"))
        (root / "__init__.py").write_text(define.format("carrier"))
        found = load(root)
        assert found.errors == ()
        assert {e.name: e.file for e in found.entities} == {
            "carrier": "__init__.py",
            "airport": "models/delay.py",
            "plane": "models/__init__.py",
        }

    def test_all_forms_of_import_reach_the_same_module(self, write: Write) -> None:
        root = write(
            sub__flights=FLIGHTS,
            use="""
                import sub.flights
                import sub.flights as one
                from sub import flights as two
                from sub.flights import plane
                from .sub.flights import plane as same
                assert sub.flights is one is two
                assert plane is one.plane is same
            """,
        )
        assert load(root).errors == ()

    def test_a_folder_without_python_files_or_no_folder_is_empty(self, tmp_path: Path) -> None:
        assert load(tmp_path) == Definitions()
        assert load(tmp_path / "missing") == Definitions()

    def test_collect_takes_objects_from_anywhere(self) -> None:
        plane = Entity("plane")
        found = collect([plane, 5, plane, "x"])
        assert found == Definitions(entities=(plane,))


class TestErrors:
    def test_all_errors_of_all_files_are_reported_at_once(self, write: Write) -> None:
        root = write(
            a="""
                from featurestore import Entity

                first = Entity("a b")
                second = Entity("plane", {"tailnum": "float64"})
            """,
            b="x = = 1",
            c="import missing_package",
            d="Featur('x')",
            e="""
                def compute():
                    return 1 / 0

                compute()
            """,
            f="raise SystemExit",
            g="from a import nothing",
        )
        assert shown(load(root)) == [
            "b.py:1: SyntaxError: invalid syntax [definition-error]",
            "c.py:1: ModuleNotFoundError: No module named 'missing_package' [definition-error]",
            "d.py:1: NameError: name 'Featur' is not defined [definition-error]",
            "e.py:3: ZeroDivisionError: division by zero [definition-error]",
            "f.py:1: SystemExit [definition-error]",
            (
                f"g.py:1: ImportError: cannot import name 'nothing' from 'a' ({root}/a.py) "
                "[definition-error]"
            ),
            (
                "a.py:4: entity 'a b': 'a b' is not a name: use letters, digits and _, "
                "beginning with no digit [invalid-name]"
            ),
            (
                "a.py:5: entity 'plane': join key 'tailnum' has type float64; keys are int64, "
                "int32, string or bytes [type-mismatch]"
            ),
        ]

    def test_a_failing_file_is_reported_once_however_often_it_is_imported(
        self, write: Write
    ) -> None:
        root = write(
            base="from featurestore import Entity\nbad = Entity('a b')\nraise ValueError('no')",
            one="import base",
            two="from base import bad",
            three="import two",
        )
        assert shown(load(root)) == [
            "base.py:3: ValueError: no [definition-error]",
            (
                "base.py:2: entity 'a b': 'a b' is not a name: use letters, digits and _, "
                "beginning with no digit [invalid-name]"
            ),
        ]

    def test_the_line_is_that_of_the_users_file_when_a_library_raises(self, write: Write) -> None:
        root = write(
            a="import helper\n\nhelper.parse('no number')",
            helper="import json\n\ndef parse(text):\n    return json.loads(text)",
            b="from featurestore import FeatureView\nFeatureView()",
        )
        errors = load(root).errors
        assert [(e.file, e.line) for e in errors] == [("helper.py", 4), ("b.py", 2)]
        assert errors[0].message.startswith("JSONDecodeError: Expecting value")

    def test_an_import_circle_is_reported_where_it_closes(self, write: Write) -> None:
        root = write(a="from b import y\nx = 1", b="from a import x\ny = 1")
        (error,) = load(root).errors
        assert (error.file, error.line) == ("b.py", 1)
        assert "cannot import name 'x' from partially initialized module 'a'" in error.message

    def test_a_program_among_the_definitions_is_said_to_be_one(self, write: Write) -> None:
        """It would run with every command, and, where it loads the repository, for ever."""
        root = write(
            train="""
            from featurestore import FeatureStore

            with FeatureStore(".") as fs:
                fs.apply()
            """,
            guarded="""
            from featurestore import FeatureStore

            if __name__ == "__main__":
                with FeatureStore(".") as fs:
                    fs.apply()
            """,
        )
        (error,) = load(root).errors
        assert (error.file, error.line) == ("train.py", 4)
        assert error.message.startswith("A FeatureStore is opened while this file is read for")
        assert 'if __name__ == "__main__":' in error.message

    def test_a_file_that_is_no_text_is_reported(self, write: Write) -> None:
        root = write()
        (root / "a.py").write_bytes(b"x = '\xff'")
        (root / "b.py").write_bytes(b"x = '\0'")
        errors = load(root).errors
        assert [error.file for error in errors] == ["a.py", "b.py"]
        assert all("SyntaxError" in e.message or "ValueError" in e.message for e in errors)

    def test_two_definitions_of_one_name_name_both_places(self, write: Write) -> None:
        root = write(
            a="from featurestore import Entity\nplane = Entity('plane')",
            b="from featurestore import Entity\nplane = Entity('plane')",
        )
        found = load(root)
        (error,) = found.errors
        assert isinstance(error, DuplicateName)
        assert str(error) == (
            "b.py:2: entity 'plane' is already defined at a.py:2; rename one of them "
            "[duplicate-name]"
        )
        assert [entity.file for entity in found.entities] == ["a.py"]

    def test_one_name_may_be_of_two_kinds_but_not_of_two_sources(self, write: Write) -> None:
        root = write(
            a="""
                from featurestore import Entity, FeatureView, FileSource, SqlSource

                plane = Entity("plane")
                source = FileSource("plane", "p", "t")
                view = FeatureView("plane", [plane], source)
                other = SqlSource("plane", "select 1", "t")
                case = SqlSource("Plane", "select 1", "t")
                entity = Entity("Plane")
            """
        )
        assert shown(load(root)) == [
            (
                "a.py:7: source 'plane' is already defined at a.py:5; rename one of them "
                "[duplicate-name]"
            ),
            (
                "a.py:8: source 'Plane' differs in case only from 'plane', defined at a.py:5; "
                "rename one of them [duplicate-name]"
            ),
        ]

    def test_a_name_that_is_no_text_is_reported_once(self, write: Write) -> None:
        root = write(a="from featurestore import Entity\nplane = Entity(['x'])")
        (error,) = load(root).errors
        assert isinstance(error, InvalidName)

    def test_what_a_file_defined_before_it_failed_is_checked_as_well(self, write: Write) -> None:
        root = write(
            a="""
                from featurestore import Entity, FileSource

                plane = Entity("pl__ane")
                weather = FileSource("weather", "w.parquet", "at")
                1 / 0
                late = Entity("la__te")
            """,
            b="from featurestore import FileSource\nx = FileSource('weather', 'v.parquet', 'at')",
        )
        assert sorted(line.partition(" [")[0] for line in shown(load(root))) == [
            (
                "a.py:4: entity 'pl__ane': 'pl__ane' contains '__', which is reserved for full "
                "names (view__feature)"
            ),
            "a.py:6: ZeroDivisionError: division by zero",
            "b.py:2: source 'weather' is already defined at a.py:5; rename one of them",
        ]

    def test_errors_are_definition_errors(self, write: Write) -> None:
        (error,) = load(write(a="1 / 0")).errors
        assert type(error) is DefinitionError


class TestNoTrace:
    def test_nothing_changes(self, write: Write) -> None:
        root = write(
            flights=FLIGHTS,
            other="from flights import plane\nimport sys\nsys.path.insert(0, '/nowhere')",
            broken="raise ValueError",
        )
        load(root)
        before = (dict(sys.modules), list(sys.path), list(sys.meta_path), Path.cwd())
        files = sorted(root.rglob("*"))
        environment = dict(os.environ)
        load(root)
        assert (dict(sys.modules), list(sys.path), list(sys.meta_path), Path.cwd()) == before
        assert sorted(root.rglob("*")) == files
        assert dict(os.environ) == environment

    def test_two_repositories_may_use_the_same_file_names(self, tmp_path: Path) -> None:
        for name in ("plane", "airport"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "base.py").write_text(
                f"from featurestore import Entity\nit = Entity('{name}')"
            )
            (tmp_path / name / "use.py").write_text("from base import it")
        assert [e.name for e in load(tmp_path / "plane").entities] == ["plane"]
        assert [e.name for e in load(tmp_path / "airport").entities] == ["airport"]

    def test_a_file_shadows_no_installed_module_for_others(self, write: Write) -> None:
        root = write(
            json="value = 1",
            decimal="raise ValueError('imported by our file only')",
            use="import json, fractions\nassert json.value == 1",
        )
        assert shown(load(root)) == [
            "decimal.py:1: ValueError: imported by our file only [definition-error]"
        ]

    def test_loading_again_sees_what_was_edited(self, write: Write) -> None:
        root = write(a="from featurestore import Entity\nplane = Entity('plane')")
        assert load(root).entities[0].name == "plane"
        write(a="from featurestore import Entity\nplane = Entity('jet')")
        assert load(root).entities[0].name == "jet"
