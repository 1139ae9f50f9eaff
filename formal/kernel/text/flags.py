"""Flags of a vCPU: macros that name some bits of a word, and what they share."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from formal.kernel.text.numbers import number

# from v5.19 on, and before
_FLAG = re.compile(r"(?m)^#define[ \t]+(\w+)[ \t]+(__vcpu_single_flag\(.*?\)|\(\d+ << \d+\))[ \t]*(?:/\*.*)?$")
_SINGLE = re.compile(r"__vcpu_single_flag\(\s*(\w+)\s*,\s*(.*)\)")


def place(definition: str, word: str = "flags") -> tuple[str, int | None]:
    """The word that a flag's macro is about, and its bits; None if these are not told.

    Args:
        word: the member that it is if the macro does not say so.
    """
    single = _SINGLE.fullmatch(definition)
    lvalue, value = (f"vcpu->arch.{single[1]}", single[2]) if single else (f"vcpu->arch.{word}", definition)
    plain = re.sub(r"\bBIT(?:_ULL)?\((\d+)\)", r"(1 << \1)", value)
    plain = re.sub(r"\bGENMASK(?:_ULL)?\((\d+), *(\d+)\)", r"(((2 << \1) - 1) ^ ((1 << \2) - 1))", plain)
    return lvalue, number(re.sub(r"(?<=\d)[uUlL]+\b", "", plain))


def definition(text: str, name: str) -> tuple[str, int] | None:
    """What a header defines a macro as, and the line; a macro that it is made of is put in its place."""
    define = re.search(rf"(?m)^#define[ \t]+{name}[ \t]+(.*?)[ \t]*(?:/\*.*)?$", text)
    if define is None:
        return None
    shift = re.fullmatch(r"\(?1 << (\w+)\)?", define[1])
    inner = re.search(rf"(?m)^#define[ \t]+{shift[1]}[ \t]+(\d+)[ \t]*$", text) if shift else None
    value = f"(1 << {inner[1]})" if inner else define[1]
    return value, text[: define.start()].count("\n") + 1


def covered(text: str, flags: Collection[str]) -> Mapping[str, frozenset[str]]:
    """What of some flags each flag of a header is, or shares a bit with; all of a word if its bits are not told."""
    found: dict[str, tuple[str, int | None]] = {}
    for name, definition in _FLAG.findall(text.replace("\\\n", "")):
        if definition.startswith("__vcpu") or name.startswith("KVM_ARM64_"):
            found[name] = place(definition)

    def alike(a: str, b: str) -> bool:
        (word, bits), (other, mask) = found[a], found[b]
        return a == b or (word == other and (bits is None or mask is None or bits & mask != 0))

    return {name: frozenset(flag for flag in flags if flag in found and alike(name, flag)) for name in found}
