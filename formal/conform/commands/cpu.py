"""The command line of the CPU part: ``python -m formal.conform cpu``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from formal.common.exit_codes import ExitCode
from formal.common.files import Outputs
from formal.common.options import Parser, seconds
from formal.common.runner import Failures, run
from formal.conform.cpu import report as show
from formal.conform.cpu.cpu import conform
from formal.conform.machine.blob import ProbeError
from formal.conform.machine.build import BuildError, MissingToolError
from formal.conform.machine.emulator import EmulatorError

CODES = {
    ExitCode.OK: "no unexplained difference",
    ExitCode.WRONG: "one",
    ExitCode.UNKNOWN: "it cannot be run",
}
FAILURES: Failures = dict.fromkeys((MissingToolError, BuildError, EmulatorError, ProbeError), (ExitCode.UNKNOWN, ""))


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line.

    Raises:
        UsageError: with one line that says what is wrong.
    """
    p = Parser("conform cpu", "Holds the trap table and the debug exceptions against CPUs that QEMU emulates.", CODES)
    p.add_argument("--cpu", action="append", default=[], metavar="MODEL", help="a CPU model of QEMU (repeatable)")
    p.add_argument("--qemu", metavar="PATH", help="the emulator; default: qemu-system-aarch64")
    p.add_argument("--timeout", type=seconds, default=60.0, metavar="SECONDS", help="for each run of the probe")
    p.add_argument("--json", metavar="FILE", type=Path, help="write what was found; - is the standard output")
    p.add_argument("--verbose", action="store_true", help="list what could not be tested, and every difference")
    return p.parse(argv)


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit code."""
    return run("formal.conform cpu", lambda: _run(arguments(argv)), FAILURES)


def _run(args: argparse.Namespace) -> int:
    outputs = Outputs({"--json": args.json})
    outputs.check()
    with outputs.kept_apart():
        report = conform(args.cpu, args.qemu, args.timeout)
        outputs.write("--json", show.json_text(report))
        show.print_report(report, args.verbose)
    outputs.finish()
    return int(report.failed)
