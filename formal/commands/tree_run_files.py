"""``--kernel TREE --explain CLAIM`` with ``--vcd`` or ``--harness FILE``: the run of a tree that breaks a claim."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from formal.commands.run_files import Broken, RunFileError, only_one, write_vcd
from formal.common.files import Outputs, write_file
from formal.common.lifetime import Scratch
from formal.evidence.runs.replay import Replay
from formal.evidence.runs.traces import Trace
from formal.kernel.compiled.compiler import HarnessError
from formal.kernel.compiled.harness import UNIT_MARK, Rerun, executions
from formal.kernel.source.tree import KernelTree
from formal.matrix.configuration_run import Row
from formal.tree.verdicts import TreeReport


def write(args: argparse.Namespace, outputs: Outputs, tree: KernelTree, reports: Sequence[TreeReport]) -> list[str]:
    """Writes what was asked for of a tree; returns a line for each file.

    Raises:
        RunFileError: if not exactly one run breaks the claim.
    """
    if not (args.vcd or args.harness):
        return []
    found = [(r, row) for r in reports for row in r.rows]
    report, row = found[only_one(args.explain, [(r.mode.value, row) for r, row in found], "--mode")]
    assert report.system is not None
    replay = Replay(report.system)
    lines = write_vcd(outputs, Broken(report.mode.value, row, replay))
    if args.harness:
        assert row.trace is not None
        short = Trace(row.trace.initial, row.trace.steps[: row.broken_at])
        lines += _rerun(args.harness, outputs, tree, report, row, replay, short)
    return lines


def _rerun(
    file: Path, outputs: Outputs, tree: KernelTree, report: TreeReport, row: Row, replay: Replay, run: Trace
) -> list[str]:
    """Writes the run as C: the program, and beside it a folder with the files of the tree."""
    assert report.program is not None
    title = f"{row.check} ({report.mode.value}, v{tree.release}): the functions of the run that breaks it"
    folder = file.with_suffix(".d")
    try:
        found = executions(replay, run, report, report.program, tree)
        with Scratch("harness-") as build:
            rerun = Rerun(report.program, tree, report.mode, found.calls, build)
            text, units = rerun.sources("\n * ".join([title, *found.not_compiled]), file.name, folder.name)
    except HarnessError as error:
        raise RunFileError(str(error)) from error
    old = sorted(folder.glob("*.c"))  # of another run, perhaps: the command compiles all that is there
    if foreign := [path.name for path in old if not path.read_text(errors="replace").startswith(UNIT_MARK)]:
        raise RunFileError(f"{folder} has files of another kind, such as {foreign[0]}: choose another name")
    try:
        folder.mkdir(exist_ok=True)
        for path in old:
            path.unlink()
        for name, unit in units.items():
            write_file(folder / name, unit)
    except OSError as error:
        outputs.failed.append(f"{error.filename}: {error.strerror}: --harness was not written")
        return []
    if not (written := outputs.write("--harness", text)):
        return []
    command = text.splitlines()[len(found.not_compiled) + 2].removeprefix(" *").strip()
    return [f"{written[0]}, and {len(units)} files in {folder}", *found.not_compiled, f"  {command}"]
