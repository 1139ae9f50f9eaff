"""What debug.c promises is told by what it says and by what it does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from formal.kernel.compare.behaviours import DEBUG_C, _by_comment
from formal.kernel.source.tree import KernelTree
from tests.kernel.conftest import tree_path
from tests.kernel.mutants import linked_copy


@pytest.mark.parametrize(("version", "lock"), [("5.10", False), ("6.1", True), ("7.3", True)])
def test_comments_that_are_left_out_take_nothing_back(version: str, lock: bool, tmp_path: Path) -> None:
    path = linked_copy(tree_path(version), tmp_path, DEBUG_C)
    promised = {"documents_trace_traps": True, "documents_os_lock": lock}
    assert _by_comment(KernelTree(tmp_path)) == promised
    code = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.S)
    path.write_text(code)
    assert _by_comment(KernelTree(tmp_path)) == promised
    path.write_text(re.sub(r"\bkvm_vcpu_os_lock_enabled\b", "elsewhere", code).replace("MDCR_EL2_TTRF", "0"))
    assert not any(_by_comment(KernelTree(tmp_path)).values())
