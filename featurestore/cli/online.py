"""Commands of the request path: serve, get-online."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurestore.cli.options import (
    TOKEN_VARIABLE,
    Insecure,
    Json,
    Keys,
    KeysFile,
    Repo,
    Tls,
    TlsCa,
    TlsCert,
    TlsKey,
    TokenFile,
    ask,
    complete_service,
    open_store,
)
from featurestore.cli.output import note, say, show_json, show_table, working
from featurestore.errors import InvalidJoinKey, InvalidRequest, InvalidRequestInput
from featurestore.timeline import format_instant

if TYPE_CHECKING:
    from featurestore.client import FeatureClient
    from featurestore.store import FeatureStore
    from featurestore.wire.response import OnlineResponse

Rows = list[dict[str, Any]]


def serve(
    repo: Repo = Path(),
    grpc: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where gRPC listens; '' is nowhere.")
    ] = None,
    http: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where HTTP listens; '' is nowhere.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes on one port.")] = None,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", help="Allow plain text where other machines can reach us."),
    ] = False,
) -> None:
    """Serve features over gRPC and HTTP.

    Runs until it is told to stop; SIGTERM lets requests under way finish.
    """
    from featurestore.config import load_settings
    from featurestore.serving.serve import run as run_servers

    given = {"serving.grpc": grpc, "serving.http": http, "serving.workers": workers}
    overrides = {key: value for key, value in given.items() if value is not None}
    if insecure:
        overrides["serving.insecure"] = True
    run_servers(load_settings(repo, overrides=overrides))


def get_online(
    features: Annotated[
        str,
        typer.Argument(
            help="A service, or view:feature,view:feature.", autocompletion=complete_service
        ),
    ],
    *,
    entity: Keys = None,
    entities: KeysFile = None,
    request: Annotated[
        list[str] | None,
        typer.Option(
            "--request",
            metavar="NAME=VALUE",
            help="A request input of the entity (NAME:=JSON for anything but a number or a text). "
            "Repeat; a name that comes again begins the next entity.",
        ),
    ] = None,
    requests: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help='JSON with request inputs: [{"name": value}, …] or {"name": [values]}.',
        ),
    ] = None,
    repo: Repo = Path(),
    as_json: Json = False,
    target: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Ask this server over gRPC, not the store itself."),
    ] = None,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    token_file: TokenFile = None,
    insecure: Insecure = False,
    full_feature_names: Annotated[
        bool, typer.Option("--full-feature-names", help="Name features view__feature.")
    ] = False,
) -> None:
    """Look up features as they are now.

    Reads the online store as a server would, or with --target asks a server.
    """
    inputs = request_rows(request or [], requests)
    # Views without entities need none said; there is one for each row of request inputs.
    nobody = inputs is not None and not entity and entities is None
    rows = [{} for _ in inputs or ()] if nobody else entity_rows(entity or [], entities)
    try:
        door = (
            open_store(repo)
            if target is None
            else client_of(target, tls, tls_ca, (tls_cert, tls_key), token_file, insecure=insecure)
        )
        response = _look_up(features, rows, inputs, door, full_feature_names)
    except InvalidRequestInput as error:
        if "must be string" in error.message:
            note(f"hint: a text of digits is written --request '{error.name}:=\"719\"'")
        raise
    except InvalidJoinKey as error:
        text = rows[0].get(error.key)
        if isinstance(text, str) and text.lstrip("-").isdigit():
            note(f"hint: a number is written --entity {error.key}:={text}")
        raise
    if as_json:
        show_json(_as_data(response, rows))
    else:
        _show(response, rows)


def delete_entity(
    name: Annotated[str, typer.Argument(metavar="ENTITY", help="The entity, as it is defined.")],
    *,
    entity: Keys = None,
    entities: KeysFile = None,
    repo: Repo = Path(),
    as_json: Json = False,
) -> None:
    """Delete keys of an entity, online and offline.

    What is known of them by now is never read again; what becomes known later counts.
    """
    with open_store(repo) as store, working("deleting"):
        deletion = store.delete_entity(name, entity_rows(entity or [], entities))
    if as_json:
        show_json(
            {
                "entity": deletion.entity,
                "keys": deletion.keys,
                "at": format_instant(deletion.at_us),
                "rows_removed": deletion.rows_removed,
            }
        )
    else:
        say(
            f"{deletion.keys:,} of {deletion.entity} deleted as of "
            f"{format_instant(deletion.at_us)}; {deletion.rows_removed:,} online rows removed"
        )


def _look_up(
    features: str,
    rows: Rows,
    inputs: Rows | None,
    door: FeatureStore | FeatureClient,
    full_feature_names: bool,
) -> OnlineResponse:
    with door:
        return ask(
            lambda wanted: door.get_online_features(
                wanted, rows, request=inputs, full_feature_names=full_feature_names
            ),
            features,
        )


def client_of(
    target: str,
    tls: bool,
    tls_ca: Path | None,
    pair: tuple[Path | None, Path | None],
    token_file: Path | None,
    *,
    insecure: bool,
) -> FeatureClient:
    """A client by the options. The token never comes as an argument, which all users of a machine
    could read."""
    from featurestore.client import FeatureClient

    cert, key = pair
    if (cert is None) != (key is None):
        raise InvalidRequest("--tls-cert and --tls-key go together")
    token = os.environ.get(TOKEN_VARIABLE, "")
    if token_file is not None:
        token = _read(token_file).decode("utf-8", "replace").strip()
    return FeatureClient(
        target,
        token=token or None,
        tls=_read(tls_ca) if tls_ca is not None else tls or cert is not None,
        certificate=None if cert is None or key is None else (_read(cert), _read(key)),
        insecure=insecure,
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{path} can't be read: {error.strerror}") from error


def entity_rows(pairs: Sequence[str], file: str | None) -> Rows:
    """The entities asked for, a dict of join keys each.

    `pairs` are `key=text` or `key:=json`; a key that comes again begins the next entity. `file`
    names JSON. Raises `InvalidRequest` for malformed ones, both, or neither.
    """
    if (file is None) == (not pairs):
        raise InvalidRequest(
            "say whom to look up: --entity key=value (repeated), or --entities file.json"
        )
    if file is not None:
        return _rows_of_file(file)
    return _rows_of_pairs("--entity", pairs, str)


def request_rows(pairs: Sequence[str], file: str | None) -> Rows | None:
    """Request inputs, a dict for each entity; None where there are none.

    `pairs` are `name=value`, a number where it reads as one and else a text, or `name:=json`; a
    name that comes again begins the next entity. `file` names JSON. Raises `InvalidRequest`.
    """
    if file is not None and pairs:
        raise InvalidRequest("say request inputs by --request or by --requests, not both")
    if file is not None:
        return _rows_of_file(file)
    return _rows_of_pairs("--request", pairs, _number_or_text) if pairs else None


def _number_or_text(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text) if text.isascii() and "_" not in text else text
        except ValueError:
            continue
    return text


def _rows_of_pairs(option: str, pairs: Sequence[str], read: Callable[[str], Any]) -> Rows:
    rows: Rows = [{}]
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.rstrip(":"):
            raise InvalidRequest(f"{option} {pair}: write key=value, or key:=1001 for a number")
        key = name.removesuffix(":")
        if key in rows[-1]:
            rows.append({})
        rows[-1][key] = _json(text, f"{option} {pair}") if name.endswith(":") else read(text)
    return rows


def _rows_of_file(file: str) -> Rows:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{file} can't be read: {error}") from error
    found = _json(text, file)
    if isinstance(found, dict) and all(isinstance(column, list) for column in found.values()):
        lengths = {len(column) for column in found.values()}
        if len(lengths) == 1:
            return [dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)]
    if isinstance(found, list) and all(isinstance(row, dict) for row in found):
        return found
    raise InvalidRequest(
        f'{file} must hold [{{"key": value}}, …] or {{"key": [values]}} with equally long lists'
    )


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"{where}: not JSON: {error}") from error


def _as_data(response: OnlineResponse, rows: Rows) -> dict[str, Any]:
    values, statuses = response.to_dict(), response.statuses
    return {
        "request_time": format_instant(response.request_time_us),
        "plan_version": response.plan_version,
        "entities": [
            {
                "entity": row,
                "features": {name: values[name][index] for name in response.feature_names},
                "statuses": {name: statuses[name][index] for name in response.feature_names},
            }
            for index, row in enumerate(rows)
        ],
        "event_times": {
            view: [None if time is None else format_instant(time) for time in times]
            for view, times in response.event_times.items()
        },
    }


def _show(response: OnlineResponse, rows: Rows) -> None:
    for index, row in enumerate(rows):
        show_vector(response, index, title=", ".join(f"{key}={row[key]}" for key in row))
    at = format_instant(response.request_time_us // 1_000_000 * 1_000_000)
    say(f"at {at} by plan {response.plan_version[:8]}")


def show_vector(response: OnlineResponse, index: int, *, title: str) -> None:
    """One entity's features: name, value, status."""
    values, statuses = response.to_dict(), response.statuses
    show_table(
        ["feature", "value", "status"],
        [[name, values[name][index], statuses[name][index]] for name in response.feature_names],
        title=title,
    )
