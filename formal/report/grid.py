"""What the commands print: tables and lines; by rich on a terminal, in plain columns elsewhere.

Rich is loaded for a terminal only: laying out the tables of one configuration with it takes as long as importing Z3.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from shutil import get_terminal_size
from typing import TextIO

GAP = "  "
_COMPILER = re.compile(r"\S+:\d+: (error|warning|note): ")


@dataclass(frozen=True)
class Cell:
    """Text in pieces, each with a style of rich's."""

    pieces: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return "".join(text for text, _ in self.pieces)


@dataclass
class Grid:
    """A table; the lines of a header are shown one below the other."""

    header: tuple[str, ...]
    rows: list[tuple[str | Cell, ...]] = field(default_factory=list)

    def add(self, *cells: str | Cell) -> None:
        """Adds a row.

        Raises:
            ValueError: if it has another number of cells than the header.
        """
        if len(cells) != len(self.header):
            raise ValueError(f"{len(cells)} cells for {len(self.header)} columns")
        self.rows.append(cells)

    def plain(self) -> list[str]:
        """The table as lines; each column is as wide as it needs to be."""
        head = [name.split("\n") for name in self.header]
        height = max(map(len, head))
        lines = [*zip_longest(*([""] * (height - len(h)) + h for h in head))]
        lines += [tuple(map(str, row)) for row in self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return [GAP.join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]


def screen_width() -> tuple[int, int]:
    """How many characters a line may have, and how many lie between columns: 120 and 2 where nothing is a terminal."""
    if not sys.stdout.isatty():
        return 120, len(GAP)
    return get_terminal_size().columns, 1


def fold(line: str) -> list[str]:
    """A line of prose as a terminal can show it, broken between words; as it is where nothing is a terminal.

    What goes on stays as far in as the line begins; a compiler's line is one line, for whoever picks it up.
    """
    if not sys.stdout.isatty() or _COMPILER.match(line) or not line.strip():
        return [line]
    indent = line[: len(line) - len(line.lstrip())]
    return textwrap.wrap(line, screen_width()[0], subsequent_indent=indent, break_on_hyphens=False)


def put(*parts: Grid | str | Sequence[str], to: TextIO | None = None) -> None:
    """Prints tables, lines, and sequences of lines."""
    out = to or sys.stdout
    if out.isatty():
        _rich(parts, out)
        return
    for part in parts:
        lines = [part] if isinstance(part, str) else part.plain() if isinstance(part, Grid) else part
        out.write("".join(f"{line}\n" for line in lines))


def _rich(parts: Sequence[Grid | str | Sequence[str]], out: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=out)
    for part in parts:
        if not isinstance(part, Grid):
            lines = part if isinstance(part, str) else "\n".join(part)
            console.print(lines, soft_wrap=True, markup=False, highlight=False)
            continue
        table = Table(*part.header, box=None, pad_edge=False, header_style="bold")
        for row in part.rows:
            table.add_row(*(Text(c) if isinstance(c, str) else Text.assemble(*c.pieces) for c in row))
        console.print(table)
