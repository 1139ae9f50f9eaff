"""The options of ``python -m formal.prove``: what there is to ask for, and what excludes what."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from formal.commands.shared import epoch_asked
from formal.common.exit_codes import ExitCode
from formal.common.files import STANDARD
from formal.common.options import Parser, Rule, UsageError, add_jobs, add_where, known, seconds
from formal.common.places import PROOFS
from formal.epochs import EPOCHS, Mode
from formal.properties import CLAIMS, NON_PROPERTIES
from formal.releases import Release
from formal.scope.bugs import BUGS

VCD_PACKAGE = "pyvcd"
CODES = {
    ExitCode.OK: "all verdicts as expected",
    ExitCode.WRONG: "a verdict differs (with --kernel: is worse)",
    ExitCode.UNKNOWN: "UNKNOWN or time-out",
    ExitCode.NOT_UNDERSTOOD: "source not understood",
}
BISECT = (
    "With --bisect, UNKNOWN is 125, usage 128, an internal error 129 and what could not be written 131, as "
    "`git bisect run` wants."
)
_REPORTS = ("--json", "--junit", "--sarif", "--ktap")
RULES = (
    Rule("--list", "lists what there is", only=()),
    Rule("--notes", "says what changed between releases", only=("--proofs",)),
    Rule("--presets", "holds presets", only=("--kernel", "--config", "--mode", "--timeout", "--proofs")),
    Rule("--gate", "checks everything", only=(*_REPORTS, "--timeout", "--jobs", "--proofs", "--breakpoints")),
    Rule("--kernel", "proves a tree", without=("--epoch", "--bug", "--refresh", "--breakpoints")),
    Rule("--bug", "names its epoch", without=("--epoch",)),
    Rule("--config", "configures a tree", needs="--kernel"),
    Rule("--base", "compares two trees", needs="--kernel", without=("--spec", "--explain", "--no-cache")),
    Rule(
        "--format", "shows what a tree loses", needs="--kernel", without=("--base", "--explain", "--spec", "--verbose")
    ),
    Rule("--no-cache", "proves a tree anew", needs="--kernel"),
    Rule("--bisect", "tells git about a tree", needs="--kernel"),
    Rule("--refresh", "works on whole configurations", without=("--claim", "--explain", "--spec", *_REPORTS)),
    Rule("--accept", "records what got worse", needs="--refresh"),
    Rule("--explain", "shows one claim", without=("--claim", "--spec")),
    Rule("--vcd", "writes the run that breaks a claim", needs="--explain"),
    Rule("--pytest", "replays a run of a modelled kernel", needs="--explain", without=("--kernel",)),
    Rule("--harness", "runs the C of a tree", needs="--kernel"),
    Rule("--harness", "writes the run that breaks a claim", needs="--explain"),
)


def _span(text: str) -> tuple[Release, Release]:
    """The releases of A..B, in any order."""
    ends = [Release.parse(part) for part in text.split("..")]
    if len(ends) != 2 or None in ends:
        raise UsageError(f"--notes takes two releases, such as v6.1..v6.14, not {text!r}")
    older, newer = sorted(r for r in ends if r is not None)
    for asked in (older, newer):
        epoch_asked(str(asked))
    return older, newer


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line.

    Raises:
        UsageError: with one line that says what is wrong and, where it can, what was meant.
    """
    says = "Proves the debug-trap claims of KVM/arm64, for the modelled kernels or for a kernel tree."
    p = Parser("prove", says, CODES, RULES, BISECT)
    add_where(p, EPOCHS, [m.value for m in Mode])
    p.add_argument("--bug", metavar="B", help=f"a bug brought back into its fixed epoch: {', '.join(BUGS)}")
    p.add_argument("--claim", metavar="NAME", action="append", default=[], help="one claim only; repeatable")
    p.add_argument("--kernel", metavar="TREE", type=Path, help="prove the C of a kernel source tree")
    p.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help="its .config (default: the tree's defconfig); - is the input",
    )
    p.add_argument("--base", metavar="OTHER", help="what a patch does: another tree, a git revision of TREE, or A..B")
    p.add_argument("--json", metavar="FILE", type=Path, help="write the results as JSON; - is the standard output")
    p.add_argument("--junit", metavar="FILE", type=Path, help="write the results as JUnit XML")
    p.add_argument("--sarif", metavar="FILE", type=Path, help="write the results as SARIF 2.1.0")
    p.add_argument("--ktap", metavar="FILE", type=Path, help="write the results as KTAP, for the kernel's test runners")
    shown = "gcc: a line for each lost claim and nothing else, for editors"
    p.add_argument("--format", choices=("text", "gcc"), default="text", help=shown)
    p.add_argument("--no-cache", action="store_true", help="prove a tree anew that has not changed")
    help_timeout = "seconds' work for one solver question (60)"
    p.add_argument("--timeout", metavar="S", type=seconds, default=60.0, help=help_timeout)
    add_jobs(p)
    p.add_argument("--breakpoints", type=int, default=16, choices=(1, 2, 4, 8, 16), help=argparse.SUPPRESS)
    p.add_argument("--list", action="store_true", help="list claims, epochs and bugs")
    p.add_argument("--presets", action="store_true", help="with --kernel: hold the presets of its release against it")
    p.add_argument("--notes", metavar="A..B", help="what changed after release A up to B, in the C and in the verdicts")
    p.add_argument("--explain", metavar="CLAIM", help="what a claim says, and why it is proved or violated")
    p.add_argument("--vcd", metavar="FILE", type=Path, help="with --explain: the trace for waveform viewers")
    p.add_argument("--pytest", metavar="FILE", type=Path, help="with --explain: the trace as a test that replays it")
    p.add_argument("--harness", metavar="FILE", type=Path, help="with --explain and --kernel: the trace as C to run")
    p.add_argument("--spec", action="store_true", help="the document sentence by sentence; with -v as Markdown")
    p.add_argument("--refresh", action="store_true", help="search traces anew; write proofs/ and its manifest")
    p.add_argument("--accept", action="store_true", help="with --refresh: record verdicts that got worse as well")
    p.add_argument("-v", "--verbose", action="store_true", help="every table, and what is assumed and not modelled")
    p.add_argument("--gate", action="store_true", help="everything, with all evidence, and what is left to trust")
    p.add_argument("--bisect", action="store_true", help="exit codes for `git bisect run`")
    p.add_argument("--proofs", metavar="DIR", type=Path, default=PROOFS, help=argparse.SUPPRESS)
    args = p.parse(argv)
    args.epoch = epoch_asked(args.epoch)
    args.notes = args.notes and _span(args.notes)
    known("bug", args.bug, BUGS)
    for name in [*args.claim, *([args.explain] if args.explain else [])]:
        known("claim", name, [c.name for c in (*CLAIMS, *NON_PROPERTIES)])
    if args.vcd and find_spec("vcd") is None:
        raise UsageError(f"--vcd needs {VCD_PACKAGE}: pip install {VCD_PACKAGE}")
    if args.harness and (args.harness == STANDARD or (args.harness.exists() and not args.harness.is_file())):
        raise UsageError(f"--harness writes a folder beside its file as well: {args.harness} is no file")
    return args
