"""Where modelled state lies in the records of a tree: the lvalues of state variables, by clang's layout."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from formal.kernel.effects.types import ALL, Range
from formal.kernel.parse.clang import Cursor, Type, TypeKind, bits, is_record
from formal.kernel.parse.records import inlaid, unnamed

ROOTS = {"vcpu": "kvm_vcpu", "hyp_vcpu": "pkvm_hyp_vcpu"}  # the objects that lvalues start with, and their records
_STEP = re.compile(r"(->|\.)(\w+)|\[(\w+)\]")


class Lvalue(NamedTuple):
    """A modelled lvalue: where this tree may keep it, what it is called, and which of its bits are modelled."""

    path: str  # vcpu->arch.mdcr_el2
    target: str
    bits: int = ALL


class Variable(NamedTuple):
    """The pseudo record of a global variable that is modelled itself."""

    name: str


def record_of(kind: Type) -> str:
    """The name of a record type; empty for other types."""
    canonical = kind.get_canonical()
    if canonical.kind != TypeKind.RECORD:
        return ""
    return str(canonical.get_declaration().spelling) or str(canonical.spelling)


def array(kind: Type) -> bool:
    """Whether a type is an array with or without a size."""
    return kind.get_canonical().kind in (TypeKind.CONSTANTARRAY, TypeKind.INCOMPLETEARRAY, TypeKind.VARIABLEARRAY)


class Places:
    """Ranges of records, as far as a unit declares them."""

    def __init__(self, lvalues: Iterable[Lvalue]) -> None:
        self._lvalues = tuple(lvalues)
        self.ranges: dict[str, tuple[Range, ...]] = {}
        self._found: dict[str, set[Range]] = {}
        self._flat: dict[str, tuple[Range, ...]] = {}

    def learn(self, records: Mapping[str, Type], variables: Mapping[str, Type], enumerators: Mapping[str, int]) -> None:
        """Takes in what a unit declares."""
        for lvalue in self._lvalues:
            root, path = re.fullmatch(r"(percpu\.\w+|\w+)(.*)", lvalue.path).groups()  # type: ignore[union-attr]
            if root.startswith("percpu."):
                name = root.removeprefix("percpu.")
                kind = variables.get(name)
                if kind is not None and path and kind.get_canonical().kind == TypeKind.POINTER:
                    kind = kind.get_canonical().get_pointee()  # an instance on each CPU, allocated
                if kind is not None and not path:
                    self._add(f"var {name}", Range(0, bits(kind), lvalue.target, lvalue.bits))
                    continue
            else:
                kind = records.get(ROOTS[root])
            if kind is not None:
                self._walk(kind, path, lvalue, enumerators)
        self.ranges = {name: tuple(sorted(found)) for name, found in self._found.items()}
        self._flat.clear()

    def _add(self, record: str, found: Range) -> None:
        self._found.setdefault(record, set()).add(found)

    def _walk(self, kind: Type, path: str, lvalue: Lvalue, enumerators: Mapping[str, int]) -> None:
        """Adds the lvalue to each record on its path that contains it without a pointer between."""
        anchors: list[tuple[str, int]] = []
        for arrow, name, index in _STEP.findall(path):
            if arrow == "->" and anchors:
                pointee = kind.get_canonical()
                if pointee.kind != TypeKind.POINTER:
                    return
                kind, anchors = pointee.get_pointee(), []
            if name:
                anchors.append((record_of(kind), 0))
                step = member(kind, name)
                if step is None:
                    return
                offset, kind = step
            else:
                position = int(index) if index.isdigit() else enumerators.get(index)
                canonical = kind.get_canonical()
                if position is None or canonical.kind != TypeKind.CONSTANTARRAY:
                    return
                if position >= canonical.element_count:
                    return
                kind = canonical.element_type
                offset = position * bits(kind)
            anchors = [(record, start + offset) for record, start in anchors]
        for record, start in anchors:
            self._add(record, Range(start, bits(kind), lvalue.target, lvalue.bits))
        if is_record(kind):
            self._add(record_of(kind), Range(0, bits(kind), lvalue.target, lvalue.bits))

    def of(self, kind: Type) -> tuple[Range, ...]:
        """The ranges of a record type, also by way of members that are records of KVM."""
        name = record_of(kind)
        if not name or name in self.ranges:
            return self.ranges.get(name, ())
        if name not in self._flat:
            self._flat[name] = ()  # while it is worked out: a record does not contain itself
            self._flat[name] = tuple(self._nested(kind))
        return self._flat[name]

    def _nested(self, kind: Type) -> Iterator[Range]:
        for inner in kind.get_canonical().get_fields():
            part = inner.type
            while array(part):
                part = part.get_canonical().element_type
            if is_record(part) and "kvm" in record_of(part):
                start = max(inner.get_field_offsetof(), 0)
                for r in self.of(part):
                    yield r._replace(offset=start + r.offset)

    def take(self, name: str, kind: Type) -> None:
        """Keeps the ranges of a record that is not on the path of any lvalue."""
        if name and name not in self.ranges and (found := self.of(kind)):
            self.ranges[name] = found


def member(kind: Type, name: str) -> tuple[int, Type] | None:
    """Offset in bits and type of a member, also of one in a record whose members are known as the outer one's."""
    if not is_record(kind):
        return None
    members: list[Cursor] = list(kind.get_canonical().get_fields())
    for found in members:
        if found.spelling == name:
            return found.get_field_offsetof(), found.type
    through = inlaid(kind.get_canonical().spelling, members)
    for found in (m for m in members if unnamed(m) or m.spelling in through):
        if inner := member(found.type, name):
            return found.get_field_offsetof() + inner[0], inner[1]
    return None


def overlapping(ranges: Iterable[Range], offset: int, size: int, bits_written: int) -> Iterator[tuple[str, int]]:
    """The targets among ranges that a write of some bits at an offset may change, and which bits of them."""
    for r in ranges:
        if offset < r.offset + r.size and r.offset < offset + size:
            shift = offset - r.offset
            if bits_written == ALL:
                changed = ALL if shift <= 0 and size >= r.size else (1 << min(size, 64)) - 1
            else:
                changed = bits_written & ((1 << min(size, 64)) - 1)
            changed = changed << shift if shift >= 0 else changed if changed == ALL else changed >> -shift
            if changed & r.bits & ALL or r.size > 64:
                yield r.target, (changed & r.bits & ALL) or ALL
