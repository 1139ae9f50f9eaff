"""The constants of the kernel's headers that the model's meaning of bits rests on."""

from __future__ import annotations

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
