"""The flags of a vCPU: which bit each is, however its macro spells that, and that no other flag has the same one."""

from __future__ import annotations

import pytest

from formal.kernel.errors import Gaps, NotUnderstoodError
from formal.kernel.model.binding import PENDING, Flag, flags_of

OTHERS = """
#define __vcpu_single_flag(_set, _f)	_set, (_f), (_f)
#define EXCEPT_MASK	__vcpu_single_flag(iflags, GENMASK(3, 1))
#define INCREMENT_PC	__vcpu_single_flag(iflags, BIT(1))
#define PENDING_EXCEPTION	__vcpu_single_flag(iflags, BIT(0))
#define IN_WFI	__vcpu_single_flag(sflags, BIT(7))
"""


class Header:
    """A tree of one header."""

    def __init__(self, text: str) -> None:
        self.text = text

    def read(self, name: str) -> str:
        return self.text


@pytest.mark.parametrize("spelled", ["BIT(4)", "1 << 4", "(1UL << 4)", "0x10", "BIT_ULL(4)", "GENMASK(4, 4)"])
def test_a_flag_is_its_value(spelled: str) -> None:
    tree = Header(f"{OTHERS}#define DEBUG_DIRTY\t__vcpu_single_flag(iflags, {spelled})\n")
    assert flags_of(tree)["debug_dirty"] == Flag("vcpu->arch.iflags", 4)  # type: ignore[arg-type]


def test_what_is_no_single_bit_is_not_understood() -> None:
    for spelled in ("GENMASK(5, 4)", "0", "SOME_BIT"):
        with pytest.raises(NotUnderstoodError, match="unknown form"):
            flags_of(Header(f"#define DEBUG_DIRTY __vcpu_single_flag(iflags, {spelled})\n"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "other",
    ["#define IN_WFIT __vcpu_single_flag(iflags, BIT(4))", "#define ANY __vcpu_single_flag(iflags, GENMASK(7, 3))"],
)
def test_two_flags_that_are_one_bit_are_told(other: str) -> None:
    """What clears the one clears the other, at any time; the rest of the tree is read all the same."""
    tree, gaps = Header(f"{OTHERS}#define DEBUG_DIRTY __vcpu_single_flag(iflags, BIT(4))\n{other}\n"), Gaps(noted=True)
    assert flags_of(tree, gaps=gaps)["debug_dirty"].bit == 4  # type: ignore[arg-type]
    (gap,) = gaps.found
    assert "may be the same bit of vcpu->arch.iflags" in gap.reason and gap.writes == {"debug_dirty"}


def test_flags_of_another_word_may_have_the_same_bit() -> None:
    text = f"{OTHERS}#define DEBUG_DIRTY __vcpu_single_flag(iflags, BIT(7))\n"
    assert flags_of(Header(text))["debug_dirty"].bit == 7  # type: ignore[arg-type]


def test_the_kind_of_an_exception_may_lie_over_the_increment() -> None:
    assert flags_of(Header(OTHERS), PENDING).keys() == PENDING.keys()  # type: ignore[arg-type]
    with pytest.raises(NotUnderstoodError, match="may be the same bit"):
        flags_of(Header(f"{OTHERS}#define NEW __vcpu_single_flag(iflags, BIT(1))\n"), PENDING)  # type: ignore[arg-type]


def test_flags_of_one_word_for_all() -> None:
    """Before v5.19 they are numbers of a name each."""
    text = "#define KVM_ARM64_DEBUG_DIRTY\t(1 << 0)\n#define KVM_ARM64_FP_ENABLED\t(1 << 1) /* guest FP */\n"
    assert flags_of(Header(text))["debug_dirty"] == Flag("vcpu->arch.flags", 0)  # type: ignore[arg-type]
    with pytest.raises(NotUnderstoodError, match="KVM_ARM64_FP_ENABLED may be the same bit"):
        flags_of(Header(text.replace("(1 << 1)", "(1 << 0)")))  # type: ignore[arg-type]
