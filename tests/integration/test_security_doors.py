"""Getting in by every door, with every wrong key: both doors, every method and path."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.protobuf import descriptor_pool
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from patience import wait_for
from security_servers import (
    AUDIENCE,
    ISSUER,
    PROJECT,
    Provider,
    admin,
    lock,
    make_token,
    prepare,
)

from featurestore.client import FeatureClient
from featurestore.config import SecuritySettings, Settings
from featurestore.errors import PermissionDenied, Unauthenticated
from featurestore.jobs import access
from featurestore.serving.gate import ACTION_OF
from featurestore.serving.serve import ServerProcess
from featurestore.wire.response import OnlineResponse

pytestmark = pytest.mark.slow

SERVICES = ("featurestore.v1.OnlineFeatures", "grpc.reflection.v1alpha.ServerReflection")
OPEN_SERVICES = ("grpc.health.v1.Health",)
OPEN_PATHS = ("/healthz", "/readyz")
BODY = {"feature_service": "model", "entities": {"airport": ["EWR"]}}


@dataclass
class Locked:
    """A server with access control on, and the keys to it, right and wrong."""

    server: ServerProcess
    settings: Settings
    root: str
    provider: Provider
    tokens: dict[str, str]

    def client(self, token: str | None) -> FeatureClient:
        return FeatureClient(self.server.grpc_target, token=token, timeout_ms=10_000)


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    """On grpcio."""
    with serve_locked(tmp_path_factory.mktemp("locked"), "grpcio") as served:
        yield served


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    """The same on the native door."""
    with serve_locked(tmp_path_factory.mktemp("native"), "native") as served:
        yield served


@contextmanager
def serve_locked(folder: Path, door: str) -> Iterator[Locked]:
    provider = Provider()
    with provider.listening() as keys:
        settings = prepare(folder, grpc_door=door)
        root = lock(settings)
        tokens = {
            "reader": make_token(settings, root, "reader", f"read:{PROJECT}/model"),
            "views": make_token(settings, root, "views", f"read:{PROJECT}/views/weather"),
            "all": make_token(settings, root, "all", f"read:{PROJECT}"),
            "metrics": make_token(settings, root, "metrics", f"metrics:{PROJECT}"),
            "elsewhere": make_token(settings, root, "elsewhere", "*:elsewhere"),
            "pusher": make_token(settings, root, "pusher", f"push:{PROJECT}"),
            "expired": make_token(settings, root, "expired", f"*:{PROJECT}", expires_in_us=1),
            "revoked": make_token(settings, root, "revoked", f"*:{PROJECT}"),
        }
        with admin(settings, root) as ask:
            access.revoke_token(ask, "revoked")
            access.set_role(ask, "scorer", [f"read:{PROJECT}/model"])
        security = SecuritySettings(jwt_issuer=ISSUER, jwt_audience=AUDIENCE, jwt_jwks=keys)
        with ServerProcess.start(replace(settings, security=security)) as server:
            yield Locked(server, settings, root, provider, tokens)


def bad_headers(locked: Locked) -> dict[str, str | None]:
    """Headers that prove nothing, by what is wrong with them."""
    provider, reader = locked.provider, locked.tokens["reader"]
    stranger = Provider()
    now = int(time.time())
    claims = provider.claims

    def b64(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    unsigned = jwt.encode(claims(), None, algorithm="none", headers={"kid": "rsa"})
    capitals = b64(b'{"alg":"None","kid":"rsa"}')
    # The public key used as the secret of an HMAC, by hand: PyJWT itself would not sign so.
    text = provider.rsa.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head = b64(json.dumps({"alg": "HS256", "typ": "JWT", "kid": "rsa"}).encode())
    signed = f"{head}.{b64(json.dumps(claims()).encode())}"
    confused = f"{signed}.{b64(hmac.new(text, signed.encode(), hashlib.sha256).digest())}"
    good = provider.sign()
    tampered = ".".join(
        [good.split(".")[0], b64(json.dumps(claims(sub="root")).encode()), good.split(".")[2]]
    )
    jwts = {
        "alg none": unsigned,
        "alg none in capitals": f"{capitals}.{good.split('.')[1]}.",
        "HMAC by the public key": confused,
        "another provider's key": stranger.sign(claims()),
        "an EC key's name on RSA": provider.sign(claims(), kid="ec"),
        "an unknown key": provider.sign(claims(), kid="who"),
        "no key named of several": provider.sign(claims(), kid=None),
        "claims changed": tampered,
        "another audience": provider.sign(claims(aud="other")),
        "no audience": provider.sign(claims(aud=None)),
        "another issuer": provider.sign(claims(iss="https://evil.example.org/")),
        "no issuer": provider.sign(claims(iss=None)),
        "expired": provider.sign(claims(iat=now - 900, exp=now - 300)),
        "no expiry": provider.sign(claims(exp=None)),
        "not yet": provider.sign(claims(nbf=now + 3_600)),
        "no subject": provider.sign(claims(sub=None)),
        "an algorithm not listed": provider.sign(claims(), algorithm="RS512"),
    }
    return {
        "none": None,
        "empty": "",
        "no scheme": reader,
        "another scheme": f"Basic {reader}",
        "digest scheme": f"Digest {reader}",
        "no token": "Bearer",
        "wrong token": "Bearer fs_" + "x" * 43,
        "one letter wrong": f"Bearer {reader[:-1]}{'A' if reader[-1] != 'A' else 'B'}",
        "shortened": f"Bearer {reader[:-1]}",
        "doubled": f"Bearer {reader} {reader}",
        "its hash": f"Bearer {access.digest_of(reader)}",
        "expired token": f"Bearer {locked.tokens['expired']}",
        "revoked token": f"Bearer {locked.tokens['revoked']}",
        "long": "Bearer " + "x" * 6_000,
        "junk": "Bearer ..",
        **{f"JWT, {what}": f"Bearer {token}" for what, token in jwts.items()},
    }


def services_of(locked: Locked) -> list[str]:
    """What the server itself says it has."""
    with grpc.insecure_channel(locked.server.grpc_target) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        credentials = [("authorization", f"Bearer {locked.root}")]
        (answer,) = stub.ServerReflectionInfo(iter([asked]), metadata=credentials, timeout=10)
    return [service.name for service in answer.list_services_response.service]


def methods() -> list[Any]:
    pool = descriptor_pool.Default()
    return [
        method
        for name in SERVICES
        for method in pool.FindServiceByName(name).methods_by_name.values()
    ]


def call(channel: grpc.Channel, method: Any, header: str | None, request: bytes = b"") -> Any:
    """The status of a call of any shape, and its text."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    metadata = () if header is None else (("authorization", header),)
    streams = method.client_streaming, method.server_streaming
    made: Any
    try:
        match streams:
            case (False, False):
                made = channel.unary_unary(path, None, None)
                made(request, metadata=metadata, timeout=10)
            case (True, True):
                made = channel.stream_stream(path, None, None)
                list(made(iter([request]), metadata=metadata, timeout=10))
            case (False, True):
                made = channel.unary_stream(path, None, None)
                list(made(request, metadata=metadata, timeout=10))
            case _:
                made = channel.stream_unary(path, None, None)
                made(iter([request]), metadata=metadata, timeout=10)
    except grpc.RpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


def test_every_method_is_known_and_guarded() -> None:
    assert {method.name for method in methods()} <= ACTION_OF.keys()
    assert all(ACTION_OF[method.name] for method in methods())


@pytest.mark.parametrize("door", ["locked", "native"])
def test_no_wrong_key_opens_a_method(door: str, request: pytest.FixtureRequest) -> None:
    locked: Locked = request.getfixturevalue(door)
    assert sorted(services_of(locked)) == sorted((*SERVICES, *OPEN_SERVICES))
    bad = bad_headers(locked)
    with grpc.insecure_channel(locked.server.grpc_target) as channel:
        for method in methods():
            for what, header in bad.items():
                code, text = call(channel, method, header)
                assert code is grpc.StatusCode.UNAUTHENTICATED, (method.name, what, code, text)
                if header and len(header) > 20:
                    assert header.split()[-1] not in text


def paths_of(locked: Locked) -> dict[str, list[str]]:
    """Paths and their methods, as OpenAPI has them and as FastAPI adds them."""
    headers = {"authorization": f"Bearer {locked.root}"}
    described = httpx.get(f"{locked.server.http_url}/openapi.json", headers=headers).json()
    found = {path: [m.upper() for m in item] for path, item in described["paths"].items()}
    return found | {"/docs": ["GET"], "/openapi.json": ["GET"]}


def test_no_wrong_key_opens_a_path(locked: Locked) -> None:
    paths = paths_of(locked)
    assert set(paths) == {path for path in ACTION_OF if path.startswith("/")}
    bad = bad_headers(locked)
    unknown = {"/redoc": ["GET"], "/nowhere": ["GET", "POST"], "/metrics/": ["GET"]}
    with httpx.Client(base_url=locked.server.http_url) as http:
        for path, verbs in (paths | unknown).items():
            for verb in verbs:
                for what, header in bad.items():
                    headers = {} if header is None else {"authorization": header}
                    answer = http.request(verb, path, headers=headers)
                    if path in OPEN_PATHS:
                        assert answer.status_code == 200, (path, what)
                        continue
                    assert answer.status_code == 401, (verb, path, what, answer.text)
                    assert answer.headers["www-authenticate"].startswith("Bearer")
                    assert answer.json()["code"] == "unauthenticated"
        long = {"authorization": "Bearer " + "x" * 20_000}
        assert http.get("/v1/services", headers=long).status_code == 401
        twice = [("authorization", f"Bearer {locked.root}"), ("authorization", "Bearer x")]
        assert http.get("/v1/services", headers=twice).status_code == 401


@pytest.mark.parametrize("who", ["elsewhere", "pusher", "metrics", "views"])
def test_another_ones_token_reads_nothing(locked: Locked, who: str) -> None:
    headers = {"authorization": f"Bearer {locked.tokens[who]}"}
    answer = httpx.post(f"{locked.server.http_url}/v1/online-features", json=BODY, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "permission-denied")
    assert "www-authenticate" not in answer.headers
    with locked.client(locked.tokens[who]) as client, pytest.raises(PermissionDenied) as raised:
        client.get_online_features("model", {"airport": ["EWR"]})
    assert raised.value.grant.startswith(f"read:{PROJECT}")
    assert raised.value.principal == f"token:{who}"


def test_a_token_of_another_project_does_nothing(locked: Locked) -> None:
    token = locked.tokens["elsewhere"]
    with grpc.insecure_channel(locked.server.grpc_target) as channel:
        for method in methods():
            code, _ = call(channel, method, f"Bearer {token}")
            assert code is grpc.StatusCode.PERMISSION_DENIED, method.name
    with httpx.Client(base_url=locked.server.http_url) as http:
        for path, verbs in paths_of(locked).items():
            for verb in verbs if path not in OPEN_PATHS else ():
                answer = http.request(verb, path, headers={"authorization": f"Bearer {token}"})
                assert answer.status_code == 403, (verb, path)


@pytest.mark.parametrize("door", ["locked", "native"])
def test_a_token_reads_its_own_service_and_no_other(
    door: str, request: pytest.FixtureRequest
) -> None:
    locked: Locked = request.getfixturevalue(door)
    with locked.client(locked.tokens["reader"]) as client:
        found = client.get_online_features("model", {"airport": ["EWR"]})
        assert found.to_dict()["temp"] == [1.5]
        version = client.get_serving_info().services[0].version
        client.get_online_features(f"model@{version[:8]}", {"airport": ["EWR"]})
        for asked in ("other", "model2", "Model", ["weather:temp"], ["planes"], "*"):
            with pytest.raises(PermissionDenied, match=f"read:{PROJECT}/"):
                client.get_online_features(asked, {"airport": ["EWR"], "tailnum": ["N1"]})


def test_feature_refs_need_each_view(locked: Locked) -> None:
    with locked.client(locked.tokens["views"]) as client:
        found = client.get_online_features(["weather:temp"], {"airport": ["EWR"]})
        assert found.to_dict()["temp"] == [1.5]
        for asked in (["weather:temp", "planes:seats"], ["planes"], ["planes:seats", "weather"]):
            with pytest.raises(PermissionDenied, match="views/planes"):
                client.get_online_features(asked, {"airport": ["EWR"], "tailnum": ["N1"]})
    with locked.client(locked.tokens["all"]) as client:
        client.get_online_features(
            ["weather", "planes:seats"], {"airport": ["E"], "tailnum": ["N"]}
        )


def test_the_names_of_what_one_may_not_read_are_not_told(locked: Locked) -> None:
    headers = {"authorization": f"Bearer {locked.tokens['reader']}"}
    body = {"feature_service": "othe", "entities": {"tailnum": ["N1"]}}
    answer = httpx.post(f"{locked.server.http_url}/v1/online-features", json=body, headers=headers)
    assert answer.status_code == 403
    assert "Did you mean" not in answer.text
    with locked.client(locked.tokens["reader"]) as client, pytest.raises(PermissionDenied):
        client.get_online_features("othe", {"tailnum": ["N1"]})


def test_metrics_take_a_grant_of_their_own(locked: Locked) -> None:
    for who, status in (("reader", 403), ("metrics", 200), ("elsewhere", 403)):
        headers = {"authorization": f"Bearer {locked.tokens[who]}"}
        answer = httpx.get(f"{locked.server.http_url}/metrics", headers=headers)
        assert answer.status_code == status, who
        assert all(token not in answer.text for token in locked.tokens.values())


def test_bearer_may_be_written_in_any_case(locked: Locked) -> None:
    for scheme in ("bearer", "BEARER", "Bearer "):
        headers = {"authorization": f"{scheme} {locked.tokens['reader']}"}
        url = f"{locked.server.http_url}/v1/online-features"
        assert httpx.post(url, json=BODY, headers=headers).status_code == 200


def test_a_jwt_is_let_in_with_what_its_claims_say(locked: Locked) -> None:
    provider = locked.provider
    by_role = provider.claims(permissions="scorer profile")
    tokens = [
        provider.sign(),
        provider.sign(kid="ec", key=provider.ec, algorithm="ES256"),
        provider.sign(by_role),
        provider.sign(provider.claims(exp=int(time.time()) - 5)),  # within jwt_leeway_s
    ]
    for token in tokens:
        with locked.client(token) as client:
            assert client.get_online_features("model", {"airport": ["EWR"]}).to_dict()
            with pytest.raises(PermissionDenied, match="jwt:svc-42"):
                client.get_online_features("other", {"tailnum": ["N1"]})
    nobody = provider.sign(provider.claims(permissions=["openid", "no-such-role"]))
    with locked.client(nobody) as client, pytest.raises(PermissionDenied):
        client.get_serving_info()


def test_health_and_readiness_are_open_and_tell_nothing(locked: Locked) -> None:
    for path in OPEN_PATHS:
        answer = httpx.get(f"{locked.server.http_url}{path}")
        assert answer.status_code == 200
        assert "served" not in answer.text


def test_creating_and_revoking_are_known_without_a_restart(locked: Locked) -> None:
    token = make_token(locked.settings, locked.root, "short-lived", f"read:{PROJECT}/model")
    with locked.client(token) as client:

        def works() -> bool:
            try:
                client.get_online_features("model", {"airport": ["EWR"]})
            except Unauthenticated:
                return False
            return True

        wait_for(works)
        with admin(locked.settings, locked.root) as ask:
            access.revoke_token(ask, "short-lived")
        wait_for(lambda: not works())


def test_a_stream_is_looked_at_request_by_request(locked: Locked) -> None:
    token = make_token(locked.settings, locked.root, "streams", f"read:{PROJECT}/model")
    sent = threading.Event()

    def batches() -> Iterator[dict[str, list[str]]]:
        yield {"airport": ["EWR"]}
        sent.wait(30)
        yield {"airport": ["EWR"]}

    with locked.client(token) as client:
        wait_for(lambda: _status(client) == "ok")
        (answer,) = client.stream_online_features("other", [{"tailnum": ["N1"]}])
        assert isinstance(answer, PermissionDenied)
        answers = client.stream_online_features("model", batches(), timeout_ms=60_000)
        first = next(answers)
        assert isinstance(first, OnlineResponse)
        assert first.to_dict()["temp"] == [1.5]
        with admin(locked.settings, locked.root) as ask:
            access.revoke_token(ask, "streams")
        wait_for(lambda: _status(client) == "unauthenticated")
        sent.set()
        with pytest.raises(Unauthenticated):
            next(answers)


def test_two_tokens_are_nobodys(locked: Locked) -> None:
    both = [("authorization", f"Bearer {locked.root}"), ("authorization", "Bearer x")]
    with grpc.insecure_channel(locked.server.grpc_target) as channel:
        call = channel.unary_unary("/featurestore.v1.OnlineFeatures/GetServingInfo", _bytes, _bytes)
        assert call(b"", metadata=both[:1], timeout=10)
        for metadata in (both, both[::-1]):
            with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
                call(b"", metadata=metadata, timeout=10)


def _bytes(data: bytes) -> bytes:
    return data


def test_a_token_ends_by_itself(locked: Locked) -> None:
    token = make_token(
        locked.settings, locked.root, "ends", f"read:{PROJECT}/model", expires_in_us=2_500_000
    )
    with locked.client(token) as client:
        wait_for(lambda: _status(client) == "ok")
        wait_for(lambda: _status(client) == "unauthenticated")


def _status(client: FeatureClient) -> str:
    try:
        client.get_online_features("model", {"airport": ["EWR"]})
    except Unauthenticated as error:
        return error.code
    return "ok"


def test_a_new_key_of_the_provider_is_fetched_when_it_is_named(locked: Locked) -> None:
    provider = locked.provider
    token = provider.sign(kid="rotated")
    with locked.client(token) as client:
        assert _status(client) == "unauthenticated"
        asked = provider.asked
        jwks = provider.jwks
        provider.jwks = lambda: jwks().replace('"rsa"', '"rotated"')  # type: ignore[method-assign]
        try:
            wait_for(lambda: _status(client) == "ok")
        finally:
            provider.jwks = jwks  # type: ignore[method-assign]
    assert provider.asked - asked < 5
