"""The modelled hardware registers in source text: by name, by encoding, in assembly.

Encodings are op0, op1, CRn, CRm and op2 (Arm ARM, "System register encoding").
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from formal.kernel.effects.assembly import ENCODED, INSTRUCTION, UNKNOWN, instruction

_NAMED = re.compile(r"(?:sys_)?(?:mdcr_el2|mdscr_el1|oslar_el1|osdlr_el1|pmuserenr_el0|dbg[bw][cv]r\w*)(?:_el1)?", re.I)
_GENERIC = re.compile(r"s(\d)_(\d)_c(\d+)_c(\d+)_(\d)", re.I)
_FIELDS = re.compile(r"sys_reg\((.*?)\)?", re.I)
_OF_MACRO = re.compile(r"\bmsr(?:_s)?\s*\"\s*([A-Za-z_]\w*)", re.I)  # a macro between literals is the register
ANY = "any"  # a register that cannot be told


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
    for line in re.split(r"\\n|;|\n", joined):
        if (found := _OF_MACRO.search(line)) and found[1] != "__stringify" and not modelled(found[1]):
            yield ANY
        text = re.sub(r"\\t|\"|__stringify", " ", line)
        for operand in re.findall(r"(?:\b|_)msr(?:_s)?\b[\s(]*(sys_reg\s*\([^)]*\)|[\w#]+)", text, re.I):
            if name := modelled(re.sub(r"\s", "", operand)):
                yield name.lower()
        if found := INSTRUCTION.search(text):
            name = instruction(_balanced(found[1]))
            yield from () if name is None else (ANY if name == UNKNOWN else name,)


def _balanced(expression: str) -> str:
    """An expression without the parentheses behind it that were opened before it."""
    while expression.count(")") > expression.count("("):
        expression = expression[: expression.rindex(")")]
    return expression
