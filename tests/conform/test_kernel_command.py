"""The command ``formal.conform kernel``: misuse, what is missing, and what it prints, without an emulator."""

from dataclasses import replace
from pathlib import Path

import pytest

from formal.commands.conform import main
from formal.conform.boot import boot
from formal.conform.boot.debian import Image
from formal.conform.commands import kernel
from formal.conform.machine import build, emulator
from formal.conform.machine.build import MissingToolError
from tests.conform.cpu.test_command import errors

GOLDEN = (Path(__file__).parent / "golden" / "6.1-vhe.txt").read_text()
GOOD = boot.Recording("6.1.0-1", "v", "vhe", 2, GOLDEN, (), ())
RECORDINGS = {
    "complaint": replace(GOOD, errors=("KVM_RUN: Bad address",)),
    "wrong": replace(GOOD, trace=GOLDEN.replace("MDCR_EL2: 0x84e66", "MDCR_EL2: 0x84e26")),
    "empty": replace(GOOD, trace="# tracer: nop\n#\n"),
    "new": replace(GOOD, missing=("kvm_arm_setup_debug", "trap_reg")),
}


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Boots that take no time, by the name of the kernel; what was booted."""
    booted = []

    def fake(path, mode, script, qemu, *, timeout):
        booted.append((path.name, mode.value, script))
        return RECORDINGS.get(path.name, GOOD)

    monkeypatch.setattr(kernel, "boot", fake)
    monkeypatch.setattr(kernel.emulator, "find", lambda path: emulator.Qemu("q", (8, 0, 0), "8.0.0"))
    monkeypatch.setattr(kernel, "image", lambda series, folder: Image(series, tmp_path / series))
    return booted


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("kernel", "--timeout", "soon"), "soon is no time to wait, in seconds"),
        (("kernel", "--mode", "hvhe"), "invalid choice: 'hvhe'"),
        (("kernel", "--scenario", "plane"), "no scenario plane; did you mean plain?"),
    ],
)
def test_misuse(capsys, argv, says):
    code, err = errors(capsys, *argv)
    assert code == 2
    assert says in err


def test_what_is_missing(capsys, monkeypatch, tmp_path):
    assert errors(capsys, "kernel", "--qemu", "/no/such/qemu") == (
        3,
        "formal.conform kernel: there is no program /no/such/qemu",
    )
    monkeypatch.setattr(kernel.emulator, "find", lambda path: emulator.Qemu("q", (8, 0, 0), "8.0.0"))
    assert errors(capsys, "kernel", "/no/such/image") == (
        3,
        "formal.conform kernel: there is no kernel image /no/such/image",
    )
    monkeypatch.setenv("PATH", "")
    code, err = errors(capsys, "kernel", "6.1", "--kernels", str(tmp_path))
    assert code == 3
    assert err.endswith("and no apt-get to fetch it with")


def test_kernels_and_modes(machine, capsys):
    assert main(["kernel", "--scenario", "plain"]) == 0
    assert [(name, mode) for name, mode, _ in machine] == [("6.1", "vhe"), ("6.1", "nvhe")]
    assert machine[0][2].startswith("scenario plain\n")
    machine.clear()
    assert main(["kernel", "6.12", "--all", "--mode", "nvhe"]) == 0
    assert [name for name, _, _ in machine] == ["6.12", "6.1", "5.10", "newest"]


def test_what_is_printed(machine, capsys):
    assert main(["kernel", "--mode", "vhe"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(f"6.1.0-1 vhe: {GOOD.scenarios} scenarios, {GOOD.events:,} events in 0.")
    assert out[1].startswith("  a run of E8s vhe: ")
    assert any(line.startswith("operations of the model taken: ") for line in out)


def test_an_event_that_is_none_of_the_models_fails(machine, capsys):
    assert main(["kernel", "wrong", "--mode", "vhe"]) == 1
    out = capsys.readouterr().out
    assert "  not a run of E8s vhe (v6.1.y)\n" in out
    assert "kvm_arm_set_dreg32" in out
    _, _, shown = out.partition("  the recording up to there:\n")
    last = shown.partition("operations of the model")[0].rstrip("\n").split("\n")
    assert "MDCR_EL2: 0x84e26" in last[-1], "the event that is not explained is the last one shown"
    assert len(last) > 10 and all(line.strip() in RECORDINGS["wrong"].trace for line in last)


def test_a_complaint_fails(machine, capsys):
    assert main(["kernel", "complaint", "--mode", "vhe"]) == 1
    assert "  COMPLAINT: KVM_RUN: Bad address\n" in capsys.readouterr().out


def test_what_a_kernel_does_not_have_is_said(machine, capsys):
    assert main(["kernel", "new", "--mode", "vhe"]) == 0
    out = capsys.readouterr().out
    assert "  events this kernel does not have: kvm_arm_setup_debug, trap_reg\n" in out


def test_nothing_to_compare_is_no_success(machine, capsys):
    assert main(["kernel", "empty", "--mode", "vhe"]) == 3
    assert "  not compared with the model: no event" in capsys.readouterr().out


def test_recordings_are_kept(machine, tmp_path, capsys):
    assert main(["kernel", "--mode", "vhe", "--output", str(tmp_path / "kept")]) == 0
    assert (tmp_path / "kept" / "6.1.0-1-vhe.txt").read_text() == GOLDEN
    (tmp_path / "file").touch()
    capsys.readouterr()
    assert main(["kernel", "--mode", "vhe", "--output", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.startswith("formal.conform kernel: ")


def test_missing_compiler_and_libc(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(build, "_has_header", lambda command, header: False)
    with pytest.raises(MissingToolError, match="install gcc-aarch64-linux-gnu and libc6-dev-arm64-cross"):
        build.linux_compiler()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingToolError, match=r"or ziglang \(PyPI\)"):
        build.linux_compiler()
