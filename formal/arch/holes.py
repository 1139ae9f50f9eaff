"""Accesses that execute although EL2 asks for every trap that does not need FEAT_FGT, each with its reason.

"Every trap" is MDCR_EL2 with TPM, TPMCR, TPMS, TDRA, TDOSA, TDA, TDE, TTRF and TDCC at 1 and E2PB, E2TB and EnSPM at 0,
and CPTR_EL2.TTA at 1, which is the most that a hypervisor can ask of these two registers. On hardware that has such
a register only a fine-grained trap can close the hole, and for some not even that.

One thing is not on the list because no register of its own is reached. Without FEAT_FGT, an event counter that does not
exist (an index from PMCR_EL0.N on, or PMSELR_EL0.SEL so for PMXEVCNTR_EL0 and PMXEVTYPER_EL0) is CONSTRAINED
UNPREDICTABLE ahead of TPM, and the choices include the access of a counter that does exist. A claim that must hold on
every such PE leaves ``Controls.unpredictable`` free.

The list is exact, in both directions, for every set of features; ``tests/arch/test_holes.py`` enumerates them. Two
instructions belong beside it, which name no System register: MSR PM, #imm (as PM), and TRCIT of FEAT_ITE.
"""

from __future__ import annotations

from dataclasses import dataclass

from formal.arch.sysregs import GROUPS, SystemRegister


@dataclass(frozen=True)
class Hole:
    """Why nothing traps the register, and the features with one of which it is trapped after all."""

    reason: str
    closed_by_feature: frozenset[str] = frozenset()


_IDENTIFICATION = "identification register: TPMS, E2PB and E2TB leave it alone, only HDFGRTR_EL2 has a bit"
_SNAPSHOT = "TPM does not cover the snapshot registers; HDFGRTR2_EL2 and HDFGWTR2_EL2 do"
_BRANCH = "MDCR_EL2 has no trap for branch records; HDFGRTR_EL2 and HDFGWTR_EL2 do"

HOLES: dict[str, Hole] = {
    "OSDLR_EL1": Hole(
        "without FEAT_DoubleLock it ignores writes, and whether TDOSA traps it is IMPLEMENTATION DEFINED",
        frozenset({"FEAT_DoubleLock", "IMPDEF_OSDLR_EL1_TRAP"}),
    ),
    "PM": Hole("PSTATE.PM, the mask of the PMU exception; no trap exists at all"),
    "PMSSCR_EL1": Hole(_SNAPSHOT),
    "PMCCNTSVR_EL1": Hole(_SNAPSHOT),
    "PMEVCNTSVR<n>_EL1": Hole(_SNAPSHOT),
    "PMICNTSVR_EL1": Hole(_SNAPSHOT),
    "PMBIDR_EL1": Hole(_IDENTIFICATION),
    "TRBIDR_EL1": Hole(_IDENTIFICATION),
    "TRCITECR_EL1": Hole("neither TTRF nor TTA covers it; HDFGRTR2_EL2 and HDFGWTR2_EL2 do"),
    **{r.name: Hole(_BRANCH) for r in GROUPS["branch_record"]},
}


def is_hole(register: SystemRegister, features: frozenset[str]) -> bool:
    """Whether nothing but a fine-grained trap stops EL1 from using the register on hardware with these features."""
    hole = HOLES.get(register.name)
    return hole is not None and not (hole.closed_by_feature & features)
