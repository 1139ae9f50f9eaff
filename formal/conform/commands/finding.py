"""The command line of the findings: ``python -m formal.conform finding NAME``.

Runs a finding's sequence and its control on a booted kernel, and says whether it is so.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from formal.common.exit_codes import ExitCode
from formal.common.options import Parser, Rule, UsageError
from formal.common.runner import Failures, run
from formal.conform.boot.boot import Recording, boot
from formal.conform.boot.debian import default_directory, image
from formal.conform.boot.marks import MissingMarkError, Passage, passages
from formal.conform.commands.kernel import CANNOT_RUN, DEFAULT, add_machine_arguments, modes
from formal.conform.commands.trace import epoch_of
from formal.conform.findings.counterexamples import run as run_counterexamples
from formal.conform.findings.reproducers import REPRODUCERS, STATES, Reproducer, ReproducerError, State, by_name
from formal.conform.machine import emulator
from formal.evidence.runs.traces import TraceError
from formal.scope.configuration import Configuration


class Outcome(StrEnum):
    """What a run of a reproducer says."""

    CONFIRMED = "CONFIRMED"
    ABSENT = "NOT THERE"
    UNCLEAR = "UNCLEAR"


@dataclass(frozen=True)
class Judgement:
    """What was seen in the sequence and in its control, and what that means."""

    outcome: Outcome
    sequence: str
    control: str


def judge(reproducer: Reproducer, recording: Recording) -> Judgement:
    """Compares what a recording shows with what is expected.

    UNCLEAR: the control already deviates, or the sequence shows something that is neither expected nor the defect.
    """
    found = passages(recording.trace)
    sequence, control = (_observe(reproducer, found.get(name)) for name in _scenarios(reproducer))
    outcome = Outcome.UNCLEAR
    if control == reproducer.expected and not recording.errors:
        if sequence == reproducer.defect:
            outcome = Outcome.CONFIRMED
        elif sequence == reproducer.expected:
            outcome = Outcome.ABSENT
    return Judgement(outcome, sequence, control)


def _scenarios(reproducer: Reproducer) -> tuple[str, str]:
    return reproducer.name, f"{reproducer.name}:control"


def _observe(reproducer: Reproducer, passage: Passage | None) -> str:
    if passage is None:
        return "nothing: the scenario did not run"
    try:
        return reproducer.observe(passage)
    except (IndexError, MissingMarkError, ReproducerError) as e:
        return f"nothing to judge: {e}"


CODES = {
    ExitCode.OK: "all confirmed (with --from-trace: run, or shown to be impossible)",
    ExitCode.WRONG: "one is not there",
    ExitCode.UNKNOWN: "one is unclear, or it cannot be run",
}
RULES = (
    Rule("--list", "lists what there is", only=()),
    Rule("--from-trace", "runs every counterexample", without=("NAME",)),
)
FAILURES: Failures = dict.fromkeys((*CANNOT_RUN, TraceError), (ExitCode.UNKNOWN, ""))


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line.

    Raises:
        UsageError: with one line that says what is wrong.
    """
    says = "Runs the sequence of a finding on a booted kernel, with a control, and says whether it is so."
    p = Parser("conform finding", says, CODES, RULES)
    p.add_argument(
        "name", nargs="*", default=[], metavar="NAME", help="a finding; default: all that the kernel is affected by"
    )
    p.add_argument("--list", action="store_true", help="all findings, and what became of the other causes")
    p.add_argument(
        "--from-trace", action="store_true", help="every stored counterexample of the kernel's release, made into a run"
    )
    p.add_argument("--kernel", metavar="KERNEL", help="a series or an image; default: the first that is affected")
    add_machine_arguments(p)
    return p.parse(argv)


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit code."""
    return run("formal.conform finding", lambda: _run(arguments(argv)), FAILURES)


def _run(args: argparse.Namespace) -> int:
    if args.list:
        _print_list()
        return ExitCode.OK
    if args.from_trace:
        return _from_traces(args)
    for name in args.name:
        if by_name(name) is None:
            raise UsageError(_unknown(name))
    named = [r for r in REPRODUCERS if r.name in args.name]
    series = args.kernel or (named[0].series[0] if named else DEFAULT)
    wanted = named or [r for r in REPRODUCERS if "/" in series or series in r.series]
    outcomes: list[Outcome] = []
    qemu = emulator.find(args.qemu)
    kernel = image(series, args.kernels or default_directory())
    for mode in modes(args):
        here = [r for r in wanted if mode in r.modes or args.mode]
        if not here:
            continue
        recording = boot(kernel.path, mode, "\n".join(r.script() for r in here), qemu, timeout=args.timeout)
        for reproducer in here:
            judgement = judge(reproducer, recording)
            outcomes.append(judgement.outcome)
            _print(reproducer, recording, judgement)
        for error in recording.errors:
            print(f"COMPLAINT: {error}")
    if Outcome.UNCLEAR in outcomes or not outcomes:
        return ExitCode.UNKNOWN
    return int(Outcome.ABSENT in outcomes)


def _from_traces(args: argparse.Namespace) -> int:
    """What became of each counterexample; 0 all were run or cannot be, 1 one is not there, 2 usage, 3 it cannot run."""
    series = args.kernel or DEFAULT
    absent = False
    qemu = emulator.find(args.qemu)
    kernel = image(series, args.kernels or default_directory())
    epoch = epoch_of(kernel.path.name.removeprefix("vmlinuz-"))
    if epoch is None:
        raise UsageError(f"the release of {kernel.path.name} is not modelled")
    for mode in modes(args):
        rows, recording = run_counterexamples(Configuration(epoch, mode.value), kernel.path, mode, qemu, args.timeout)
        where = f"{recording.release if recording else series} {mode.value}"
        for row in rows:
            print(f"{where}: {row.claim}: {row.state}: {row.why}", flush=True)
            absent |= row.state is State.NOT_REPRODUCIBLE
        for error in recording.errors if recording else ():
            print(f"COMPLAINT: {error}")
    return int(absent)


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, [r.name for r in REPRODUCERS], 1)
    return f"no finding {name}" + (f"; did you mean {near[0]}?" if near else "; --list shows them")


def _print(r: Reproducer, recording: Recording, judgement: Judgement) -> None:
    print(f"{r.name} on {recording.release} {recording.mode}: {judgement.outcome}")
    print(f"  expected {r.expected}; seen {judgement.sequence}; in the control {judgement.control}", flush=True)


def _print_list() -> None:
    for r in REPRODUCERS:
        where = f"{', '.join(r.series)}, {' and '.join(m.value for m in r.modes)}"
        print(f"{r.name} ({r.cause}; {where})\n  {r.says}")
    print("Causes of violated claims on these kernels:")
    for cause, (state, why) in STATES.items():
        print(f"  {cause}: {state}" + (f": {why}" if why else ""))
