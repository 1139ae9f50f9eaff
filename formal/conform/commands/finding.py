"""The command line of the findings: ``python -m formal.conform finding NAME``.

Runs a finding's sequence and its control on a booted kernel, and says whether it is so.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from dataclasses import dataclass
from enum import StrEnum

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "name", nargs="*", default=[], metavar="NAME", help="a finding; default: all that the kernel is affected by"
    )
    parser.add_argument("--list", action="store_true", help="all findings, and what became of the other causes")
    parser.add_argument(
        "--from-trace", action="store_true", help="every stored counterexample of the kernel's release, made into a run"
    )
    parser.add_argument("--kernel", metavar="KERNEL", help="a series or an image; default: the first that is affected")
    add_machine_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """The command; its exit code: 0 all confirmed, 1 one is not there, 2 usage, 3 one is unclear or it cannot run."""
    if args.list:
        _print_list()
        return 0
    if args.from_trace:
        return _from_traces(args)
    for name in args.name:
        if by_name(name) is None:
            sys.stderr.write(f"formal.conform finding: {_unknown(name)}\n")
            return 2
    named = [r for r in REPRODUCERS if r.name in args.name]
    series = args.kernel or (named[0].series[0] if named else DEFAULT)
    wanted = named or [r for r in REPRODUCERS if "/" in series or series in r.series]
    outcomes: list[Outcome] = []
    try:
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
    except CANNOT_RUN as e:
        sys.stderr.write(f"formal.conform finding: {e}\n")
        return 3
    if Outcome.UNCLEAR in outcomes or not outcomes:
        return 3
    return int(Outcome.ABSENT in outcomes)


def _from_traces(args: argparse.Namespace) -> int:
    """What became of each counterexample; 0 all were run or cannot be, 1 one is not there, 2 usage, 3 it cannot run."""
    series = args.kernel or DEFAULT
    absent = False
    if args.name:
        sys.stderr.write("formal.conform finding: --from-trace runs every counterexample; it takes no NAME\n")
        return 2
    try:
        qemu = emulator.find(args.qemu)
        kernel = image(series, args.kernels or default_directory())
        epoch = epoch_of(kernel.path.name.removeprefix("vmlinuz-"))
        if epoch is None:
            sys.stderr.write(f"formal.conform finding: the release of {kernel.path.name} is not modelled\n")
            return 2
        for mode in modes(args):
            rows, recording = run_counterexamples(
                Configuration(epoch, mode.value), kernel.path, mode, qemu, args.timeout
            )
            where = f"{recording.release if recording else series} {mode.value}"
            for row in rows:
                print(f"{where}: {row.claim}: {row.state}: {row.why}", flush=True)
                absent |= row.state is State.NOT_REPRODUCIBLE
            for error in recording.errors if recording else ():
                print(f"COMPLAINT: {error}")
    except (*CANNOT_RUN, TraceError) as e:
        sys.stderr.write(f"formal.conform finding: {e}\n")
        return 3
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
