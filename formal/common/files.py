"""Files that a command writes and reads: what is replaced, what is written to, and what can be known beforehand.

A regular file is replaced in one step, so that readers and an interruption see the old one or the new one. A symbolic
link stays; what it points to is written. Devices, pipes and the descriptors of this process (``/dev/stdout``,
``/dev/fd/N``) are written to and never replaced. ``-`` is the standard output, or the standard input.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from formal.common.options import UsageError

STANDARD = Path("-")
_DESCRIPTORS = re.compile(r"/proc/(\d+)(?:/task/\d+)?/fd")
_LINKS = 40  # as many as the kernel follows
_BLOCK = 4096  # bytes; what a test writes, so that a full disk is told from one that has room
_FIXED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY, errno.EXDEV)  # a file here cannot be replaced


class NotWrittenError(Exception):
    """What was found could not be written; the message is one line that names the file."""


def is_standard(path: Path | None) -> bool:
    """Whether a path that an option names is the standard output or input of this process."""
    if path is None:
        return False
    try:
        return path == STANDARD or _followed(path) == 1
    except OSError:
        return False


def check_writable(path: Path) -> None:
    """Tries whether a path can be written, without touching what is there; makes the folders above it.

    Raises:
        OSError: with the path, if it cannot.
    """
    with _named(path):
        if path == STANDARD:
            return
        target = _followed(path)
        if isinstance(target, int):
            if fcntl.fcntl(target, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
                raise OSError(errno.EBADF, "not open for writing")
            return
        mode = _mode(target)
        if mode is not None and stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if mode is not None and stat.S_ISSOCK(mode):
            raise OSError(errno.ENXIO, "Is a socket")
        if mode is not None and not os.access(target, os.W_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        if mode is not None and not stat.S_ISREG(mode):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write_new(target, b"\0" * _BLOCK, None)
        except OSError as error:
            if mode is None or error.errno not in _FIXED:
                raise


def check_folder(path: Path) -> None:
    """Makes a folder that is to be filled, and tries whether files can be made in it.

    Raises:
        UsageError: with one line that names it, if they cannot.
    """
    if path == STANDARD:
        raise UsageError(f"{path}: is the standard output, where a folder is needed")
    try:
        path.mkdir(parents=True, exist_ok=True)
        _write_new(path / "new", b"\0" * _BLOCK, None)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error


def write_file(path: Path, content: str | bytes, *, sync: bool = True) -> None:
    """Writes a file, device, pipe or descriptor; a regular file is replaced in one step, its mode is kept.

    Args:
        sync: whether to wait until the disk has it; of many files that belong together, none needs that alone.

    Raises:
        OSError: with the path, if it cannot be written; a regular file is then as it was.
        UnicodeEncodeError: if the text has characters that UTF-8 has not; nothing was written then.
    """
    data = content.encode() if isinstance(content, str) else content
    with _named(path):
        if path == STANDARD:
            _write_text(sys.stdout, data)
            return
        target = _followed(path)
        if isinstance(target, int):
            sys.stdout.flush()
            _write_all(target, data)
            return
        mode = _mode(target)
        if mode is not None and not stat.S_ISREG(mode):
            _write_into(target, data, 0)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write_new(target, data, target, sync)
        except OSError as error:  # a file that was mounted alone, or a folder that takes no new ones
            if mode is None or error.errno not in _FIXED:
                raise
            _write_into(target, data, os.O_TRUNC)


def read_file(path: Path) -> bytes:
    """What a file, a device, a pipe or, for ``-``, the standard input has.

    Raises:
        OSError: with the path, if it cannot be read.
    """
    with _named(path):
        if path != STANDARD:
            return path.read_bytes()
        if sys.stdin is None:
            raise OSError(errno.EBADF, "the standard input is closed")
        return sys.stdin.buffer.read() if hasattr(sys.stdin, "buffer") else sys.stdin.read().encode()


@dataclass
class Outputs:
    """The files that the options of one command name, by option; where several go, one that fails stops no other.

    While ``kept_apart`` lasts, text for people goes to the standard error if a file is the standard output.
    """

    files: Mapping[str, Path | None]
    stdout: TextIO = field(default_factory=lambda: sys.stdout)
    failed: list[str] = field(default_factory=list)  # a line for each file that could not be written

    def __bool__(self) -> bool:
        return any(self.files.values())

    def check(self) -> None:
        """Refuses what cannot be written, and the same place twice.

        Raises:
            UsageError: with one line that names the file.
        """
        seen: dict[object, str] = {}
        for option, path in self.files.items():
            if path is None:
                continue
            try:
                check_writable(path)
                place = 1 if path == STANDARD else _followed(path)
            except OSError as error:
                raise UsageError(f"{path}: {error.strerror}") from error
            if place in seen:
                raise UsageError(f"{seen[place]} and {option} write different files, got the same one twice")
            seen[place] = option

    @contextmanager
    def kept_apart(self) -> Iterator[None]:
        """Keeps the standard output for the file that goes there, if one does."""
        if any(is_standard(path) for path in self.files.values()):
            with redirect_stdout(sys.stderr):
                yield
        else:
            yield

    def write(self, option: str, content: str | bytes) -> list[str]:
        """Writes the file of an option, if it is given; a line that says so. A failure is kept for ``finish``."""
        path = self.files[option]
        if path is None:
            return []
        try:
            if is_standard(path):
                _write_text(self.stdout, content.encode() if isinstance(content, str) else content)
            else:
                write_file(path, content)
        except OSError as error:
            self.failed.append(f"{path}: {error.strerror}: {option} was not written")
            return []
        return [f"written: {path}"]

    def finish(self) -> None:
        """Raises ``NotWrittenError`` with a line for each file that could not be written."""
        if self.failed:
            raise NotWrittenError("\n".join(self.failed))


# ---- where a path leads


def _followed(path: Path) -> Path | int:
    """The end of a chain of links, which need not exist; or the number of a descriptor of this process."""
    for _ in range(_LINKS):
        here = Path(os.path.realpath(path.parent)) / path.name
        if (at := _DESCRIPTORS.fullmatch(str(here.parent))) and here.name.isdigit():
            if int(at[1]) != os.getpid():
                return here  # of another process: opened, not followed
            os.fstat(int(here.name))
            return int(here.name)
        if not here.is_symlink():
            return here
        path = here.parent / os.readlink(here)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _mode(path: Path) -> int | None:
    """The mode of what is there; None if there is nothing."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors name the path that the user gave."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


# ---- how it is written


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _write_text(stream: TextIO, data: bytes) -> None:
    stream.flush()
    stream.write(data.decode())
    stream.flush()


def _write_into(path: Path, data: bytes, flags: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC | flags)
    try:
        _write_all(descriptor, data)
    finally:
        os.close(descriptor)


def _write_new(beside: Path, data: bytes, replaces: Path | None, sync: bool = False) -> None:
    """Writes a file without a name in a folder, then gives it one that replaces another; without one, it is gone.

    Without a name it vanishes with the process, however that ends. Where the file system has no such files, it has a
    name from the beginning.
    """
    folder = beside.parent
    name = folder / f".{beside.name[:200]}.{secrets.token_hex(6)}"
    named = False
    try:
        try:
            descriptor = os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o666)
        except (OSError, AttributeError) as error:
            if getattr(error, "errno", errno.EOPNOTSUPP) not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
                raise
            descriptor = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)
            named = True
        try:
            _write_all(descriptor, data)
            if replaces is not None:
                _keep_mode(descriptor, replaces)
                if sync:
                    os.fsync(descriptor)
                if not named:
                    os.link(f"/proc/self/fd/{descriptor}", name, src_dir_fd=descriptor)  # src_dir_fd: follows the link
                    named = True
        finally:
            os.close(descriptor)
        if replaces is not None:
            os.replace(name, replaces)
            named = False
    finally:
        if named:
            name.unlink(missing_ok=True)


def _keep_mode(descriptor: int, old: Path) -> None:
    """Gives a new file the mode and, where that is allowed, the owner of the old one."""
    try:
        was = old.stat()
    except FileNotFoundError:
        return
    with suppress(PermissionError):
        os.fchown(descriptor, was.st_uid, was.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(was.st_mode))
