"""``--kernel TREE --explain CLAIM`` with ``--vcd`` or ``--harness FILE``: the run of a tree that breaks a claim."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from formal.epochs import Mode
from formal.evidence.replay import Replay
from formal.evidence.traces import Trace, write_atomically
from formal.kernel.harness import HarnessError, calls, program
from formal.kernel.tree import KernelTree
from formal.runfiles import Broken, RunFileError, only_one, write_vcd
from formal.treejob import TreeReport


def write(args: argparse.Namespace, tree: KernelTree, reports: Sequence[TreeReport]) -> list[str]:
    """Writes what was asked for of a tree; returns a line for each file.

    Raises:
        RunFileError: if not exactly one run breaks the claim.
        OSError: if a file cannot be written.
    """
    if not (args.vcd or args.harness):
        return []
    found = [(r, row) for r in reports for row in r.rows]
    report, row = found[only_one(args.explain, [(r.mode.value, row) for r, row in found], "--mode")]
    assert report.system is not None
    replay = Replay(report.system)
    lines = write_vcd(args, Broken(report.mode.value, row, replay))
    if args.harness:
        assert row.trace is not None
        short = Trace(row.trace.initial, row.trace.steps[: row.broken_at])
        title = (
            f"{row.check} ({report.mode.value}, v{tree.release}): the functions of debug.c in the run that breaks it"
        )
        try:
            steps = list(calls(replay, short, report.counterparts))
            text = program(tree, report.mode is Mode.VHE, steps, title)
        except HarnessError as error:
            raise RunFileError(str(error)) from error
        write_atomically(args.harness, text)
        lines.append(f"written: {args.harness}")
    return lines
