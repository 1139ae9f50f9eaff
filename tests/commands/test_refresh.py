"""``--refresh`` says what changed; what got worse is recorded only with ``--accept``."""

from __future__ import annotations

from pathlib import Path

import pytest

from formal.commands import prove
from formal.common.exit_codes import ExitCode
from formal.matrix import schedule
from formal.matrix.configuration_run import Job, Report, Row
from formal.matrix.schedule import Change
from formal.scope.configuration import Configuration
from formal.scope.manifest import Manifest

EPOCH, BUG = Configuration("E8", "vhe"), Configuration("B5", "vhe")
OLD = {"trace": "PROVED", "profiling": "VIOLATED", "debug_rom": "n/a", "os_registers": "UNKNOWN"}


@pytest.fixture
def proofs(tmp_path: Path) -> Path:
    Manifest({"E8.vhe": dict(OLD)}).write(tmp_path / "manifest.toml")
    return tmp_path


def refresh(
    proofs: Path, found: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *more: str
) -> tuple[int, list[str]]:
    def run_all(jobs: list[Job], workers: int, done: object) -> list[Report]:
        rows = [Row(name, name, "E8", "vhe", verdict, OLD.get(name), "", 0.0) for name, verdict in found.items()]
        return [Report(EPOCH, rows)]

    monkeypatch.setattr(schedule, "run_all", run_all)
    code = prove.main(["--refresh", "--epoch", "E8", "--mode", "vhe", "--proofs", str(proofs), *more])
    return code, capsys.readouterr().out.splitlines()


CHANGES = [
    ("trace", "VIOLATED", True),
    ("trace", "UNKNOWN", True),
    ("trace", "n/a", True),
    ("trace", None, True),
    ("profiling", "PROVED", False),
    ("profiling", "UNKNOWN", True),
    ("profiling", "n/a", True),
    ("debug_rom", "PROVED", False),
    ("debug_rom", "VIOLATED", True),
    ("os_registers", "VIOLATED", False),
    ("os_registers", None, True),
    ("trace_trapped", "VIOLATED", False),
]


@pytest.mark.parametrize(("check", "after", "worse"), CHANGES)
def test_a_change_is_told_and_one_that_is_worse_needs_more(
    proofs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    check: str,
    after: str | None,
    worse: bool,
) -> None:
    found = {name: verdict for name, verdict in {**OLD, check: after}.items() if verdict is not None}
    before = (proofs / "manifest.toml").read_bytes()
    code, lines = refresh(proofs, found, monkeypatch, capsys)
    was, now = OLD.get(check, "not checked"), after or "not checked any more"
    assert lines[0] == f"E8 vhe: {check}: {was} -> {now}" + (": WORSE" if worse else "")
    assert ((proofs / "manifest.toml").read_bytes() == before) == worse
    if worse:
        assert code == ExitCode.WRONG
        assert lines[1] == "1 of 1 change WORSE: nothing was written; --accept records them"
        assert not (list((proofs / "traces").iterdir()))
        code, lines = refresh(proofs, found, monkeypatch, capsys, "--accept")
    assert lines[-1].endswith("1 verdict changed")
    assert code == (ExitCode.UNKNOWN if "UNKNOWN" in found.values() else ExitCode.OK)
    assert Manifest.read(proofs / "manifest.toml").expected(EPOCH) == found


def test_nothing_changed(proofs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _, lines = refresh(proofs, dict(OLD), monkeypatch, capsys)
    assert lines == [f"written: {proofs / 'manifest.toml'} and 1 file of traces; 0 verdicts changed"]


def test_of_a_bug_that_it_is_not_found_any_more_is_worse() -> None:
    assert Change(BUG, "trace", "VIOLATED", "PROVED").worse
    assert not Change(BUG, "trace", "PROVED", "VIOLATED").worse
    assert not Change(BUG, "trace", "", "PROVED").worse


def test_what_cannot_be_written_is_refused_first(
    proofs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(schedule, "run_all", lambda *_: pytest.fail("the solver ran"))
    (proofs / "traces").write_text("")
    assert prove.main(["--refresh", "--proofs", str(proofs)]) == ExitCode.USAGE
    assert capsys.readouterr().err == f"formal.prove: {proofs}/traces: File exists\n"
