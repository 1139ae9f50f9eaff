"""A run of a tree from v6.14 on as C: what its functions leave is what the replay says, and a difference is told."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from formal import command
from formal.epochs import Mode
from formal.kernel.front import load
from formal.kernel.harness import COMPILER, HarnessError
from formal.kernel.rerun import Rerun
from tests.kernel.test_harness import QEMU, needs_tools, tree_of

CLAIM = "hpmn_preserved_in_guest"


@needs_tools
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree, file = tree_of("7.3"), tmp_path / "run.c"
    arguments = ["--kernel", str(tree.path), "--mode", "vhe", "--explain", CLAIM, "--harness", str(file)]
    assert command.main(arguments) == command.OK
    out = capsys.readouterr().out
    assert f"written: {file}, and " in out and "is not compiled: " in out
    line = next(line for line in out.splitlines() if line.strip().startswith(COMPILER)).strip()
    assert f" *   {line}" in file.read_text().splitlines()
    own = tmp_path / "run.d" / "mine.c"
    own.write_text("int mine;\n")
    assert command.main(arguments) == command.USAGE
    assert "run.d has files of another kind, such as mine.c" in capsys.readouterr().err
    own.unlink()
    assert not any(str(tree.path) in unit.read_text() for unit in (tmp_path / "run.d").iterdir())

    def run() -> tuple[int, list[str]]:
        subprocess.run(line, shell=True, check=True, cwd=tmp_path)
        done = subprocess.run([QEMU, str(tmp_path / "harness")], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout.splitlines()

    code, lines = run()
    assert code == 0, lines
    assert re.fullmatch(r"[1-9]\d* functions in [1-9]\d* steps as in the replay", lines[0])
    text = file.read_text()
    wanted = re.search(r"harness_wanted_0\[\] = \{ 0x0ULL, 0x0ULL, 0x0ULL, (0x\w+)ULL", text)
    assert wanted
    file.write_text(f"{text[: wanted.start(1)]}{int(wanted[1], 16) ^ 1:#x}{text[wanted.end(1) :]}")
    code, lines = run()
    assert code == 1 and len(lines) == 1
    assert re.fullmatch(r"step \d+, \w+: .+ is 0x\w+, and the replay says 0x\w+", lines[0])


def test_no_step_is_refused(tmp_path: Path) -> None:
    tree = tree_of("6.1")
    with pytest.raises(HarnessError, match=r"^no step of the run executes a function that is lifted$"):
        Rerun(load(tree), tree, Mode.VHE, [], tmp_path)
