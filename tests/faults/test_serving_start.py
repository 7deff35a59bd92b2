"""Servers that cannot start say why and leave nothing behind."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from featurestore.config import RegistrySettings
from featurestore.errors import AddressUnavailable, InvalidSettings, ServerUnavailable
from featurestore.serving.serve import ServerProcess, run
from featurestore.testing.served import served_settings

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("workers", [1, 2])
def test_a_store_of_an_unknown_kind(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], workers: int
) -> None:
    settings = served_settings(tmp_path, online="oracle://host", workers=workers)
    with pytest.raises(ServerUnavailable, match="status 1"):
        ServerProcess.start(settings)
    said = capfd.readouterr().err
    assert "'oracle' is not among the installed online stores" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("workers", [1, 2])
def test_a_registry_that_is_away(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], workers: int
) -> None:
    (tmp_path / "folder.db").mkdir()
    settings = replace(
        served_settings(tmp_path, workers=workers),
        registry=RegistrySettings(url="sqlite:///folder.db"),
    )
    with pytest.raises(ServerUnavailable, match="status 1"):
        ServerProcess.start(settings)
    assert "Traceback" not in capfd.readouterr().err


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(AddressUnavailable, match="another process listens"):
            run(served_settings(tmp_path, grpc=address))
    with pytest.raises(InvalidSettings, match="host:port"):
        run(served_settings(tmp_path, http="nonsense"))


def test_a_second_server_does_not_share_the_port_in_silence(tmp_path: Path) -> None:
    with ServerProcess.start(served_settings(tmp_path)) as server:
        again = served_settings(tmp_path, grpc=server.grpc_target)
        with pytest.raises(AddressUnavailable):
            run(again)


def test_one_door_alone(tmp_path: Path) -> None:
    with ServerProcess.start(served_settings(tmp_path, http="")) as server:
        assert server.http_url == ""
        assert server.stop() == 0
    with ServerProcess.start(served_settings(tmp_path, grpc="")) as server:
        assert server.grpc_target == ""
        assert server.stop() == 0
