"""The command line ``python -m formal.conform monitor``: monitors for a running kernel, generated from the claims."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from formal.common.files import write_atomically
from formal.conform.boot.boot import PROBES
from formal.conform.commands.trace import TRACED, epoch_option
from formal.conform.monitor.monitor import bpftrace, dot, monitor
from formal.epochs import EPOCHS, HOSTS, Mode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--epoch", type=epoch_option, choices=TRACED, default="E8", help="the release; default: E8")
    parser.add_argument("--mode", choices=[m.value for m in HOSTS], default="vhe", help="the host mode; default: vhe")
    parser.add_argument("--dot", metavar="FILE", help="an automaton for the kernel's tools/verification (rv, dot2k)")
    parser.add_argument("--bpftrace", metavar="FILE", help="a bpftrace script; - is the standard output")
    parser.add_argument("--probes", metavar="FILE", help="the dynamic events that v6.14 and later need; - as above")


def run(args: argparse.Namespace) -> int:
    """The command; its exit code: 0 done, 2 a file that cannot be written."""
    found = monitor(EPOCHS[args.epoch].kernel(Mode(args.mode)))
    title = f"{args.epoch} {args.mode} ({EPOCHS[args.epoch].releases})"
    try:
        for path, text in (
            (args.dot, dot(found)),
            (args.bpftrace, bpftrace(found, title)),
            (args.probes, PROBES.read_text(encoding="utf-8")),
        ):
            if path == "-":
                sys.stdout.write(text)
            elif path:
                if not Path(path).absolute().parent.is_dir():
                    raise FileNotFoundError(f"{path}: there is no such directory")
                write_atomically(Path(path), text)
    except OSError as e:
        sys.stderr.write(f"formal.conform monitor: {e}\n")
        return 2
    if "-" not in (args.dot, args.bpftrace, args.probes):
        automaton = found.automaton
        sys.stdout.write(f"{title}: {len(automaton.states)} states, {len(automaton.events)} events in order, ")
        sys.stdout.write(f"{len(found.conditions)} claims at every entry:\n")
        for c in found.conditions:
            sys.stdout.write(f"  {c.claim}\n")
    return 0
