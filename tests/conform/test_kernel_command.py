"""The command ``formal.conform kernel``: misuse, what is missing, and what it prints, without an emulator."""

import pytest

from formal.conform import boot, emulator, kernel
from formal.conform.__main__ import main
from formal.conform.debian import Image
from tests.conform.test_command import errors

TRACE = "# head\n x: conform: scenario name=plain\n y: kvm_entry: PC: 0x1\n"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Boots that take no time; what was booted."""
    booted = []

    def fake(path, mode, script, qemu, *, timeout):
        booted.append((path.name, mode.value, script))
        complaints = ("KVM_RUN: Bad address",) if "bad" in path.name else ()
        return boot.Recording("6.1.0-1", "v", mode.value, 2, TRACE, ("trap_reg",), complaints)

    monkeypatch.setattr(kernel, "boot", fake)
    monkeypatch.setattr(kernel.emulator, "find", lambda path: emulator.Qemu("q", (8, 0, 0), "8.0.0"))
    monkeypatch.setattr(kernel, "image", lambda series, folder: Image(series, tmp_path / f"vmlinuz-{series}"))
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
    assert [(name, mode) for name, mode, _ in machine] == [("vmlinuz-6.1", "vhe"), ("vmlinuz-6.1", "nvhe")]
    assert machine[0][2].startswith("scenario plain\n")
    out = capsys.readouterr().out
    assert "6.1.0-1 vhe: 1 scenarios, 2 events in 0.0 s\n" in out
    assert "  events this kernel does not have: trap_reg\n" in out
    machine.clear()
    assert main(["kernel", "6.12", "--all", "--mode", "nvhe"]) == 0
    assert [name for name, _, _ in machine] == ["vmlinuz-6.12", "vmlinuz-6.1", "vmlinuz-5.10", "vmlinuz-newest"]


def test_recordings_are_kept(machine, tmp_path, capsys):
    assert main(["kernel", "--mode", "vhe", "--output", str(tmp_path / "kept")]) == 0
    assert (tmp_path / "kept" / "6.1.0-1-vhe.txt").read_text() == TRACE
    (tmp_path / "file").touch()
    capsys.readouterr()
    code, err = errors(capsys, "kernel", "--mode", "vhe", "--output", str(tmp_path / "file"))
    assert code == 2
    assert "file" in err


def test_a_complaint_fails(machine, capsys):
    assert main(["kernel", "bad", "--mode", "vhe"]) == 1
    assert "  COMPLAINT: KVM_RUN: Bad address\n" in capsys.readouterr().out
