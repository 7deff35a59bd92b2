"""The demo, as a user runs it, and its parts."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import log_loss

from featurestore.cli.demo import command, model
from featurestore.cli.demo.printing import abridged
from featurestore.cli.demo.servers import feature_server, free_port, redis_server
from featurestore.cli.main import run
from featurestore.errors import ServerUnavailable
from featurestore.example.flights import prepare
from featurestore.example.location import FILES


def demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the demo in a process of its own, its repository in `folder`."""
    return subprocess.run(
        [sys.executable, "-m", "featurestore", "demo", "--folder", str(folder), *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )


def numbers(pattern: str, text: str) -> list[float]:
    """The groups of the only match of `pattern`, as numbers."""
    (found,) = re.findall(pattern, text)
    groups = found if isinstance(found, tuple) else (found,)
    return [float(group.replace(",", "")) for group in groups]


def check_walk(printed: str) -> None:
    """What every demo must show."""
    assert "336,776 flights" in printed
    assert "Applied." in printed

    tested, served = numbers(r"at departure +event +\d+ +([\d.]+) +([\d.]+)", printed)
    assert tested > 0.99, "with its own outcome among its features a flight is easily predicted"
    assert served < 0.7
    honest, honest_served = numbers(r"at departure +known +\d+ +([\d.]+) +([\d.]+)", printed)
    assert honest == honest_served
    assert served + 0.05 < honest < tested - 0.1

    tested, served = numbers(r"an hour before +event +\d+ +([\d.]+) +([\d.]+)", printed)
    assert tested > served
    (share,) = numbers(r"an hour before: .* differs in (\d+)%", printed)
    assert share > 75

    equal, values = numbers(r"([\d,]+) of ([\d,]+) values agree", printed)
    assert equal == values > 1_000
    assert re.search(r"^temp +[\d.]+ +PRESENT$", printed, re.MULTILINE)
    assert re.search(r"^dest|alt_m +", printed, re.MULTILINE)
    p50, p99 = numbers(
        r"2,000 lookups, one after the other: p50 ([\d.]+) ms, p99 ([\d.]+)", printed
    )
    assert 0 < p50 < p99

    check_models(printed)

    took_ms, moved = numbers(r"read back in (\d+) ms: (\d+) features moved", printed)
    assert took_ms >= 0
    assert moved >= 5
    assert re.search(r"^previous_arr_delay +\S+ +120$", printed, re.MULTILINE)


def check_models(printed: str) -> None:
    """The way of a model: rows on record, runs, gates, an approval, and the questions about it."""
    rows, features = numbers(r"([\d,]+) flights × (\d+) features of service delay_model", printed)
    assert rows > 20_000
    assert features == 59
    trained, tested = numbers(r"split +train ([\d,]+) before [-\d]+, test ([\d,]+)", printed)
    assert trained + tested == rows
    assert trained > 3 * tested
    (digest,) = re.findall(r"row digest +(rows1:[0-9a-f]+)", printed)

    for learner in (model.LINE, model.TREES):
        (auc,) = numbers(rf"(?m)^[0-9a-f]{{8}} +{learner} +(0\.\d+)", printed)
        assert 0.7 < auc < 0.8
    first, last, steps = numbers(r"([\d.]+) → ([\d.]+) in (\d+) steps", printed)
    assert first > last
    assert steps == model.PARAMS[model.TREES]["max_iter"]

    (version,) = re.findall(r"asks for (delay/\d+), gradient boosting, in production", printed)
    judged = printed.partition(f"asks for {version},")[2]
    assert re.search(rf"^(\d+) of \1 gates of {version} passed$", judged, re.MULTILINE)
    assert re.search(r"^ok +auc no worse than the champion's", judged, re.MULTILINE)
    assert re.search(r"^grace approves request [0-9a-f]{10} .*: APPLIED$", judged, re.MULTILINE)
    number = version.removeprefix("delay/")
    assert re.search(
        rf"^{version}, in production, says: late with probability 0\.\d\d$", printed, re.M
    )

    live = f"In a stage: delay v{number} (model/delay/production)."
    assert live in printed.partition("$ featurestore impact outcomes.arr_delay")[2]
    assert "= plane_history:plane_arr_delay_mean_24h  (value)" in printed
    rebuilt = printed.partition("$ featurestore reproduce model/delay/production")[2]
    assert re.match(r"\nEXACT  training_set:delays@[0-9a-f]{8}\n", rebuilt)
    assert f"all {rows:,.0f} rows came out again: {digest}" in rebuilt
    moved = printed.partition("$ featurestore diff model/delay/production@")[2]
    assert re.search(rf"^  number: \d+ → {number}$", moved, re.MULTILINE)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The flights, written once for all demos."""
    folder = tmp_path_factory.mktemp("flights")
    prepare(folder / "data")
    return folder


@pytest.fixture
def flights(prepared: Path, tmp_path: Path) -> Path:
    """A folder for a repository, with its data."""
    shutil.copytree(prepared, tmp_path / "flights")
    return tmp_path / "flights"


@pytest.mark.slow
def test_the_demo_walks_the_whole_path_twice(flights: Path) -> None:
    folder = flights
    first = demo(folder)
    assert (first.returncode, first.stderr) == (0, first.stderr)
    assert "Traceback" not in first.stderr
    check_walk(first.stdout)
    assert "ADDITIVE" in first.stdout
    assert sorted(p.name for p in folder.iterdir() if p.name in FILES) == sorted(FILES)

    second = demo(folder)
    assert second.returncode == 0, second.stderr
    assert "Nothing to apply." in second.stdout
    check_walk(second.stdout.replace("Nothing to apply.", "Applied."))

    assert "asks for delay/2, gradient boosting" in first.stdout
    assert "auc no worse than the champion's by 0.01: there is no champion yet" in first.stdout
    assert "asks for delay/4, gradient boosting" in second.stdout
    assert "there is no champion yet" not in second.stdout

    # The commands that it says to try next work; those that take long are tested elsewhere.
    said = re.findall(r"^    \S*featurestore (.*)$", second.stdout, re.MULTILINE)
    tried = {words.split()[0] for words in said} - {"materialize", "verify", "test", "init"}
    assert {"get-online", "lineage", "impact", "models", "runs", "ui", "serve"} <= tried
    for words in said:
        if words.split()[0] in tried - {"reproduce", "ui", "serve"}:
            assert run(words.split(), debug=False) == 0, words


@pytest.mark.slow
def test_the_demo_on_a_redis_server(flights: Path) -> None:
    done = demo(flights, "--online", "redis")
    assert done.returncode == 0, done.stderr
    check_walk(done.stdout)
    (port,) = re.findall(r"at redis://127\.0\.0\.1:(\d+)/0", done.stdout)[:1]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(port)), timeout=1)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_demo_leaves_no_server(flights: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "featurestore", "demo", "--online", "redis"]
    process = subprocess.Popen(
        [*command, "--folder", str(flights)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout as lines:
        # What it says first after the Valkey server started.
        (port,) = next(
            found for line in lines if (found := re.findall(r"redis://.*:(\d+)/0", line))
        )
        process.send_signal(number)
        rest = lines.read()
    assert process.wait(60) == 128 + number, rest
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(port)), timeout=1)


def test_data_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "--folder", str(tmp_path), "--data-only"], debug=False) == 0
    assert "26,115 weather observations" in capsys.readouterr().out
    assert (tmp_path / "data" / "weather.parquet").is_file()
    assert not (tmp_path / ".featurestore").exists()


def test_packages_that_are_missing_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(command.NEEDS, "no_such_module", "no-such-package")
    assert run(["demo", "--folder", str(tmp_path)], debug=False) == 1
    printed = capsys.readouterr().err
    assert "the demo needs no-such-package: pip install 'featurestore[demo]'" in printed


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(ServerUnavailable, match=r"featurestore\.toml"),
        feature_server(tmp_path, {}, tmp_path / "log" / "server.log"),
    ):
        pytest.fail("a folder without a repository can't be served")


def test_the_redis_server_stops_with_its_block(tmp_path: Path) -> None:
    with redis_server(tmp_path / "valkey") as url:
        host, _, port = url.removeprefix("redis://").removesuffix("/0").rpartition(":")
        socket.create_connection((host, int(port)), timeout=5).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=1)


def test_free_ports_are_free() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port()))


def test_long_lists_are_abridged() -> None:
    text = "a\n  1\n  2\n  3\n  4\nb\n  5\n  6\nc"
    assert abridged(text, most=2) == "a\n  1\n  2\n  … 2 more\nb\n  5\n  6\nc"
    assert (
        abridged("a\n  1\n    2\n    3\n", most=1, indent="    ") == "a\n  1\n    2\n    … 1 more"
    )


class TestModel:
    FEATURES = ("delay", "carrier", "cancelled")

    @pytest.fixture
    def table(self) -> pa.Table:
        rng = np.random.default_rng(0)
        delay = rng.normal(size=1_000)
        return pa.table(
            {
                "flight_id": pa.array(range(1_000)),
                "delay": pa.array(delay, mask=np.arange(1_000) % 10 == 0),
                "cancelled": pa.array(rng.random(1_000) < 0.5, mask=np.arange(1_000) % 7 == 0),
                "carrier": pa.array(["UA"] * 1_000),
                "late": pa.array(delay > 0),
            }
        )

    @pytest.mark.parametrize("learner", [model.LINE, model.TREES])
    def test_learns_from_numbers_and_bools_of_the_features(
        self, table: pa.Table, learner: str
    ) -> None:
        train, test = table.slice(0, 800), table.slice(800)
        fitted = model.train(learner, train, self.FEATURES)
        assert tuple(fitted.feature_names_in_) == self.FEATURES
        assert model.auc(fitted, test) > 0.9
        said = model.probabilities(fitted, test)
        assert ((said >= 0) & (said <= 1)).all()
        # One row, as it comes from a server, in which nothing is known.
        empty = pa.table({"delay": pa.nulls(1), "carrier": ["?"], "cancelled": pa.nulls(1)})
        assert 0 < model.probabilities(fitted, empty)[0] < 1

    def test_loss_falls_with_each_step_of_a_learner_that_has_steps(self, table: pa.Table) -> None:
        trees = model.train(model.TREES, table, self.FEATURES)
        falling = list(model.losses(trees, table))
        assert len(falling) == model.PARAMS[model.TREES]["max_iter"]
        assert falling[0] > falling[20] > falling[-1]
        assert falling[-1] == pytest.approx(
            log_loss(table["late"].to_numpy(), model.probabilities(trees, table))
        )
        line = model.train(model.LINE, table, self.FEATURES)
        assert len(list(model.losses(line, table))) == 1

    def test_share_different_counts_nulls(self) -> None:
        left = pa.table({"flight_id": [1, 2, 3, 4], "x": [1, None, None, 4]})
        right = pa.table({"flight_id": [4, 2, 3, 1], "x": [5, None, 3, 1]})
        assert model.share_different(left, right, "x") == 0.5
