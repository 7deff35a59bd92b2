"""Features of the flights that leave New York: what was known before a flight took off?

`featurestore demo` prepares the data in `data/` and walks through all of it.
"""

from featurestore import (
    Aggregation,
    DataContract,
    Entity,
    Feature,
    FeatureService,
    FeatureTest,
    FeatureView,
    FileSource,
    Gates,
    OnDemandFeatureView,
    RequestSource,
    SqlSource,
)

# --- Entities: what features are about, and the columns that identify it ------------------------

plane = Entity("plane", join_keys={"tailnum": "string"}, description="An aircraft, by its tail")
airport = Entity("airport", description="An airport, by its FAA code")
carrier = Entity("carrier", description="An airline, by its two-character code")
route = Entity(
    "route",
    join_keys={"origin": "string", "dest": "string"},
    description="From one airport to another: a composite key",
)

# --- Sources: where rows come from, when they happened and when they were known ------------------

# A flight's row is about its scheduled departure, but its outcome is not known before it has
# landed. `created_time` says so. Leave it out, and a training set sees delays of flights that were
# still in the air (or had not even left): features that no server will ever have.
flights = FileSource(
    "flights",
    path="data/flights/*.parquet",
    event_time="scheduled_at",
    created_time="known_at",
    tiebreak=["flight_id"],
    description="Every flight out of EWR, JFK and LGA with its outcome",
)

# The same files under the airport entity's column name: `field_mapping` is {theirs: ours}.
airport_flights = FileSource(
    "airport_flights",
    path="data/flights/*.parquet",
    event_time="scheduled_at",
    created_time="known_at",
    field_mapping={"origin": "airport"},
    tiebreak=["flight_id"],
    description="The flights again, by the airport that they leave from",
)

# The same rows as events: how each flight ended, at the moment when that was known. `event_id` lets
# rows be pushed, and lets a later row correct an earlier one.
outcomes = FileSource(
    "outcomes",
    path="data/flights/*.parquet",
    event_time="known_at",
    event_id="flight_id",
    description="How flights ended, as events: landings, cancellations, diversions",
)

airport_outcomes = FileSource(
    "airport_outcomes",
    path="data/flights/*.parquet",
    event_time="known_at",
    event_id="flight_id",
    field_mapping={"origin": "airport"},
    description="How flights ended, by the airport that they left from",
)

weather = FileSource(
    "weather",
    path="data/weather.parquet",
    event_time="observed_at",
    created_time="published_at",
    field_mapping={"origin": "airport"},
    description="Hourly observations at EWR, JFK and LGA, published 15 minutes later",
)

planes = FileSource(
    "planes",
    path="data/planes.parquet",
    event_time="recorded_at",
    description="The aircraft register; about one plane in six that flew is missing from it",
)

airports = FileSource(
    "airports",
    path="data/airports.csv",
    event_time="recorded_at",
    field_mapping={"faa": "airport"},
    description="Places and heights of airports",
)

# An SQL source is a query over other sources, by their names. Each row summarizes one day's
# outcomes and is about the end of that day, so it contains nothing that was not known by then.
route_days = SqlSource(
    "route_days",
    query="""
        SELECT origin, dest, date_trunc('day', known_at) + INTERVAL 1 DAY AS day_end,
               count(*) AS finished,
               avg(arr_delay) AS mean_arr_delay,
               avg(CASE WHEN cancelled THEN 1.0 ELSE 0.0 END) AS cancelled_share,
               sum(seats)::BIGINT AS seats
        FROM flights LEFT JOIN planes USING (tailnum)
        GROUP BY ALL
    """,
    event_time="day_end",
    description="Each route's outcomes per day (UTC), with the seats of the planes",
)

network_hours = SqlSource(
    "network_hours",
    query="""
        SELECT date_trunc('hour', departed_at) + INTERVAL 1 HOUR AS hour_end,
               count(*) AS departures,
               avg(dep_delay) AS mean_dep_delay
        FROM flights WHERE departed_at IS NOT NULL
        GROUP BY ALL
    """,
    event_time="hour_end",
    description="What left New York in each hour, all airports together",
)

# --- Feature views: the newest row of each entity, if it is not older than the ttl --------------

origin_weather = FeatureView(
    "origin_weather",
    entities=[airport],
    source=weather,
    ttl="3h",
    owner="ops@example.org",
    tags={"team": "ops"},
    features=[
        Feature("temp", description="Fahrenheit"),
        Feature("wind_kts", "wind_speed * 0.868976", description="Wind in knots (it comes in mph)"),
        Feature("wind_dir", description="Where the wind comes from, degrees from north"),
        Feature("visib", description="Visibility in miles"),
        Feature("precip", description="Precipitation in inches"),
    ],
)

last_landing = FeatureView(
    "last_landing",
    entities=[plane],
    source=flights,
    ttl="2d",
    description="How this plane's previous flight ended",
    features=[
        Feature("plane_arr_delay", "arr_delay", description="Minutes; NULL if it never got there"),
        Feature("plane_dep_delay", "dep_delay"),
        Feature("plane_mph", "distance * 60.0 / air_time"),
    ],
)

# Two entities: one row for each carrier at each airport. This is the view where an as-of join that
# looks at schedules alone leaks most.
carrier_at_airport = FeatureView(
    "carrier_at_airport",
    entities=[carrier, airport],
    source=airport_flights,
    ttl="12h",
    description="The carrier's latest outcome here",
    features=[
        Feature("carrier_arr_delay", "arr_delay"),
        Feature("carrier_dep_delay", "dep_delay"),
        Feature("carrier_cancelled", "cancelled"),
    ],
)

last_on_route = FeatureView(
    "last_on_route",
    entities=[route],
    source=flights,
    ttl="2d",
    features=[Feature("route_arr_delay", "arr_delay"), Feature("route_air_time", "air_time")],
)

route_day = FeatureView(
    "route_day",
    entities=[route],
    source=route_days,
    ttl="2d",
    features=[
        Feature("route_mean_arr_delay", "mean_arr_delay"),
        Feature("route_cancelled_share", "cancelled_share"),
        Feature("route_seats", "seats"),
    ],
)

# No entity: one row for everything.
network_hour = FeatureView(
    "network_hour",
    source=network_hours,
    ttl="12h",
    features=[
        Feature("network_departures", "departures"),
        Feature("network_mean_dep_delay", "mean_dep_delay"),
    ],
)

# --- Windows: what happened to an entity in the last hour, day, week and month -------------------

# One aggregation over several windows makes a feature of each. A window is closed on the left and
# open on the right, so that no flight counts among its own features.
WINDOWS = ["1h", "24h", "7d", "30d"]
CANCELLED = "CASE WHEN cancelled THEN 1.0 ELSE 0.0 END"


def rates(prefix: str) -> list[Aggregation]:
    """Mean delay and share of cancellations of what ended in each of the windows."""
    return [
        Aggregation("arr_delay", "mean", windows=WINDOWS, name=f"{prefix}_arr_delay_mean"),
        Aggregation(CANCELLED, "mean", windows=WINDOWS, name=f"{prefix}_cancelled_share"),
    ]


plane_history = FeatureView(
    "plane_history",
    entities=[plane],
    source=outcomes,
    description="What this aircraft has been doing, and its previous leg",
    features=[
        *rates("plane"),
        Aggregation("*", "count", window="24h", name="plane_legs_24h"),
        Aggregation("dest", "last", window="7d", name="previous_dest"),
        Aggregation("arr_delay", "last", window="7d", name="previous_arr_delay"),
        Aggregation("distance", "sum", window="7d", name="plane_miles_7d"),
    ],
)

carrier_history = FeatureView(
    "carrier_history", entities=[carrier], source=outcomes, features=rates("carrier")
)

route_history = FeatureView(
    "route_history", entities=[route], source=outcomes, features=rates("route")
)

origin_history = FeatureView(
    "origin_history", entities=[airport], source=airport_outcomes, features=rates("origin")
)

# No ttl: facts that stay true.
plane_facts = FeatureView(
    "plane_facts",
    entities=[plane],
    source=planes,
    features=[Feature("built"), Feature("seats"), Feature("engines"), Feature("manufacturer")],
)

airport_facts = FeatureView(
    "airport_facts",
    entities=[airport],
    source=airports,
    features=[
        Feature("airport_name", "name"),
        Feature("lat"),
        Feature("lon"),
        Feature("alt_m", "alt * 0.3048", description="Height in metres (it comes in feet)"),
    ],
)

# --- On demand: what only the request knows -------------------------------------------------------

# Which runway is used is decided minutes before; the request says it. What the wind means for it is
# computed when it is asked for, by the same expressions in training and in serving.
runway = RequestSource(
    "runway", schema={"heading": "float64"}, description="Degrees from north, 220.0 is runway 22"
)

runway_wind = OnDemandFeatureView(
    "runway_wind",
    inputs=[origin_weather[["wind_kts", "wind_dir"]], runway],
    features=[
        Feature("head_wind_kts", "wind_kts * cos(radians(wind_dir - heading))"),
        Feature("cross_wind_kts", "abs(wind_kts * sin(radians(wind_dir - heading)))"),
    ],
)

# --- Feature services: what one model asks for --------------------------------------------------

# The caller has a flight: tailnum, carrier, origin, dest. `with_join_key_map` says which of its
# columns is a view's key, `with_name` lets one view be used a second time.
delay_model = FeatureService(
    "delay_model",
    features=[
        origin_weather.with_join_key_map({"airport": "origin"}),
        last_landing,
        carrier_at_airport.with_join_key_map({"airport": "origin"}),
        last_on_route,
        route_day,
        network_hour,
        plane_history,
        carrier_history,
        route_history,
        origin_history.with_join_key_map({"airport": "origin"}),
        plane_facts[["built", "seats"]],
        airport_facts[["lat", "lon", "alt_m"]]
        .with_name("dest_airport")
        .with_join_key_map({"airport": "dest"}),
    ],
    owner="ml@example.org",
    description="Will this flight arrive more than 15 minutes late?",
)

gate_board = FeatureService(
    "gate_board",
    features=[origin_weather[["temp", "wind_kts"]], airport_facts[["airport_name"]], network_hour],
    description="What the screen at the gate shows, by airport",
)

take_off = FeatureService(
    "take_off",
    features=[origin_weather[["wind_kts", "visib"]], runway_wind],
    description="The wind along and across a runway, by airport and heading",
)

# --- Gates: what a version of the model `delay` must prove before it is in production -------------

# `no_worse` compares it with the model that is in production on the very same flights, by a paired
# bootstrap: with 95 % confidence its AUC is not lower by more than that.
delay_gates = Gates(
    "delay",
    evaluate_on="delays/test",
    minimum={"auc": 0.7},
    no_worse={"auc": 0.01},
    slices={"origin": {"auc": 0.65}},
    size_bytes_max=5_000_000,
    contracts=DataContract(
        rows_min=10_000,
        unique=["flight_id"],
        null_rate_max={"temp": 0.05},
        ranges={"temp": (-30, 120)},
    ),
    approvals=1,
)

# --- Tests: examples that `featurestore test` holds against both paths ----------------------------

leg = {
    "flight_id": 1,
    "tailnum": "N14228",
    "origin": "EWR",
    "dest": "IAH",
    "scheduled_at": "2013-07-01T10:00Z",
    "known_at": "2013-07-01T14:02Z",
    "arr_delay": 11,
    "cancelled": False,
}

tests = [
    FeatureTest(
        "a flight's outcome is not known before it has landed",
        features=last_landing,
        rows={flights: [leg]},
        expect=[
            {
                "tailnum": "N14228",
                "event_timestamp": "2013-07-01T14:01:59Z",
                "last_landing__status": "NOT_FOUND",
            },
            {
                "tailnum": "N14228",
                "event_timestamp": "2013-07-01T14:02Z",
                "plane_arr_delay": 11,
            },
        ],
    ),
    FeatureTest(
        "a leg counts from the instant after it is known until its window has passed",
        features=plane_history[["plane_legs_24h", "plane_arr_delay_mean_1h", "previous_dest"]],
        rows={outcomes: [leg]},
        expect=[
            {
                "tailnum": "N14228",
                "event_timestamp": "2013-07-01T14:02Z",
                "plane_legs_24h": 0,
                "previous_dest": None,
            },
            {
                "tailnum": "N14228",
                "event_timestamp": "2013-07-01T14:02:00.000001Z",
                "plane_legs_24h": 1,
                "plane_arr_delay_mean_1h": 11.0,
                "previous_dest": "IAH",
            },
            {
                # The left end is at whole hops, here of 5 minutes: 15:04:59 reaches back to 14:00.
                "tailnum": "N14228",
                "event_timestamp": "2013-07-01T15:04:59Z",
                "plane_arr_delay_mean_1h": 11.0,
            },
            {
                "tailnum": "N14228",
                "event_timestamp": "2013-07-01T15:05Z",
                "plane_arr_delay_mean_1h": None,
                "plane_legs_24h": 1,
            },
        ],
    ),
    FeatureTest(
        "wind from ahead is head-wind, wind from the side is cross-wind",
        features=runway_wind,
        rows={
            weather: [
                {
                    "airport": "EWR",
                    "observed_at": "2013-07-01T10:00Z",
                    "published_at": "2013-07-01T10:15Z",
                    "wind_speed": 10.0,
                    "wind_dir": 220,
                }
            ]
        },
        expect=[
            {
                "airport": "EWR",
                "event_timestamp": "2013-07-01T10:15Z",
                "heading": 220.0,
                "head_wind_kts": 8.68976,
                "cross_wind_kts": 0.0,
            },
            {
                "airport": "EWR",
                "event_timestamp": "2013-07-01T10:15Z",
                "heading": 310.0,
                "head_wind_kts": 0.0,
                "cross_wind_kts": 8.68976,
            },
        ],
    ),
]
