"""``python -m formal.conform PART``: the model against the world, one part at a time."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn, Protocol

from formal.conform.commands import cpu, finding, kernel, monitor, trace


class _Part(Protocol):
    def add_arguments(self, parser: argparse.ArgumentParser, /) -> None: ...

    def run(self, args: argparse.Namespace, /) -> int: ...


_PARTS: dict[str, tuple[_Part, str]] = {
    "cpu": (cpu, "the trap table and the debug exceptions, against CPUs that QEMU emulates"),
    "finding": (finding, "a violated claim seen on a running kernel: its sequence, and a control without it"),
    "kernel": (kernel, "real kernels with KVM inside, driven through scenarios, and what their trace events say"),
    "trace": (trace, "the specification, against what the trace points of a running kernel have shown"),
    "monitor": (monitor, "the claims as monitors of a running kernel: an automaton, a bpftrace script"),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; the exit code."""
    parser = _Parser(prog="python -m formal.conform", description=__doc__)
    parts = parser.add_subparsers(dest="part", required=True, metavar="PART", parser_class=_Parser)
    for name, (module, says) in _PARTS.items():
        module.add_arguments(parts.add_parser(name, help=says, description=says))
    args = parser.parse_args(argv)
    try:
        code = _PARTS[args.part][0].run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough; keep the interpreter from flushing into nothing at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except KeyboardInterrupt:
        code = 130
    return code


if __name__ == "__main__":
    sys.exit(main())
