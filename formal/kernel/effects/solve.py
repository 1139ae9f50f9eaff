"""From the facts of single functions to effects: where pointers lead, and what a parameter chooses."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from formal.kernel.effects.places import overlapping
from formal.kernel.effects.reached import Names
from formal.kernel.effects.types import ALL, Address, Call, Effect, Element, Facts, Index, Node, Range, Source, Write

_ANY = 1 << 40  # bits of a record: all of it


class Solved(NamedTuple):
    """The effects of each function itself, and whom it calls, by key."""

    effects: dict[str, tuple[Effect, ...]]
    calls: dict[str, frozenset[str]]


class Solver:
    """Solves one program: the host with one hypervisor."""

    def __init__(self, functions: Mapping[str, Facts], ranges: Mapping[str, tuple[Range, ...]]) -> None:
        self._functions, self._ranges = functions, ranges
        self._names = Names(functions)
        self.meant = self._names.meant
        self._tables: dict[str, set[int]] = defaultdict(set)
        self._taken: dict[str, set[str]] = defaultdict(set)  # by type
        for facts in functions.values():
            nvhe = facts.function.side == "nvhe"
            for mention in facts.taken:
                for key in self.meant(mention.name, nvhe):
                    self._taken[mention.type].add(key)
            for callee, numbers in facts.entries:
                for key in self.meant(callee, nvhe):
                    self._tables[key].update(numbers)
        self._edges: dict[Node, set[Node]] = defaultdict(set)  # from a node to those that get what it holds
        self._held: dict[Node, set[Address]] = defaultdict(set)
        self._results: dict[str, list[tuple[Source, ...]]] = defaultdict(list)
        self._instances: set[Node] = set()
        self._work: list[tuple[Node, Address]] = []

    def targets(self, facts: Facts, call: Call) -> Iterable[str]:
        """The functions that a call may call."""
        if call.pointer:
            return sorted(self._taken.get(call.callee, ()))
        return self.meant(call.callee, facts.function.side == "nvhe")

    def _handed(self, facts: Facts, call: Call) -> Iterator[Node]:
        """The parameters of functions to which one that is not defined here may hand what it is given."""
        if call.handed and not call.pointer and not self.meant(call.callee, facts.function.side == "nvhe"):
            for kind, numbers in call.handed:
                for key in sorted(self._taken.get(kind, ())):
                    yield from (Node("p", key, str(number)) for number in numbers)

    def solve(self) -> Solved:
        """All effects."""
        for facts in self._functions.values():
            for node, sources in facts.flows:
                if node.kind == "r":
                    self._results[node.owner].append(sources)
        for facts in self._functions.values():
            for node, sources in facts.flows:
                if node.kind != "r":
                    for source in sources:
                        self._flow(source, node, facts)
            for call in facts.calls:
                for callee in self.targets(facts, call):
                    for i, sources in enumerate(call.arguments):
                        for source in sources:
                            self._flow(source, Node("p", callee, str(i)), facts)
                for node in self._handed(facts, call):
                    for source in dict.fromkeys(s for sources in call.arguments for s in sources):
                        self._flow(source, node, facts)
        for facts in self._functions.values():
            for store in facts.stores:
                for source in store.through:
                    self._reach(source, facts)
        self._run()
        return Solved(self._effects(), self._calls())

    # ---- pointers

    def _flow(self, source: Source, to: Node, facts: Facts) -> None:
        if isinstance(source, Address):
            self._put(to, source)
            return
        self._reach(source, facts)
        if to not in self._edges[source]:
            self._edges[source].add(to)
            for address in list(self._held[source]):
                self._put(to, address)

    def _put(self, to: Node, address: Address) -> None:
        if address not in self._held[to]:
            self._held[to].add(address)
            self._work.append((to, address))

    def _reach(self, node: Source, facts: Facts) -> None:
        """Makes a node that stands for a result, or for a blurred one, hold what it should."""
        if isinstance(node, Address) or node in self._instances:
            return
        self._instances.add(node)
        if node.blurred:
            self._flow(node._replace(blurred=False), node, facts)
        elif node.kind == "r":
            for callee in self.meant(node.owner, facts.function.side == "nvhe"):
                for sources in self._results[callee]:
                    for source in sources:
                        self._flow(_bound(source, callee, node), node, self._functions[callee])
        elif node.kind == "c":
            for callee in sorted(self._taken.get(node.owner, ())):
                for sources in self._results[callee]:
                    for source in sources:
                        self._flow(_bound(source, callee, Node("r", "", "")), node, self._functions[callee])

    def _run(self) -> None:
        while self._work:
            node, address = self._work.pop()
            for to in list(self._edges[node]):
                self._put(to, address._replace(blurred=True) if to.blurred else address)

    def _addresses(self, sources: Iterable[Source]) -> Iterator[Address]:
        for source in sources:
            if isinstance(source, Address):
                yield source
            else:
                for address in self._held[source]:
                    yield address._replace(blurred=True) if source.blurred else address

    # ---- effects

    def _effects(self) -> dict[str, tuple[Effect, ...]]:
        found: dict[str, dict[Effect, None]] = defaultdict(dict)
        open_: list[tuple[str, Write]] = []  # what a parameter of the function chooses
        for key, facts in self._functions.items():
            for write in self._written(key, facts):
                if write.element is not None and write.element.owner == key:
                    open_.append((key, write))
                else:
                    self._add(found[key], facts, write, write.element)
        callers: dict[str, list[tuple[str, Call]]] = defaultdict(list)
        for key, facts in self._functions.items():
            for call in facts.calls:
                for callee in self.targets(facts, call):
                    callers[callee].append((key, call))
        seen: set[tuple[str, Write]] = set()
        while open_:
            key, write = open_.pop()
            if (key, write) in seen:
                continue
            seen.add((key, write))
            element = write.element
            assert element is not None
            facts = self._functions[key]
            if any(call.pointer for _, call in callers[key]) or not callers[key]:
                numbers = self._tables.get(key)
                for number in sorted(numbers) if numbers else ():
                    self._add(found[key], facts, _chosen(write, element, number), None)
                if not numbers:
                    self._add(found[key], facts, write, element)
            for caller, call in callers[key]:
                if call.pointer:
                    continue
                given = (
                    call.given[element.chosen_by.parameter] if element.chosen_by.parameter < len(call.given) else None
                )
                how = write.how if " by " in write.how else f"{write.how} by {facts.function.name}()"
                at = write._replace(line=call.line, file=call.file, how=how)
                if given is None:
                    self._add(found[caller], self._functions[caller], at, element)
                elif given.parameter < 0:
                    self._add(found[caller], self._functions[caller], _chosen(at, element, given.plus), None)
                else:
                    moved = at._replace(
                        offset=at.offset + given.plus * element.stride,
                        element=element._replace(chosen_by=Index(given.parameter, 0), owner=caller),
                    )
                    open_.append((caller, moved))
        return {key: tuple(effects) for key, effects in found.items()}

    def _written(self, key: str, facts: Facts) -> Iterator[Write]:
        yield from facts.writes
        for store in facts.stores:
            for a in self._addresses(store.through):
                size = store.size or a.size
                offset, size = (0, _ANY) if a.blurred else (a.offset + store.offset, size)
                element = None if a.blurred else a.element
                yield Write(store.line, a.record, offset, size, store.bits, store.how, store.file, element)
        nvhe = facts.function.side == "nvhe"
        for call in facts.calls:
            if call.blobs and not call.pointer and not self.meant(call.callee, nvhe):
                for i in call.blobs:
                    for a in self._addresses(call.arguments[i]):
                        at = (0, _ANY) if a.blurred else (a.offset, a.size)
                        element = None if a.blurred else a.element
                        yield Write(call.line, a.record, *at, ALL, f"passed to {call.callee}()", call.file, element)

    def _add(self, found: dict[Effect, None], facts: Facts, write: Write, element: Element | None) -> None:
        """The targets of a write; of an element that cannot be told, all of the array's."""
        if write.record.startswith("hw."):
            found[Effect(facts.function, write.file, write.line, write.record, write.bits, write.how)] = None
            return
        size = write.size if element is None else element.stride * element.length
        bits = write.bits
        for target, changed in overlapping(self._ranges.get(write.record, ()), write.offset, size, bits):
            found[Effect(facts.function, write.file, write.line, target, changed, write.how)] = None

    def _calls(self) -> dict[str, frozenset[str]]:
        found: dict[str, frozenset[str]] = {}
        for key, facts in self._functions.items():
            callees = {callee for call in facts.calls for callee in self.targets(facts, call)}
            for name in facts.hypercalls:
                callees.update(self._names.called_by_host(name.name))
            found[key] = frozenset(callees)
        return found


def _bound(source: Source, callee: str, result: Node) -> Source:
    """What a result is, for the arguments of a call; an argument that is not known chooses any element."""
    given = result.given
    if isinstance(source, Node):
        if source.kind != "r" or not source.given:
            return source
        composed = tuple(_composed(index, given) for index in source.given)
        own = any(index is not None and index.parameter >= 0 for index in composed)
        return source._replace(given=composed, name=result.name if own else "")
    element = source.element
    if element is None or element.owner != callee:
        return source
    index = given[element.chosen_by.parameter] if element.chosen_by.parameter < len(given) else None
    if index is None:
        return source._replace(size=element.stride * element.length, element=None)
    moved = source._replace(offset=source.offset + index.plus * element.stride)
    if index.parameter < 0:
        return moved._replace(element=None)
    return moved._replace(element=element._replace(chosen_by=Index(index.parameter, 0), owner=result.name))


def _composed(index: Index | None, given: tuple[Index | None, ...]) -> Index | None:
    if index is None or index.parameter < 0:
        return index
    outer = given[index.parameter] if index.parameter < len(given) else None
    return None if outer is None else Index(outer.parameter, outer.plus + index.plus)


def _chosen(write: Write, element: Element, number: int) -> Write:
    return write._replace(offset=write.offset + number * element.stride, element=None)
