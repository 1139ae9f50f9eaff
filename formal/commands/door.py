"""How a command becomes a process."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import NoReturn

from formal.common.runner import start


def start_command(name: str, argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a module of ``formal.commands`` as a process; it is loaded when an interruption is dealt with."""
    given = sys.argv[1:] if argv is None else argv
    start(f"formal.{name}", lambda: partial(import_module(f"formal.commands.{name}").main, given))
