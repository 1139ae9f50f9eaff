"""Kernel trees for the tests: directories linux-source-* below the directory that KVM_TREES names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from formal.kernel.lift.program import Program, load
from formal.kernel.source.tree import KVM, KernelTree

RELEASES = ("5.10", "6.1", "6.12")
FILES = tuple(f"{KVM}/{name}.c" for name in ("debug", "sys_regs", "hyp/vhe/debug-sr"))


def tree_path(release: str) -> Path:
    """The tree of a release, or a skip that says what is missing."""
    place = os.environ.get("KVM_TREES")
    if not place:
        pytest.skip("KVM_TREES does not name a directory with kernel trees (linux-source-6.1, ...)")
    path = Path(place, f"linux-source-{release}")
    if not path.is_dir():
        pytest.skip(f"no {path.name} in the directory that KVM_TREES names")
    return path


@pytest.fixture(scope="session", params=RELEASES)
def program(request: pytest.FixtureRequest) -> Program:
    """Each release's tree with the files of debug.c's functions parsed."""
    return load(KernelTree(tree_path(request.param)), FILES)
