"""No process and no folder outlives a command, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from formal.common.lifetime import PREFIX, Scratch, ScratchError, remove_left_behind
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes end with their parent on Linux only")

AT_WORK = """
import os, sys, time
from functools import partial
from pathlib import Path
from formal.common.lifetime import Scratch, run
from formal.common.processes import Beside, in_turn

def told(text):
    os.write(1, f"{text} {os.getpid()}\\n".encode())

def works(kind):
    if kind == "program":
        run(["sh", "-c", "echo program $$; exec sleep 600"])
    told(kind)
    with Scratch("worker-") as folder:
        (folder / "file").write_text("x")
        time.sleep(600)
    yield

folder = Scratch("one-")
(folder.path / "file").write_text("x")
told("parent")
kind = sys.argv[1]
if kind == "beside":
    with Beside(lambda: [*works(kind)], fork=True) as beside:
        beside.result()
else:
    for _ in in_turn([partial(works, kind)] * 2):
        pass
"""


def soon(condition: Callable[[], bool]) -> bool:
    for _ in range(200):
        if condition():
            return True
        time.sleep(0.05)
    return False


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody waits for has, too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("kind", ["beside", "in_turn", "program"])
def test_a_run_that_is_killed_leaves_nothing(tmp_path: Path, kind: str, number: signal.Signals) -> None:
    heard = f"import signal; signal.signal({int(number)}, signal.SIG_DFL)\n"  # nohup makes all below it deaf to SIGHUP
    process = subprocess.Popen(
        [sys.executable, "-c", AT_WORK if number == signal.SIGKILL else heard + AT_WORK, kind],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    lines = [process.stdout.readline().split() for _ in range(2 if kind == "beside" else 3)]
    pids = [int(pid) for _, pid in lines]
    assert {name for name, _ in lines} == {"parent", kind}
    assert soon(lambda: any(tmp_path.glob("*/*/file")))
    assert not any(gone(pid) for pid in pids)
    process.send_signal(number)
    process.wait(timeout=60)
    assert soon(lambda: all(gone(pid) for pid in pids)), "a process is left"
    assert soon(lambda: not os.listdir(tmp_path)), f"left: {os.listdir(tmp_path)}"


def test_what_a_dead_run_has_left_is_removed_by_the_next(tmp_path: Path) -> None:
    script = "import os; from formal.common.lifetime import Scratch; s = Scratch(); print(s.path, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        (tmp_path / f"{PREFIX}dead").mkdir()
        (tmp_path / f"{PREFIX}dead" / "file").write_text("x")
        (tmp_path / "other").mkdir()
        remove_left_behind(tmp_path)
        assert folder.is_dir(), "of a run that is at work"
        process.communicate("\n")
    assert os.listdir(tmp_path) == ["other"]


def test_a_folder_ends_with_its_object(tmp_path: Path) -> None:
    one, two = Scratch("one-"), Scratch("two-")
    (one.path / "file").write_text("x")
    assert one.path.parent == two.path.parent
    place = one.path
    with two as folder:
        assert folder.is_dir()
    assert not folder.exists()
    del one
    assert not place.exists()


def test_a_forked_copy_removes_nothing() -> None:
    with Scratch() as folder:
        if (child := os.fork()) == 0:
            import gc

            gc.collect()
            os._exit(0)
        os.waitpid(child, 0)
        assert folder.is_dir()


@pytest.mark.parametrize("place", ["none", "file"])
def test_no_place_is_one_line(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    script = "from formal.common.lifetime import *\ntry:\n Scratch()\nexcept ScratchError as e: print(e)"
    env = {**os.environ, "TMPDIR": str(tmp_path / place)}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert done.stdout == f"no temporary folder: No such file or directory: {tmp_path / place}\n"
    assert issubclass(ScratchError, Exception)


TAKEN = """
import os
from formal.common.lifetime import PREFIX, Scratch
real, taken = os.open, []

def open_later(path, *more, **of):
    if PREFIX in str(path) and not taken:
        taken.append(path)
        os.rmdir(path)
    return real(path, *more, **of)

os.open = open_later
folder = Scratch()
print(folder.path.is_dir(), len(taken))
"""


def test_a_folder_that_another_run_takes_for_a_left_one_is_made_again(tmp_path: Path) -> None:
    """It was made, and no lock was on it yet when the other run looked."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", TAKEN], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("True 1\n", "")
