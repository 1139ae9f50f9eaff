"""``python -m formal.check``: checks certificates and traces of every expected verdict. See ``--help``.

Checking imports neither Z3 nor a SAT solver. ``proofs/README.md`` says what is checked, and how to do it without us.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from formal.configuration import BUG_CONFIGURATIONS, EPOCH_CONFIGURATIONS, Configuration
from formal.evidence import cross as crossing
from formal.evidence.archive import INDEX, ArchiveError, Entry, read_index
from formal.evidence.export import export
from formal.evidence.make import Made, make, write
from formal.evidence.recheck import Outcome, Work, recheck
from formal.manifest import Manifest, ManifestError
from formal.options import Parser, UsageError
from formal.witness import Witnessed, witnessed

OK, WRONG, USAGE, UNKNOWN, INTERNAL, INTERRUPTED = 0, 1, 2, 3, 4, 130
PROOFS = Path(__file__).parents[1] / "proofs"
EPILOG = """exit codes: 0 all evidence is right; 1 something is wrong; 2 usage; 3 a solver of --cross gave up;
4 internal error; 130 interrupted."""

Task = TypeVar("Task")
Result = TypeVar("Result")


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


@dataclass(frozen=True)
class Goals:
    """The configurations to check, and the verdicts expected there; ``folder`` is ``proofs/``."""

    folder: Path
    expected: Mapping[Configuration, Mapping[str, str]]
    whole: bool

    @staticmethod
    def of(folder: Path, only: Sequence[str] = ()) -> Goals:
        """What the manifest asks for.

        Raises:
            UsageError: if ``only`` names no configuration.
            ManifestError: if the manifest is unreadable, lacks an epoch, or names one that does not exist.
        """
        manifest = Manifest.read(folder / "manifest.toml")
        known = {c.stem: c for c in EPOCH_CONFIGURATIONS + BUG_CONFIGURATIONS}
        if lost := [c for c in known.values() if not manifest.expected(c)]:
            raise ManifestError(f"manifest.toml: nothing is expected of {lost[0]}")
        if strange := sorted(set(manifest.tables) - {f"{c.name}.{c.mode}" for c in known.values()}):
            raise ManifestError(f"manifest.toml: there is no configuration {strange[0]}")
        for name in only:
            if name not in known:
                near = get_close_matches(name, known, 1)
                raise UsageError(
                    f"--only {name}: no such configuration" + (f"; did you mean {near[0]}?" if near else "")
                )
        wanted = {c: manifest.expected(c) for c in known.values() if not only or c.stem in only}
        return Goals(folder, wanted, not only)

    @property
    def proved(self) -> dict[Configuration, Mapping[str, str]]:
        """Those where something is expected to be PROVED."""
        return {c: table for c, table in self.expected.items() if "PROVED" in table.values()}

    @property
    def certificates(self) -> Path:
        """Where the certificates are."""
        return self.folder / "certificates"

    def strange(self, index: Mapping[str, Entry]) -> str:
        """A file or an entry that belongs to nothing that is expected; empty if there is none."""
        if not self.whole:
            return ""
        stems, proved = {c.stem for c in self.expected}, {c.stem for c in self.proved}
        for name in sorted(set(index) - proved):
            return f"index.json: {name} is in the index, but nothing is expected to be PROVED there"
        for path in sorted(self.certificates.iterdir()):
            if path.name != INDEX and path.name.removesuffix(".tar.xz") not in proved:
                return f"{path.name}: no certificates of anything that is expected to be PROVED"
        for path in sorted((self.folder / "traces").iterdir()):
            if path.name.removesuffix(".json") not in stems:
                return f"{path.name}: no traces of anything that is expected"
        return ""


@dataclass(frozen=True)
class Checked:
    """What came out of one configuration: its certificates, if it has any, and its traces."""

    certificates: Outcome
    traces: Witnessed

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, one line each; what is wrong with traces only if the certificates are right."""
        if self.certificates.problem:
            return (self.certificates.problem,)
        return tuple(f"{self.traces.configuration}: {p}" for p in self.traces.problems)


def checked(goals: Goals, jobs: int, drup: bool = False) -> Iterator[Checked]:
    """Checks every configuration, side by side; results in order.

    Raises:
        ArchiveError: if the index is unreadable, or there is something that belongs to nothing.
    """
    index = read_index(goals.certificates)
    if why := goals.strange(index):
        raise ArchiveError(why)
    traces, certificates = goals.folder / "traces", goals.certificates
    tasks = [(Work(c, t, index.get(c.stem), certificates, (), drup), traces) for c, t in goals.expected.items()]
    return _each(_checked, tasks, jobs)


def _checked(task: tuple[Work, Path]) -> Checked:
    work, traces = task
    shown = witnessed(work.configuration, work.expected, traces)
    if "PROVED" not in work.expected.values():
        return Checked(Outcome(work.configuration), shown)
    return Checked(recheck(replace(work, untaken=shown.never)), shown)


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


def _each(function: Callable[[Task], Result], tasks: Sequence[Task], jobs: int) -> Iterator[Result]:
    """The results in order, computed by several processes if there is more than one to use."""
    if jobs == 1 or len(tasks) < 2:
        yield from map(function, tasks)
        return
    with ProcessPoolExecutor(min(jobs, len(tasks))) as pool:
        yield from pool.map(function, tasks)


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


def summary(found: Sequence[Checked]) -> str:
    """All of them that are right."""
    o, w = [one.certificates for one in found], [one.traces for one in found]
    return (
        f"{sum(x.claims for x in o)} claims are PROVED by {sum(x.obligations for x in o)} obligations with "
        f"{sum(x.steps for x in o)} proof steps, each checked; {sum(x.violated for x in w)} are VIOLATED, with "
        f"{sum(x.traces for x in w)} runs replayed"
    )


def _build(task: tuple[Configuration, Mapping[str, str], Path]) -> Made:
    c, expected, traces = task
    return make(c, expected, witnessed(c, expected, traces).never)


def _make(args: argparse.Namespace, goals: Goals) -> int:
    made: list[Made] = []
    tasks = [(c, table, args.proofs / "traces") for c, table in goals.proved.items()]
    for m in _each(_build, tasks, args.jobs):
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
    answers = list(_each(partial(_ask, solvers=solvers, seconds=args.timeout), tasks, args.jobs))
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


if __name__ == "__main__":
    gc.set_threshold(100_000, 50, 100)  # as formal/prove.py
    sys.exit(main())
