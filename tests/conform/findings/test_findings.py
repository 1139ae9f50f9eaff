"""Findings: marks read back, judgements, that every cause has its place and every finding its page; and real runs."""

import re

import pytest

from formal.commands.conform import main
from formal.conform.boot import scenarios
from formal.conform.boot.boot import Recording, boot
from formal.conform.boot.debian import Image
from formal.conform.boot.marks import MissingMarkError, passages
from formal.conform.commands import finding
from formal.conform.commands.finding import Outcome, judge
from formal.conform.findings.reproducers import BY_SOURCE, REPRODUCERS, STATES, State, by_name
from formal.conform.machine import emulator
from formal.epochs import HOSTS, Mode
from formal.properties import CLAIMS
from formal.scope.configuration import EPOCH_CONFIGURATIONS, Configuration
from formal.scope.findings import FINDINGS
from tests.conform.boot.test_boot import VM
from tests.conform.cpu.test_command import errors
from tests.conftest import ROOT

EPOCH_OF = {"5.10": "E4s", "6.1": "E8s", "6.12": "E8b", "newest": "E10"}
BOOTABLE = [Configuration(name, m.value) for name in ("E4s", "E8s", "E8b", "E10") for m in HOSTS]


def trace(name, *marks):
    """A recording of one scenario."""
    lines = [f"scenario name={name}", *marks]
    return "".join(f"  init-1 [000] ..... {n}: tracing_mark_write: conform: {m}\n" for n, m in enumerate(lines))


def recording(sequence, control, errors=()):
    """A recording of mdscr-upper-half in which these values were read at the end."""
    text = "# head\n   kvm_entry: before the first\n"
    for name, value in (("mdscr-upper-half:control", control), ("mdscr-upper-half", sequence)):
        text += trace(name, *([f"get_one_reg vcpu=0 reg=MDSCR_EL1 value={value} error=0"] if value else []))
    return Recording("6.1.0", "v", "vhe", 2, text, (), errors)


def test_marks_are_read_by_scenario():
    found = passages("# c: conform: scenario name=no\n" + trace("a", "run vcpu=0 x=1", "run vcpu=1") + trace("b"))
    assert list(found) == ["a", "b"]
    assert [m.line for m in found["a"].all("run")] == [1, 2]
    assert found["a"].last("run")["vcpu"] == "1"
    assert found["a"].all("run", x="1")[0].fields == {"vcpu": "0", "x": "1"}
    with pytest.raises(MissingMarkError, match="the scenario b left no mark run"):
        found["b"].last("run")
    with pytest.raises(MissingMarkError, match="the mark run has no pc"):
        found["a"].last("run")["pc"]


@pytest.mark.parametrize(
    ("sequence", "control", "complaints", "outcome"),
    [
        ("0x0", "0x100000000", (), Outcome.CONFIRMED),
        ("0x100000000", "0x100000000", (), Outcome.ABSENT),
        ("0x0", "0x0", (), Outcome.UNCLEAR),  # not the debugging has lost it
        ("0x7", "0x100000000", (), Outcome.UNCLEAR),
        (None, "0x100000000", (), Outcome.UNCLEAR),
        ("0x0", "0x100000000", ("KVM_RUN: Bad address",), Outcome.UNCLEAR),
    ],
)
def test_a_judgement_needs_its_control(sequence, control, complaints, outcome):
    assert judge(by_name("mdscr-upper-half"), recording(sequence, control, complaints)).outcome == outcome


def test_what_did_not_run_is_unclear():
    empty = Recording("6.1.0", "v", "vhe", 2, "# nothing\n", (), ())
    for reproducer in REPRODUCERS:
        seen = judge(reproducer, empty)
        assert (seen.outcome, seen.sequence) == (Outcome.UNCLEAR, "nothing: the scenario did not run")
        silent = Recording("6.1.0", "v", "vhe", 2, trace(reproducer.name) + trace(f"{reproducer.name}:control"), (), ())
        assert judge(reproducer, silent).outcome == Outcome.UNCLEAR


@pytest.mark.parametrize("configuration", BOOTABLE, ids=str)
def test_every_cause_of_a_violated_claim_has_its_state(manifest, configuration):
    """No counterexample of a kernel that can be booted is passed over."""
    expected = manifest.expected(configuration)
    violated = {c.name for c in CLAIMS if expected.get(c.name) == "VIOLATED"}
    causes = {f.name for f in FINDINGS if f.applies(configuration.kernel()) and violated & set(f.claims)}
    assert causes
    assert causes <= STATES.keys()
    assert violated <= {name for f in FINDINGS if f.name in causes for name in f.claims}


def test_states_are_no_more_than_that(manifest):
    applying = {f.name for f in FINDINGS for c in BOOTABLE if f.applies(c.kernel())}
    assert STATES.keys() - BY_SOURCE.keys() <= applying
    anywhere = {f.name for f in FINDINGS for c in EPOCH_CONFIGURATIONS if f.applies(c.kernel())}
    assert BY_SOURCE.keys() <= anywhere, "told by the source of a release that need not be at hand to boot"
    confirmed = {cause for cause, (state, _) in STATES.items() if state is State.CONFIRMED}
    assert confirmed == {cause for r in REPRODUCERS for cause in (r.cause, *r.also)}
    assert all(why for state, why in STATES.values() if state is not State.CONFIRMED)


def test_what_is_confirmed_is_what_is_claimed(manifest):
    """A finding breaks claims that the manifest says are violated there, and its cause names them."""
    causes = {f.name: f for f in FINDINGS}
    for reproducer in REPRODUCERS:
        for cause in (reproducer.cause, *reproducer.also):
            assert set(reproducer.claims) <= set(causes[cause].claims)
        for series in reproducer.series:
            for mode in reproducer.modes if series in EPOCH_OF else ():
                table = manifest.expected(Configuration(EPOCH_OF[series], mode.value))
                assert {table[claim] for claim in reproducer.claims} == {"VIOLATED"}, (reproducer.name, series, mode)


@pytest.mark.parametrize("reproducer", REPRODUCERS, ids=lambda r: r.name)
def test_every_finding_has_its_page(reproducer):
    page = (ROOT / "findings" / f"{reproducer.name}.md").read_text()
    words = " ".join(page.split())
    for text in (reproducer.cause, *reproducer.claims, reproducer.expected, reproducer.defect):
        assert text in words
    assert f"formal.conform finding {reproducer.name}\n" in page
    for title in ("## Sequence", "## Releases", "## Cause", "Control:"):
        assert title in page
    for series in set(reproducer.series) & EPOCH_OF.keys():
        release = {"newest": "7.3"}.get(series, series)
        row = next(line for line in page.splitlines() if line.startswith(f"| {release}."))
        assert row.count("confirmed") == len(reproducer.modes), row


@pytest.mark.parametrize(("cause", "name"), BY_SOURCE.items())
def test_a_page_of_what_cannot_be_run_says_so(cause, name):
    page = (ROOT / "findings" / f"{name}.md").read_text()
    assert STATES[cause][0] is State.NOT_EXPRESSIBLE
    assert f"cause `{cause}`" in page and "Not run: " in page
    for title in ("## Sequence", "## Releases", "## Cause", "Control:"):
        assert title in page


def test_no_page_without_a_finding():
    assert {p.stem for p in (ROOT / "findings").glob("*.md")} == {r.name for r in REPRODUCERS} | {*BY_SOURCE.values()}


def test_sequences_use_commands_and_programs_that_exist():
    known = {line.split()[0] for text in scenarios.read().values() for line in text.splitlines()}
    programs = set(re.findall(r"^program (\w+)", (VM / "guest.S").read_text(), re.M))
    for reproducer in REPRODUCERS:
        lines = [line.split() for line in reproducer.script().splitlines()]
        assert {words[0] for words in lines} <= known
        assert {words[1] for words in lines if words[0] == "vcpu"} <= programs
        assert reproducer.sequence != reproducer.control
        assert reproducer.expected != reproducer.defect


def test_misuse(capsys):
    assert errors(capsys, "finding", "lost-stap") == (
        2,
        "formal.conform finding: no finding lost-stap; did you mean lost-step?",
    )
    code, err = errors(capsys, "finding", "lost-step", "--kernel", "/no/such/image")
    assert (code, err) == (3, "formal.conform finding: there is no kernel image /no/such/image")
    assert errors(capsys, "finding", "--qemu", "/no/such/qemu")[0] == 3


def test_the_list(capsys):
    assert main(["finding", "--list"]) == 0
    out = capsys.readouterr().out
    assert "lost-step (skip; 6.1, 6.12, vhe and nvhe)\n" in out
    assert "  window: not expressible: needs CPUs with different HPMN" in out


@pytest.mark.parametrize(("value", "code"), [("0x0", 0), ("0x100000000", 1), ("0x7", 3)])
def test_exit_codes(monkeypatch, capsys, tmp_path, value, code):
    monkeypatch.setattr(emulator, "find", lambda path: emulator.Qemu("q", (8, 0, 0), "8.0.0"))
    monkeypatch.setattr(finding, "image", lambda series, folder: Image(series, tmp_path))
    monkeypatch.setattr(finding, "boot", lambda *_, timeout: recording(value, "0x100000000"))
    assert main(["finding", "mdscr-upper-half", "--mode", "vhe"]) == code
    outcome = {0: "CONFIRMED", 1: "NOT THERE", 3: "UNCLEAR"}[code]
    assert f"mdscr-upper-half on 6.1.0 vhe: {outcome}\n" in capsys.readouterr().out


@pytest.mark.parametrize("mode", HOSTS)
def test_all_findings_of_a_kernel_are_confirmed_on_it(booted_kernel, mode):
    here = [r for r in REPRODUCERS if "6.1" in r.series and mode in r.modes]
    assert len(here) >= 4
    found = boot(booted_kernel, mode, "\n".join(r.script() for r in here), emulator.find())
    assert {r.name: judge(r, found).outcome for r in here} == {r.name: Outcome.CONFIRMED for r in here}


def test_findings_of_other_kernels_are_absent_or_unclear(booted_kernel):
    """What was fixed in v6.1, and what came with v6.4 and v6.14: nothing is confirmed by how a reproducer is made."""
    others = [r for r in REPRODUCERS if "6.1" not in r.series]
    assert {r.name for r in others} == {
        *("lost-step-at-cpu-on", "pstate-ss-leak", "lost-step-while-pending", "mdscr-write-ignored"),
    }
    found = boot(booted_kernel, Mode.VHE, "\n".join(r.script() for r in others), emulator.find())
    outcomes = {r.name: judge(r, found).outcome for r in others}
    assert outcomes == {
        "pstate-ss-leak": Outcome.ABSENT,
        "lost-step-while-pending": Outcome.ABSENT,
        "lost-step-at-cpu-on": Outcome.UNCLEAR,
        "mdscr-write-ignored": Outcome.UNCLEAR,  # it has no external_mdscr_el1
    }


def test_the_sample_in_the_docs(booted_kernel, capsys):
    """The release in the sample is that of the day it was written."""
    shown = (
        (ROOT / "docs/running.md")
        .read_text()
        .partition("last lines for 6.1 under VHE:\n\n```\n")[2]
        .partition("```")[0]
        .splitlines()
    )
    assert len(shown) == 4
    names = [line.split()[0] for line in shown[::2]]
    release = re.compile(r"6\.1\.0-\d+-cloud-arm64")
    wanted = [release.sub("6.1", line) for line in shown]
    seen = []
    for _ in range(3):  # on a busy host the guest may be preempted between two of its reads
        code = main(["finding", *names, "--mode", "vhe", "--kernel", str(booted_kernel)])
        seen.append((code, [release.sub("6.1", line) for line in capsys.readouterr().out.splitlines()]))
        if seen[-1] == (0, wanted):
            return
    assert seen[-1] == (0, wanted), seen
