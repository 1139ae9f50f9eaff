"""The real thing: the probe built, booted on three CPU models, and compared."""

import time
from dataclasses import replace

import pytest

from formal.arch import traps
from formal.commands.conform import main
from formal.conform.cpu import points32
from formal.conform.cpu.cpu import DEFAULT_MODELS, conform

pytestmark = pytest.mark.usefixtures("emulator")


def test_no_unexplained_difference():
    began = time.monotonic()
    report = conform([], None, 60)
    assert [(c.model, d) for c in report.cpus for d in c.unexplained] == []
    assert report.book.vanished == []
    assert len(report.cpus) >= 3
    assert {c.model for c in report.cpus} <= set(DEFAULT_MODELS)
    for c in report.cpus:
        assert c.accesses > 300_000
        assert c.debug > 3000
        assert {"EXECUTED", "EL1", "EL2", "UNDEF"} == set(c.outcomes)
        assert {"A32 PMCR", "A32 DBGDRAR", "A32 PMEVCNTR<n>"} <= c.reached or not c.cpu.aarch32_el0
        assert {"A32 DBGVCR", "A32 DBGBVR<n>"} <= c.reached or not c.cpu.aarch32_el1
    assert any(c.cpu.aarch32_el1 for c in report.cpus)
    assert report.book.compared, "compare this version of QEMU, and extend formal/conform/cpu/deviations.py"
    assert time.monotonic() - began < 60 * len(report.cpus) / 3


def test_a_flipped_rule_is_found(monkeypatch, capsys):
    """A table in which TDE does not make TDRA act as 1 must not pass."""
    honest = traps._coarse

    def flipped(access, name, controls):
        return (reason for reason in honest(access, name, controls) if (name, reason[1]) != ("TDRA", "MDCR_EL2.TDE"))

    monkeypatch.setattr(traps, "_coarse", flipped)
    assert main(["cpu", "--cpu", "cortex-a57"]) == 1
    out = capsys.readouterr().out
    assert "DIFFERENT on cortex-a57: MRS MDRAR_EL1 at EL1" in out
    assert "  expected EXECUTED (no trap applies)\n  observed EL2" in out
    lines = [line for line in out.splitlines() if line.startswith("DIFFERENT")]
    assert sum("MDRAR_EL1" in line for line in lines) == 1
    assert all(any(name in line for name in ("MDRAR_EL1", "DBGDRAR", "DBGDSAR")) for line in lines)
    assert "DIFFERENT on cortex-a57: MRC DBGDRAR at EL0 below AArch64 EL1" in out


def test_a_wrong_row_of_aarch32_is_found(monkeypatch, capsys):
    """A table in which DBGVCR traps as the OS lock registers do must not pass."""
    wrong = [
        replace(r, acts_as=replace(r.acts_as, traps=("TDOSA",))) if r.name == "DBGVCR" else r
        for r in points32.REGISTERS32
    ]
    monkeypatch.setattr(points32, "REGISTERS32", tuple(wrong))
    assert main(["cpu", "--cpu", "cortex-a57"]) == 1
    out = capsys.readouterr().out
    assert "DIFFERENT on cortex-a57: MRC DBGVCR at EL1" in out
    assert "DIFFERENT on cortex-a57: MCR DBGVCR at EL1" in out
    assert all("DBGVCR" in line for line in out.splitlines() if line.startswith("DIFFERENT"))


def test_a_probe_that_takes_too_long(capsys):
    assert main(["cpu", "--cpu", "max", "--timeout", "0.001"]) == 3
    assert capsys.readouterr().err == "formal.conform cpu: the probe on max did not end within 0.001 s\n"
