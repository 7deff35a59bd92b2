"""Lists, descriptions and info through the facade."""

from __future__ import annotations

from pathlib import Path

import pytest

from featurestore import FeatureStore
from featurestore.errors import UnknownReference
from featurestore.masking import mask_url
from featurestore.timeline import ManualClock, to_us
from tests.conftest import MakeRepo, utc

DEFINITIONS = """
from featurestore import Entity, Feature, FeatureService, FeatureView, FileSource, SqlSource

shop = Entity("shop", join_keys={"shop_id": "int64"}, description="Where it is sold", owner="ops")
sales = FileSource("sales", path="sales.csv", event_time="sold_at", tags={"team": "ops"})
daily = SqlSource(
    "daily",
    "SELECT shop_id, max(sold_at) AS sold_at, sum(cents)::BIGINT AS cents FROM sales GROUP BY 1",
    event_time="sold_at",
)
takings = FeatureView(
    "takings", entities=[shop], source=daily, ttl="1d", grace="2h",
    features=[Feature("cents"), Feature("euros", "cents / 100", description="Two decimals")],
)
till = FeatureService("till", features=[takings[["euros"]].with_join_key_map({"shop_id": "store"})])
"""


@pytest.fixture
def folder(make_repo: MakeRepo) -> Path:
    made = make_repo(DEFINITIONS)
    (made / "sales.csv").write_text("shop_id,sold_at,cents\n1,2024-05-01T10:00:00Z,250\n")
    return made


@pytest.fixture
def fs(folder: Path) -> FeatureStore:
    return FeatureStore(folder, clock=ManualClock(to_us(utc(2024, 5, 1, 12))))


def test_lists_are_short_and_in_name_order(fs: FeatureStore) -> None:
    with fs:
        assert [row["name"] for row in fs.list("sources")] == ["daily", "sales"]
        (view,) = fs.list("views")
        assert (view["entities"], view["features"], view["ttl"]) == (["shop"], 2, "1d")
        assert fs.list("sources")[1]["kind"] == "csv"
        assert fs.list("sources")[0]["reads"] == ["sales"]
        assert fs.list("entities")[0]["join_keys"] == {"shop_id": "int64"}


def test_descriptions_say_everything(fs: FeatureStore) -> None:
    with fs:
        entity = fs.describe("entities", "shop")
        assert entity["used_by"] == ["takings"]
        assert entity["owner"] == "ops"
        assert entity["defined_at"].endswith("definitions.py:4")
        source = fs.describe("sources", "daily")
        assert source["columns"] == {"cents": "int64", "shop_id": "int64", "sold_at": "timestamp"}
        assert "GROUP BY" in source["query"]
        service = fs.describe("services", "till")
        assert service["join_keys"] == ["store"]
        assert service["features"] == {"takings": ["euros"]}
        with pytest.raises(UnknownReference, match="Did you mean 'till'"):
            fs.describe("services", "tills")


def test_a_view_shows_its_online_tables(fs: FeatureStore) -> None:
    with fs:
        assert fs.describe("views", "takings")["online"] == []
        fs.apply()
        fs.materialize()
        view = fs.describe("views", "takings")
        assert view["grace"] == "2h"
        assert view["features"][1]["description"] == "Two decimals"
        assert view["features"][1]["expression"] == "(cents / 100)"
        (table,) = view["online"]
        assert table["complete"]
        assert (table["generation"], table["rows_written"]) == (0, 1)
        assert table["watermark"] == "2024-05-01T12:00:00Z"


def test_info_tells_what_answers_and_masks_passwords(folder: Path) -> None:
    url = "redis://me:s3cret@127.0.0.1:1/0"
    with FeatureStore(folder, overrides={"online.url": url, "online.timeout_ms": 200}) as fs:
        report = fs.info()
    assert "s3cret" not in str(report)
    assert report["online"] == "redis://me:***@127.0.0.1:1/0"
    assert report["state"]["registry"] == "ok"
    assert "[store-unavailable]" in report["state"]["online"]
    made = {"entities": 1, "sources": 2, "views": 1, "services": 1}
    assert report["objects"] == made | {"on_demand": 0, "requests": 0}


def test_info_works_where_the_repository_does_not(folder: Path) -> None:
    (folder / "definitions.py").write_text("x = 1 /")
    with FeatureStore(folder) as fs:
        assert "definitions.py:1" in fs.info()["problem"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("lmdb:.featurestore/online", "lmdb:.featurestore/online"),
        (
            "postgresql://u:p@h:5432/d?sslmode=require",
            "postgresql://u:***@h:5432/d?sslmode=require",
        ),
        ("redis://:p@h/0", "redis://:***@h/0"),
        ("redis+cluster://u:p@h:1,[::1]:2,[::2]", "redis+cluster://u:***@h:1,[::1]:2,[::2]"),
        (
            "redis+sentinel://u:p@s:1,t/m/0?sentinel_password=p%40&ssl_ca_certs=f",
            "redis+sentinel://u:***@s:1,t/m/0?sentinel_password=***&ssl_ca_certs=f",
        ),
    ],
)
def test_mask(url: str, shown: str) -> None:
    assert mask_url(url) == shown
