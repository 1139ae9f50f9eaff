"""``python -m formal.check``: checks certificates and traces of every expected verdict. See ``--help``.

Checking imports neither Z3 nor a SAT solver. ``proofs/README.md`` says what is checked, and how to do it without us.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from formal.common.options import Parser, UsageError
from formal.common.places import PROOFS as PROOFS
from formal.evidence.certificates.archive import ArchiveError, Entry, read_index
from formal.evidence.certificates.export import export
from formal.evidence.certificates.make import Made, make, write
from formal.evidence.check import Checked, Goals, checked, side_by_side, summary
from formal.evidence.exchange import cross as crossing
from formal.evidence.runs.witnesses import witnessed
from formal.scope.configuration import Configuration
from formal.scope.manifest import ManifestError

OK, WRONG, USAGE, UNKNOWN, INTERNAL, INTERRUPTED = 0, 1, 2, 3, 4, 130
EPILOG = """exit codes: 0 all evidence is right; 1 something is wrong; 2 usage; 3 a solver of --cross gave up;
4 internal error; 130 interrupted."""


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line.

    Raises:
        UsageError: with one line that says what is wrong.
    """
    p = Parser(
        prog="python -m formal.check",
        description="Checks the evidence of every expected verdict in proofs/, without Z3 or a SAT solver.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("proofs", metavar="PROOFS", nargs="?", type=Path, default=PROOFS, help="default: proofs/")
    p.add_argument("--only", metavar="E8-vhe", action="append", default=[], help="one configuration; repeatable")
    p.add_argument("--jobs", metavar="N", type=int, default=os.cpu_count() or 1, help="processes (default: all CPUs)")
    p.add_argument("--drup", action="store_true", help="PyPI's drup checks every proof that is not too long for it")
    what = p.add_mutually_exclusive_group()
    what.add_argument("--make", action="store_true", help="build the certificates (needs python-sat), then check them")
    what.add_argument("--cross", action="store_true", help="ask z3, cvc5 and bitwuzla about every obligation as well")
    what.add_argument("--export", metavar="DIR", type=Path, help="write SMT-LIB, DIMACS, LRAT and DRUP files")
    p.add_argument("--timeout", metavar="S", type=float, default=60.0, help="seconds per question of --cross (60)")
    args = p.parse_args(argv)
    if args.jobs < 1 or args.timeout <= 0:
        raise UsageError("--jobs and --timeout must be positive")
    if not args.proofs.is_dir():
        raise UsageError(f"{args.proofs} is no directory")
    for option, module, package in (("make", "pysat", "python-sat"), ("drup", "drup", "drup")):
        if getattr(args, option) and find_spec(module) is None:
            raise UsageError(f"--{option} needs {package}: pip install {package}")
    if args.cross and not crossing.installed():
        raise UsageError(f"--cross needs one of {', '.join(crossing.SOLVERS)}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    try:
        return _run(arguments(sys.argv[1:] if argv is None else argv))
    except UsageError as error:
        print(f"formal.check: {error}", file=sys.stderr)
        return USAGE
    except (ArchiveError, ManifestError) as error:
        print(f"formal.check: {error}", file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        print("formal.check: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:  # anything else is a mistake of ours, and must not look like a wrong certificate
        print(f"formal.check: internal error: {type(error).__name__}: {error}", file=sys.stderr)
        return INTERNAL


def _run(args: argparse.Namespace) -> int:
    goals = Goals.of(args.proofs, args.only)
    if args.make and (code := _make(args, goals)):
        return code
    code = _check(args, goals)
    if code == OK and args.cross:
        return _cross(args, goals, read_index(goals.certificates))
    if code == OK and args.export:
        return _export(args, goals, read_index(goals.certificates))
    return code


def _check(args: argparse.Namespace, goals: Goals) -> int:
    started = time.perf_counter()
    found: list[Checked] = []
    for one in checked(goals, args.jobs, args.drup):
        found.append(one)
        for problem in one.problems:
            print(f"formal.check: {problem}", file=sys.stderr)
        if not one.problems:
            print(line(one))
    if any(one.problems for one in found):
        return WRONG
    print(f"{summary(found)}; {time.perf_counter() - started:.0f} s")
    if args.drup:
        outcomes = [one.certificates for one in found]
        confirmed, total = sum(o.confirmed for o in outcomes), sum(o.obligations for o in outcomes)
        print(f"PyPI's drup accepts {confirmed} of {total} proofs; the others are too long for it")
    return OK


def line(one: Checked) -> str:
    """One configuration that is right."""
    o, w = one.certificates, one.traces
    proved = f"{o.claims:3} PROVED by {o.obligations:3} obligations, {o.steps:6} proof steps; " if o.claims else ""
    return f"{w.configuration!s:<10} {proved}{w.violated} VIOLATED; runs replayed: {w.traces}"


def _build(task: tuple[Configuration, Mapping[str, str], Path]) -> Made:
    c, expected, traces = task
    return make(c, expected, witnessed(c, expected, traces).never)


def _make(args: argparse.Namespace, goals: Goals) -> int:
    made: list[Made] = []
    tasks = [(c, table, args.proofs / "traces") for c, table in goals.proved.items()]
    for m in side_by_side(_build, tasks, args.jobs):
        made.append(m)
        done = f"{m.configuration!s:<10} {len(m.archive) >> 10} KiB" if m.entry else m.problem
        print(f"made {len(made)} of {len(tasks)}: {done}", file=sys.stderr)
    if wrong := [m for m in made if m.problem]:
        print(f"formal.check: {wrong[0].configuration}: {wrong[0].problem}; nothing was written", file=sys.stderr)
        return WRONG
    write(goals.certificates, made, whole=not args.only)
    return OK


def _ask(
    task: tuple[Configuration, Mapping[str, str], Entry], solvers: tuple[str, ...], seconds: float
) -> crossing.Crossed:
    c, table, entry = task
    return crossing.cross(c, table, entry.plan, solvers, seconds)


def _cross(args: argparse.Namespace, goals: Goals, index: Mapping[str, Entry]) -> int:
    solvers = crossing.installed()
    tasks = [(c, table, index[c.stem]) for c, table in goals.proved.items()]
    answers = list(side_by_side(partial(_ask, solvers=solvers, seconds=args.timeout), tasks, args.jobs))
    wrong = [line for a in answers for line in (*a.disagreements, *filter(None, [a.problem]))]
    unknown = [line for a in answers for line in a.unknown]
    for line in (*wrong, *unknown):
        print(f"formal.check: {line}", file=sys.stderr)
    if wrong:
        return WRONG
    print(f"{', '.join(solvers)}: {sum(a.texts for a in answers)} texts, {len(unknown)} unknown, no disagreement")
    if skipped := sum(a.not_asked for a in answers):
        print(
            f"{skipped} texts that compare constant arrays were not put to {', '.join(crossing.CANNOT)}, which cannot"
        )
    return UNKNOWN if unknown else OK


def _export(args: argparse.Namespace, goals: Goals, index: Mapping[str, Entry]) -> int:
    folder, proved = goals.certificates, goals.proved.items()
    try:
        written = sum(export(c, table, index[c.stem], folder, args.export) for c, table in proved)
    except OSError as error:
        raise UsageError(f"--export {args.export}: {error.strerror}") from error
    print(f"{written} obligations written below {args.export}")
    return OK
