"""The demo's steps. Each says what it does, does it with the public interface, and shows it."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from featurestore.cli.demo import model, questions
from featurestore.cli.demo.learning import MODEL, PRODUCTION, SERVICE, Learning
from featurestore.cli.demo.printing import abridged, heading
from featurestore.cli.demo.servers import feature_server, redis_server
from featurestore.cli.options import open_store
from featurestore.cli.output import counting, say, show_table, working
from featurestore.example.flights import Prepared, prepare
from featurestore.timeline import to_datetime

if TYPE_CHECKING:
    import pyarrow as pa

    from featurestore.client import FeatureClient
    from featurestore.wire.response import OnlineResponse

LOOKUPS = 2_000
FLIGHTS = 100
LATE_MINUTES = 120
KEYS = ("tailnum", "carrier", "origin", "dest")
STATE = ".featurestore"
TABLES_MAX = 3
TABLE_INDENT, FEATURE_INDENT = " " * 4, " " * 6
"""In a plan."""
MOVED_MAX = 12
SHOWN = (
    "temp", "plane_arr_delay", "carrier_arr_delay", "route_mean_arr_delay", "network_departures",
    "plane_arr_delay_mean_24h", "previous_dest", "carrier_cancelled_share_7d",
    "route_arr_delay_mean_30d", "origin_arr_delay_mean_1h", "seats", "alt_m",
)  # fmt: skip
"""One or two features of each view; `get-online` shows all of them."""


def prepare_data(root: Path) -> Prepared:
    """Step 0: the data, written once."""
    heading("The data", "every flight that left New York in 2013, with the hourly weather")
    with working("preparing the data"):
        prepared = prepare(root / "data")
    say(
        f"{prepared.flights:,} flights, {prepared.weather:,} weather observations, "
        f"{prepared.planes:,} planes and {prepared.airports:,} airports in {root / 'data'}"
    )
    say(
        f"A server reads the real clock, so the year was moved by {prepared.weeks} weeks: "
        f"it now ends {to_datetime(prepared.ends_us):%Y-%m-%d}."
    )
    return prepared


class Walk:
    """The demo's state: the repository, its store, and the servers that were started.

    Use as a context manager; everything that it started stops with the block.
    """

    def __init__(self, root: Path, data: Prepared, *, redis: bool) -> None:
        self._root = root
        self._data = data
        self._stack = ExitStack()
        self._redis = redis
        self._overrides: dict[str, str] = {}
        self._address = ""

    def __enter__(self) -> Self:
        if self._redis:
            # The server starts empty, so the ledger of what it holds starts anew with it.
            state = self._root / STATE / "redis-demo"
            shutil.rmtree(state, ignore_errors=True)
            url = self._stack.enter_context(redis_server(state / "valkey"))
            self._overrides = {
                "online.url": url,
                "registry.url": f"sqlite:///{STATE}/redis-demo/registry.db",
            }
            heading("The online store", f"a Valkey server (Redis protocol) at {url}")
        self.store = self._stack.enter_context(open_store(self._root, self._overrides))
        self._learning = Learning(
            self.store, now_us=self.store.clock.now_us(), ends_us=self._data.ends_us
        )
        return self

    def __exit__(self, *failure: Any) -> None:
        self._stack.__exit__(*failure)

    def plan_and_apply(self) -> None:
        """What the definitions say, what that changes, and the commit."""
        heading("Definitions", f"{self._root / 'flights.py'}, compared with the registry")
        with working("reading definitions and schemas"):
            plan = self.store.plan()
        say(_objects(str(plan)))
        result = self.store.apply(plan)
        say("Applied." if plan.moves else "Nothing to apply.")
        waiting = [name for name, moved in result.serving.items() if not moved]
        if waiting:
            say(f"Not served before they are materialized: {', '.join(sorted(waiting))}.")

    def learn(self) -> None:
        """A training set on record, two learners, what a leak would do to them, and the way into
        production."""
        self._learning.write_set()
        self._learning.experiment()
        self._learning.show_the_leak()
        self._learning.promote()

    def materialize(self) -> None:
        """The newest rows into the online store."""
        heading("Materialize", f"what is known by now into {self.store.settings.online.url}")
        began = time.monotonic()
        with counting("rows written", total=len(self.store.repo.views)) as report:
            runs = self.store.materialize(progress=report)
        read, written = sum(r.rows_read for r in runs), sum(r.rows_written for r in runs)
        took_s = time.monotonic() - began
        say(f"{len(runs)} views: {read:,} newest rows read, {written:,} written in {took_s:.1f} s")

    def verify(self) -> None:
        """Both paths, compared."""
        heading("Verify", "do the online and the offline path give the same values now?")
        with working("comparing"):
            report = self.store.verify(SERVICE, samples=200)
        say(f"{report.equal:,} of {report.values:,} values agree ({report.rate:.2%})")

    def look_up(self) -> None:
        """A gRPC server, a vector with statuses, and the time it takes."""
        from featurestore.client import FeatureClient

        environment = {
            "FEATURESTORE__" + key.replace(".", "__").upper(): value
            for key, value in self._overrides.items()
        }
        with working("starting the server"):
            log = self._root / STATE / "demo-server.log"
            address = self._stack.enter_context(feature_server(self._root, environment, log))
        self._address = address
        heading("Serve", f"featurestore serve, over gRPC at {address}")
        flights = self._next_flights()
        keys = flights.select(KEYS).to_pylist()
        with FeatureClient(address) as client:
            response = client.get_online_features(SERVICE, keys)
            title = "the next flight out: " + ", ".join(f"{key}={keys[0][key]}" for key in KEYS)
            self._show(response, title)
            self._predict(response)
            self._time(client, keys)

    def _show(self, response: OnlineResponse, title: str) -> None:
        values, statuses = response.to_dict(), response.statuses
        rows = [[name, values[name][0], statuses[name][0]] for name in SHOWN]
        show_table(["feature", "value", "status"], rows, title=title)
        say(f"… {len(response.feature_names) - len(SHOWN)} more")

    def _next_flights(self) -> pa.Table:
        """The flights that are scheduled next (schedules are known; outcomes are not)."""
        from pyarrow import compute as pc
        from pyarrow import dataset

        now = to_datetime(self.store.clock.now_us())
        found = dataset.dataset(self._root / "data" / "flights").to_table(
            columns=[*KEYS, "scheduled_at"],
            filter=(pc.field("scheduled_at") > now) & pc.is_valid(pc.field("tailnum")),
        )
        order = [("scheduled_at", "ascending"), ("tailnum", "ascending")]
        return found.sort_by(order).slice(0, FLIGHTS)

    def _predict(self, response: OnlineResponse) -> None:
        loaded = self.store.models.load(PRODUCTION, trust=True)
        probability = model.probabilities(loaded, response.to_arrow().slice(0, 1))[0]
        version = self.store.models.get(PRODUCTION)
        say(f"{version.ref}, in production, says: late with probability {probability:.2f}")

    def _time(self, client: FeatureClient, flights: list[dict[str, Any]]) -> None:
        took_ms = []
        with working(f"{LOOKUPS:,} lookups"):
            for number in range(LOOKUPS):
                began = time.perf_counter()
                client.get_online_features(SERVICE, [flights[number % len(flights)]])
                took_ms.append((time.perf_counter() - began) * 1_000)
        took_ms.sort()
        p50, p99 = took_ms[LOOKUPS // 2], took_ms[LOOKUPS * 99 // 100]
        say(f"{LOOKUPS:,} lookups, one after the other: p50 {p50:.2f} ms, p99 {p99:.2f} ms")

    def push_a_landing(self) -> None:
        """A landing is pushed, and the windows of plane, carrier and route move at once."""
        from featurestore.client import FeatureClient

        heading("Push", "the next landing comes in, two hours late; source 'outcomes'")
        rows = self._next_outcomes()
        with FeatureClient(self._address) as client:
            asked = [{name: row[name] for name in KEYS} for row in rows]
            previous = client.get_online_features(SERVICE, asked).to_dict()["previous_arr_delay"]
            # An earlier demo may have pushed the first of them already.
            row = next(r for r, p in zip(rows, previous, strict=True) if p != LATE_MINUTES)
            keys = [{name: row[name] for name in KEYS}]
            known_at = to_datetime(self.store.clock.now_us())
            landed = row | {"known_at": known_at, "arr_delay": LATE_MINUTES}
            before = client.get_online_features(SERVICE, keys).to_dict()
            began = time.perf_counter()
            self.store.push("outcomes", [landed])
            after = client.get_online_features(SERVICE, keys).to_dict()
            took_ms = (time.perf_counter() - began) * 1_000
        moved = [name for name in before if before[name] != after[name]]
        say(f"flight {row['flight_id']}: " + ", ".join(f"{k}={v}" for k, v in keys[0].items()))
        show_table(
            ["feature", "before", "after"],
            [[name, before[name][0], after[name][0]] for name in moved[:MOVED_MAX]],
            title=f"Pushed and read back in {took_ms:.0f} ms: {len(moved)} features moved",
        )
        if len(moved) > MOVED_MAX:
            say(f"… {len(moved) - MOVED_MAX} more")

    def _next_outcomes(self) -> list[dict[str, Any]]:
        """The flights whose outcomes would be known next."""
        from pyarrow import compute as pc
        from pyarrow import dataset

        now = to_datetime(self.store.clock.now_us())
        found = dataset.dataset(self._root / "data" / "flights").to_table(
            filter=(pc.field("known_at") > now) & ~pc.field("cancelled")
        )
        order = [("known_at", "ascending"), ("flight_id", "ascending")]
        rows: list[dict[str, Any]] = found.sort_by(order).slice(0, FLIGHTS).to_pylist()
        return rows

    def ask(self) -> None:
        """What a column leads to, what the model was made of, and what its promotion moved."""
        questions.impact(self.store)
        questions.reproduce(self.store)
        questions.diff(self.store)

    def what_next(self) -> None:
        """Commands to try."""
        program, repo = _typed(), _from_here(self._root)
        heading("Next", "try these")
        if self._redis:
            say("The Valkey server stops now. With a Redis of your own, first")
            say("    export FEATURESTORE__ONLINE__URL=redis://host:6379/0")
            say(f"    export FEATURESTORE__REGISTRY__URL={self._overrides['registry.url']}")
            say(f"    {program} apply --repo {repo}")
            say(f"    {program} materialize --repo {repo}")
        flight = self._next_flights().select(KEYS).to_pylist()[0]
        keys = " ".join(f"--entity {key}={value}" for key, value in flight.items())
        for command in (
            "list views",
            "describe views carrier_at_airport",
            f"lineage {questions.ALIAS} --depth 2",
            f"impact {questions.COLUMN}",
            f"reproduce {questions.ALIAS}",
            "models list",
            f"models history {MODEL}",
            f"runs compare {' '.join(self._learning.run_ids)}",
            f"get-online {SERVICE} {keys}",
            f"get-online take_off --entity airport={flight['origin']} --request heading=220",
            "materialize",
            f"verify {SERVICE}",
            "test",
            "ui",
            "serve",
        ):
            say(f"    {program} {command} --repo {repo}")
        say(f"    {program} init my_repo")


def _objects(plan: str) -> str:
    """A plan without the lines of single features, and the beginning of its list of tables."""
    lines = plan.splitlines()
    kept = [line for line in lines if not line.startswith(FEATURE_INDENT)]
    if len(kept) < len(lines):
        kept.append(f"({len(lines) - len(kept)} lines about single features are not shown here.)")
    return abridged("\n".join(kept), most=TABLES_MAX, indent=TABLE_INDENT)


def _typed() -> str:
    """How to call this program: by its name where the shell finds it, else by its path."""
    script = Path(sys.executable).with_name("featurestore")
    found = shutil.which("featurestore")
    if not script.is_file() or (found and script.samefile(found)):
        return "featurestore"
    return _from_here(script)


def _from_here(path: Path) -> str:
    """The path as short as it can be typed in the current folder."""
    path = path.absolute()
    here = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return shlex.quote(str(here))
