"""``python -m formal.mutate TREE``: every small edit of the modelled C, and those that the comparison does not tell."""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import get_args

from formal.common.files import write_atomically
from formal.common.options import Parser, UsageError, count
from formal.common.processes import in_turn
from formal.epochs import Mode
from formal.kernel.errors import NotUnderstoodError, TreeError
from formal.kernel.source.tree import KernelTree
from formal.mutate.sweep import Kind, Outcome, Site, Sweep, sample, sites

OK, UNEXPLAINED, USAGE, NOT_UNDERSTOOD, INTERRUPTED = 0, 1, 2, 125, 130
_SHARE = 130  # edits for one process: what it keeps of them grows, and is gone with it
Row = tuple[int, Site, Outcome]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints each edit that nobody can explain (with ``--all``: every edit), and how many there are of each kind.

    Exit codes: 0 each edit is told from the original, refused, equivalent, or changes only what is not modelled;
    1 some are unexplained; 2 usage; 125 the unchanged tree is not understood; 130 interrupted.
    """
    parser = Parser(prog="formal.mutate", description=__doc__)
    parser.add_argument("tree", type=Path, metavar="TREE", help="an arm64 kernel source tree; nothing is written to it")
    parser.add_argument("--mode", choices=[m.value for m in Mode], default=Mode.VHE.value, help="the host's mode")
    parser.add_argument("--sample", type=count, metavar="N", help="N edits, always the same, instead of all")
    parser.add_argument("--file", metavar="TEXT", default="", help="only files with this in their name")
    parser.add_argument("--all", action="store_true", help="print the other edits as well, with the reason")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all edits, with kind and reason")
    parser.add_argument("-j", dest="jobs", type=count, metavar="N", default=1, help="processes (2 GB each)")
    try:
        args = parser.parse_args(arguments)
        mode = Mode(args.mode)
        chosen = [site for site in sites(KernelTree(args.tree), mode) if args.file in site.file]
        if args.sample is not None:
            chosen = sample(chosen, args.sample)
        rows: dict[int, tuple[Site, Outcome]] = {}
        for number, site, outcome in _outcomes(args.tree, mode, chosen, args.jobs):
            rows[number] = site, outcome
            if args.all or outcome.kind == "unexplained":
                print(f"{outcome.kind}: {site} ({outcome.reason})", flush=True)
        if args.json:
            write_atomically(args.json, _as_json([rows[number] for number in sorted(rows)]))
    except (UsageError, TreeError, OSError) as error:
        print(f"formal.mutate: {error}", file=sys.stderr)
        return USAGE
    except NotUnderstoodError as error:
        print(f"formal.mutate: not understood: {error}", file=sys.stderr)
        return NOT_UNDERSTOOD
    except KeyboardInterrupt:
        print("formal.mutate: interrupted", file=sys.stderr)
        return INTERRUPTED
    counts = Counter(outcome.kind for _, outcome in rows.values())
    print(f"{len(chosen)} edits: " + ", ".join(f"{counts[kind]} {kind}" for kind in get_args(Kind)))
    return UNEXPLAINED if counts["unexplained"] else OK


def _outcomes(tree: Path, mode: Mode, chosen: Sequence[Site], jobs: int) -> Iterator[Row]:
    """What becomes of the edits, with their numbers, as it is found."""
    size = max(1, min(_SHARE, -(-len(chosen) // jobs)))
    shares = [range(start, min(start + size, len(chosen))) for start in range(0, len(chosen), size)]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:  # of all processes, which may be stopped
        yield from in_turn([partial(_share, tree, mode, chosen, share, folder) for share in shares], jobs)


def _share(tree: Path, mode: Mode, chosen: Sequence[Site], share: range, folder: str) -> Iterator[Row]:
    tempfile.tempdir = folder
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


if __name__ == "__main__":
    sys.exit(main())
