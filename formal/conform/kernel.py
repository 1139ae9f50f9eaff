"""The command line of the kernel part: ``python -m formal.conform kernel``.

Boots kernels with KVM inside, drives the scenarios, and compares what the kernel's trace events say with the model.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from formal.conform import emulator
from formal.conform.boot import Recording, boot
from formal.conform.build import BuildError, MissingToolError
from formal.conform.debian import NEWEST, MissingKernelError, default_directory, image
from formal.conform.scenarios import UnknownScenarioError, choose
from formal.conform.tracecheck import Result
from formal.conform.tracecommand import InconclusiveError, examine, show
from formal.conform.tracecoverage import coverage, lines
from formal.epochs import Mode
from formal.evidence.traces import write_atomically

DEFAULT = "6.1"
EVERY = ("6.1", "5.10", "6.12", NEWEST)
CANNOT_RUN = (MissingKernelError, MissingToolError, BuildError, emulator.EmulatorError)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "kernel",
        nargs="*",
        default=[],
        metavar="KERNEL",
        help=f"a series that Debian packages ({', '.join(EVERY)}) or the path of an arm64 image; default: {DEFAULT}",
    )
    parser.add_argument("--all", action="store_true", help=f"all of {', '.join(EVERY)}")
    parser.add_argument("--scenario", action="append", default=[], metavar="NAME", help="only this one (repeatable)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="keep the recordings as ftrace text")
    add_machine_arguments(parser)


def add_machine_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say how to boot."""
    parser.add_argument("--mode", choices=[m.value for m in Mode], action="append", help="default: both")
    parser.add_argument(
        "--kernels", type=Path, metavar="DIR", help="where kernels are kept; default: a cache directory"
    )
    parser.add_argument("--qemu", metavar="PATH", help="the emulator; default: qemu-system-aarch64")
    parser.add_argument("--timeout", type=seconds, default=120.0, metavar="SECONDS", help="for each boot")


def seconds(text: str) -> float:
    """A time to wait, as an option spells it.

    Raises:
        argparse.ArgumentTypeError: if it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is no time to wait, in seconds")
    return value


def modes(args: argparse.Namespace) -> list[Mode]:
    """The modes that the options ask for, each once."""
    return [Mode(m) for m in dict.fromkeys(args.mode or Mode)]


def run(args: argparse.Namespace) -> int:
    """The command; its exit code: 0 all went well, 1 an unexplained event or a complaint, 2 usage, 3 it cannot run."""
    results: list[Result] = []
    try:
        script = choose(args.scenario)
        qemu = emulator.find(args.qemu)
        failed = False
        for series in dict.fromkeys([*args.kernel, *(EVERY if args.all else ())] or [DEFAULT]):
            kernel = image(series, args.kernels or default_directory())
            for mode in modes(args):
                started = time.monotonic()
                recording = boot(kernel.path, mode, script, qemu, timeout=args.timeout)
                _print(recording, time.monotonic() - started)
                with tempfile.TemporaryDirectory(prefix="formal-conform-") as scratch:
                    explained = _compare(_keep(recording, args.output or Path(scratch)), recording, results)
                failed |= bool(recording.errors) or not explained
    except (UnknownScenarioError, OSError) as e:
        sys.stderr.write(f"formal.conform kernel: {e}\n")
        return 2
    except (*CANNOT_RUN, InconclusiveError) as e:
        sys.stderr.write(f"formal.conform kernel: {e}\n")
        return 3
    if results:
        print("\n".join(lines(coverage(results))))
    return int(failed)


def _keep(recording: Recording, folder: Path) -> Path:
    path = folder / f"{recording.release}-{recording.mode}.txt"
    write_atomically(path, recording.trace)
    return path


def _compare(path: Path, recording: Recording, results: list[Result]) -> bool:
    """Whether every event is a step of the model, or the kernel is none that is modelled."""
    if "kvm_arm_setup_debug" in recording.missing:
        print(f"  not compared: {recording.release} is not modelled; it has no {', '.join(recording.missing)}")
        return True
    report = examine(path, None, None)
    results += [report.results[configuration] for configuration in report.explaining[:1]]
    if report.code:
        print("".join(f"  {line}\n" for line in show(report, verbose=False)), end="")
        return False
    found = results[-1]
    print(f"  a run of {report.explaining[0]}: {found.explained:,} events explained, {found.values:,} values compared")
    return True


def _print(recording: Recording, took: float) -> None:
    what = f"{recording.scenarios} scenarios, {recording.events:,} events in {took:.1f} s"
    print(f"{recording.release} {recording.mode}: {what}", flush=True)
    for error in recording.errors:
        print(f"  COMPLAINT: {error}")
