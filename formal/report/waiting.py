"""What a terminal shows of a tree that is being proved: what is done now, and the first claim that is lost."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from formal.common import progress
from formal.report.tree import errors
from formal.tree.rank import worse


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Shows on the standard error what is done inside, if that is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console  # loaded for a terminal only
    from rich.live import Live

    console = Console(stderr=True)
    live = Live(  # no thread: processes are forked inside
        console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
    )
    with live, progress.told(_Screen(what, live, console)):
        progress.doing("looking for what has changed")
        yield


class _Screen:
    """A line that is written over, below the first claim that is lost."""

    def __init__(self, what: str, live: Any, console: Any) -> None:
        self._what, self._live, self._console = what, live, console
        self._started, self._decided, self._lost = time.monotonic(), 0, 0

    def doing(self, what: str) -> None:
        """Shows it, with how far the work is."""
        from rich.text import Text

        seconds = int(time.monotonic() - self._started)
        so_far = f", {self._decided} claims decided" if self._decided else ""
        so_far += f", {self._lost} lost" if self._lost else ""
        line = f"{seconds // 60}:{seconds % 60:02} {self._what}{so_far}: {what}"
        self._live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)

    def decided(self, report: Any, row: Any) -> None:
        """Counts a verdict; says the first that is worse than expected."""
        self._decided += 1
        if worse(row) and row.verdict == "VIOLATED":
            self._lost += 1
            if self._lost == 1:
                (line,) = errors([(report, row)])
                self._console.print(line, markup=False, highlight=False, soft_wrap=True)
