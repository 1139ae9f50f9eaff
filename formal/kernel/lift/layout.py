"""Names of memory: from a byte of an object to the C expression that a reader knows, by clang's layout of its type.

One place has one name, whichever way the code reached it: ``vcpu->arch.ctxt.sys_regs[MDSCR_EL1]``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from formal.kernel.lift.values import Address, Object
from formal.kernel.parse.clang import Cursor, Type, TypeKind, bits, is_record
from formal.kernel.parse.records import inlaid, unnamed

INDEX_ENUMS = {"sys_regs": "vcpu_sysreg"}  # arrays that the kernel indexes by the enumerators of an enum


_FLAT = ("struct kvm_regs",)  # records whose members are named as those of what they are in: so in C from v5.9 on


def _fields(kind: Type) -> tuple[tuple[str, int, Type], ...]:
    """The members of a record: name ('' if anonymous or flat), byte offset, type. Bit-fields are left out."""
    members = [f for f in kind.get_canonical().get_fields() if not f.is_bitfield()]
    inner = inlaid(kind.get_canonical().spelling, members)
    flat = [unnamed(f) or f.spelling in inner or f.type.get_canonical().spelling in _FLAT for f in members]
    named = zip(members, flat, strict=True)
    return tuple(("" if inner else f.spelling, f.get_field_offsetof() // 8, f.type) for f, inner in named)


class Layout:
    """Names and addresses for the types of one program."""

    def __init__(self, enums: Mapping[str, Mapping[int, str]]) -> None:
        self._enums = enums
        self._known: dict[tuple[Object, int, int], str] = {}
        self._members: dict[str, tuple[tuple[str, int, Type], ...]] = {}
        self.initialised: dict[int, tuple[Cursor, list[tuple[int, Type, Cursor]]]] = {}  # by initialiser, and its hash

    def members(self, kind: Type) -> tuple[tuple[str, int, Type], ...]:
        """The members of a struct or union, with those of anonymous ones in their place."""
        spelling = kind.get_canonical().spelling
        if spelling not in self._members:
            self._members[spelling] = _fields(kind)
        return self._members[spelling]

    def name(self, address: Address, size: int) -> str:
        """The C expression for ``size`` bytes at an address."""
        key = (address.object, address.offset, size)
        if key not in self._known:
            self._known[key] = self._find(address.object, address.offset, size)
        return self._known[key]

    def _find(self, target: Object, offset: int, size: int) -> str:
        path = self._path(target.type, offset, size) if target.type is not None else None
        if path is None:
            return target.name if offset == 0 else f"{target.name}+{offset}"
        if path.startswith("."):
            path = ("->" if target.place == "pointee" else ".") + path[1:]
        return target.name + path

    def _path(self, kind: Type, offset: int, size: int) -> str | None:
        canonical = kind.get_canonical()
        if offset == 0 and not is_record(kind) and canonical.kind != TypeKind.CONSTANTARRAY:
            return "" if bits(kind) == size * 8 else None
        if offset == 0 and bits(kind) == size * 8 and canonical.kind != TypeKind.CONSTANTARRAY and size > 8:
            return ""
        if canonical.kind == TypeKind.CONSTANTARRAY:
            element = canonical.element_type
            step = max(1, bits(element) // 8)
            inside = self._path(element, offset % step, size)
            return None if inside is None else f"[{offset // step}]{inside}"
        if not is_record(kind):
            return None
        for name, start, member in self.members(kind):
            if start <= offset and offset + size <= start + bits(member) // 8:
                inside = self._path(member, offset - start, size)
                if inside is not None:
                    return self._named(name, inside)
        return None

    def _named(self, name: str, inside: str) -> str:
        if not name:
            return inside
        enum = self._enums.get(INDEX_ENUMS.get(name, ""), {})
        index = re.match(r"\[(\d+)\]", inside)
        if index and int(index.group(1)) in enum:
            inside = f"[{enum[int(index.group(1))]}]{inside[index.end() :]}"
        return f".{name}{inside}"

    def row(self, address: Address, size: int) -> tuple[int, int] | None:
        """Where the array of scalars of a size begins in which an address is, and how many it has; None if in none."""
        kind, start = address.object.type, 0
        while kind is not None:
            canonical = kind.get_canonical()
            if canonical.kind == TypeKind.CONSTANTARRAY:
                element = canonical.element_type
                step = max(1, bits(element) // 8)
                inner = is_record(element) or element.get_canonical().kind == TypeKind.CONSTANTARRAY
                if not inner:
                    return (start, canonical.element_count) if step == size else None
                start += (address.offset - start) // step * step
                kind = element
                continue
            members = self.members(kind) if is_record(kind) else ()
            offset = address.offset - start
            within = [(at, member) for _, at, member in members if at <= offset < at + bits(member) // 8]
            if len(within) != 1:
                return None
            start, kind = start + within[0][0], within[0][1]
        return None

    def leaves(self, kind: Type) -> Iterator[tuple[int, Type]]:
        """The scalar parts of a type: offset and type. Those of a union's members lie over one another."""
        canonical = kind.get_canonical()
        if canonical.kind == TypeKind.CONSTANTARRAY:
            step = bits(canonical.element_type) // 8
            for i in range(canonical.element_count):
                for offset, part in self.leaves(canonical.element_type):
                    yield i * step + offset, part
        elif is_record(kind):
            for _, start, member in self.members(kind):
                for offset, part in self.leaves(member):
                    yield start + offset, part
        else:
            yield 0, kind

    def has_bitfields(self, kind: Type) -> bool:
        """Whether a type has bit-fields, which ``leaves`` leaves out."""
        canonical = kind.get_canonical()
        if canonical.kind == TypeKind.CONSTANTARRAY:
            return self.has_bitfields(canonical.element_type)
        return is_record(kind) and any(f.is_bitfield() or self.has_bitfields(f.type) for f in canonical.get_fields())

    def locate(self, target: Object, path: str) -> Address:
        """The address of a path such as ``.arch.ctxt`` or ``.dbg_bvr[3]`` in an object.

        Raises:
            KeyError: if the object has no such member.
        """
        offset, kind = 0, target.type
        for name, index in re.findall(r"(?:\.|->)(\w+)|\[(\w+)\]", path):
            if name:
                start, kind = self._member(kind, name)
                offset += start
            else:
                element = kind.get_canonical().element_type
                offset += int(index) * (bits(element) // 8)
                kind = element
        return Address(target, offset)

    def type_at(self, target: Object, path: str) -> Type:
        """The type of what ``locate`` finds."""
        kind = target.type
        for name, _ in re.findall(r"(?:\.|->)(\w+)|\[(\w+)\]", path):
            kind = self._member(kind, name)[1] if name else kind.get_canonical().element_type
        return kind

    def _member(self, kind: Type, name: str) -> tuple[int, Type]:
        if is_record(kind):
            for found, start, member in self.members(kind):
                if found == name:
                    return start, member
            for found, start, member in self.members(kind):
                if not found:
                    try:
                        inner, result = self._member(member, name)
                    except KeyError:
                        continue
                    return start + inner, result
        raise KeyError(name)
