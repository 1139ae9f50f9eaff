"""``--junit``, ``--sarif``, ``--ktap``: valid, every verdict counted as what it is, written or refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema
import pytest
import xmlschema

from formal.common.places import FORMAL
from formal.evidence.runs.traces import TraceBook
from formal.kernel.errors import NotUnderstoodError
from formal.matrix.configuration_run import Report, Row, book_path
from formal.prove import main
from formal.report.servers import junit, results
from formal.report.servers import ktap as ktap_file
from formal.report.servers import sarif as sarif_file
from formal.scope.configuration import Configuration, checks
from tests.conftest import PROOFS
from tests.report import ktap, sarif

PROPERTIES_PY = (FORMAL / "properties.py").read_text(encoding="utf-8").splitlines()
XSD = xmlschema.XMLSchema(str(Path(__file__).with_name("junit.xsd")))
CONFIGURATION = Configuration("E8", "nvhe")


def row(check: str, verdict: str, expected: str | None, **more: Any) -> Row:
    return Row(check, check.partition(" ")[0], "E8", "nvhe", verdict, expected, "replay", 0.25, **more)


@pytest.fixture(scope="module")
def suites() -> list[results.Suite]:
    """One verdict of each kind, a violation with its stored trace among them, and a sanity check that fails."""
    book = TraceBook.read(book_path(PROOFS / "traces", CONFIGURATION))
    trace = book.traces[book.counterexamples["guest_mdscr_preserved"]]
    rows = [
        row("os_registers", "PROVED", "PROVED"),
        row("guest_mdscr_preserved", "VIOLATED", "PROVED", trace=trace, broken_at=len(trace.steps)),
        row("saved_before_modified", "VIOLATED", "VIOLATED"),
        row("debug_rom", "PROVED", "VIOLATED"),
        row("profiling", "UNKNOWN", "PROVED", reason="the solver gave up: \x01 <&>"),
        row("trace", "n/a", "n/a", reason="no TTRF"),
        row("trace_trapped", "n/a", "PROVED", reason="no TTRF"),
    ]
    report = Report(CONFIGURATION, rows, ["operation 'x' is never taken"])
    return results.of_gate([report], ["E8 nvhe: y is in the manifest but was not checked"], 16)


def counts(suite: ET.Element) -> tuple[int, ...]:
    return tuple(int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped"))


def test_junit_counts_every_verdict_as_what_it_is(suites: list[results.Suite]) -> None:
    text = junit.text(suites)
    XSD.validate(text)
    root = ET.fromstring(text)
    assert [counts(suite) for suite in root] == [(8, 3, 2, 1), (1, 0, 1, 0)]
    cases = {case.attrib["name"]: case for case in root[0].iter("testcase")}
    got = {name: next((child.tag for child in case), "passed") for name, case in cases.items()}
    assert got == {
        "os_registers": "passed",
        "guest_mdscr_preserved": "failure",
        "saved_before_modified": "passed",
        "debug_rom": "failure",
        "profiling": "error",
        "trace": "skipped",
        "trace_trapped": "failure",
        "problem 1": "error",
    }
    assert {case.attrib["classname"] for case in cases.values()} == {"formal.E8.nvhe"}
    failure = cases["guest_mdscr_preserved"][0]
    assert failure.attrib["message"].startswith("guest_mdscr_preserved: VIOLATED, expected PROVED: ")
    assert "kvm_arm_setup_debug" in str(failure.text)
    assert cases["trace"][0].text == "no TTRF"
    assert "the solver gave up: ? <&>" in cases["profiling"][0].attrib["message"]


def test_the_schema_tells_a_broken_document(suites: list[results.Suite]) -> None:
    text = junit.text(suites)
    for good, bad in (('tests="8"', ""), ("<system-out />", ""), ('type="VIOLATED"', ""), ("0.250000", "1e-3")):
        assert good in text
        assert not XSD.is_valid(text.replace(good, bad, 1)), f"without {good}"


def check(document: Any) -> None:
    """Our own schema; and the official one where ``SARIF_SCHEMA`` names it."""
    jsonschema.Draft7Validator(sarif.SCHEMA).validate(document)
    if official := os.environ.get("SARIF_SCHEMA"):
        schema = json.loads(Path(official).read_text(encoding="utf-8"))
        jsonschema.validators.validator_for(schema)(schema).validate(document)


def test_the_official_sarif_schema_is_used() -> None:
    if not os.environ.get("SARIF_SCHEMA"):
        pytest.skip("SARIF_SCHEMA does not name the schema of SARIF 2.1.0")
    with pytest.raises(jsonschema.ValidationError):
        check({"version": "2.1.0", "runs": [{"tool": {"driver": {}}, "results": []}]})
    schema = json.loads(Path(os.environ["SARIF_SCHEMA"]).read_text(encoding="utf-8"))
    assert "2.1.0" in schema["title"]


def test_sarif_results(suites: list[results.Suite]) -> None:
    document = json.loads(sarif_file.text(suites, 1))
    check(document)
    (run,) = document["runs"]
    by_rule = {r["ruleId"]: r for r in run["results"]}
    assert {name: (r["kind"], r["level"]) for name, r in by_rule.items()} == {
        "os_registers": ("pass", "none"),
        "guest_mdscr_preserved": ("fail", "error"),
        "saved_before_modified": ("fail", "note"),
        "debug_rom": ("fail", "warning"),
        "profiling": ("open", "none"),
        "trace": ("notApplicable", "none"),
        "trace_trapped": ("fail", "warning"),
    }
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == list(by_rule)
    assert all(run["tool"]["driver"]["rules"][r["ruleIndex"]]["id"] == name for name, r in by_rule.items())
    assert len({r["partialFingerprints"]["check/v1"] for r in by_rule.values()}) == len(by_rule)
    assert [name for name, r in by_rule.items() if "suppressions" in r] == ["saved_before_modified"]
    violated = by_rule["guest_mdscr_preserved"]
    (flow,) = violated["codeFlows"][0]["threadFlows"]
    assert [s["executionOrder"] for s in flow["locations"]] == list(range(1, len(flow["locations"]) + 1))
    assert flow["locations"][0]["location"]["message"]["text"].startswith("1. ")
    assert violated["locations"][0]["physicalLocation"]["artifactLocation"]["uri"].startswith("arch/arm64/kvm/")
    (invocation,) = run["invocations"]
    assert not invocation["executionSuccessful"]
    assert len(invocation["toolExecutionNotifications"]) == 2


def test_sarif_says_where_to_read_on(suites: list[results.Suite], monkeypatch: pytest.MonkeyPatch) -> None:
    """The README where it lies, or the action's repository; each result has a file that a viewer can open."""
    for name in ("GITHUB_SERVER_URL", "GITHUB_ACTION_REPOSITORY"):
        monkeypatch.delenv(name, raising=False)
    (run,) = json.loads(sarif_file.text(suites, 1))["runs"]
    assert run["tool"]["driver"]["informationUri"] == (FORMAL.parent / "README.md").as_uri()
    assert all(one["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for one in run["results"])
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.com")
    monkeypatch.setenv("GITHUB_ACTION_REPOSITORY", "owner/proofs")
    (run,) = json.loads(sarif_file.text(suites, 1))["runs"]
    assert run["tool"]["driver"]["informationUri"] == "https://github.com/owner/proofs"


def test_ktap_results(suites: list[results.Suite]) -> None:
    """A subtest for each verdict; what fails has its run before it; a parent fails where a subtest does."""
    text = ktap_file.text(suites)
    gate, manifest = ktap.read(text)
    assert (gate.name, gate.ok, manifest.ok) == ("E8 nvhe", False, False)
    assert {test.name: (test.ok, test.directive, test.data) for test in gate.inside} == {
        "os_registers": (True, "", ""),
        "guest_mdscr_preserved": (False, "", "VIOLATED, expected PROVED"),
        "saved_before_modified": (True, "", "VIOLATED, as expected"),
        "debug_rom": (False, "", "PROVED, expected VIOLATED"),
        "profiling": (False, "TIMEOUT", "UNKNOWN: the solver gave up: \x01 <&>"),
        "trace": (True, "SKIP", "no TTRF"),
        "trace_trapped": (False, "", "n/a, expected PROVED"),
        "problem 1": (False, "ERROR", "operation 'x' is never taken"),
    }
    violated = next(test for test in gate.inside if test.name == "guest_mdscr_preserved")
    assert any("kvm_arm_setup_debug" in line for line in violated.log)
    (refused,) = ktap.read(ktap_file.text(results.of_refusal(NotUnderstoodError("a.c", 7, "a # call\nand more"))))
    assert refused.inside[0].data == "not understood: a.c:7: a # call and more"


_KUNIT = """
import sys
out, sys.stdout = sys.stdout, sys.stderr
sys.path.insert(0, sys.argv[1])
import inspect, kunit_parser, kunit_printer
lines = sys.stdin.read().splitlines()
wanted = len(inspect.signature(kunit_parser.parse_run_tests).parameters)
test = kunit_parser.parse_run_tests(lines, *[kunit_printer.Printer(sys.stderr)][: wanted - 1])
print(test.counts.passed, test.counts.failed, test.counts.skipped, test.counts.crashed, test.counts.errors, file=out)
print(*((t.name, len(t.subtests)) for t in test.subtests), file=out)
"""


def test_the_kernels_own_reader_reads_ktap(suites: list[results.Suite]) -> None:
    """kunit_parser.py of the trees that have it (since v5.17 it reads subtests; before, TAP 14 of KUnit's own)."""
    places = [Path(os.environ[name]) for name in ("KVM_TREES", "KVM_MORE_TREES") if os.environ.get(name)]
    found = [f for place in places for f in sorted(place.glob("*/tools/testing/kunit/kunit_parser.py"))]
    found = [file.parent for file in found if "KTAP" in file.read_text(encoding="utf-8")]
    if not found:
        pytest.skip("no tree in KVM_TREES or KVM_MORE_TREES has a kunit_parser.py that reads KTAP")
    for folder in found:
        done = subprocess.run([sys.executable, "-c", _KUNIT, str(folder)], input=ktap_file.text(suites), text=True,
                              capture_output=True, check=True)  # fmt: skip
        assert done.stdout.splitlines() == ["2 6 1 0 0", "('E8 nvhe', 8) ('manifest', 1)"], f"{folder}: {done.stderr}"
        assert "operation 'x' is never taken" in done.stderr, "why it is an error is not shown"


def test_the_reader_of_ktap_is_strict(suites: list[results.Suite]) -> None:
    text = ktap_file.text(suites)
    ktap.read(text)
    for good, bad in (("1..8", "1..7"), ("ok 2", "ok 3"), ("KTAP version 1", ""), ("  ok 1", "ok 1"),
                      ("not ok 1 E8", "ok 1 E8"), ("Subtest: E8", "Subtest: E9")):  # fmt: skip
        assert good in text
        with pytest.raises((AssertionError, IndexError)):
            ktap.read(text.replace(good, bad, 1))


def test_a_refused_tree_is_an_error_with_its_place() -> None:
    refused = results.of_refusal(NotUnderstoodError("arch/arm64/kvm/debug.c", 7, "a strange call"))
    text = junit.text(refused)
    XSD.validate(text)
    assert counts(ET.fromstring(text)[0]) == (1, 0, 1, 0)
    document = json.loads(sarif_file.text(refused, 125))
    check(document)
    (notification,) = document["runs"][0]["invocations"][0]["toolExecutionNotifications"]
    assert notification["message"]["text"] == "source: not understood: arch/arm64/kvm/debug.c:7: a strange call"
    place = notification["locations"][0]["physicalLocation"]
    assert (place["artifactLocation"]["uri"], place["region"]) == ("arch/arm64/kvm/debug.c", {"startLine": 7})


def test_a_green_run_of_the_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    xml, sarif_path, data = (tmp_path / name for name in ("new/r.xml", "r.sarif", "r.json"))
    written = ["--junit", str(xml), "--sarif", str(sarif_path), "--json", str(data), "--ktap", "-"]
    code = main(["--epoch", "E8", "-j", "1", *written])
    out = capsys.readouterr().out
    assert code == 0
    rows = json.loads(data.read_text())["results"]
    XSD.validate(str(xml))
    cases = [(c.attrib["classname"], c.attrib["name"]) for c in ET.parse(xml).iter("testcase")]
    assert sorted(cases) == sorted((f"formal.{r['epoch']}.{r['mode']}", r["check"]) for r in rows)
    assert {c.name for c in dict(checks(Configuration("E8", "vhe").claims())).values()} <= {r["claim"] for r in rows}
    document = json.loads(sarif_path.read_text())
    check(document)
    kinds = Counter(r["kind"] for r in document["runs"][0]["results"])
    verdicts = Counter(r["verdict"] for r in rows)
    assert kinds == {"pass": verdicts["PROVED"], "fail": verdicts["VIOLATED"], "notApplicable": verdicts["n/a"]}
    assert document["runs"][0]["invocations"][0]["executionSuccessful"]
    tests = ktap.read(out)
    assert [(t.name, t.ok) for t in tests] == [("E8 vhe", True), ("E8 nvhe", True)]
    assert sorted(t.name for test in tests for t in test.inside) == sorted(r["check"] for r in rows)
    assert sum(t.directive == "SKIP" for test in tests for t in test.inside) == verdicts["n/a"]
    failed = [r for r in document["runs"][0]["results"] if r["kind"] == "fail"]
    assert all(r["level"] == "note" and r["codeFlows"] and r["locations"] for r in failed)
    for result in document["runs"][0]["results"]:  # a place for each: in the kernel, or the claim's own line
        place = result["locations"][0]["physicalLocation"]
        own = place["artifactLocation"]["uriBaseId"] == "%PROOFS%"
        line = place["region"]["startLine"] if own else 0
        assert not own or result["ruleId"] in PROPERTIES_PY[line - 1]


@pytest.mark.parametrize("option", ["--junit", "--sarif", "--ktap", "--json"])
def test_what_cannot_be_written_is_refused_before_anything_is_proved(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from formal.matrix import schedule

    monkeypatch.setattr(schedule, "run_all", lambda *_: pytest.fail("the solver ran"))
    (tmp_path / "file").write_text("")
    for path, reason in ((tmp_path / "file/out", "Not a directory"), (tmp_path, "Is a directory")):
        assert main(["--epoch", "E8", option, str(path)]) == 2
        err = capsys.readouterr().err
        assert err in (f"formal.prove: {path}: {reason}\n", f"formal.prove: {path}: File exists\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_two_results_in_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    same = str(tmp_path / "out")
    assert main(["--junit", same, "--sarif", same]) == 2
    assert "write different files" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
