"""Functions of a tree's own that stand between functions that are known: what is read of these is read through them.

A helper is static, only ever called, and only in its file. What it calls is called where it is called itself, if it is
executed in its place (``KernelTree.helpers``); what it stores is compared where all that call it are lifted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from formal.kernel.errors import Gap
from formal.kernel.recognition import scan
from formal.kernel.recognition.callers import CALLERS, READ, Mentions
from formal.kernel.source.tree import KernelTree


@dataclass
class Helpers:
    """Those of one tree."""

    tree: KernelTree
    mentions: Mentions

    def through(self, gaps: Iterable[Gap]) -> tuple[frozenset[str], tuple[Gap, ...]]:
        """The helpers through which known functions call what they may, and the gaps that are left then."""
        gaps = tuple(gaps)
        calls: dict[str, list[tuple[str, str]]] = {}
        for gap in gaps:
            if (called := _called(gap)) in CALLERS:
                calls.setdefault(next(iter(gap.of), ""), []).append((gap.file, called))
        found = {name for name, made in calls.items() if all(self._only_known(name, *call) for call in made)}
        found |= {between for name in found for file, _ in calls[name] for between in self._around(file, name)}
        return frozenset(found), tuple(g for gap in gaps if not self._read(gap, found) for g in self._stores(gap))

    def _read(self, gap: Gap, helpers: set[str]) -> bool:
        """Whether a gap is about a call that is read in the place of a helper, or about the call of a helper."""
        called = _called(gap)
        own = called in CALLERS and not helpers.isdisjoint(gap.of)
        return own or (called in helpers and self._leads_nowhere_else(called, helpers))

    def _leads_nowhere_else(self, name: str, helpers: set[str]) -> bool:
        bodies = self.mentions.bodies
        return not any(
            n in self._leading and n in bodies and n not in CALLERS and n not in helpers for n in bodies[name]
        )

    @cached_property
    def _leading(self) -> set[str]:
        return self.mentions.leading()

    @cached_property
    def _callers(self) -> Mapping[str, set[str]]:
        found: dict[str, set[str]] = {}
        for caller, names in self.mentions.bodies.items():
            for name in names.keys() & self.mentions.bodies.keys() - {caller}:
                found.setdefault(name, set()).add(caller)
        return found

    def _of(self, file: str) -> frozenset[str]:
        """The helpers of a file, as far as these have a name that no other file has for a function."""
        if file not in self._known:
            self._known[file] = scan.helpers(self.tree.read(file)) if file.endswith(".c") else frozenset()
        return self._known[file]

    @cached_property
    def _known(self) -> dict[str, frozenset[str]]:
        return {}

    def _around(self, file: str, name: str) -> set[str]:
        """The helpers that call a helper, directly or through others, and itself."""
        found, new = set[str](), {name}
        while new:
            found |= new
            callers = {caller for helper in new for caller in self._callers.get(helper, ())}
            new = {caller for caller in callers if caller in self._of(file) and not _known(caller)} - found
        return found

    def _only_known(self, name: str, file: str, called: str) -> bool:
        """Whether all that call a helper may call what it calls."""
        if name not in self._of(file) or _known(name):
            return False
        helpers = self._around(file, name)
        callers = {caller for helper in helpers for caller in self._callers.get(helper, ())} - helpers
        return bool(callers) and callers <= CALLERS[called]

    def _stores(self, gap: Gap) -> Iterator[Gap]:
        """A store of a helper is none where the helper is lifted, and all that call it are."""
        (name,) = gap.of if len(gap.of) == 1 else ("",)
        if gap.unless is not None or not gap.writes or _called(gap) or name not in self._of(gap.file):
            yield gap
            return
        helpers = self._around(gap.file, name)
        for function in sorted(helpers | {caller for helper in helpers for caller in self._callers.get(helper, ())}):
            yield replace(gap, unless=(function, gap.file), lifted=True)


def _called(gap: Gap) -> str:
    """The function that a gap is about, if it is about a call."""
    return next((place.removesuffix("()") for place in gap.writes or () if place.endswith("()")), "")


def _known(name: str) -> bool:
    return name in CALLERS or name in READ
