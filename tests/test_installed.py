"""Installed from a wheel, where nothing can be written, run by a user without a home from another directory."""

from __future__ import annotations

import json
import os

import pytest

from tests.conftest import ROOT
from tests.installed import Installed
from tests.kernel.conftest import tree_path

COMMANDS: dict[str, tuple[tuple[str, ...], str]] = {
    "prove": (("prove", "--epoch", "E8", "--mode", "vhe"), " 0 not as expected"),
    "explain": (("prove", "--epoch", "E8", "--mode", "vhe", "--explain", "guest_mdscr_preserved"), "VIOLATED"),
    "check": (("check", "--only", "E3a-vhe", "--only", "B5-vhe"), "each checked"),
    "traps": (("traps", "0x84e66"), "MDCR_EL2 = 0x84e66"),
    "trace": (("conform", "trace", str(ROOT / "tests/conform/golden/6.1-vhe.txt")), "conforms to E8"),
    "monitor": (("conform", "monitor", "--bpftrace", "-"), "tracepoint:kvm:kvm_entry"),
    "findings": (("conform", "finding", "--list"), "Causes of violated claims"),
    "list": (("prove", "--list"), "os_registers"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_works_from_anywhere(installed: Installed, name: str) -> None:
    words, says = COMMANDS[name]
    done = installed(*words)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert says in done.stdout
    assert done.stderr == "" or name == "monitor"  # what people read makes room for the script
    assert os.listdir(installed.elsewhere) == []


def test_a_tree_is_proved(installed: Installed) -> None:
    done = installed("prove", "--kernel", tree_path("6.1"), "--mode", "vhe")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert done.stdout.splitlines()[-1].endswith("0 UNKNOWN: as expected or better")


@pytest.mark.parametrize("module", ["formal", "formal.prove", "formal.check", "formal.export", "formal.traps"])
@pytest.mark.parametrize("option", ["--help", "--version"])
def test_modules_are_commands(installed: Installed, module: str, option: str) -> None:
    done = installed("-m", module, option, program="python")
    assert (done.returncode, done.stderr) == (0, "")
    assert ("exit codes: " if option == "--help" else " 0.") in done.stdout


def test_what_is_carried(installed: Installed) -> None:
    """The wheel has every file of proofs/ as it is in the repository, and every other file of the package."""
    for folder, top in ((ROOT / "proofs", installed.package / "proofs"), (ROOT / "formal", installed.package)):
        for path in folder.rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                assert (top / path.relative_to(folder)).read_bytes() == path.read_bytes(), path
    assert not (installed.package.parent / "tests").exists()


def test_the_repository_is_not_what_runs(installed: Installed) -> None:
    script = "import formal, json; from formal.common.places import proofs_folder as p; print(formal.__file__, p())"
    done = installed("-c", script, program="python")
    assert done.stdout.split() == [str(installed.package / "__init__.py"), str(installed.package / "proofs")]


def test_metadata(installed: Installed) -> None:
    script = "import importlib.metadata as m, json; print(json.dumps(m.metadata('kvm-debug-trap-proofs').json))"
    data = json.loads(installed("-c", script, program="python").stdout)
    assert data["requires_python"] == ">=3.11"
    assert any("Linux" in c for c in data["classifier"])
    assert data["summary"] and data["description"].startswith("# Proofs")
