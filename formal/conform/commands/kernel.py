"""The command line of the kernel part: ``python -m formal.conform kernel``.

Boots kernels with KVM inside, drives the scenarios, and keeps what the kernel's trace events say.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from formal.common.files import write_atomically
from formal.common.options import seconds
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
    parser.add_argument("--mode", choices=[m.value for m in HOSTS], action="append", help="default: both")
    parser.add_argument(
        "--kernels", type=Path, metavar="DIR", help="where kernels are kept; default: a cache directory"
    )
    parser.add_argument("--qemu", metavar="PATH", help="the emulator; default: qemu-system-aarch64")
    parser.add_argument("--timeout", type=seconds, default=120.0, metavar="SECONDS", help="for each boot")


def modes(args: argparse.Namespace) -> list[Mode]:
    """The modes that the options ask for, each once."""
    return [Mode(m) for m in dict.fromkeys(args.mode or HOSTS)]


def run(args: argparse.Namespace) -> int:
    """The command; its exit code: 0 all went well; 1 a complaint of the first process, or an event that the model does
    not explain; 2 usage; 3 it cannot be run, or what it shows cannot be compared."""
    try:
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
    except (UnknownScenarioError, OSError) as e:
        sys.stderr.write(f"formal.conform kernel: {e}\n")
        return 2
    except CANNOT_RUN as e:
        sys.stderr.write(f"formal.conform kernel: {e}\n")
        return 3
    except TraceFormatError as e:
        sys.stderr.write(f"formal.conform kernel: what was recorded is not understood: {e}\n")
        return 3
    if results:
        print("\n".join(coverage_lines(coverage(results))))
    return 1 if failed else 3 if uncompared else 0


def _keep(recording: Recording, folder: Path | None) -> Path | None:
    if folder is None:
        return None
    path = folder / f"{recording.release}-{recording.mode}.txt"
    write_atomically(path, recording.trace)
    return path


def _print(recording: Recording, took: float, kept: Path | None) -> None:
    what = f"{recording.scenarios} scenarios, {recording.events:,} events in {took:.1f} s"
    print(f"{recording.release} {recording.mode}: {what}" + (f", in {kept}" if kept else ""), flush=True)
    for error in recording.errors:
        print(f"  COMPLAINT: {error}")
    if recording.missing:
        print(f"  events this kernel does not have: {', '.join(recording.missing)}")
