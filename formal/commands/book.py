"""``python -m formal.book -o DIR``: writes the review book, a folder of static pages. See ``--help``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from formal.common.exit_codes import ExitCode
from formal.common.files import check_folder, read_file
from formal.common.options import Parser, add_jobs
from formal.common.places import FORMAL, PROOFS
from formal.common.runner import Failures, run
from formal.matrix import schedule
from formal.matrix.configuration_run import Job
from formal.report import spec
from formal.scope.manifest import Manifest, ManifestError

CODES = {
    ExitCode.OK: "written, and every verdict is as expected",
    ExitCode.WRONG: "written, and a verdict is not as expected",
    ExitCode.NOT_UNDERSTOOD: "a tree is not understood",
}
FAILURES: Failures = {ManifestError: (ExitCode.USAGE, "")}


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line.

    Raises:
        UsageError: with one line that says what is wrong.
    """
    p = Parser(
        "book", "Writes the review book: static pages about the claims, their verdicts and their evidence.", CODES
    )
    p.add_argument("-o", "--output", metavar="DIR", type=Path, required=True, help="the folder to write")
    p.add_argument(
        "--kernel", metavar="TREE", type=Path, action="append", default=[], help="show this tree too; repeatable"
    )
    p.add_argument("--document", metavar="FILE", type=Path, help="debug.c, or its kernel-doc page, to quote from")
    add_jobs(p)
    return p.parse(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    return run("formal.book", lambda: _run(arguments(sys.argv[1:] if argv is None else argv)), FAILURES)


def _run(args: argparse.Namespace) -> int:
    from formal.report.book.content import Book
    from formal.report.book.write import write

    check_folder(args.output)
    original = _original(args.document, args.kernel)
    manifest = Manifest.read(PROOFS / "manifest.toml")
    wanted = [c for c in schedule.selected(None, None, None) if not c.is_bug]
    jobs = [Job(c, PROOFS / "traces", dict(manifest.expected(c))) for c in wanted]
    reports = schedule.run_all(jobs, args.jobs, lambda report: None)
    trees = [row for tree in args.kernel for row in _tree(tree, manifest)]
    written = write(Book(reports, PROOFS, original), args.output, trees, FORMAL.parent / "findings")
    size = sum(path.stat().st_size for path in written) / 1e6
    wrong = [row for report in reports for row in report.rows if not row.as_expected]
    print(f"{args.output / 'index.html'}: {len(written)} files, {size:.1f} MB; {len(wrong)} verdicts not as expected")
    return ExitCode.WRONG if wrong or any(tree["worse"] for tree in trees) else ExitCode.OK


def _original(document: Path | None, trees: Sequence[Path]) -> dict[str, str]:
    """The sentences as the reader's own file has them: its comments, or the whole of it if it is no C."""
    if document is None and not trees:
        return {}
    path = document or trees[0] / "arch/arm64/kvm/debug.c"
    text = read_file(path).decode("utf-8", errors="replace")
    return spec.originals(text if "/*" in text else f"/*{text}*/")


def _tree(path: Path, manifest: Manifest) -> Iterator[dict[str, Any]]:
    from formal.epochs import HOSTS
    from formal.kernel.source.tree import KernelTree
    from formal.tree.rank import worse
    from formal.tree.verdicts import TreeJob, run

    job = TreeJob(KernelTree(path), HOSTS, (), PROOFS, manifest, None)
    for report in run(job):
        counts = {v: sum(row.verdict == v for row in report.rows) for v in ("PROVED", "VIOLATED", "UNKNOWN")}
        yield {
            "name": path.name,
            "mode": report.mode.value,
            **counts,
            "verdicts": {row.check: row.verdict for row in report.rows},
            "worse": [row.check for row in report.rows if worse(row)],
        }
