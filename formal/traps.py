"""``python -m formal.traps``: says what a value of MDCR_EL2 traps. See ``--help``."""

from __future__ import annotations

from collections.abc import Sequence

from formal.commands.door import start_command


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    from formal.commands import traps

    return traps.main(argv)


if __name__ == "__main__":
    start_command("traps")
