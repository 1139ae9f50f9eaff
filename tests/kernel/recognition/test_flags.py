"""The flags of a vCPU: which bit each is, however its macro spells it, and what writes one that shares it."""

from __future__ import annotations

import pytest

from formal.kernel.errors import NotUnderstoodError
from formal.kernel.model.binding import Flag, flags_of
from formal.kernel.recognition.scan import scan_text

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


@pytest.mark.parametrize("spelled", ["(1 << KVM_ARM64_DEBUG_DIRTY_SHIFT)", "(1 << 4)"])
def test_a_flag_of_debug_flags_is_read(spelled: str) -> None:
    """Before v4.17 the word has another name, and its macros stand in another header (here it is the same one)."""
    text = f"u64 debug_flags;\n#define KVM_ARM64_DEBUG_DIRTY_SHIFT\t4\n#define KVM_ARM64_DEBUG_DIRTY\t\t{spelled}\n"
    assert flags_of(Header(text))["debug_dirty"] == Flag("vcpu->arch.debug_flags", 4)  # type: ignore[arg-type]
    assert written(text, "vcpu->arch.debug_flags |= KVM_ARM64_DEBUG_DIRTY;") == {"arch.flags"}
    assert written(text, "vcpu->arch.debug_flags = 0;") == {"arch.flags"}


def test_what_is_no_single_bit_is_not_understood() -> None:
    for spelled in ("GENMASK(5, 4)", "0", "SOME_BIT"):
        with pytest.raises(NotUnderstoodError, match="unknown form"):
            flags_of(Header(f"#define DEBUG_DIRTY __vcpu_single_flag(iflags, {spelled})\n"))  # type: ignore[arg-type]


def written(text: str, statement: str) -> set[str]:
    """What the search says that a statement may write."""
    found = scan_text("f.c", f"{text}\nstatic void f(struct kvm_vcpu *vcpu)\n{{\n\t{statement}\n}}\n")
    return {store.lvalue for store in found if store.function == "f"}


@pytest.mark.parametrize(
    "other",
    ["#define IN_WFIT __vcpu_single_flag(iflags, BIT(4))", "#define ANY __vcpu_single_flag(iflags, GENMASK(7, 3))",
     "#define ANY __vcpu_single_flag(iflags, SOME_BITS)"],
)  # fmt: skip
def test_what_writes_a_flag_of_the_same_bit_is_told(other: str) -> None:
    """What clears the one clears the other; the rest of the tree is read all the same."""
    text = f"{OTHERS}#define DEBUG_DIRTY __vcpu_single_flag(iflags, BIT(4))\n{other}\n"
    assert flags_of(Header(text))["debug_dirty"].bit == 4  # type: ignore[arg-type]
    assert "DEBUG_DIRTY" in written(text, f"vcpu_clear_flag(vcpu, {other.split()[1]});")
    assert written(text, "vcpu_clear_flag(vcpu, IN_WFI);") == set()
    assert written(text, f"vcpu_get_flag(vcpu, {other.split()[1]});") == set()


def test_a_mask_over_the_increment_of_the_pc_is_an_increment() -> None:
    """As Android's PC_UPDATE_REQ is; a flag of an unknown form may be any."""
    text = f"{OTHERS}#define PC_UPDATE_REQ\t__vcpu_single_flag(iflags, GENMASK(3, 0))\n#define X OTHER\n"
    assert written(text, "vcpu_clear_flag(vcpu, PC_UPDATE_REQ);") == {"INCREMENT_PC"}
    assert written(text, "vcpu_copy_flag(vcpu, v, PC_UPDATE_REQ);") == {"INCREMENT_PC"}
    assert written(text, "vcpu_set_flag(vcpu, INCREMENT_PC);") == {"INCREMENT_PC"}
    assert written(text, "vcpu_set_flag(vcpu, PENDING_EXCEPTION);") == set()
    assert written(text, "vcpu_set_flag(vcpu, X);") == {"arch.iflags"}


def test_flags_of_another_word_may_have_the_same_bit() -> None:
    text = f"{OTHERS}#define DEBUG_DIRTY __vcpu_single_flag(iflags, BIT(7))\n"
    assert flags_of(Header(text))["debug_dirty"].bit == 7  # type: ignore[arg-type]


def test_flags_of_one_word_for_all() -> None:
    """Before v5.19 they are numbers of a name each."""
    text = "#define KVM_ARM64_DEBUG_DIRTY\t(1 << 0)\n#define KVM_ARM64_FP_ENABLED\t(1 << 1) /* guest FP */\n"
    assert flags_of(Header(text))["debug_dirty"] == Flag("vcpu->arch.flags", 0)  # type: ignore[arg-type]
    text += "#define KVM_ARM64_INCREMENT_PC\t(1 << 9)\n#define KVM_ARM64_EXCEPT_AA32_IABT\t(1 << 9)\n"
    text += "#define KVM_ARM64_PENDING_EXCEPTION\t(1 << 8)\n"
    assert written(text, "vcpu->arch.flags |= KVM_ARM64_FP_ENABLED;") == set()
    assert written(text, "vcpu->arch.flags |= KVM_ARM64_INCREMENT_PC;") == {"arch.flags"}
    assert written(text, "vcpu->arch.flags |= KVM_ARM64_EXCEPT_AA32_IABT | KVM_ARM64_PENDING_EXCEPTION;") == set()
    assert written(text, "vcpu->arch.flags |= KVM_ARM64_EXCEPT_AA32_IABT;") == {"arch.flags"}
    text += "#define KVM_ARM64_EXCEPT_MASK\t(7 << 9)\n"
    assert written(text, "vcpu->arch.flags &= ~(KVM_ARM64_EXCEPT_MASK | KVM_ARM64_PENDING_EXCEPTION);") == {
        "arch.flags"
    }
    assert written(text.replace("(1 << 1)", "(1 << 0)"), "vcpu->arch.flags &= ~KVM_ARM64_FP_ENABLED;") == {"arch.flags"}
