"""How the commands about models print, for people and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from featurestore.cli.output import line, say, show_rows, show_table
from featurestore.fingerprint import short
from featurestore.records import show_id
from featurestore.timeline import format_instant

if TYPE_CHECKING:
    from featurestore.jobs.evaluations import Evaluation
    from featurestore.jobs.gates import GateReport
    from featurestore.jobs.model_comparison import ModelComparison
    from featurestore.jobs.model_history import StageMove
    from featurestore.jobs.models import Staged
    from featurestore.lifecycle.models import ModelVersion
    from featurestore.lifecycle.promotions import Promotion


def dated(value: Any) -> Any:
    """Plain data in which instants (`…at_us`) are texts (`…at`), and enums their values."""
    match value:
        case Enum():
            return value.value
        case Mapping():
            return {_name(key): _dated(key, item) for key, item in value.items()}
        case list() | tuple():
            return [dated(item) for item in value]
        case _ if is_dataclass(value) and not isinstance(value, type):
            return dated(asdict(value))
        case _:
            return value


def _is_instant(key: object) -> bool:
    return str(key).endswith("at_us")


def _name(key: object) -> str:
    return str(key).removesuffix("_us") if _is_instant(key) else str(key)


def _dated(key: object, value: Any) -> Any:
    if _is_instant(key) and isinstance(value, int):
        return format_instant(value)
    return dated(value)


def version_json(version: ModelVersion, *, stage: str | None = None) -> dict[str, Any]:
    """A version as JSON."""
    signature = None if version.signature is None else version.signature.body()
    return {
        **dated(version),
        "ref": version.ref,
        "signature": signature,
        "lineage_complete": version.lineage_complete,
        **({} if stage is None else {"stage": stage}),
    }


def promotion_json(promotion: Promotion) -> dict[str, Any]:
    """A request as JSON."""
    return {
        **dated(promotion),
        "ref": promotion.ref,
        "evidence_hash": promotion.evidence_hash,
    }


def comparison_json(found: ModelComparison) -> dict[str, Any]:
    """A comparison as JSON: the champion's value first."""
    return {
        "model": found.model,
        "champion": found.champion,
        "metrics": {
            name: {"champion": old, "model": new} for name, (old, new) in found.metrics.items()
        },
        "differences": {
            name: {"champion": old, "model": new} for name, (old, new) in found.differences.items()
        },
        "on": found.on,
        "split": found.split,
        "paired": [dated(one) for one in found.paired],
    }


def show_versions(found: Sequence[Staged]) -> None:
    """A table of versions."""
    rows = [
        {
            "model": one.version.ref,
            "stage": one.stage,
            "flavor": one.version.flavor,
            "metrics": ", ".join(f"{k} {v:.4g}" for k, v in one.version.metrics.items()),
            "lineage": "complete" if one.version.lineage_complete else "incomplete",
            "registered": format_instant(one.version.created_at_us),
            "by": one.version.author,
        }
        for one in found
    ]
    show_rows(rows, title="models")


def show_version(version: ModelVersion, stage: str) -> None:
    """A version, a line per fact."""
    artifact = version.artifact
    size = f"{artifact.size:,} bytes, sha256 {short(artifact.digest)}"
    facts = {
        "model": version.ref,
        "stage": stage,
        "flavor": version.flavor,
        "artifact": artifact.reference or f"{artifact.file} ({size})",
        "metrics": ", ".join(f"{k} {v:.6g}" for k, v in version.metrics.items()),
        "run": _shown(version.run),
        "training set": _shown(version.training_set),
        "service": _service(version),
        "lineage": "complete" if not version.missing else f"lacks {', '.join(version.missing)}",
        "description": version.description,
        "libraries": ", ".join(f"{k} {v}" for k, v in version.libraries.items()),
        "registered": f"{format_instant(version.created_at_us)} by {version.author}",
        "record": show_id(version.id),
    }
    _show_facts(facts)
    if version.signature is not None:
        sides = ((version.signature.inputs, "input"), (version.signature.outputs, "output"))
        rows = [
            {"column": column.name, "type": column.dtype, "is": side}
            for columns, side in sides
            for column in columns
        ]
        say()
        show_rows(rows, title="signature")


def _shown(record: str | None) -> str:
    return "" if record is None else show_id(record)


def _service(version: ModelVersion) -> str:
    if version.service_name is None:
        return ""
    return f"{version.service_name}, version {short(str(version.service_version))}"


def _show_facts(facts: Mapping[str, str]) -> None:
    width = max(map(len, facts))
    for name, text in facts.items():
        if text:
            say(f"{name:<{width}}  {line(text)}")


def show_evaluation(found: Evaluation) -> None:
    """An evaluation and its metrics."""
    where = show_id(found.on) + (f", split {found.split}" if found.split else "")
    say()
    say(f"{found.model} on {where}: {found.rows:,} rows, label {found.label}")
    rows = [{"metric": name, "value": value} for name, value in found.metrics.items()]
    rows += [{"metric": f"latency {k}", "value": v} for k, v in found.latency.items()]
    show_rows(rows)


def show_promotion(request: Promotion, report: GateReport | None) -> None:
    """A request, its gates, and what comes next."""
    facts = {
        "request": request.id,
        "model": request.ref,
        "from": request.source,
        "to": f"{request.to} of environment {request.environment}",
        "state": request.state.value,
        "asked by": request.requester,
        "reason": request.reason,
        "note": request.note,
        "approved by": ", ".join(a.by for a in request.approvals),
        "approvals": f"{len(request.valid_approvals)} of {request.approvals_needed}",
        "evidence": short(request.evidence_hash or ""),
        "expires": format_instant(request.expires_at_us),
    }
    _show_facts(facts)
    if report is not None:
        say()
        show_gates(report)
    if request.state.value == "PENDING_APPROVAL":
        say(f"Next, by somebody else: featurestore models approve {request.id}")
    elif request.state.value == "APPROVED":
        say(f"Next: featurestore models apply {request.id}")


def show_promotions(requests: Sequence[Promotion]) -> None:
    """A table of requests; nothing where there is none."""
    if not requests:
        return
    rows = [
        {
            "request": one.id,
            "to": one.to,
            "environment": one.environment,
            "state": one.state.value,
            "asked by": one.requester,
            "opened": format_instant(one.opened_at_us),
        }
        for one in requests
    ]
    say()
    show_rows(rows, title="promotions")


def show_gates(report: GateReport) -> None:
    """A line per gate."""
    passed = sum(result.passed for result in report.results)
    for result in report.results:
        say(f"{'ok    ' if result.passed else 'FAILED'}  {result.name}: {result.message}")
    say(f"{passed} of {len(report.results)} gates of {report.model} passed")


def show_history(moves: Sequence[StageMove]) -> None:
    """A table of moves."""
    rows = [
        {
            "at": format_instant(move.at_us),
            "stage": move.stage,
            "from": move.before or "",
            "to": move.after or "",
            "asked by": move.requester or "",
            "approved by": _approvers(move),
            "applied by": move.by,
            "evidence": short(move.evidence or ""),
            "reason": move.reason,
        }
        for move in moves
    ]
    show_rows(rows, title="history")


def _approvers(move: StageMove) -> str:
    if move.break_glass:
        return "nobody (break-glass)"
    return ", ".join(approval.by for approval in move.approvals)


def show_comparison(found: ModelComparison) -> None:
    """Metrics side by side, then what else differs."""
    rows = [
        [name, old, new, None if old is None or new is None else new - old]
        for name, (old, new) in found.metrics.items()
    ]
    if rows:
        show_table(["metric", found.champion, found.model, "difference"], rows)
    others = [[name, _of(old), _of(new)] for name, (old, new) in found.differences.items()]
    if others:
        say()
        show_table(["differs", found.champion, found.model], others)
    if found.paired:
        say()
        where = show_id(str(found.on)) + (f", split {found.split}" if found.split else "")
        first = found.paired[0]
        say(f"On the same {first.rows:,} rows of {where}, with {first.confidence:g} confidence:")
        show_table(
            ["metric", found.champion, found.model, "better by", "at least"],
            [[p.metric, p.champion, p.challenger, p.difference, p.lower] for p in found.paired],
        )
    if not rows and not others and not found.paired:
        say(f"{found.model} and {found.champion} do not differ")


def _of(value: Any) -> Any:
    """Ids as people see them."""
    if isinstance(value, str) and "@" in value:
        return show_id(value)
    return short(value) if isinstance(value, str) and len(value) == 64 else value
