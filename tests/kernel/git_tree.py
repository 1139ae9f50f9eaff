"""A kernel tree as a git repository."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from formal.kernel.source.git import is_read
from tests.kernel.source.test_git import commit, git


def repository_of(source: Path, folder: Path) -> Path:
    """A repository with one commit of what is read of a tree."""
    for directory, _, files in os.walk(source):
        below = Path(directory).relative_to(source)
        for name in files:
            if is_read(str(below / name)) and not (Path(directory) / name).is_symlink():
                (folder / below).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(Path(directory) / name, folder / below / name)
    git(folder, "init", "-q")
    git(folder, "config", "gc.auto", "0")
    commit(folder, source.name)
    return folder
