"""A serialized `GetOnlineFeaturesRequest` → what is asked for, and the entities."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from featurestore.errors import InvalidRequest
from featurestore.serving.assemble import Request
from featurestore.wire import serving_pb2 as pb
from featurestore.wire.entities import KeyColumn, from_message
from featurestore.wire.inputs import from_message as inputs_from_message

if TYPE_CHECKING:
    from featurestore.serving.reload import What


def read_request(data: bytes) -> tuple[What, bool, Request]:
    """The features asked for, whether by their full names, and the rest.

    Raises `InvalidRequest` for bytes that are no request, and for one that asks for nothing;
    `InvalidRequestInput`.
    """
    try:
        message = pb.GetOnlineFeaturesRequest.FromString(data)
    except DecodeError as error:
        raise InvalidRequest(f"{len(data):,} bytes are not a request: {error}") from error
    what: What = message.feature_service
    if not what and message.WhichOneof("what") != "feature_service":
        if not message.HasField("features"):
            raise InvalidRequest("no feature is asked for; name a feature service or features")
        what = tuple(message.features.refs)
    columns, longest = dict[str, KeyColumn](), -1
    for sent in message.keys[:]:
        column = from_message(sent)
        columns[column.name] = column
        if column.kind != "other":
            longest = max(longest, len(column.values))
    inputs = None
    if message.request_inputs:
        found = map(inputs_from_message, message.request_inputs)
        inputs = {column.name: column for column in found}
        if longest < 0:
            longest = max(len(column.values) for column in inputs.values())
    if message.HasField("entity_count"):
        count = message.entity_count
    else:
        count = longest if longest >= 0 else 1
    options = message.options
    request = Request(
        count=count,
        columns=columns,
        event_times=options.event_times,
        as_columns=options.columns,
        schema_id=message.schema_id,
        inputs=inputs,
    )
    return what, options.full_feature_names, request
