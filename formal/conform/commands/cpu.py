"""The command line of the CPU part: ``python -m formal.conform cpu``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from formal.common.options import UsageError, seconds
from formal.conform.cpu import report as show
from formal.conform.cpu.cpu import conform
from formal.conform.machine.blob import ProbeError
from formal.conform.machine.build import BuildError, MissingToolError
from formal.conform.machine.emulator import EmulatorError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--cpu", action="append", default=[], metavar="MODEL", help="a CPU model of QEMU (repeatable)")
    parser.add_argument("--qemu", metavar="PATH", help="the emulator; default: qemu-system-aarch64")
    parser.add_argument("--timeout", type=seconds, default=60.0, metavar="SECONDS", help="for each run of the probe")
    parser.add_argument("--json", metavar="FILE", help="write what was found to a file; - is the standard output")
    parser.add_argument("--verbose", action="store_true", help="list what could not be tested, and every difference")


def run(args: argparse.Namespace) -> int:
    """The command; its exit code: 0 no unexplained difference, 1 one, 2 usage, 3 it cannot be run."""
    try:
        if args.json and args.json != "-" and not Path(args.json).absolute().parent.is_dir():
            raise UsageError(f"--json {args.json}: there is no such directory")
        report = conform(args.cpu, args.qemu, args.timeout)
        if args.json:
            show.write_json(report, args.json)
    except (UsageError, OSError) as e:
        sys.stderr.write(f"formal.conform cpu: {e}\n")
        return 2
    except (MissingToolError, BuildError, EmulatorError, ProbeError) as e:
        sys.stderr.write(f"formal.conform cpu: {e}\n")
        return 3
    if args.json != "-":
        show.print_report(report, args.verbose)
    return int(report.failed)
