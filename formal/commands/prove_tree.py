"""``--kernel TREE``, alone or with ``--base OTHER``: proves the C of a tree, or what a patch changes; reports it."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from functools import partial
from itertools import islice
from pathlib import Path

from formal.commands import run_files, tree_run_files
from formal.common.exit_codes import ExitCode
from formal.common.files import Outputs
from formal.common.options import UsageError
from formal.epochs import HOSTS, Mode
from formal.kernel.compare.behaviours import DEBUG_C
from formal.kernel.errors import Gaps, NotUnderstoodError, TreeError
from formal.kernel.source.tree import KernelTree
from formal.kernel.source.versions import versions
from formal.kernel.text.signs import read
from formal.matrix.configuration_run import Report
from formal.report import diff, jsonfile, spec, text
from formal.report import tree as report
from formal.report.grid import fold, put, screen_width
from formal.report.servers import results
from formal.report.servers.treeresults import of_steps, of_tree
from formal.report.waiting import waiting
from formal.scope.configuration import Configuration
from formal.scope.manifest import Manifest
from formal.tree import cache, rank
from formal.tree.patch import Step, side_by_side, steps
from formal.tree.verdicts import TreeJob

_IN_WORDS = {
    ExitCode.OK: "as expected or better",
    ExitCode.WRONG: "WORSE than expected",
    ExitCode.UNKNOWN: "not all decided",
}


def _tree_job(args: argparse.Namespace, tree: KernelTree, processes: int = 1) -> TreeJob:
    modes = (Mode(args.mode),) if args.mode else HOSTS
    names = tuple(args.claim) + ((args.explain,) if args.explain else ())
    manifest = Manifest.read(args.proofs / "manifest.toml")
    return TreeJob(tree, modes, names, args.proofs, manifest, args.timeout, processes)


def compare(args: argparse.Namespace, outputs: Outputs) -> int:
    """What a patch changes; returns the exit code."""
    done: list[Step] = []
    try:
        with ExitStack() as stack:
            trees = versions(args.kernel, args.base, args.config, stack)
            common = trees, partial(_tree_job, args), args.timeout
            flows = args.sarif or args.junit or args.ktap  # C lines, which stay in the process that found them
            alone = flows or args.mode or ".." in args.base or args.jobs < 2
            found = steps(*common) if alone else side_by_side(*common, report.explanation)
            while True:
                with waiting(f"{args.kernel.resolve().name} and {args.base}"):
                    step = next(found, None)
                if step is None:
                    break
                put(
                    *([""] if done else []),
                    [folded for line in diff.lines(step, args.verbose) for folded in fold(line)],
                )
                done.append(step)
    except TreeError as error:
        raise UsageError(str(error)) from error
    undecided = any(row.verdict == "UNKNOWN" for step in done for r in step.reports for row in r.rows)
    code = ExitCode.UNKNOWN if undecided else ExitCode.OK
    code = ExitCode.NOT_UNDERSTOOD if any(step.refused for step in done) else code
    if any(step.diff and step.diff.worse for step in done):
        code = ExitCode.WRONG
    if args.json:
        outputs.write("--json", diff.document(done, code))
    run_files.reports(outputs, lambda: of_steps(done), code)
    return code


def tree(args: argparse.Namespace, outputs: Outputs) -> int:
    """The C of a tree; returns the exit code."""
    try:
        tree = KernelTree(args.kernel, args.config)
        runs = bool(args.explain or args.spec or args.sarif)  # shown with their C lines, which are not plain data
        processes = 1 if runs else args.jobs
        with waiting(args.kernel.resolve().name):
            reports = cache.prove(_tree_job(args, tree, processes), use=not (runs or args.no_cache))
        signs = read(tree, Gaps(noted=True))
    except TreeError as error:
        raise UsageError(str(error)) from error
    except NotUnderstoodError as error:
        print(f"formal.prove: not understood: {error}", file=sys.stderr)
        refused = results.of_refusal(error)
        run_files.reports(outputs, lambda: refused, ExitCode.NOT_UNDERSTOOD)
        return ExitCode.NOT_UNDERSTOOD
    rows = [row for r in reports for row in r.rows]
    problems = [p for r in reports for p in r.problems]
    code = ExitCode.UNKNOWN if any(r.verdict == "UNKNOWN" for r in rows) else ExitCode.OK
    if problems or any(rank.worse(r) and r.verdict == "VIOLATED" for r in rows):
        code = ExitCode.WRONG
    if args.json:
        outputs.write("--json", jsonfile.tree(tree.release, reports, code))
    run_files.reports(outputs, lambda: of_tree(reports), code)
    if args.spec:
        as_reports = [Report(Configuration(f"v{tree.release}", r.mode.value), r.rows) for r in reports]
        quoted = spec.originals(tree.read(DEBUG_C))
        put(*[spec.markdown(as_reports, quoted)] if args.verbose else spec.screen(as_reports, *screen_width()))
        return max(code, ExitCode.WRONG if spec.unanswered() else ExitCode.OK)
    if args.format == "gcc":
        folder = "" if args.kernel == Path() else f"{args.kernel}/"
        put([*report.errors(report.lost(reports), folder), *report.warnings(reports, folder)])
        put([f"{folder}{DEBUG_C}: error: {problem}" for problem in problems])
        return code
    whole = bool(args.verbose or args.claim)
    if args.explain and not args.verbose:
        put([*islice(report.first_screen(tree, reports), 1)])
    elif whole or args.explain:
        put(report.headline(tree, reports, signs), "", report.table(reports))
    else:
        put([folded for line in report.first_screen(tree, reports) for folded in fold(line)])
    lines = [f"PROBLEM: {p}" for p in problems]
    for r in reports:
        for row in r.rows if whole or args.explain else ():
            if args.explain or (rank.worse(row) and row.verdict != "UNKNOWN"):
                lines += ["", *report.explanation(r, row)]
    lines += [] if args.explain else [f for line in report.undecided(reports, whole) for f in fold(line)]
    lines += tree_run_files.write(args, outputs, tree, reports)
    put(lines, *([""] if lines else []), text.assumptions() if args.verbose else text.assumed())
    counts = {v: sum(r.verdict == v for r in rows) for v in text.STYLE}
    verdict = _IN_WORDS[code]
    put(
        *([""] if whole or args.explain else []),
        f"{DEBUG_C}: {counts['PROVED']} PROVED, {counts['VIOLATED']} VIOLATED, {counts['UNKNOWN']} UNKNOWN: {verdict}",
    )
    return code
