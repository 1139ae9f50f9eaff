"""Counterexamples made into something to run: what is replaced, what cannot be, what a recording shows."""

from __future__ import annotations

import re

import pytest

from formal.conform.boot.marks import passages
from formal.conform.boot.scenarios import SCENARIOS
from formal.conform.findings import counterexamples
from formal.conform.findings.counterexamples import judge, plans, run
from formal.conform.findings.expressible import NotExpressibleError, Plan
from formal.conform.findings.reproducers import State
from formal.conform.findings.substitutes import booted, breaks, express
from formal.conform.machine import emulator
from formal.epochs import HOSTS, Mode
from formal.evidence.runs.replay import Replay
from formal.evidence.runs.traces import Step, TraceBook
from formal.evidence.runs.witnesses import known_checks
from formal.scope.configuration import Configuration
from formal.system import System
from tests.conform.cpu.test_command import errors
from tests.conftest import PROOFS, ROOT

KERNELS = [Configuration(e, m.value) for e in ("E4s", "E8s", "E10") for m in HOSTS]
COMMANDS = {*re.findall(r"^#   (\w+)", SCENARIOS.read_text(), re.M), "wake", "join", "immediate"}
E8 = Configuration("E8", "vhe")


def book(c):
    return TraceBook.read(PROOFS / "traces" / f"{c.stem}.json")


@pytest.mark.parametrize("c", KERNELS, ids=str)
def test_every_violated_claim_has_its_plan_or_its_reason(c, manifest):
    """What is run breaks the claim in the replay, from the state that the emulated CPUs boot in; commands exist."""
    found, known, replay = plans(c), known_checks(c), Replay(System(c.kernel()))
    violated = {n for n, v in manifest.expected(c).items() if v == "VIOLATED" and not n.startswith("not ")}
    assert found.keys() == violated
    for name, several in found.items():
        for plan in several:
            if isinstance(plan, NotExpressibleError):
                assert re.match(r"(initial state: MDCR_EL2 at boot|needs a CPU with|operation \w+)", str(plan))
                continue
            assert breaks(replay, plan.trace, known[name])
            for line in plan.script("x").splitlines():
                assert line.split()[0] in COMMANDS, line


def test_each_step_that_matters_is_there():
    """Without a command of the script, or an instruction, the claim would not be broken: they are the trace's own."""
    plan = plans(E8)["guest_mdscr_preserved"][0]
    assert isinstance(plan, Plan)
    text = plan.script("x")
    assert "set MDSCR_EL1 0x40000000000000\ndebug ENABLE\nrun 1\n" in text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ([Step("kvm_arch_vcpu_load", 0, 0, {}), Step("the guest writes OSLAR_EL1", 0, 0, {})], "initial state"),
        ([Step("fixup_guest_exit re-enters", 0, 0, {"skips": False})] * 40, "initial state"),
    ],
)
def test_a_trace_that_is_no_run_is_not_expressed(change, says):
    stored = book(E8)
    trace = stored.traces[stored.counterexamples["guest_mdscr_preserved"]]
    broken = type(trace)(trace.initial, (*change, *trace.steps))
    with pytest.raises(NotExpressibleError, match=says):
        express(broken, known_checks(E8)["guest_mdscr_preserved"], Replay(System(E8.kernel())))


def test_what_no_command_does_is_named():
    """Hyp initialisation in the middle of a life: nothing here brings a CPU down."""
    stored, replay = book(E8), Replay(System(E8.kernel()))
    claim = known_checks(E8)["debug_exceptions_enabled_means_untrapped"]
    trace = stored.traces[stored.counterexamples[claim.name]]
    at = next(n for n, s in enumerate(trace.steps) if s.operation == "kvm_arch_vcpu_load")
    host = Step("the host writes its debug registers", 0, 0, {})
    more = type(trace)(trace.initial, (*trace.steps[:at], host, *trace.steps[at:]))
    assert breaks(replay, booted(more), claim)
    with pytest.raises(NotExpressibleError, match="operation the host writes its debug registers: nothing makes it"):
        express(more, claim, replay)


def marked(*marks):
    lines = ["scenario name=x", *marks]
    text = "".join(f"  init-1 [000] ..... {n}: tracing_mark_write: conform: {m}\n" for n, m in enumerate(lines))
    return passages(text)["x"]


def steps(*pcs):
    found = ["set_one_reg vcpu=0 reg=PC value=0x40000000", "set_guest_debug vcpu=0 control=0x3"]
    for pc in pcs:
        found.append(f"returned vcpu=0 error=0 pc={pc:#x} pstate=0x3c5 mdscr_el1=0x0")
        found.append("exit vcpu=0 reason=DEBUG esr=0xca000022 far=0x0")
    return marked(*found)


@pytest.mark.parametrize(
    ("passage", "state", "says"),
    [
        (steps(0x40000004, 0x40000008), State.NOT_REPRODUCIBLE, "each of 2 reported steps is one instruction"),
        (steps(0x40000004, 0x4000000C), State.CONFIRMED, "a reported step is 2 instructions"),
        (steps(0x40000004, 0x40000004), State.CONFIRMED, "a reported step is 0 instructions"),
    ],
)
def test_steps_are_counted(passage, state, says):
    assert counterexamples._steps(passage, "") == (state, says)


def test_what_did_not_happen_is_said():
    assert counterexamples._steps(steps(0x40000004), "no reset") == (
        State.NOT_REPRODUCIBLE,
        "no reset",
    )
    plan = plans(E8)["guest_mdscr_preserved"][0]
    assert judge(E8, known_checks(E8)["guest_mdscr_preserved"], plan, None)[1] == "the scenario did not run"


@pytest.mark.parametrize(
    ("data", "line", "state"),
    [
        ("0x62000000", "", State.CONFIRMED),
        ("0x56000000", "  x-1 [000] d.... 9: kvm_sys_access: PC: 0 SYS_X (3,3,9,12,1) read", State.NOT_REPRODUCIBLE),
        ("0x56000000", "", State.NOT_REPRODUCIBLE),
    ],
)
def test_a_trap_that_goes_elsewhere_is_seen(data, line, state):
    passage = marked(f"exit vcpu=0 reason=MMIO write=1 address=0x9000000 data={data}")
    passage = type(passage)(passage.name, (*passage.lines, line), passage.marks)
    assert counterexamples._told(passage, "")[0] is state


def test_counterexamples_of_a_running_kernel(booted_kernel):
    """On 6.1: the events break the claim, or the program counter and the syndrome do; what cannot be is not run."""
    rows, recording = run(E8, booted_kernel, Mode.VHE, emulator.find(None), 120)
    state = {r.claim: r.state for r in rows}
    assert recording is not None and not recording.errors
    for name in ("guest_mdscr_preserved", "saved_before_modified", "debug_exceptions_enabled_means_untrapped"):
        assert state[name] is State.CONFIRMED
    assert state["one_step_one_instruction"] is State.CONFIRMED
    assert state["performance_monitors_trapped"] is State.CONFIRMED
    assert state["hpmn_preserved_always"] is State.NOT_EXPRESSIBLE
    shown = (
        (ROOT / "docs/running.md").read_text().partition("it prints for 6.1 under VHE:\n\n```\n")[2].partition("```")[0]
    )
    said = {_without_count(f"{r.claim}: {r.state}: {r.why}") for r in rows}
    assert shown and {_without_count(line) for line in shown.splitlines()} <= said


def _without_count(line):
    """An interrupt more or less changes how many values there are."""
    return re.sub(r"\d+ values", "N values", line)


def test_misuse(capsys, tmp_path):
    assert errors(capsys, "finding", "lost-step", "--from-trace") == (
        2,
        "formal.conform finding: --from-trace runs every counterexample: NAME does not go with it",
    )
    path = tmp_path / "Image"
    path.write_bytes(b"")
    code, err = errors(capsys, "finding", "--from-trace", "--kernel", str(path))
    assert code == 3 or (code, err) == (2, "formal.conform finding: the release of Image is not modelled")
