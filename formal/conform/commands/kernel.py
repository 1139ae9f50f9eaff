"""The command line of the kernel part: ``python -m formal.conform kernel``.

Boots kernels with KVM inside, drives the scenarios, and keeps what the kernel's trace events say.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from formal.common.exit_codes import ExitCode
from formal.common.files import check_folder, write_file
from formal.common.options import Parser, seconds
from formal.common.runner import Failures, run
from formal.conform.boot.boot import Recording, boot
from formal.conform.boot.debian import NEWEST, MissingKernelError, default_directory, image
from formal.conform.boot.scenarios import UnknownScenarioError, choose
from formal.conform.commands.trace import check_recording
from formal.conform.machine import emulator
from formal.conform.machine.build import BuildError, MissingToolError
from formal.conform.trace.check import Result
from formal.conform.trace.coverage import coverage
from formal.conform.trace.coverage import lines as coverage_lines
from formal.conform.trace.text import TraceFormatError
from formal.epochs import HOSTS, Mode

DEFAULT = "6.1"
EVERY = ("6.1", "5.10", "6.12", NEWEST)
CANNOT_RUN = (MissingKernelError, MissingToolError, BuildError, emulator.EmulatorError)


CODES = {
    ExitCode.OK: "all went well",
    ExitCode.WRONG: "a complaint of the first process, or an event that the model does not explain",
    ExitCode.UNKNOWN: "it cannot be run, or what it shows cannot be compared",
}
FAILURES: Failures = {
    **dict.fromkeys(CANNOT_RUN, (ExitCode.UNKNOWN, "")),
    UnknownScenarioError: (ExitCode.USAGE, ""),
    TraceFormatError: (ExitCode.UNKNOWN, "what was recorded is not understood: "),
}


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line.

    Raises:
        UsageError: with one line that says what is wrong.
    """
    says = "Boots kernels with KVM inside, drives them through scenarios, and says what their trace events show."
    p = Parser("conform kernel", says, CODES)
    p.add_argument(
        "kernel",
        nargs="*",
        default=[],
        metavar="KERNEL",
        help=f"a series that Debian packages ({', '.join(EVERY)}) or the path of an arm64 image; default: {DEFAULT}",
    )
    p.add_argument("--all", action="store_true", help=f"all of {', '.join(EVERY)}")
    p.add_argument("--scenario", action="append", default=[], metavar="NAME", help="only this one (repeatable)")
    p.add_argument("--output", type=Path, metavar="DIR", help="keep the recordings as ftrace text")
    add_machine_arguments(p)
    return p.parse(argv)


def add_machine_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say how to boot."""
    parser.add_argument("--mode", choices=[m.value for m in HOSTS], action="append", help="default: both")
    parser.add_argument(
        "--kernels", type=Path, metavar="DIR", help="where kernels are kept; default: a cache directory"
    )
    parser.add_argument("--qemu", metavar="PATH", help="the emulator; default: qemu-system-aarch64")
    parser.add_argument("--timeout", type=seconds, default=120.0, metavar="SECONDS", help="for each boot")


def modes(args: argparse.Namespace) -> list[Mode]:
    """The modes that the options ask for, each once."""
    return [Mode(m) for m in dict.fromkeys(args.mode or HOSTS)]


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit code."""
    return run("formal.conform kernel", lambda: _run(arguments(argv)), FAILURES)


def _run(args: argparse.Namespace) -> int:
    if args.output:
        check_folder(args.output)
    script = choose(args.scenario)
    qemu = emulator.find(args.qemu)
    failed = uncompared = False
    results: list[Result] = []
    for series in dict.fromkeys([*args.kernel, *(EVERY if args.all else ())] or [DEFAULT]):
        kernel = image(series, args.kernels or default_directory())
        for mode in modes(args):
            started = time.monotonic()
            recording = boot(kernel.path, mode, script, qemu, timeout=args.timeout)
            kept = _keep(recording, args.output)
            _print(recording, time.monotonic() - started, kept)
            failed |= bool(recording.errors)
            code, lines, result = check_recording(recording.trace, recording.release)
            print("".join(f"  {line}\n" for line in lines), end="", flush=True)
            results += [result] if result is not None else []
            failed |= code == 1
            uncompared |= code == 3
    if results:
        print("\n".join(coverage_lines(coverage(results))))
    return ExitCode.WRONG if failed else ExitCode.UNKNOWN if uncompared else ExitCode.OK


def _keep(recording: Recording, folder: Path | None) -> Path | None:
    if folder is None:
        return None
    path = folder / f"{recording.release}-{recording.mode}.txt"
    write_file(path, recording.trace)
    return path


def _print(recording: Recording, took: float, kept: Path | None) -> None:
    what = f"{recording.scenarios} scenarios, {recording.events:,} events in {took:.1f} s"
    print(f"{recording.release} {recording.mode}: {what}" + (f", in {kept}" if kept else ""), flush=True)
    for error in recording.errors:
        print(f"  COMPLAINT: {error}")
    if recording.missing:
        print(f"  events this kernel does not have: {', '.join(recording.missing)}")
