"""Operations: their frames are exact, they touch nobody else, and preemption inside them changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import pytest

from formal.arch.registers import KVM_GUESTDBG, MDCR_EL2
from formal.engines.z3backend import Z3Solver, Z3Terms
from formal.epochs import EPOCHS, Kernel, Mode
from formal.logic import terms as t
from formal.logic.evaluation import evaluate, substitute, support
from formal.logic.terms import FALSE, And, Eq, Not, Or, Term
from formal.operations import Actor, Inputs, Operation, operation
from formal.scope.configuration import EPOCH_CONFIGURATIONS, Configuration
from formal.state import VARIABLES, Exit, Phase, State
from formal.system import Pair, System
from formal.transitions import OPERATIONS, setup_mdcr_el2

BY_NAME = {op.name: op for op in OPERATIONS}
KERNELS = [c.kernel() for c in EPOCH_CONFIGURATIONS]
KERNELS.append(EPOCHS["E8"].kernel(Mode.VHE).but(guards_pmuserenr=True))
DECODED = EPOCHS["E3a"].kernel(Mode.NVHE)
KERNELS.append(DECODED)
BY_DIRTY = {name: e for name, e in EPOCHS.items() if not e.kernel(Mode.VHE).tracks_debug_owner}  # v6.13 and before
each_operation = pytest.mark.parametrize("op", OPERATIONS, ids=lambda op: op.name)
each_mode = pytest.mark.parametrize("mode", Mode, ids=lambda m: m.value)


@cache
def system(number: int) -> System:
    """The system of one of KERNELS."""
    return System(KERNELS[number])


@cache
def solver() -> Z3Solver:
    """A solver without facts."""
    return Z3Solver(Z3Terms())


def possible(*facts: Term) -> bool:
    """Whether facts can hold together."""
    return solver().satisfiable(*facts)


# ---- frames

# Stores that put back the value that was there: a put, then a load on the same CPU.
_BACK = {"mdcr_el2_host", "host_ctxt_pmuserenr_el0", "hw_pmuserenr_el0", "is_set_up"}
STORES_BACK = {"kvm_reset_vcpu": _BACK, "trap_oslar_el1": _BACK | {"guest_ss_pending"}}


@each_operation
def test_every_declared_variable_can_change(op: Operation) -> None:
    """For each declared variable some kernel and some state make the operation change it."""
    left = set(op.writes) - STORES_BACK.get(op.name, set())
    for number in range(len(KERNELS)):
        step = system(number).apply(op)
        for name in sorted(left & step.before.values.keys()):
            before, after = step.before.values[name], step.after.values[name]
            if after is not before and possible(step.guard, Not(Eq(before, after))):
                left.discard(name)
    assert not left, f"{op.name} declares {sorted(left)}, and changes it for no kernel"


def test_a_change_that_is_not_declared_is_refused() -> None:
    put = BY_NAME["kvm_arch_vcpu_put"]
    narrow = replace(put, writes=put.writes - {"busy"})
    with pytest.raises(TypeError, match="kvm_arch_vcpu_put changes busy without declaring it"):
        system(0).apply(narrow)


def test_a_declaration_of_an_unknown_variable_is_refused() -> None:
    with pytest.raises(TypeError, match="oops declares unknown variables: mdcr_el3"):
        operation("oops", "nowhere", writes="phase mdcr_el3", enabled=lambda s, k, i: t.TRUE)


@each_operation
def test_an_operation_reads_and_writes_its_own_pair_only(op: Operation) -> None:
    for number in range(len(KERNELS)):
        step = system(number).apply(op, (1, 2))
        read = {name for term in (step.guard, *step.after.values.values()) for name in support(term)}
        others = {n for n in read if not n.startswith(("v1.", "p2.", f"in.{op.name}."))}
        assert not others, f"{op.name} looks at {sorted(others)}"


def test_names_and_functions_are_unique() -> None:
    names = [op.name for op in OPERATIONS]
    functions = [op.c_function for op in OPERATIONS if op.c_function]
    assert len(set(names)) == len(names)
    assert len(set(functions)) == len(functions)
    assert all(op.says and op.place for op in OPERATIONS), "each operation says what happens, and where"


@each_operation
def test_an_operation_can_happen_in_some_kernel(op: Operation) -> None:
    assert any(possible(system(n).apply(op).guard) for n in range(len(KERNELS)))


# ---- what excludes what


def enabled_with(s: System, op: Operation, *facts: Term) -> bool:
    """Whether an operation may happen on the acting pair in a state with these facts."""
    return possible(s.apply(op).guard, *facts)


@pytest.mark.parametrize("configuration", EPOCH_CONFIGURATIONS, ids=str)
@pytest.mark.parametrize(
    ("phase", "then"), [(Phase.SETUP, "__kvm_vcpu_run enters"), (Phase.EXITED, "kvm_arm_clear_debug")]
)
def test_with_interrupts_off_only_the_next_function_runs(configuration: Configuration, phase: Phase, then: str) -> None:
    """Neither the host nor user space nor preemption comes between, on this vCPU and this CPU."""
    whole = System(configuration.kernel())
    s = whole.state()
    found = {op.name for op in OPERATIONS if enabled_with(whole, op, s.here, s.busy, s.in_run, s.at(phase))}
    assert found == (set() if whole.kernel.tracks_debug_owner else {then})


def test_while_the_guest_runs_only_the_guest_and_exits_act() -> None:
    whole = system(0)
    s = whole.state()
    found = {op.name for op in OPERATIONS if enabled_with(whole, op, s.in_guest, s.busy, s.in_run)}
    guest = {op.name for op in OPERATIONS if op.actor is Actor.GUEST}
    assert found == guest | {"fixup_guest_exit re-enters", "__kvm_vcpu_run returns"}


@each_operation
def test_user_space_waits_for_the_mutex(op: Operation) -> None:
    if op.actor is Actor.USER:
        for number in range(len(KERNELS)):
            s = system(number).state()
            assert not enabled_with(system(number), op, s.in_run), "KVM_RUN holds vcpu->mutex"
            assert not enabled_with(system(number), op, s.here), "these ioctls do not load the vCPU"


def test_nothing_is_handled_twice() -> None:
    """A handled exit is gone, except that one which is only looked at stays where it is."""
    for k in KERNELS[-2:]:
        for op in OPERATIONS:
            if op.preemptible and op.name != "PSCI CPU_OFF":
                step = system(KERNELS.index(k)).apply(op)
                asks = step.after.exits_with(Exit.MMIO) if k == DECODED and op.name == "handle_exit emulates" else FALSE
                assert not possible(step.guard, Not(Or(step.after.exits_with(Exit.NONE), asks))), op.name


# ---- preemption

World = Mapping[str, Term]


def after(world: World, whole: System, op: Operation, pair: Pair) -> tuple[Term, World]:
    """The guard of an operation in a world, and the world after it."""
    step = whole.apply(op, pair)
    mapping = {str(v.data): world[str(v.data)] for v in step.before.values.values()}
    done: dict[Term, Term] = {}
    new = {str(v.data): substitute(step.after.values[n], mapping, done) for n, v in step.before.values.items()}
    return substitute(step.guard, mapping, done), {**world, **new}


PREEMPTIBLE = [op for op in OPERATIONS if op.preemptible]
BEFORE_OWNERS = [op for op in PREEMPTIBLE if op.exists(EPOCHS["E8"].kernel(Mode.VHE))]
# Enabled on a loaded vCPU outside the entry path, and yet not marked; the reason why preemption is no matter there.
NOT_PREEMPTIBLE = {
    "kvm_arch_vcpu_put": "is the preemption",
    "kvm_arch_vcpu_ioctl_run returns": "one hypercall, then the put: to be preempted between is a put and a load",
    "kvm_reset_vcpu": "disables preemption (reset.c)",
    "the host writes its debug registers": "an interrupt or another thread, not this vCPU's",
    "the host writes PMUSERENR_EL0": "an interrupt or another thread, not this vCPU's",
}


@each_mode
def test_every_operation_on_a_loaded_vcpu_says_whether_it_can_be_preempted(mode: Mode) -> None:
    for epoch in EPOCHS.values():
        whole = System(epoch.kernel(mode))
        s = whole.state()
        loaded = {op.name for op in OPERATIONS if enabled_with(whole, op, s.here, s.busy, s.in_run, s.at(Phase.LOADED))}
        unmarked = loaded - {op.name for op in PREEMPTIBLE}
        enters = "__kvm_vcpu_run enters" if whole.kernel.tracks_debug_owner else "kvm_arm_setup_debug"
        assert unmarked == NOT_PREEMPTIBLE.keys() | {enters}, "mark it preemptible, or say why preemption is no matter"


@pytest.mark.parametrize("op", BEFORE_OWNERS, ids=lambda op: op.name)
def test_preemption_in_the_middle_is_preemption_before_or_after(op: Operation) -> None:
    """What it reads and writes is the vCPU's, and put and load neither read what it writes nor write what it reads.

    So each part of it can be moved past put and load, on any other CPU, and the whole is as if it had not been split.
    Where debug_owner is tracked they do meet: tests/test_ownership.py takes the parts one by one.
    """
    for number in (n for n, k in enumerate(KERNELS) if not k.tracks_debug_owner):
        whole = system(number)
        step = whole.apply(op)
        writes = {n.partition(".")[2] for n in step.changed}
        reads = {
            full.partition(".")[2]
            for name, term in step.after.values.items()
            if term is not step.before.values[name]
            for full in support(term)
            if not full.startswith("in.")
        }
        foreign = {n for n in reads | writes if VARIABLES[n].owner == "cpu"}
        assert not foreign, f"{op.name} uses the CPU's {sorted(foreign)}: it may run on another one half way"
        for other in ("kvm_arch_vcpu_put", "kvm_arch_vcpu_load"):
            moved = whole.apply(BY_NAME[other])
            theirs = {n.partition(".")[2] for n in moved.changed}
            read = {
                full.partition(".")[2]
                for name, term in moved.after.values.items()
                if term is not moved.before.values[name]
                for full in support(term)
            }
            assert not theirs & (reads | writes), f"{other} changes what {op.name} uses: {sorted(theirs & reads)}"
            assert not read & writes, f"{other} reads what {op.name} changes: {sorted(read & writes)}"


@pytest.mark.parametrize("op", BEFORE_OWNERS, ids=lambda op: op.name)
@pytest.mark.parametrize("back_on", [0, 1], ids=["same CPU", "other CPU"])
@each_mode
def test_preemption_before_is_preemption_after(op: Operation, back_on: int, mode: Mode) -> None:
    """put, load, operation == operation, put, load: decided by Z3 for all states, epoch by epoch."""
    put, load = BY_NAME["kvm_arch_vcpu_put"], BY_NAME["kvm_arch_vcpu_load"]
    for epoch in BY_DIRTY.values():
        whole = System(epoch.kernel(mode))
        start = {str(v.data): v for p in (0, 1) for v in whole.state((0, p)).values.values()}
        guard, one = after(start, whole, op, (0, 0))
        put_one, one = after(one, whole, put, (0, 0))
        load_one, one = after(one, whole, load, (0, back_on))
        put_two, two = after(start, whole, put, (0, 0))
        load_two, two = after(two, whole, load, (0, back_on))
        again, two = after(two, whole, op, (0, back_on))
        assert possible(guard, put_two, load_two, again), f"{epoch.name}: vacuous"
        same = And(*(Eq(one[name], two[name]) for name in start))
        in_run = whole.state().in_run  # lemma life_cycle: a loaded vCPU is in KVM_RUN
        different = possible(guard, in_run, put_two, load_two, Not(And(put_one, load_one, again, same)))
        assert not different, f"{epoch.name}: {op.name} does not commute with preemption"


# ---- a few values, worked out by hand


def concrete(k: Kernel, **values: int | bool) -> dict[str, object]:
    """Values of the acting pair, zeros where nothing is said."""
    env: dict[str, object] = {}
    for tag, owner in (("v0", "vcpu"), ("p0", "cpu")):
        for name, v in VARIABLES.items():
            if v.owner == owner:
                sort = v.sort(k)  # those that the kernel does not have do no harm
                env[f"{tag}.{name}"] = (
                    t.ArrayValue(0) if isinstance(sort, tuple) else values.get(name, False if sort == t.BOOL else 0)
                )
    return env


DEBUG = KVM_GUESTDBG.mask("ENABLE")
STEP = KVM_GUESTDBG.mask("ENABLE", "SINGLESTEP")
HARDWARE = KVM_GUESTDBG.mask("ENABLE", "USE_HW")
ALWAYS = MDCR_EL2.mask("TPM", "TPMCR", "TDRA", "TDOSA", "TPMS")


@pytest.mark.parametrize("epoch", BY_DIRTY)
@pytest.mark.parametrize("dirty", [False, True])
@pytest.mark.parametrize("flags", [0, DEBUG, STEP, HARDWARE], ids=["none", "enable", "step", "hardware"])
@pytest.mark.parametrize("locked", [False, True])
def test_the_value_of_mdcr_el2(epoch: str, dirty: bool, flags: int, locked: bool) -> None:
    """kvm_arm_setup_mdcr_el2, worked out with plain numbers."""
    k = EPOCHS[epoch].kernel(Mode.VHE)
    s = System(k).state()
    env = concrete(k, debug_dirty=dirty, guest_debug=flags, oslsr_el1=2 if locked else 0, percpu_mdcr_el2=0xFE5)
    constant = ALWAYS if k.traps_profiling else ALWAYS & ~MDCR_EL2.mask("TPMS")
    wanted = constant | 5 | (1 << 19 if k.traps_trace_filter else 0) | (1 << 8 if flags else 0)
    if not dirty or flags == HARDWARE or (locked and k.emulates_os_lock):
        wanted |= 1 << 9
    after = setup_mdcr_el2(s, k)
    assert evaluate(after.mdcr_el2.raw, env) == wanted  # type: ignore[arg-type]


def test_a_32_bit_copy_loses_the_high_half_and_a_64_bit_one_does_not() -> None:
    for epoch, kept in (("E4", 0x0000_0006), ("E8", 0xF_0000_0006)):
        k = EPOCHS[epoch].kernel(Mode.NVHE)
        step = System(k).apply(BY_NAME["kvm_arm_init_debug"])
        read = evaluate(step.after.values["percpu_mdcr_el2"], concrete(k, hw_mdcr_el2=0xF_0000_0006))  # type: ignore[arg-type]
        assert read == kept


def test_saving_mdscr_truncates_to_32_bits() -> None:
    k = EPOCHS["E8"].kernel(Mode.VHE)
    step = System(k).apply(BY_NAME["kvm_arm_setup_debug"])
    env = concrete(k, guest_debug=STEP, mdscr_el1=0x1_0000_2000, phase=int(Phase.LOADED))
    assert evaluate(step.after.preserved_mdscr_el1.raw, env) == 0x2000  # type: ignore[arg-type]
    assert evaluate(step.after.mdscr_el1.raw, env) == 0x1_0000_2001  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("control", "result"),
    [
        (0, 0),
        (DEBUG, DEBUG),
        (STEP, STEP),
        (STEP & ~DEBUG, 0),
        (DEBUG | 1 << 30, HARDWARE),
        (1 << 30, HARDWARE),
    ],
)
def test_kvm_set_guest_debug_takes_known_flags_only(control: int, result: int) -> None:
    """Without ENABLE debugging ends, if the other flags are known; an unknown flag changes nothing."""
    k = EPOCHS["E8"].kernel(Mode.VHE)
    step = System(k).apply(BY_NAME["KVM_SET_GUEST_DEBUG"])
    env = concrete(k, guest_debug=HARDWARE)
    inputs: dict[str, object] = {str(v.data): t.ArrayValue(0) for v in step.inputs.values()}
    inputs["in.KVM_SET_GUEST_DEBUG.control"] = control
    assert evaluate(step.after.guest_debug.raw, {**env, **inputs}) == result  # type: ignore[dict-item]


def test_steps_are_counted_up_to_three() -> None:
    k = EPOCHS["E8"].kernel(Mode.VHE)
    step = System(k).apply(BY_NAME["the guest executes"])
    for before, then in ((0, 1), (1, 2), (2, 3), (3, 3)):
        env = {**concrete(k, steps=before), "in.the guest executes.pstate": 0}
        assert evaluate(step.after.steps, env) == then  # type: ignore[arg-type]


def test_inputs_are_fresh_for_each_operation_and_shared_within_one() -> None:
    one, other = Inputs("in.a", 16), Inputs("in.b", 16)
    assert one.bits("value") is one.bits("value")
    assert one.bits("value") is not other.bits("value")
    assert one.bank("bank").sort == (6, 64)
    assert one.index("index").sort == 6


def test_a_state_shows_its_variables_by_name() -> None:
    s: State = system(0).state()
    assert str(s.mdcr_el2_host.raw) == "v0.mdcr_el2_host"


@pytest.mark.parametrize("asks", [False, True])
def test_an_access_is_skipped_once_when_it_is_decoded(asks: bool) -> None:
    """Before v5.0: user space completes what has been skipped already, and only then a step is told of."""
    s, i = System(DECODED).state(), Inputs("i", DECODED.breakpoints)
    emulate, complete = (BY_NAME[name] for name in ("handle_exit emulates", "kvm_handle_mmio_return"))
    asked = And(s.stepping, Eq(i.flag("asks_user"), t.boolean(asks)), Eq(s.steps, t.const(0, 2)), Not(s.wrong_step))
    after = emulate.step(s, DECODED, i)
    waits = And(after.exits_with(Exit.MMIO), Eq(after.steps, t.const(1, 2)))
    told = And(after.exits_with(Exit.NONE), Eq(after.steps, t.const(0, 2)))
    assert not possible(asked, Not(waits if asks else told))
    assert not possible(emulate.enabled(s, DECODED, i), s.exits_with(Exit.MMIO))
    ran = BY_NAME["__kvm_vcpu_run returns"].enabled(s, DECODED, i)
    assert not possible(ran, Eq(i.bits("exit", 3), t.const(Exit.MMIO, 3)))
    done = complete.step(s, DECODED, i)
    assert not possible(Not(s.stepping), Not(Eq(done.steps, s.steps)))
    assert not possible(And(s.stepping, Eq(s.steps, t.const(1, 2)), Not(s.wrong_step)), done.wrong_step)
