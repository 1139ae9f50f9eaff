"""The help of a command that only names others."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from formal.common.exit_codes import ExitCode, epilog
from formal.common.options import PACKAGE, UsageError, known, own_version, program
from formal.common.runner import run


def overview(name: str, says: str, commands: Mapping[str, str], argv: Sequence[str]) -> int:
    """Prints which commands there are, or refuses one that does not exist; returns the exit code.

    Args:
        name: what messages begin with, such as ``formal.conform``.
        commands: what each does.
        argv: the command line after ``name``; it names none of ``commands``.
    """
    return run(name, lambda: _overview(name, says, commands, argv))


def _overview(name: str, says: str, commands: Mapping[str, str], argv: Sequence[str]) -> int:
    called = program(name.partition(".")[2])
    if not argv:
        raise UsageError(f"which command? one of {', '.join(commands)}; {called} --help says what they do")
    if argv[0] == "--version":
        print(f"{PACKAGE} {own_version()}")
        return ExitCode.OK
    if argv[0] not in ("-h", "--help"):
        known("command", argv[0], commands)
    print(f"usage: {called} COMMAND ...\n\n{textwrap.fill(says, 100)}\n")
    for command, what in commands.items():
        print(f"  {command:<9}{what}")
    print(f"\n{called} COMMAND --help has the options of each.\n\n{epilog({})}")
    return ExitCode.OK
