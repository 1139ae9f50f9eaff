"""When each function can run, if at all: from the entries that the generic part of KVM and the world switch have.

The entries are an interface between files (``kvm_arch_*`` is what virt/kvm calls, ``__guest_enter`` is assembly), not a
list of functions that may do something: from each, everything is reached that it calls, also through pointers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from formal.kernel.effects.types import Context, Facts, Needs

ENTER = "__guest_enter"
RUN = ("kvm_arch_vcpu_ioctl_run",)
SWITCH = ("kvm_arch_vcpu_load", "kvm_arch_vcpu_put", "kvm_sched_in", "kvm_sched_out", "vcpu_load", "vcpu_put")
IOCTL = ("kvm_vcpu_ioctl", "kvm_vcpu_compat_ioctl")
_POINTERS = ("r:", "p:", "v:")
_EL2, _HANDLES = "__kvm_nvhe_", "handle_"  # how the host names what is EL2's; how the handler of a hypercall is named


def reached(calls: Mapping[str, Collection[str]], roots: Iterable[str], stop: Collection[str] = ()) -> set[str]:
    """The functions that are called from some, themselves included; those where it stops are not."""
    found: set[str] = set()
    work = [root for root in roots if root not in stop]
    while work:
        key = work.pop()
        if key not in found:
            found.add(key)
            work += [callee for callee in calls.get(key, ()) if callee not in stop]
    return found


def contexts(functions: Mapping[str, Facts], calls: Mapping[str, Collection[str]]) -> dict[str, frozenset[Context]]:
    """The contexts of each function."""
    by_name: dict[str, list[str]] = {}
    for key, facts in functions.items():
        by_name.setdefault(facts.function.name, []).append(key)

    def named(names: Iterable[str]) -> set[str]:
        return {key for name in names for key in by_name.get(name, ())}

    enters = {key for key, facts in functions.items() if any(call.callee == ENTER for call in facts.calls)}
    run, switch, ioctl = named(RUN), named(SWITCH), named(IOCTL)
    called = {callee for callees in calls.values() for callee in callees}
    passed = {mention.name for facts in functions.values() for mention in facts.taken if mention.argument}
    entries = {key for key in functions if key not in called or key in passed} - run - switch - ioctl - enters
    found: dict[str, set[Context]] = {key: set() for key in functions}
    for context, roots, stop in (
        (Context.HYP, enters, set[str]()),
        (Context.RUN, run, enters | switch),
        (Context.SWITCH, switch, enters),
        (Context.IOCTL, ioctl, run | switch | enters),
        (Context.ANY, entries, run | switch | ioctl | enters),
    ):
        for key in reached(calls, roots, stop):
            if key in found:
                found[key].add(context)
    return {key: frozenset(those) for key, those in found.items()}


# ---- who is meant by a name, and what never runs


class Names:
    """The functions of one program by name, as it is linked."""

    def __init__(self, functions: Mapping[str, Facts]) -> None:
        self._functions = functions
        self._named: dict[tuple[str, bool], list[str]] = defaultdict(list)  # by name, and whether it is nVHE's
        for key, facts in functions.items():
            if facts.linked:
                self._named[facts.function.name, facts.function.side == "nvhe"].append(key)
        self._handlers: dict[str, list[str]] = defaultdict(list)  # of hypercalls
        for key, facts in functions.items():
            if facts.function.side == "nvhe" and facts.function.name.startswith(_HANDLES):
                self._handlers[facts.function.name.removeprefix(_HANDLES)].append(key)

    def meant(self, callee: str, nvhe: bool) -> list[str]:
        """The functions that a call means: that of the same file, or all of the program that have the name."""
        return [callee] if callee in self._functions else self._named.get((callee, nvhe), [])

    def called_by_host(self, hypercall: str) -> list[str]:
        """What a hypercall of this name runs."""
        return [*self._named.get((hypercall, True), ()), *self._handlers.get(hypercall, ())]


@dataclass(frozen=True)
class Alive:
    """What of a program runs in a mode.

    ``functions`` are all of it, without what never runs; ``dead`` those of which nothing does, and ``gone`` what others
    name only where that never runs.
    """

    functions: dict[str, Facts]
    dead: frozenset[str] = frozenset()
    gone: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @staticmethod
    def of(functions: Mapping[str, Facts], absent: Collection[str], from_elsewhere: Collection[str]) -> Alive:
        """What may run where CPUs lack some capabilities.

        Taken to be so until something that runs says otherwise: a function returns 0, a pointer to a record of the
        hypervisor's own is NULL. Whatever is first otherwise would follow from something that runs.

        Args:
            absent: needs that are not met, such as ``c:ARM64_KVM_PROTECTED_MODE``.
            from_elsewhere: the names of functions that something calls which is not among these: assembler, macros.
        """
        search = _Search(functions, frozenset(absent), from_elsewhere)
        while search.refuted():
            pass
        return search.result()


class _Search:
    """What runs, and what it refutes of what is taken to be so."""

    def __init__(self, functions: Mapping[str, Facts], absent: frozenset[str], from_elsewhere: Collection[str]) -> None:
        self._functions, self._names = functions, Names(functions)
        self._absent = absent | {"0"}
        self._null = {n for f in functions.values() for needs in _needs(f) for n in needs if n.startswith(_POINTERS)}
        self._by_pointer = self._called_by_pointer()
        host = (facts for facts in functions.values() if facts.function.side == "host")
        self._by_host = {key for facts in host for name in _named(facts) for key in self._names.meant(name, False)}
        self._zero = set(functions)
        self._roots = self._from_elsewhere(from_elsewhere)
        self._alive: set[str] = set()

    def _mentioned(self, facts: Facts) -> Iterator[tuple[str, Needs]]:
        """What a function, or the initialiser of a variable, leads to: by key, with what must be so for that."""
        nvhe = facts.function.side == "nvhe"
        for call in facts.calls:
            if not call.pointer:
                yield from ((key, call.needs) for key in self._names.meant(call.callee, nvhe))
        for taken in facts.taken:
            for key in self._names.meant(taken.name, nvhe):
                if key not in self._hypercalls or not facts.function.name.startswith("table "):
                    yield key, taken.needs
        for table in facts.tables:
            yield table.name, table.needs
        for hypercall in facts.hypercalls if not nvhe else ():
            yield from ((key, hypercall.needs) for key in self._names.called_by_host(hypercall.name))

    @cached_property
    def _hypercalls(self) -> set[str]:
        """The handlers of hypercalls that the host's C makes: what EL2 has in a table of them runs if one is made."""
        host = [facts for facts in self._functions.values() if facts.function.side != "nvhe"]
        names = {hypercall.name for facts in host for hypercall in facts.hypercalls}
        return {key for name in names for key in self._names.called_by_host(name)}

    def _from_elsewhere(self, names: Collection[str]) -> set[str]:
        """The functions and variables that something else than this C may lead to."""
        led_to = {key for f in self._functions.values() for key, _ in self._mentioned(f)}
        other = {name.removeprefix(_EL2) for f in self._functions.values() for name in _named(f) if _EL2 in name}
        found = {key for key, facts in self._functions.items() if key not in led_to or facts.function.name in names}
        found |= {key for key, f in self._functions.items() if f.function.side == "nvhe" and f.function.name in other}
        return found | {key for key, facts in self._functions.items() if key.startswith("table ") and facts.linked}

    def never(self, needs: Needs, nvhe: bool) -> bool:
        """Whether one of some needs is not met."""
        return any(self._unmet(need, nvhe) for need in needs)

    def _unmet(self, need: str, nvhe: bool) -> bool:
        if need in self._absent or need in self._null:
            return True
        meant = self._names.meant(need[2:], nvhe) if need.startswith("f:") else ()
        return bool(meant) and self._zero.issuperset(meant)

    def refuted(self) -> bool:
        """Works out what runs, and takes back what that refutes; whether there was anything."""
        self._alive, work = set(), list(self._roots)
        while work:
            key = work.pop()
            if key not in self._alive and (facts := self._functions.get(key)) is not None:
                self._alive.add(key)
                nvhe = facts.function.side == "nvhe"
                work += [to for to, needs in self._mentioned(facts) if not self.never(needs, nvhe)]
        null, zero = set[str](), set[str]()
        for key, facts in self._functions.items():
            nvhe = facts.function.side == "nvhe"
            if any(not self.never(needs, nvhe) for needs in facts.returns):
                zero.add(key)
            if key in self._alive:
                for give in facts.gives:
                    if not self.never(give.needs, nvhe):
                        null |= self._given(give.name, nvhe)
        null |= {n for n in self._null if n[0] == "p" and n[2:].rpartition(":")[0] in self._roots | self._by_host}
        before = len(self._null), len(self._zero)
        self._null -= null
        self._zero -= zero
        return before != (len(self._null), len(self._zero))

    def _given(self, name: str, nvhe: bool) -> set[str]:
        """The needs that are met by a value that is given to a variable, a parameter, or memory."""
        if name == "p:*":
            return {need for need in self._null if need[0] == "p" and need[2:].rpartition(":")[0] in self._by_pointer}
        if name.startswith("p:"):
            callee, _, number = name[2:].rpartition(":")
            return {f"p:{key}:{number}" for key in self._names.meant(callee, nvhe)}
        return {name}

    def _called_by_pointer(self) -> set[str]:
        """The functions whose address is taken."""
        every = ((taken, facts) for facts in self._functions.values() for taken in facts.taken)
        return {key for taken, facts in every for key in self._names.meant(taken.name, facts.function.side == "nvhe")}

    def result(self) -> Alive:
        """All of the program, without what never runs."""
        kept: dict[str, Facts] = {}
        gone: dict[str, frozenset[str]] = {}
        for key, facts in self._functions.items():
            nvhe = facts.function.side == "nvhe"
            if key not in self._alive:
                kept[key] = Facts(facts.function, facts.linked, facts.type)
                continue
            parts: dict[str, Any] = {
                name: [one for one in getattr(facts, name) if not self.never(one.needs, nvhe)]
                for name in ("writes", "stores", "calls", "taken", "tables", "hypercalls")
            }
            kept[key] = replace(facts, **parts)
            if left := _named(facts) - _named(kept[key]):
                gone[key] = frozenset(name.partition("@")[0] for name in left)
        return Alive(kept, frozenset(self._functions.keys() - self._alive), gone)


def _named(facts: Facts) -> set[str]:
    return {*(call.callee for call in facts.calls if not call.pointer), *(taken.name for taken in facts.taken)}


def _needs(facts: Facts) -> Iterator[Needs]:
    """All that must be so in a function anywhere."""
    parts: tuple[Iterable[Any], ...] = (facts.writes, facts.stores, facts.calls, facts.taken, facts.tables)
    yield from (one.needs for part in (*parts, facts.hypercalls, facts.gives) for one in part)
    yield from facts.returns
