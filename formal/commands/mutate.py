"""``python -m formal.mutate TREE``: every small edit of the modelled C, and those that the comparison does not tell."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import get_args

from formal.common.exit_codes import ExitCode
from formal.common.files import Outputs
from formal.common.lifetime import Scratch
from formal.common.options import Parser, add_jobs, count
from formal.common.processes import in_turn
from formal.common.runner import Failures, run
from formal.epochs import Mode
from formal.kernel.errors import NotUnderstoodError, TreeError
from formal.kernel.source.tree import KernelTree
from formal.mutate.sweep import Kind, Outcome, Site, Sweep, sample, sites
from formal.report.text import plural

CODES = {
    ExitCode.OK: "each edit is told from the original, refused, equivalent, or changes only what is not modelled",
    ExitCode.WRONG: "some are unexplained",
    ExitCode.NOT_UNDERSTOOD: "the unchanged tree is not understood",
}
FAILURES: Failures = {
    TreeError: (ExitCode.USAGE, ""),
    NotUnderstoodError: (ExitCode.NOT_UNDERSTOOD, "not understood: "),
}
_SHARE = 130  # edits for one process: what it keeps of them grows, and is gone with it
Row = tuple[int, Site, Outcome]


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line.

    Raises:
        UsageError: with one line that says what is wrong.
    """
    p = Parser("mutate", "Makes every small edit of a tree's modelled C, and says which ones nothing tells.", CODES)
    p.add_argument("tree", type=Path, metavar="TREE", help="an arm64 kernel source tree; nothing is written to it")
    p.add_argument("--mode", choices=[m.value for m in Mode], default=Mode.VHE.value, help="the host's mode")
    p.add_argument("--sample", type=count, metavar="N", help="N edits, always the same, instead of all")
    p.add_argument("--file", metavar="TEXT", default="", help="only files with this in their name")
    p.add_argument("--all", action="store_true", help="print the other edits as well, with the reason")
    p.add_argument("--json", type=Path, metavar="FILE", help="write all edits; - is the standard output")
    add_jobs(p, 1, "processes side by side, 2 GB each (default: 1)")
    return p.parse(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    return run("formal.mutate", lambda: _run(arguments(sys.argv[1:] if argv is None else argv)), FAILURES)


def _run(args: argparse.Namespace) -> int:
    """Prints each edit that nobody can explain (with ``--all``: every edit), and how many there are of each kind."""
    outputs = Outputs({"--json": args.json})
    outputs.check()
    mode = Mode(args.mode)
    with outputs.kept_apart():
        chosen = [site for site in sites(KernelTree(args.tree), mode) if args.file in site.file]
        if args.sample is not None:
            chosen = sample(chosen, args.sample)
        rows: dict[int, tuple[Site, Outcome]] = {}
        for number, site, outcome in _outcomes(args.tree, mode, chosen, args.jobs):
            rows[number] = site, outcome
            if args.all or outcome.kind == "unexplained":
                print(f"{outcome.kind}: {site} ({outcome.reason})", flush=True)
        outputs.write("--json", _as_json([rows[number] for number in sorted(rows)]))
        counts = Counter(outcome.kind for _, outcome in rows.values())
        print(f"{plural(len(chosen), 'edit')}: " + ", ".join(f"{counts[kind]} {kind}" for kind in get_args(Kind)))
    outputs.finish()
    return ExitCode.WRONG if counts["unexplained"] else ExitCode.OK


def _outcomes(tree: Path, mode: Mode, chosen: Sequence[Site], jobs: int) -> Iterator[Row]:
    """What becomes of the edits, with their numbers, as it is found."""
    size = max(1, min(_SHARE, -(-len(chosen) // jobs)))
    shares = [range(start, min(start + size, len(chosen))) for start in range(0, len(chosen), size)]
    with Scratch("mutants-"):  # made before the processes, so that theirs lie beside it and go with it
        yield from in_turn([partial(_share, tree, mode, chosen, share) for share in shares], jobs)


def _share(tree: Path, mode: Mode, chosen: Sequence[Site], share: range) -> Iterator[Row]:
    with Sweep(tree, mode) as sweep:
        for number in share:
            yield number, chosen[number], sweep.outcome(chosen[number])


def _as_json(rows: Sequence[tuple[Site, Outcome]]) -> str:
    edits = [
        {"file": site.file, "line": site.edit.line, "function": site.edit.function, "operator": site.edit.operator,
         "edit": str(site), "kind": outcome.kind, "reason": outcome.reason}
        for site, outcome in rows
    ]  # fmt: skip
    return json.dumps({"edits": edits}, indent=1) + "\n"
