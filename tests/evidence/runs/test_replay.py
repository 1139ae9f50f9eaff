"""Replay refuses what is no run, and accepts as a counterexample only what breaks the claim."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest

from formal.engines.bmc import Search, situation, taking
from formal.engines.verdict import Checker, Verdict
from formal.epochs import EPOCHS, Mode
from formal.evidence.runs.replay import Replay, ReplayError
from formal.evidence.runs.traces import Step, Trace, TraceBook, TraceError
from formal.logic import terms as t
from formal.logic.terms import ArrayValue
from formal.preconditions import CPUS_BOOT_ALIKE, INIT_ONLY_AT_BOOT, PERF_KEEPS_OFF
from formal.properties import CLAIMS
from formal.scope.configuration import EPOCH_CONFIGURATIONS, Configuration
from formal.state import Phase
from formal.system import System
from formal.vocabulary import Claim
from tests.conftest import checker_of

CLAIM = {c.name: c for c in CLAIMS}
BOOT: dict[str, t.Value] = {
    "p0.boot_mdcr_el2": 6,
    "p0.hw_mdcr_el2": 6,
    "p0.event_counters": 6,
}
ENTRY = (
    Step("kvm_arch_vcpu_create", 0, 0, {}),
    Step("kvm_arm_init_debug", 0, 0, {}),
    Step("kvm_arm_vcpu_init_debug", 0, 0, {}),
    Step("kvm_arch_vcpu_load", 0, 0, {}),
    Step("kvm_arm_setup_debug", 0, 0, {}),
    Step("__kvm_vcpu_run enters", 0, 0, {}),
)
PLAIN = Trace(BOOT, ENTRY)


@pytest.fixture(scope="module")
def e8_replay() -> Replay:
    """Replay of E8 under VHE."""
    return checker_of(Configuration("E8", "vhe")).replay


def last(replay: Replay, trace: Trace) -> dict[str, t.Value]:
    """The values after the last step."""
    return dict([*replay.run(trace)][-1].after)


# ---- runs


@pytest.mark.parametrize("configuration", EPOCH_CONFIGURATIONS, ids=str)
def test_a_plain_entry_is_a_run_of_every_kernel(configuration: Configuration) -> None:
    replay = checker_of(configuration).replay
    retired = {"kvm_arm_setup_debug"} if replay.system.kernel.tracks_debug_owner else set()
    values = last(replay, Trace(BOOT, tuple(s for s in ENTRY if s.operation not in retired)))
    assert values["v0.phase"] == Phase.IN_GUEST
    assert values["p0.busy"] is True
    assert values["v0.is_set_up"] is True


def test_a_run_shows_each_state_once(e8_replay: Replay) -> None:
    seen = [*e8_replay.run(PLAIN)]
    assert [s.number for s in seen] == list(range(len(ENTRY) + 1))
    assert all(a.after == b.before for a, b in pairwise(seen[1:]))
    assert seen[0].step is None


# ---- what is no run


def test_a_step_that_is_not_enabled_is_refused(e8_replay: Replay) -> None:
    for gone in range(len(ENTRY)):
        steps = ENTRY[:gone] + ENTRY[gone + 1 :]
        if gone == len(ENTRY) - 1:
            continue  # nothing follows the last one
        with pytest.raises(ReplayError, match=r"^step \d, .*: not enabled$"):
            list(e8_replay.run(Trace(BOOT, steps)))


def test_a_step_on_another_cpu_is_refused(e8_replay: Replay) -> None:
    two = {**BOOT, **{name.replace("p0", "p1"): value for name, value in BOOT.items()}}
    steps = (*ENTRY[:4], replace(ENTRY[4], cpu=1))
    with pytest.raises(ReplayError, match="step 5, kvm_arm_setup_debug: not enabled"):
        list(e8_replay.run(Trace(two, steps)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"p0.boot_mdcr_el2": 0, "p0.hw_mdcr_el2": 0},
        {"p0.event_counters": 5},
        {"p0.hw_mdcr_el2": 7},
        {"v0.phase": 5},
        {"v0.mdscr_el1": 1},
        {"p0.busy": True},
        {"p0.hw_oslk": True},
        {"v0.guest_bank": ArrayValue(0, ((3, 1),))},
    ],
    ids=str,
)
def test_an_initial_state_that_is_none_is_refused(e8_replay: Replay, wrong: dict[str, t.Value]) -> None:
    with pytest.raises(ReplayError, match="vCPU 0 and CPU 0 do not start in an initial state"):
        list(e8_replay.run(Trace({**BOOT, **wrong}, ENTRY)))


def test_every_cpu_of_the_trace_has_to_start_in_an_initial_state(e8_replay: Replay) -> None:
    steps = (*ENTRY, Step("cpu_boot", 0, 1, {}))
    with pytest.raises(ReplayError, match="vCPU 0 and CPU 1 do not start in an initial state"):
        list(e8_replay.run(Trace(BOOT, steps)))


@pytest.mark.parametrize(
    ("initial", "message"),
    [
        ({"v0.mdcr_el3": 1}, r"v0\.mdcr_el3 = 1 does not fit the system"),
        ({"v9.phase": 1}, r"v9\.phase = 1 does not fit"),
        ({"v0.phase": 8}, r"v0\.phase = 8 does not fit"),
        ({"v0.phase": -1}, r"v0\.phase = -1 does not fit"),
        ({"v0.phase": True}, r"v0\.phase = True does not fit"),
        ({"v0.debug_dirty": 1}, r"v0\.debug_dirty = 1 does not fit"),
        ({"p0.hw_mdcr_el2": 1 << 64}, r"p0\.hw_mdcr_el2 = \d+ does not fit"),
        ({"p0.hw_bank": 5}, r"p0\.hw_bank = 5 does not fit"),
        ({"p0.hw_mdcr_el2": ArrayValue(0)}, r"does not fit"),
        ({"p0.hw_bank": ArrayValue(0, ((64, 1),))}, r"p0\.hw_bank = .* does not fit"),
        ({"p0.hw_bank": ArrayValue(0, ((-1, 1),))}, r"p0\.hw_bank = .* does not fit"),
        ({"p0.hw_bank": ArrayValue(0, ((1, 1 << 64),))}, r"p0\.hw_bank = .* does not fit"),
        ({"p0.hw_bank": ArrayValue(1 << 64)}, r"p0\.hw_bank = .* does not fit"),
    ],
)
def test_values_that_a_variable_cannot_hold_are_refused(
    e8_replay: Replay, initial: dict[str, t.Value], message: str
) -> None:
    with pytest.raises(TraceError, match=message):
        list(e8_replay.run(Trace({**BOOT, **initial}, ENTRY)))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Step("kvm_arch_vcpu_lod", 0, 0, {}), "the system has no operation 'kvm_arch_vcpu_lod'"),
        (Step("kvm_arch_vcpu_create", 0, 0, {"value": 1}), "kvm_arch_vcpu_create has no input 'value'"),
        (Step("cpu_boot", 0, 0, {"mdscr_el1": 1 << 64}), r"cpu_boot: input mdscr_el1 = \d+ does not fit"),
        (Step("cpu_boot", 0, 0, {"mdscr_el1": True}), "cpu_boot: input mdscr_el1 = True does not fit"),
        (Step("cpu_boot", 0, 0, {"bank": 1}), "cpu_boot: input bank = 1 does not fit"),
        (Step("cpu_boot", 0, 4, {}), "cpu_boot: vCPUs and CPUs are numbered 0 to 3, got 4"),
        (Step("cpu_boot", -1, 0, {}), "cpu_boot: vCPUs and CPUs are numbered 0 to 3, got -1"),
    ],
)
def test_steps_that_the_system_does_not_have_are_refused(e8_replay: Replay, step: Step, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        list(e8_replay.run(Trace(BOOT, (step,))))


def test_two_cpus_cannot_share_a_name(e8_replay: Replay) -> None:
    """A CPU 4 would be CPU 0 in the two bits of an id: a vCPU loaded here could be entered there, untrapped."""
    forged = {**BOOT, **{name.replace("p0", "p4"): value for name, value in BOOT.items()}}
    trace = Trace(forged, (*ENTRY[:5], Step("__kvm_vcpu_run enters", 0, 4, {})))
    with pytest.raises(TraceError, match="numbered 0 to 3, got 4"):
        e8_replay.violates(trace, CLAIM["performance_monitors"])


# ---- preconditions


def test_preconditions_are_part_of_the_replay(e8_replay: Replay) -> None:
    again = Trace(BOOT, (*ENTRY[:2], ENTRY[1]))
    list(e8_replay.run(again))
    with pytest.raises(ReplayError, match="step 3, kvm_arm_init_debug: precondition init_only_at_boot does not hold"):
        list(e8_replay.run(again, (INIT_ONLY_AT_BOOT,)))
    five = {**BOOT, "p0.boot_mdcr_el2": 5, "p0.hw_mdcr_el2": 5}
    with pytest.raises(ReplayError, match="precondition cpus_boot_alike does not hold initially"):
        list(e8_replay.run(Trace(five, ENTRY), (CPUS_BOOT_ALIKE,)))
    list(e8_replay.run(PLAIN, (CPUS_BOOT_ALIKE, INIT_ONLY_AT_BOOT)))


def test_a_counterexample_must_meet_the_preconditions_of_the_claim(e8_replay: Replay) -> None:
    claim = CLAIM["performance_monitors_trapped"]
    book = checker_of(Configuration("E8", "vhe")).book
    trace = book.traces[book.counterexamples[claim.name]]
    assert e8_replay.violates(trace, claim) is not None
    with pytest.raises(ReplayError, match="precondition perf_keeps_off does not hold"):
        e8_replay.violates(trace, replace(claim, given=(PERF_KEEPS_OFF,)))


# ---- tampering


def violated(checker: Checker) -> Iterator[tuple[str, Claim, Trace]]:
    """The stored counterexamples of plain claims."""
    for name, number in checker.book.counterexamples.items():
        if name in CLAIM:
            yield name, CLAIM[name], checker.book.traces[number]


@pytest.mark.parametrize("configuration", EPOCH_CONFIGURATIONS, ids=str)
def test_a_counterexample_breaks_its_claim_with_its_last_step(configuration: Configuration) -> None:
    checker = checker_of(configuration)
    for name, claim, trace in violated(checker):
        step = checker.replay.violates(trace, claim)
        assert step == len(trace.steps), f"{name}: what follows step {step} is not needed"
        cut = Trace(trace.initial, trace.steps[:-1])
        assert checker._breaks(cut, claim) is None, f"{name} is broken before the step that breaks it"


@pytest.mark.parametrize("mode", ["vhe", "nvhe"])
def test_a_counterexample_without_one_step_breaks_nothing(mode: str) -> None:
    """Every step is needed, so one that is left out is noticed."""
    checker = checker_of(Configuration("E8", mode))
    for name, claim, trace in violated(checker):
        for gone in range(len(trace.steps)):
            left = Trace(trace.initial, trace.steps[:gone] + trace.steps[gone + 1 :])
            assert checker._breaks(left, claim) is None, f"{name} does without step {gone + 1}"


@pytest.mark.parametrize("kind", ["reordered", "renamed", "other value", "not initial"])
def test_a_tampered_counterexample_is_not_accepted(kind: str) -> None:
    """With a proved claim and a forged trace for it, the verdict stays PROVED; no forgery is VIOLATED."""
    system = System(EPOCHS["E8"].kernel(Mode.VHE))
    claim = CLAIM["performance_monitors"]
    forged = {
        "reordered": Trace(BOOT, (*ENTRY[:3], ENTRY[5], ENTRY[4])),
        "renamed": Trace(BOOT, (*ENTRY[:3], Step("__kvm_vcpu_run enters", 1, 0, {}))),
        "other value": Trace(BOOT, (*ENTRY, Step("the host writes PMUSERENR_EL0", 0, 0, {"value": 1 << 70}))),
        "not initial": Trace({**BOOT, "v0.phase": int(Phase.IN_GUEST)}, ()),
    }[kind]
    checker = Checker(system, TraceBook((forged,), {claim.name: 0}))
    result = checker.check(claim)
    assert result.verdict is Verdict.PROVED
    assert result.trace is None


def test_a_counterexample_of_another_kernel_is_not_accepted() -> None:
    """B5's trace breaks its claim in the kernel with the bug, not in the fixed one."""
    bug = checker_of(Configuration("B5", "vhe"))
    claim = CLAIM["guest_pstate_ss_preserved_if_one_steps_unlocked"]
    trace = bug.book.traces[bug.book.counterexamples[claim.name]]
    fixed = checker_of(Configuration("E8", "vhe"))
    assert bug.replay.violates(trace, claim) is not None
    assert fixed._breaks(trace, claim) is None
    assert Checker(fixed.system, TraceBook((trace,), {claim.name: 0})).check(claim).verdict is Verdict.PROVED


# ---- the search and the replay agree


@pytest.mark.parametrize("name", ["E8", "E3a"])
def test_what_the_search_finds_replays(name: str) -> None:
    system = System(EPOCHS[name].kernel(Mode.NVHE))
    replay = Replay(system)
    search = Search(system, cpus=1)
    claim = CLAIM["step_armed"]
    found = search.find(situation(claim, system), 6)
    assert found is not None, "no run reaches the situation of step_armed"
    assert replay.first(found, lambda seen, pair: replay.reaches(claim, seen, pair)) == len(found.steps)
    taken = search.find(taking("kvm_arch_vcpu_put"), 6)
    assert taken is not None
    assert taken.steps[-1].operation == "kvm_arch_vcpu_put"
    list(replay.run(taken))
