"""System registers that assembly writes: the template of a statement in C, or an assembler file.

The operand of ``msr`` may be a name, a generic name (S3_4_C1_C1_1) or the kernel's encoding as an expression.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import clang.cindex as ci

from formal.kernel.parse.clang import Cursor
from formal.kernel.text.numbers import number

_OPERAND = re.compile(r"\bmsr(?:_s)?\s+(.*?)(?:\s*,\s*[^,]*)?$", re.I)
_GENERIC = re.compile(r"s(\d)_(\d)_c(\d+)_c(\d+)_(\d)", re.I)
INSTRUCTION = re.compile(r"(?:\.(?:inst|long|word|int|4byte)|__emit_inst)\b\s*([^:]*)", re.I)
_FIELDS = re.compile(r"sys_reg\(([^()]*)\)", re.I)
_NUMBER = re.compile(r"\b(0x[0-9a-f]+|\d+)[ul]*\b", re.I)
_STORES = re.compile(r"\b(?:st\w+|swp\w*|cas\w*|ld(?:add|clr|set|eor)\w*|dc\s+zva)\b", re.I)
_START = re.compile(r"\basm (?:volatile |goto |inline )*\(")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPES = {"n": "\n", "t": "\t", '"': '"', "\\": "\\"}


# op0, op1, CRn, CRm, op2 (Arm ARM, "System register encoding")
ENCODED: dict[tuple[int, ...], str] = {
    (3, 4, 1, 1, 1): "mdcr_el2",
    (2, 0, 0, 2, 2): "mdscr_el1",
    (2, 0, 1, 0, 4): "oslar_el1",
    (2, 0, 1, 3, 4): "osdlr_el1",
    (3, 3, 9, 14, 0): "pmuserenr_el0",
    (3, 4, 4, 0, 0): "spsr_el2",
    (3, 4, 4, 0, 1): "elr_el2",
    **{
        (2, 0, 0, n, 4 + i): f"dbg{bank}{n}_el1"
        for n in range(16)
        for i, bank in enumerate(("bvr", "bcr", "wvr", "wcr"))
    },
}
_NAMES = frozenset(ENCODED.values())
_MSR = 0xD51  # bits 31 to 20 of MSR (register); of system instructions bit 20 is 0, of MRS bit 21 is 1
UNKNOWN = "*"


def registers(text: str) -> Iterator[str]:
    """The modelled registers that assembly writes, in small letters; ``*`` for a register that cannot be told."""
    macro = False
    for line in re.split(r"[\n;]", text):
        macro = (macro or ".macro" in line) and ".endm" not in line
        if macro or ".endm" in line:
            continue
        line = re.sub(r"//.*|/\*.*?\*/", "", line).strip()
        if found := _OPERAND.search(line):
            if name := register(found.group(1)):
                yield name
        elif (found := INSTRUCTION.search(line)) and (name := instruction(found.group(1))):
            yield name


def register(operand: str) -> str | None:
    """The modelled register that an operand of ``msr`` names or may name."""
    name = re.sub(r"[\s\"]", "", operand).lower()
    name = name if name.startswith("sys_reg(") else name.removeprefix("sys_")
    if name in _NAMES:
        return name
    if name.startswith("dbg") and (name.endswith("_el1")) and re.match(r"dbg[bw][cv]r", name):
        return name
    if generic := _GENERIC.fullmatch(name):
        return ENCODED.get(tuple(map(int, generic.groups())))
    if fields := _FIELDS.fullmatch(name):
        numbers = [number(n) for n in fields.group(1).split(",")]
        return ENCODED.get(tuple(n for n in numbers if n is not None)) if None not in numbers else UNKNOWN
    if re.fullmatch(r"[a-z_]\w*", name):
        return None  # another register, by its name
    value = number(name)
    if value is not None:
        return ENCODED.get(_fields(value))
    return UNKNOWN if "%" in name else None  # of a parameter of a macro, the uses of the macro tell


def instruction(expression: str) -> str | None:
    """The modelled register that an instruction writes which is given as a number; ``*`` if it may be any.

    Args:
        expression: what follows ``.inst`` or its like; in data such as ``.long 1b - .`` no instruction is seen.
    """
    expression = re.sub(r"%l\[?\w+\]?", "", expression.split(",")[0])  # a label
    if (value := number(expression)) is not None:
        return ENCODED.get(_fields(value)) if value >> 20 == _MSR else None
    opcodes = [int(n, 0) for n in _NUMBER.findall(expression) if int(n, 0) >> 24]
    of_operand = "%" in expression and not opcodes
    of_macro = "\\" in expression  # a parameter of an assembler macro: its uses tell
    return UNKNOWN if not of_macro and (of_operand or any(code >> 21 == _MSR >> 1 for code in opcodes)) else None


def may_store(text: str) -> bool:
    """Whether a template has an instruction that writes memory."""
    return _STORES.search(text) is not None


def _fields(packed: int) -> tuple[int, ...]:
    """op0 to op2 of an encoding as sys_reg() packs it, which is where MSR has them too (op0 is 2 or 3)."""
    return (packed >> 19 & 3, packed >> 16 & 7, packed >> 12 & 15, packed >> 8 & 15, packed >> 5 & 7)


def macros(text: str) -> dict[str, int]:
    """The assembler macros of a text that write a register which a parameter names, and which parameter."""
    found: dict[str, int] = {}
    for body in re.finditer(r"(?ms)^\s*\.macro\s+(\w+)[\s,]*([^\n]*)\n(.*?)^\s*\.endm", text):
        names = [re.split(r"[:=]", name)[0] for name in re.split(r"[\s,]+", body[2].strip()) if name]
        for operand in re.findall(r"\bmsr(?:_s)?\s+\\(\w+)", body[3]):
            if operand in names:
                found[body[1]] = names.index(operand)
    return found


def used(line: str, known: dict[str, int]) -> Iterator[str]:
    """The modelled registers that a line writes by using a macro."""
    words = re.match(r"\s*(?:\w+:)?\s*(\w+)\s+(.*)", line)
    if words and words[1] in known:
        arguments = [a.strip() for a in words[2].split(",")]
        if known[words[1]] < len(arguments) and (name := register(arguments[known[words[1]]])):
            yield name


# ---- the text of statements: libclang's cursors do not have it, clang's printer of declarations does


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
