"""Facts about AArch32 accesses, written by hand from the architecture, beside ``formal.arch.aarch32``."""

from __future__ import annotations

import json

import pytest

from formal.arch.aarch32 import REGISTERS32, Access32, decide
from formal.arch.fgt import HDFGRTR_EL2
from formal.arch.registers import HCR_EL2, MDCR_EL2, MDSCR_EL1, PMUSERENR_EL0
from formal.arch.traps import Controls, Outcome
from formal.commands.traps import main
from formal.logic import terms as t
from formal.logic.terms import FALSE, TRUE


def ask(name, el, write=False, mdcr=(), aarch32=True, t9=FALSE, form=None, index=None, **controls):
    reg = next(r for r in REGISTERS32 if r.name == name and form in (None, r.form))
    value = (MDCR_EL2.mask(*mdcr) if mdcr else 0) | 31
    c = Controls(mdcr_el2=MDCR_EL2(t.const(value, 64)), **controls)
    return decide(Access32(reg, write, el, index, aarch32), c, t9)[0]


@pytest.mark.parametrize(
    ("name", "traps"),
    [
        ("DBGDIDR", "TDA TDE"),
        ("DBGDSCRext", "TDA TDE"),
        ("DBGVCR", "TDA TDE"),
        ("DBGWFAR", "TDA TDE"),
        ("DBGBXVR<n>", "TDA TDE"),
        ("DBGDEVID", "TDA TDE"),
        ("DBGDRAR", "TDRA TDE"),
        ("DBGDSAR", "TDRA TDE"),
        ("DBGOSLSR", "TDOSA TDE"),
        ("DBGPRCR", "TDOSA TDE"),
        ("PMCR", "TPM TPMCR"),
        ("PMCCNTR", "TPM"),
        ("PMINTENSET", "TPM"),
    ],
)
def test_what_traps_a_read_from_el1(name, traps):
    for bit in ("TDRA", "TDOSA", "TDA", "TDE", "TPM", "TPMCR"):
        expected = Outcome.EL2 if bit in traps.split() else Outcome.EXECUTED
        assert ask(name, 1, mdcr=[bit]) is expected, bit


def test_exception_classes():
    classes = {(r.name, r.form): r.exception_class for r in REGISTERS32}
    assert classes["PMCR", "mcr"] == 0x03
    assert classes["PMCCNTR", "mcrr"] == 0x04
    assert classes["DBGBVR<n>", "mcr"] == 0x05
    assert classes["DBGDTRTXint", "ldc"] == classes["DBGDTRRXint", "stc"] == 0x06
    assert classes["DBGDRAR", "mcrr"] == 0x0C


def test_what_el1_withholds_goes_where_el1_is_aarch64_and_is_undefined_where_it_is_not():
    tdcc = MDSCR_EL1(t.const(1 << 12, 64))
    for name in ("DBGDIDR", "DBGDRAR", "DBGDSAR", "DBGDSCRint", "DBGDTRRXint"):
        assert ask(name, 0, mdcr=["TDA", "TDRA"], mdscr_el1=tdcc) is Outcome.UNDEF
        assert ask(name, 0, mdcr=["TDA", "TDRA"], mdscr_el1=tdcc, aarch32=False) is Outcome.EL1
        assert ask(name, 0, mdcr=["TDA", "TDRA"]) is Outcome.EL2
    assert ask("PMCCNTR", 0, mdcr=["TPM"]) is Outcome.UNDEF
    assert ask("PMCCNTR", 0, aarch32=False) is Outcome.EL1
    granted = PMUSERENR_EL0(t.const(1, 64))
    assert ask("PMCCNTR", 0, mdcr=["TPM"], pmuserenr_el0=granted) is Outcome.EL2


def test_hstr_traps_c9_of_cp15_alone():
    assert ask("PMCR", 1, t9=TRUE) is Outcome.EL2
    assert ask("PMCCNTR", 1, t9=TRUE, form="mcrr") is Outcome.EL2
    assert ask("PMEVCNTR<n>", 1, t9=TRUE, index=0) is Outcome.EXECUTED
    assert ask("DBGDIDR", 1, t9=TRUE) is Outcome.EXECUTED
    assert ask("PMCR", 0, t9=TRUE) is Outcome.UNDEF  # PMUSERENR comes first
    assert ask("PMCEID0", 1, write=True, t9=TRUE) is Outcome.EL2  # any access at EL1, even of what is not there
    assert ask("PMINTENSET", 0, t9=TRUE) is Outcome.UNDEF
    host = HCR_EL2(t.const(HCR_EL2.mask("E2H", "TGE"), 64))
    granted = PMUSERENR_EL0(t.const(1, 64))
    assert ask("PMCR", 0, t9=TRUE, aarch32=False, pmuserenr_el0=granted) is Outcome.EL2
    assert ask("PMCR", 0, t9=TRUE, aarch32=False, pmuserenr_el0=granted, hcr_el2=host) is Outcome.EXECUTED


def test_breakpoints_that_are_not_context_aware_have_no_extended_value():
    there = {"DBGBVR<n>_EL1": 6, "DBGBXVR<n>": 2}
    found = [ask("DBGBXVR<n>", 1, index=n, implemented=there) for n in range(7)]
    assert [o is Outcome.EXECUTED for o in found] == [False] * 4 + [True] * 2 + [False]


def test_fine_grained_traps_need_an_aarch64_el1():
    features = Controls().features | {"FEAT_FGT"}
    trap = HDFGRTR_EL2(t.const(HDFGRTR_EL2.mask("PMCCNTR_EL0"), 64))
    granted = PMUSERENR_EL0(t.const(1, 64))
    c = {"features": features, "hdfgrtr_el2": trap, "pmuserenr_el0": granted}
    assert ask("PMCCNTR", 0, **c) is Outcome.EXECUTED
    assert ask("PMCCNTR", 0, aarch32=False, **c) is Outcome.EL2


def test_tge_below_an_aarch32_el1_is_refused():
    with pytest.raises(ValueError, match="TGE"):
        ask("PMCR", 0, hcr_el2=HCR_EL2(t.const(HCR_EL2.mask("TGE"), 64)))
    with pytest.raises(ValueError, match="AArch64 EL1"):
        ask("PMCR", 1, aarch32=False)


def test_encodings():
    known = {(r.name, r.form): r for r in REGISTERS32}
    assert known["PMEVTYPER<n>", "mcr"].encoding(30) == (0, 14, 0b1111, 6)
    assert known["DBGBXVR<n>", "mcr"].encoding(5) == (0, 1, 5, 1)
    assert known["PMCCNTR", "mcrr"].encoding() == (0, None, 9, None)


def test_the_option_adds_rows_and_changes_none(capsys):
    assert main(["0x84e66", "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert main(["0x84e66", "--json", "--aarch32"]) == 0
    both = json.loads(capsys.readouterr().out)
    count = len(plain["rows"])
    assert both["rows"][:count] == plain["rows"]
    added = both["rows"][count:]
    assert added and {row["state"] for row in added} == {"a32"}
    pmcr = [r for r in added if (r["register"], r["el"], r["access"]) == ("PMCR", 1, "read")]
    assert [(r["outcome"], r["exception_class"]) for r in pmcr] == [("el2", 3)]
    assert main(["0x84e66", "--aarch32"]) == 0
    assert "DBGDRAR (mcrr)" in capsys.readouterr().out
