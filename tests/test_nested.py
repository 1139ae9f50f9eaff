"""Guests that are hypervisors (v6.18), and protected mode: values worked out by hand."""

from __future__ import annotations

import pytest

from formal import ownership
from formal.arch.registers import MDCR_EL2, MDSCR_EL1
from formal.arch.traps import Access, Outcome, outcome
from formal.epochs import EPOCHS, HOSTS, Mode
from formal.logic.evaluation import evaluate
from formal.logic.terms import ArrayValue, Value
from formal.operations import Inputs, controls
from formal.scope.configuration import EPOCH_CONFIGURATIONS
from formal.state import DebugOwner, Exit, Phase, State
from formal.system import System
from formal.transitions import OPERATIONS, forwards_access
from tests.test_ownership import ALWAYS, DEBUG, state_and

E11 = EPOCHS["E11"].kernel(Mode.VHE)
BY_NAME = {op.name: op for op in OPERATIONS}
TDE, TDA, TDCC, TDOSA, E2PB, HPMD = (MDCR_EL2.mask(n) for n in ("TDE", "TDA", "TDCC", "TDOSA", "E2PB", "HPMD"))
EVERYTHING = (1 << 64) - 1
# What a guest hypervisor may ask for, bit by bit (nested.c, NV_MDCR_GUEST_INCLUDE).
ASKED = 1 << 27 | 1 << 19 | 1 << 14 | 1 << 11 | 1 << 10 | 1 << 9 | 1 << 8 | 1 << 6 | 1 << 5
HYPERVISOR, NESTED = {"has_nv": True}, {"has_nv": True, "nested": True}


@pytest.mark.parametrize("owner", DebugOwner)
@pytest.mark.parametrize(
    ("who", "fgt", "virtual", "more"),
    [
        ({}, False, EVERYTHING, 0),  # no hypervisor: nothing of it counts
        (HYPERVISOR, True, EVERYTHING, 0),  # nor in its own context
        (HYPERVISOR, False, 0, TDA),  # but its writes of MDSCR_EL1 must trap
        (NESTED, False, 0, 0),
        (NESTED, True, TDE, TDE),
        (NESTED, True, TDCC | E2PB | HPMD | 0x1F, TDCC),
        (NESTED, False, EVERYTHING, ASKED),
    ],
)
def test_the_value_of_mdcr_el2(owner: DebugOwner, who: dict[str, bool], fgt: bool, virtual: int, more: int) -> None:
    s, env = state_and(E11, debug_owner=owner, nr_event_counters=5, has_fgt=fgt, virtual_mdcr_el2=virtual, **who)
    own = ALWAYS | 5 | (0 if owner is DebugOwner.GUEST else TDA)
    assert evaluate(ownership.setup_mdcr_el2_by_owner(s, E11).mdcr_el2.raw, env) == own | more


def handled(name: str, inputs: dict[str, Value], **values: int | bool) -> tuple[State, dict[str, Value]]:
    """The state after an operation on values, zeros where nothing is said."""
    _, env = state_and(E11, phase=Phase.LOADED, in_run=True, **values)
    step = System(E11).apply(BY_NAME[name])
    zeros: dict[str, Value] = {
        str(v.data): ArrayValue(0) if isinstance(v.sort, tuple) else False if v.sort == 0 else 0
        for v in step.inputs.values()
    }
    env = {**env, **zeros, **{f"in.{name}.{n}": v for n, v in inputs.items()}}
    assert evaluate(step.guard, env), "the operation is not enabled"
    return step.after, env


@pytest.mark.parametrize(
    ("flags", "nested", "virtual", "forwarded"),
    [(0, True, TDE, True), (DEBUG, True, TDE, False), (DEBUG, False, TDE, False), (DEBUG, True, 0, False)],
)
def test_who_gets_a_debug_exception(flags: int, nested: bool, virtual: int, forwarded: bool) -> None:
    after, env = handled(
        "kvm_handle_guest_debug",
        {},
        exit=Exit.DEBUG,
        guest_debug=flags,
        user_debug=flags,
        has_nv=True,
        nested=nested,
        virtual_mdcr_el2=virtual,
        hw_mdcr_el2=virtual,
    )
    assert evaluate(after.nested, env) is (nested and not forwarded), "the guest hypervisor runs, if it gets it"
    assert evaluate(after.wrong_route, env) is False
    if forwarded:
        assert not evaluate(after.hw_mdcr_el2.TDE, env), "the hypervisor's traps are not for itself"


@pytest.mark.parametrize(
    ("exit_", "virtual", "forwarded"),
    [
        (Exit.DEBUG_ACCESS, TDA, True),
        (Exit.DEBUG_ACCESS, TDE, True),
        (Exit.DEBUG_ACCESS, TDOSA, False),
        (Exit.OS_ACCESS, TDOSA, True),
        (Exit.OS_ACCESS, TDE, True),
        (Exit.OS_ACCESS, TDA, False),
        (Exit.EMULATE, TDE | TDA | TDOSA, False),
    ],
)
def test_whose_a_trapped_access_is(exit_: Exit, virtual: int, forwarded: bool) -> None:
    for nested in (False, True):
        s, env = state_and(E11, exit=exit_, has_nv=True, nested=nested, virtual_mdcr_el2=virtual)
        assert evaluate(forwards_access(s, E11), env) is (forwarded and nested)


@pytest.mark.parametrize(("index", "forwarded"), [(63, False), (62, True), (47, True), (15, True), (0, True)])
def test_only_the_last_watchpoint_was_not_forwarded(index: int, forwarded: bool) -> None:
    """DBGWCR15_EL1 is 63 of the bank (``formal/state.py``); from v7.0 on it is forwarded like the others."""
    trap_bank = BY_NAME["trap_bvr, trap_bcr, trap_wvr, trap_wcr"]
    for name, wanted in (("E11", forwarded), ("E11b", True)):
        k = EPOCHS[name].kernel(Mode.VHE)
        i = Inputs("in", k.breakpoints)
        s, env = state_and(k, phase=Phase.LOADED, in_run=True, exit=Exit.DEBUG_ACCESS, virtual_mdcr_el2=TDA, **NESTED)
        assert evaluate(trap_bank.guard(s, k, i), env | {"in.index": index}) is not wanted


@pytest.mark.parametrize(("written", "kept"), [(4, 4), (6, 6), (7, 6), (31, 6), (0, 0)])
def test_hpmn_of_a_guest_hypervisor_is_at_most_what_there_is(written: int, kept: int) -> None:
    values = {"exit": Exit.EMULATE, "has_nv": True, "nr_pmu_counters": 6}
    after, env = handled("access_mdcr", {"value": 1 << 40 | TDE | written}, **values)
    assert evaluate(after.virtual_mdcr_el2.raw, env) == 1 << 40 | TDE | kept


def test_writes_of_mdscr_trap_in_a_hypervisor_only() -> None:
    for who, fgt, wanted in (
        (HYPERVISOR, True, Outcome.EL2),
        (HYPERVISOR, False, Outcome.EXECUTED),  # where TDA is forced, which is not set here
        (NESTED, True, Outcome.EXECUTED),
        ({}, True, Outcome.EXECUTED),
    ):
        s, env = state_and(E11, has_fgt=fgt, **who)
        assert evaluate(outcome(Access("MDSCR_EL1", True, 1), controls(s)), env) == wanted
        assert evaluate(outcome(Access("MDSCR_EL1", False, 1), controls(s)), env) == Outcome.EXECUTED


def test_a_system_has_the_operations_of_its_kernel() -> None:
    """What a kernel does not have costs it nothing: no obligation, and nothing to be taken."""
    nested = {op.name for op in OPERATIONS if not op.exists(EPOCHS["E10"].kernel(Mode.VHE))}
    assert nested >= {"kvm_emulate_nested_eret", "kvm_inject_nested", "access_mdcr"}
    for c in EPOCH_CONFIGURATIONS:
        names = {op.name for op in System(c.kernel()).operations}
        assert names & nested == (nested if c.kernel().nests else set()), c
    assert [str(c) for c in EPOCH_CONFIGURATIONS if c.kernel().nests] == ["E11 vhe", "E11b vhe", "E12 vhe", "E13 vhe"]


# ---- protected mode


def test_the_modes_that_an_epoch_has() -> None:
    modes = {name: e.modes for name, e in EPOCHS.items()}
    assert modes["E0"] == (Mode.NVHE,), "VHE came with v4.6"
    protected = {"E9", "E10", "E11", "E11b", "E12", "E13"}
    assert {name for name, found in modes.items() if Mode.PROTECTED in found} == protected
    assert all(found == HOSTS for name, found in modes.items() if name not in protected | {"E0"})


@pytest.mark.parametrize(("epoch", "handed"), [("E9", False), ("E11", False), ("E12", False), ("E13", True)])
def test_what_the_copy_at_el2_is_handed(epoch: str, handed: bool) -> None:
    k = EPOCHS[epoch].kernel(Mode.PROTECTED)
    ss = MDSCR_EL1.mask("SS")
    s, env = state_and(
        k,
        debug_owner=DebugOwner.HOST,
        mdcr_el2=0xABC,
        external_mdscr_el1=ss,
        mdscr_el1=5,
        hyp_mdcr_el2=1,
        protected_vm=True,
    )
    copy = ownership.flush_hyp_vcpu(s, k)
    assert evaluate(copy.hyp_debug_owner, env) == DebugOwner.HOST
    assert evaluate(copy.hyp_mdcr_el2.raw, env) == 0xABC, "the host's, for a protected guest too"
    loaded = ownership.restore_owned_mdscr(ownership.hyps_view(copy))
    assert evaluate(loaded.hw_mdscr_el1.raw, env) == (ss if handed else 0)
    back = ownership.hosts_view(ownership.hyps_view(copy).but(external_mdscr_el1=7), copy)
    assert evaluate(back.external_mdscr_el1.raw, env) == ss, "the host's stays"
    assert evaluate(back.hyp_external_mdscr_el1.raw, env) == 7
