"""The command line of ``python -m formal.prove``: pick, run, compare with what is expected, report, exit code."""

from __future__ import annotations

import argparse
import math
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

from formal import gate
from formal.bugs import BUGS, OUT_OF_SCOPE
from formal.configuration import Configuration
from formal.engines.verdict import ContradictionError
from formal.engines.z3backend import SolverTimeoutError
from formal.epochs import EPOCHS, Mode
from formal.evidence.replay import Replay
from formal.evidence.traces import TraceError, write_atomically
from formal.explain.show import final_values, shown
from formal.job import Job, Report, Row, checks
from formal.manifest import Manifest, ManifestError
from formal.properties import CLAIMS, NON_PROPERTIES, Claim
from formal.report import jsonfile, spec, text
from formal.system import System

OK, WORSE, USAGE, UNKNOWN, INTERNAL, NOT_UNDERSTOOD, INTERRUPTED = 0, 1, 2, 3, 4, 125, 130
EPILOG = """exit codes: 0 all verdicts as expected; 1 a verdict differs (with --kernel: is worse); 2 usage;
3 UNKNOWN or time-out; 4 internal error; 125 source not understood; 130 interrupted.
With --bisect, UNKNOWN is 125, usage 128 and an internal error 129, as `git bisect run` wants."""


class UsageError(Exception):
    """Something that the user asked for does not exist."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line.

    Raises:
        UsageError: with one line that says what is wrong and, where it can, what was meant.
    """
    p = _Parser(
        prog="python -m formal.prove",
        description="Proves the debug-trap claims of KVM/arm64, for the modelled kernels or for a kernel tree.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--epoch", metavar="E", help=f"one epoch only: {', '.join(EPOCHS)}")
    p.add_argument("--mode", choices=[m.value for m in Mode], help="one host mode only")
    p.add_argument("--bug", metavar="B", help=f"a bug brought back into its fixed epoch: {', '.join(BUGS)}")
    p.add_argument("--claim", metavar="NAME", action="append", default=[], help="one claim only; repeatable")
    p.add_argument("--kernel", metavar="TREE", type=Path, help="prove the C of a kernel source tree")
    p.add_argument("--config", metavar="FILE", type=Path, help="its .config (default: the tree's arm64 defconfig)")
    p.add_argument("--json", metavar="FILE", type=Path, help="write the results as JSON")
    p.add_argument("--timeout", metavar="S", type=float, default=60.0, help="seconds for one solver question (60)")
    p.add_argument("-j", dest="workers", metavar="N", type=int, help="parallel processes (default: all processors)")
    p.add_argument("--breakpoints", metavar="N", type=int, default=16, help=argparse.SUPPRESS)
    p.add_argument("--list", action="store_true", help="list claims, epochs and bugs")
    p.add_argument("--explain", metavar="CLAIM", help="what a claim says, and the trace where it is violated")
    p.add_argument("--spec", action="store_true", help="the document sentence by sentence, as Markdown")
    p.add_argument("--refresh", action="store_true", help="search traces anew; write proofs/ and its manifest")
    p.add_argument("--bisect", action="store_true", help="exit codes for `git bisect run`")
    p.add_argument("--proofs", metavar="DIR", type=Path, default=gate.PROOFS, help=argparse.SUPPRESS)
    args = p.parse_args(argv)
    _known("epoch", args.epoch, EPOCHS)
    _known("bug", args.bug, BUGS)
    for name in [*args.claim, *([args.explain] if args.explain else [])]:
        _known("claim", name, [c.name for c in (*CLAIMS, *NON_PROPERTIES)])
    if args.epoch and args.bug:
        raise UsageError("--epoch and --bug exclude each other: a bug names its epoch")
    if args.config and not args.kernel:
        raise UsageError("--config goes with --kernel")
    if args.workers is not None and args.workers < 1:
        raise UsageError(f"-j takes a number of processes from 1 up, got {args.workers}")
    if not 0 < args.timeout < math.inf:
        raise UsageError(f"--timeout takes seconds, got {args.timeout:g}")
    if args.breakpoints not in (1, 2, 4, 8, 16):
        raise UsageError(f"--breakpoints takes 1, 2, 4, 8 or 16, got {args.breakpoints}")
    return args


def _known(what: str, name: str | None, names: Iterable[str]) -> None:
    known = list(names)
    if name is not None and name not in known:
        near = get_close_matches(name, known, 1, 0.4)
        raise UsageError(f"unknown {what} {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        code = _run(arguments(argv))
    except (UsageError, ManifestError, TraceError) as error:
        print(f"formal.prove: {error}", file=sys.stderr)
        code = USAGE
    except BrokenPipeError:  # whoever read the output has had enough
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # so that the exit flushes nothing
        return OK
    except OSError as error:
        print(f"formal.prove: {error.filename}: {error.strerror}", file=sys.stderr)
        code = USAGE
    except SolverTimeoutError as error:
        print(f"formal.prove: the solver gave up: {error}", file=sys.stderr)
        code = UNKNOWN
    except ContradictionError as error:
        print(f"formal.prove: internal error: {error}", file=sys.stderr)
        code = INTERNAL
    except Exception as error:
        traceback.print_exc()
        print(f"formal.prove: internal error: {type(error).__name__}: {error}", file=sys.stderr)
        code = INTERNAL
    except KeyboardInterrupt:
        print("formal.prove: interrupted; nothing was written", file=sys.stderr)
        return INTERRUPTED
    if "--bisect" in argv:
        return {UNKNOWN: NOT_UNDERSTOOD, USAGE: 128, INTERNAL: 129}.get(code, code)
    return code


def _run(args: argparse.Namespace) -> int:
    if args.list:
        return _list()
    if args.kernel:
        return _tree(args)
    return _gate(args)


def _list() -> int:
    out = text.console()
    for title, rows in (
        ("claims", [(c.name, c.says.split("\n")[0]) for c in CLAIMS]),
        ("non-properties, which must fail", [(c.name, c.says.split("\n")[0]) for c in NON_PROPERTIES]),
        ("epochs", [(e.name, f"{e.releases}: {e.says}") for e in EPOCHS.values()]),
        ("bugs", [(b.name, f"{b.title}; fixed by {b.fix}") for b in BUGS.values()]),
        ("known bugs that the model does not cover", [(name, f"{bug}: {why}") for name, bug, why in OUT_OF_SCOPE]),
    ):
        out.print(text.listing(title, rows))
        out.print()
    return OK


def jobs(args: argparse.Namespace, manifest: Manifest | None) -> list[Job]:
    """What the options ask for."""
    names = tuple(args.claim) + ((args.explain,) if args.explain else ())
    found = []
    for c in gate.selected(args.epoch, args.mode, args.bug):
        if c.is_bug and names and not args.bug and not args.refresh:
            continue
        if args.explain and c.is_bug and not args.bug:
            continue
        if c.is_bug and (other := [name for name in names if name not in BUGS[c.name].breaks]):
            raise UsageError(
                f"{c.name} is checked for what it breaks: {', '.join(BUGS[c.name].breaks)}; not {other[0]}"
            )
        expected = dict(manifest.expected(c)) if manifest else {}
        found.append(Job(c, args.proofs / "traces", expected, names, args.timeout, args.refresh, args.breakpoints))
    if not found:
        raise UsageError(f"{args.bug or args.epoch} does not exist in mode {args.mode}")
    return found


def _gate(args: argparse.Namespace) -> int:
    manifest_file = args.proofs / "manifest.toml"
    if args.refresh and (args.claim or args.explain):
        raise UsageError("--refresh works on whole configurations; leave --claim and --explain out")
    manifest = None if args.refresh and not manifest_file.exists() else Manifest.read(manifest_file)
    todo = jobs(args, manifest)
    reports = _with_progress(todo, args)
    if args.refresh:
        text.console().print("\n".join(text.differences(reports)), soft_wrap=True, markup=False, highlight=False)
        manifest = gate.refresh(reports, manifest, args.proofs)
        print(f"written: {manifest_file} and {len(reports)} files of traces")
        for report in reports:
            report.rows = [replace(row, expected=row.verdict) for row in report.rows]
    complete = not args.claim and not args.explain
    problems = [] if args.refresh else [p for r in reports for p in _missing(r, manifest) if complete]
    code = exit_code(reports, problems)
    if args.json:
        write_atomically(args.json, jsonfile.text(reports, code))
    if args.spec:
        print(spec.markdown(reports))
        return max(code, WORSE if spec.unanswered() else OK)
    _print(args, reports, problems)
    return code


def _tree(args: argparse.Namespace) -> int:
    from formal import treejob  # libclang and the front end are loaded only where a tree is given
    from formal.kernel.behaviours import DEBUG_C
    from formal.kernel.errors import NotUnderstoodError, TreeError
    from formal.kernel.signs import read
    from formal.kernel.tree import KernelTree
    from formal.report import tree as report

    if args.epoch or args.bug or args.refresh:
        raise UsageError("--kernel proves a tree: --epoch, --bug and --refresh do not go with it")
    try:
        tree = KernelTree(args.kernel, args.config)
        modes = (Mode(args.mode),) if args.mode else tuple(Mode)
        names = tuple(args.claim) + ((args.explain,) if args.explain else ())
        job = treejob.TreeJob(
            tree, modes, names, args.proofs, Manifest.read(args.proofs / "manifest.toml"), args.timeout
        )
        reports = treejob.run(job)
        signs = read(tree)
    except TreeError as error:
        raise UsageError(str(error)) from error
    except NotUnderstoodError as error:
        print(f"formal.prove: not understood: {error}", file=sys.stderr)
        return NOT_UNDERSTOOD
    rows = [row for r in reports for row in r.rows]
    problems = [p for r in reports for p in r.problems]
    code = WORSE if problems or any(treejob.worse(r) and r.verdict == "VIOLATED" for r in rows) else OK
    code = code or (UNKNOWN if any(r.verdict == "UNKNOWN" for r in rows) else OK)
    if args.json:
        write_atomically(args.json, jsonfile.tree(tree.release, reports, code))
    if args.spec:
        as_reports = [Report(Configuration(f"v{tree.release}", r.mode.value), r.rows) for r in reports]
        print(spec.markdown(as_reports, spec.originals(tree.read(DEBUG_C))))
        return max(code, WORSE if spec.unanswered() else OK)
    out = text.console()
    out.print("\n".join(report.headline(tree, reports, signs)), soft_wrap=True, markup=False, highlight=False)
    out.print()
    out.print(report.table(reports))
    lines = [f"PROBLEM: {p}" for p in problems]
    for r in reports:
        for row in r.rows:
            if treejob.worse(row) or args.explain:
                lines += ["", *report.explanation(r, row)]
    out.print("\n".join([*lines, "", *text.assumptions()]), soft_wrap=True, markup=False, highlight=False)
    counts = {v: sum(r.verdict == v for r in rows) for v in text.STYLE}
    verdict = {OK: "as expected or better", WORSE: "WORSE than expected", UNKNOWN: "not all decided"}[code]
    out.print(
        f"\n{DEBUG_C}: {counts['PROVED']} PROVED, {counts['VIOLATED']} VIOLATED, {counts['UNKNOWN']} UNKNOWN: {verdict}"
    )
    return code


def _missing(report: Report, manifest: Manifest | None) -> list[str]:
    """Expected verdicts that nothing came out for."""
    if manifest is None:
        return []
    got = {row.check for row in report.rows}
    return [f"{report.configuration}: {name} is in the manifest but was not checked"
            for name in manifest.expected(report.configuration) if name not in got]  # fmt: skip


def exit_code(reports: Sequence[Report], problems: Sequence[str] = ()) -> int:
    """0 if everything is as expected; 1 for a difference; 3 if the only differences are UNKNOWN."""
    different = [row for report in reports for row in report.rows if not row.as_expected]
    if problems or any(report.problems for report in reports) or any(r.verdict != "UNKNOWN" for r in different):
        return WORSE
    return UNKNOWN if any(row.verdict == "UNKNOWN" for r in reports for row in r.rows) else OK


def _with_progress(todo: Sequence[Job], args: argparse.Namespace) -> list[Report]:
    workers = args.workers or gate.default_workers()
    err = text.console(stderr=True)
    if not err.is_terminal:
        return gate.run_all(todo, workers, lambda report: None)
    with err.status(f"proving {len(todo)} configurations") as status:
        left = {job.configuration for job in todo}

        def done(report: Report) -> None:
            left.discard(report.configuration)
            status.update(f"proving: {', '.join(map(str, sorted(left)))}")

        return gate.run_all(todo, workers, done)


def _print(args: argparse.Namespace, reports: Sequence[Report], problems: Sequence[str]) -> None:
    out = text.console()
    if args.explain:
        for report in reports:
            for row in report.rows:
                if row.check in (args.explain, f"not {args.explain}"):
                    out.print(
                        "\n".join(explanation(report.configuration, row, args.breakpoints)),
                        soft_wrap=True,
                        markup=False,
                        highlight=False,
                    )
        return
    epochs = [r for r in reports if not r.configuration.is_bug]
    if len(reports) == 1:
        out.print(text.detail(reports[0]))
    else:
        for part in (epochs, [r for r in reports if r.configuration.is_bug]):
            for start in range(0, len(part), 8):
                out.print(text.matrix(part[start : start + 8]))
                out.print()
    lines = [*text.summary(reports), text.sanity(reports), *problems]
    lines += [f"DIFFERS: {line}" for line in text.differences(reports)]
    out.print("\n".join(line for line in lines if line), soft_wrap=True, markup=False, highlight=False)
    for report in reports:
        for row in report.rows:
            if not row.as_expected and row.trace is not None:
                out.print(
                    "\n" + "\n".join(explanation(report.configuration, row, args.breakpoints)),
                    soft_wrap=True,
                    markup=False,
                    highlight=False,
                )
    out.print("\n" + "\n".join(text.assumptions()), soft_wrap=True, markup=False, highlight=False)


def explanation(c: Configuration, row: Row, breakpoints: int = 16) -> list[str]:
    """A claim and, where it is violated, the trace; replayed here once more."""
    claim = next(claim for name, claim in _all_checks() if name == row.check)
    lines = [
        f"{row.check} ({c}): {row.verdict}",
        f"  {claim.says}",
        f"  stated {claim.at.value}; source: {claim.cites}",
    ]
    lines += [f"  given {p.name}: {p.says}" for p in claim.given]
    lines += [f"  {row.reason}"] if row.reason else []
    lines += [f"  {found}" for found in spec.causes(claim, c)]
    if row.trace is None or row.broken_at is None:
        return lines
    replay = Replay(System(c.kernel(breakpoints)))
    lines.append(f"  broken after step {row.broken_at} (shortest found); only what changes is shown:")
    lines += ["  " + line for line in text.trace(shown(replay, row.trace, until=row.broken_at))]
    values = final_values(replay, row.trace, claim, row.broken_at)
    lines += ["  the claim reads, at that point:"] + [f"       {n} = {v}" for n, v in values.items()] if values else []
    return lines


def _all_checks() -> list[tuple[str, Claim]]:
    return [*checks(CLAIMS), *((f"not {c.name}", c) for c in NON_PROPERTIES), *((c.name, c) for c in NON_PROPERTIES)]
