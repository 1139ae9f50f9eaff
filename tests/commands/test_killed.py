"""A command that is killed at work, by whatever signal: no process and no file of it is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.kernel.conftest import tree_path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes end with their parent on Linux only")

COMMANDS: dict[str, Callable[[], list[str]]] = {
    "prove": lambda: ["prove", "-j", "2"],
    "tree": lambda: ["prove", "--kernel", str(tree_path("6.1")), "--no-cache", "-j", "2"],
    "base": lambda: ["prove", "--kernel", str(tree_path("6.1")), "--base", str(tree_path("6.1")), "-j", "2"],
    "mutate": lambda: ["mutate", str(tree_path("6.1")), "--sample", "40", "-j", "2"],
    "check": lambda: ["check", "-j", "2"],
}


def marked(mark: str) -> dict[int, str]:
    """The processes with a mark in their environment that are not about to end, and their command lines."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                if mark.encode() in (entry / "environ").read_bytes() and state not in "ZX":
                    found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue  # gone meanwhile, or another user's
    return found


def soon(condition: Callable[[], bool], seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return condition()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_is_left(command: str, number: signal.Signals, tmp_path: Path) -> None:
    words = COMMANDS[command]()
    mark = f"FORMAL_TEST_MARK={tmp_path}"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    env = {**os.environ, "TMPDIR": str(scratch), "FORMAL_TEST_MARK": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "formal", *words],
        cwd=ROOT,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        at_work = soon(lambda: len(marked(mark)) > 2 or process.poll() is not None)
        assert at_work and process.poll() is None, "it ended before it could be killed"
        process.send_signal(number)
        assert process.wait(60) == (130 if number == signal.SIGTERM else -number)
        assert soon(lambda: not marked(mark)), f"left: {marked(mark)}"
        assert soon(lambda: not os.listdir(scratch)), f"left: {os.listdir(scratch)}"
        assert [p.name for p in tmp_path.iterdir()] == ["scratch"]
    finally:
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)
