"""What is stored is damaged: an error that says so, never a crash, and other keys are unharmed."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import kill_jobs
import pyarrow as pa
import pytest
import sqlalchemy as sa
from redis_servers import RedisServer, valkey_binary

from featurestore import FeatureStore
from featurestore.client import FeatureClient
from featurestore.errors import CorruptRow, FeatureStoreError, SchemaTooNew, SourceMissing
from featurestore.serving.serve import ServerProcess
from featurestore.stores.online.base import KeyFields, RowBatch
from featurestore.stores.online.lmdb import LmdbStore
from featurestore.stores.registry.schema import VERSION_TABLE
from tests.conftest import MakeRepo

pytestmark = pytest.mark.slow

ROUNDS = 40 + 2_000 * int(os.environ.get("FAULT_ROUNDS", "0"))


@pytest.fixture(scope="module")
def valkey() -> Iterator[RedisServer]:
    with RedisServer(valkey_binary()) as server:
        yield server


@pytest.fixture(params=["lmdb", "redis"])
def folder(request: pytest.FixtureRequest, make_repo: MakeRepo, valkey: RedisServer) -> Path:
    """A repository that is served."""
    valkey.command("FLUSHALL")
    url = "lmdb:.featurestore/online" if request.param == "lmdb" else valkey.url
    made = make_repo("", online={"url": url, "timeout_ms": 5_000})
    kill_jobs.write_definitions(made)
    kill_jobs.write_prices(made, "1.parquet", 100)
    kill_jobs.roll_out(made)
    return made


def stored_row(fs: FeatureStore, item: int) -> tuple[bytes, bytes, bytes]:
    """The key, the field and the bytes of an item's row."""
    from featurestore.jobs.online_tables import online_tables
    from featurestore.wire.keys import key_encoder, key_prefix

    (view,) = fs.repo.views.values()
    table = online_tables(fs.registry, [view])[view.storage_hash]
    key = key_encoder([k.dtype for k in view.keys], key_prefix("shop", view.key_space))((item,))
    ((row,),) = fs.online_store.read([KeyFields(key, (table.field,))])
    assert row is not None
    return key, table.field, row


def test_bits_that_flip_in_a_row_harm_that_row_alone(folder: Path) -> None:
    chance, found = random.Random(7), set[str]()
    with FeatureStore(folder) as fs:
        key, field, now = stored_row(fs, 3)
        whole = now
        for _ in range(ROUNDS):
            damaged = bytearray(whole)
            for _ in range(chance.choice((1, 1, 2, 8))):
                place = chance.randrange(len(whole))
                damaged[place] ^= 1 << chance.randrange(8)
            if chance.random() < 0.2:
                del damaged[chance.randrange(1, len(damaged)) :]
            row = bytes(damaged)
            if row == now:
                continue
            assert fs.online_store.replace(field, key, expected=now, row=row, expire_at_us=None)
            now = row
            try:
                answer = fs.get_online_features("shelf", {"item": [3]}).to_dict()
                found.add("another value")
                assert answer["cents"][0] is None or isinstance(answer["cents"][0], int)
                assert answer["label"][0] is None or isinstance(answer["label"][0], str)
            except CorruptRow as error:
                found.add("corrupt" if "price" in str(error) else str(error))
            others = fs.get_online_features("shelf", {"item": [2, 4]}).to_dict()
            assert others["label"] == ["100 of 2", "100 of 4"]
        # A request is answered whole or not at all: the damaged row fails those that ask for it.
        garbage = b"\xff" * 40
        assert fs.online_store.replace(field, key, expected=now, row=garbage, expire_at_us=None)
        for items in ([3], [2, 3, 4], range(kill_jobs.ITEMS)):
            with pytest.raises(CorruptRow, match="price"):
                fs.get_online_features("shelf", {"item": items})
        assert found == {"corrupt", "another value"}
        fs.materialize(replace=True)
    assert kill_jobs.answers(folder) == {(100, 100, "PRESENT", "PRESENT")}


READ = """
import sys
from featurestore.errors import StoreError
from featurestore.stores.online.base import KeyFields
from featurestore.stores.online.lmdb import LmdbStore

reads = [KeyFields(b"%d" % number, (bytes(8),)) for number in range(2_000)]
with LmdbStore(sys.argv[1], map_size_mb=1) as store:
    try:
        print("read", len(store.read(reads)))
    except StoreError as error:
        assert "damaged" in str(error), error
        print("damaged")
"""


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_lmdb_file_never_ends_the_process(tmp_path: Path, damage: str) -> None:
    row = b"\x09" + bytes(8) + b"\x11" + bytes(8) + b"x" * 200
    keys = [b"%d" % number for number in range(2_000)]
    with LmdbStore(tmp_path / "whole", map_size_mb=1) as store:
        store.write(RowBatch(field=bytes(8), keys=keys, rows=[row] * len(keys), expire_at_us=None))
    size = (tmp_path / "whole" / "data.mdb").stat().st_size
    chance, said = random.Random(7), set[str]()
    for number in range(3 + ROUNDS // 100):
        folder = shutil.copytree(tmp_path / "whole", tmp_path / f"{number}")
        file = folder / "data.mdb"
        if damage == "cut":
            os.truncate(file, chance.randrange(1, size - 4_096))
        else:
            content = bytearray(file.read_bytes())
            for _ in range(200):
                content[chance.randrange(size)] ^= 1 << chance.randrange(8)
            file.write_bytes(content)
        result = subprocess.run(
            [sys.executable, "-c", READ, str(folder)], capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        said.add(result.stdout.split()[0])
    assert "damaged" in said


def write_again(fs: FeatureStore) -> None:
    fs.materialize(replace=True)


def make_training_set(fs: FeatureStore) -> None:
    now = pa.array([fs.clock.now_us()], pa.timestamp("us"))
    frame = pa.table({"item": [1], "event_timestamp": now})
    fs.get_historical_features(frame, "shelf").to_arrow()


@pytest.mark.parametrize("read", [write_again, make_training_set])
def test_a_parquet_file_that_was_cut_off(
    make_repo: MakeRepo, read: Callable[[FeatureStore], None]
) -> None:
    folder = make_repo("", online={"url": "lmdb:.featurestore/online"})
    kill_jobs.write_definitions(folder)
    kill_jobs.write_prices(folder, "1.parquet", 100)
    kill_jobs.roll_out(folder)
    kill_jobs.write_prices(folder, "2.parquet", 200, age_us=1_000_000)
    file = folder / "data" / "2.parquet"
    whole = file.read_bytes()
    for size in (0, 3, len(whole) // 2, len(whole) - 9, len(whole) - 1):
        file.write_bytes(whole[:size])
        with FeatureStore(folder) as fs, pytest.raises(FeatureStoreError, match=r"2\.parquet"):
            read(fs)
        with FeatureStore(folder) as fs:
            answer = fs.get_online_features("shelf", {"item": [1]})
            assert answer.to_dict()["cents"] == [100]
    # Its footer is whole, but what it points to is not there.
    file.write_bytes(bytes(100) + whole[100:])
    with FeatureStore(folder) as fs, pytest.raises(SourceMissing, match=r"2\.parquet"):
        read(fs)
    file.write_bytes(whole)
    kill_jobs.materialize(folder)
    assert kill_jobs.answers(folder) == {(200, 200, "PRESENT", "PRESENT")}


def test_a_registry_that_a_newer_version_has_changed(make_repo: MakeRepo) -> None:
    """Nobody of us writes to it any more, also not who had opened it before; servers go on."""
    folder = make_repo(
        "",
        online={"url": "lmdb:.featurestore/online"},
        serving={"grpc": "127.0.0.1:0", "http": "", "reload_interval_ms": 100},
    )
    kill_jobs.write_definitions(folder)
    kill_jobs.write_prices(folder, "1.parquet", 100)
    kill_jobs.roll_out(folder)
    with FeatureStore(folder) as early, ServerProcess.start(early.settings) as server:
        before = early.registry.aliases()
        engine = sa.create_engine(f"sqlite:///{folder}/.featurestore/registry.db")
        with engine.begin() as connection:
            connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
        engine.dispose()
        for write in (early.materialize, early.apply):
            with pytest.raises(SchemaTooNew, match="9999"):
                write()
        kill_jobs.write_definitions(folder, "cents * 3")
        with FeatureStore(folder) as late, pytest.raises(SchemaTooNew, match="pip install"):
            late.apply()
        with FeatureClient(server.grpc_target) as client:
            for item in range(20):
                found = client.get_online_features("shelf", {"item": [item]})
                assert found.to_dict()["cents"] == [100]
        assert early.registry.aliases() == before
