"""Assembly statements of preprocessed C, made independent of what the machine that runs the program implements.

    text = without_assembly(text, known)       # known: the assembly that ends a function, by its number

A statement that consists of barriers and hints has no effect on values: its operands stay, its instructions go. One of
base instructions (``BASE``: those of Armv8.0 that work on general registers and memory) stays. Every other one, and
every one that the kernel patches, becomes a call of ``harness_assembly()``: the driver tells that the function got
there, and which assembly it was. Stand-ins are macros and functions (``replacements.py``): with them no such statement
is left.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_BARRIERS = "isb dsb dmb sb nop hint csdb esb psb tsb bti yield sev sevl wfe wfi dgh prfm".split()
_DATA = """
    add adds sub subs and ands orr orn eor eon bic bics mov movz movk movn mvn neg negs cmp cmn tst ccmp ccmn csel cset
    csetm csinc csinv csneg cinc cinv cneg adc adcs sbc sbcs ngc ngcs lsl lsr asr ror lslv lsrv asrv rorv ubfx sbfx bfi
    bfxil ubfiz sbfiz sxtb sxth sxtw uxtb uxth extr rev rev16 rev32 rbit clz cls mul mneg madd msub umull smull umulh
    smulh umaddl smaddl udiv sdiv adr adrp cbz cbnz tbz tbnz b
""".split()
_MEMORY = """
    ldr ldrb ldrh ldrsb ldrsh ldrsw str strb strh ldur ldurb ldurh stur sturb sturh ldp ldpsw stp ldar ldarb ldarh stlr
    stlrb stlrh ldxr ldxrb ldxrh ldaxr ldaxrb ldaxrh stxr stxrb stxrh stlxr stlxrb stlxrh ldxp ldaxp stxp stlxp clrex
""".split()
_CONDITIONS = "eq ne cs hs cc lo mi pl vs vc hi ls ge lt gt le al".split()
BARRIERS = frozenset(_BARRIERS)
BASE = frozenset([*_DATA, *_MEMORY, *(f"b.{c}" for c in _CONDITIONS)])
_NO_CODE = (".arch", ".arch_extension", ".cpu", ".align", ".balign", ".p2align")
_SEARCHED = re.compile(r'"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'|[{}]|\b(?:asm|__asm|__asm__)\b')
_STRING = re.compile(r'\s*"((?:[^"\\\n]|\\.)*)"')
_QUALIFIERS = re.compile(r"\s*(?:\b(?:volatile|__volatile__|__volatile|goto|inline|__inline__|__inline)\b\s*)*")
_ESCAPES = {"n": "\n", "t": "\t", '"': '"', "\\": "\\", "'": "'"}
_PATCHED = (".altinstructions", ".altinstr_replacement")


def without_assembly(text: str, known: list[str]) -> str:
    """Preprocessed C without assembly that is no base instruction.

    Args:
        known: the assembly that stops a program, in the order of its numbers; what is found is added.
    """
    kept: list[str] = []
    done = depth = 0
    for match in _SEARCHED.finditer(text):
        found = match[0]
        if found in "{}":
            depth += 1 if found == "{" else -1
        elif found[0] not in "\"'" and match.start() >= done and _is_statement(text, match.start(), depth):
            opening = _opening(text, match.end())
            end = _closing(text, opening)
            kept += [text[done : match.start()], _instead(text, match.start(), opening, end, depth, known)]
            done = end
    return "".join([*kept, text[done:]])


def _opening(text: str, at: int) -> int:
    """Where the operands of an assembly statement begin, after its qualifiers."""
    match = _QUALIFIERS.match(text, at)
    assert match is not None
    return match.end()


def _closing(text: str, opening: int) -> int:
    """Behind the parenthesis that ends a text in parentheses."""
    depth = 0
    for match in re.compile(r'"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'|[()]').finditer(text, opening):
        depth += {"(": 1, ")": -1}.get(match[0], 0)
        if not depth:
            return match.end()
    raise ValueError("a parenthesis does not end")


def _is_statement(text: str, at: int, depth: int) -> bool:
    """Whether this is a statement, and not the name under which the assembler knows a variable or function."""
    at -= 1
    while at >= 0 and text[at].isspace():
        at -= 1
    if at < 0 or text[at] in ";{}:":
        return True
    word = re.search(r"\w+$", text[max(0, at - 8) : at + 1])
    if word is not None:
        return word[0] in ("else", "do")
    if text[at] != ")" or not depth:
        return False
    level = 0
    for n in range(at, -1, -1):  # the condition before it
        level += {")": 1, "(": -1}.get(text[n], 0)
        if not level:
            return re.search(r"\b(?:if|while|for|switch)\s*$", text[max(0, n - 16) : n]) is not None
    return False


def _instead(text: str, start: int, opening: int, end: int, depth: int, known: list[str]) -> str:
    """What stands for a statement of assembly; outside of functions only what makes no code stays."""
    template, rest = _template(text, opening + 1)
    statements = None if template is None else list(_statements(template))
    if not depth:
        codeless = statements is not None and all(s.startswith(".") and s.split()[0] != ".inst" for s in statements)
        return text[start:end] if codeless else ""
    if template is not None and statements is not None:
        names = [s.split()[0].lower() for s in statements]
        code = [name for name in names if not name.startswith(".")]
        if all(name in BARRIERS for name in code) and ".inst" not in names:
            return f'{text[start : opening + 1]}""{text[rest:end]}'
        patched = any(section in template for section in _PATCHED)
        if not patched and all(name in BASE or name in BARRIERS or name in _NO_CODE for name in names):
            return text[start : opening + 1] + _without_barriers(template) + text[rest:end]
    said = " ".join((template if template is not None else text[start:end]).split())
    if said not in known:
        known.append(said)
    return f"harness_assembly({known.index(said)})"


def _template(text: str, at: int) -> tuple[str | None, int]:
    """The instructions of a statement, and where its operands begin; ``None`` for what is no plain text."""
    parts = []
    while (match := _STRING.match(text, at)) is not None:
        parts.append(match[1])
        at = match.end()
    whole = "".join(parts)
    if not re.match(r"\s*[:)]", text[at : at + 64]) or re.search(r"\\[^nt\"\\']", whole.replace("\\\\", "")):
        return None, at
    return re.sub(r"\\(.)", lambda m: _ESCAPES[m[1]], whole), at


def _statements(template: str) -> Iterator[str]:
    """The statements of an assembler text, without labels and comments."""
    plain = re.sub(r"/\*.*?\*/|//[^\n]*", " ", template, flags=re.S)
    for piece in re.split(r"[\n;]", plain):
        statement = re.sub(r"^\s*(?:[\w.$%=]+:\s*)*", "", piece).strip()
        if statement and not statement.startswith("#"):
            yield statement


def _without_barriers(template: str) -> str:
    """A text of base instructions as a C string, without the barriers and hints among them."""
    plain = re.sub(r"/\*.*?\*/|//[^\n]*", " ", template, flags=re.S)
    lines = []
    for piece in re.split(r"[\n;]", plain):
        label, name = re.match(r"^\s*((?:[\w.$%=]+:\s*)*)(\S*)", piece).groups()  # type: ignore[union-attr]
        lines.append(label if name.lower() in BARRIERS else piece)
    return '"' + "\\n".join(line.strip().replace("\\", "\\\\").replace('"', '\\"') for line in lines) + '"'
