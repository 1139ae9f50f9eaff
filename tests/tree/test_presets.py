"""Presets held against trees: what the table says is what comes out again, and an edit of the C is told."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from formal.commands import prove
from formal.epochs import EPOCHS, HOSTS, Mode, of_release
from formal.kernel.compare.behaviours import DEBUG_C
from formal.kernel.errors import KernelError
from formal.kernel.source.tree import KernelTree
from formal.tree.presets import Held, held, merge, read
from tests.conftest import PROOFS
from tests.kernel.conftest import tree_path
from tests.kernel.mutants import linked_copy

ROWS = read(PROOFS / "presets.json")


@pytest.mark.parametrize("row", ROWS, ids=lambda r: f"{r.release} {r.mode}")
def test_a_row_is_about_a_preset_of_that_release_and_nothing_differs(row: Held) -> None:
    assert row.preset in [e.name for e in of_release(row.release)]
    assert Mode(row.mode) in EPOCHS[row.preset].modes
    assert row.equal, "a row without a function says nothing"
    assert not row.behaviours and not row.differ, "split the preset, or say what the tree has of later releases"
    assert not {*row.equal} & row.unread.keys()


def test_presets_from_5_10_on_are_held_but_for_those_that_no_tree_is_at_hand_for() -> None:
    of_trees = {"E3a2", "E4s", "E5", "E6", "E7", "E8", "E8s", "E8b", "E9", "E11", "E12", "E13"}
    assert of_trees <= {row.preset for row in ROWS}


def _known(row: Held) -> Held | None:
    return next((r for r in ROWS if (r.debug_c, r.mode, r.release) == (row.debug_c, row.mode, row.release)), None)


def _as_before(now: Held) -> None:
    """What is said of a tree now is what the table says; what is read may be more."""
    was = _known(now)
    assert was is not None, "hold it: python -m formal.prove --presets --kernel TREE"
    assert (now.preset, now.behaviours, now.differ) == (was.preset, was.behaviours, was.differ)
    assert {*was.equal} <= {*now.equal}


def test_the_newest_tree_is_as_the_table_says() -> None:
    tree = KernelTree(tree_path("7.3"))
    (now,) = held(tree, (Mode.NVHE,), 60.0)
    if _known(now) is not None:
        _as_before(now)
    assert now.preset == "E13" and now.equal and not now.differ and not now.behaviours


def test_an_edit_of_the_c_is_told(tmp_path: Path) -> None:
    linked_copy(tree_path("7.3"), tmp_path / "tree", DEBUG_C)
    file = tmp_path / "tree" / DEBUG_C
    text = file.read_text()
    file.write_text(text.replace("\tif (pmuv3_implemented(pmuver))\n", "\tif (pmuver < 5)\n", 1))
    assert file.read_text() != text
    (row,) = held(KernelTree(tmp_path / "tree"), (Mode.NVHE,), 60.0)
    assert row.result == "differs"
    assert row.differ == {"kvm_init_host_debug_data": ["nr_event_counters"]}


@pytest.mark.parametrize("mode", HOSTS)
def test_more_trees_are_as_the_table_says(mode: Mode) -> None:
    folder = os.environ.get("KVM_MORE_TREES")
    if not folder:
        pytest.skip("KVM_MORE_TREES names no folder with kernel trees")
    for path in sorted(Path(folder).iterdir()):
        try:
            for now in held(KernelTree(path), (mode,), 60.0):
                _as_before(now)
        except KernelError:
            continue  # the table has no row for what cannot be read at all


def test_the_table_is_merged_by_tree_and_mode(tmp_path: Path) -> None:
    path = tmp_path / "presets.json"
    old = Held("E9", "vhe", "6.14.0", "a" * 16, equal=["f"])
    merge(path, [old, replace(old, mode="nvhe"), replace(old, release="6.4.6", preset="E8b")])
    merge(path, [replace(old, equal=["f", "g"])])
    rows = read(path)
    assert [(r.release, r.mode, len(r.equal)) for r in rows] == [
        ("6.4.6", "vhe", 1),
        ("6.14.0", "nvhe", 1),
        ("6.14.0", "vhe", 2),
    ]
    assert read(tmp_path / "none.json") == []
    assert json.loads(path.read_text())[0]["preset"] == "E8b"


@pytest.mark.parametrize(
    ("row", "result"),
    [
        (Held("E9", "vhe", "6.14.0", "a", equal=["f"]), "equal"),
        (Held("E9", "vhe", "6.14.0", "a", equal=["f"], unread={"g": "why"}), "equal as far as read"),
        (Held("E9", "vhe", "6.14.0", "a", equal=["f"], differ={"g": ["pstate"]}), "differs"),
        (Held("E9", "vhe", "6.14.0", "a", equal=["f"], behaviours=["x=True"]), "differs"),
        (Held("E9", "vhe", "6.14.0", "a", unread={"g": "why"}), "not read"),
    ],
)
def test_the_result_in_a_word(row: Held, result: str) -> None:
    assert row.result == result


def test_the_table_is_printed_with_what_is_held_against_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(PROOFS / "presets.json", tmp_path)
    assert prove.main(["--presets", "--proofs", str(tmp_path)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert len([line for line in out if line.startswith("E")]) == len(ROWS)
    assert out[-1].startswith("held against no tree: E0 (v4.3 to v4.5), ")
