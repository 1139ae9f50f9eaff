"""``formal COMMAND`` and ``python -m formal COMMAND``: every command by its name. See ``--help``."""

from __future__ import annotations

import sys
from functools import partial
from typing import NoReturn

from formal.commands.door import start_command
from formal.common.overview import overview
from formal.common.runner import start

_SAYS = "Proves the debug-trap code of KVM/arm64 right: its specification, and the C of a kernel tree."

COMMANDS = {  # each is a module of formal.commands
    "prove": "proves the claims, for the modelled kernels or for a kernel tree",
    "check": "checks the evidence of every expected verdict, without a solver",
    "traps": "says what a value of MDCR_EL2 traps, and what becomes of an access",
    "book": "writes the review book: static pages about claims, verdicts and evidence",
    "conform": "holds the model against emulated CPUs, running kernels and their traces",
    "mutate": "makes every small edit of a tree's C, and says which ones nothing tells",
    "export": "writes the transition systems for other model checkers",
}


def main() -> NoReturn:
    """Runs the command that is named, as a process."""
    name, rest = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    if name in COMMANDS:
        start_command(name, rest)
    start("formal", lambda: partial(overview, "formal", _SAYS, COMMANDS, sys.argv[1:]))


if __name__ == "__main__":
    main()
