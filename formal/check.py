"""``python -m formal.check``: checks the certificates of everything that is expected to be PROVED. See ``--help``.

Checking imports neither Z3 nor a SAT solver. ``proofs/README.md`` says what is checked, and how to do it without us.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn, TypeVar

from formal.configuration import BUG_CONFIGURATIONS, EPOCH_CONFIGURATIONS, Configuration
from formal.evidence import cross as crossing
from formal.evidence.archive import ArchiveError, Entry, read_index
from formal.evidence.export import export
from formal.evidence.make import Made, make, write
from formal.evidence.recheck import Outcome, Work, recheck
from formal.manifest import Manifest, ManifestError

OK, WRONG, USAGE, UNKNOWN, INTERNAL, INTERRUPTED = 0, 1, 2, 3, 4, 130
PROOFS = Path(__file__).parents[1] / "proofs"
EPILOG = """exit codes: 0 every certificate is right; 1 something is wrong; 2 usage; 3 a solver of --cross gave up;
4 internal error; 130 interrupted."""

Task = TypeVar("Task")
Result = TypeVar("Result")


class UsageError(Exception):
    """Something that the user asked for does not exist."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line.

    Raises:
        UsageError: with one line that says what is wrong.
    """
    p = _Parser(
        prog="python -m formal.check",
        description="Checks the certificates of everything that is expected to be PROVED, without Z3 or a SAT solver.",
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
    """What is to be certified: the configurations with something PROVED, and the verdicts expected there."""

    expected: Mapping[Configuration, Mapping[str, str]]

    @staticmethod
    def of(manifest: Manifest, only: Sequence[str]) -> Goals:
        """What the manifest asks for.

        Raises:
            UsageError: if ``only`` names no configuration.
            ManifestError: if the manifest lacks an epoch, or names one that does not exist.
        """
        known = {c.stem: c for c in EPOCH_CONFIGURATIONS + BUG_CONFIGURATIONS}
        if lost := [c for c in EPOCH_CONFIGURATIONS if not manifest.expected(c)]:
            raise ManifestError(f"manifest.toml: nothing is expected of {lost[0]}")
        if strange := sorted(set(manifest.tables) - {f"{c.name}.{c.mode}" for c in known.values()}):
            raise ManifestError(f"manifest.toml: there is no configuration {strange[0]}")
        wanted = {c: manifest.expected(c) for c in known.values() if "PROVED" in manifest.expected(c).values()}
        for name in only:
            if name not in {c.stem for c in wanted}:
                near = get_close_matches(name, [c.stem for c in wanted], 1)
                raise UsageError(
                    f"--only {name}: nothing is PROVED there" + (f"; did you mean {near[0]}?" if near else "")
                )
        return Goals({c: table for c, table in wanted.items() if not only or c.stem in only})


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
    goals = Goals.of(Manifest.read(args.proofs / "manifest.toml"), args.only)
    folder = args.proofs / "certificates"
    if args.make and (code := _make(args, goals, folder)):
        return code
    index = read_index(folder)
    if strange := sorted(set(index) - {c.stem for c in goals.expected}) if not args.only else []:
        raise ArchiveError(f"index.json: {strange[0]} is in the index, but nothing is expected to be PROVED there")
    code = _check(args, goals, folder, index)
    if code == OK and args.cross:
        return _cross(args, goals, index)
    if code == OK and args.export:
        return _export(args, goals, folder, index)
    return code


def _each(function: Callable[[Task], Result], tasks: Sequence[Task], jobs: int) -> Iterator[Result]:
    """The results in order, computed by several processes if there is more than one to use."""
    if jobs == 1 or len(tasks) < 2:
        yield from map(function, tasks)
        return
    with ProcessPoolExecutor(min(jobs, len(tasks))) as pool:
        yield from pool.map(function, tasks)


def _check(args: argparse.Namespace, goals: Goals, folder: Path, index: Mapping[str, Entry]) -> int:
    started = time.perf_counter()
    tasks = [Work(c, table, index.get(c.stem), folder, args.drup) for c, table in goals.expected.items()]
    outcomes: list[Outcome] = []
    for o in _each(recheck, tasks, args.jobs):
        outcomes.append(o)
        if o.problem:
            print(f"formal.check: {o.problem}", file=sys.stderr)
        else:
            print(
                f"{o.configuration!s:<10} {o.claims:3} claims {o.obligations:4} obligations {o.steps:6} proof steps  ok"
            )
    if any(o.problem for o in outcomes):
        return WRONG
    total = sum(o.obligations for o in outcomes)
    print(
        f"{sum(o.claims for o in outcomes)} claims are PROVED by {total} obligations with "
        f"{sum(o.steps for o in outcomes)} proof steps, each checked; {time.perf_counter() - started:.0f} s"
    )
    if args.drup:
        confirmed = sum(o.confirmed for o in outcomes)
        print(f"PyPI's drup accepts {confirmed} of {total} proofs; the others are too long for it")
    return OK


def _build(task: tuple[Configuration, Mapping[str, str]]) -> Made:
    return make(*task)


def _make(args: argparse.Namespace, goals: Goals, folder: Path) -> int:
    made: list[Made] = []
    for m in _each(_build, list(goals.expected.items()), args.jobs):
        made.append(m)
        done = f"{m.configuration!s:<10} {len(m.archive) >> 10} KiB" if m.entry else m.problem
        print(f"made {len(made)} of {len(goals.expected)}: {done}", file=sys.stderr)
    if wrong := [m for m in made if m.problem]:
        print(f"formal.check: {wrong[0].configuration}: {wrong[0].problem}; nothing was written", file=sys.stderr)
        return WRONG
    write(folder, made, whole=not args.only)
    return OK


def _ask(
    task: tuple[Configuration, Mapping[str, str], Entry], solvers: tuple[str, ...], seconds: float
) -> crossing.Crossed:
    c, table, entry = task
    return crossing.cross(c, table, entry.plan, solvers, seconds)


def _cross(args: argparse.Namespace, goals: Goals, index: Mapping[str, Entry]) -> int:
    solvers = crossing.installed()
    tasks = [(c, table, index[c.stem]) for c, table in goals.expected.items()]
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


def _export(args: argparse.Namespace, goals: Goals, folder: Path, index: Mapping[str, Entry]) -> int:
    try:
        written = sum(export(c, table, index[c.stem], folder, args.export) for c, table in goals.expected.items())
    except OSError as error:
        raise UsageError(f"--export {args.export}: {error.strerror}") from error
    print(f"{written} obligations written below {args.export}")
    return OK


if __name__ == "__main__":
    sys.exit(main())
