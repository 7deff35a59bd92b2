"""Commands of access control: token, access, audit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from featurestore.cli.options import Json, Repo, open_store
from featurestore.cli.output import note, say, show_json, show_rows
from featurestore.timeline import format_instant

AUDIT_SHOWN = 100

token = typer.Typer(help="Bearer tokens of servers and of the registry.")
access = typer.Typer(help="Access control: whether tokens are demanded, and roles.")

audit = typer.Typer(help="The audit log: who did what.")

Allow = Annotated[
    list[str],
    typer.Option(
        "--allow",
        metavar="GRANT",
        help="action:project/resource (read:shop/offer_model), or a role. Repeat, or use commas.",
    ),
]
TokenName = Annotated[str, typer.Argument(help="The token's name.")]


@token.command("create")
def create_token(
    name: TokenName,
    allow: Allow,
    expires: Annotated[
        str | None, typer.Option(metavar="DURATION", help="30d, 12h, …; without it, never.")
    ] = None,
    repo: Repo = Path(),
    as_json: Json = False,
) -> None:
    """Make a token. It is shown this once; only its hash is kept."""
    with open_store(repo) as store:
        secret, facts = store.create_token(name, allow=_split(allow), expires=expires)
        on = store.access_policy().enforced
    if as_json:
        made = {"name": name, "token": secret, "allow": list(facts.allow)}
        show_json(made | {"expires_at": _instant(facts.expires_at_us)})
        return
    say(secret)
    until = _instant(facts.expires_at_us) or "for ever"
    note(f"Token {name!r} allows {', '.join(facts.allow)} until {until}.")
    note("Keep it now: it cannot be shown again.")
    if not on:
        note("hint: access control is off; switch it on with: featurestore access on")


@token.command("list")
def list_tokens(repo: Repo = Path(), as_json: Json = False) -> None:
    """List the tokens, never their secrets."""
    with open_store(repo) as store:
        rows = [
            {
                "name": row["name"],
                "allow": row["allow"],
                "expires_at": _instant(row["expires_at_us"]),
                "expired": row["expired"],
                "created_at": _instant(row["created_at_us"]),
                "created_by": row["created_by"],
            }
            for row in store.list_tokens()
        ]
    _show(rows, as_json, title="tokens")


@token.command("revoke")
def revoke_token(name: TokenName, repo: Repo = Path(), as_json: Json = False) -> None:
    """End a token. Servers know within serving.reload_interval_ms."""
    with open_store(repo) as store:
        store.revoke_token(name)
    if as_json:
        show_json({"revoked": name})
    else:
        say(f"Revoked {name!r}.")


@access.command("show")
def show_access(repo: Repo = Path(), as_json: Json = False) -> None:
    """Show whether tokens are demanded, and the roles."""
    with open_store(repo) as store:
        policy = store.access_policy()
    if as_json:
        roles = {name: list(grants) for name, grants in policy.roles.items()}
        show_json({"on": policy.enforced, "roles": roles, "tokens": len(policy.tokens)})
        return
    say(f"access control is {'on' if policy.enforced else 'off'}, {len(policy.tokens)} tokens")
    if policy.roles:
        rows = [{"role": name, "allows": list(grants)} for name, grants in policy.roles.items()]
        show_rows(rows, title="roles")


@access.command("on")
def access_on(repo: Repo = Path(), as_json: Json = False) -> None:
    """Demand tokens of all who ask a server or write to the registry."""
    _switch(repo, as_json, on=True)


@access.command("off")
def access_off(repo: Repo = Path(), as_json: Json = False) -> None:
    """Demand tokens no more."""
    _switch(repo, as_json, on=False)


@access.command("role")
def set_role(
    name: Annotated[str, typer.Argument(help="The role's name.")],
    allow: Annotated[
        list[str] | None, typer.Option("--allow", metavar="GRANT", help="What it allows. Repeat.")
    ] = None,
    drop: Annotated[bool, typer.Option("--drop", help="Remove the role.")] = False,
    repo: Repo = Path(),
    as_json: Json = False,
) -> None:
    """Give a role its grants, in place of those that it had."""
    grants = _split(allow or [])
    if bool(grants) == drop:
        raise typer.BadParameter("say --allow GRANT (what the role allows), or --drop")
    with open_store(repo) as store:
        store.set_role(name, grants)
    if as_json:
        show_json({"role": name, "allows": grants})
    else:
        say(f"Role {name!r} allows {', '.join(grants)}." if grants else f"Dropped role {name!r}.")


@audit.callback(invoke_without_command=True)
def list_audit(
    context: typer.Context,
    *,
    since: Annotated[
        str | None, typer.Option(metavar="INSTANT", help="From here on: 2026-07-01T00:00:00Z.")
    ] = None,
    denied: Annotated[bool, typer.Option("--denied", help="Only what was denied.")] = False,
    newest: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = AUDIT_SHOWN,
    repo: Repo = Path(),
    as_json: Json = False,
) -> None:
    """List the audit log: who did what, when, from where, allowed or denied."""
    if context.invoked_subcommand is not None:
        return
    with open_store(repo) as store:
        rows: list[dict[str, Any]] = [
            {"at": _instant(row.pop("at_us")), **row}
            for row in store.audit_log(since=since, denied=denied, newest=newest)
        ]
    _show(rows, as_json, title="audit log")


@audit.command("prune")
def prune_audit(
    older_than: Annotated[
        str, typer.Option(metavar="DURATION", help="What is older goes: 90d; a day at least.")
    ],
    repo: Repo = Path(),
    as_json: Json = False,
) -> None:
    """Delete old entries of the audit log, for good. An entry says that it was done."""
    with open_store(repo) as store:
        gone = store.prune_audit_log(older_than)
    if as_json:
        show_json({"entries_deleted": gone})
    else:
        say(f"{gone:,} entries older than {older_than} deleted.")


def _switch(repo: Path, as_json: bool, *, on: bool) -> None:
    with open_store(repo) as store:
        store.set_access_control(on)
    if as_json:
        show_json({"on": on})
    else:
        say(f"Access control is {'on' if on else 'off'}.")


def _show(rows: list[dict[str, Any]], as_json: bool, *, title: str) -> None:
    if as_json:
        show_json(rows)
    else:
        show_rows(rows, title=title)


def _split(texts: list[str]) -> list[str]:
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]


def _instant(at_us: int | None) -> str | None:
    return None if at_us is None else format_instant(at_us)
