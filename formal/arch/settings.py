"""Controls from concrete field values, by their names in the Arm ARM: {"CPTR_EL2.TTA": 1, "PMCR_EL0.N": 6}."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from formal.arch import registers as r
from formal.arch.bits import Register, bits
from formal.arch.fgt import HDFGRTR2_EL2, HDFGRTR_EL2, HDFGWTR2_EL2, HDFGWTR_EL2
from formal.arch.traps import Controls
from formal.logic import terms as t


class SPMSELR_EL0(Register):
    """System Performance Monitors Select Register (Arm ARM D24.5)."""

    SYSPMUSEL = bits(9, 4, "system PMU that the other SPM* registers mean; 32 and more are reserved")


class ID_AA64DFR0_EL1(Register):
    """AArch64 Debug Feature Register 0; only what the traps depend on (Arm ARM D24.2)."""

    CTX_CMPs = bits(31, 28, "number of context-aware breakpoints, the last ones, minus 1")
    WRPs = bits(23, 20, "number of watchpoints, minus 1")
    BRPs = bits(15, 12, "number of breakpoints, minus 1")


class SPMACCESSR(Register):
    """System Performance Monitors Access Register, EL1 and EL2: one field for each system PMU (Arm ARM D24.5)."""


SPMACCESSR.fields = {f"P{n}": bits(2 * n + 1, 2 * n) for n in reversed(range(32))}  # type: ignore[misc]

SETTABLE: dict[str, type[Register]] = {
    "MDSCR_EL1": r.MDSCR_EL1,
    "HCR_EL2": r.HCR_EL2,
    "CPTR_EL2": r.CPTR_EL2,
    "CPACR_EL1": r.CPACR_EL1,
    "PMUSERENR_EL0": r.PMUSERENR_EL0,
    "PMSELR_EL0": r.PMSELR_EL0,
    "PMCR_EL0": r.PMCR_EL0,
    "HDFGRTR_EL2": HDFGRTR_EL2,
    "HDFGWTR_EL2": HDFGWTR_EL2,
    "HDFGRTR2_EL2": HDFGRTR2_EL2,
    "HDFGWTR2_EL2": HDFGWTR2_EL2,
    "SPMSELR_EL0": SPMSELR_EL0,
    "SPMACCESSR_EL1": SPMACCESSR,
    "SPMACCESSR_EL2": SPMACCESSR,
    "ID_AA64DFR0_EL1": ID_AA64DFR0_EL1,
}
# What holds unless it is set: all indices exist. Everything else is 0.
DEFAULTS = {"PMCR_EL0.N": 31, "ID_AA64DFR0_EL1.BRPs": 15, "ID_AA64DFR0_EL1.WRPs": 15, "ID_AA64DFR0_EL1.CTX_CMPs": 15}


def _near(name: str, known: Mapping[str, object]) -> str:
    near = get_close_matches(name, known, 1)
    return f"; did you mean {near[0]}?" if near else ""


def check(setting: str, value: int) -> None:
    """Refuses a setting that names nothing, or does not fit.

    Raises:
        ValueError: with one line that says what is wrong, and what may have been meant.
    """
    register, _, field = setting.partition(".")
    if register == "MDCR_EL2":
        raise ValueError(f"{setting}: MDCR_EL2 is the value to decode, it cannot be set beside it")
    if register.endswith("_EL3"):
        raise ValueError(f"{setting}: EL3's controls are out of scope; EL3 is taken to be absent, or to trap nothing")
    if register not in SETTABLE:
        raise ValueError(f"no control register {register}{_near(register, SETTABLE)}")
    fields = SETTABLE[register].fields
    if field not in fields:
        raise ValueError(f"{register} has no field {field or '(none given)'}{_near(field, fields)}")
    size = fields[field].hi - fields[field].lo + 1
    if not 0 <= value < 1 << size:
        raise ValueError(f"{setting} has {size} bit{'s' * (size > 1)}, {value:#x} does not fit")


def controls(mdcr_el2: int, settings: Mapping[str, int], features: frozenset[str]) -> Controls:
    """Concrete controls.

    Raises:
        ValueError: as ``check``.
    """
    raw = dict.fromkeys(SETTABLE, 0)
    for setting, value in {**DEFAULTS, **settings}.items():
        check(setting, value)
        register, _, field = setting.partition(".")
        raw[register] |= value << SETTABLE[register].fields[field].lo

    def read(register: str) -> Any:
        return SETTABLE[register](t.const(raw[register], 64))

    debug = read("ID_AA64DFR0_EL1")
    breakpoints, watchpoints = t.value_of(debug.BRPs) + 1, t.value_of(debug.WRPs) + 1
    return Controls(
        mdcr_el2=r.MDCR_EL2(t.const(mdcr_el2, 64)),
        mdscr_el1=read("MDSCR_EL1"),
        hcr_el2=read("HCR_EL2"),
        cptr_el2_tta=read("CPTR_EL2").TTA,
        cpacr_el1_tta=read("CPACR_EL1").TTA,
        pmuserenr_el0=read("PMUSERENR_EL0"),
        pmselr_el0_sel=read("PMSELR_EL0").SEL,
        pmcr_el0_n=read("PMCR_EL0").N,
        hdfgrtr_el2=read("HDFGRTR_EL2"),
        hdfgwtr_el2=read("HDFGWTR_EL2"),
        hdfgrtr2_el2=read("HDFGRTR2_EL2"),
        hdfgwtr2_el2=read("HDFGWTR2_EL2"),
        spmselr_el0_syspmusel=t.extract(read("SPMSELR_EL0").SYSPMUSEL, 4, 0),
        spmaccessr_el1=read("SPMACCESSR_EL1").raw,
        spmaccessr_el2=read("SPMACCESSR_EL2").raw,
        features=features,
        implemented={
            "DBGBVR<n>_EL1": breakpoints,
            "DBGBCR<n>_EL1": breakpoints,
            "DBGWVR<n>_EL1": watchpoints,
            "DBGWCR<n>_EL1": watchpoints,
            "DBGBXVR<n>": t.value_of(debug.CTX_CMPs) + 1,
        },
    )
