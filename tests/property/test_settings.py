"""Settings from anywhere: whatever stands in the file, the environment or the arguments, they are
read or refused by an error of ours; and what is valid comes out as it was written, by each way."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from effort import examples
from hypothesis import example, given, settings
from hypothesis import strategies as st

from featurestore import plugins
from featurestore.config import INTEGER_MAX, SETTINGS_FILE, Settings, load_settings
from featurestore.errors import FeatureStoreError, InvalidSettings
from featurestore.masking import mask_url
from featurestore.serving.addresses import is_local_target, parse_address
from featurestore.serving.tls import TlsFiles
from featurestore.stores.online.redis_hosts import parse_cluster, parse_sentinel
from featurestore.stores.online.resp import parse_target
from featurestore.stores.registry import database

MINIMAL = '[project]\nname = "shop"\n'


def load(text: str | bytes, environ: dict[str, str], overrides: dict[str, Any]) -> Settings:
    with tempfile.TemporaryDirectory() as folder:
        data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        (Path(folder) / SETTINGS_FILE).write_bytes(data)
        return load_settings(folder, environ=environ, overrides=overrides)


def kinds() -> dict[str, type]:
    """`section.key` → int, str or bool."""
    loaded = load(MINIMAL, {}, {})
    return {
        f"{section.name}.{key}": type(value)
        for section in dataclasses.fields(loaded)
        if section.name != "root"
        for key, value in dataclasses.asdict(getattr(loaded, section.name)).items()
    }


KINDS = kinds()
TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20)
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_\-]{0,20}", fullmatch=True)
VALID: dict[type, st.SearchStrategy[Any]] = {
    int: st.integers(1, INTEGER_MAX),
    bool: st.booleans(),
    str: TEXT,
}


@st.composite
def valid(draw: st.DrawFn) -> dict[str, Any]:
    chosen = draw(st.sets(st.sampled_from(sorted(KINDS)), max_size=12)) | {"project.name"}
    return {
        name: draw(NAMES if name.startswith("project.") else VALID[KINDS[name]])
        for name in sorted(chosen)
    }


# --- TOML -----------------------------------------------------------------------------------------


def toml_value(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int():
            return hex(value) if value > 10**300 else str(value)
        case float():
            return "nan" if math.isnan(value) else repr(value)
        case str():
            return '"' + "".join(_escaped(c) for c in value) + '"'
        case list():
            return f"[{', '.join(map(toml_value, value))}]"
        case dict():
            pairs = (f"{toml_value(k)} = {toml_value(v)}" for k, v in value.items())
            return f"{{{', '.join(pairs)}}}"
    raise AssertionError(value)


def _escaped(character: str) -> str:
    plain = character not in '"\\' and (0x20 <= ord(character) != 0x7F)
    return character if plain else f"\\u{ord(character):04X}"


def toml(sections: dict[str, dict[str, Any]]) -> str:
    lines = []
    for section, keys in sections.items():
        lines.append(f"[{toml_value(section)}]")
        lines += [f"{toml_value(key)} = {toml_value(value)}" for key, value in keys.items()]
    return "\n".join(lines) + "\n"


def by_section(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        section, _, key = name.partition(".")
        found.setdefault(section, {})[key] = value
    return found


def told(loaded: Settings, names: list[str]) -> dict[str, Any]:
    return {
        name: getattr(getattr(loaded, name.partition(".")[0]), name.partition(".")[2])
        for name in names
    }


def variable(name: str) -> str:
    return f"FEATURESTORE__{name.replace('.', '__').upper()}"


def as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@settings(max_examples=examples(60), deadline=None)
@given(valid())
def test_valid_settings_come_out_as_they_were_written(values: dict[str, Any]) -> None:
    names = sorted(values)
    by_file = load(toml(by_section(values)), {}, {})
    environ = {variable(name): as_text(value) for name, value in values.items()}
    by_environment = load(MINIMAL, environ, {})
    by_argument = load(MINIMAL, {}, values)
    assert told(by_file, names) == values
    assert told(by_environment, names) == values
    assert told(by_argument, names) == values


# --- whatever comes -------------------------------------------------------------------------------

ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 2**31, 2**63, 2**900, -(2**900)])
    | st.floats()
    | st.text(max_size=10)
    | st.sampled_from(["\0", "a\0b", "\udcff", "redis://[", "é" * 300, "0.0.0.0:99999", "::1"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
SECTIONS = st.sampled_from(sorted({name.partition(".")[0] for name in KINDS})) | st.text(max_size=8)
KEYS = st.sampled_from(sorted({name.partition(".")[2] for name in KINDS})) | st.text(max_size=8)


def without_null(value: Any) -> Any:
    """TOML has none, and no lone surrogates."""
    match value:
        case None:
            return "null"
        case str():
            return value.encode("utf-8", "replace").decode()
        case list():
            return [without_null(each) for each in value]
        case dict():
            return {without_null(k): without_null(v) for k, v in value.items()}
        case _:
            return value


def every_use(loaded: Settings) -> Iterator[Callable[[], object]]:
    """What is derived from settings before anything is opened."""
    yield loaded.own_token
    yield lambda: TlsFiles.of(loaded)
    yield lambda: mask_url(loaded.online.url)
    yield lambda: plugins.scheme_of(loaded.online.url)
    for key, text in (("grpc", loaded.serving.grpc), ("http", loaded.serving.http)):
        yield lambda key=key, text=text: parse_address(text, key=key)  # type: ignore[misc]
    yield lambda: loaded.path(loaded.offline.path)


def check(text: str | bytes, environ: dict[str, str], overrides: dict[str, Any]) -> None:
    try:
        loaded = load(text, environ, overrides)
    except FeatureStoreError as error:
        refused: FeatureStoreError | None = error
    else:
        refused = None
    if refused is not None:
        assert isinstance(refused, InvalidSettings)
        assert len(str(refused).encode()) < 5_000
        return
    for use in every_use(loaded):
        with suppress(FeatureStoreError):
            use()


@settings(max_examples=examples(80), deadline=None)
@given(st.dictionaries(SECTIONS, st.dictionaries(KEYS, ANYTHING, max_size=4), max_size=4))
def test_any_file(sections: dict[str, dict[str, Any]]) -> None:
    clean = without_null({"project": {"name": "shop"}} | sections)
    check(toml(clean), {}, {})


@settings(max_examples=examples(80), deadline=None)
@given(st.dictionaries(st.tuples(SECTIONS, KEYS).map(".".join) | st.text(), ANYTHING, max_size=4))
def test_any_arguments(overrides: dict[str, Any]) -> None:
    check(MINIMAL, {}, overrides)


@settings(max_examples=examples(80), deadline=None)
@given(
    st.dictionaries(
        st.tuples(SECTIONS, KEYS).map(lambda pair: variable(".".join(pair)))
        | st.text(max_size=9).map(lambda text: f"FEATURESTORE__{text}"),
        st.text(max_size=20) | st.sampled_from(["\udcff", "9" * 5_000, "-0", " 1 ", "1_0", "TRUE"]),
        max_size=4,
    )
)
def test_any_environment(environ: dict[str, str]) -> None:
    check(MINIMAL, environ, {})


@settings(max_examples=examples(80), deadline=None)
@given(
    st.binary(max_size=60)
    | st.text(alphabet="[]{}=\"'.,\\#\n abcx019-_:+", max_size=60).map(lambda t: MINIMAL + t)
)
@example("[project]\nname = " + "[" * 5_000)
@example("[project]\nname = " + "9" * 5_000)
@example("[project]\nname = 0x" + "f" * 5_000)
@example("[project]\nname = " + "{a=" * 5_000)
@example("[" + "a." * 5_000 + "b]")
def test_any_bytes(text: str | bytes) -> None:
    check(text, {}, {})


@pytest.mark.parametrize(
    "value",
    [16**5_000, -(16**5_000), [16**5_000], "x" * 10_000, 1e400],
    ids=["large", "negative", "list", "text", "infinite"],
)
@pytest.mark.parametrize("name", ["project.name", "online.timeout_ms", "serving.insecure"])
def test_values_too_long_to_show(name: str, value: Any) -> None:
    """Python refuses to write numbers of thousands of digits; so does hypothesis."""
    check(MINIMAL, {}, {name: value})


URLS = st.builds(
    "{}{}".format,
    st.sampled_from(
        ["", "redis:", "redis://", "rediss+cluster://", "redis+sentinel://a/b", "s://["]
    ),
    st.text(alphabet="[]@:/?#=&%,.01aé\\ ", max_size=30) | TEXT,
)


@pytest.mark.parametrize(
    "parse",
    [
        lambda url: parse_target(url, example=""),
        parse_cluster,
        parse_sentinel,
        lambda url: database._parse(url, Path("/nowhere")),
        lambda url: database._parse(f"sqlite:///{url}", Path("/nowhere")),
        lambda url: database._parse(f"postgresql://{url}", Path("/nowhere")),
        plugins.scheme_of,
        lambda url: parse_address(url, key="grpc"),
        is_local_target,
        mask_url,
    ],
    ids=[
        *("redis", "cluster", "sentinel", "registry", "sqlite", "postgres"),
        *("scheme", "address", "target", "mask"),
    ],
)
def test_any_url(parse: Callable[[str], object]) -> None:
    @settings(max_examples=examples(40), deadline=None)
    @given(URLS)
    def run(url: str) -> None:
        with suppress(FeatureStoreError):
            parse(url)

    run()
