"""Errors at the edge: the only place that knows status codes, of gRPC and of HTTP.

One table for both, by class: a leaf that is not listed has the codes of its nearest ancestor that
is. Over gRPC an error travels as `google.rpc.Status` with one `ErrorInfo` (reason: our code,
metadata: the typed attributes as JSON) in `grpc-status-details-bin`, from which `restore` makes the
same error again.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status as RpcStatus

from featurestore import errors
from featurestore.errors import FeatureStoreError
from featurestore.masking import mask
from featurestore.serving import request_ids

DETAILS_KEY = "grpc-status-details-bin"
ERROR_DOMAIN = "featurestore"
MESSAGE_CHARS_MAX = 1_000
DETAILS_BYTES_MAX = 2_000
"""Errors travel in HTTP/2 trailers, which peers limit to some 8 kB."""


class Codes(NamedTuple):
    """The status codes of one error."""

    grpc: grpc.StatusCode
    http: int


_TABLE: dict[type[FeatureStoreError], Codes] = {
    FeatureStoreError: Codes(grpc.StatusCode.INTERNAL, 500),
    errors.DefinitionError: Codes(grpc.StatusCode.FAILED_PRECONDITION, 500),
    errors.RequestError: Codes(grpc.StatusCode.INVALID_ARGUMENT, 400),
    errors.UnknownService: Codes(grpc.StatusCode.NOT_FOUND, 404),
    errors.UnknownView: Codes(grpc.StatusCode.NOT_FOUND, 404),
    errors.UnknownFeature: Codes(grpc.StatusCode.NOT_FOUND, 404),
    errors.UnknownSource: Codes(grpc.StatusCode.NOT_FOUND, 404),
    errors.RequestTimeout: Codes(grpc.StatusCode.DEADLINE_EXCEEDED, 408),
    errors.Unauthenticated: Codes(grpc.StatusCode.UNAUTHENTICATED, 401),
    errors.PermissionDenied: Codes(grpc.StatusCode.PERMISSION_DENIED, 403),
    errors.ChangeError: Codes(grpc.StatusCode.FAILED_PRECONDITION, 409),
    errors.RecordNotFound: Codes(grpc.StatusCode.NOT_FOUND, 404),
    errors.AmbiguousRecord: Codes(grpc.StatusCode.INVALID_ARGUMENT, 400),
    errors.InvalidRecord: Codes(grpc.StatusCode.INVALID_ARGUMENT, 400),
    errors.CommitConflict: Codes(grpc.StatusCode.ABORTED, 409),
    errors.LifecycleError: Codes(grpc.StatusCode.FAILED_PRECONDITION, 409),
    errors.StoreUnavailable: Codes(grpc.StatusCode.UNAVAILABLE, 503),
    errors.StoreTimeout: Codes(grpc.StatusCode.DEADLINE_EXCEEDED, 504),
    errors.StoreAccessDenied: Codes(grpc.StatusCode.FAILED_PRECONDITION, 503),
    errors.CorruptRow: Codes(grpc.StatusCode.DATA_LOSS, 500),
    errors.CorruptPlan: Codes(grpc.StatusCode.DATA_LOSS, 500),
    errors.CorruptLog: Codes(grpc.StatusCode.DATA_LOSS, 500),
    errors.ServerUnavailable: Codes(grpc.StatusCode.UNAVAILABLE, 503),
    errors.ServerOverloaded: Codes(grpc.StatusCode.RESOURCE_EXHAUSTED, 429),
    errors.ServerTimeout: Codes(grpc.StatusCode.DEADLINE_EXCEEDED, 504),
}


_CODES = {code.value[0]: code for code in grpc.StatusCode}


def codes_of(error: FeatureStoreError) -> Codes:
    """The status codes of an error, in both protocols."""
    return next(_TABLE[kind] for kind in type(error).__mro__ if kind in _TABLE)


def to_json(error: FeatureStoreError) -> dict[str, Any]:
    """The body of an HTTP error: `{"code", "message", "details"}`."""
    return {"code": error.code, "message": _message(error), "details": _details(error)}


def to_grpc(error: FeatureStoreError) -> tuple[grpc.StatusCode, str, bytes]:
    """The status, its text, and the bytes of its `google.rpc.Status`."""
    code = codes_of(error).grpc
    metadata = {key: json.dumps(value) for key, value in _details(error).items()}
    status = RpcStatus(code=code.value[0], message=_message(error))
    status.details.add().Pack(ErrorInfo(reason=error.code, domain=ERROR_DOMAIN, metadata=metadata))
    return code, status.message, status.SerializeToString()


def restore(code: grpc.StatusCode, text: str, details: bytes | None) -> FeatureStoreError:
    """The error that a server reported, or what a status without our details means."""
    info = None if details is None else _error_info(details)
    if info is not None:
        attributes = {key: json.loads(value) for key, value in info.metadata.items()}
        return FeatureStoreError.restore(info.reason, text, attributes)
    match code:
        case grpc.StatusCode.UNAVAILABLE:
            return errors.ServerUnavailable(f"The server does not answer: {text}")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return errors.ServerTimeout("The server did not answer within the time-out.")
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return FeatureStoreError.restore(errors.LimitExceeded.code, text, {})
        case grpc.StatusCode.UNAUTHENTICATED:
            return errors.Unauthenticated(text)
        case grpc.StatusCode.PERMISSION_DENIED:
            return errors.PermissionDenied(text)
        case grpc.StatusCode.UNIMPLEMENTED:
            return errors.ServerError(f"What answers is no feature server: {text}")
        case _:
            return errors.InternalError(f"The server failed ({code.name}): {text}")


def restore_details(details: bytes) -> FeatureStoreError:
    """The error that a serialized `google.rpc.Status` stands for."""
    try:
        status = RpcStatus.FromString(details)
    except DecodeError:
        return errors.InternalError("The server answered with an error that cannot be read.")
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    return restore(code, status.message, details)


def _error_info(details: bytes) -> ErrorInfo | None:
    try:
        status = RpcStatus.FromString(details)
        for packed in status.details:
            info = ErrorInfo()
            if packed.Unpack(info) and info.domain == ERROR_DOMAIN:
                return info
    except DecodeError:
        return None
    return None


def _message(error: FeatureStoreError) -> str:
    text = mask(error.message)
    return text if len(text) <= MESSAGE_CHARS_MAX else f"{text[:MESSAGE_CHARS_MAX]}…"


def _details(error: FeatureStoreError) -> dict[str, Any]:
    """The attributes, and within a request its id (`error.request_id` at the client)."""
    name = request_ids.current.get()
    return _plain(error) | ({"request_id": name} if name else {})


def _plain(error: FeatureStoreError) -> dict[str, Any]:
    """The attributes that JSON can hold and that are small enough to travel."""
    found: dict[str, Any] = {}
    room = DETAILS_BYTES_MAX
    for key, given in error.details.items():
        value = mask(given) if isinstance(given, str) else given
        try:
            room -= len(json.dumps(value))
        except (TypeError, ValueError):
            continue
        if room >= 0:
            found[key] = value
    return found
