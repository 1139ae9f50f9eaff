"""``--kernel`` as a user meets it: a tree as it is, trees with a line of C broken, and trees that are none."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from formal.prove import main
from tests.report import ktap

KVM = "arch/arm64/kvm"
# name: (file, pattern, replacement, claims that must be lost)
BROKEN: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "OS registers not trapped": (
        f"{KVM}/debug.c", r"MDCR_EL2_TDRA \|\s+MDCR_EL2_TDOSA\)", "MDCR_EL2_TDRA)",
        ("os_registers", "os_registers_trapped")),
    "HPMN from the wrong bits": (
        f"{KVM}/debug.c", r"& MDCR_EL2_HPMN_MASK;", "& ~MDCR_EL2_HPMN_MASK;", ("hpmn_preserved_in_guest",)),
    "TDA without USE_HW": (
        f"{KVM}/debug.c", r"if \(\(vcpu->guest_debug & KVM_GUESTDBG_USE_HW\) \|\|\s+", "if (",
        ("host_debug_sets_tda",)),
    "MDSCR_EL1 not restored": (
        f"{KVM}/debug.c", r"(?m)^\tvcpu_write_sys_reg\(vcpu, val, MDSCR_EL1\);", "",
        ("guest_mdscr_preserved_in_32_bits",)),
    "debug_ptr not reset": (
        f"{KVM}/debug.c", r"\t\t\tkvm_arm_reset_debug_ptr\(vcpu\);\n", "", ("debug_ptr_reset",)),
    "VHE write dropped": (
        f"{KVM}/debug.c", r"has_vhe\(\) && orig_mdcr_el2", "0 && orig_mdcr_el2",
        ("entry_is_fresh", "host_takes_debug_exceptions")),
    "header narrows the HPMN mask": (
        "arch/arm64/include/asm/kvm_arm.h", r"(MDCR_EL2_HPMN_MASK\s+\(.*?)0x1[fF]", r"\g<1>0x0f",
        ("hpmn_preserved_in_guest",)),
}  # fmt: skip
WHOLE = "debug_ptr not reset"  # of this one all claims are asked
UNKNOWN: dict[str, tuple[str, str, str, str]] = {
    "truncated": (f"{KVM}/debug.c", r"(?s)\tunsigned long mdscr, orig_mdcr_el2.*", "", "debug.c"),
    "unknown call": (f"{KVM}/debug.c", r"\tkvm_arm_setup_mdcr_el2\(vcpu\);\n\n", "\tmystery(vcpu);\n", "debug.c"),
    "a store elsewhere": (
        f"{KVM}/arm.c", r"(?m)^\tvcpu->cpu = cpu;", "\tvcpu->cpu = cpu;\n\tvcpu->arch.mdcr_el2 = 0;", "arm.c"),
}  # fmt: skip


@pytest.fixture(scope="module")
def tree() -> Path:
    trees = os.environ.get("KVM_TREES")
    if not trees or not Path(trees, "linux-source-6.1").is_dir():
        pytest.skip("KVM_TREES names no folder with linux-source-6.1 (tools/kernel-source fetches it)")
    return Path(trees, "linux-source-6.1")


@pytest.fixture
def changed(tree: Path, tmp_path: Path) -> Callable[[str, str, str], Path]:
    """A copy of the tree, by links but for one file, in which a pattern is replaced once."""

    def make(file: str, pattern: str, replacement: str) -> Path:
        new = tmp_path / "tree"
        _link(tree, new, Path(file).parts)
        text, count = re.subn(pattern, replacement, (tree / file).read_text(encoding="utf-8"), count=1)
        assert count == 1, f"{file} has nothing like {pattern}"
        (new / file).unlink()
        (new / file).write_text(text, encoding="utf-8")
        return new

    return make


def _link(old: Path, new: Path, parts: tuple[str, ...]) -> None:
    """Links the entries of a folder, but makes real folders on the way to one file."""
    new.mkdir(parents=True)
    for entry in old.iterdir():
        if parts and entry.name == parts[0] and entry.is_dir():
            _link(entry, new / entry.name, parts[1:])
        else:
            (new / entry.name).symlink_to(entry)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_c_loses_the_right_claims(
    name: str, changed: Callable[[str, str, str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, pattern, replacement, lost = BROKEN[name]
    results = tmp_path / "results.json"
    claims = (
        [] if name == WHOLE else [word for claim in (*lost, "init_debug_has_one_task") for word in ("--claim", claim)]
    )
    tree = str(changed(file, pattern, replacement))
    told = tmp_path / "results.ktap"
    code = main(["--kernel", tree, "--mode", "vhe", "--json", str(results), "--ktap", str(told), *claims])
    out = capsys.readouterr().out
    assert code == 1, out[-2000:]
    verdicts = {r["claim"]: r["verdict"] for r in json.loads(results.read_text())["results"]}
    assert {c: verdicts[c] for c in lost} == dict.fromkeys(lost, "VIOLATED")
    assert verdicts["init_debug_has_one_task"] == "PROVED"
    assert re.search(r"debug\.c:\d+: ", out), "no C line is named"
    assert name != WHOLE or len(out.splitlines()) <= 30, out
    (mode,) = ktap.read(told.read_text())
    failed = {test.name: test for test in mode.inside if not test.ok}
    assert not mode.ok and failed.keys() >= set(lost) and "init_debug_has_one_task" not in failed
    assert all(re.search(r"arch/arm64/kvm/debug\.c:\d+: ", "\n".join(failed[claim].log)) for claim in lost)


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_understood_is_unknown_with_its_place(
    name: str, changed: Callable[[str, str, str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    file, pattern, replacement, named = UNKNOWN[name]
    code = main(["--kernel", str(changed(file, pattern, replacement)), "--mode", "vhe", "--claim", "os_registers"])
    out = capsys.readouterr().out
    assert code == 3, out
    assert re.search(r"os_registers +UNKNOWN", out) and re.search(rf"  hangs on {named}(:\d+)?: ", out), out


def test_a_missing_header_is_refused(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = tmp_path / "tree"
    _link(tree, new, ("arch", "arm64", "include", "asm", "kvm_host.h"))
    (new / "arch/arm64/include/asm/kvm_host.h").unlink()
    assert main(["--kernel", str(new)]) == 125
    assert "kvm_host.h: missing from the tree" in capsys.readouterr().err


def test_paths_that_are_no_tree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--kernel", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err == f"formal.prove: {tmp_path}/nowhere: no such directory\n"
    assert main(["--kernel", str(tmp_path)]) == 2
    assert "not a Linux source tree" in capsys.readouterr().err
    file = tmp_path / "file"
    file.write_text("")
    assert main(["--kernel", str(file)]) == 2
    assert "not a directory" in capsys.readouterr().err


def test_bisect_maps_usage_errors(tmp_path: Path) -> None:
    assert main(["--kernel", str(tmp_path / "nowhere"), "--bisect"]) == 128


def test_a_missing_config_is_a_usage_error(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--kernel", str(tree), "--config", str(tmp_path / "none")]) == 2
    assert "no such configuration file" in capsys.readouterr().err


def test_a_real_copy_is_as_good_as_the_original(tree: Path, tmp_path: Path) -> None:
    """An edit that changes nothing (a comment) keeps every verdict."""
    new = tmp_path / "tree"
    _link(tree, new, ("arch", "arm64", "kvm", "debug.c"))
    target = new / KVM / "debug.c"
    target.unlink()
    shutil.copy(tree / KVM / "debug.c", target)
    target.write_text(target.read_text(encoding="utf-8") + "\n/* the end */\n", encoding="utf-8")
    assert main(["--kernel", str(new), "--mode", "nvhe"]) == 0


def test_a_run_is_shown_though_the_c_has_variables_that_it_does_not(
    changed: Callable[[str, str, str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The trap handler of OSLAR_EL1 is equal and in the trace; of what it reads, the run has one bit."""
    tree = changed("arch/arm64/include/asm/kvm_host.h", r"(?<=\()!!\(__vcpu_sys_reg\(vcpu, OSLSR_EL1\)", r"0 && \g<0>")
    code = main(["--kernel", str(tree), "--mode", "vhe", "--claim", "saved_before_modified_in_32_bits"])
    assert code == 1
    assert "trap_oslar_el1" in capsys.readouterr().out


def test_a_claim_that_is_proved_is_explained_by_the_trees_own_functions(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--kernel", str(tree), "--mode", "vhe", "--explain", "os_registers"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "os_registers (vhe): PROVED" in out and "then hw_mdcr_el2.TDOSA" in out
    assert re.search(r"follows from the lemmas .*; kvm_arm_setup_debug \(arch/arm64/kvm/debug\.c:\d+\);", out), out


class Terminal(io.StringIO):
    """A standard error that somebody looks at."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "file"])
def test_who_waits_is_told(
    terminal: bool,
    changed: Callable[[str, str, str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A terminal shows what is done, and the first claim that is lost when it is found; nothing else does."""
    file, pattern, replacement, lost = BROKEN["OS registers not trapped"]
    tree, told = changed(file, pattern, replacement), Terminal() if terminal else io.StringIO()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", told)
    asked = [word for claim in ("init_debug_has_one_task", *lost, "trace") for word in ("--claim", claim)]
    assert main(["--kernel", str(tree), "--mode", "vhe", "--format", "gcc", *asked]) == 1
    out, shown = capsys.readouterr().out, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", told.getvalue()).replace("\r", "\n")
    errors = out.splitlines()
    assert len(errors) == len(lost)
    for line, claim in zip(errors, lost, strict=True):
        assert re.match(rf"{tree}/{file}:\d+: error: {claim} \(vhe\): ", line)
    if not terminal:
        assert shown == ""
        return
    first = re.search(rf"^.*{file}:\d+: error: (\w+) ", shown, re.M)
    assert first and first[1] == lost[0] and shown.count(": error: ") == 1
    before, after = shown[: first.start()], shown[first.end() :]
    assert "0:00 tree: looking for what has changed" in before and "comparing the C with its description" in before
    assert f"1 lost: {lost[1]}" in after and "2 lost: trace" in after and "lost:" not in before
