"""The modelled hardware registers in source text: by name, by encoding, in assembly.

Encodings are op0, op1, CRn, CRm and op2 (Arm ARM, "System register encoding").
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from formal.kernel.lift.assembly import number

_NAMED = re.compile(r"(?:sys_)?(?:mdcr_el2|mdscr_el1|oslar_el1|osdlr_el1|pmuserenr_el0|dbg[bw][cv]r\w*)(?:_el1)?", re.I)
_GENERIC = re.compile(r"s(\d)_(\d)_c(\d+)_c(\d+)_(\d)", re.I)
_MSR_FIELDS = ((16, 7), (12, 15), (8, 15), (5, 7))  # op1, CRn, CRm, op2 of an instruction: lowest bit, mask
_FIELDS = re.compile(r"sys_reg\((.*?)\)?", re.I)
ENCODED: dict[tuple[int, ...], str] = {
    (3, 4, 1, 1, 1): "mdcr_el2",
    (2, 0, 0, 2, 2): "mdscr_el1",
    (2, 0, 1, 0, 4): "oslar_el1",
    (2, 0, 1, 3, 4): "osdlr_el1",
    (3, 3, 9, 14, 0): "pmuserenr_el0",
}
ENCODED |= {
    (2, 0, 0, n, 4 + i): f"dbg{bank}{n}_el1" for n in range(16) for i, bank in enumerate(("bvr", "bcr", "wvr", "wcr"))
}


def modelled(spelled: str) -> str | None:
    """The modelled register that a piece of source names or may name, spelled without blanks; ``None`` if it is none.

    An encoding that is not constant, or a name that is pasted together, may name any.
    """
    if _NAMED.fullmatch(spelled):
        return spelled
    if generic := _GENERIC.fullmatch(spelled):
        return ENCODED.get(_encoding(generic.groups()))
    if fields := _FIELDS.fullmatch(spelled):
        numbers = fields.group(1).split(",")
        known = len(numbers) == 5 and all(re.fullmatch(r"\d+|0x[0-9a-f]+", n, re.I) for n in numbers)
        return ENCODED.get(_encoding(numbers)) if known else spelled
    return spelled if "##" in spelled or re.search(r"DBG[BW][CV]R", spelled, re.I) else None


def _encoding(numbers: list[str] | tuple[str, ...]) -> tuple[int, ...]:
    return tuple(int(n, 0) for n in numbers)


def written(assembly: str) -> Iterator[str]:
    """The modelled registers that assembly writes: the text of a statement in C, or a line of an assembler file."""
    joined = re.sub(r'"\s*"', "", assembly)  # C joins literals that stand side by side
    text = re.sub(r"\\[tn]|\"|__stringify", " ", joined)
    for operand in re.findall(r"(?:\b|_)msr(?:_s)?\b[\s(]*(sys_reg\s*\([^)]*\)|[\w#]+)", text, re.I):
        if name := modelled(re.sub(r"\s", "", operand)):
            yield name.lower()
    for line in re.split(r"\\n|;|\n", joined):
        for word in re.findall(r"(?:\.(?:inst|word|long|int|4byte)\b|__emit_inst\b)([^:]*)", line, re.I):
            first = re.split(r"[\s|+]+", re.sub(r'[()"]|\\t', " ", word).strip())[0]
            value = number(first)
            if re.search(r"%(?!l\[)", word.partition(",")[0]) and (value is None or value >> 24 == 0xD5):
                yield "any"  # an operand says which instruction it is
            elif value is not None and (name := _moved_to(value)) is not None:
                yield name


def _moved_to(instruction: int) -> str | None:
    """The modelled register that an instruction writes, given as 32 bits (Arm ARM, "MSR (register)")."""
    if instruction >> 20 != 0xD51:
        return None
    fields = (2 + (instruction >> 19 & 1), *(instruction >> low & mask for low, mask in _MSR_FIELDS))
    return ENCODED.get(fields)
