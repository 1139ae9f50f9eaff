"""``python -m formal.conform PART``: the model against the world, one part at a time."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from formal.common.overview import overview

PARTS = {  # each is a module of formal.conform.commands
    "cpu": "the trap table and the debug exceptions, against CPUs that QEMU emulates",
    "finding": "a violated claim seen on a running kernel: its sequence, and a control without it",
    "kernel": "real kernels with KVM inside, driven through scenarios, and what their trace events say",
    "trace": "the specification, against what the trace points of a running kernel have shown",
    "monitor": "the claims as monitors of a running kernel: an automaton, a bpftrace script",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the part that is named; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in PARTS:
        code: int = import_module(f"formal.conform.commands.{argv[0]}").main(argv[1:])
        return code
    return overview("formal.conform", "Holds the model against the world, one part at a time.", PARTS, argv)
