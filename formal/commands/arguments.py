"""The options of ``python -m formal.prove``: what there is to ask for, and what excludes what."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

from formal.commands import run_files
from formal.common.options import Parser, UsageError
from formal.common.places import PROOFS
from formal.epochs import EPOCHS, Mode, NoEpochError, epoch_of
from formal.properties import CLAIMS, NON_PROPERTIES
from formal.releases import Release
from formal.scope.bugs import BUGS

OK, WORSE, USAGE, UNKNOWN, INTERNAL, NOT_UNDERSTOOD, INTERRUPTED = 0, 1, 2, 3, 4, 125, 130
PARTS = ("kernel", "epoch", "mode", "bug", "claim", "explain", "list", "notes", "spec", "refresh")  # not with --gate
EPILOG = """exit codes: 0 all verdicts as expected; 1 a verdict differs (with --kernel: is worse); 2 usage;
3 UNKNOWN or time-out; 4 internal error; 125 source not understood; 130 interrupted.
With --bisect, UNKNOWN is 125, usage 128 and an internal error 129, as `git bisect run` wants."""


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line.

    Raises:
        UsageError: with one line that says what is wrong and, where it can, what was meant.
    """
    p = Parser(
        prog="python -m formal.prove",
        description="Proves the debug-trap claims of KVM/arm64, for the modelled kernels or for a kernel tree.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--epoch", metavar="E", help=f"one epoch only, or a release of it (v6.1): {', '.join(EPOCHS)}")
    p.add_argument("--mode", choices=[m.value for m in Mode], help="one host mode only")
    p.add_argument("--bug", metavar="B", help=f"a bug brought back into its fixed epoch: {', '.join(BUGS)}")
    p.add_argument("--claim", metavar="NAME", action="append", default=[], help="one claim only; repeatable")
    p.add_argument("--kernel", metavar="TREE", type=Path, help="prove the C of a kernel source tree")
    p.add_argument("--config", metavar="FILE", type=Path, help="its .config (default: the tree's arm64 defconfig)")
    p.add_argument("--base", metavar="OTHER", help="what a patch does: another tree, a git revision of TREE, or A..B")
    p.add_argument("--json", metavar="FILE", type=Path, help="write the results as JSON")
    p.add_argument("--junit", metavar="FILE", type=Path, help="write the results as JUnit XML")
    p.add_argument("--sarif", metavar="FILE", type=Path, help="write the results as SARIF 2.1.0")
    p.add_argument("--no-cache", action="store_true", help="prove a tree anew that has not changed")
    p.add_argument("--timeout", metavar="S", type=float, default=60.0, help="seconds for one solver question (60)")
    p.add_argument("-j", dest="workers", metavar="N", type=int, help="parallel processes (default: all processors)")
    p.add_argument("--breakpoints", metavar="N", type=int, default=16, help=argparse.SUPPRESS)
    p.add_argument("--list", action="store_true", help="list claims, epochs and bugs")
    p.add_argument("--notes", metavar="A..B", help="what changed after release A up to B, in the C and in the verdicts")
    p.add_argument("--explain", metavar="CLAIM", help="what a claim says, and the trace where it is violated")
    p.add_argument("--vcd", metavar="FILE", type=Path, help="with --explain: the trace for waveform viewers")
    p.add_argument("--pytest", metavar="FILE", type=Path, help="with --explain: the trace as a test that replays it")
    p.add_argument("--harness", metavar="FILE", type=Path, help="with --explain and --kernel: the trace as C to run")
    p.add_argument("--spec", action="store_true", help="the document sentence by sentence, as Markdown")
    p.add_argument("--refresh", action="store_true", help="search traces anew; write proofs/ and its manifest")
    p.add_argument("--gate", action="store_true", help="everything, with all evidence, and what is left to trust")
    p.add_argument("--bisect", action="store_true", help="exit codes for `git bisect run`")
    p.add_argument("--proofs", metavar="DIR", type=Path, default=PROOFS, help=argparse.SUPPRESS)
    args = p.parse_args(argv)
    try:
        args.epoch = args.epoch and epoch_of(args.epoch).name
        args.notes = args.notes and _span(args.notes)
    except NoEpochError as error:
        raise UsageError(str(error)) from error
    _known("bug", args.bug, BUGS)
    for name in [*args.claim, *([args.explain] if args.explain else [])]:
        _known("claim", name, [c.name for c in (*CLAIMS, *NON_PROPERTIES)])
    if args.epoch and args.bug:
        raise UsageError("--epoch and --bug exclude each other: a bug names its epoch")
    if args.gate and (other := [o for o in PARTS if getattr(args, o)]):
        raise UsageError(f"--gate checks everything: --{other[0]} does not go with it")
    try:
        run_files.check_options(args)
    except run_files.RunFileError as error:
        raise UsageError(str(error)) from error
    if args.config and not args.kernel:
        raise UsageError("--config goes with --kernel")
    if args.base is not None and not args.kernel:
        raise UsageError("--base goes with --kernel")
    if args.base is not None and (args.spec or args.explain):
        raise UsageError("--base compares two trees: --spec and --explain do not go with it")
    if args.workers is not None and args.workers < 1:
        raise UsageError(f"-j takes a number of processes from 1 up, got {args.workers}")
    if not 0 < args.timeout < math.inf:
        raise UsageError(f"--timeout takes seconds, got {args.timeout:g}")
    files = [f.absolute() for f in (args.json, args.junit, args.sarif) if f is not None]
    if len(set(files)) < len(files):
        raise UsageError("--json, --junit and --sarif write different files, got the same one twice")
    if args.breakpoints not in (1, 2, 4, 8, 16):
        raise UsageError(f"--breakpoints takes 1, 2, 4, 8 or 16, got {args.breakpoints}")
    return args


def _span(text: str) -> tuple[Release, Release]:
    """The releases of A..B, in any order."""
    ends = [Release.parse(part) for part in text.split("..")]
    if len(ends) != 2 or None in ends:
        raise UsageError(f"--notes takes two releases, such as v6.1..v6.14, not {text!r}")
    older, newer = sorted(r for r in ends if r is not None)
    for asked in (older, newer):
        epoch_of(str(asked))
    return older, newer


def _known(what: str, name: str | None, names: Iterable[str]) -> None:
    known = list(names)
    if name is not None and name not in known:
        near = get_close_matches(name, known, 1, 0.4)
        raise UsageError(f"unknown {what} {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
