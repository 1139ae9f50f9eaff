"""The text of assembly statements: libclang's cursors do not have it, clang's printer of declarations does."""

from __future__ import annotations

import ctypes
import re
from functools import lru_cache
from typing import Any, NamedTuple

import clang.cindex as ci

from formal.kernel.parse.clang import Cursor

_START = re.compile(r"\basm (?:volatile |goto |inline )*\(")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPES = {"n": "\n", "t": "\t", '"': '"', "\\": "\\"}


class Statement(NamedTuple):
    """One statement."""

    template: str
    outputs: int
    memory: bool  # whether it says that it changes memory


@lru_cache(maxsize=1)
def _library() -> Any:
    library = ci.conf.lib
    library.clang_getCursorPrettyPrinted.argtypes = [ci.Cursor, ctypes.c_void_p]
    library.clang_getCursorPrettyPrinted.restype = ci._CXString
    library.clang_getCursorPrettyPrinted.errcheck = ci._CXString.from_result
    library.clang_getCursorPrintingPolicy.argtypes = [ci.Cursor]
    library.clang_getCursorPrintingPolicy.restype = ctypes.c_void_p
    library.clang_PrintingPolicy_dispose.argtypes = [ctypes.c_void_p]
    return library


def printed(definition: Cursor) -> str:
    """A function definition, printed."""
    library = _library()
    policy = library.clang_getCursorPrintingPolicy(definition)
    try:
        return str(library.clang_getCursorPrettyPrinted(definition, policy))
    finally:
        library.clang_PrintingPolicy_dispose(policy)


def statements(definition: Cursor) -> list[Statement]:
    """The assembly statements of a function, in their order."""
    text = printed(definition)
    return [_parsed(text, found.end()) for found in _START.finditer(text)]


def _parsed(text: str, at: int) -> Statement:
    string = _STRING.match(text, at)
    if string is None:
        return Statement("", 0, True)
    template = re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), string[1])
    sections: list[str] = [""]
    depth, at = 0, string.end()
    while at < len(text):
        quoted = _STRING.match(text, at) if text[at] == '"' else None
        if quoted is not None:
            sections[-1] += '"S' + quoted[1] + '"'
            at = quoted.end()
            continue
        sign = text[at]
        depth += {"(": 1, ")": -1}.get(sign, 0)
        if depth < 0:
            break
        if sign == ":" and depth == 0:
            sections.append("")
        elif depth == 0:
            sections[-1] += sign
        at += 1
    outputs = sections[1].count('"S') if len(sections) > 1 else 0
    return Statement(template, outputs, len(sections) > 3 and "memory" in sections[3])
