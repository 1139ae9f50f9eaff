"""Ghosts are what was done. No variable and no behaviour of the kernel's takes part, and what it does amiss shows."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from dataclasses import fields, replace

import pytest

from formal import history
from formal.arch.registers import KVM_GUESTDBG, MDCR_EL2
from formal.engines.z3backend import Z3Solver, Z3Terms
from formal.epochs import Kernel
from formal.logic import terms as t
from formal.logic.evaluation import substitute, support
from formal.properties import CLAIMS
from formal.scope.configuration import EPOCH_CONFIGURATIONS, Configuration
from formal.state import VARIABLES, State
from formal.system import System
from formal.transitions import OPERATIONS
from tests.conftest import ROOT

# Where a vCPU and a CPU are, what they are, and the boot code: neither a history nor a variable of KVM's debug code.
PLACE = {"phase", "exit", "in_run", "cpu", "vcpu", "busy", "kvm_ready", "boot_mdcr_el2"}
GIVEN = {"has_nv", "nested", "has_fgt", "nr_pmu_counters", "protected_vm", "event_counters", "pmuv3p8"}
# What KVM did, noted so that a claim can judge it: these have to look at it.
DEEDS = {"is_set_up", "steps", "wrong_step", "wrong_route", "wrong_access"}
# Whether a guest hypervisor gets an exception, KVM decides (and wrong_route judges it): that it gets one is an act.
DECIDED = {"kvm_handle_guest_debug": {"guest_debug", "virtual_mdcr_el2"}}
HARDWARE = {name for name in VARIABLES if name.startswith("hw_")}
HISTORY = {name for name, v in VARIABLES.items() if v.ghost} - PLACE - DEEDS
TOLD = HARDWARE | PLACE | GIVEN | HISTORY | DEEDS
PROMISES = {"documents_trace_traps", "documents_os_lock"}
SHAPE = {"mode", "breakpoints", "tracks_debug_owner", "nested_virtualization"}  # which variables there are


def bare(k: Kernel) -> State:
    """A state of which the kernel's variables are missing: to read one is an error."""
    whole = System(k).state()
    return State({n: v for n, v in whole.values.items() if n in HISTORY | HARDWARE | GIVEN})


def acts() -> dict[str, Callable[..., State]]:
    """The functions that define what the ghosts are."""
    found = inspect.getmembers(history, inspect.isfunction)
    return {name: f for name, f in found if f.__module__ == history.__name__ and not name.startswith("_")}


def arguments(name: str, k: Kernel) -> list[object]:
    """Open values for what an act takes besides the state."""
    bits = 2 + (k.breakpoints - 1).bit_length()
    by_name: dict[str, object] = {
        "control": KVM_GUESTDBG(t.var("control", 64)), "bank": t.var("bank", (bits, 64)), "index": t.var("index", bits),
        "mdscr": t.var("mdscr", 64), "locks": t.var("locks", t.BOOL), "asks": t.var("asks", t.BOOL),
        "writes": t.var("writes", t.BOOL), "counters": t.var("counters", 5) if k.nests else None,
        "value": {"sets_pstate_ss": t.var("ss", t.BOOL), "sets_hypervisors_mdcr": MDCR_EL2(t.var("mdcr", 64))}.get(
            name, t.var("value", 64)),
    }  # fmt: skip
    return [by_name[p] for p in list(inspect.signature(acts()[name]).parameters)[1:]]


@pytest.mark.parametrize("configuration", EPOCH_CONFIGURATIONS, ids=str)
def test_no_act_reads_a_variable_of_the_kernels(configuration: Configuration) -> None:
    """Each is carried out on a state that does not have them, and changes ghosts only."""
    k = configuration.kernel()
    for name, act in acts().items():
        if name == "sets_hypervisors_mdcr" and not k.nests:
            continue
        before = bare(k)
        after = act(before, *arguments(name, k))
        changed = {n for n, value in after.values.items() if value is not before.values[n]}
        assert changed <= HISTORY, f"{name} changes {sorted(changed - HISTORY)}"


def test_no_act_is_told_which_kernel_runs() -> None:
    for name, act in acts().items():
        parameters = inspect.signature(act).parameters.values()
        assert not any("Kernel" in str(p.annotation) for p in parameters), name
    source = ast.parse(inspect.getsource(history))
    imported = {n.module for n in ast.walk(source) if isinstance(n, ast.ImportFrom)}
    assert "formal.epochs" not in imported


def test_every_history_has_its_act_and_nothing_else_makes_it() -> None:
    """Only history.py assigns to them; the operations say which act they are."""

    def assigned(path: str) -> Iterator[str]:
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(node, ast.Call):
                yield from (word.arg for word in node.keywords if word.arg in HISTORY)

    others = ("operations", "environment", "ownership", "worldswitch", "transitions")
    assert set(assigned("formal/history.py")) == HISTORY
    assert not {name: found for name in others if (found := set(assigned(f"formal/{name}.py")))}


@pytest.mark.parametrize("configuration", EPOCH_CONFIGURATIONS, ids=str)
def test_what_becomes_of_a_history_depends_on_no_variable_of_the_kernels(configuration: Configuration) -> None:
    """Whatever is chosen between on the way: not even under a condition of the kernel's.

    Where an entry leads is in PSTATE, which KVM keeps in memory: all of it but SS is the guest's own.
    """
    for step in System(configuration.kernel()).applied:
        for name in HISTORY & step.after.values.keys():
            after = step.after.values[name]
            read = {n.partition(".")[2] for n in support(after) if not n.startswith("in.")}
            read -= DECIDED.get(step.operation.name, set())
            if name != "guest_pstate_ss":
                assert read <= TOLD, f"{step.operation.name}: {name} depends on {sorted(read - TOLD)}"
                continue
            context = step.before.pstate
            others = {n: step.before.values[n] for n in read - TOLD - {"pstate", "adjust_pc"}}
            changed = {str(v.data): t.var(f"another {n}", v.sort) for n, v in others.items()}
            changed |= {str(context.raw.data): context.but(SS=t.Not(context.SS)).raw}
            other = substitute(after, changed)
            assert other is after or Z3Solver(Z3Terms()).implies(t.Eq(after, other)), step.operation.name


KERNELS = [Configuration("E8", "vhe"), Configuration("E8", "nvhe"), Configuration("E13", "vhe")]


@pytest.mark.parametrize("configuration", [*KERNELS, Configuration("E13", "protected")], ids=str)
def test_what_becomes_of_a_history_depends_on_no_behaviour(configuration: Configuration) -> None:
    """Each behaviour turned round: the ghosts after each operation are the same terms."""
    k = configuration.kernel()
    right = {step.operation.name: step for step in System(k).applied}
    turned = [f.name for f in fields(Kernel) if isinstance(getattr(k, f.name), bool) and f.name not in PROMISES | SHAPE]
    assert len(turned) > 20
    anything = tuple(replace(op, writes=frozenset(VARIABLES)) for op in OPERATIONS)  # no release has some of these
    for behaviour in turned:
        other = System(k.but(**{behaviour: not getattr(k, behaviour)}), anything)
        for step in (p for p in other.applied if p.guard is not t.FALSE and p.operation.name not in DECIDED):
            same = right[step.operation.name]
            for name in HISTORY & step.after.values.keys() - {"guest_pstate_ss"}:
                assert step.after.values[name] is same.after.values[name], f"{behaviour}: {step.operation.name}: {name}"


# ---- claims

# The kernel's own condition is what this claim is about: its BUG_ON, and what KVM has computed for EL2.
OWN_CONDITION = {"bug_on_unreachable": {"guest_debug"}, "copy_at_el2_has_external_mdscr": {"external_mdscr_el1"}}

# In which order a copy is made shows where what is copied is still the guest's: then the copy has what the guest had.
COPIED = {"mdscr_copied_before_modified": {"mdscr_el1"}, "pstate_ss_copied_before_modified": {"pstate"}}


@pytest.mark.parametrize("configuration", EPOCH_CONFIGURATIONS, ids=str)
def test_no_variable_of_the_kernels_says_when_a_claim_speaks_or_what_is_true(configuration: Configuration) -> None:
    """A situation is told by histories, the hardware and the place; then at most one variable of KVM's is judged."""
    k = configuration.kernel()
    s = System(k).state()
    for claim in (c for c in CLAIMS if c.applies(k) is None):
        when = {n.partition(".")[2] for n in support(claim.when(s, k))}
        when -= COPIED.get(claim.name, set())
        assert when <= TOLD, f"{claim.name} speaks of {sorted(when - TOLD)}"
        judged = {n.partition(".")[2] for n in support(claim.then(s, s, k))} - TOLD
        judged -= OWN_CONDITION.get(claim.name, set())
        assert len(judged) <= 1, f"{claim.name} compares {sorted(judged)}"


def test_the_exceptions_are_no_more_than_that() -> None:
    names = {c.name for c in CLAIMS}
    assert OWN_CONDITION.keys() | COPIED.keys() <= names
    assert not HISTORY & (PLACE | GIVEN | DEEDS | HARDWARE)
    assert {n for n, v in VARIABLES.items() if v.ghost} == HISTORY | DEEDS | (
        PLACE & {"phase", "exit", "boot_mdcr_el2"}
    )
