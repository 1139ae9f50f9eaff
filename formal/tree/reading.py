"""What is read of a tree before any mode: configuration, who writes modelled state, the files parsed at once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from formal.common.processes import Beside
from formal.epochs import Mode
from formal.kernel.compare.behaviours import DEBUG_C
from formal.kernel.errors import NotUnderstoodError
from formal.kernel.lift.program import Program, files_for, load, side_of
from formal.kernel.model.binding import Binding, flags_of
from formal.kernel.recognition import scan, writers
from formal.kernel.source.tree import KernelTree
from formal.kernel.text.signs import Sign, read


@dataclass(frozen=True)
class Source:
    """What was read of a tree, whatever the mode."""

    program: Program
    binding: Binding
    signs: tuple[Sign, ...]


def source(tree: KernelTree, *modes: Mode) -> Source:
    """Reads a tree, for some modes first: what others need besides is read when it is needed.

    Raises:
        NotUnderstoodError: if anything in the tree that matters is not understood.
    """
    _search(tree)
    return Source(load(tree, files_for(tree, *map(side_of, modes))), Binding(flags_of(tree)), read(tree))


def prepare(trees: Sequence[KernelTree], *, fork: bool) -> None:
    """Does for some trees what needs no parser; with ``fork``, the search for writers in a process of its own.

    What is not understood is left for ``source``, which does it again where it can be reported.

    Raises:
        TreeError: if a configuration is not what it should be.
    """
    with Beside(lambda: [_understood(tree) for tree in trees], fork=fork) as search:
        for tree in trees:
            with suppress(NotUnderstoodError):
                tree.prepare()
        for tree, understood in zip(trees, search.result(), strict=True):
            tree.searched = understood


def _understood(tree: KernelTree) -> bool:
    try:
        _search(tree)
    except NotUnderstoodError:
        return False
    return True


def _search(tree: KernelTree) -> None:
    """Refuses a tree in which a function that is not known may write modelled state."""
    if not tree.searched:
        scan.check(tree, writers.knows, (DEBUG_C,))
        tree.searched = True
