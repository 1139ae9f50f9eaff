"""Kept verdicts: used only where nothing has changed, checked when used; whatever is wrong with an entry is a miss."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from formal.epochs import Mode
from formal.evidence.runs.traces import to_json
from formal.kernel.errors import Gap
from formal.kernel.source.tree import KernelTree
from formal.prove import main
from formal.scope.manifest import Manifest
from formal.tree import cache, verdicts
from formal.tree.verdicts import TreeJob, TreeReport
from tests.conftest import PROOFS
from tests.kernel.conftest import tree_path

DEBUG_C = "arch/arm64/kvm/debug.c"
CLAIMS = ("os_registers", "saved_before_modified", "guest_mdscr_preserved_in_32_bits", "os_lock_blocks_guest_debug")


class RanError(Exception):
    """The tree was proved anew."""


def job(path: Path, **more: Any) -> TreeJob:
    asked: dict[str, Any] = {"modes": (Mode.NVHE,), "claims": CLAIMS, "timeout": 60.0} | more
    config = asked.pop("config", None)
    manifest = Manifest.read(PROOFS / "manifest.toml")
    return TreeJob(KernelTree(path, config), proofs=PROOFS, manifest=manifest, **asked)


OWN = (DEBUG_C, "init/Kconfig", "include/linux/kvm_host.h", "include/linux/zutil.h", "arch/arm64/configs/defconfig")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of v6.1, by links but for a few files, which are its own and may be changed."""
    copy = tmp_path_factory.mktemp("tree")
    for entry in tree_path("6.1").iterdir():
        (copy / entry.name).symlink_to(entry)
    for name in OWN:
        at = copy
        for part in Path(name).parts:
            at = at / part
            if at.is_symlink():
                original = at.resolve()
                at.unlink()
                if original.is_dir():
                    at.mkdir()
                    for entry in original.iterdir():
                        (at / entry.name).symlink_to(entry)
                else:
                    shutil.copyfile(original, at)
        assert at.resolve() == copy.resolve() / name, "the tests would write into the original"
    return copy


@pytest.fixture(scope="module")
def kept(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[TreeReport], Path]:
    """The reports of a first run, and the folder with its entry."""
    folder = tmp_path_factory.mktemp("kept")
    return cache.prove(job(tree), True, folder), folder


@pytest.fixture
def again(
    kept: tuple[list[TreeReport], Path], tree: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[TreeReport]]:
    """Asks again; proving the tree anew raises ``RanError``."""

    def run(_: TreeJob) -> list[TreeReport]:
        raise RanError

    monkeypatch.setattr(verdicts, "run", run)
    return lambda **more: cache.prove(job(tree, **more), True, kept[1])


def test_an_unchanged_tree_is_not_proved_again(
    kept: tuple[list[TreeReport], Path], again: Callable[..., list[TreeReport]]
) -> None:
    (first,), (second,) = kept[0], again()
    assert not first.cached and second.cached
    assert first.rows == second.rows
    assert {row.verdict for row in second.rows} == {"PROVED", "VIOLATED"}
    assert (first.resolved, first.mode, first.notes) == (second.resolved, second.mode, second.notes)
    assert [(c.function, c.place, c.equal) for c in first.compared] == [
        (c.function, c.place, c.equal) for c in second.compared
    ]


@pytest.mark.parametrize(
    "other", [{"modes": (Mode.VHE,)}, {"claims": ()}, {"timeout": 5.0}], ids=["modes", "claims", "timeout"]
)
def test_another_question_is_another_entry(other: dict[str, Any], again: Callable[..., list[TreeReport]]) -> None:
    with pytest.raises(RanError):
        again(**other)


@pytest.mark.parametrize("name", OWN)
def test_a_changed_file_is_a_miss(name: str, tree: Path, again: Callable[..., list[TreeReport]]) -> None:
    file = tree / name
    content = file.read_bytes()
    assert again()
    try:
        file.write_bytes(content + b"\n")
        with pytest.raises(RanError):
            again()
    finally:
        file.write_bytes(content)
    assert again(), "the same bytes again are the same tree"


def test_a_file_that_comes_or_goes_is_a_miss(tree: Path, again: Callable[..., list[TreeReport]]) -> None:
    new = tree / "include/linux/a_new_one.h"
    new.write_text("")
    try:
        with pytest.raises(RanError):
            again()
    finally:
        new.unlink()
    gone = tree / "include/linux/zutil.h"
    content = gone.read_bytes()
    gone.unlink()
    try:
        with pytest.raises(RanError):
            again()
    finally:
        gone.write_bytes(content)
    assert again()


def test_another_tool_is_a_miss(again: Callable[..., list[TreeReport]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "version", lambda name: "0")
    with pytest.raises(RanError):
        again()


def damaged(text: str) -> dict[str, str]:
    """Entries that are cut, of another form, or of another version."""
    entry = json.loads(text)
    return {
        "empty": "",
        "cut": text[: len(text) // 2],
        "no JSON": "PROVED",
        "a list": "[]",
        "nothing in it": "{}",
        "no digest": json.dumps({n: v for n, v in entry.items() if n != "digest"}),
        "another format": json.dumps(entry | {"format": 0}),
        "another verdict": text.replace('"VIOLATED"', '"PROVED"', 1),
        "no bytes of text": "\udcff",
    }


def resealed(text: str, change: Callable[[Any], object]) -> str:
    """An entry with its content changed and its digest made to fit."""
    entry = json.loads(text)
    change(entry["data"])
    return json.dumps(entry | {"digest": cache._sealed(entry["data"])})


def _row(data: Any, check: str) -> Any:
    return next(row for row in data["reports"][0]["rows"] if row["check"] == check)


FORGED: dict[str, Callable[[Any], object]] = {
    "what a stored trace breaks is PROVED": lambda d: _row(d, "saved_before_modified").update(
        verdict="PROVED", expected="PROVED", trace=None, broken_at=None
    ),
    "a trace that breaks nothing": lambda d: _row(d, "saved_before_modified")["trace"].update(steps=[]),
    "a trace that is no run": lambda d: _row(d, "saved_before_modified")["trace"]["steps"].reverse(),
    "a trace that breaks it elsewhere": lambda d: _row(d, "saved_before_modified").update(broken_at=1),
    "a claim that does apply": lambda d: _row(d, "os_registers").update(verdict="n/a", expected="n/a"),
    "a verdict that is none": lambda d: _row(d, "os_registers").update(verdict="FINE"),
    "a verdict is missing": lambda d: d["reports"][0]["rows"].pop(0),
    "a mode is missing": lambda d: d["reports"].clear(),
    "another kernel": lambda d: d["reports"][0]["kernel"].update(no_such_behaviour=True),
    "another epoch": lambda d: d["reports"][0].update(epoch="E99"),
    "no digests of files": lambda d: d["files"].clear(),
    "an absolute path": lambda d: d["kconfig"].update({"/nowhere/Kconfig": ""}),
}


def test_a_damaged_entry_is_a_miss(kept: tuple[list[TreeReport], Path], again: Callable[..., list[TreeReport]]) -> None:
    (path,) = kept[1].glob("*.json")
    text = path.read_text(encoding="utf-8")
    broken = damaged(text) | {name: resealed(text, change) for name, change in FORGED.items()}
    assert len(set(broken.values()) | {text}) == len(broken) + 1, "a change that changes nothing"
    try:
        for name, content in broken.items():
            path.write_text(content, encoding="utf-8", errors="surrogateescape")
            with pytest.raises(RanError):
                again()
                pytest.fail(name)
    finally:
        path.write_text(text, encoding="utf-8")
    assert again()


def test_only_green_runs_are_kept(kept: tuple[list[TreeReport], Path], tmp_path: Path, tree: Path) -> None:
    (report,) = kept[0]
    row = report.rows[0]
    before = dict(cache._files(job(tree).tree))
    asked = job(tree)
    asked.tree.kconfig_files.append("init/Kconfig")
    for changed in (
        replace(report, problems=["x"]),
        replace(report, gaps=[Gap("x", 1, "y")]),
        replace(report, lacking={"x": "y"}),
        replace(report, omitted={"x": "y"}),
        replace(report, rows=[replace(row, verdict="UNKNOWN")]),
        replace(report, rows=[replace(row, verdict="VIOLATED", expected="PROVED")]),
        replace(report, compared=[replace(report.compared[0], equal=False)]),
    ):
        cache._store(tmp_path / "entry.json", asked, before, [changed])
        assert not list(tmp_path.iterdir())
    cache._store(tmp_path / "entry.json", asked, before | {"Makefile": ""}, [report])
    assert not list(tmp_path.iterdir()), "a tree that changed while it was proved was kept"
    asked.tree.opened.add(str(tree / "drivers/else.h"))
    cache._store(tmp_path / "entry.json", asked, before, [report])
    assert not list(tmp_path.iterdir()), "a file that no digest covers was read"
    asked.tree.opened.clear()
    cache._store(tmp_path / "entry.json", asked, before, [report])
    assert [p.name for p in tmp_path.iterdir()] == ["entry.json"]


def test_a_cache_that_cannot_be_written_is_no_error(
    kept: tuple[list[TreeReport], Path], tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(verdicts, "run", lambda _: kept[0])
    assert cache.prove(job(tree), True, tmp_path / "file/cache") == kept[0]


def test_the_command_says_that_it_took_them_from_there(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--kernel", str(tree), "--mode", "nvhe", *(w for c in CLAIMS for w in ("--claim", c))]
    results = [tmp_path / "1.json", tmp_path / "2.json"]
    said = "nothing has changed since an earlier run: traces replayed, proofs taken from there"
    assert main([*command, "--json", str(results[0])]) == 0
    first = capsys.readouterr().out
    ran = []
    proving = verdicts.run
    monkeypatch.setattr(verdicts, "run", lambda j: ran.append(j) or proving(j))
    assert main([*command, "--json", str(results[1])]) == 0
    second = capsys.readouterr().out
    assert not ran
    assert said not in first and said in second
    assert second.replace(f"{said}\n", "") == first
    one, two = (json.loads(p.read_text()) for p in results)
    assert (one.pop("cached"), two.pop("cached")) == (False, True)
    assert one == two
    assert main([*command, "--no-cache"]) == 0
    assert len(ran) == 1


def test_traces_survive_the_entry(kept: tuple[list[TreeReport], Path], again: Callable[..., list[TreeReport]]) -> None:
    first, second = ([to_json(r.trace) for r in reports[0].rows if r.trace] for reports in (kept[0], again()))
    assert first and first == second
