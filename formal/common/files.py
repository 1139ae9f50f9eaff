"""Files that a run is to write: whether they can be written is known before anything is proved."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path


def check_writable(paths: Iterable[Path]) -> None:
    """Tries each file's folder with a file of another name; what is there is not touched.

    Raises:
        OSError: with the path that was asked for, if it cannot be written.
    """
    for path in paths:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):
                pass
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file by ``text`` in one step: readers, and an interruption, see the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
