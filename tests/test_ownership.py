"""debug_owner (v6.14): values worked out by hand, and preemption in the middle of the handlers that change it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from formal import history, ownership
from formal.arch.registers import KVM_GUESTDBG, MDCR_EL2, MDSCR_EL1, PSTATE
from formal.engines.z3backend import Z3Solver, Z3Terms
from formal.epochs import EPOCHS, Kernel, Mode
from formal.logic import terms as t
from formal.logic.evaluation import evaluate
from formal.logic.terms import And, ArrayValue, Eq, If, Not, Or, Term, Value
from formal.operations import Inputs
from formal.scope.configuration import Configuration
from formal.state import DebugOwner, State
from formal.system import System
from formal.transitions import OPERATIONS, after_handled_exit, choose, handled_by_kvm, load, put, skip_instruction
from tests.conftest import checker_of

BY_OWNER = [(name, mode) for name, e in EPOCHS.items() for mode in e.modes if e.kernel(mode).tracks_debug_owner]
each_kernel = pytest.mark.parametrize(("epoch", "mode"), BY_OWNER, ids=lambda x: getattr(x, "value", x))
E10 = EPOCHS["E10"]
BY_NAME = {op.name: op for op in OPERATIONS}
FREE, HOST, GUEST = DebugOwner
DEBUG = KVM_GUESTDBG.mask("ENABLE")
STEP = KVM_GUESTDBG.mask("ENABLE", "SINGLESTEP")
HARDWARE = KVM_GUESTDBG.mask("ENABLE", "USE_HW")
SS, MDE, KDE, TDCC = (MDSCR_EL1.mask(name) for name in ("SS", "MDE", "KDE", "TDCC"))
PSTATE_SS = PSTATE.mask("SS")
ALWAYS = MDCR_EL2.mask("TPM", "TPMCR", "TDRA", "TDOSA", "TPMS", "TTRF")


def state_and(k: Kernel, **values: int | bool) -> tuple[State, dict[str, Value]]:
    """The acting pair, and values for it: zeros where nothing is said."""
    s = System(k).state()
    env: dict[str, Value] = {}
    for name, variable in s.values.items():
        zero: Value = ArrayValue(0) if isinstance(variable.sort, tuple) else False if variable.sort == 0 else 0
        env[str(variable.data)] = values.pop(name, zero)
    assert not values, f"no variables: {sorted(values)}"
    return s, env


# ---- values


@each_kernel
@pytest.mark.parametrize("owner", DebugOwner)
@pytest.mark.parametrize("flags", [0, DEBUG, STEP, HARDWARE], ids=["none", "enable", "step", "hardware"])
def test_the_value_of_mdcr_el2(epoch: str, mode: Mode, owner: DebugOwner, flags: int) -> None:
    k = EPOCHS[epoch].kernel(mode)
    s, env = state_and(k, debug_owner=owner, guest_debug=flags, nr_event_counters=0xE5, mdcr_el2=~0 & (1 << 64) - 1)
    after = ownership.setup_mdcr_el2_by_owner(s, k)
    wanted = ALWAYS | 5 | (1 << 8 if flags else 0) | (0 if owner is GUEST else 1 << 9)
    assert evaluate(after.mdcr_el2.raw, env) == wanted
    assert evaluate(after.hw_mdcr_el2.raw, env) == (wanted if k.vhe else 0), "VHE writes the register at once"


@pytest.mark.parametrize(
    ("flags", "locked", "guest", "owner"),
    [
        (0, False, 0, FREE),
        (0, False, TDCC | SS, FREE),
        (0, False, MDE, GUEST),
        (0, False, KDE, GUEST),
        (DEBUG, False, MDE, HOST),
        (STEP, False, 0, HOST),
        (0, True, MDE | KDE, HOST),
    ],
)
def test_who_owns_the_registers_after_load(flags: int, locked: bool, guest: int, owner: DebugOwner) -> None:
    k = E10.kernel(Mode.VHE)
    s, env = state_and(k, guest_debug=flags, oslsr_el1=2 if locked else 0, mdscr_el1=guest)
    after = ownership.load_debug(s, k)
    assert evaluate(after.debug_owner, env) == owner
    assert bool(int(evaluate(after.mdcr_el2.raw, env)) & 1 << 9) is (owner is not GUEST)


@pytest.mark.parametrize(
    ("flags", "external"),
    [(DEBUG, TDCC), (STEP, TDCC | SS), (HARDWARE, TDCC | MDE | KDE), (STEP | HARDWARE, TDCC | SS | MDE | KDE)],
)
def test_the_mdscr_that_kvm_gives_a_debugged_guest(flags: int, external: int) -> None:
    """The guest's own SS, MDE and KDE are out, the debugger's in, all else is the guest's; its own stays in memory."""
    k = E10.kernel(Mode.NVHE)
    own = TDCC | SS | MDE | KDE | 1 << 50
    s, env = state_and(k, guest_debug=flags, mdscr_el1=own)
    after = ownership.load_debug(s, k)
    assert evaluate(after.external_mdscr_el1.raw, env) == external | 1 << 50
    assert evaluate(after.mdscr_el1.raw, env) == own


@each_kernel
@pytest.mark.parametrize("guests", [False, True])
@pytest.mark.parametrize("pending", [False, True])
def test_a_step_lends_pstate_ss_and_gives_it_back(epoch: str, mode: Mode, guests: bool, pending: bool) -> None:
    k = EPOCHS[epoch].kernel(mode)
    s, env = state_and(k, guest_debug=STEP, pstate=PSTATE_SS if guests else 0, ss_active_pending=pending)
    loaded = ownership.load_debug(s, k)
    assert evaluate(loaded.pstate.SS, env) is not pending, "the host's step goes on where it was"
    stepped = loaded.but(pstate=loaded.pstate.but(SS=False))
    unloaded = ownership.put_debug(stepped, k)
    assert evaluate(unloaded.pstate.SS, env) is guests
    assert evaluate(unloaded.ss_active_pending, env) is True
    assert evaluate(ownership.put_debug(loaded, k).ss_active_pending, env) is pending


def test_put_without_a_step_leaves_pstate_alone() -> None:
    k = E10.kernel(Mode.VHE)
    s, env = state_and(k, guest_debug=HARDWARE, pstate=0x3C5, guest_ss_pending=True)
    after = ownership.put_debug(s, k)
    assert evaluate(after.pstate.raw, env) == 0x3C5
    assert evaluate(after.ss_active_pending, env) is False


@pytest.mark.parametrize(("epoch", "kept"), [("E9", 0xBAD), ("E10", 0x1234)])
def test_vhe_saves_the_hosts_mdcr_el2_early_enough_only_from_e10_on(epoch: str, kept: int) -> None:
    k = EPOCHS[epoch].kernel(Mode.VHE)
    s, env = state_and(k, hw_mdcr_el2=0x1234)
    after = load(s, k)
    host = evaluate(after.mdcr_el2_host.raw, env)
    assert host == (kept if epoch == "E10" else evaluate(after.mdcr_el2.raw, env))
    assert evaluate(put(after, k).hw_mdcr_el2.raw, env) == host


@pytest.mark.parametrize(("mode", "read"), [(Mode.VHE, 9), (Mode.NVHE, 6)])
def test_an_el1_host_reads_hpmn_where_an_el2_host_reads_all_counters(mode: Mode, read: int) -> None:
    k = E10.kernel(mode)
    s, env = state_and(k, event_counters=9, hw_mdcr_el2=6)
    assert evaluate(ownership.init_host_debug_data(s, k).nr_event_counters, env) == read


@pytest.mark.parametrize(
    ("epoch", "late", "read"), [("E11", False, 9), ("E11", True, 0), ("E12", False, 9), ("E12", True, 9)]
)
def test_until_v7_0_the_counters_of_cpus_from_pmuv3p8_on_are_not_read(epoch: str, late: bool, read: int) -> None:
    k = EPOCHS[epoch].kernel(Mode.VHE)
    s, env = state_and(k, event_counters=9, hw_mdcr_el2=6, pmuv3p8=late)
    assert evaluate(ownership.init_host_debug_data(s, k).nr_event_counters, env) == read


def test_ownership_by_access_never_takes_from_kvm() -> None:
    k = E10.kernel(Mode.VHE)
    for owner, then in ((FREE, GUEST), (GUEST, GUEST), (HOST, HOST)):
        s, env = state_and(k, debug_owner=owner, hw_mdcr_el2=7)
        after = ownership.set_guest_ownership(s, k)
        assert evaluate(after.debug_owner, env) == then
        assert (evaluate(after.hw_mdcr_el2.raw, env) == 7) is (owner is HOST), "nothing is written"


# ---- preemption in the middle of a handler

Part = Callable[[State, Kernel, Inputs], State]


def _skip(s: State, k: Kernel, i: Inputs) -> State:
    return after_handled_exit(skip_instruction(s, k), k)


def _access(s: State, k: Kernel, i: Inputs) -> State:
    value, writes = i.bits("value"), i.flag("is_write")
    return handled_by_kvm(s, k).but(
        mdscr_el1=If(writes, value, s.mdscr_el1.raw), guest_mdscr_el1=If(writes, value, s.guest_mdscr_el1.raw)
    )


def _take(s: State, k: Kernel, i: Inputs) -> State:
    """The owner is changed, MDCR_EL2 is not computed yet. Here the guest's access counts: it is what it asks for."""
    return history.accesses_debug(s, t.TRUE).but(debug_owner=If(s.owned_by(HOST), s.debug_owner, t.const(GUEST, 2)))


def _compute(s: State, k: Kernel, i: Inputs) -> State:
    """MDCR_EL2 is computed; that KVM is the owner or not was looked at before, and cannot change meanwhile."""
    return choose(s.owned_by(HOST), s, ownership.setup_mdcr_el2_by_owner(s, k))


def _lock(s: State, k: Kernel, i: Inputs) -> State:
    return handled_by_kvm(s, k).but(guest_os_lock=i.flag("locks"), oslsr_el1=s.oslsr_el1.but(OSLK=i.flag("locks")))


def _reload(s: State, k: Kernel, i: Inputs) -> State:
    return load(put(s, k), k)


def _store(s: State, k: Kernel, i: Inputs) -> State:
    index, value = i.index("index"), i.bits("value")
    return handled_by_kvm(s, k).but(
        vcpu_debug_state=t.store(s.vcpu_debug_state, index, value), guest_bank=t.store(s.guest_bank, index, value)
    )


# A handler as the parts between which it may be preempted, in the order of the C; those not named are one part.
PARTS: dict[str, tuple[Part, ...]] = {op.name: (op.step,) for op in OPERATIONS if op.preemptible} | {
    "trap_debug_regs": (_access, _take, _compute, _skip),
    "trap_bvr, trap_bcr, trap_wvr, trap_wcr": (_store, _take, _compute, _skip),
    "trap_oslar_el1": (_lock, _reload, _skip),
}


def _alike(a: State, b: State, late: bool) -> Term:
    """Equal, except for what is written before it is read: flags of steps, KVM's MDSCR_EL1 when it is not in use.

    And except TDA in what E9 saves under VHE: it is not the host's value anyway (bug B15).
    """
    dead = {
        "ss_active_pending": a.stepping,
        "guest_ss_pending": Not(a.stepping),
        "external_mdscr_el1": Not(a.owned_by(HOST)),
        "guest_uses_debug": And(a.owned_by(HOST), b.owned_by(HOST)),  # asked for again at the next load
        "mdcr_el2_host": And(t.boolean(late), a.mdcr_el2_host.but(TDA=False).same(b.mdcr_el2_host.but(TDA=False))),
    }
    return And(*(Or(dead.get(n, t.FALSE), Eq(a.values[n], b.values[n])) for n in a.values))


@pytest.mark.parametrize(
    ("name", "at", "epoch", "mode"),
    [
        (name, at, epoch, mode)
        for epoch, mode in BY_OWNER
        for name, parts in PARTS.items()
        for at in range(len(parts) + 1)
        if BY_NAME[name].exists(EPOCHS[epoch].kernel(mode))
    ],
    ids=lambda x: getattr(x, "value", x),
)
def test_preemption_anywhere_is_preemption_before_or_after(epoch: str, mode: Mode, name: str, at: int) -> None:
    """For every state that the lemmas allow: as if the handler had run whole, before or after its thread was away."""
    checker = checker_of(Configuration(epoch, mode.value))
    k = checker.system.kernel
    op = BY_NAME[name]
    step = checker.system.apply(op)
    s, i = step.before, Inputs(f"in.{name}", k.breakpoints)
    split = s
    for part in (*PARTS[name][:at], _reload, *PARTS[name][at:]):
        split = part(split, k, i)
    before, after = op.step(_reload(s, k, i), k, i), _reload(op.step(s, k, i), k, i)
    late = not k.vhe_saves_host_mdcr_first and k.vhe
    solver = Z3Solver(Z3Terms())
    solver.add(*checker.invariant().facts(), step.guard)
    assert solver.satisfiable(), "vacuous"
    assert not solver.satisfiable(Not(Or(_alike(split, before, late), _alike(split, after, late))))
    assert solver.satisfiable(Not(_alike(s, split, late))), "the handler does something"


@pytest.mark.parametrize("name", PARTS)
def test_the_parts_of_a_handler_make_the_whole(name: str) -> None:
    k = EPOCHS["E13"].kernel(Mode.VHE)
    s, i, solver = System(k).state(), Inputs(f"in.{name}", k.breakpoints), Z3Solver(Z3Terms())
    split = s
    for part in PARTS[name]:
        split = part(split, k, i)
    whole = BY_NAME[name].step(s, k, i)
    assert not solver.satisfiable(Not(And(*(Eq(split.values[n], whole.values[n]) for n in s.values))))
