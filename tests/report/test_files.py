"""``--junit`` and ``--sarif``: valid against their schemas, every verdict counted as what it is, written or refused."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema
import pytest
import xmlschema

from formal.evidence.runs.traces import TraceBook
from formal.kernel.errors import NotUnderstoodError
from formal.matrix.configuration_run import Report, Row, book_path
from formal.prove import main
from formal.report.servers import junit, results
from formal.report.servers import sarif as sarif_file
from formal.scope.configuration import Configuration, checks
from tests.conftest import PROOFS
from tests.report import sarif

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
    code = main(["--epoch", "E8", "-j", "1", "--junit", str(xml), "--sarif", str(sarif_path), "--json", str(data)])
    assert code == 0, capsys.readouterr()
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
    failed = [r for r in document["runs"][0]["results"] if r["kind"] == "fail"]
    assert all(r["level"] == "note" and r["codeFlows"] and r["locations"] for r in failed)


@pytest.mark.parametrize("option", ["--junit", "--sarif", "--json"])
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
