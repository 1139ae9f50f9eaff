"""The architecture extensions (FEAT_*) that the traps depend on, as plain sets of names.

Source: Arm ARM (DDI 0487), chapter A2, and the feature constraints of the machine-readable release of March 2025.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

# feature: (the features it cannot exist without, what it brings here)
FEATURES: dict[str, tuple[tuple[str, ...], str]] = {
    "FEAT_PMUv3": ((), "performance monitors"),
    "FEAT_PMUv3p1": (("FEAT_PMUv3",), "HPMD"),
    "FEAT_PMUv3p4": (("FEAT_PMUv3p1",), "PMMIR_EL1"),
    "FEAT_PMUv3p5": (("FEAT_PMUv3p4",), "HLP, HCCD"),
    "FEAT_PMUv3p7": (("FEAT_PMUv3p5",), "HPMFZO"),
    "FEAT_PMUv3p8": (("FEAT_PMUv3p7",), ""),
    "FEAT_PMUv3p9": (("FEAT_PMUv3p8", "FEAT_FGT2"), "PMUACR_EL1, PMZR_EL0, PMUSERENR_EL0.UEN"),
    "FEAT_PMUv3_ICNTR": (("FEAT_PMUv3", "FEAT_FGT2"), "PMICNTR_EL0, PMICFILTR_EL0"),
    "FEAT_PMUv3_SS": (("FEAT_PMUv3", "FEAT_FGT2"), "snapshots: PMSSCR_EL1, PMCCNTSVR_EL1, PMEVCNTSVR<n>_EL1"),
    "FEAT_EBEP": (("FEAT_PMUv3p9",), "PMECR_EL1, PSTATE.PM"),
    "FEAT_SEBEP": (("FEAT_PMUv3p9",), "PMIAR_EL1"),
    "FEAT_SPMU": (("FEAT_FGT2",), "system performance monitors, SPM*"),
    "FEAT_SPMU2": (("FEAT_SPMU",), "SPMZR_EL0"),
    "FEAT_SPE": ((), "statistical profiling"),
    "FEAT_SPEv1p2": (("FEAT_SPE",), "PMSNEVFR_EL1"),
    "FEAT_SPE_FDS": (("FEAT_SPEv1p2", "FEAT_FGT2"), "PMSDSFR_EL1"),
    "FEAT_SPE_nVM": (("FEAT_SPEv1p2", "FEAT_FGT2"), "PMBMAR_EL1"),
    "FEAT_TRC_SR": ((), "System registers of the trace unit, TRC*"),
    "FEAT_ITE": (("FEAT_TRC_SR", "FEAT_FGT2"), "TRCITEEDCR, TRCITECR_EL1"),
    "FEAT_TRF": ((), "self-hosted trace, TRFCR_EL1"),
    "FEAT_TRBE": (("FEAT_TRF", "FEAT_TRC_SR"), "trace buffer, TRB*"),
    "FEAT_TRBE_MPAM": (("FEAT_TRBE", "FEAT_FGT2"), "TRBMPAM_EL1"),
    "FEAT_BRBE": (("FEAT_FGT",), "branch records, BRB*"),
    "FEAT_FGT": ((), "fine-grained traps; MDCR_EL2.TDCC; an event counter that does not exist is UNDEFINED"),
    "FEAT_FGT2": (("FEAT_FGT",), "more fine-grained traps"),
    "FEAT_DoubleLock": ((), "OSDLR_EL1 is a lock, and TDOSA certainly traps it"),
    "FEAT_Debugv8p9": (("FEAT_FGT2",), "MDSELR_EL1"),
    "FEAT_STEP2": (("FEAT_Debugv8p9",), "MDSTEPOP_EL1"),
    "FEAT_MTPMU": (("FEAT_PMUv3",), "MTPME"),
    "FEAT_HPMN0": (("FEAT_PMUv3", "FEAT_FGT"), "HPMN may be 0"),
    "IMPDEF_OSDLR_EL1_TRAP": ((), "IMPLEMENTATION DEFINED choice: TDOSA traps OSDLR_EL1 without FEAT_DoubleLock"),
}


# The extension without which a field of MDCR_EL2 is RES0; fields of the base architecture are not listed.
MDCR_EL2_FIELDS: dict[str, str] = {
    "EnSTEPOP": "FEAT_STEP2",
    "EBWE": "FEAT_Debugv8p9",
    "PMEE": "FEAT_EBEP",
    "HPMFZS": "FEAT_SPEv1p2",
    "PMSSE": "FEAT_PMUv3_SS",
    "HPMFZO": "FEAT_PMUv3p7",
    "MTPME": "FEAT_MTPMU",
    "TDCC": "FEAT_FGT",
    "HLP": "FEAT_PMUv3p5",
    "E2TB": "FEAT_TRBE",
    "HCCD": "FEAT_PMUv3p5",
    "TTRF": "FEAT_TRF",
    "HPMD": "FEAT_PMUv3p1",
    "EnSPM": "FEAT_SPMU",
    "TPMS": "FEAT_SPE",
    "E2PB": "FEAT_SPE",
    "HPME": "FEAT_PMUv3",
    "TPM": "FEAT_PMUv3",
    "TPMCR": "FEAT_PMUv3",
    "HPMN": "FEAT_PMUv3",
}


def closure(names: Iterable[str]) -> frozenset[str]:
    """The named features and every one that they cannot exist without.

    Raises:
        KeyError: for a name that is not in ``FEATURES``; the message proposes one.
    """
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name not in FEATURES:
            near = get_close_matches(name, FEATURES, 1, 0.4)
            raise KeyError(f"no feature {name} is modelled" + (f"; did you mean {near[0]}?" if near else ""))
        if name not in found:
            found.add(name)
            todo.extend(FEATURES[name][0])
    return frozenset(found)


ALL = closure(FEATURES)
# What MDCR_EL2 and CPTR_EL2 decide alone: everything that can exist without fine-grained traps.
WITHOUT_FGT = frozenset(name for name in FEATURES if "FEAT_FGT" not in closure([name])) - {"IMPDEF_OSDLR_EL1_TRAP"}


def present(needed: tuple[tuple[str, ...], ...], features: frozenset[str]) -> bool:
    """Whether one feature of every alternative is there."""
    return all(any(name in features for name in alternatives) for alternatives in needed)


def spelled(needed: tuple[tuple[str, ...], ...]) -> str:
    """The condition as text."""
    return " and ".join(" or ".join(alternatives) for alternatives in needed)


def has_fgt(register: str, features: frozenset[str]) -> bool:
    """Whether a fine-grained trap register exists; the second pair came with FEAT_FGT2."""
    return ("FEAT_FGT2" if register in ("HDFGRTR2_EL2", "HDFGWTR2_EL2") else "FEAT_FGT") in features
