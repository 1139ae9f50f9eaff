"""``python -m formal.traps`` asked for one access."""

from __future__ import annotations

import json

import pytest

from formal.arch.names import UnknownNameError, named, spelled, syndrome
from formal.arch.sysregs import SYSTEM_REGISTERS
from formal.commands.traps import main
from formal.explain.access import SITUATIONS
from tests.kernel.conftest import tree_path


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(argv) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    return said


def test_every_register_is_found_by_name_encoding_instruction_and_syndrome() -> None:
    for register in SYSTEM_REGISTERS:
        for index in register.instances():
            code = register.encoding(index)
            (one,) = named(register.spelled(index).lower())
            assert one.register is register and one.index in (index, *register.indices[:1])
            op0, op1, crn, crm, op2 = code
            for write in (False, True):
                if register.rights(write).lowest_el is None:
                    continue
                asked = f"msr {spelled(code)}, x3" if write else f"mrs x3, {spelled(code).lower()}"
                iss = op0 << 20 | op2 << 17 | op1 << 14 | crn << 10 | 3 << 5 | crm << 1 | (not write)
                for found in (named(asked), list(syndrome(0x18 << 26 | 1 << 25 | iss).names)):
                    assert [(n.register, n.index, n.write) for n in found] == [(register, index, write)]


def test_the_order_of_checks_is_the_architectures(capsys: pytest.CaptureFixture[str]) -> None:
    answers = json.loads(run(capsys, "mrs x0, pmccntr_el0", "--json"))["answers"]
    at_el0 = next(a for a in answers if a["el"] == 0)
    assert at_el0["checks"][0]["when"].startswith("PMUSERENR_EL0.")
    assert [c["outcome"] for c in at_el0["checks"]] == ["el1", "el2", "el2"]
    assert [c["when"] for c in at_el0["checks"]][1:] == ["HDFGRTR_EL2.PMCCNTR_EL0", "MDCR_EL2.TPM"]
    assert at_el0["may_execute"]


def test_releases_differ_where_kvm_does(capsys: pytest.CaptureFixture[str]) -> None:
    """TTRF came with v5.13 (and v5.10.y); a guest that uses its breakpoints reaches them, unless it is debugged."""
    answers = json.loads(run(capsys, "mrs x0, trfcr_el1", "--json"))["answers"]
    found = {row["releases"]: row[SITUATIONS[0]] for row in next(a for a in answers if a["el"] == 1)["releases"]}
    assert found["v4.3 to v5.10"] == "executes"
    assert any("v5.13 to" in releases and "TTRF" in outcome for releases, outcome in found.items())
    answers = json.loads(run(capsys, "msr dbgbcr0_el1, x0", "--json"))["answers"]
    (row,) = next(a for a in answers if a["el"] == 1)["releases"]
    assert [row[s].split()[0] for s in SITUATIONS] == ["trapped", "executes", "trapped"]


@pytest.mark.parametrize(
    ("argv", "shows"),
    [
        (("--esr", "0xf2000000"), "MDCR_EL2.TDE"),
        (("--esr", "0x62300001"), "no debug, PMU, profiling or trace register"),
        (("--esr", "0x6230e419"), "read of S3_3_C9_C12_0"),
        (("--encoding", "3,3,9,12,0"), "PMCR_EL0"),
        (("mrc p14, 0, r0, c0, c2, 2",), "acts as MDSCR_EL1"),
        (("DBGBVR5_EL1",), "2, 0, 0, 5, 4"),
        (("0x84e66", "--set", "PMCR_EL0.N=4"), "HPMN = 6 is above PMCR_EL0.N = 4, which is reserved"),
    ],
)
def test_what_is_shown(argv: tuple[str, ...], shows: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert shows in run(capsys, *argv)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("MDCR_EL3",), "EL3"),
        (("--set", "MDCR_EL3.TPM=1", "0x0"), "MDCR_EL3"),
        (("MDSCR_EL",), "did you mean MDSCR_EL1?"),
        (("MDCR_EL2",), "belongs to EL2"),
        (("dbgbvr16_el1",), "indices 0 to 15"),
        (("--encoding", "3,3,9"), "no encoding"),
        (("--encoding", "3,0,0,0,0"), "no debug"),
        (("--esr", "-1"), "64 bits"),
        ((), "give one of"),
        (("PMCR_EL0", "--esr", "1"), "give one of"),
        (("PMCR_EL0", "--feature", "all"), "--feature goes with a value"),
        (("0x84e66", "--kernel", "x"), "--kernel goes with an access"),
        (("mrs x0",), "write mrs x0, REGISTER"),
    ],
)
def test_what_is_refused(argv: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert says in refused(capsys, *argv)


def test_el3_is_out_of_scope_and_not_a_misspelling() -> None:
    with pytest.raises(UnknownNameError) as said:
        named("SCR_EL3")
    assert "out of scope" in str(said.value) and "did you mean" not in str(said.value)


def test_the_handler_of_a_tree(capsys: pytest.CaptureFixture[str]) -> None:
    tree = str(tree_path("6.1"))
    assert "access_pmcr() at arch/arm64/kvm/sys_regs.c:" in run(capsys, "PMCR_EL0", "--kernel", tree)
    assert "reads as zero, ignores writes" in run(capsys, "DBGPRCR_EL1", "--kernel", tree)
    assert "UNDEFINED" in run(capsys, "PMSCR_EL1", "--kernel", tree)
