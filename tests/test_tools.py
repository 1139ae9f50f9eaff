"""What developers run beside the tool itself."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import ROOT
from tests.kernel.conftest import tree_path

TABLE = (
    "| Tree | Verdicts | |\n|---|---|---|\n| 5.10.35, 6.1 (Debian), 5.14-rc5 | 12 / 3 / 0 | |\n"
    "| 5.10.107 (a vendor's) | 1 / 2 / 3 | |\n"
)


@pytest.fixture(name="trees")
def _trees() -> ModuleType:
    loader = SourceFileLoader("tools_trees", str(ROOT / "tools/trees"))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def folder(place: Path, **trees: str) -> Path:
    """A folder of trees that have no more than a Makefile."""
    for name, makefile in trees.items():
        (place / name).mkdir(parents=True)
        (place / name / "Makefile").write_text(makefile)
    return place


def numbers(*of: int, more: str = "") -> str:
    return "".join(f"{n} = {v}\n" for n, v in zip(("VERSION", "PATCHLEVEL", "SUBLEVEL"), of, strict=True)) + more


def test_the_table_is_read_as_it_stands(trees: ModuleType) -> None:
    found = trees.table(TABLE)
    assert found == {
        "5.10.35": (12, 3, 0),
        "linux-source-6.1": (12, 3, 0),
        "5.14-rc5": (12, 3, 0),
        "5.10.107": (1, 2, 3),
    }
    assert len(trees.table((ROOT / "docs/kernel-trees.md").read_text(encoding="utf-8"))) >= 30


def test_a_tree_that_is_not_as_in_the_table_is_told(
    trees: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "table.md").write_text(TABLE)
    place = folder(tmp_path / "trees", a=numbers(5, 10, 35), b=numbers(5, 14, 0, more="EXTRAVERSION = -rc5\n"))
    options = [str(place), "--table", str(tmp_path / "table.md")]
    monkeypatch.setattr(trees, "counts", lambda tree: (12, 3, 0))
    assert trees.main(options) == 0
    assert capsys.readouterr().out.split("\n")[1] == "b (5.14-rc5): 12 / 3 / 0: as in the table"
    folder(place, c=numbers(5, 9, 1))
    assert trees.main(options) == 3
    assert "c (5.9.1): 12 / 3 / 0: not in the table" in capsys.readouterr().out
    monkeypatch.setattr(trees, "counts", lambda tree: (12, 2, 1) if tree.name == "a" else None)
    assert trees.main([*options, "--only", "a"]) == trees.main(options) == 1
    out = capsys.readouterr().out
    assert "a (5.10.35): 12 / 2 / 1: the table has 12 / 3 / 0" in out and "b (5.14-rc5): refused: the table has" in out


def test_a_folder_without_such_a_tree_is_misuse(trees: ModuleType, tmp_path: Path) -> None:
    for words in ([str(tmp_path)], [str(tmp_path / "none")], [str(folder(tmp_path / "x", a="")), "--only", "b"]):
        with pytest.raises(SystemExit, match="2"):
            trees.main(words)


def test_a_real_tree_is_run() -> None:
    """What Debian serves may be newer than the table: a run is held against it, whatever it comes to."""
    path = tree_path("6.1")
    done = subprocess.run([sys.executable, ROOT / "tools/trees", path.parent, "--only", path.name],
                          capture_output=True, text=True, check=False, timeout=900)  # fmt: skip
    told = re.fullmatch(
        r"linux-source-6\.1 \(6\.1\.\d+\): \d+ / \d+ / \d+: (as in the table|the table has .*)\n", done.stdout
    )
    assert told is not None, done.stdout + done.stderr
    assert done.returncode == (told[1] != "as in the table")
