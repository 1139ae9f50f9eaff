"""``--gate``: one exit code, one page, and the list of what is trusted is what the checks import."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import networkx as nx
import pytest

from formal.commands import prove
from formal.commands.check import Checked
from formal.common.exit_codes import ExitCode
from formal.evidence import check as evidence
from formal.evidence.certificates.recheck import Outcome
from formal.evidence.runs.witnesses import Witnessed
from formal.matrix import schedule
from formal.matrix.configuration_run import Job, Report, Row
from formal.report import trust
from formal.scope.configuration import BUG_CONFIGURATIONS, EPOCH_CONFIGURATIONS, Configuration
from formal.scope.manifest import Manifest
from tests.conftest import PROOFS, ROOT
from tests.test_architecture import graph, modules

PAGE = 66  # lines
E8 = Configuration("E8", "vhe")
# of the other options of formal.check; and the elimination of arrays, whose results evidence/arraycheck checks
UNTRUSTED = {
    "formal.evidence.certificates.make",
    "formal.evidence.exchange.cross",
    "formal.evidence.certificates.export",
    "formal.evidence.certificates.arrays",
}


def row(verdict: str, expected: str) -> Row:
    return Row("trace", "trace", "E8", "vhe", verdict, expected, "lemmas", 0.0)


def modules_of(names: str) -> set[str]:
    """The modules of some names of the list."""
    paths = trust.files(names)
    assert paths and all(p.exists() for p in paths), names
    return {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for p in paths}


def test_what_is_trusted_is_what_the_checks_import() -> None:
    """Without what is only imported to make or compare certificates: formal.check's other options."""
    listed = {m for names, _ in trust.TRUSTED for m in modules_of(names)}
    used = nx.subgraph_view(graph(), filter_node=lambda n: n not in UNTRUSTED)
    reached = {
        m for m in nx.descendants(used, "formal.evidence.check") | {"formal.evidence.check"} if m.startswith("formal.")
    }
    packages = {m for m in modules() if (ROOT / m.replace(".", "/")).is_dir()}
    assert reached - packages == listed - packages


def test_the_page() -> None:
    report = Report(E8, [row("PROVED", "PROVED")])
    one = Checked(Outcome(E8, 1, 2, 3), Witnessed(E8, 4, 5, ("x",)))
    lines = trust.page([report], [one], [])
    assert len(lines) <= PAGE
    text = "\n".join(lines)
    assert "WRONG" not in text and "1 PROVED, 0 VIOLATED" in text
    assert "1 claims are PROVED by 2 obligations with 3 proof steps, each checked" in text
    assert "or, 1 times, proved impossible" in text
    for names, _ in trust.TRUSTED:
        count = sum(len(p.read_text(encoding="utf-8").splitlines()) for p in trust.files(names))
        assert f"{count:5}  {names}" in text


def test_the_page_says_nothing_of_evidence_if_anything_is_wrong() -> None:
    lines = trust.page([Report(E8, [row("VIOLATED", "PROVED")])], [], ["E8 vhe: trace: VIOLATED, expected PROVED"])
    assert lines[0] == "WRONG: E8 vhe: trace: VIOLATED, expected PROVED"
    assert not [line for line in lines if "Checked without" in line or "nothing is missing" in line]


# ---- the command; what Z3 says is as expected here, tests/commands/test_prove.py runs it


def as_expected(todo: list[Job], workers: int, done: object) -> list[Report]:
    """A report of every job in which everything is as expected."""
    return [
        Report(j.configuration, [Row(n, n, "", "", v, v, "lemmas", 0.0) for n, v in j.expected.items()]) for j in todo
    ]


SOME = tuple(c for c in EPOCH_CONFIGURATIONS if c.stem in ("E3a-vhe", "E4-nvhe"))
BUGS = tuple(c for c in BUG_CONFIGURATIONS if c.stem == "B5-vhe")


@pytest.fixture
def proofs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of proofs/ as it would be of three configurations alone; the whole of it is CI's to check."""
    monkeypatch.setattr(schedule, "run_all", as_expected)
    for module in (schedule, evidence):
        monkeypatch.setattr(module, "EPOCH_CONFIGURATIONS", SOME)
        monkeypatch.setattr(module, "BUG_CONFIGURATIONS", BUGS)
    place, stems = tmp_path / "proofs", {c.stem for c in SOME + BUGS}
    for folder, ending in (("traces", ".json"), ("certificates", ".tar.xz")):
        (place / folder).mkdir(parents=True)
        for file in (PROOFS / folder).glob(f"*{ending}"):
            if file.name.removesuffix(ending) in stems:
                shutil.copy(file, place / folder)
    index = json.loads((PROOFS / "certificates" / "index.json").read_text())
    index["configurations"] = {stem: of for stem, of in index["configurations"].items() if stem in stems}
    (place / "certificates" / "index.json").write_text(json.dumps(index))
    head, *tables = (PROOFS / "manifest.toml").read_text().split("\n[")
    kept = [table for table in tables if table.split("]")[0].replace(".", "-") in stems]
    (place / "manifest.toml").write_text("\n[".join([head, *kept]))
    return place


def run(proofs: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, list[str]]:
    """The exit code and the page."""
    code = prove.main(["--gate", "--proofs", str(proofs), *more])
    return code, capsys.readouterr().out.splitlines()


def test_all_is_well(proofs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = proofs.parent / "out.json"
    code, lines = run(proofs, capsys, "--json", str(file))
    assert code == ExitCode.OK, lines[:5]
    assert len(lines) <= PAGE and "  nothing is missing in proofs/, and nothing there belongs to nothing" in lines
    data = json.loads(file.read_text())
    assert data["exit_code"] == 0 and data["evidence"] == []


def test_a_verdict_that_nothing_came_out_for(proofs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "run_all", lambda todo, w, d: [Report(j.configuration) for j in todo])
    assert prove.main(["--gate", "--proofs", str(proofs)]) == ExitCode.WRONG


def test_evidence_that_is_wrong(proofs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (proofs / "traces" / "B5-vhe.json").unlink()
    (proofs / "certificates" / "E3a-vhe.tar.xz").write_bytes(b"")
    code, lines = run(proofs, capsys)
    assert code == ExitCode.WRONG
    assert [line for line in lines if line.startswith("WRONG: ")] == [
        "WRONG: E3a vhe: E3a-vhe.tar.xz: its SHA-256 is not the one in the index",
        "WRONG: B5 vhe: B5-vhe.json: holds no trace, or does not exist",
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("certificates/index.json", "index.json: not found; `python -m formal.check --make` writes it"),
        ("certificates/E3a-vhe.tar.xz", "E3a-vhe.tar.xz: No such file or directory"),
    ],
)
def test_certificates_that_are_missing(
    name: str, message: str, proofs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (proofs / name).unlink()
    code, lines = run(proofs, capsys)
    assert code == ExitCode.WRONG
    assert len([line for line in lines if line.startswith("WRONG: ") and message in line]) == 1


def test_a_file_that_belongs_to_nothing(proofs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (proofs / "traces" / "B99-vhe.json").write_text("{}")
    code, lines = run(proofs, capsys)
    assert code == ExitCode.WRONG
    assert lines[0] == "WRONG: B99-vhe.json: no traces of anything that is expected"


def test_an_unknown_is_3(proofs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def undecided(todo: list[Job], workers: int, done: object) -> list[Report]:
        reports = as_expected(todo, workers, done)
        first = reports[0].rows[0]
        reports[0].rows[0] = Row(first.check, first.claim, "", "", "UNKNOWN", first.expected, "", 0.0, reason="time")
        return reports

    monkeypatch.setattr(schedule, "run_all", undecided)
    code, lines = run(proofs, capsys)
    assert code == ExitCode.UNKNOWN and lines[0].startswith("WRONG: ") and "UNKNOWN" in lines[0]


@pytest.mark.parametrize(
    "more", [["--epoch", "E8"], ["--mode", "vhe"], ["--claim", "trace"], ["--kernel", "x"], ["--refresh"], ["--spec"]]
)
def test_a_part_is_not_everything(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert prove.main(["--gate", *more]) == ExitCode.USAGE
    assert capsys.readouterr().err == f"formal.prove: --gate checks everything: {more[0]} does not go with it\n"


def test_the_manifest_of_the_repository_has_no_unknown() -> None:
    tables = Manifest.read(PROOFS / "manifest.toml").tables
    assert not [name for table in tables.values() for name, v in table.items() if v == "UNKNOWN"]
