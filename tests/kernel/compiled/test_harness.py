"""A run of a tree as C: what its functions leave is what the replay says, and a difference is told."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from formal.commands import prove
from formal.common.exit_codes import ExitCode
from formal.engines.equality import Questions
from formal.epochs import Mode
from formal.evidence.runs.replay import Replay
from formal.evidence.runs.traces import TraceBook
from formal.kernel.compiled.compiler import COMPILER, HarnessError
from formal.kernel.compiled.harness import Execution, Rerun, executions
from formal.kernel.lift.program import files_for, load, side_of
from formal.kernel.model.binding import Binding
from formal.kernel.source.tree import KernelTree
from formal.kernel.text.signs import read
from formal.scope.configuration import Configuration
from formal.tree.verdicts import compare
from tests.conftest import PROOFS

QEMU = "qemu-aarch64"
EPOCHS = {"5.10": "E4s", "6.1": "E8s", "6.12": "E8b", "7.3": "E13"}
SWITCHES = {"__activate_traps", "__deactivate_traps", "__debug_switch_to_guest", "__debug_switch_to_host"}
NO_FUNCTION = "no function of the tree that is lifted takes part in it"
HANDLERS = {"kvm_arch_vcpu_ioctl_set_guest_debug", "kvm_handle_guest_debug", "trap_debug_regs"}

needs_tools = pytest.mark.skipif(
    not (shutil.which(COMPILER) and shutil.which(QEMU)), reason=f"needs {COMPILER} and {QEMU}"
)


def tree_of(version: str) -> KernelTree:
    """A kernel tree, where there is one."""
    path = Path(os.environ.get("KVM_TREES", "trees"), f"linux-source-{version}")
    if not path.is_dir():
        pytest.skip("KVM_TREES names no folder with this tree (tools/kernel-source fetches it)")
    return KernelTree(path)


def run(line: str, folder: Path) -> tuple[int, list[str]]:
    """Compiles with the command that the program names; exit code and lines of the program."""
    subprocess.run(line, shell=True, check=True, cwd=folder)
    done = subprocess.run([QEMU, str(folder / "harness")], capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout.splitlines()


@needs_tools
@pytest.mark.parametrize(
    "version, mode", [("5.10", "vhe"), ("6.1", "vhe"), ("6.1", "nvhe"), ("6.12", "nvhe"), ("7.3", "vhe")]
)
def test_all_stored_runs_on_the_compiled_functions(version: str, mode: str, tmp_path: Path) -> None:
    tree, c = tree_of(version), Configuration(EPOCHS[version], mode)
    program = load(tree, files_for(tree, side_of(Mode(mode))))
    report = compare(program, Binding.of(program), read(tree), Mode(mode), Questions(None))
    assert report.system is not None
    replay, calls, steps = Replay(report.system), list[Execution](), 0
    for trace in TraceBook.read(PROOFS / "traces" / f"{c.stem}.json").traces:
        found = executions(replay, trace, report, program, tree)
        assert all(
            line.endswith("no function of the tree that is lifted takes part in it") for line in found.not_compiled
        )
        calls += [replace(call, number=steps + call.number) for call in found.calls]
        steps += len(trace.steps) + 1
    assert len(calls) > 150
    assert {call.subject.lifted.name for call in calls} >= SWITCHES | HANDLERS
    (tmp_path / "build").mkdir()
    text, units = Rerun(program, tree, Mode(mode), calls, tmp_path / "build").sources("all", "run.c", "run.d")
    (tmp_path / "run.c").write_text(text)
    (tmp_path / "run.d").mkdir()
    for name, unit in units.items():
        (tmp_path / "run.d" / name).write_text(unit)
    line = next(line for line in text.splitlines() if COMPILER in line).removeprefix(" *")
    count = len({call.number for call in calls})
    assert run(line, tmp_path) == (0, [f"{len(calls)} functions in {count} steps as in the replay"])


@needs_tools
@pytest.mark.parametrize("version, claim", [("6.1", "guest_mdscr_preserved"), ("7.3", "hpmn_preserved_in_guest")])
def test_the_command(version: str, claim: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree, file = tree_of(version), tmp_path / "run.c"
    arguments = ["--kernel", str(tree.path), "--mode", "vhe", "--explain", claim, "--harness", str(file)]
    assert prove.main([*arguments, "--vcd", str(tmp_path / "run.vcd")]) == ExitCode.OK
    out = capsys.readouterr().out
    assert f"written: {file}, and " in out and "is not compiled: " in out
    assert f"written: {tmp_path / 'run.vcd'}\n" in out
    line = next(line for line in out.splitlines() if line.strip().startswith(COMPILER)).strip()
    assert f" *   {line}" in file.read_text().splitlines()
    own = tmp_path / "run.d" / "mine.c"
    own.write_text("int mine;\n")
    assert prove.main(arguments) == ExitCode.USAGE
    assert "run.d has files of another kind, such as mine.c" in capsys.readouterr().err
    own.unlink()
    assert not any(str(tree.path) in unit.read_text() for unit in (tmp_path / "run.d").iterdir())
    code, lines = run(line, tmp_path)
    assert code == 0, lines
    assert re.fullmatch(r"[1-9]\d* functions in [1-9]\d* steps as in the replay", lines[0])
    # another expectation
    text = file.read_text()
    wanted = re.search(r"harness_wanted_0\[\] = \{ 0x0ULL, 0x0ULL, 0x0ULL, (0x\w+)ULL", text)
    assert wanted
    file.write_text(f"{text[: wanted.start(1)]}{int(wanted[1], 16) ^ 1:#x}{text[wanted.end(1) :]}")
    code, lines = run(line, tmp_path)
    assert code == 1 and len(lines) == 1
    assert re.fullmatch(r"step \d+, \w+: .+ is 0x\w+, and the replay says 0x\w+", lines[0])
    file.write_text(text)


@needs_tools
def test_another_function_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree, file = tree_of("6.1"), tmp_path / "run.c"
    arguments = ["--kernel", str(tree.path), "--mode", "vhe", "--explain", "guest_mdscr_preserved"]
    assert prove.main([*arguments, "--harness", str(file)]) == ExitCode.OK
    line = next(line for line in capsys.readouterr().out.splitlines() if line.strip().startswith(COMPILER)).strip()
    (unit,) = [
        u
        for u in (tmp_path / "run.d").iterdir()
        if "void kvm_arm_setup_debug(struct kvm_vcpu *vcpu)\n{" in u.read_text()
    ]
    text = unit.read_text()
    body = text.index("void kvm_arm_setup_debug(struct kvm_vcpu *vcpu)\n{")
    call = text.index("kvm_arm_setup_mdcr_el2(vcpu)", body)
    unit.write_text(text[:call] + text[call + len("kvm_arm_setup_mdcr_el2(vcpu)") :])
    code, lines = run(line, tmp_path)
    assert code == 1 and all("kvm_arm_setup_debug: " in line for line in lines)
    assert [line for line in lines if "vcpu->arch.mdcr_el2 is 0x" in line]


def test_what_is_refused(tmp_path: Path) -> None:
    tree = tree_of("6.1")
    with pytest.raises(HarnessError, match=r"^no step of the run executes a function that is lifted$"):
        Rerun(load(tree), tree, Mode.VHE, [], tmp_path)
    with pytest.raises(HarnessError, match=r"^the functions of protected mode work on a copy of the vCPU"):
        Rerun(load(tree), tree, Mode.PROTECTED, [], tmp_path)
