"""How a command ends: one table of exit codes for all of them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes; what 0, 1, 3 and 125 mean in detail, each command says in its ``--help``."""

    OK = 0  # as expected
    WRONG = 1  # worse than expected: a verdict, a piece of evidence, what a machine does
    USAGE = 2  # asked for what does not exist, or cannot be
    UNKNOWN = 3  # not decided
    INTERNAL = 4  # a fault of the tool
    NOT_WRITTEN = 5  # what was found could not be written: disk full, output closed, no temporary folder
    NOT_UNDERSTOOD = 125  # there is nothing to look at, or it is not understood
    INTERRUPTED = 130


_STUCK = "\x7f"  # a space at which no line ends
ALWAYS: Mapping[ExitCode, str] = {
    ExitCode.USAGE: "usage",
    ExitCode.INTERNAL: "internal error",
    ExitCode.NOT_WRITTEN: "something could not be written",
    ExitCode.INTERRUPTED: "interrupted",
}


def epilog(meanings: Mapping[ExitCode, str], more: str = "") -> str:
    """The text below ``--help`` that says what the exit codes of a command mean."""
    table = {**ALWAYS, **meanings}
    says = "; ".join(f"{code.value}{_STUCK}{table[code]}" for code in sorted(table))
    text = textwrap.fill(f"exit codes: {says}.{' ' if more else ''}{more}", 100, break_on_hyphens=False)
    return text.replace(_STUCK, " ")


def for_bisect(code: int) -> int:
    """An exit code as ``git bisect run`` wants it: 125 skips a commit, 128 and up end the search."""
    ends = {ExitCode.USAGE: 128, ExitCode.INTERNAL: 129, ExitCode.NOT_WRITTEN: 131}
    return ExitCode.NOT_UNDERSTOOD if code == ExitCode.UNKNOWN else ends.get(ExitCode(code), code)
