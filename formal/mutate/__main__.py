"""``python -m formal.mutate TREE``: every small edit of the modelled C, and those that the comparison does not tell."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from formal.epochs import Mode
from formal.kernel.errors import NotUnderstoodError, TreeError
from formal.mutate.sweep import Sweep, sample
from formal.options import Parser, UsageError, count

OK, USAGE, NOT_UNDERSTOOD, INTERRUPTED = 0, 2, 125, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints each edit that is not told from the original (with ``--all``: every edit), and how many there are.

    Exit codes: 0 done; 2 usage; 125 the unchanged tree is not understood; 130 interrupted.
    """
    parser = Parser(prog="formal.mutate", description=__doc__)
    parser.add_argument("tree", type=Path, metavar="TREE", help="an arm64 kernel source tree; nothing is written to it")
    parser.add_argument("--mode", choices=[m.value for m in Mode], default=Mode.VHE.value, help="the host's mode")
    parser.add_argument("--sample", type=count, metavar="N", help="N edits, always the same, instead of all")
    parser.add_argument("--file", metavar="TEXT", default="", help="only files with this in their name")
    parser.add_argument("--all", action="store_true", help="print the other edits as well, with the reason")
    try:
        args = parser.parse_args(arguments)
        with Sweep(args.tree, Mode(args.mode)) as sweep:
            sites = [site for site in sweep.sites() if args.file in site.file]
            if args.sample is not None:
                sites = sample(sites, args.sample)
            counts: Counter[str] = Counter()
            for site, outcome in sweep.run(sites):
                counts[outcome.kind] += 1
                if args.all or outcome.kind == "equal":
                    print(f"{outcome.kind}: {site}" + (f" ({outcome.reason})" if outcome.reason else ""), flush=True)
    except (UsageError, TreeError) as error:
        print(f"formal.mutate: {error}", file=sys.stderr)
        return USAGE
    except NotUnderstoodError as error:
        print(f"formal.mutate: not understood: {error}", file=sys.stderr)
        return NOT_UNDERSTOOD
    except KeyboardInterrupt:
        print("formal.mutate: interrupted", file=sys.stderr)
        return INTERRUPTED
    print(f"{len(sites)} edits: " + ", ".join(f"{counts[kind]} {kind}" for kind in ("differs", "refused", "equal")))
    return OK


if __name__ == "__main__":
    sys.exit(main())
