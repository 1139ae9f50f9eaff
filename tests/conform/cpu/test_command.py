"""The command: misuse, what is missing, and the report, without an emulator."""

import json
from dataclasses import replace

import pytest

from formal.arch.aarch32 import REGISTERS32
from formal.commands.conform import main
from formal.common.options import UsageError
from formal.conform.commands import cpu as command
from formal.conform.cpu import report as show
from formal.conform.cpu.compare import Difference
from formal.conform.cpu.cpu import CpuReport, Report, choose
from formal.conform.cpu.deviations import Book
from formal.conform.cpu.points32 import spelled
from formal.conform.machine import emulator
from formal.conform.machine.build import MissingToolError, compiler
from tests.conform.conftest import A32, FINE, PLAIN

WRONG = Difference("MRS MDRAR_EL1 at EL1", "MDCR_EL2.TDE", "EL2", "MDCR_EL2.TDE", "EXECUTED", "MDRAR_EL1")


def report(*differences, cpu=PLAIN, version=(8, 0, 1)):
    """A report on one CPU."""
    one = CpuReport(
        "cortex-a57", cpu, 300, 1000, 7, {"EXECUTED": 1000}, 50, {"BRK": 50}, 3, list(differences), {"MDSCR_EL1"}, 1.0
    )
    return Report("8.0.1", Book(version), [one], 1.5)


def errors(capsys, *argv):
    """The exit code, and the one line on the standard error."""
    code = None
    try:
        code = main(argv)
    except SystemExit as e:
        code = e.code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return code, err.strip()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ((), "which command? one of cpu, finding, kernel, trace, monitor"),
        (("cpus",), "unknown command 'cpus'; did you mean 'cpu'?"),
        (("cpu", "--timeout", "soon"), "soon is no time to wait, in seconds"),
        (("cpu", "--timeout", "-1"), "-1 is no time to wait, in seconds"),
        (("cpu", "--json", f"{__file__}/x.json"), "Not a directory"),
        (("cpu", "--verbos", "--bogus"), "unrecognized arguments: --bogus"),
    ],
)
def test_misuse(capsys, argv, says):
    code, err = errors(capsys, *argv)
    assert code == 2
    assert says in err


def test_missing_emulator(capsys, monkeypatch):
    assert errors(capsys, "cpu", "--qemu", "/no/such/qemu") == (
        3,
        "formal.conform cpu: there is no program /no/such/qemu",
    )
    monkeypatch.setenv("PATH", "")
    assert errors(capsys, "cpu") == (
        3,
        "formal.conform cpu: no qemu-system-aarch64; install qemu-system-arm (Debian)",
    )


def test_an_emulator_that_is_none(capsys):
    code, err = errors(capsys, "cpu", "--qemu", "/bin/true")
    assert code == 3
    assert "does not say which QEMU it is" in err


def test_missing_compiler(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingToolError, match="install gcc-aarch64-linux-gnu"):
        compiler()


def test_choosing_cpus():
    have = ("cortex-a57", "cortex-a72", "max")
    assert choose([], have) == ["cortex-a57", "max"]
    assert choose(["max", "max", "cortex-a72"], have) == ["max", "cortex-a72"]
    with pytest.raises(UsageError, match="no CPU model cortex-a73; did you mean cortex-a72"):
        choose(["cortex-a73"], have)
    with pytest.raises(UsageError, match="none of cortex-a57"):
        choose([], ("cortex-a15",))


@pytest.mark.parametrize(("differences", "code"), [((), 0), ((WRONG,), 1)])
def test_exit_codes(capsys, monkeypatch, differences, code):
    monkeypatch.setattr(command, "conform", lambda *_: report(*differences))
    assert main(["cpu"]) == code
    out = capsys.readouterr().out
    assert ("DIFFERENT on cortex-a57: MRS MDRAR_EL1 at EL1, 1 times, first with MDCR_EL2.TDE" in out) == bool(code)
    assert ("  expected EL2 (MDCR_EL2.TDE)\n  observed EXECUTED" in out) == bool(code)
    assert ("no unexplained difference: 1,050 probe points on 1 CPUs in 1.5 s" in out) == (not code)
    assert "This version was never compared (7.2.22, 8.2.2, 10.0.13, 11.1.3 were)" in out


def test_a_vanished_deviation_fails(capsys, monkeypatch):
    found = report(version=(7, 2, 22))
    found.book.sort_out("cortex-a57", PLAIN, [])
    monkeypatch.setattr(command, "conform", lambda *_: found)
    assert main(["cpu"]) == 1
    out = capsys.readouterr().out
    assert 'VANISHED: the deviation "OS lock ignored" no longer shows for BRK on cortex-a57' in out


def test_a_timeout_is_one_line(capsys, monkeypatch):
    def late(*_):
        raise emulator.EmulatorTimeoutError("the probe on max did not end within 1 s")

    monkeypatch.setattr(command, "conform", late)
    assert errors(capsys, "cpu") == (3, "formal.conform cpu: the probe on max did not end within 1 s")


def test_json(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "conform", lambda *_: report(WRONG))
    assert main(["cpu", "--json", str(tmp_path / "found.json")]) == 1
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["schema_version"], found["passed"], found["qemu_was_compared"]) == (1, False, False)
    assert found["cpus"][0]["differences"][0]["register"] == "MDRAR_EL1"
    assert {"register": "MDSCR_EL1", "reason": "its fine-grained trap only: no CPU has HDFGRTR_EL2 or HDFGWTR_EL2"} in (
        found["not_tested"]
    )
    capsys.readouterr()
    main(["cpu", "--json", "-"])
    assert json.loads(capsys.readouterr().out)["cpus"] == found["cpus"]


def test_what_was_not_tested():
    plain = dict(report().untested())
    assert plain["TRCVICTLR"] == "no CPU has FEAT_TRC_SR; found UNDEFINED"
    assert plain["PMCR_EL0"] == "QEMU leaves it UNDEFINED"
    counter = report()
    counter.cpus[0].reached.add("PMCCNTR_EL0")
    assert ("PMCCNTR_EL0", "PMUSERENR_EL0.UEN and TID only: no CPU has FEAT_PMUv3p9") in counter.untested()
    fine = dict(report(cpu=FINE).untested())
    assert "MDSCR_EL1" not in fine
    assert fine["PMBMAR_EL1"].startswith("whether a CPU has FEAT_SPE_nVM is not read")
    assert len([name for name in plain if not name.startswith("A32")]) == 167  # each row, MDSCR_EL1 in part


def test_which_rows_of_aarch32_were_not_tested():
    lines = {spelled(r) for r in REGISTERS32}
    assert {name for name in dict(report().untested()) if name.startswith("A32")} == lines
    assert dict(report().untested())["A32 PMCR"] == "no CPU has AArch32 at EL0"
    both = report(cpu=A32)
    both.cpus[0].reached |= lines - {"A32 DBGDEVID"}
    assert {(name, why) for name, why in both.untested() if name.startswith("A32") and "FEAT_FGT" not in why} == {
        ("A32 DBGDTRRXint (stc)", "LDC and STC are not probed"),
        ("A32 DBGDTRTXint (ldc)", "LDC and STC are not probed"),
        ("A32 DBGDEVID", "QEMU leaves it UNDEFINED"),
    }
    half = report(cpu=replace(A32, ids={"ID_AA64PFR0_EL1": 0x12}))
    half.cpus[0].reached.add("A32 PMCR")
    assert ("A32 PMCR", "from EL1 only: no CPU has AArch32 there") in half.untested()
    assert dict(half.untested())["A32 DBGVCR"] == "no CPU has AArch32 at EL1"


def test_verbose_lists_what_was_not_tested(capsys):
    show.print_report(report(), verbose=True)
    out = capsys.readouterr().out
    assert "  no CPU has FEAT_TRC_SR; found UNDEFINED: TRCTRACEIDR TRCVICTLR" in " ".join(out.split("\n"))
    assert "AArch32" in out
