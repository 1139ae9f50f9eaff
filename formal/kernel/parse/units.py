"""What a parsed file declares, collected once by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from sys import intern

from formal.kernel.errors import NotUnderstoodError
from formal.kernel.parse.clang import Cursor, Kind, Type, children, constant


@dataclass
class TranslationUnit:
    """A parsed file: its function definitions, types and enumerators, and the constants that were asked for."""

    file: str
    cursor: Cursor
    functions: dict[str, Cursor] = field(default_factory=dict)
    records: dict[str, Type] = field(default_factory=dict)
    enumerators: dict[str, int] = field(default_factory=dict)
    enums: dict[str, dict[int, str]] = field(default_factory=dict)
    tracepoints: set[str] = field(default_factory=set)
    constants: dict[str, int] = field(default_factory=dict)
    broken: dict[str, NotUnderstoodError] = field(default_factory=dict)  # functions that do not parse: why
    handles: tuple[Cursor, ...] = ()  # libclang's translation units, kept alive: the file's, and its headers'
    includes: frozenset[str] = frozenset()  # the paths of all files that were included, the headers' too


def included(handle: Cursor) -> frozenset[str]:
    """The paths of the files that a file includes; of a precompiled header, not what it includes."""
    return frozenset(intern(str(found.include.name)) for found in handle.get_includes())


def collect(file: str, handle: Cursor, includes: frozenset[str]) -> TranslationUnit:
    """What a parsed file declares."""
    unit = TranslationUnit(file, handle.cursor, handles=(handle,), includes=includes)
    for cursor in children(handle.cursor):
        kind = cursor.kind
        if kind == Kind.FUNCTION_DECL:
            if cursor.is_definition():
                unit.functions[cursor.spelling] = cursor
        elif kind == Kind.STRUCT_DECL:
            if cursor.is_definition():
                unit.records.setdefault(cursor.spelling, cursor.type)
        elif kind == Kind.ENUM_DECL:
            named = unit.enums.setdefault(cursor.spelling, {})
            for item in children(cursor):
                if item.kind == Kind.ENUM_CONSTANT_DECL:
                    unit.enumerators.setdefault(item.spelling, item.enum_value)
                    named.setdefault(item.enum_value, item.spelling)
        elif kind == Kind.VAR_DECL:
            name = cursor.spelling
            if name == "__lift_word":
                unit.records[name] = cursor.type
            elif name.startswith("__tracepoint_"):
                unit.tracepoints.add(name.removeprefix("__tracepoint_"))
            elif name.startswith("__lift_constant_"):
                value = constant(cursor)
                if value is not None:
                    unit.constants[name.removeprefix("__lift_constant_")] = value & ((1 << 64) - 1)
    return unit
