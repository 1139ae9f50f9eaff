"""``--explain CLAIM`` with ``--vcd`` or ``--pytest FILE``: the run that breaks a claim, as a file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from formal.configuration import Configuration
from formal.evidence.replay import Replay
from formal.evidence.traces import write_atomically
from formal.job import Report, Row
from formal.report.explanation import claim_of
from formal.system import System

if TYPE_CHECKING:  # loaded only where a tree is given
    from formal.treejob import TreeReport

PACKAGE = "pyvcd"


class RunFileError(Exception):
    """What is asked for cannot be written; the message is one line."""


@dataclass(frozen=True)
class Broken:
    """A run that breaks a claim, and where."""

    where: str
    row: Row
    replay: Replay


def check_options(args: argparse.Namespace) -> None:
    """Refuses options that do not go together.

    Raises:
        RunFileError: if there is no run to write, or no package to write it with.
    """
    asked = [name for name in ("vcd", "pytest") if getattr(args, name)]
    if asked and not args.explain:
        raise RunFileError(f"--{asked[0]} writes the run that breaks a claim: it goes with --explain CLAIM")
    if args.pytest and args.kernel:
        raise RunFileError("--pytest replays a run of a modelled kernel: it does not go with --kernel")
    if args.vcd and find_spec("vcd") is None:
        raise RunFileError(f"--vcd needs {PACKAGE}: pip install {PACKAGE}")


def write(args: argparse.Namespace, reports: Sequence[Report]) -> list[str]:
    """Writes what was asked for of a modelled kernel; returns a line for each file.

    Raises:
        RunFileError: if not exactly one run breaks the claim.
        OSError: if a file cannot be written.
    """
    if not (args.vcd or args.pytest):
        return []
    found = [(r.configuration, row) for r in reports for row in r.rows]
    c, row = found[_only_one(args.explain, [(str(c), row) for c, row in found], "--epoch and --mode")]
    replay = Replay(System(c.kernel(args.breakpoints)))
    lines = _vcd(args, Broken(str(c), row, replay))
    if args.pytest:
        write_atomically(args.pytest, _pytest(c, row, replay))
        lines.append(f"written: {args.pytest}")
    return lines


def write_tree(args: argparse.Namespace, reports: Sequence[TreeReport]) -> list[str]:
    """Writes what was asked for of a tree; returns a line for each file.

    Raises:
        RunFileError: if not exactly one run breaks the claim.
        OSError: if a file cannot be written.
    """
    if not args.vcd:
        return []
    found = [(r, row) for r in reports for row in r.rows]
    report, row = found[_only_one(args.explain, [(r.mode.value, row) for r, row in found], "--mode")]
    assert report.system is not None
    return _vcd(args, Broken(report.mode.value, row, Replay(report.system)))


def _only_one(claim: str, rows: Sequence[tuple[str, Row]], narrower: str) -> int:
    asked = [(n, where, row) for n, (where, row) in enumerate(rows) if row.check in (claim, f"not {claim}")]
    runs = [(n, where) for n, where, row in asked if row.trace is not None]
    if not runs:
        verdicts = ", ".join(f"{row.verdict} ({where})" for _, where, row in asked)
        raise RunFileError(f"no run breaks {claim}: {verdicts or 'it is not checked'}")
    if len(runs) > 1:
        raise RunFileError(f"one run is written, and {claim} is broken in {len(runs)} configurations: add {narrower}")
    return runs[0][0]


def _vcd(args: argparse.Namespace, broken: Broken) -> list[str]:
    if not args.vcd:
        return []
    from formal.explain.vcd import vcd

    row = broken.row
    assert row.trace is not None
    comment = f"{row.check} ({broken.where}), false after step {row.broken_at}"
    write_atomically(args.vcd, vcd(broken.replay, row.trace, until=row.broken_at, comment=comment))
    return [f"written: {args.vcd}"]


def _pytest(c: Configuration, row: Row, replay: Replay) -> str:
    from formal.explain.testfile import test_file

    assert row.trace is not None and row.broken_at is not None
    return test_file(c, row.check, claim_of(row.check).says, replay, row.trace, row.broken_at)
