"""What must not outlive a command, however it ends: the processes that it starts, the folders that it fills.

A process of ours is ended by the kernel when the one that started it is gone (PR_SET_PDEATHSIG of prctl(2)). All
folders of a run lie in one, which a shell removes that waits for the run's end at a pipe; should that shell be killed
as well, the next run removes the folder, since nobody holds its lock any more.
"""

from __future__ import annotations

import atexit
import ctypes
import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache, partial
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

from formal.common.files import STANDARD, NotWrittenError, read_file

PREFIX = "kvm-debug-trap-proofs-"
_PR_SET_PDEATHSIG = 1  # from the kernel's include/uapi/linux/prctl.h
_WAIT_AND_REMOVE = 'read -r _; rm -rf -- "$1" 2>/dev/null || { sleep 1; rm -rf -- "$1" 2>/dev/null; }'


class ScratchError(NotWrittenError):
    """There is no place for files that are needed while a command runs; the message is one line."""


# ---- processes


@cache
def _prctl() -> Callable[[int, int], int] | None:
    """prctl(2); none elsewhere than on Linux."""
    return ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def end_with(parent: int) -> None:
    """Ends this process when another one ends, which has started it and may have ended already."""
    if (prctl := _prctl()) is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def end_with_parent() -> None:
    """As ``end_with``, in a process that multiprocessing has forked."""
    if (parent := parent_process()) is not None and parent.pid is not None:
        end_with(parent.pid)


def bound() -> Callable[[], None]:
    """What a program that is started has to call first (``preexec_fn``), so that it does not outlive this process."""
    _prctl()
    return partial(end_with, os.getpid())


def run(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[Any]:
    """``subprocess.run`` of a program that does not outlive this process."""
    return subprocess.run(command, preexec_fn=bound(), **options)


# ---- folders and files


class Scratch:
    """An empty folder that is removed with this object, or with this process and those that it has forked.

    Raises:
        ScratchError: if there is no place for it.
    """

    def __init__(self, prefix: str = "") -> None:
        try:
            self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=_folder_of_this_run()))
        except OSError as error:
            raise ScratchError(f"no temporary folder: {error.strerror}: {error.filename or place()}") from error
        self._remove = weakref.finalize(self, _removed, self.path, os.getpid())

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Removes the folder with all that is in it."""
        self._remove()


def read_once(path: Path | None, kept: ExitStack) -> Path | None:
    """A path that can be read as often as is needed: what the standard input or a pipe has is kept until the end."""
    if path is None or (path != STANDARD and (path.is_file() or path.is_dir() or not path.exists())):
        return path
    copy = kept.enter_context(Scratch("input-")) / "input"
    copy.write_bytes(read_file(path))
    return copy


def place() -> str:
    """Where temporary folders are made: ``TMPDIR`` if it is set, and no other place then.

    Raises:
        OSError: if none of the usual places can be used.
    """
    return os.environ.get("TMPDIR") or tempfile.gettempdir()


def _removed(folder: Path, owner: int) -> None:
    """Removes a folder in the process that made it: a forked one has a copy of the object, too."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


@cache
def _folder_of_this_run() -> Path:
    """The folder that all others lie in; forked processes share it."""
    top = Path(place())
    if not top.is_dir():
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), str(top))
    remove_left_behind(top)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=top))
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:  # another run took it for one that was left behind
            continue
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():  # else another run took it after that
            break
        os.close(lock)
    if shell := shutil.which("sh"):
        waiting = subprocess.Popen(
            [shell, "-c", _WAIT_AND_REMOVE, "sh", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # what ends a terminal's processes does not end it
            cwd="/",
        )
        atexit.register(_end, folder, os.getpid(), waiting)
    else:
        atexit.register(_removed, folder, os.getpid())
    return folder


def _end(folder: Path, owner: int, waiting: subprocess.Popen[bytes]) -> None:
    _removed(folder, owner)
    if os.getpid() == owner and waiting.stdin is not None:
        waiting.stdin.close()
        waiting.wait()


def remove_left_behind(top: Path) -> None:
    """Removes the folders below ``top`` of runs of this user that have ended without removing them."""
    for folder in top.glob(f"{PREFIX}*"):
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue  # another user's, or gone meanwhile
        try:
            if os.fstat(lock).st_uid == os.getuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            continue  # at work
        finally:
            os.close(lock)
