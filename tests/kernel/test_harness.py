"""The functions of debug.c, compiled for aarch64 and run under QEMU, do what the replay of a run says they do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from formal import command
from formal.configuration import Configuration
from formal.epochs import Kernel, Mode
from formal.evidence.replay import Replay
from formal.evidence.traces import Trace, TraceBook
from formal.kernel.behaviours import DEBUG_C
from formal.kernel.binding import Binding, flags_of
from formal.kernel.compare import counterparts
from formal.kernel.front import load
from formal.kernel.harness import COMPILER, OPTIONS, Call, HarnessError, calls, program
from formal.kernel.tree import KernelTree
from formal.system import System
from formal.transitions import OPERATIONS
from tests.conftest import PROOFS

QEMU = "qemu-aarch64"
EPOCHS = {"5.10": "E4s", "6.1": "E8", "6.12": "E8"}

needs_tools = pytest.mark.skipif(
    not (shutil.which(COMPILER) and shutil.which(QEMU)), reason=f"needs {COMPILER} and {QEMU}"
)


def tree_of(version: str) -> KernelTree:
    """A kernel tree, where there is one."""
    path = Path(os.environ.get("KVM_TREES", "trees"), f"linux-source-{version}")
    if not path.is_dir():
        pytest.skip("KVM_TREES names no folder with this tree (tools/kernel-source fetches it)")
    return KernelTree(path)


def all_calls(tree: KernelTree, version: str, mode: str) -> Iterator[Call]:
    """The calls in all stored runs of the epoch that the tree belongs to, numbered through."""
    lifted = load(tree, [DEBUG_C])
    functions = {name: lifted.lift(name, mode, file=DEBUG_C) for name in lifted.functions(DEBUG_C)}  # type: ignore[arg-type]
    found = counterparts(OPERATIONS, functions, Binding(flags_of(tree)))
    c = Configuration(EPOCHS[version], mode)
    replay, number = Replay(System(c.kernel())), 0
    for trace in TraceBook.read(PROOFS / "traces" / f"{c.stem}.json").traces:
        for call in calls(replay, trace, found):
            number += 1
            yield replace(call, number=number)


def run(text: str, folder: Path) -> tuple[int, list[str]]:
    """Exit code and lines of a program."""
    source, binary = folder / "harness.c", folder / "harness"
    source.write_text(text)
    subprocess.run([COMPILER, *OPTIONS, "-o", str(binary), str(source)], check=True)
    done = subprocess.run([QEMU, str(binary)], capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout.splitlines()


@needs_tools
@pytest.mark.parametrize("mode", ["vhe", "nvhe"])
@pytest.mark.parametrize("version", EPOCHS)
def test_all_stored_runs_on_the_compiled_functions(version: str, mode: str, tmp_path: Path) -> None:
    tree = tree_of(version)
    steps = list(all_calls(tree, version, mode))
    assert len(steps) > 50
    assert {s.function for s in steps} >= {"kvm_arm_init_debug", "kvm_arm_setup_debug", "kvm_arm_clear_debug"}
    text = program(tree, mode == "vhe", steps, "all stored runs")
    assert run(text, tmp_path) == (0, [f"{len(steps)} steps as in the replay"])


@needs_tools
def test_what_differs_is_said(tmp_path: Path) -> None:
    tree = tree_of("6.1")
    steps = list(all_calls(tree, "6.1", "vhe"))
    text = program(tree, True, steps, "damaged")
    # another function
    body = text.index("void kvm_arm_setup_debug(struct kvm_vcpu *vcpu)\n{")
    call = text.index("kvm_arm_setup_mdcr_el2(vcpu);", body)
    code, lines = run(text[:call] + text[call + len("kvm_arm_setup_mdcr_el2(vcpu)") :], tmp_path)
    assert code == 1 and all("kvm_arm_setup_debug: " in line for line in lines)
    assert [line for line in lines if "vcpu->arch.mdcr_el2 is 0x" in line]
    # another expectation
    found = list(
        re.finditer(r'harness_expect\("(step \d+, kvm_arm_init_debug: )", "(percpu.mdcr_el2)", .*, 0x\w+ULL', text)
    )
    code, lines = run(text[: found[0].end()] + " ^ 1" + text[found[0].end() :], tmp_path)
    assert code == 1 and len(lines) == 1
    assert lines[0].startswith(f"{found[0][1]}percpu.mdcr_el2 is 0x") and ", and the replay says 0x" in lines[0]
    # a BUG_ON, and a register that there is not
    setup = next(s for s in steps if s.function == "kvm_arm_setup_debug" and not s.found["vcpu->guest_debug"])
    wrong = replace(setup, found={**setup.found, "vcpu->arch.debug_ptr": 1})
    assert run(program(tree, True, [wrong], ""), tmp_path) == (2, ["BUG_ON"])
    only = [s for s in steps if s.function == "kvm_arm_init_debug"][:1]
    text = program(tree, True, only, "").replace('{ "mdcr_el2", 0 }', '{ "x", 0 }')
    assert run(text, tmp_path)[1][-1] == "a register that the run does not have: mdcr_el2"


@needs_tools
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = tree_of("6.1")
    file = tmp_path / "run.c"
    one = ["--kernel", str(tree.path), "--mode", "vhe", "--explain", "guest_mdscr_preserved"]
    assert command.main([*one, "--harness", str(file), "--vcd", str(tmp_path / "run.vcd")]) == command.OK
    out = capsys.readouterr().out
    assert f"written: {file}\n" in out and f"written: {tmp_path / 'run.vcd'}\n" in out
    text = file.read_text()
    assert " ".join(OPTIONS) in text.splitlines()[2]
    code, lines = run(text, tmp_path)
    assert code == 0 and re.fullmatch(r"[1-9]\d* steps as in the replay", lines[0])


def test_misuse(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tree_of("6.1")
    with pytest.raises(HarnessError, match=r"no step of the run is a function of debug\.c"):
        program(tree, True, [], "")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(HarnessError, match=f"--harness needs {COMPILER}"):
        program(tree, True, [Call(1, "f", {}, {})], "")


def test_the_debug_c_of_later_releases_is_refused() -> None:
    kernel = Kernel(Mode.VHE, tracks_debug_owner=True)
    with pytest.raises(HarnessError, match=r"^from v6\.14 on "):
        list(calls(Replay(System(kernel)), Trace({}, ()), {}))
