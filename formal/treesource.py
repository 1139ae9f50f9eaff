"""What is read of a kernel tree before anything is compared."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from formal.beside import Beside
from formal.epochs import Mode
from formal.kernel import scan, writers
from formal.kernel.behaviours import DEBUG_C
from formal.kernel.binding import Binding, flags_of
from formal.kernel.front import Program, files_for, load, side_of
from formal.kernel.signs import Sign, read
from formal.kernel.tree import KernelTree


@dataclass(frozen=True)
class Source:
    """What was read of a tree, whatever the mode."""

    program: Program
    binding: Binding
    signs: tuple[Sign, ...]


def source(tree: KernelTree, modes: Iterable[Mode], processes: int = 1) -> Source:
    """Reads a tree, for some modes first: what others need besides is read when it is needed.

    Args:
        processes: with two, the search for writers runs beside the work on the configuration.

    Raises:
        NotUnderstoodError: if anything in the tree that matters is not understood.
    """
    check = partial(scan.check, tree, writers.KNOWN, (DEBUG_C,))
    with Beside(check, fork=processes > 1) as scanned:
        try:
            tree.prepare()
        finally:
            scanned.result()  # so that a new writer is reported before what is wrong with the configuration
    return Source(load(tree, files_for(*map(side_of, modes))), Binding(flags_of(tree)), read(tree))
