"""The files that options of ``formal.prove`` ask for: results for other programs, and the run that breaks a claim."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from formal.common.files import Outputs
from formal.evidence.runs.replay import Replay
from formal.matrix.configuration_run import Report, Row
from formal.report.explanation import claim_of
from formal.scope.configuration import Configuration
from formal.system import System

if TYPE_CHECKING:  # loaded only where they are needed
    from formal.report.servers.results import Suite


class RunFileError(Exception):
    """What is asked for cannot be written; the message is one line."""


@dataclass(frozen=True)
class Broken:
    """A run that breaks a claim, and where."""

    where: str
    row: Row
    replay: Replay


def reports(outputs: Outputs, suites: Callable[[], Sequence[Suite]], code: int) -> None:
    """The files for other programs that the options ask for."""
    if outputs.files["--junit"]:
        from formal.report.servers import junit

        outputs.write("--junit", junit.text(suites()))
    if outputs.files["--ktap"]:
        from formal.report.servers import ktap

        outputs.write("--ktap", ktap.text(suites()))
    if outputs.files["--sarif"]:
        from formal.report.servers import sarif

        outputs.write("--sarif", sarif.text(suites(), code))


def write(args: argparse.Namespace, outputs: Outputs, reports: Sequence[Report]) -> list[str]:
    """Writes what was asked for of a modelled kernel; returns a line for each file.

    Raises:
        RunFileError: if not exactly one run breaks the claim.
    """
    if not (args.vcd or args.pytest):
        return []
    found = [(r.configuration, row) for r in reports for row in r.rows]
    c, row = found[only_one(args.explain, [(str(c), row) for c, row in found], "--epoch and --mode")]
    replay = Replay(System(c.kernel(args.breakpoints)))
    lines = write_vcd(outputs, Broken(str(c), row, replay))
    if args.pytest:
        lines += outputs.write("--pytest", _pytest(c, row, replay))
    return lines


def only_one(claim: str, rows: Sequence[tuple[str, Row]], narrower: str) -> int:
    """The number of the one row that has a run which breaks the claim.

    Raises:
        RunFileError: if there is none, or more than one: ``narrower`` are options that help.
    """
    asked = [(n, where, row) for n, (where, row) in enumerate(rows) if row.check in (claim, f"not {claim}")]
    runs = [(n, where) for n, where, row in asked if row.trace is not None]
    if not runs:
        verdicts = ", ".join(f"{row.verdict} ({where})" for _, where, row in asked)
        raise RunFileError(f"no run breaks {claim}: {verdicts or 'it is not checked'}")
    if len(runs) > 1:
        raise RunFileError(f"one run is written, and {claim} is broken in {len(runs)} configurations: add {narrower}")
    return runs[0][0]


def write_vcd(outputs: Outputs, broken: Broken) -> list[str]:
    """Writes the VCD file, if one was asked for; returns a line for it."""
    if not outputs.files["--vcd"]:
        return []
    from formal.explain.vcd import vcd

    row = broken.row
    assert row.trace is not None
    comment = f"{row.check} ({broken.where}), false after step {row.broken_at}"
    return outputs.write("--vcd", vcd(broken.replay, row.trace, until=row.broken_at, comment=comment))


def _pytest(c: Configuration, row: Row, replay: Replay) -> str:
    from formal.explain.testfile import test_file

    assert row.trace is not None and row.broken_at is not None
    return test_file(c, row.check, claim_of(row.check).says, replay, row.trace, row.broken_at)
