"""Options that read a file: a pipe and the standard input are read, once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.kernel.conftest import tree_path

TRACE = ROOT / "tests/conform/golden/6.1-vhe.txt"


def run(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment, "PYTHON": sys.executable}
    return subprocess.run(["bash", "-c", line], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("{command} - <{file}", "standard input"),
        ("cat {file} | {command} -", "standard input"),
        ("{command} <(cat {file})", None),
        ("{command} /dev/stdin <{file}", "stdin"),
    ],
)
def test_a_trace(line: str, name: str | None) -> None:
    done = run(line.format(command="$PYTHON -m formal conform trace --epoch v6.1 --mode vhe", file=TRACE))
    assert (done.returncode, done.stderr) == (0, "")
    assert name is None or done.stdout.startswith(f"{name}: ")
    assert "every event is explained" in done.stdout


def test_the_standard_input_is_closed() -> None:
    done = run("$PYTHON -m formal conform trace - <&-")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "formal.conform trace: -: the standard input is closed\n"


@pytest.mark.parametrize("line", ["{command} --config - <{file}", "{command} --config <(cat {file})"])
def test_a_configuration(line: str, tmp_path: Path) -> None:
    """Of a kernel without KVM: no other is so easily told from the tree's own."""
    tree = tree_path("6.1")
    config = tmp_path / "config"
    config.write_text("CONFIG_ARM64=y\n# CONFIG_VIRTUALIZATION is not set\n")
    command = f"$PYTHON -m formal prove --kernel {tree} --mode nvhe --claim trace -j 1 --no-cache"
    as_file = run(f"{command} --config {config}")
    piped = run(line.format(command=command, file=config))
    assert as_file.returncode not in (0, 4)
    assert piped.returncode == as_file.returncode
    assert piped.stderr.replace("input", "config")[-60:] == as_file.stderr[-60:]
