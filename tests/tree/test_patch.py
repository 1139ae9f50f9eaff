"""``--base`` and ``git bisect run`` as a user meets them: two trees, a revision, a series, and none of these."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema
import pytest

from formal.prove import main
from tests.conftest import ROOT
from tests.kernel.conftest import tree_path
from tests.kernel.git_tree import repository_of
from tests.kernel.mutants import linked_copy
from tests.kernel.source.test_git import commit, git
from tests.report import sarif
from tests.report.test_files import XSD, counts

DEBUG_C = "arch/arm64/kvm/debug.c"
TRAPS = "MDCR_EL2_TDRA |\n\t\t\t\tMDCR_EL2_TDOSA);"
LESS = "MDCR_EL2_TDRA);"
QUICK = ("--mode", "nvhe", "--claim", "os_registers", "--claim", "setup_before_every_entry")


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of what is read of v6.1: six commits, of which the fourth loses a trap; tags good and bad."""
    folder = repository_of(tree_path("6.1"), tmp_path_factory.mktemp("history") / "linux")
    git(folder, "tag", "good")
    edit(folder / DEBUG_C, "#include <linux/kvm_host.h>", "/* a comment */\n#include <linux/kvm_host.h>")
    commit(folder, "a comment")
    (folder / "README").write_text("nothing that is read\n")
    commit(folder, "a readme")
    edit(folder / DEBUG_C, TRAPS, LESS)
    commit(folder, "the bug")
    edit(folder / "arch/arm64/kvm/arm.c", "#include <linux/bug.h>", "#include <linux/bug.h>\n/* here too */")
    commit(folder, "another comment")
    (folder / "README").write_text("still nothing\n")
    commit(folder, "the readme again")
    git(folder, "tag", "bad")
    return folder


def compare(folder: Path, base: str, tmp_path: Path, *options: str) -> tuple[int, Any]:
    out = tmp_path / "out.json"
    code = main(["--kernel", str(folder), "--base", base, "--json", str(out), *QUICK, *options])
    return code, json.loads(out.read_text())


def test_two_trees(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = tree_path("6.1")
    edit(linked_copy(base, tmp_path / "new", DEBUG_C), TRAPS, LESS)
    xml, results = tmp_path / "r.xml", tmp_path / "r.sarif"
    code, data = compare(tmp_path / "new", str(base), tmp_path, "--junit", str(xml), "--sarif", str(results))
    out = capsys.readouterr().out
    assert code == data["exit_code"] == 1
    (step,) = data["steps"]
    changes = {f["function"]: f["change"] for f in step["functions"]}
    assert {changes[f] for f in ("kvm_arm_setup_mdcr_el2", "kvm_arm_setup_debug")} == {"weakened"}
    assert changes["kvm_arm_clear_debug"] == changes["__activate_traps_common"] == "equivalent"
    verdicts = {c["check"]: (c["before"], c["after"], c["worse"]) for c in step["claims"]}
    assert verdicts["os_registers"] == ("PROVED", "VIOLATED", True)
    assert verdicts["setup_before_every_entry"] == ("PROVED", "PROVED", False)
    assert "nvhe: kvm_arm_setup_mdcr_el2 (arch/arm64/kvm/debug.c:" in out
    assert "weakened in mdcr_el2\n    traps less: TDOSA\n" in out
    assert "os_registers (nvhe): PROVED -> VIOLATED: WORSE" in out
    assert "debug.c:" in out.partition("os_registers (nvhe): VIOLATED")[2], "the run of the lost claim is not shown"
    XSD.validate(str(xml))
    (suite,) = ET.parse(xml).getroot()
    assert counts(suite)[1:] == (1, 0, 0)
    document = json.loads(results.read_text())
    jsonschema.Draft7Validator(sarif.SCHEMA).validate(document)
    (failed,) = [r for r in document["runs"][0]["results"] if r["level"] == "error"]
    place = failed["locations"][0]["physicalLocation"]
    assert failed["ruleId"] == "os_registers"
    assert place["artifactLocation"]["uri"] == DEBUG_C
    line = (tmp_path / "new" / DEBUG_C).read_text().splitlines()[place["region"]["startLine"] - 1]
    assert line.strip().startswith("vcpu->arch.mdcr_el2 |= ("), "where the bit would be set"
    assert any("kvm_arm_setup_debug()" in place["message"]["text"] for place in failed["relatedLocations"])
    assert failed["codeFlows"][0]["threadFlows"][0]["locations"]


@pytest.mark.parametrize("old, new", [("6.12", "7.3"), ("7.3", "6.12")])
def test_releases_that_keep_other_state(old: str, new: str, tmp_path: Path) -> None:
    """The debug owner of v6.14 has taken the place of debug_ptr and a flag: what stores to them is incomparable."""
    code, data = compare(tree_path(new), str(tree_path(old)), tmp_path)
    assert code == 0
    (step,) = data["steps"]
    changes = {f["function"]: f for f in step["functions"]}
    gone, come = "kvm_arm_setup_debug", "kvm_vcpu_load_debug"
    assert changes[gone if new == "7.3" else come]["change"] == "removed"
    assert changes[come if new == "7.3" else gone]["change"] == "added"
    assert changes["trap_debug_regs"]["change"] == "incomparable"
    assert {"debug_dirty", "debug_owner"} <= set(changes["trap_debug_regs"]["differs_in"])
    assert changes["kvm_arm_setup_mdcr_el2"]["witnesses"]


@pytest.mark.parametrize("old, new, code", [(TRAPS, LESS, 1), (TRAPS, f"{TRAPS} /* as before */", 0)])
def test_two_modes_in_two_processes(old: str, new: str, code: int, tmp_path: Path) -> None:
    """What they find together is what one process finds; nothing is left behind."""
    base, temporary = tree_path("6.1"), tmp_path / "tmp"
    edit(linked_copy(base, tmp_path / "new", DEBUG_C), old, new)
    temporary.mkdir()
    found = []
    for processes in ("1", "2"):
        out = tmp_path / f"{processes}.json"
        command = [sys.executable, "-m", "formal.prove", "--kernel", str(tmp_path / "new"), "--base", str(base)]
        command += ["--claim", "os_registers", "--json", str(out), "-j", processes]
        ended = subprocess.run(
            command, cwd=ROOT, env=os.environ | {"TMPDIR": str(temporary)}, capture_output=True, text=True, check=False
        )
        assert ended.returncode == code, ended.stderr
        data = json.loads(out.read_text())
        for function in data["steps"][0]["functions"]:
            function["witnesses"] = len(function["witnesses"])  # one state shows a difference as well as another
        lines = [line for line in ended.stdout.splitlines() if not re.match("      (finds|(base|tree) leaves): ", line)]
        verdicts = [line for line in lines if line.startswith("os_registers ")]
        told = ["os_registers (vhe, nvhe)", "os_registers (vhe)"]  # its change, and the one run for it
        assert [v.partition(": ")[0] for v in verdicts] == (told if code else [])
        found.append((len(lines), data))
    assert found[0] == found[1]
    assert not list(temporary.iterdir())


def test_a_revision_against_the_files_as_they_are(
    history: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The fix of the bug, not committed yet: stronger than the last commit, and no claim worse."""
    git(history, "checkout", "-q", "bad")
    edit(history / DEBUG_C, LESS, TRAPS)
    try:
        code, data = compare(history, "HEAD", tmp_path)
        assert git(history, "status", "--porcelain") == f" M {DEBUG_C}\n"
    finally:
        git(history, "checkout", "-q", "-f", "bad")
    assert code == 0, capsys.readouterr()
    assert data["steps"][0]["base"].endswith("(the readme again)")
    changes = {f["function"]: f["change"] for f in data["steps"][0]["functions"]}
    assert changes["kvm_arm_setup_mdcr_el2"] == changes["kvm_arm_setup_debug"] == "strengthened"
    assert "os_registers (nvhe): VIOLATED -> PROVED: better" in capsys.readouterr().out


def test_a_series_is_checked_commit_by_commit(
    history: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, data = compare(history, "good..bad", tmp_path)
    assert code == 1
    steps = {s["tree"].partition("(")[2][:-1]: s for s in data["steps"]}
    assert list(steps) == ["a comment", "a readme", "the bug", "another comment", "the readme again"]
    assert [name for name, s in steps.items() if s.get("unchanged")] == ["a readme", "the readme again"]
    worse = {name: [c["check"] for c in s.get("claims", ()) if c["worse"]] for name, s in steps.items()}
    assert {name: w for name, w in worse.items() if w} == {"the bug": ["os_registers"]}
    assert "no file that is read changes" in capsys.readouterr().out


def test_a_commit_that_is_not_understood(history: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    git(history, "checkout", "-q", "-b", "strange", "good")
    try:
        edit(history / DEBUG_C, "\tkvm_arm_setup_mdcr_el2(vcpu);\n\n", "\tmystery(vcpu);\n")
        commit(history, "strange")
        xml = tmp_path / "r.xml"
        code, data = compare(history, "good..strange", tmp_path, "--junit", str(xml))
    finally:
        git(history, "checkout", "-q", "bad")
        git(history, "branch", "-q", "-D", "strange")
    assert code == 1
    (step,) = data["steps"]
    worse = {claim["check"]: claim["after"] for claim in step["claims"] if claim["worse"]}
    assert worse["os_registers"] == "UNKNOWN" and {*worse.values()} == {"UNKNOWN"}
    XSD.validate(str(xml))
    assert "os_registers" in capsys.readouterr().out


def test_git_bisect_run_finds_the_bug(history: Path) -> None:
    git(history, "bisect", "start", "bad", "good")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = ["git", "bisect", "run", sys.executable, "-m", "formal.prove", "--kernel", ".", "--bisect", *QUICK]
    done = subprocess.run(command, cwd=history, capture_output=True, text=True, env=environment, check=False)
    found = git(history, "log", "-1", "--format=%s", "refs/bisect/bad").strip()
    git(history, "bisect", "reset")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert found == "the bug"
    assert "is the first bad commit" in done.stdout


def test_what_cannot_be_compared(history: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, base, message in (
        (history, "nonsense", "no revision 'nonsense'"),
        (history, "good..nonsense", "no revision 'nonsense'"),
        (history, "bad..good", "there are no commits in bad..good"),
        (history, "good...bad", "written with two dots"),
        (tmp_path, "good", "--base good: no such directory; as a revision: "),
        (history, str(tmp_path), "not a Linux source tree"),
    ):
        assert main(["--kernel", str(folder), "--base", base]) == 2, base
        err = capsys.readouterr().err
        assert message in err
        assert err.startswith("formal.prove: ") and err.count("\n") == 1


def test_options_that_do_not_go_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--base", "x"]) == 2
    assert capsys.readouterr().err == "formal.prove: --base compares two trees: it goes with --kernel\n"
    assert main(["--kernel", str(tmp_path), "--base", "x", "--spec"]) == 2
    assert "--base compares two trees: --spec does not go with it" in capsys.readouterr().err
