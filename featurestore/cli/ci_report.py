"""What a run of `featurestore ci` found, as Markdown, JUnit XML and JSON. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from xml.etree import ElementTree as ET

from featurestore.masking import mask
from featurestore.timeline import format_instant

SUITES = ("definitions", "tests", "plan", "gates")
TEXT_CHARS_MAX = 60_000
"""Of one text in a report; pull requests take no longer ones."""
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at. `suite` is of `SUITES`; `group` is the file, or the model."""

    suite: str
    group: str
    name: str
    passed: bool
    message: str = ""
    seconds: float = 0.0
    line: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All checks of one run; `plan` is the plan as Markdown, empty where there is none."""

    project: str
    environment: str
    at_us: int
    checks: tuple[Check, ...]
    plan: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        """Those that did not."""
        return tuple(check for check in self.checks if not check.passed)

    def suite(self, name: str) -> tuple[Check, ...]:
        """The checks of one suite."""
        return tuple(check for check in self.checks if check.suite == name)


def to_json(report: Report) -> dict[str, Any]:
    """Plain data."""
    return {
        "project": report.project,
        "environment": report.environment,
        "at": format_instant(report.at_us),
        "passed": report.passed,
        "checks": [
            asdict(check)
            | {name: _xml(getattr(check, name)) for name in ("group", "name", "message")}
            for check in report.checks
        ],
        "plan": dict(report.changes),
    }


# --- Markdown -------------------------------------------------------------------------------------


def to_markdown(report: Report) -> str:
    """What a pull request shows: a table of suites, what failed, the plan, and every gate."""
    verdict = "✅ passed" if report.passed else "❌ failed"
    lines = [
        f"## featurestore: {_text(report.project)}, {_text(report.environment)}: {verdict}",
        "",
        "| | passed | failed |",
        "|---|--:|--:|",
    ]
    for name in SUITES:
        checks = report.suite(name)
        if checks:
            good = sum(check.passed for check in checks)
            lines.append(f"| {name} | {good} | {len(checks) - good} |")
    if report.failed:
        lines += ["", "### What failed", "", *map(_item, report.failed)]
    if report.plan:
        lines += ["", report.plan.strip()]
    gates = report.suite("gates")
    if gates:
        lines += [
            "",
            "### Gates",
            "",
            "| model | gate | | |",
            "|---|---|---|---|",
            *map(_row, gates),
        ]
    text = "\n".join(lines) + "\n"
    if len(text) <= TEXT_CHARS_MAX:
        return text
    return text[:TEXT_CHARS_MAX] + "\n\n… shortened; the whole is in report.json\n"


def _item(check: Check) -> str:
    where = f"{check.group}:{check.line}" if check.line else check.group
    message = "<br>".join(_text(line) for line in mask(check.message).splitlines())
    return f"- **{check.suite}** {_text(where)}: {_text(check.name)}: {message}"


def _row(check: Check) -> str:
    mark = "ok" if check.passed else "**FAILED**"
    cells = (check.group, check.name, mark, check.message)
    return "| " + " | ".join(c if c is mark else _text(" ".join(c.split())) for c in cells) + " |"


def _text(text: str) -> str:
    """Text that Markdown and HTML leave alone: names and messages come from anywhere."""
    text = mask(_NOT_XML.sub("�", text)).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_{}\[\]|#])", r"\\\1", text)


# --- JUnit ----------------------------------------------------------------------------------------


def to_junit(report: Report) -> str:
    """JUnit XML, a suite per kind of check: what GitHub, GitLab and Jenkins read."""
    suites = [name for name in SUITES if report.suite(name)]
    root = ET.Element("testsuites", {"name": "featurestore", **_counts(report.checks)})
    for name in suites:
        checks = report.suite(name)
        suite = ET.SubElement(
            root,
            "testsuite",
            {
                "name": name,
                **_counts(checks),
                "skipped": "0",
                "timestamp": format_instant(report.at_us),
            },
        )
        for check in checks:
            suite.append(_case(check))
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _counts(checks: Sequence[Check]) -> dict[str, str]:
    return {
        "tests": str(len(checks)),
        "failures": str(sum(not check.passed for check in checks)),
        "errors": "0",
        "time": f"{sum(check.seconds for check in checks):.3f}",
    }


def _case(check: Check) -> ET.Element:
    case = ET.Element(
        "testcase",
        {
            "classname": _xml(f"{check.suite}.{check.group}"),
            "name": _xml(check.name),
            "time": f"{check.seconds:.3f}",
            **({"file": _xml(check.group), "line": str(check.line)} if check.line else {}),
        },
    )
    if not check.passed:
        first, _, _ = check.message.partition("\n")
        failure = ET.SubElement(case, "failure", {"message": _xml(first), "type": check.suite})
        failure.text = _xml(check.message)
    elif check.message:
        ET.SubElement(case, "system-out").text = _xml(check.message)
    return case


def _xml(text: str) -> str:
    """Text without what XML can't hold (nor, of that, UTF-8), and without secrets."""
    return mask(_NOT_XML.sub("�", text))[:TEXT_CHARS_MAX]
