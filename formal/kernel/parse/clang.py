"""What the libclang 18 bindings lack: operator kinds, initialisers, constant evaluation, each with types."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple

import clang.cindex as ci

Cursor = Any  # clang.cindex has no types; these names say what a value is
Type = Any
Kind = ci.CursorKind
TypeKind = ci.TypeKind

# Orders of enum CXBinaryOperatorKind and CXUnaryOperatorKind (clang-c/Index.h, libclang 17 and later).
_BINARY = "? .* ->* * / % + - << >> <=> < > <= >= == != & ^ | && || = *= /= %= += -= <<= >>= &= ^= |= ,".split()
_UNARY = "? p++ p-- ++ -- & * + - ~ !".split()
_M_ARENA_MAX = -8  # of glibc's malloc.h


@lru_cache(maxsize=1)
def _library() -> Any:
    library = ci.conf.lib
    for name in ("clang_getCursorBinaryOperatorKind", "clang_getCursorUnaryOperatorKind"):
        getattr(library, name).argtypes = [ci.Cursor]
        getattr(library, name).restype = ctypes.c_int
    library.clang_Cursor_getVarDeclInitializer.argtypes = [ci.Cursor]
    library.clang_Cursor_getVarDeclInitializer.restype = ci.Cursor
    library.clang_Cursor_Evaluate.argtypes = [ci.Cursor]
    library.clang_Cursor_Evaluate.restype = ctypes.c_void_p
    for name, result in (("getKind", ctypes.c_int), ("getAsLongLong", ctypes.c_longlong), ("dispose", None),
                         ("isUnsignedInt", ctypes.c_uint), ("getAsUnsigned", ctypes.c_ulonglong)):  # fmt: skip
        function = getattr(library, f"clang_EvalResult_{name}")
        function.argtypes, function.restype = [ctypes.c_void_p], result
    return library


@lru_cache(maxsize=1)
def share_memory() -> None:
    """Has all threads of this process allocate from one pool, where the C library is glibc.

    libclang parses each file in a thread of its own, and what one pool has left over no other can use: 170 MiB.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def binary_operator(cursor: Cursor) -> str:
    """The operator of a binary (or compound assignment) expression."""
    return _BINARY[int(_library().clang_getCursorBinaryOperatorKind(cursor))]


def unary_operator(cursor: Cursor) -> str:
    """The operator of a unary expression; ``p++`` is the postfix one."""
    return _UNARY[int(_library().clang_getCursorUnaryOperatorKind(cursor))]


def initialiser(declaration: Cursor) -> Cursor | None:
    """The initialiser of a variable (its children also hold the operands of ``typeof``)."""
    found = _library().clang_Cursor_getVarDeclInitializer(declaration)
    cursor = ci.Cursor.from_result(found, None, (declaration,))
    return None if cursor is None or cursor.kind.is_invalid() else cursor


def constant(cursor: Cursor) -> int | None:
    """The value of an integer constant expression. Ask only of expressions without side effects."""
    library = _library()
    result = library.clang_Cursor_Evaluate(cursor)
    if not result:
        return None
    try:
        if library.clang_EvalResult_getKind(result) != 1:
            return None
        unsigned = library.clang_EvalResult_isUnsignedInt(result)
        read: Callable[[Any], int] = (
            library.clang_EvalResult_getAsUnsigned if unsigned else library.clang_EvalResult_getAsLongLong
        )
        return int(read(result))
    finally:
        library.clang_EvalResult_dispose(result)


def _continue(child: Cursor, parent: Cursor, found: list[Cursor]) -> int:
    found.append(child)
    return 1  # CXChildVisit_Continue


def _recurse(child: Cursor, parent: Cursor, found: list[Cursor]) -> int:
    found.append(child)
    return 2  # CXChildVisit_Recurse


# Made once: the bindings make a callback for each cursor, which takes most of the time of reading a function.
_CONTINUE, _RECURSE = ci.callbacks["cursor_visit"](_continue), ci.callbacks["cursor_visit"](_recurse)


def _visited(cursor: Cursor, callback: Any) -> list[Cursor]:
    found: list[Cursor] = []
    ci.conf.lib.clang_visitChildren(cursor, callback, found)
    for child in found:
        child._tu = cursor._tu  # keeps the translation unit
    return found


def children(cursor: Cursor) -> list[Cursor]:
    """The children of a cursor."""
    return _visited(cursor, _CONTINUE)


def preorder(cursor: Cursor) -> list[Cursor]:
    """A cursor and everything below it, parents before their children."""
    return [cursor, *_visited(cursor, _RECURSE)]


def strip_parentheses(cursor: Cursor) -> Cursor:
    """The expression inside any parentheses."""
    while cursor.kind == Kind.PAREN_EXPR:
        cursor = children(cursor)[0]
    return cursor


def strip_casts(cursor: Cursor) -> Cursor:
    """The expression inside implicit casts and parentheses."""
    while cursor.kind in (Kind.UNEXPOSED_EXPR, Kind.PAREN_EXPR) and len(children(cursor)) == 1:
        cursor = children(cursor)[0]
    return cursor


def callee(call: Cursor) -> Cursor | None:
    """What a call names; nothing for ``get(v)(v)``, where libclang names what the inner call does."""
    parts = children(call)
    found: Cursor | None = None if parts and strip_casts(parts[0]).kind == Kind.CALL_EXPR else call.referenced
    return found


def spelling_place(cursor: Cursor) -> tuple[str, int]:
    """File and byte offset where the first token of a cursor is spelled: in the macro, if it comes from one."""
    file, offset = ci.c_object_p(), ctypes.c_uint()
    _library().clang_getSpellingLocation(cursor.extent.start, ctypes.byref(file), None, None, ctypes.byref(offset))
    return (str(ci.File(file).name), int(offset.value)) if file else ("", 0)


def file_of(cursor: Cursor) -> str:
    """The file of a cursor; where a macro was expanded, the place of the expansion."""
    file = cursor.location.file
    return str(file.name) if file is not None else ""


class _Facts(NamedTuple):
    """What is asked of a type most often: of its canonical type, and of an enum's own."""

    kind: Any
    signed: bool
    bits: int


_SIGNED = frozenset((TypeKind.CHAR_S, TypeKind.SCHAR, TypeKind.SHORT, TypeKind.INT, TypeKind.LONG, TypeKind.LONGLONG,
                     TypeKind.INT128))  # fmt: skip


def _facts(kind: Type) -> _Facts:
    known = kind.translation_unit.__dict__  # of the bindings' object, which lives as long as its types
    types: dict[int, _Facts] = known.get("_facts") or known.setdefault("_facts", {})
    found = types.get(kind.data[0])  # by the address of the type
    if found is None:
        canonical = kind.get_canonical()
        own = canonical
        if canonical.kind == TypeKind.ENUM:
            own = canonical.get_declaration().enum_type.get_canonical()
        found = types[kind.data[0]] = _Facts(canonical.kind, own.kind in _SIGNED, int(canonical.get_size()) * 8)
    return found


def is_pointer(kind: Type) -> bool:
    """Whether a type is a pointer, or decays to one."""
    return _facts(kind).kind in (TypeKind.POINTER, TypeKind.INCOMPLETEARRAY, TypeKind.CONSTANTARRAY)


def is_record(kind: Type) -> bool:
    """Whether a type is a struct or union."""
    return bool(_facts(kind).kind == TypeKind.RECORD)


def is_integer(kind: Type) -> bool:
    """Whether a type is an integer, an enum or ``_Bool``."""
    k = _facts(kind).kind
    return bool(k == TypeKind.ENUM or TypeKind.BOOL.value <= k.value <= TypeKind.INT128.value)


def is_bool(kind: Type) -> bool:
    """Whether a type is ``_Bool``."""
    return bool(_facts(kind).kind == TypeKind.BOOL)


def is_signed(kind: Type) -> bool:
    """Whether an integer type is signed (an enum's own type decides)."""
    return _facts(kind).signed


def bits(kind: Type) -> int:
    """The size of a type in bits."""
    return _facts(kind).bits
