"""What a CPU says that it is: identification registers to the features and sizes that the trap table asks for.

Source: Arm ARM (DDI 0487) D24.2, ID_AA64DFR0_EL1, ID_AA64DFR1_EL1, ID_AA64DFR2_EL1, ID_AA64MMFR0_EL1, ID_AA64MMFR1_EL1;
D24.5, PMCR_EL0. Features that other registers identify are not decided (``NOT_IDENTIFIED``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from formal.arch.features import closure
from formal.arch.sysregs import Encoding

ID_REGISTERS: dict[str, Encoding] = {
    "MIDR_EL1": (3, 0, 0, 0, 0),
    "ID_AA64PFR0_EL1": (3, 0, 0, 4, 0),
    "ID_AA64DFR0_EL1": (3, 0, 0, 5, 0),
    "ID_AA64DFR1_EL1": (3, 0, 0, 5, 1),
    "ID_AA64DFR2_EL1": (3, 0, 0, 5, 2),
    "ID_AA64MMFR0_EL1": (3, 0, 0, 7, 0),
    "ID_AA64MMFR1_EL1": (3, 0, 0, 7, 1),
    "PMCR_EL0": (3, 3, 9, 12, 0),
}

# (register, lowest bit of a 4-bit field, lowest value, feature); 0b1111 always means none
_FIELDS = (
    ("ID_AA64DFR0_EL1", 0, 11, "FEAT_Debugv8p9"),
    ("ID_AA64DFR0_EL1", 4, 1, "FEAT_TRC_SR"),
    ("ID_AA64DFR0_EL1", 8, 1, "FEAT_PMUv3"),
    ("ID_AA64DFR0_EL1", 8, 4, "FEAT_PMUv3p1"),
    ("ID_AA64DFR0_EL1", 8, 5, "FEAT_PMUv3p4"),
    ("ID_AA64DFR0_EL1", 8, 6, "FEAT_PMUv3p5"),
    ("ID_AA64DFR0_EL1", 8, 7, "FEAT_PMUv3p7"),
    ("ID_AA64DFR0_EL1", 8, 8, "FEAT_PMUv3p8"),
    ("ID_AA64DFR0_EL1", 8, 9, "FEAT_PMUv3p9"),
    ("ID_AA64DFR0_EL1", 16, 1, "FEAT_PMUv3_SS"),
    ("ID_AA64DFR0_EL1", 24, 1, "FEAT_SEBEP"),
    ("ID_AA64DFR0_EL1", 32, 1, "FEAT_SPE"),
    ("ID_AA64DFR0_EL1", 32, 3, "FEAT_SPEv1p2"),
    ("ID_AA64DFR0_EL1", 40, 1, "FEAT_TRF"),
    ("ID_AA64DFR0_EL1", 44, 1, "FEAT_TRBE"),
    ("ID_AA64DFR0_EL1", 48, 1, "FEAT_MTPMU"),
    ("ID_AA64DFR0_EL1", 52, 1, "FEAT_BRBE"),
    ("ID_AA64DFR0_EL1", 60, 1, "FEAT_HPMN0"),
    ("ID_AA64DFR1_EL1", 32, 1, "FEAT_SPMU"),
    ("ID_AA64DFR1_EL1", 32, 2, "FEAT_SPMU2"),
    ("ID_AA64DFR1_EL1", 36, 1, "FEAT_PMUv3_ICNTR"),
    ("ID_AA64DFR1_EL1", 44, 1, "FEAT_ITE"),
    ("ID_AA64DFR1_EL1", 48, 1, "FEAT_EBEP"),
    ("ID_AA64DFR2_EL1", 0, 1, "FEAT_STEP2"),
    ("ID_AA64MMFR0_EL1", 56, 1, "FEAT_FGT"),
    ("ID_AA64MMFR0_EL1", 56, 2, "FEAT_FGT2"),
)
# Identified by PMSIDR_EL1, PMBIDR_EL1 and TRBIDR_EL1, which exist only with FEAT_SPE and FEAT_TRBE.
NOT_IDENTIFIED = {"FEAT_SPE_FDS": "FEAT_SPE", "FEAT_SPE_nVM": "FEAT_SPE", "FEAT_TRBE_MPAM": "FEAT_TRBE"}


@dataclass(frozen=True)
class Cpu:
    """A CPU as its identification registers describe it."""

    ids: dict[str, int] = field(hash=False)
    features: frozenset[str] = frozenset()
    vhe: bool = False
    counters: int = 0  # PMCR_EL0.N as EL2 reads it
    breakpoints: int = 0
    watchpoints: int = 0

    @property
    def aarch32_el0(self) -> bool:
        """Whether EL0 can be AArch32."""
        return self.ids.get("ID_AA64PFR0_EL1", 0) & 15 == 2

    @property
    def aarch32_el1(self) -> bool:
        """Whether EL1 can be AArch32."""
        return self.ids.get("ID_AA64PFR0_EL1", 0) >> 4 & 15 == 2

    @property
    def states(self) -> frozenset[str]:
        """Where it has AArch32, beside its features."""
        found = ((self.aarch32_el0, "AArch32 at EL0"), (self.aarch32_el1, "AArch32 at EL1"))
        return frozenset(name for has, name in found if has)

    @property
    def implemented(self) -> dict[str, int]:
        """How many of the indexed debug registers exist, as ``formal.arch.traps.Controls`` wants it."""
        return {
            "DBGBVR<n>_EL1": self.breakpoints,
            "DBGBCR<n>_EL1": self.breakpoints,
            "DBGWVR<n>_EL1": self.watchpoints,
            "DBGWCR<n>_EL1": self.watchpoints,
            "DBGBXVR<n>": (self.ids.get("ID_AA64DFR0_EL1", 0) >> 28 & 15) + 1,  # context-aware breakpoints
        }


def identify(values: Sequence[int | None]) -> Cpu:
    """The CPU, from the values of ``ID_REGISTERS`` in their order; None is a register that is UNDEFINED."""
    ids = {name: value or 0 for name, value in zip(ID_REGISTERS, values, strict=True)}
    found = []
    for register, low, least, feature in _FIELDS:
        value = ids[register] >> low & 15
        if least <= value < 15:
            found.append(feature)
    debug = ids["ID_AA64DFR0_EL1"]
    if debug >> 36 & 15 == 0:  # 0b0000 is implemented, 0b1111 is not
        found.append("FEAT_DoubleLock")
    return Cpu(
        ids,
        closure(found),
        vhe=ids["ID_AA64MMFR1_EL1"] >> 8 & 15 != 0,
        counters=ids["PMCR_EL0"] >> 11 & 31,
        breakpoints=(debug >> 12 & 15) + 1,
        watchpoints=(debug >> 20 & 15) + 1,
    )
