"""Settings: defaults < file < environment < arguments, and every wrong key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from featurestore.config import SETTINGS_FILE, Settings, load_settings
from featurestore.errors import InvalidSettings


def load(
    root: Path,
    text: str = '[project]\nname = "shop"\n',
    *,
    environ: dict[str, str] | None = None,
    overrides: dict[str, Any] | None = None,
) -> Settings:
    (root / SETTINGS_FILE).write_text(text, encoding="utf-8")
    return load_settings(root, environ=environ or {}, overrides=overrides)


class TestPrecedence:
    def test_defaults(self, tmp_path: Path) -> None:
        settings = load(tmp_path)
        assert settings.root == tmp_path
        assert settings.project.environment == "prod"
        assert settings.registry.url == "sqlite:///.featurestore/registry.db"
        assert settings.online.url == "lmdb:.featurestore/online"
        assert settings.serving.keys_per_request_max == 10_000
        assert settings.path("data/x.parquet") == tmp_path / "data/x.parquet"

    def test_each_layer_wins_over_the_one_before(self, tmp_path: Path) -> None:
        text = (
            '[project]\nname = "shop"\n'
            '[online]\nurl = "file:"\ntimeout_ms = 1\n'
            "[serving]\nworkers = 2\n"
        )
        environ = {"FEATURESTORE__ONLINE__URL": "env:", "FEATURESTORE__ONLINE__TIMEOUT_MS": "2"}
        settings = load(tmp_path, text, environ=environ, overrides={"online.url": "argument:"})
        assert settings.online.url == "argument:"
        assert settings.online.timeout_ms == 2
        assert settings.serving.workers == 2

    def test_other_environment_variables_are_no_settings(self, tmp_path: Path) -> None:
        assert load(tmp_path, environ={"FEATURESTORE_ONLINE": "x", "PATH": "y"}).online.timeout_ms

    def test_the_process_environment_is_read_by_default(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        load(tmp_path)
        monkeypatch.setenv("FEATURESTORE__PROJECT__ENVIRONMENT", "staging")
        assert load_settings(tmp_path).project.environment == "staging"

    def test_threads_may_be_zero(self, tmp_path: Path) -> None:
        assert load(tmp_path, overrides={"offline.threads": 0}).offline.threads == 0


class TestErrors:
    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("", r"name is missing"),
            ('name = "shop"', "'name' stands outside a section"),
            ("[project", "not valid TOML"),
            ('[projct]\nname = "a"', r"no section \[projct\]. Did you mean 'project'\?"),
            ('[project]\nnam = "a"', r"\[project\] has no key 'nam'. Did you mean 'name'\?"),
            ("[project]\nname = 5", "name must be str, not 5"),
            ('[project]\nname = "a b"', "use 1 to 63 letters"),
            ('[project]\nname = ""', "use 1 to 63 letters"),
            ('[project]\nname = "a"\nenvironment = "a/b"', "environment = 'a/b': use 1 to 63"),
            ('[project]\nname = "a"\n[serving]\nworkers = "2"', "workers must be int, not '2'"),
            ('[project]\nname = "a"\n[serving]\nworkers = true', "workers must be int, not True"),
            ('[project]\nname = "a"\n[serving]\nworkers = 0', "workers must be positive"),
            ('[project]\nname = "a"\n[offline]\nthreads = -1', "threads must be positive"),
        ],
    )
    def test_in_the_file(self, tmp_path: Path, text: str, says: str) -> None:
        with pytest.raises(InvalidSettings, match=says) as caught:
            load(tmp_path, text)
        assert caught.value.file == str(tmp_path / SETTINGS_FILE)

    def test_a_syntax_error_has_a_line(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidSettings) as caught:
            load(tmp_path, '[project]\nname = "a"\nx y')
        assert caught.value.line == 3

    @pytest.mark.parametrize(
        ("variable", "value", "says"),
        [
            ("FEATURESTORE__ONLINE__TIMEOUT_MS", "soon", "timeout_ms must be int, not 'soon'"),
            ("FEATURESTORE__ONLINE__URI", "x", "has no key 'uri'. Did you mean 'url'"),
            ("FEATURESTORE__ONLIN__URL", "x", "no section .onlin.. Did you mean 'online'"),
            ("FEATURESTORE__DEBUG", "1", "no section .debug."),
        ],
    )
    def test_in_the_environment(self, tmp_path: Path, variable: str, value: str, says: str) -> None:
        with pytest.raises(InvalidSettings, match=says) as caught:
            load(tmp_path, environ={variable: value})
        assert caught.value.file == variable

    @pytest.mark.parametrize(
        ("overrides", "says"),
        [
            ({"online.uri": "x"}, "has no key 'uri'"),
            ({"online": "x"}, "has no key ''"),
            ({"onlin.url": "x"}, "no section"),
            ({"online.timeout_ms": "5"}, "must be int"),
        ],
    )
    def test_in_the_arguments(self, tmp_path: Path, overrides: dict[str, Any], says: str) -> None:
        with pytest.raises(InvalidSettings, match=says) as caught:
            load(tmp_path, overrides=overrides)
        assert caught.value.file == f"argument {next(iter(overrides))!r}"

    def test_no_file(self, tmp_path: Path) -> None:
        for folder in (tmp_path, tmp_path / "missing"):
            with pytest.raises(InvalidSettings, match="featurestore init"):
                load_settings(folder)

    def test_a_file_that_cannot_be_read(self, tmp_path: Path) -> None:
        (tmp_path / SETTINGS_FILE).mkdir()
        with pytest.raises(InvalidSettings, match="cannot be read: Is a directory"):
            load_settings(tmp_path)
        (tmp_path / "file").touch()
        with pytest.raises(InvalidSettings, match="cannot be read: Not a directory"):
            load_settings(tmp_path / "file")

    def test_a_file_that_is_no_text(self, tmp_path: Path) -> None:
        (tmp_path / SETTINGS_FILE).write_bytes(b"\xff")
        with pytest.raises(InvalidSettings, match="not valid TOML"):
            load_settings(tmp_path)
