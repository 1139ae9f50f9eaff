"""Traces as runs of the model: our own recordings, walks of the model, and both with one thing wrong."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from formal.conform.trace.check import Check, Result
from formal.conform.trace.coverage import coverage
from formal.conform.trace.fill import past
from formal.conform.trace.owner_groups import grouping
from formal.conform.trace.runs import Machine
from formal.conform.trace.text import TraceFormatError, parse
from formal.epochs import EPOCHS, Mode
from formal.evidence.runs.replay import Replay
from formal.evidence.runs.traces import Step, Trace
from formal.system import System
from tests.conform.trace.damage import damages
from tests.conform.trace.recorder import Loop, OwnerRecorder, Recorder

GOLDEN = Path(__file__).parents[1] / "golden"
RECORDINGS = {
    "6.1-vhe": ("E8s", "vhe"),
    "6.1-vhe-returns": ("E8s", "vhe"),
    "6.12-nvhe": ("E8b", "nvhe"),
    "5.10-nvhe": ("E4s", "nvhe"),
    "7.3-vhe": ("E10", "vhe"),
    "7.3-nvhe": ("E10", "nvhe"),
}


@cache
def machine(epoch: str, mode: str) -> Machine:
    return Machine(EPOCHS[epoch].kernel(Mode(mode)))


def text_of(name: str, markers: bool = True) -> str:
    text = (GOLDEN / f"{name}.txt").read_text()
    return text if markers else "".join(x for x in text.splitlines(True) if "conform:" not in x)


def checked(text: str, epoch: str, mode: str) -> Result:
    m = machine(epoch, mode)
    return Check(m.kernel, grouping(parse(text)), m).run()


@pytest.mark.parametrize("markers", [True, False])
@pytest.mark.parametrize("name", RECORDINGS)
def test_recordings_are_runs_of_their_kernel(name, markers):
    text = text_of(name, markers)
    result = checked(text, *RECORDINGS[name])
    assert result.unexplained is None
    assert result.explained == len(parse(text).events)
    assert result.values > 100
    assert result.watch is not None and result.watch.reached["host_debug_is_trapped"] > 10
    if markers:
        assert not result.assumed


@pytest.mark.parametrize(
    ("name", "epoch", "mode", "event"),
    [
        ("5.10-nvhe", "E8", "nvhe", "marker"),  # PSTATE.SS stays set after a step
        ("6.1-vhe", "E4s", "vhe", "kvm_arm_set_dreg32"),  # the OS lock is emulated
        ("6.12-nvhe", "E3a", "nvhe", "kvm_arm_set_dreg32"),
    ],
)
def test_recordings_are_no_runs_of_other_kernels(name, epoch, mode, event):
    found = checked(text_of(name), epoch, mode).unexplained
    assert found is not None and found.event is not None
    assert found.event.name == event


@pytest.mark.parametrize("name", ["6.1-vhe-returns", "5.10-nvhe"])
def test_the_run_that_is_found_replays(name, monkeypatch):
    """Every step that was filled in, in one trace, given to the replay of counterexamples."""
    epoch, mode = RECORDINGS[name]
    did = []
    settle = Check._settle

    def noting(self, run):
        did.extend(chain.did for chain in past(run.done))
        return settle(self, run)

    monkeypatch.setattr(Check, "_settle", noting)
    result = checked(text_of(name), epoch, mode)
    assert result.conforms
    lives = {key: n for n, key in enumerate(dict.fromkeys(d.vcpu for d in did))}
    initial = {}
    for cpu in {d.cpu for d in did}:
        hpmn = result.cpus[cpu]
        initial |= {f"p{cpu}.boot_mdcr_el2": hpmn, f"p{cpu}.hw_mdcr_el2": hpmn, f"p{cpu}.event_counters": 31}
    steps = tuple(Step(d.operation, lives[d.vcpu], d.cpu, d.inputs) for d in did)
    last = list(Replay(System(machine(epoch, mode).kernel)).run(Trace(initial, steps)))[-1]
    assert last.number == len(steps) > 200


# ---- damage

# Of the damage that stays unfound, all is a legal run: what a write that no event shows may have put into a register.
LEGAL = {
    "6.1-vhe": {"bit of trap_reg", "bit of regset", "twice kvm_set_guest_debug"},
    "6.12-nvhe": {"bit of trap_reg", "twice kvm_set_guest_debug"},
    "5.10-nvhe": {"bit of trap_reg", "twice kvm_set_guest_debug"},
    "7.3-vhe": {"bit of value", "bit of dbg_bcr", "bit of dbg_wvr", "without kvm_sys_access"},  # none of what KVM
    "7.3-nvhe": {"bit of value", "bit of dbg_bcr", "bit of dbg_wvr", "without kvm_sys_access"},  # does not know
}


@pytest.mark.parametrize("name", LEGAL)
def test_damage_is_found(name):
    missed: Counter[str] = Counter()
    total = 0
    for damage in damages(text_of(name), every=127):
        total += 1
        try:
            found = not checked(damage.text, *RECORDINGS[name]).conforms
        except TraceFormatError:
            found = True
        missed[damage.kind] += not found
    assert total > 20
    assert {kind for kind, n in missed.items() if n} <= LEGAL[name], missed
    assert sum(missed.values()) <= total * 0.05


@pytest.mark.parametrize("bit", range(20))
def test_every_bit_of_mdcr_el2_is_checked(bit):
    lines = text_of("6.1-vhe-returns").splitlines()
    where = [n for n, line in enumerate(lines) if "kvm_arm_set_dreg32: MDCR_EL2" in line][9]
    head, value = lines[where].rsplit("0x", 1)
    lines[where] = f"{head}0x{int(value, 16) ^ 1 << bit:x}"
    found = checked("\n".join(lines) + "\n", "E8", "vhe").unexplained
    assert found is not None and found.event is not None
    assert found.event.line == where + 1
    assert found.value is not None and found.value[1] ^ found.value[2] == 1 << bit


def test_broken_claims_are_named():
    text = text_of("6.1-vhe").replace("MDCR_EL2: 0x84c66", "MDCR_EL2: 0x84866")
    found = checked(text, "E8", "vhe").unexplained
    assert found is not None
    assert {"os_registers", "os_registers_trapped"} <= set(found.breaks)
    assert found.expected == ("kvm_arm_set_dreg32: MDCR_EL2: 0x84c66",)


def test_an_entry_on_another_cpu_than_its_setup_is_found():
    lines = text_of("6.1-vhe-returns").splitlines()
    where = [n for n, line in enumerate(lines) if "kvm_entry" in line][5]
    lines[where] = lines[where].replace("[000]", "[001]")
    assert checked("\n".join(lines) + "\n", "E8", "vhe").unexplained is not None


# ---- traces of users: begun late, trace points off, several threads


@pytest.mark.parametrize("first", [40, 133, 258, 391, 530])
def test_a_trace_may_begin_anywhere(first):
    text = "".join(text_of("6.1-vhe-returns").splitlines(True)[first:])
    groups = grouping(parse(text))
    result = checked(text, "E8", "vhe")
    assert result.unexplained is None
    assert result.explained + groups.skipped == len(parse(text).events)
    assert groups.skipped < 12


@pytest.mark.parametrize("first", [60, 211, 333])
def test_a_trace_of_an_older_kernel_may_begin_anywhere(first):
    text = "".join(text_of("5.10-nvhe", markers=False).splitlines(True)[first:])
    result = checked(text, "E4s", "nvhe")
    assert result.unexplained is None
    assert result.conforms


@pytest.mark.parametrize(
    "off",
    [
        ("kvm_exit",),
        ("kvm_entry",),
        ("kvm_arm_clear_debug",),
        ("kvm_userspace_exit",),
        ("trap_reg",),
        ("kvm_sys_access", "kvm_handle_sys_reg"),
        ("kvm_set_guest_debug", "kvm_arm_set_regset"),
    ],
)
def test_trace_points_may_be_off(off):
    lines = text_of("6.1-vhe-returns").splitlines(True)
    text = "".join(line for line in lines if not any(f" {name}: " in line for name in off))
    result = checked(text, "E8", "vhe")
    assert result.unexplained is None
    assert result.conforms


@pytest.mark.parametrize(
    ("epoch", "mode"),
    [
        ("E10", "vhe"),
        ("E10", "nvhe"),
        ("E8", "vhe"),
        ("E8", "nvhe"),
        ("E7", "vhe"),
        ("E5", "nvhe"),
        ("E4s", "nvhe"),
        ("E3a", "nvhe"),
    ],
)
def test_walks_of_the_model_are_explained(epoch, mode):
    """Two vCPUs on two CPUs, as the kernel would print what they do; preempted and moved at any time."""
    kernel = machine(epoch, mode).kernel
    for seed in range(2):
        walk = Loop(kernel, 2, 2, seed)
        for _ in range(300):
            walk.step()
        text = (OwnerRecorder if kernel.tracks_debug_owner else Recorder)(walk, kernel).text()
        result = checked(text, epoch, mode)
        assert result.unexplained is None, (seed, result.unexplained)
        assert result.explained == len(text.splitlines()) > 100


def test_nothing_to_compare_is_no_conformance():
    result = checked("x-1 [000] d.... 1: kvm_entry: PC: 0x0\n", "E8", "vhe")
    assert result.unexplained is None
    assert not result.conforms


def test_what_the_host_does_is_attributed():
    """A CPU down and up again, and the host's own watchpoint: steps of the model, taken while no vCPU is there."""
    marks = (
        "hotplug cpu=1 online=0 begins=1",
        "hotplug cpu=1 online=0 begins=0",
        "hotplug cpu=1 online=1 begins=1",
        "hotplug cpu=1 online=1 begins=0",
        "host_watchpoint armed=1",
        "host_watchpoint armed=0 hits=1",
    )
    lines = [f"  init-1 [000] ..... 9{n}: tracing_mark_write: conform: {m}\n" for n, m in enumerate(marks)]
    text = text_of("6.1-vhe").splitlines(True)
    at = next(n for n, line in enumerate(text) if "conform: scenario name=one_reg_banks" in line)
    result = checked("".join([*text[:at], *lines, *text[at:]]), "E8", "vhe")
    assert result.unexplained is None
    assert result.operations["cpu_boot"] == result.operations["kvm_arm_init_debug"] == 1
    assert result.operations["the host writes its debug registers"] == 2
    assert len(result.vcpus) == len(checked(text_of("6.1-vhe"), "E8", "vhe").vcpus)


def test_an_interrupt_at_the_entry_keeps_the_guest_out():
    """PSTATE.SS as user space set it, without a step: an ERET clears it, an interrupt pending before does not."""
    lines = text_of("7.3-vhe").splitlines(True)
    entered = [
        n for n, x in enumerate(lines) if "pstate=0x2003c5" in x and "vcpu_enter" in x and "guest_debug=0x0" in x
    ]
    assert entered
    at = next(n for n in range(entered[0], len(lines)) if "vcpu_leave" in lines[n])
    exits = next(n for n in range(at, len(lines)) if "kvm_exit" in lines[n])
    assert "pstate=0x3c5" in lines[at]
    assert "TRAP" in lines[exits]
    lines[at] = lines[at].replace("pstate=0x3c5", "pstate=0x2003c5")
    found = checked("".join(lines), "E10", "vhe").unexplained
    assert found is not None and found.value == ("pstate", 0x2003C5, 0x3C5)
    lines[exits] = lines[exits].split("kvm_exit:")[0] + "kvm_exit: IRQ: HSR_EC: 0x0000 (UNKNOWN), PC: 0x0\n"
    found = checked("".join(lines), "E10", "vhe").unexplained
    assert found is None or found.event.line > exits + 1  # the access that was there has no exit any more


def test_coverage():
    results = [checked(text_of(name), *RECORDINGS[name]) for name in ("6.1-vhe", "6.12-nvhe")]
    both, one = coverage(results), coverage(results[:1])
    assert set(both.not_taken) < set(one.not_taken)
    assert both.operations["kvm_arm_setup_debug"] == sum(r.operations["kvm_arm_setup_debug"] for r in results)
    assert "fixup_guest_exit re-enters" in both.not_taken
    assert both.situations["os_lock_blocks_guest_debug"] > 0
