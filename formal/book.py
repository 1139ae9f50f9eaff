"""``python -m formal.book``: writes the review book. See ``--help``."""

from __future__ import annotations

from collections.abc import Sequence

from formal.commands.door import start_command


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    from formal.commands import book

    return book.main(argv)


if __name__ == "__main__":
    start_command("book")
