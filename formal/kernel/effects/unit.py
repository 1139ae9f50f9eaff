"""A parsed file, as far as effects need it: types, members, and which function a call means."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from formal.kernel.effects.places import Places, array, record_of
from formal.kernel.effects.types import Handed, Node, Range
from formal.kernel.parse.clang import Cursor, Kind, Type, TypeKind, bits, children, is_pointer, is_record
from formal.kernel.source.tree import KVM

_FILES = frozenset((Kind.TRANSLATION_UNIT,))
_CHARACTERS = frozenset((TypeKind.VOID, TypeKind.CHAR_S, TypeKind.CHAR_U, TypeKind.UCHAR, TypeKind.SCHAR))
TABLE = "table"  # what the keys of variables begin with, for their initialisers
_OWN = f"{KVM}/hyp/"  # where the hypervisor's own records are declared
_FLAGS_OF_ALLOCATORS = frozenset(("gfp_t",))


class Unit:
    """What is asked of a file again and again."""

    def __init__(self, root: str, side: str, places: Places) -> None:
        self._root, self.side, self._places = f"{root}/", side, places
        self.wanted: dict[str, Cursor] = {}  # definitions in headers that are called, by key
        self._keys: dict[int, str] = {}
        self._fields: dict[int, tuple[int, int]] = {}
        self._nodes: dict[int, Node | None] = {}
        self._records: dict[int, str] = {}
        self._pointees: dict[int, str] = {}
        self._locals: dict[int, bool] = {}
        self._own: dict[int, tuple[str, int, bool] | None] = {}

    @property
    def ranges(self) -> dict[str, tuple[Range, ...]]:
        """Where modelled state lies, by record."""
        return self._places.ranges

    def relative(self, file: str) -> str:
        """A file's name below the tree."""
        return file.removeprefix(self._root)

    def key(self, definition: Cursor) -> str:
        """A name for a definition that no other has."""
        place = definition.location
        file = self.relative(str(place.file.name)) if place.file else ""
        return f"{definition.spelling}@{file}:{place.line}/{self.side}"

    def key_of(self, declared: Cursor) -> str:
        """The key of the function that a reference means; its name alone, if it is defined in another file."""
        known = self._keys.get(declared.hash)
        if known is None:
            definition = declared.get_definition()
            if definition is None or not definition.is_definition():
                known = str(declared.spelling)
            else:
                known = self.key(definition)
                self.wanted.setdefault(known, definition)
            self._keys[declared.hash] = known
        return known

    def field(self, declared: Cursor) -> tuple[int, int]:
        """Offset in its record and size of a member, in bits; all of the record where clang does not say."""
        known = self._fields.get(declared.hash)
        if known is None:
            offset = declared.get_field_offsetof() if declared.kind == Kind.FIELD_DECL else -1
            size = declared.get_bitfield_width() if offset >= 0 and declared.is_bitfield() else bits(declared.type)
            known = (offset, max(size, 0)) if offset >= 0 else (0, 1 << 30)
            self._fields[declared.hash] = known
        return known

    def field_node(self, declared: Cursor) -> Node | None:
        """What a member of any object of its type holds."""
        if declared.hash not in self._nodes:
            node = None
            if declared.kind == Kind.FIELD_DECL and self.holds_pointer(declared.type):
                node = Node("f", str(declared.semantic_parent.spelling), str(declared.spelling))
            self._nodes[declared.hash] = node
        return self._nodes[declared.hash]

    def holds_pointer(self, kind: Type) -> bool:
        """Whether a value of a type can be a pointer."""
        return is_pointer(kind) or (not is_record(kind) and bits(kind) == 64)

    def record(self, kind: Type) -> str:
        """The name of a record type with modelled state in it; empty for other types."""
        known = self._records.get(kind.data[0])
        if known is None:
            known = record_of(kind)
            self._places.take(known, kind)
            known = self._records[kind.data[0]] = known if known in self._places.ranges else ""
        return known

    def pointee_record(self, kind: Type) -> str:
        """The same of what a pointer points to."""
        known = self._pointees.get(kind.data[0])
        if known is None:
            canonical = kind.get_canonical()
            known = self.record(canonical.get_pointee()) if canonical.kind == TypeKind.POINTER else ""
            self._pointees[kind.data[0]] = known
        return known

    def table(self, declared: Cursor) -> str | None:
        """The key of a static variable of a file, under which its initialiser is kept; None for any other."""
        place = declared.location
        if declared.storage_class.name != "STATIC" or declared.semantic_parent.kind not in _FILES or not place.file:
            return None
        return f"{TABLE} {declared.spelling}@{self.relative(str(place.file))}/{self.side}"

    def own_record(self, kind: Type, strict: bool = False) -> tuple[str, int] | None:
        """The record of the hypervisor's own that a type points to, and through how many pointers.

        Args:
            strict: whether one counts of which this file does not see what it is.
        """
        if kind.data[0] not in self._own:
            self._own[kind.data[0]] = _own_record(kind, self.relative)
        found = self._own[kind.data[0]]
        return found[:2] if found is not None and (strict or found[2]) else None

    def is_local(self, declared: Cursor) -> bool:
        """Whether a variable lives in a call: a parameter, or a local one that is not static."""
        known = self._locals.get(declared.hash)
        if known is None:
            inside = declared.kind == Kind.PARM_DECL or declared.semantic_parent.kind not in _FILES
            static = declared.storage_class.name in ("STATIC", "EXTERN")
            known = self._locals[declared.hash] = inside and not static
        return known

    def text(self, c: Cursor) -> str:
        """The same for two expressions that are the same, whichever macros they came from; empty if there is none."""
        kind = c.kind
        if kind in (Kind.PAREN_EXPR, Kind.UNEXPOSED_EXPR, Kind.CSTYLE_CAST_EXPR):
            parts = children(c)
            return self.text(parts[-1]) if parts else ""
        if kind == Kind.CALL_EXPR and c.referenced is None:
            return ""
        inner = [self.text(part) for part in children(c)]
        if not inner and kind not in (Kind.DECL_REF_EXPR, Kind.INTEGER_LITERAL):
            return ""
        if not all(inner):
            return ""
        own = c.referenced.hash if c.referenced is not None else [t.spelling for t in c.get_tokens()]
        return f"{kind.value}:{own}({','.join(inner)})"

    def word(self, c: Cursor) -> str:
        """The word of the source that an expression is, before macros are expanded; empty if it is something else."""
        start, end = c.extent.start, c.extent.end
        if not start.file or str(start.file) != str(end.file):
            return ""
        with open(str(start.file), "rb") as source:
            source.seek(start.offset)
            found = re.fullmatch(rb"(\w+)\W", source.read(end.offset - start.offset + 1))
        return found[1].decode() if found else ""

    def parameters(self, call: Cursor, pointer: bool) -> list[Type]:
        """The types of the parameters of the function that is called."""
        declared = call.referenced
        if not pointer and declared is not None:
            kind = declared.type
            return list(kind.argument_types()) if kind.get_canonical().kind == TypeKind.FUNCTIONPROTO else []
        return []

    def may_fill(self, kinds: Sequence[Type], i: int, arguments: Sequence[Cursor]) -> bool:
        """Whether a function that is not defined here may write what its i-th argument points to.

        What it only keeps, or hands to a function that it gets beside it (``handed``), has no size: bytes are written
        by functions that are told how many.
        """
        if i >= len(kinds):
            return False
        pointer = kinds[i].get_canonical()
        if pointer.kind != TypeKind.POINTER:
            return False
        to = pointer.get_pointee()
        if to.is_const_qualified():
            return False
        if to.get_canonical().kind not in _CHARACTERS:
            return True
        return any(map(_is_size, kinds[i + 1 :]))

    def handed(self, kinds: Sequence[Type]) -> Handed:
        """The functions among a call's arguments, by their types, and which of their parameters can be pointers."""
        pointees = (kind.get_canonical().get_pointee().get_canonical() for kind in kinds if is_pointer(kind))
        functions = [f for f in pointees if f.kind == TypeKind.FUNCTIONPROTO]
        every = [(f, [i for i, kind in enumerate(f.argument_types()) if self.holds_pointer(kind)]) for f in functions]
        return tuple((str(f.spelling), tuple(numbers)) for f, numbers in every if numbers)


def _is_size(kind: Type) -> bool:
    whole = not is_record(kind) and not is_pointer(kind) and not array(kind)
    return whole and bits(kind) >= 32 and kind.spelling not in _FLAGS_OF_ALLOCATORS


def is_array(kind: Type) -> bool:
    """Whether a type is an array that decays to a pointer."""
    return kind.get_canonical().kind in (TypeKind.CONSTANTARRAY, TypeKind.INCOMPLETEARRAY)


def _own_record(kind: Type, relative: Callable[[str], str]) -> tuple[str, int, bool] | None:
    """The record of the hypervisor's own that a type points to, through how many pointers, and whether that is certain.

    It is not where a file does not see what the record is.
    """
    depth, canonical = 0, kind.get_canonical()
    while True:
        if canonical.kind == TypeKind.POINTER:
            canonical = canonical.get_pointee().get_canonical()
        elif is_array(canonical):
            canonical = canonical.element_type.get_canonical()
        else:
            break
        depth += 1
    if depth == 0 or canonical.kind != TypeKind.RECORD:
        return None
    declared = canonical.get_declaration()
    if not declared.is_definition():
        return record_of(canonical), depth, False
    file = declared.location.file
    return (record_of(canonical), depth, True) if file and relative(str(file)).startswith(_OWN) else None
