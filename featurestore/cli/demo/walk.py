"""The demo's steps. Each says what it does, does it with the public interface, and shows it."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from featurestore.cli.demo import model
from featurestore.cli.demo.servers import feature_server, redis_server
from featurestore.cli.online import show_vector
from featurestore.cli.options import open_store
from featurestore.cli.output import counting, say, show_table, working
from featurestore.example.flights import prepare
from featurestore.timeline import format_instant, to_datetime

if TYPE_CHECKING:
    import pyarrow as pa

    from featurestore.client import FeatureClient
    from featurestore.wire.response import OnlineResponse

SERVICE = "delay_model"
LOOKUPS = 2_000
FLIGHTS = 100
LATE_MINUTES = 120
KEYS = ("tailnum", "carrier", "origin", "dest")
STATE = ".featurestore"

MOMENTS = {"at departure": 0, "an hour before": 60}
"""When the question is asked: minutes before the scheduled departure."""

ENTITIES = """
    SELECT flight_id, tailnum, carrier, origin, dest, local_hour, arr_delay > 15 AS late,
           scheduled_at - INTERVAL {minutes} MINUTE AS event_timestamp
    FROM flights
    WHERE arr_delay IS NOT NULL AND known_at <= TIMESTAMPTZ '{now}' AND flight_id % 5 = 0
"""


def prepare_data(root: Path) -> None:
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


def heading(title: str, text: str) -> None:
    """The title of a step and what it is about."""
    say()
    say(f"── {title}: {text}")
    sys.stdout.flush()


class Walk:
    """The demo's state: the repository, its store, and the servers that were started.

    Use as a context manager; everything that it started stops with the block.
    """

    def __init__(self, root: Path, *, redis: bool) -> None:
        self._root = root
        self._stack = ExitStack()
        self._redis = redis
        self._overrides: dict[str, str] = {}
        self._model: model.Model | None = None
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
        return self

    def __exit__(self, *failure: Any) -> None:
        self._stack.__exit__(*failure)

    def plan_and_apply(self) -> None:
        """What the definitions say, what that changes, and the commit."""
        heading("Definitions", f"{self._root / 'flights.py'}, compared with the registry")
        with working("reading definitions and schemas"):
            plan = self.store.plan()
        say(str(plan))
        result = self.store.apply(plan)
        say("Nothing to apply." if plan.is_empty else "Applied.")
        waiting = [name for name, moved in result.serving.items() if not moved]
        if waiting:
            say(f"Not served before they are materialized: {', '.join(sorted(waiting))}.")

    def train(self) -> None:
        """A training set that knows only what was known, a leaky one, and a model on each."""
        heading("Training sets", "will the flight arrive more than 15 minutes late?")
        say("as_of='known' joins what was known at each row's time. as_of='event' looks at event")
        say("times alone, as most feature stores do, and finds outcomes of flights in the air.")
        rows = [row for moment in MOMENTS for row in self._compare(moment)]
        say()
        show_table(
            ["features", "as_of", "rows", "AUC when tested", "AUC when served"],
            rows,
            title="A model on each, trained on the first 80 % of the year, tested on the rest",
        )
        say("Served, a model gets what is known by then, whatever it was trained on: the leak")
        say("flatters in the test and is gone in production.")

    def _compare(self, moment: str) -> list[list[Any]]:
        began = time.monotonic()
        with working(f"joining features {moment}"):
            known, leaky = self._training_set(moment, "known"), self._training_set(moment, "event")
        took_s = time.monotonic() - began
        with working("training on both"):
            known_train, known_test = model.split(known)
            leaky_train, leaky_test = model.split(leaky)
            honest, flattered = model.train(known_train), model.train(leaky_train)
            self._model = honest
            share = model.share_different(known, leaky, "carrier_arr_delay")
            served = model.auc(flattered, known_test)
            rows = [
                [moment, "event", leaky.num_rows, model.auc(flattered, leaky_test), served],
                [moment, "known", known.num_rows, *[model.auc(honest, known_test)] * 2],
            ]
        say(
            f"{moment}: 2 × {known.num_rows:,} rows in {took_s:.1f} s; "
            f"the carrier's latest delay at the airport differs in {share:.0%} of them"
        )
        return [[*row[:3], f"{row[3]:.3f}", f"{row[4]:.3f}"] for row in rows]

    def _training_set(self, moment: str, as_of: Literal["known", "event"]) -> pa.Table:
        now = format_instant(self.store.clock.now_us())
        entities = ENTITIES.format(minutes=MOMENTS[moment], now=now)
        return self.store.get_historical_features(entities, SERVICE, as_of=as_of).to_arrow()

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
            show_vector(response, 0, title=title)
            self._predict(response, flights)
            self._time(client, keys)

    def _next_flights(self) -> pa.Table:
        """The flights that are scheduled next (schedules are known; outcomes are not)."""
        from pyarrow import compute as pc
        from pyarrow import dataset

        now = to_datetime(self.store.clock.now_us())
        found = dataset.dataset(self._root / "data" / "flights").to_table(
            columns=[*KEYS, "scheduled_at", "local_hour"],
            filter=(pc.field("scheduled_at") > now) & pc.is_valid(pc.field("tailnum")),
        )
        order = [("scheduled_at", "ascending"), ("tailnum", "ascending")]
        return found.sort_by(order).slice(0, FLIGHTS)

    def _predict(self, response: OnlineResponse, flights: pa.Table) -> None:
        if self._model is None:
            return
        vectors = response.to_arrow().append_column("local_hour", flights["local_hour"])
        probability = self._model.probabilities(vectors.slice(0, 1))[0]
        say(f"The model says: late with probability {probability:.2f}")

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
            [[name, before[name][0], after[name][0]] for name in moved],
            title=f"Pushed and read back in {took_ms:.0f} ms: {len(moved)} features moved",
        )

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

    def what_next(self) -> None:
        """Commands to try."""
        program, repo = _typed(), _from_here(self._root)
        heading("Next", "try these")
        if self._redis:
            say("The Valkey server stops now. With a Redis of your own, first")
            say("    export FEATURESTORE__ONLINE__URL=redis://host:6379/0")
            say(f"    {program} apply --repo {repo}")
            say(f"    {program} materialize --repo {repo}")
        flight = self._next_flights().select(KEYS).to_pylist()[0]
        keys = " ".join(f"--entity {key}={value}" for key, value in flight.items())
        for command in (
            "list views",
            "describe views carrier_at_airport",
            f"get-online {SERVICE} {keys}",
            f"get-online take_off --entity airport={flight['origin']} --request heading=220",
            "materialize",
            f"verify {SERVICE}",
            "test",
            "serve",
        ):
            say(f"    {program} {command} --repo {repo}")
        say(f"    {program} init my_repo")


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
