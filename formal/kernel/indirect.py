"""Places that write something modelled without naming it where they write: for ``formal.kernel.scan``.

Stores that look like calls, names that a macro makes (by pasting, or as another name), and the PC, which no instruction
of the guest may pass without its step being counted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from formal.kernel.lexer import Token, closing

_STORES = frozenset(  # their first argument is written
    "WRITE_ONCE smp_store_release smp_store_mb xchg xchg_relaxed cmpxchg cmpxchg_relaxed try_cmpxchg "
    "set_mask_bits swap get_user __get_user put_unaligned this_cpu_write __this_cpu_write raw_cpu_write".split()
)
_REGISTERS = ("mdcr_el2", "mdscr_el1", "oslar_el1", "osdlr_el1", "pmuserenr_el0")
_ELR = frozenset(("SYS_ELR", "SYS_ELR_EL2", "elr_el2"))
ASSIGN = frozenset(("=", "|=", "&=", "^=", "+=", "-=", "*=", "/=", "%=", "<<=", ">>=", "++", "--"))
TELLING = _STORES | _ELR | {"##", "vcpu_pc", "pc", "write_pmuserenr"}


def at(words: list[Token], i: int, named: Collection[str], upper: Collection[str]) -> Iterator[tuple[str, str]]:
    """What a token may write: a place, and how.

    Args:
        named: the modelled members.
        upper: the guest's System registers that are modelled, as they index ``sys_regs``.
    """
    text, inside = words[i].text, words[i].function
    before = words[i - 1].text if i else ""
    following = words[i + 1].text if i + 1 < len(words) else ""
    if text in _STORES and following == "(" and inside:
        end = closing(words, i + 1)
        comma = next((j for j in range(i + 2, end) if words[j].text == ","), end)
        last = end if text == "swap" else comma
        yield from ((word.text, "store") for word in words[i + 2 : last] if word.text in {*named, *upper})
    elif text == "##" and inside.startswith("macro "):
        if any(_may_be_part(piece, (*named, *upper, *_REGISTERS)) for piece in (before, following)):
            yield f"{before}##{following}", "pasted"
    elif text == "vcpu_pc" and following == "(" and inside and inside != "vcpu_pc":
        after = words[closing(words, i + 1) + 1].text
        if after in ASSIGN or before != "*":
            yield "pc", "store"
    elif text == "pc" and before in (".", "->") and inside and following in ASSIGN:
        yield "pc", "store"
    elif text in _ELR and inside and _is_written(words, i):
        yield "hw.elr_el2", "register"
    elif text == "write_pmuserenr" and following == "(" and inside and inside != text:
        yield "hw.pmuserenr_el0", "register"


def renamed(words: list[Token], i: int) -> bool:
    """Whether a token stands in a macro for itself: neither a member of something, nor what a call is given."""
    word = words[i]
    if not word.function.startswith("macro ") or word.function == f"macro {word.text}":
        return False
    return words[i - 1].text not in (".", "->") if i else True


def _may_be_part(piece: str, names: Collection[str]) -> bool:
    """Whether a piece of a pasted name can begin or end one of these names."""
    if len(piece) < 3 or not piece.isidentifier():
        return False
    return any(name != piece and (name.startswith(piece) or name.endswith(piece)) for name in names)


def _is_written(words: list[Token], i: int) -> bool:
    """Whether the statement before a register's name writes a register."""
    for j in range(i - 1, -1, -1):
        if words[j].text in (";", "{", "}"):
            return False
        if words[j].text.startswith("write_sysreg"):
            return True
    return False
