"""How a function differs from its description: which bits, when, and the store at fault."""

from __future__ import annotations

from dataclasses import replace

import pytest

from formal.epochs import Mode
from formal.kernel.compare.behaviours import DEBUG_C
from formal.report.tree import _differences
from formal.tree.unlike import Unlike, origin, unlike
from tests.kernel.edited import copy_of

SETUP, DEBUG = "kvm_arm_setup_mdcr_el2", "kvm_arm_setup_debug"
TDA = "\t    kvm_vcpu_os_lock_enabled(vcpu))\n\t\tvcpu->arch.mdcr_el2 |= MDCR_EL2_TDA;"
# what is replaced and by what: function, variable, bits lost and won, whether in every state, the line of the store
EDITS = {
    "a bit never set": (
        "MDCR_EL2_TDRA |\n\t\t\t\tMDCR_EL2_TDOSA)", "MDCR_EL2_TDRA)",
        SETUP, "mdcr_el2", "TDOSA", "", True, "vcpu->arch.mdcr_el2 |= (MDCR_EL2_TPM |"),
    "another bit": (
        "mdcr_el2 |= MDCR_EL2_TDE", "mdcr_el2 |= MDCR_EL2_TDCC",
        SETUP, "mdcr_el2", "TDE", "TDCC", False, "vcpu->arch.mdcr_el2 |= MDCR_EL2_TDCC;"),
    "a condition turned round": (
        "!vcpu_get_flag(vcpu, DEBUG_DIRTY)", "vcpu_get_flag(vcpu, DEBUG_DIRTY)",
        SETUP, "mdcr_el2", "TDA", "TDA", False, "vcpu->arch.mdcr_el2 |= MDCR_EL2_TDA;"),
    "a bit taken away again": (
        TDA, f"{TDA}\n\tvcpu->arch.mdcr_el2 &= ~MDCR_EL2_TPM;",
        SETUP, "mdcr_el2", "TPM", "", True, "vcpu->arch.mdcr_el2 &= ~MDCR_EL2_TPM;"),
    "a condition that is too narrow": (
        "if (vcpu->guest_debug)\n\t\t/* Route", "if (vcpu->guest_debug & KVM_GUESTDBG_USE_HW)\n\t\t/* Route",
        SETUP, "mdcr_el2", "TDE", "", False, "vcpu->arch.mdcr_el2 |= MDCR_EL2_TDE;"),
    "a value as a whole": (
        "\tvcpu_write_sys_reg(vcpu, val, MDSCR_EL1);\n", "",
        "restore_guest_debug_regs", "mdscr_el1", "", "", False, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_which_bits_and_which_store(name: str) -> None:
    old, new, function, variable, lost, won, always, store = EDITS[name]
    copy = copy_of("6.1")
    with copy.edited(DEBUG_C, {old: new}):
        report = copy.read(Mode.VHE)
        (compared,) = [c for c in report.compared if c.function == function]
        lines = (copy.tree.path / DEBUG_C).read_text().splitlines()
        told = [*_differences([report])]
    (found,) = [u for u in unlike(report, compared) if u.variable == variable]
    assert (found.lost, found.won, found.always) == (lost, won, always)
    assert found.silent == ("never stores to" in str(found)) == (not store)
    assert found.line == 0 if not store else lines[found.line - 1].strip() == store
    place = f"{DEBUG_C}:{found.line or compared.lifted.line}: {function}() "
    assert [line for line in told if line.startswith(place)], told
    assert not any(line.startswith(DEBUG_C) and f": {DEBUG}() " in line for line in told), "it only runs the other"


def test_without_a_solver_s_answer_the_function_is_named() -> None:
    old, new, function, *_ = EDITS["a condition that is too narrow"]
    copy = copy_of("6.1")
    with copy.edited(DEBUG_C, {old: new}):
        report = copy.read(Mode.VHE)
    for c in report.compared:
        assert c.equal or unlike(report, c, timeout=1e-6) == ()
    assert any(f"{function}() differs from its description in mdcr_el2" in line for line in _differences([report]))


def test_a_sentence_that_does_not_hold_is_no_variable() -> None:
    """A part of the world switch may differ in what is demanded of it, such as where the PC is left."""
    old, new, function, *_ = EDITS["a bit never set"]
    copy = copy_of("6.1")
    with copy.edited(DEBUG_C, {old: new}):
        report = copy.read(Mode.VHE)
    (compared,) = [c for c in report.compared if c.function == function]
    both = replace(compared, differs_in=("a sentence", *compared.differs_in), told=None)
    assert [str(u) for u in unlike(report, both)] == [str(u) for u in unlike(report, compared)] != []


def test_a_function_as_described_is_not_asked_about() -> None:
    report = copy_of("6.1").read(Mode.VHE)
    assert all(c.equal and unlike(report, c) == () for c in report.compared)


def test_what_is_carried_on_begins_earlier() -> None:
    first = Unlike("mdcr_el2", "TDOSA", "", True, {}, "0", "0x400", 7)
    carried = Unlike("hw_mdcr_el2", "TDOSA", "", True, {}, "0", "0x400", 20)
    other = Unlike("hw_pmuserenr_el0", "EN", "", True, {}, "0", "0x1", 3)
    told = (carried, first, other)
    assert [origin(told, u) for u in told] == [first, first, other]
    whole = Unlike("mdscr_el1", "", "", True, {}, "0", "0x1", 9)
    assert origin((whole, Unlike("pstate", "", "", True, {}, "0", "0x1", 2)), whole) is whole


def test_the_words() -> None:
    bits = Unlike("mdcr_el2", "TDOSA", "TDCC", False, {"guest_debug": "0x1"}, "0", "0x400", 7)
    says = "leaves TDOSA clear and sets TDCC in vcpu->arch.mdcr_el2, unlike its description"
    assert str(bits) == f"{says}, such as where guest_debug = 0x1"
    value = Unlike("mdscr_el1", "", "", True, {}, "0", "0x1", 0)
    assert str(value).endswith(" as 0, not 0x1, in every state")
    assert str(Unlike("mdscr_el1", "", "", False, {}, "0", "0x1", 0)).endswith(", such as where all that it reads is 0")
