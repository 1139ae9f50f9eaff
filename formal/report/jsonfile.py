"""Results as JSON, schema version 1."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from formal.evidence.runs.traces import to_json
from formal.matrix.configuration_run import Report, Row
from formal.scope.assumptions import ASSUMED, NOT_MODELLED

SCHEMA_VERSION = 1


def _row(row: Row) -> dict[str, Any]:
    data: dict[str, Any] = {
        "check": row.check,
        "claim": row.claim,
        "epoch": row.epoch,
        "mode": row.mode,
        "verdict": row.verdict,
        "expected": row.expected,
        "engine": row.engine,
        "seconds": round(row.seconds, 6),
        "assumptions": list(row.assumptions),
    }
    if row.reason:
        data["reason"] = row.reason
    if row.trace is not None:
        data["trace"] = {**to_json(row.trace), "broken_at": row.broken_at}
    return data


def text(reports: Sequence[Report], exit_code: int, **more: Any) -> str:
    """The whole run as one JSON document."""
    data = {
        "schema_version": SCHEMA_VERSION,
        "exit_code": exit_code,
        "results": [_row(row) for report in reports for row in report.rows],
        "problems": [f"{report.configuration}: {p}" for report in reports for p in report.problems + report.undecided],
        "assumed": list(ASSUMED),
        "not_modelled": list(NOT_MODELLED),
        **more,
    }
    return json.dumps(data, indent=1) + "\n"


def tree(release: str, reports: Sequence[Any], exit_code: int) -> str:
    """The result for a kernel tree; ``reports`` are those of ``formal.tree.verdicts``."""
    data = {
        "schema_version": SCHEMA_VERSION,
        "exit_code": exit_code,
        "kernel": release,
        "cached": any(r.cached for r in reports),
        "results": [_row(row) for r in reports for row in r.rows],
        "functions": [
            {
                "function": c.function,
                "mode": r.mode.value,
                "place": c.place,
                "equal": c.equal,
                "differs_in": list(c.differs_in),
            }
            for r in reports
            for c in r.compared
        ],
        "problems": [p for r in reports for p in r.problems],
        "assumed": [*ASSUMED, *dict.fromkeys(n for r in reports for n in r.notes)],
        "not_modelled": list(NOT_MODELLED),
    }
    return json.dumps(data, indent=1) + "\n"
