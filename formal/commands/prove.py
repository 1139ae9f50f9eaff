"""The command line of ``python -m formal.prove``: pick, run, compare with what is expected, report, exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from formal.commands import run_files
from formal.commands.arguments import arguments
from formal.common.exit_codes import ExitCode, for_bisect
from formal.common.files import Outputs, check_folder
from formal.common.options import UsageError
from formal.common.runner import Failures, run
from formal.engines.verdict import ContradictionError
from formal.engines.z3backend import SolverTimeoutError
from formal.epochs import EPOCHS
from formal.evidence.runs.traces import TraceError
from formal.matrix import schedule
from formal.matrix.configuration_run import Job, Report
from formal.properties import CLAIMS, NON_PROPERTIES
from formal.report import jsonfile, notes, spec, text
from formal.report.grid import fold, put, screen_width
from formal.scope.bugs import BUGS, OUT_OF_SCOPE, TOLD
from formal.scope.manifest import Manifest, ManifestError

if TYPE_CHECKING:  # loaded only where they are needed
    from formal.report.servers.results import Suite


WRITTEN = ("json", "junit", "sarif", "ktap", "vcd", "pytest", "harness")  # options that name a file
FAILURES: Failures = {
    ManifestError: (ExitCode.USAGE, ""),
    TraceError: (ExitCode.USAGE, ""),
    run_files.RunFileError: (ExitCode.USAGE, ""),
    SolverTimeoutError: (ExitCode.UNKNOWN, "the solver gave up: "),
    ContradictionError: (ExitCode.INTERNAL, "internal error: "),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    code = run("formal.prove", lambda: _run(arguments(argv)), FAILURES)
    return for_bisect(code) if "--bisect" in argv else code


def _run(args: argparse.Namespace) -> int:
    if args.list:
        return _list()
    if args.notes:
        older, newer = args.notes
        put([*notes.markdown(older, newer, Manifest.read(args.proofs / "manifest.toml"))])
        return ExitCode.OK
    if args.presets:
        from formal.commands import hold_presets  # loads the C front end

        return hold_presets.main(args)
    outputs = Outputs({f"--{name}": getattr(args, name) for name in WRITTEN})
    outputs.check()
    if args.refresh:
        check_folder(args.proofs / "traces")
    with outputs.kept_apart(), ExitStack() as stack:
        if args.kernel:
            from formal.commands import prove_tree  # loads the C front end
            from formal.common.lifetime import read_once

            args.config = read_once(args.config, stack)
            code = prove_tree.tree(args, outputs) if args.base is None else prove_tree.compare(args, outputs)
        else:
            code = _audit(args, outputs) if args.gate else _gate(args, outputs)
    outputs.finish()
    return code


def _of_gate(reports: Sequence[Report], problems: Sequence[str], breakpoints: int) -> Sequence[Suite]:
    from formal.report.servers import results

    return results.of_gate(reports, problems, breakpoints)


def _list() -> int:
    for title, rows in (
        ("claims", [(c.name, c.says.split("\n")[0]) for c in CLAIMS]),
        ("non-properties, which must fail", [(c.name, c.says.split("\n")[0]) for c in NON_PROPERTIES]),
        ("epochs", [(e.name, f"{e.releases}: {e.says}") for e in EPOCHS.values()]),
        ("bugs", [(b.name, f"{b.title}; fixed by {b.fix}") for b in BUGS.values()]),
        (
            "bugs that --kernel tells of a tree by a rule",
            [(name, f"{b.title}; fixed by {b.fix}; told as: {b.rule}") for name, b in TOLD.items()],
        ),
        ("known bugs that the model does not cover", [(name, f"{bug}: {why}") for name, bug, why in OUT_OF_SCOPE]),
    ):
        put(text.listing(title, rows), "")
    return ExitCode.OK


def jobs(args: argparse.Namespace, manifest: Manifest | None) -> list[Job]:
    """What the options ask for."""
    names = tuple(args.claim) + ((args.explain,) if args.explain else ())
    found = []
    for c in schedule.selected(args.epoch, args.mode, args.bug):
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


def _gate(args: argparse.Namespace, outputs: Outputs) -> int:
    if args.refresh:
        return _refresh(args)
    manifest = Manifest.read(args.proofs / "manifest.toml")
    todo = jobs(args, manifest)
    reports = _with_progress(todo, args)
    complete = not args.claim and not args.explain
    problems = [p for r in reports for p in schedule.missing(r, manifest) if complete]
    code = exit_code(reports, problems)
    if args.json:
        outputs.write("--json", jsonfile.text(reports, code))
    run_files.reports(outputs, lambda: _of_gate(reports, problems, args.breakpoints), code)
    if args.spec:
        put(*[spec.markdown(reports)] if args.verbose else spec.screen(reports, *screen_width()))
        return max(code, ExitCode.WRONG if spec.unanswered() else ExitCode.OK)
    _print(args, reports, problems)
    print("".join(f"{line}\n" for line in run_files.write(args, outputs, reports)), end="")
    return code


def _refresh(args: argparse.Namespace) -> int:
    """Writes what is found; says what has changed, and writes nothing if a verdict is worse and none was accepted."""
    file = args.proofs / "manifest.toml"
    old = Manifest.read(file) if file.exists() else None
    reports = _with_progress(jobs(args, old), args)
    changes = schedule.changes(reports, old)
    put([str(change) for change in changes])
    if (worse := [change for change in changes if change.worse]) and not args.accept:
        put(f"{len(worse)} of {text.plural(len(changes), 'change')} WORSE: nothing was written; --accept records them")
        return ExitCode.WRONG
    schedule.refresh(reports, old, args.proofs)
    files, verdicts = text.plural(len(reports), "file"), text.plural(len(changes), "verdict")
    put(f"written: {file} and {files} of traces; {verdicts} changed")
    unknown = [row for r in reports for row in r.rows if row.verdict == "UNKNOWN"]
    problems = [problem for r in reports for problem in r.problems]
    put([f"PROBLEM: {problem}" for problem in problems])
    return ExitCode.WRONG if problems else ExitCode.UNKNOWN if unknown else ExitCode.OK


def _audit(args: argparse.Namespace, outputs: Outputs) -> int:
    from formal.evidence import check  # the checkers of evidence are loaded only where it is checked
    from formal.evidence.certificates.archive import ArchiveError
    from formal.report import trust

    manifest = Manifest.read(args.proofs / "manifest.toml")
    reports = _with_progress(jobs(args, manifest), args)
    problems = [p for r in reports for p in schedule.missing(r, manifest)]
    found: list[check.Checked] = []
    try:
        found += check.checked(check.Goals.of(args.proofs), args.jobs)
    except ArchiveError as error:
        problems.append(str(error))
    problems += [problem for one in found for problem in one.problems]
    wrong = trust.differences(reports, problems)
    code = exit_code(reports, problems)
    if args.json:
        outputs.write("--json", jsonfile.text(reports, code, evidence=wrong))
    run_files.reports(outputs, lambda: _of_gate(reports, problems, args.breakpoints), code)
    page = trust.page(reports, found, wrong)
    put(page)
    return code


def exit_code(reports: Sequence[Report], problems: Sequence[str] = ()) -> ExitCode:
    """0 if everything is as expected; 1 for a difference; 3 if the only differences are UNKNOWN."""
    different = [row for report in reports for row in report.rows if not row.as_expected]
    if problems or any(report.problems for report in reports) or any(r.verdict != "UNKNOWN" for r in different):
        return ExitCode.WRONG
    undecided = any(report.undecided for report in reports)
    return (
        ExitCode.UNKNOWN
        if undecided or any(row.verdict == "UNKNOWN" for r in reports for row in r.rows)
        else ExitCode.OK
    )


def _with_progress(todo: Sequence[Job], args: argparse.Namespace) -> list[Report]:
    workers = args.jobs
    if not sys.stderr.isatty():
        return schedule.run_all(todo, workers, lambda report: None)
    from rich.console import Console  # loaded for a terminal only

    with Console(stderr=True).status(f"proving {text.plural(len(todo), 'configuration')}") as status:
        left = {job.configuration for job in todo}

        def done(report: Report) -> None:
            left.discard(report.configuration)
            status.update(f"proving: {', '.join(map(str, sorted(left)))}")

        return schedule.run_all(todo, workers, done)


def _print(args: argparse.Namespace, reports: Sequence[Report], problems: Sequence[str]) -> None:
    from formal.report import explanation  # shows what is found of a claim, which takes more than a verdict

    if args.explain:
        names = (args.explain, f"not {args.explain}")
        put([*explanation.together(reports, names, args.proofs, args.breakpoints)], "", text.assumed())
        return
    whole = not args.verbose and not args.claim
    if whole:
        put(*text.first_screen(reports))
    elif len(reports) == 1:
        put(text.detail(reports[0]))
    else:
        bugs = [r for r in reports if r.configuration.is_bug]
        for part in ([r for r in reports if not r.configuration.is_bug], bugs):
            for start in range(0, len(part), 8):
                put(text.matrix(part[start : start + 8]), "")
    lines = [*text.summary(reports), text.sanity(reports), *problems]
    lines += [] if whole else [f"DIFFERS: {line}" for line in text.differences(reports)]
    put([folded for line in lines if line for folded in fold(line)])
    unexpected = [(r, row) for r in reports for row in r.rows if not row.as_expected and row.trace is not None]
    for report, row in unexpected[: 1 if whole else None]:  # one run says enough; -v shows all
        put("", explanation.lines(report.configuration, row, args.breakpoints))
    put(*text.assumptions() if args.verbose else [fold(line) for line in (text.assumed(), *text.next_steps(reports))])
