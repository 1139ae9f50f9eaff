"""The constants of the kernel's headers that the model's meaning of bits rests on."""

from __future__ import annotations

from collections.abc import Mapping

from formal.arch.registers import KVM_GUESTDBG, MDCR_EL2, MDSCR_EL1, OSLAR_EL1, OSLSR_EL1, PSTATE

# header constant: its value in the Arm ARM (or, for KVM's own ABI, in formal/arch/registers.py)
LITERALS: dict[str, int] = {
    **{f"MDCR_EL2_{n}": MDCR_EL2.mask(n) for n in "TTRF TPMS TDRA TDOSA TDA TDE TPM TPMCR HPME".split()},
    "MDCR_EL2_HPMN_MASK": MDCR_EL2.mask("HPMN"),
    **{f"DBG_MDSCR_{n}": MDSCR_EL1.mask(n) for n in ("SS", "KDE", "MDE")},
    "DBG_SPSR_SS": PSTATE.mask("SS"),
    **{f"KVM_GUESTDBG_{n}": KVM_GUESTDBG.mask(n) for n in ("ENABLE", "SINGLESTEP", "USE_SW_BP", "USE_HW")},
    "KVM_GUESTDBG_VALID_MASK": KVM_GUESTDBG.mask(),
    "SYS_OSLSR_OSLK": OSLSR_EL1.mask("OSLK"),
    "OSLSR_EL1_OSLK": OSLSR_EL1.mask("OSLK"),
    "SYS_OSLAR_OSLK": OSLAR_EL1.mask("OSLK"),
    "OSLAR_EL1_OSLK": OSLAR_EL1.mask("OSLK"),
}


def wrong(constants: Mapping[str, int]) -> list[str]:
    """The constants of a tree's headers that are not what the architecture says, a sentence each."""
    differ = [(n, constants[n], value) for n, value in LITERALS.items() if n in constants and constants[n] != value]
    return [f"header constant {n} is {got:#x}, the architecture says {value:#x}" for n, got, value in differ]
