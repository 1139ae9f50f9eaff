"""What the libclang 18 bindings lack: operator kinds, initialisers, constant evaluation, each with types."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import clang.cindex as ci

Cursor = Any  # clang.cindex has no types; these names say what a value is
Type = Any
Kind = ci.CursorKind
TypeKind = ci.TypeKind

# Orders of enum CXBinaryOperatorKind and CXUnaryOperatorKind (clang-c/Index.h, libclang 17 and later).
_BINARY = "? .* ->* * / % + - << >> <=> < > <= >= == != & ^ | && || = *= /= %= += -= <<= >>= &= ^= |= ,".split()
_UNARY = "? p++ p-- ++ -- & * + - ~ !".split()


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


def children(cursor: Cursor) -> list[Cursor]:
    """The children of a cursor."""
    return list(cursor.get_children())


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


def file_of(cursor: Cursor) -> str:
    """The file of a cursor; where a macro was expanded, the place of the expansion."""
    file = cursor.location.file
    return str(file.name) if file is not None else ""


def is_pointer(kind: Type) -> bool:
    """Whether a type is a pointer, or decays to one."""
    return kind.get_canonical().kind in (TypeKind.POINTER, TypeKind.INCOMPLETEARRAY, TypeKind.CONSTANTARRAY)


def is_record(kind: Type) -> bool:
    """Whether a type is a struct or union."""
    return bool(kind.get_canonical().kind == TypeKind.RECORD)


_SIGNED = frozenset((TypeKind.CHAR_S, TypeKind.SCHAR, TypeKind.SHORT, TypeKind.INT, TypeKind.LONG, TypeKind.LONGLONG,
                     TypeKind.INT128))  # fmt: skip


def is_integer(kind: Type) -> bool:
    """Whether a type is an integer, an enum or ``_Bool``."""
    k = kind.get_canonical().kind
    return bool(k == TypeKind.ENUM or TypeKind.BOOL.value <= k.value <= TypeKind.INT128.value)


def is_bool(kind: Type) -> bool:
    """Whether a type is ``_Bool``."""
    return bool(kind.get_canonical().kind == TypeKind.BOOL)


def is_signed(kind: Type) -> bool:
    """Whether an integer type is signed (an enum's own type decides)."""
    canonical = kind.get_canonical()
    if canonical.kind == TypeKind.ENUM:
        canonical = canonical.get_declaration().enum_type.get_canonical()
    return canonical.kind in _SIGNED


def bits(kind: Type) -> int:
    """The size of a type in bits."""
    return int(kind.get_canonical().get_size()) * 8
