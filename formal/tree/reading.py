"""What is read of a tree before any mode: configuration, who writes modelled state, the files parsed at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache

from formal.common import progress
from formal.common.processes import Beside
from formal.epochs import Mode
from formal.kernel.compare import roles
from formal.kernel.compare.behaviours import DEBUG_C
from formal.kernel.compare.helpers import Helpers
from formal.kernel.errors import Gap, Gaps, NotUnderstoodError
from formal.kernel.lift.program import Program, files_for, load, side_of
from formal.kernel.model.binding import Binding
from formal.kernel.recognition import scan, writers
from formal.kernel.recognition.callers import Mentions
from formal.kernel.source.tree import KernelTree
from formal.kernel.text.signs import Sign, read
from formal.tree.writes import Effects


@dataclass(frozen=True)
class Source:
    """What was read of a tree, whatever the mode."""

    program: Program
    binding: Binding
    signs: tuple[Sign, ...]
    gaps: tuple[Gap, ...] = ()  # what is not understood


def source(tree: KernelTree, *modes: Mode) -> Source:
    """Reads a tree, for some modes first: what others need besides is read when it is needed.

    Raises:
        NotUnderstoodError: if nothing can be read, such as without its headers.
    """
    progress.doing("searching for what writes the state")
    gaps = Gaps(noted=True)
    gaps.found += _search(tree)[0]
    progress.doing("reading the C and its headers")
    program = load(tree, files_for(tree, *map(side_of, modes)))
    return Source(program, Binding.of(program, gaps), read(tree, gaps), tuple(gaps.found))


def prepare(trees: Sequence[KernelTree], *, fork: bool) -> None:
    """Does for some trees what needs no parser; with ``fork``, the search for writers in a process of its own.

    Raises:
        TreeError: if a configuration is not what it should be.
    """
    with Beside(lambda: [_search(tree) for tree in trees], fork=fork) as search:
        for tree in trees:
            with suppress(NotUnderstoodError):  # source() does it again, where it can be reported
                tree.prepare()
        for tree, (found, renamed, helpers) in zip(trees, search.result(), strict=True):
            tree.searched, tree.renamed, tree.helpers = found, renamed, helpers


def _search(tree: KernelTree) -> tuple[tuple[Gap, ...], Mapping[str, str], frozenset[str]]:
    """The places in which a function that is not known may write modelled state.

    Also the functions known by other names, and those that are read where they are called.
    """
    if tree.searched is None:
        kept: scan.Found = {}
        tree.searched, strange = _unknown(tree, kept), roles.strange(tree)
        if _certain(tree.searched) or strange:
            mentions = _mentions(tree, kept)
            tree.helpers, tree.searched = Helpers(tree, mentions).through(tree.searched)
            before = _certain(tree.searched)
            unknown = {name for gap in before for name in gap.of}
            tree.renamed = roles.renamed(tree, mentions, unknown, cache(lambda: _writers(tree, before)))
            if tree.renamed:
                helpers, found = Helpers(tree, _mentions(tree, kept)).through(_unknown(tree, kept))
                left = len(_certain(found))
                if left < len(before) or (left == len(before) and strange):
                    tree.helpers, tree.searched = helpers, found
                else:
                    tree.renamed = {}  # they do not stand for those
    return tree.searched, tree.renamed, tree.helpers


def _writers(tree: KernelTree, gaps: Iterable[Gap]) -> frozenset[str]:
    """The functions of gaps that write something modelled by their types, too."""
    with suppress(NotUnderstoodError):
        effects = Effects.of(tree.unread(), Mode.VHE)
        return frozenset(name for gap in gaps if gap.writes is None or effects.at(gap) for name in gap.of)
    return frozenset(name for gap in gaps for name in gap.of)


def _mentions(tree: KernelTree, kept: scan.Found) -> Mentions:
    """Which functions mention which, under the names that they have now."""
    mentions = Mentions((DEBUG_C,), gaps=Gaps(noted=True))
    scan.scan(tree, mentions, kept)
    return mentions


def _unknown(tree: KernelTree, kept: scan.Found) -> tuple[Gap, ...]:
    """A function that is read under another name is known for what it does, never for that name.

    Args:
        kept: what an earlier search found in the same files.
    """
    gaps, names = Gaps(noted=True), frozenset(tree.renamed.values())

    def knows(file: str, function: str, lvalue: str) -> bool:
        known = function in names and function in writers.OPERATIONS
        return known or writers.knows(file, function, lvalue)  # under another name it hinges on what is compared

    def hinges(file: str, function: str, lvalue: str) -> bool:
        return function in names or writers.hinges(file, function, lvalue)

    scan.check(tree, knows, (DEBUG_C,), kept, gaps, hinges)
    own = {f" in {known}()": f" in {here}()" for here, known in tree.renamed.items()}
    return tuple(replace(gap, reason=_with(gap.reason, own)) for gap in gaps.found)


def _with(text: str, names: Mapping[str, str]) -> str:
    for old, new in names.items():
        text = text.replace(old, new)
    return text


def _certain(gaps: tuple[Gap, ...]) -> tuple[Gap, ...]:
    """Those that are gaps whatever is compared, or may be: nothing is known of the function."""
    return tuple(gap for gap in gaps if gap.unless is None or gap.lifted)
