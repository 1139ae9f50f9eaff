"""Command lines: what the user got wrong is one line."""

from __future__ import annotations

import argparse
from typing import NoReturn


class UsageError(Exception):
    """Something that the user asked for does not exist, or cannot be."""


class Parser(argparse.ArgumentParser):
    """A parser that raises ``UsageError`` where argparse would print its whole usage and exit."""

    def error(self, message: str) -> NoReturn:
        """Raises ``UsageError``."""
        raise UsageError(message)


def seconds(text: str) -> float:
    """A time to wait, as an option spells it.

    Raises:
        argparse.ArgumentTypeError: if it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is no time to wait, in seconds")
    return value


def count(text: str) -> int:
    """A number from 1 up, as an option spells it.

    Raises:
        argparse.ArgumentTypeError: if it is none.
    """
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 1_000_000:
        raise argparse.ArgumentTypeError(f"{text} is no number from 1 up")
    return int(text)
