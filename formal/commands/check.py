"""``python -m formal.check``: checks certificates and traces of every expected verdict. See ``--help``.

Checking imports neither Z3 nor a SAT solver. ``proofs/README.md`` says what is checked, and how to do it without us.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from formal.commands.shared import ONLY, add_configurations, chosen
from formal.common.exit_codes import ExitCode
from formal.common.files import check_folder
from formal.common.options import Parser, Rule, UsageError, add_jobs, seconds
from formal.common.places import PROOFS as PROOFS
from formal.common.runner import Failures, run
from formal.evidence.certificates.archive import ArchiveError, Entry, read_index
from formal.evidence.certificates.export import export
from formal.evidence.certificates.make import Made, make, write
from formal.evidence.check import Checked, Goals, checked, side_by_side, summary
from formal.evidence.exchange import cross as crossing
from formal.evidence.runs.witnesses import witnessed
from formal.scope.configuration import Configuration
from formal.scope.manifest import ManifestError

CODES = {
    ExitCode.OK: "all evidence is right",
    ExitCode.WRONG: "something is wrong",
    ExitCode.UNKNOWN: "a solver of --cross gave up",
}
RULES = (
    ONLY,
    Rule("--timeout", "is for questions of --cross", needs="--cross"),
    Rule("--make", "builds certificates", without=("--cross", "--export")),
    Rule("--cross", "asks solvers", without=("--export",)),
)
FAILURES: Failures = {ArchiveError: (ExitCode.WRONG, ""), ManifestError: (ExitCode.WRONG, "")}


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line.

    Raises:
        UsageError: with one line that says what is wrong.
    """
    says = "Checks the evidence of every expected verdict in proofs/, without Z3 or a SAT solver."
    p = Parser("check", says, CODES, RULES)
    p.add_argument("proofs", metavar="PROOFS", nargs="?", type=Path, default=PROOFS, help="default: proofs/")
    add_configurations(p)
    add_jobs(p)
    p.add_argument("--drup", action="store_true", help="PyPI's drup checks every proof that is not too long for it")
    p.add_argument("--make", action="store_true", help="build the certificates (needs python-sat), then check them")
    p.add_argument("--cross", action="store_true", help="ask z3, cvc5 and bitwuzla about every obligation as well")
    p.add_argument("--export", metavar="DIR", type=Path, help="write SMT-LIB, DIMACS, LRAT and DRUP files")
    p.add_argument("--timeout", metavar="S", type=seconds, default=60.0, help="seconds per question of --cross (60)")
    args = p.parse(argv)
    args.only = chosen(args)
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
    return run("formal.check", lambda: _run(arguments(sys.argv[1:] if argv is None else argv)), FAILURES)


def _run(args: argparse.Namespace) -> int:
    goals = Goals.of(args.proofs, args.only)
    if folder := goals.certificates if args.make else args.export:
        check_folder(folder)
    if args.make and (code := _make(args, goals)):
        return code
    code = _check(args, goals)
    if code == ExitCode.OK and args.cross:
        return _cross(args, goals, read_index(goals.certificates))
    if code == ExitCode.OK and args.export:
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
        return ExitCode.WRONG
    print(f"{summary(found)}; {time.perf_counter() - started:.0f} s")
    if args.drup:
        outcomes = [one.certificates for one in found]
        confirmed, total = sum(o.confirmed for o in outcomes), sum(o.obligations for o in outcomes)
        print(f"PyPI's drup accepts {confirmed} of {total} proofs; the others are too long for it")
    return ExitCode.OK


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
        return ExitCode.WRONG
    write(goals.certificates, made, whole=not args.only)
    return ExitCode.OK


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
        return ExitCode.WRONG
    print(f"{', '.join(solvers)}: {sum(a.texts for a in answers)} texts, {len(unknown)} unknown, no disagreement")
    if skipped := sum(a.not_asked for a in answers):
        print(
            f"{skipped} texts that compare constant arrays were not put to {', '.join(crossing.CANNOT)}, which cannot"
        )
    return ExitCode.UNKNOWN if unknown else ExitCode.OK


def _export(args: argparse.Namespace, goals: Goals, index: Mapping[str, Entry]) -> int:
    folder, proved = goals.certificates, goals.proved.items()
    written = sum(export(c, table, index[c.stem], folder, args.export) for c, table in proved)
    print(f"{written} obligations written below {args.export}")
    return ExitCode.OK
