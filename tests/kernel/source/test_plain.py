"""A file of a tree that is no text, and one that does not parse, are told in one line each."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from formal.kernel.errors import DOES_NOT_PARSE, Gap, NotUnderstoodError
from formal.kernel.source.tree import KernelTree
from formal.report.tree import _not_understood


def test_utf_16_is_refused_and_other_bytes_are_not(tmp_path: Path) -> None:
    tree = SimpleNamespace(path=tmp_path)
    (tmp_path / "a.c").write_bytes("int a;\n".encode("utf-16"))
    (tmp_path / "b.c").write_bytes(b"/* caf\xe9 */\n")
    with pytest.raises(NotUnderstoodError, match=r"^a\.c:1: is no UTF-8 text"):
        KernelTree.plain(tree, "a.c")  # type: ignore[arg-type]
    assert KernelTree.plain(tree, "b.c").startswith("/* caf")  # type: ignore[arg-type]


def test_what_does_not_parse_reads_as_a_compiler_says_it() -> None:
    gap = Gap("a.c", 7, f"{DOES_NOT_PARSE}use of undeclared identifier 'x'")
    assert _not_understood(SimpleNamespace(gap=gap)) == "a.c:7: error: use of undeclared identifier 'x'"  # type: ignore[arg-type]
