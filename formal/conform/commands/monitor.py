"""The command line ``python -m formal.conform monitor``: monitors for a running kernel, generated from the claims."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from formal.common.exit_codes import ExitCode
from formal.common.files import Outputs
from formal.common.options import Parser
from formal.common.runner import run
from formal.conform.boot.boot import PROBES
from formal.conform.commands.trace import TRACED, epoch_option
from formal.conform.monitor.monitor import bpftrace, dot, monitor
from formal.epochs import EPOCHS, HOSTS, Mode


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line.

    Raises:
        UsageError: with one line that says what is wrong.
    """
    p = Parser("conform monitor", "Writes monitors for a running kernel, from the claims.", {ExitCode.OK: "done"})
    p.add_argument("--epoch", type=epoch_option, choices=TRACED, default="E8", help="the release; default: E8")
    p.add_argument("--mode", choices=[m.value for m in HOSTS], default="vhe", help="the host mode; default: vhe")
    p.add_argument(
        "--dot", metavar="FILE", type=Path, help="an automaton for the kernel's tools/verification (rv, dot2k)"
    )
    p.add_argument("--bpftrace", metavar="FILE", type=Path, help="a bpftrace script; - is the standard output")
    p.add_argument(
        "--probes", metavar="FILE", type=Path, help="the dynamic events that v6.14 and later need; - as above"
    )
    return p.parse(argv)


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit code."""
    return run("formal.conform monitor", lambda: _run(arguments(argv)))


def _run(args: argparse.Namespace) -> int:
    outputs = Outputs({"--dot": args.dot, "--bpftrace": args.bpftrace, "--probes": args.probes})
    outputs.check()
    found = monitor(EPOCHS[args.epoch].kernel(Mode(args.mode)))
    title = f"{args.epoch} {args.mode} ({EPOCHS[args.epoch].releases})"
    with outputs.kept_apart():
        outputs.write("--dot", dot(found))
        outputs.write("--bpftrace", bpftrace(found, title))
        outputs.write("--probes", PROBES.read_text(encoding="utf-8"))
        automaton = found.automaton
        print(
            f"{title}: {len(automaton.states)} states, {len(automaton.events)} events in order, "
            f"{len(found.conditions)} claims at every entry:"
        )
        for c in found.conditions:
            print(f"  {c.claim}")
    outputs.finish()
    return ExitCode.OK
