"""Feature definitions. Every .py file of this folder is read; every definition at module level
counts. Change something, then run `featurestore plan` to see what it means."""

from featurestore import (
    Entity,
    Feature,
    FeatureService,
    FeatureTest,
    FeatureView,
    FileSource,
    SqlSource,
)

# An entity is what features are about; its join keys are the columns that identify it.
customer = Entity("customer", join_keys={"customer_id": "int64"}, description="Who buys")

# A source's rows have an event time: when it happened. Where the row was known only later, say so
# with a created time. An order's fate (paid or refused) is reported by the bank, hours afterwards;
# without `created_time` a training set would see fates that no server could have known.
orders = FileSource(
    "orders",
    path="data/orders.csv",
    event_time="ordered_at",
    created_time="reported_at",
    description="One row per order with what became of it",
)

customers = FileSource(
    "customers",
    path="data/customers.csv",
    event_time="changed_at",
    description="One row per change of a customer's profile",
)

# An SQL source is a query over other sources, by their names. Each row is about the end of a day
# and holds what had been reported by then.
shop_days = SqlSource(
    "shop_days",
    query="""
        SELECT date_trunc('day', reported_at) + INTERVAL 1 DAY AS day_end,
               count(*) AS reported,
               avg(CASE WHEN refused THEN 1.0 ELSE 0.0 END) AS refused_share
        FROM orders
        GROUP BY ALL
    """,
    event_time="day_end",
)

# A feature view answers with the newest row of an entity. A feature is a column or an expression.
customer_profile = FeatureView(
    "customer_profile",
    entities=[customer],
    source=customers,
    features=[Feature("country"), Feature("plan", description="free, plus or pro")],
)

# With a ttl, rows that are older are not used any more (status OUTSIDE_MAX_AGE).
last_order = FeatureView(
    "last_order",
    entities=[customer],
    source=orders,
    ttl="30d",
    owner="growth@example.org",
    features=[
        Feature("amount"),
        Feature("amount_per_item", "amount / items", description="NULL for an order of nothing"),
        Feature("refused"),
    ],
)

# A view without entities has one row for all.
shop = FeatureView("shop", source=shop_days, ttl="3d", features=[Feature("refused_share")])

# A service is what one model asks for: whole views, or some of their features.
offer_model = FeatureService(
    "offer_model",
    features=[customer_profile, last_order[["amount", "amount_per_item", "refused"]], shop],
    description="Will this visitor buy today?",
)

# A test is an example: these rows, these answers. `featurestore test` asks offline and online.
fate_is_not_foreseen = FeatureTest(
    "the fate of an order is not known before the bank reports it",
    features=last_order,
    rows={
        orders: [
            {
                "customer_id": 1001,
                "ordered_at": "2024-05-01T09:00Z",
                "reported_at": "2024-05-01T15:00Z",
                "items": 2,
                "amount": 30.0,
                "refused": True,
            },
        ],
    },
    expect=[
        {
            "customer_id": 1001,
            "event_timestamp": "2024-05-01T14:59:59Z",
            "last_order__status": "NOT_FOUND",
        },
        {
            "customer_id": 1001,
            "event_timestamp": "2024-05-01T15:00Z",
            "refused": True,
            "amount_per_item": 15.0,
        },
    ],
)
