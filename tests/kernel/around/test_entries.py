"""The vectors of a hypervisor of our own: which code each way through them gives to __guest_exit."""

from __future__ import annotations

import pytest

from formal.kernel.around.entries import VECTOR, rules
from formal.kernel.text.assembler import Assembler
from formal.logic.terms import TRUE

_NAMES = [f"{level}_{what}" for level in ("el2t", "el2h", "el1", "el1_32") for what in ("sync", "irq", "fiq", "error")]
_BODY = """
el1_sync:
    cbz x1, other
    b trapped
other:
    mov x0, #ARM_EXCEPTION_TRAP
    b __guest_exit
trapped:
    mov x0, #ARM_EXCEPTION_TRAP
    cmp x0, x1
    b __guest_exit
el1_irq: el1_fiq:
    mov x0, #ARM_EXCEPTION_IRQ
    b __guest_exit
el1_error:
    mov x0, #ARM_EXCEPTION_EL1_SERROR
    b __guest_exit
"""


def text(macro: str, body: str = _BODY) -> str:
    """Vectors by a macro, and what they lead to."""
    return body + "\n".join(f"\t{macro}\t{name}" for name in _NAMES) + "\n"


def broken(source: str) -> list[str]:
    """The rules that do not hold."""
    text = Assembler(lambda name: source if name == "x.S" else "", lambda asked: dict.fromkeys(asked, True))
    lines = text.expanded("x.S", VECTOR)
    return [rule.says for rule in rules("x.S", lines) if rule.holds is not TRUE]


@pytest.mark.parametrize("macro", ["valid_vect", "ventry"])
def test_vectors(macro: str) -> None:
    """Those of v4.18 on, and those before."""
    assert broken(text(macro)) == []
    assert broken(text("something")) == ["traps and interrupts of a guest have labels"]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("trapped:\n    mov x0, #ARM_EXCEPTION_TRAP", "trapped:\n    mov x0, #ARM_EXCEPTION_IRQ", "el1_sync"),
        ("    mov x0, #ARM_EXCEPTION_IRQ\n", "", "el1_irq"),
        ("    cmp x0, x1\n", "    add x0, x0, x1\n", "el1_sync"),
        ("    cmp x0, x1\n", "    bl elsewhere\n", "el1_sync"),
        ("    cmp x0, x1\n", "    a_macro\n", "el1_sync"),
        ("el1_sync:", "el1_other:", "el1_sync"),
        ("el1_irq: el1_fiq:", "el1_fiq:\n    mov x0, #ARM_EXCEPTION_TRAP\n    b __guest_exit\nel1_irq:", "el1_fiq"),
    ],
)
def test_edits(old: str, new: str, told: str) -> None:
    """One way that gives another code is told of the vector that it belongs to."""
    assert old in _BODY
    assert [says.split()[0] for says in broken(text("ventry", _BODY.replace(old, new)))][:1] == [told]


_EXIT = ".macro exits code\n    get_it x1, x0\n    mov x0, #\\code\n    b __guest_exit\n.endm\n"
_TRAPS = "trapped:\n    mov x0, #ARM_EXCEPTION_TRAP\n    cmp x0, x1\n    b __guest_exit\n"


@pytest.mark.parametrize(
    ("macro", "code", "told"),
    [
        (_EXIT, "ARM_EXCEPTION_TRAP", []),
        (_EXIT, "ARM_EXCEPTION_IRQ", ["el1_sync returns ARM_EXCEPTION_TRAP"]),
        (
            _EXIT.replace("b __", "get_it x1, x0\n    b __"),
            "ARM_EXCEPTION_TRAP",
            ["el1_sync returns ARM_EXCEPTION_TRAP"],
        ),
        (_EXIT.replace("b __", ".if 1\n    b __") + ".endif\n", "ARM_EXCEPTION_TRAP", None),
    ],
)
def test_macro_that_exits(macro: str, code: str, told: list[str] | None) -> None:
    """A macro of the file is what it says; the code that it gives is lost where something else may write x0."""
    assert _TRAPS in _BODY
    found = broken(text("ventry", macro + _BODY.replace(_TRAPS, f"trapped:\n    exits {code}\n")))
    assert found == told if told is not None else found
