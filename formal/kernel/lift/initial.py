"""Numbers that a constant of a file has from its initialiser."""

from __future__ import annotations

from formal.kernel.lift.layout import Layout
from formal.kernel.parse import clang
from formal.kernel.parse.clang import Cursor, Kind, Type, TypeKind, children


class _ElidedError(ValueError):
    """The initialiser leaves out braces, or has a form that is not known."""


def initial_number(layout: Layout, declaration: Cursor, offset: int, kind: Type) -> int | None:
    """The number at an offset, in bytes, of what a declaration initialises; None if it is not told.

    What is not initialised is 0 (C11 6.7.9).
    """
    start = clang.initialiser(declaration)
    if start is None:
        return None
    try:
        return _at(layout, start, declaration.type, offset, clang.bits(kind))
    except _ElidedError:
        return None


def scalars(layout: Layout, value: Cursor, kind: Type) -> list[tuple[int, Type, Cursor]] | None:
    """What an initialiser list sets of a variable, in its order: offset, type and value; None if it is not told."""
    found: list[tuple[int, Type, Cursor]] = []
    try:
        for start, member, part in _parts(layout, value, kind):
            inner = [(0, member, part)] if part.kind != Kind.INIT_LIST_EXPR else scalars(layout, part, member)
            if inner is None or (part.kind == Kind.INIT_LIST_EXPR and len(children(part)) == 0):
                return None
            found += [(start + offset, scalar, cursor) for offset, scalar, cursor in inner]
    except _ElidedError:
        return None
    return found


def _at(layout: Layout, value: Cursor, kind: Type, offset: int, size: int) -> int | None:
    if value.kind != Kind.INIT_LIST_EXPR:
        here = offset == 0 and clang.bits(kind) == size and clang.is_integer(kind)
        return clang.constant(value) if here else None
    found: int | None = 0
    for start, member, part in _parts(layout, value, kind):
        if start <= offset and offset * 8 + size <= start * 8 + clang.bits(member):
            found = _at(layout, part, member, offset - start, size)  # a later one replaces an earlier one
    return found


def _parts(layout: Layout, value: Cursor, kind: Type) -> list[tuple[int, Type, Cursor]]:
    """What an initialiser list names: offset, type and initialiser of each part, in its order; read once."""
    known = layout.initialised.get(value.hash)
    if known is None or known[0] != value:
        known = layout.initialised[value.hash] = value, _read(layout, value, kind)
    return known[1]


def _read(layout: Layout, value: Cursor, kind: Type) -> list[tuple[int, Type, Cursor]]:
    canonical = kind.get_canonical()
    array = canonical.kind == TypeKind.CONSTANTARRAY
    if not array and not clang.is_record(kind):
        raise _ElidedError
    members = [] if array else list(layout.members(kind))
    found, at = [], 0
    for item in children(value):
        inner = children(item)
        designated = item.kind == Kind.UNEXPOSED_EXPR and len(inner) > 1
        part = inner[-1] if designated else item
        if array:
            step = clang.bits(canonical.element_type) // 8
            number = clang.constant(inner[0]) if designated else at
            if number is None or (len(inner) > 2 and designated):
                raise _ElidedError
            found.append((number * step, canonical.element_type, part))
            at = number + 1
        else:
            names = [c.spelling for c in inner[:-1]] if designated else []
            if designated and any(c.kind != Kind.MEMBER_REF for c in inner[:-1]):
                raise _ElidedError
            if names:
                start, member = _path(layout, kind, names)
                at = next((n for n, (name, *_) in enumerate(members) if name == names[0]), len(members))
            elif at < len(members):
                _, start, member = members[at]
            else:
                raise _ElidedError
            found.append((start, member, part))
            at += 1
    for _, member, part in found:
        whole = member.get_canonical().kind == TypeKind.CONSTANTARRAY or clang.is_record(member)
        if whole and part.kind != Kind.INIT_LIST_EXPR:
            raise _ElidedError
    return found


def _path(layout: Layout, kind: Type, names: list[str]) -> tuple[int, Type]:
    """Offset and type of a member of a member."""
    offset = 0
    for name in names:
        at = kind.get_canonical().get_offset(name)
        member = next((f.type for f in kind.get_canonical().get_fields() if f.spelling == name), None)
        if at < 0 or at % 8 or member is None:
            raise _ElidedError
        offset, kind = offset + at // 8, member
    return offset, kind
