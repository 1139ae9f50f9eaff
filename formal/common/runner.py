"""How a command is run: what goes wrong is a line and an exit code, whatever it is and wherever it happens."""

from __future__ import annotations

import atexit
import errno
import gc
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NoReturn

from formal.common.exit_codes import ExitCode
from formal.common.files import NotWrittenError
from formal.common.options import UsageError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE)
_LITTLE = 1 << 16  # bytes; a disk with less is full
Failures = Mapping[type[Exception], tuple[ExitCode, str]]  # how an exception ends a command, and begins its line


def run(name: str, work: Callable[[], int], failures: Failures | None = None) -> int:
    """Does the work of a command; returns the exit code.

    Args:
        name: what messages begin with, such as ``formal.prove``.
        work: the command; returns an exit code.
        failures: exceptions with one line for the user that are neither misuse nor a fault of the tool.
    """
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # as long as the process
    if sys.stdout is None:
        return _failed(name, ExitCode.NOT_WRITTEN, "the standard output is closed")
    try:
        try:
            code = work()
        except SystemExit as ended:  # as --help and --version end, and rich where nobody reads its output
            if ended.code:
                raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)) from ended
            code = ExitCode.OK
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _failed(name, ExitCode.INTERRUPTED, "interrupted; nothing was written")
    except Exception as error:
        code, line = _meaning(error, failures or {})
        if code == ExitCode.INTERNAL and not isinstance(error, tuple(failures or {})):
            traceback.print_exc()
        return _failed(name, code, line)


def _meaning(error: Exception, failures: Failures) -> tuple[ExitCode, str]:
    """How an exception ends the command, and its line."""
    for kind, (code, begins) in failures.items():
        if isinstance(error, kind):
            return code, f"{begins}{error}"
    if isinstance(error, UsageError):
        return ExitCode.USAGE, str(error)
    if isinstance(error, NotWrittenError):
        return ExitCode.NOT_WRITTEN, str(error)
    if isinstance(error, OSError) and error.errno is not None:
        code = ExitCode.NOT_WRITTEN if error.errno in _NO_ROOM else ExitCode.USAGE
        return code, f"{_where(error)}: {error.strerror}"
    return ExitCode.INTERNAL, f"internal error: {type(error).__name__}: {error}"


def _where(error: OSError) -> str:
    """What could not be written: an error of a file that is open does not name it."""
    if error.filename:
        return str(error.filename)
    if error.errno == errno.ENOSPC:
        from formal.common.lifetime import place

        disk = os.statvfs(place())
        if disk.f_bavail * disk.f_frsize < _LITTLE:
            return f"a temporary file in {place()}"
    _drop_output()
    return "standard output"


def _drop_output() -> None:
    """Keeps the end of the process from writing what could not be written once more."""
    with suppress(io.UnsupportedOperation):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _failed(name: str, code: ExitCode, text: str) -> ExitCode:
    """Says why the command ends; what was printed before comes first, if it can be."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        _drop_output()
    with suppress(OSError):
        for line in text.splitlines() or [""]:
            sys.stderr.write(f"{name}: {line}\n")
        sys.stderr.flush()
    return code


def start(name: str, load: Callable[[], Callable[[], int]]) -> NoReturn:
    """Runs a command as a process: loads it, runs it, ends.

    An interruption while Z3 and the rest are being imported ends the command as any other does.
    """

    def interrupted(*_: object) -> None:
        os.write(2, f"{name}: interrupted; nothing was written\n".encode())
        os._exit(ExitCode.INTERRUPTED)

    gc.set_threshold(100_000, 50, 100)  # terms are many, and in no cycles: the default would look through them often
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupted)
    try:
        main = load()
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and not (error.name or "formal").startswith("formal"):
            os.write(2, f"{name}: {error.name} is not installed for {sys.executable}: README.md, Start\n".encode())
            os._exit(ExitCode.USAGE)
        traceback.print_exc()
        os.write(2, f"{name}: internal error: {type(error).__name__}: {error}\n".encode())
        os._exit(ExitCode.INTERNAL)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    code = main()
    with suppress(OSError, AttributeError):  # the output was dealt with by ``run``; a closed one is None
        sys.stdout.flush()
        sys.stderr.flush()
    atexit._run_exitfuncs()  # temporary directories go
    os._exit(code)  # taking Z3's memory apart term by term takes as long as importing it
