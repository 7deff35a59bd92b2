"""The demo, as a user runs it, and its parts."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from featurestore.cli.demo import command, model
from featurestore.cli.demo.servers import feature_server, free_port, redis_server
from featurestore.cli.main import run
from featurestore.errors import ServerUnavailable
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
    assert served < 0.65
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
    assert re.search(r"late with probability 0\.\d\d", printed)
    p50, p99 = numbers(
        r"2,000 lookups, one after the other: p50 ([\d.]+) ms, p99 ([\d.]+)", printed
    )
    assert 0 < p50 < p99

    took_ms, moved = numbers(r"read back in (\d+) ms: (\d+) features moved", printed)
    assert took_ms >= 0
    assert moved >= 5
    assert re.search(r"^previous_arr_delay +\S+ +120$", printed, re.MULTILINE)


@pytest.mark.slow
def test_the_demo_walks_the_whole_path_twice(tmp_path: Path) -> None:
    folder = tmp_path / "flights"
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

    # The commands that it says to try next work.
    lookups = re.findall(r"^    \S*featurestore (get-online .*)$", second.stdout, re.MULTILINE)
    assert len(lookups) == 2
    for lookup in lookups:
        assert run(lookup.split(), debug=False) == 0


@pytest.mark.slow
def test_the_demo_on_a_redis_server(tmp_path: Path) -> None:
    done = demo(tmp_path / "flights", "--online", "redis")
    assert done.returncode == 0, done.stderr
    check_walk(done.stdout)
    (port,) = re.findall(r"at redis://127\.0\.0\.1:(\d+)/0", done.stdout)[:1]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(port)), timeout=1)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_demo_leaves_no_server(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "featurestore", "demo", "--online", "redis"]
    process = subprocess.Popen(
        [*command, "--folder", str(tmp_path / "flights")],
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


class TestModel:
    @pytest.fixture
    def table(self) -> pa.Table:
        rng = np.random.default_rng(0)
        delay = rng.normal(size=400)
        return pa.table(
            {
                "flight_id": pa.array(range(400)),
                "event_timestamp": pa.array(range(400), pa.timestamp("us", tz="UTC")),
                "delay": pa.array(delay, mask=np.arange(400) % 10 == 0),
                "cancelled": pa.array(rng.random(400) < 0.5),
                "carrier": pa.array(["UA"] * 400),
                "late": pa.array(delay > 0),
            }
        )

    def test_tested_on_its_future(self, table: pa.Table) -> None:
        shuffled = table.take(pa.array(np.random.default_rng(1).permutation(400)))
        train, test = model.split(shuffled)
        assert (train.num_rows, test.num_rows) == (320, 80)
        assert train["flight_id"].to_pylist() == list(range(320))

    def test_learns_from_numbers_and_bools_only(self, table: pa.Table) -> None:
        train, test = model.split(table)
        fitted = model.train(train)
        assert fitted.columns == ("delay", "cancelled")
        assert model.auc(fitted, test) > 0.9
        assert ((fitted.probabilities(test) >= 0) & (fitted.probabilities(test) <= 1)).all()

    def test_share_different_counts_nulls(self) -> None:
        left = pa.table({"flight_id": [1, 2, 3, 4], "x": [1, None, None, 4]})
        right = pa.table({"flight_id": [4, 2, 3, 1], "x": [5, None, 3, 1]})
        assert model.share_different(left, right, "x") == 0.5
