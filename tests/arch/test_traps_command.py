"""python -m formal.traps."""

import json
import subprocess
import sys

import pytest

from formal.arch import features as feat
from formal.arch.sysregs import SYSTEM_REGISTERS
from formal.commands.traps import main

ROW = "register index op0 op1 crn crm op2 el access outcome decided_by group".split()


def run(capsys, *argv):
    assert main(argv) == 0
    return capsys.readouterr().out


def rows(capsys, *argv):
    return json.loads(run(capsys, *argv, "--json"))["rows"]


def pick(found, register, access="read", el=1, index=None):
    (row,) = [r for r in found if (r["register"], r["access"], r["el"], r["index"]) == (register, access, el, index)]
    return row["outcome"], row["decided_by"]


def test_json(capsys):
    out = json.loads(run(capsys, "0x84e66", "--json"))
    assert out["schema_version"] == 1
    assert out["mdcr_el2"] == "0x84e66"
    assert out["fields"]["HPMN"] == 6 and out["fields"]["TTRF"] == 1 and out["fields"]["TDE"] == 0
    assert out["res0_bits_set"] == []
    assert set(out["features"]) == feat.WITHOUT_FGT
    assert all(list(row) == ROW for row in out["rows"])
    assert {row["outcome"] for row in out["rows"]} == {"undef", "el1", "el2", "executed"}
    # every encoding twice (EL) and in both directions; DBGDTRRX_EL0 and DBGDTRTX_EL0 share theirs, one direction each
    keys = [tuple(row[k] for k in "op0 op1 crn crm op2 el access".split()) for row in out["rows"]]
    assert len(keys) == len(set(keys)) == 584 * 4


def test_what_kvm_sets(capsys):
    found = rows(capsys, "0x84e66", "--set", "CPTR_EL2.TTA=1")
    assert pick(found, "MDSCR_EL1") == ("el2", "MDCR_EL2.TDA")
    assert pick(found, "DBGBVR<n>_EL1", index=3) == ("el2", "MDCR_EL2.TDA")
    assert pick(found, "OSLAR_EL1", "write") == ("el2", "MDCR_EL2.TDOSA")
    assert pick(found, "MDRAR_EL1") == ("el2", "MDCR_EL2.TDRA")
    assert pick(found, "PMBLIMITR_EL1") == ("el2", "MDCR_EL2.E2PB<0>=0")
    assert pick(found, "PMBIDR_EL1") == ("executed", "no trap applies")
    assert pick(found, "TRCVICTLR") == ("el2", "CPTR_EL2.TTA")
    assert pick(found, "PMCCNTR_EL0", el=0) == ("el1", "PMUSERENR_EL0.{CR,EN}=00")
    assert pick(found, "BRBCR_EL1")[0] == "undef"
    found = rows(capsys, "0x84e66", "--set", "PMUSERENR_EL0.EN=1")
    assert pick(found, "PMCCNTR_EL0", el=0) == ("el2", "MDCR_EL2.TPM")
    assert pick(found, "TRCVICTLR") == ("executed", "no trap applies")


def test_features(capsys):
    found = rows(capsys, "0", "--feature", "FEAT_BRBE")
    assert pick(found, "BRBCR_EL1") == ("el2", "HDFGRTR_EL2.nBRBCTL=0")
    found = rows(capsys, "0", "--feature", "FEAT_BRBE", "--set", "HDFGRTR_EL2.nBRBCTL=1")
    assert pick(found, "BRBCR_EL1") == ("executed", "no trap applies")
    found = rows(capsys, "0", "--feature", "none")
    assert pick(found, "PMCR_EL0") == ("undef", "not implemented: FEAT_PMUv3")
    assert pick(found, "MDSCR_EL1") == ("executed", "no trap applies")
    found = rows(capsys, "0", "--feature", "all")
    assert not [r for r in found if r["decided_by"].startswith("not implemented")]


@pytest.mark.parametrize("text", ["0x84e66", "544358", "0x8_4e66", "0b10000100111001100110", "544_358"])
def test_numbers(capsys, text):
    assert "MDCR_EL2 = 0x84e66\n" in run(capsys, text)


def test_text_for_a_reader(capsys):
    out = run(capsys, "0x84e66")
    lines = out.splitlines()
    assert any(line.split()[:3] == ["TDA", "9", "1"] for line in lines)
    assert any(line.split()[:3] == ["HPMN", "4:0", "6"] for line in lines)
    assert any(line.startswith("breakpoint    EL1  trapped to EL2  MDCR_EL2.TDA") for line in lines)
    assert any(line.startswith("spe_buffer    EL1  executed        identification register") for line in lines)
    assert "\x1b" not in out and "│" not in out
    assert max(map(len, lines)) <= 120
    for reg in SYSTEM_REGISTERS:
        if reg.group != "trace":
            assert reg.name in out, reg.name


@pytest.mark.parametrize(
    ("value", "note"),
    [
        ("0x10000", "RES0 bits that are set: 16"),
        ("0x8000000000000001", "RES0 bits that are set: 63"),
        ("0x8000001", "set, but RES0 without the feature: TDCC"),
        ("0x1001", "E2PB = 0b01 is reserved"),
        ("0", "HPMN = 0 is reserved without FEAT_HPMN0"),
        ("0x101", "TDE is set: TDRA, TDOSA and TDA act as 1"),
    ],
)
def test_notes(capsys, value, note):
    assert note in run(capsys, value)


def test_res0_bits_in_json(capsys):
    assert json.loads(run(capsys, "0x8000000000010001", "--json"))["res0_bits_set"] == [16, 63]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["zz"], "no register zz in the table"),
        (
            ["HPMN"],
            "no register HPMN in the table: it is a field, bits 4 to 0 of MDCR_EL2 (event counters the guest may",
        ),
        (["tde"], "no register tde in the table: it is a field, bit 8 of MDCR_EL2 ("),
        (["9z"], "'9z' is no number; write 0x84e66, 544358 or 0x8_4e66"),
        (["0x"], "'0x' is no number"),
        (["-1"], "-1 does not fit in MDCR_EL2, which has 64 bits"),
        (["0x10000000000000000"], "does not fit in MDCR_EL2, which has 64 bits"),
        (["0", "--feature", "FEAT_FTG"], "no feature FEAT_FTG is modelled; did you mean FEAT_FGT?"),
        (["0", "--set", "CPTR_EL2.TAA=1"], "CPTR_EL2 has no field TAA; did you mean TTA?"),
        (["0", "--set", "CPTR_EL.TTA=1"], "no control register CPTR_EL; did you mean CPTR_EL2?"),
        (["0", "--set", "CPTR_EL2.TTA=2"], "CPTR_EL2.TTA has 1 bit, 0x2 does not fit"),
        (["0", "--set", "PMCR_EL0.N=32"], "PMCR_EL0.N has 5 bits, 0x20 does not fit"),
        (["0", "--set", "CPTR_EL2.TTA"], "write REGISTER.FIELD=VALUE"),
        (["0", "--set", "CPTR_EL2=1"], "CPTR_EL2 has no field (none given)"),
        (["0", "--set", "CPTR_EL2.TTA=x"], "'x' is no number"),
        (["0", "--set", "MDCR_EL2.TDE=1"], "MDCR_EL2 is the value to decode"),
        ([], "give one of: a value of MDCR_EL2"),
    ],
)
def test_misuse(capsys, argv, message):
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("formal.traps: ") and err.count("\n") == 1


def test_a_reader_that_leaves_early():
    """Piped into head, the command says so, and has an exit code of its own."""
    command = [sys.executable, "-m", "formal.traps", "0x84e66", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as p:
        assert p.stdout is not None and p.stderr is not None
        p.stdout.read(10)
        p.stdout.close()
        assert p.stderr.read() == b"formal.traps: standard output: Broken pipe\n"
    assert p.returncode == 5
