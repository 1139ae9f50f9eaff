"""Functions of a tree's own that stand between functions that are known: what is read of these is read through them.

A helper is static, only ever called, and only in its file. What it calls is called where it is called itself, if it is
executed in its place (``KernelTree.helpers``); what it stores is compared where all that call it are lifted.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property

from formal.kernel.errors import Gap
from formal.kernel.model.passage import RUN, by_name
from formal.kernel.recognition import scan
from formal.kernel.recognition.callers import CALLERS, READ, Mentions
from formal.kernel.source.tree import KVM, KernelTree, sources
from formal.kernel.text.forms import without_comments
from formal.kernel.text.tokens import tokens

_MAY_USE = ("arch/arm64", "virt/kvm", "include/kvm")  # where a macro of KVM's own files may be used
_STORE_PSTATE = frozenset(("kvm_reset_vcpu",))  # lifecycle.py


class Helpers:
    """Those of one tree."""

    def __init__(self, tree: KernelTree, mentions: Mentions) -> None:
        self._tree, self._bodies, self._leading = tree, mentions.bodies, mentions.leading()
        self._named = mentions.kept
        self._of_file: dict[str, frozenset[str]] = {}
        self._read = set[str]()  # helpers whose stores are read in the functions that call them

    def through(self, gaps: Iterable[Gap]) -> tuple[frozenset[str], tuple[Gap, ...]]:
        """The helpers through which known functions call what they may, and the gaps that are left then."""
        gaps = tuple(through for gap in gaps for through in self._executed(gap))
        calls: dict[str, list[tuple[str, str]]] = {}
        for gap in gaps:
            if (called := _called(gap)) in CALLERS:
                calls.setdefault(next(iter(gap.of), ""), []).append((gap.file, called))
        found = {name for name, made in calls.items() if all(self._may_call(name, *call) for call in made)}
        found |= {helper for name in found for file, _ in calls[name] for helper in self._nest(file, name)[0]}
        stores = {(name, gap.file) for gap in gaps if self._only_stores(gap) for name in gap.of}
        self._read = {helper for name, file in stores for helper in self._nest(file, name)[0]}
        found |= self._read
        return frozenset(found), tuple(g for gap in gaps if not self._is_read(gap, found) for g in self._stores(gap))

    def _executed(self, gap: Gap) -> Iterator[Gap]:
        """What only the world switch leads to is none where that is executed whole, with all between (``passage.py``).

        What does not return may do what it likes: nothing comes after it.
        """
        (name,) = gap.of if len(gap.of) == 1 else ("",)
        if not by_name(self._bodies) or gap.unless is not None or name not in self._bodies:
            yield gap
            return
        callers, new = dict[str, frozenset[str]](), {name}
        while new:
            for function in new:
                own = set() if function == RUN else self._callers.get(function, set())
                callers[function] = frozenset(caller for caller in own if not self._ends(caller))
            new = {caller for of in callers.values() for caller in of} - callers.keys()
        others = {function for function, of in callers.items() if function != RUN and (not of or self._kept(function))}
        if others:
            yield gap
            return
        for function, of in callers.items():
            place = function, self._file(function)
            above = frozenset((caller, self._file(caller)) for caller in of)
            yield replace(gap, unless=place, lifted=True, callers=above)

    def _kept(self, function: str) -> bool:
        """Whether a table has a function, or assembler may call it."""
        return function in self._named or function in self._outside

    @cached_property
    def _outside(self) -> frozenset[str]:
        paths = sources(self._tree.path / KVM, (".S",))
        texts = (self._tree.read(self._tree.relative(str(path))) for path in paths)
        return frozenset(word for text in texts for word in re.findall(r"[A-Za-z_]\w*", without_comments(text)))

    def _file(self, function: str) -> str:
        return next((file for file, _ in self._bodies.get(function, {}).values()), "")

    def _ends(self, function: str) -> bool:
        """Whether a function is declared never to return."""
        text = self._tree.read(file) if (file := self._file(function)) else ""
        return re.search(rf"\b__noreturn\b[\w\s*]*\b{function}\s*\(", text) is not None

    def _may_call(self, name: str, file: str, called: str) -> bool:
        """Whether a function is a helper, and all that call it may call what it calls."""
        if name not in self._of(file) or _has_rules(name):
            return False
        callers = self._nest(file, name)[1]
        return bool(callers) and callers <= CALLERS[called]

    def _only_stores(self, gap: Gap) -> bool:
        """Whether a gap is about a store of PSTATE in a helper of functions of which a rule says what they store there.

        Elsewhere it is told by its types, which bits of it; and of other places some are read by no rule (the PC).
        """
        (name,) = gap.of if len(gap.of) == 1 else ("",)
        if gap.writes != frozenset(("pstate",)) or name not in self._of(gap.file) or _has_rules(name):
            return False
        callers = self._nest(gap.file, name)[1]
        return bool(callers) and callers <= _STORE_PSTATE

    def _nest(self, file: str, name: str) -> tuple[set[str], set[str]]:
        """A helper with the helpers that call it, directly or through others; and the other functions that do."""
        helpers, others, new = set[str](), set[str](), {name}
        while new:
            helpers |= new
            callers = {caller for helper in new for caller in self._callers.get(helper, ())}
            new = {caller for caller in callers - helpers if caller in self._of(file) and not _has_rules(caller)}
            others |= callers - helpers - new
        return helpers, others

    def _is_read(self, gap: Gap, helpers: Collection[str]) -> bool:
        """Whether a gap is about a call that is read in the place of a helper, or about the call of a helper."""
        called = _called(gap)
        if called not in helpers:
            return called in CALLERS and not gap.of.isdisjoint(helpers)
        leads = self._bodies[called].keys() & self._leading & self._bodies.keys() - CALLERS.keys()
        return leads <= set(helpers)

    def _stores(self, gap: Gap) -> Iterator[Gap]:
        """A store of a helper is none where the helper is lifted, and all that call it are."""
        (name,) = gap.of if len(gap.of) == 1 else ("",)
        if gap.unless is not None or not gap.writes or _called(gap):
            yield gap
        elif name.startswith("macro ") and (users := self._users(gap.file, name.removeprefix("macro "))) is not None:
            yield from (replace(gap, unless=(function, gap.file)) for function in sorted(users))
        elif name in CALLERS:  # it is known who calls it
            yield replace(gap, unless=(name, gap.file), lifted=True)
        elif name in self._of(gap.file):
            helpers, others = self._nest(gap.file, name)
            callers = frozenset((other, gap.file) for other in others)
            read = name in self._read
            for function in sorted(helpers | others):
                more = callers if function in helpers and not read else frozenset[tuple[str, str]]()
                yield replace(gap, unless=(function, gap.file), lifted=not read, callers=more)
        else:
            yield gap

    def _users(self, file: str, macro: str) -> frozenset[str] | None:
        """The functions that use a macro, which has one meaning in one file of KVM; None if there may be more."""
        word = re.compile(rf"\b{re.escape(macro)}\b")
        places = [path for folder in _MAY_USE for path in sources(self._tree.path / folder, (".c", ".h", ".S"))
                  if word.search(path.read_text(encoding="utf-8", errors="replace"))]  # fmt: skip
        if [self._tree.relative(str(path)) for path in places] != [file]:
            return None
        text = self._tree.read(file)
        used = [w.function for w in tokens(text) if w.text == macro and w.function != f"macro {macro}"]
        once = len(re.findall(rf"(?m)^[ \t]*#[ \t]*(?:define|undef)[ \t]+{re.escape(macro)}\b", text)) == 1
        return frozenset(used) if once and all(map(str.isidentifier, used)) else None

    def _of(self, file: str) -> frozenset[str]:
        """The static functions of a file that are only called, and only there: others may include a header."""
        if file not in self._of_file:
            seen = file.endswith(".c") or (
                file.endswith(".h") and file.startswith(f"{KVM}/")
            )  # not what others include
            found = scan.helpers(self._tree.read(file)) if seen else frozenset[str]()
            self._of_file[file] = frozenset(name for name in found if file.endswith(".c") or self._only_in(file, name))
        return self._of_file[file]

    def _only_in(self, file: str, name: str) -> bool:
        """Whether all that name a function are functions of one file."""
        return all(self._bodies[caller][name][0] == file for caller in self._callers.get(name, ()))

    @cached_property
    def _callers(self) -> Mapping[str, set[str]]:
        """By function: those that name it."""
        found: dict[str, set[str]] = {}
        for caller, names in self._bodies.items():
            for name in names.keys() & self._bodies.keys():
                if name != caller:
                    found.setdefault(name, set()).add(caller)
        return found


def _called(gap: Gap) -> str:
    """The function that a gap is about, if it is about a call."""
    return next((place.removesuffix("()") for place in gap.writes or () if place.endswith("()")), "")


def _has_rules(name: str) -> bool:
    """Whether it is known who calls a function, or what it calls."""
    return name in CALLERS or name in READ
