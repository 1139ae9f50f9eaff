"""Places that write something modelled without naming it where they write: for ``formal.kernel.recognition.scan``.

Stores that look like calls, names that a macro makes (by pasting, or as another name), and the PC, which no instruction
of the guest may pass without its step being counted.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from formal.kernel.text.tokens import Token, chain_start, closing, ends_operand
from formal.kernel.text.uses import stored_by, use

_REGISTERS = ("mdcr_el2", "mdscr_el1", "oslar_el1", "osdlr_el1", "pmuserenr_el0")
_ELR = frozenset(("SYS_ELR", "SYS_ELR_EL2", "elr_el2"))
_SPSR = frozenset(("SYS_SPSR", "SYS_SPSR_EL2", "spsr_el2"))
_SHORT = frozenset(("elr", "spsr"))  # as write_sysreg_el2() takes them before v5.2
_ACCESSOR = re.compile(r"macro (?:read|write)_sysreg_el[012x]$")  # before v5.2 they paste: their uses are looked at
_POINTERS = frozenset(("__ctxt_sys_reg", "___ctxt_sys_reg"))  # give the place of a register, not its value
_SETTERS = frozenset(("__vcpu_set_flag", "__vcpu_clear_flag"))
_WHOLE = frozenset(("vcpu", "arch", "ctxt", "guest_ctxt", "host_ctxt", "hctxt", "gctxt", "guest", "host"))
TELLING = _ELR | _SPSR | _POINTERS | _SETTERS | _WHOLE | {"##", "vcpu_pc", "pc", "write_pmuserenr", "elr", "spsr"}


def at(
    words: Sequence[Token], i: int, named: Collection[str], upper: Collection[str], stores: Mapping[str, frozenset[int]]
) -> Iterator[tuple[str, str]]:
    """What a token may write: a place, and how.

    Args:
        named: the modelled members.
        upper: the guest's System registers that are modelled, as they index ``sys_regs``.
        stores: the macros that write some of their arguments, and which.
    """
    text, inside = words[i].text, words[i].function
    before = words[i - 1].text if i else ""
    following = words[i + 1].text if i + 1 < len(words) else ""
    if text in stores and following == "(" and inside and inside != f"macro {text}":
        written = stored_by(words, i, stores[text])
        yield from ((word.text, "store") for word in written if word.text in {*named, *upper})
    elif text == "##" and inside.startswith("macro ") and not _ACCESSOR.match(inside):
        if any(_may_be_part(piece, (*named, *upper, *_REGISTERS)) for piece in (before, following)):
            yield f"{before}##{following}", "pasted"
    elif text == "vcpu_pc" and following == "(" and inside and inside != "vcpu_pc":
        if before != "*" or ends_operand(words, i - 2) or use(words, i, closing(words, i + 1), stores):
            yield "pc", "store"
    elif text == "pc" and before in (".", "->") and inside not in ("", "vcpu_pc"):
        if use(words, chain_start(words, i), i, stores):
            yield "pc", "store"
    elif text in _ELR and inside and _is_written(words, i):
        yield "hw.elr_el2", "register"
    elif text in _SPSR and inside and _is_written(words, i):
        yield "hw.spsr_el2", "register"
    elif text in _SHORT and (before, following) == (",", ")") and _is_written(words, i, "write_sysreg_el2"):
        yield f"hw.{text}_el2", "register"
    elif text in _POINTERS and following == "(" and inside and not inside.startswith("macro "):
        end = closing(words, i + 1)
        register = "".join(word.text for word in words[i + 2 : end]).rpartition(",")[2]
        if (register in upper or not (register.isidentifier() and register.isupper())) and before != "*":
            yield f"sys_regs[{register if register in upper else '*'}]", "address"
    elif text in _SETTERS and following == "(" and inside:
        yield "flags", "store"
    elif text in _WHOLE and before == "*" and following == "=" and inside and words[i - 2].text in (";", "{", "}", ")"):
        yield text, "store"
    elif text == "write_pmuserenr" and following == "(" and inside and inside != text:
        yield "hw.pmuserenr_el0", "register"


def renamed(words: Sequence[Token], i: int) -> bool:
    """Whether a token stands in a macro for itself: neither a member of something, nor what a call is given."""
    word, before = words[i], words[i - 1].text if i else ""
    following = words[i + 1].text if i + 1 < len(words) else ""
    if not word.function and word.text.isupper():
        return before == "=" and words[i - 3].text != "."  # another enumerator, not an entry of a table
    if not word.function.startswith("macro ") or word.function == f"macro {word.text}":
        return False
    if before in (".", "->"):  # a macro that is nothing but a member can be written
        return following == ")" and (i + 2 >= len(words) or words[i + 2].function != word.function)
    return True


def _may_be_part(piece: str, names: Collection[str]) -> bool:
    """Whether a piece of a pasted name can begin or end one of these names."""
    if len(piece) < 3 or not piece.isidentifier():
        return False
    return any(name != piece and (name.startswith(piece) or name.endswith(piece)) for name in names)


def _is_written(words: Sequence[Token], i: int, by: str = "write_sysreg") -> bool:
    """Whether the statement before a register's name writes a register, by such a call."""
    for j in range(i - 1, -1, -1):
        if words[j].text in (";", "{", "}"):
            return False
        if words[j].text.startswith(by):
            return True
    return False
