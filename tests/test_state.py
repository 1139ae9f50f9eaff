"""The state: widths of the C types, what Init allows, and ghosts that nothing real depends on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from formal.arch.bits import Register
from formal.arch.registers import MDCR_EL2, MDSCR_EL1
from formal.engines import z3backend
from formal.epochs import EPOCHS, Kernel, Mode
from formal.logic import terms as t
from formal.logic.evaluation import evaluate, support
from formal.logic.terms import And, Eq, Ne, Not, Term
from formal.scope.configuration import EPOCH_CONFIGURATIONS, Configuration
from formal.state import VARIABLES, Phase, State, init, symbolic
from formal.system import System

E8 = EPOCHS["E8"].kernel(Mode.VHE)
E4 = EPOCHS["E4"].kernel(Mode.VHE)
E10 = EPOCHS["E10"].kernel(Mode.VHE)
E11 = EPOCHS["E13"].kernel(Mode.VHE)


def fresh(k: Kernel, vcpu: int = 0, cpu: int = 0) -> State:
    """A pair of symbolic variables."""
    return State({**symbolic("vcpu", k, f"v{vcpu}"), **symbolic("cpu", k, f"p{cpu}")}, vcpu, cpu)


# ---- variables


def test_every_variable_says_what_it_stands_for() -> None:
    assert all(v.stands_for for v in VARIABLES.values())


def test_names_in_terms_say_whose_they_are() -> None:
    s = fresh(E8, 1, 2)
    assert str(s.values["mdcr_el2"].data) == "v1.mdcr_el2"
    assert str(s.values["hw_mdcr_el2"].data) == "p2.hw_mdcr_el2"


@pytest.mark.parametrize(
    ("kernel", "name", "bits"),
    [
        (E4, "mdcr_el2", 32),
        (E4, "percpu_mdcr_el2", 32),
        (E8, "mdcr_el2", 64),
        (E8, "percpu_mdcr_el2", 64),
        (E4, "preserved_mdscr_el1", 32),
        (E8, "preserved_mdscr_el1", 32),
        (E8.but(preserved_mdscr_bits=64), "preserved_mdscr_el1", 64),
        (E4, "hw_mdcr_el2", 64),
        (E8, "mdscr_el1", 64),
    ],
)
def test_variables_have_the_width_of_their_c_type(kernel: Kernel, name: str, bits: int) -> None:
    assert t.width(fresh(kernel).values[name]) == bits


def test_writing_truncates_and_reading_extends_with_zeros() -> None:
    s = fresh(E4).but(mdcr_el2=MDCR_EL2(t.const(0xFFFF_FFFF_0000_0006, 64)))
    assert evaluate(s.values["mdcr_el2"], {}) == 6
    assert evaluate(s.mdcr_el2.raw, {}) == 6
    kept = s.but(preserved_mdscr_el1=MDSCR_EL1(t.const(0x1_0000_8000, 64))).preserved_mdscr_el1
    assert evaluate(kept.raw, {}) == 0x8000
    whole = fresh(E8).but(mdcr_el2=MDCR_EL2(t.const(1 << 63, 64)))
    assert evaluate(whole.mdcr_el2.raw, {}) == 1 << 63


@pytest.mark.parametrize(("breakpoints", "bits"), [(1, 2), (2, 3), (16, 6)])
def test_banks_have_a_place_for_every_register(breakpoints: int, bits: int) -> None:
    assert fresh(E8.but(breakpoints=breakpoints)).values["hw_bank"].sort == (bits, 64)


def test_but_changes_what_is_named_and_nothing_else() -> None:
    before = fresh(E8)
    after = before.but(phase=Phase.LOADED, debug_dirty=True)
    assert {n for n in before.values if after.values[n] is not before.values[n]} == {"phase", "debug_dirty"}
    assert after.values.keys() == before.values.keys()


def test_a_kernel_has_the_variables_of_its_mechanism_and_no_other() -> None:
    """DEBUG_DIRTY and what goes with it until v6.13, debug_owner and what goes with it from v6.14 on."""
    by_dirty, by_owner = fresh(E8).values.keys(), fresh(E10).values.keys()
    nested = fresh(E11).values.keys() - by_owner
    copied = fresh(EPOCHS["E13"].kernel(Mode.PROTECTED)).values.keys() - by_owner
    assert by_dirty | by_owner | nested | copied == VARIABLES.keys()
    assert copied == {"protected_vm", "hyp_debug_owner", "hyp_mdcr_el2", "hyp_external_mdscr_el1"}
    assert nested >= {"has_nv", "nested", "virtual_mdcr_el2"}
    assert fresh(EPOCHS["E13"].kernel(Mode.NVHE)).values.keys() == by_owner, "nested virtualization needs VHE"
    assert by_dirty - by_owner == {
        "debug_dirty",
        "guest_wrote_debug",
        "debug_ptr_external",
        "preserved_mdscr_el1",
        "preserved_pstate_ss",
        "percpu_mdcr_el2",
    }
    assert by_owner - by_dirty == {
        "debug_owner",
        "guest_uses_debug",
        "external_mdscr_el1",
        "guest_ss_pending",
        "nr_event_counters",
        "pmuv3p8",
    }
    with pytest.raises(AttributeError, match="debug_dirty is not a state variable"):
        fresh(E10).but(debug_dirty=True)


def test_but_refuses_unknown_names_and_wrong_sorts() -> None:
    with pytest.raises(AttributeError, match="mdcr_el3 is not a state variable"):
        fresh(E8).but(mdcr_el3=0)
    with pytest.raises(TypeError, match="a variable of sort 0 cannot hold"):
        fresh(E8).but(debug_dirty=t.const(1, 8))
    with pytest.raises(TypeError, match="a variable of sort 64 cannot hold"):
        fresh(E8).but(mdscr_el1=t.const(1, 32))


# ---- Init


def initial(configuration: Configuration, *facts: Term, cpus: int = 2) -> bool:
    """Whether Init of one vCPU and some CPUs can hold together with facts."""
    system = System(configuration.kernel())
    return z3backend.check([*(system.init((0, p)) for p in range(cpus)), *facts])


def test_init_describes_two_cpus_that_boot_differently(epoch_configuration: Configuration) -> None:
    system = System(epoch_configuration.kernel())
    one, other = (system.state((0, p)).boot_mdcr_el2 for p in (0, 1))
    assert initial(epoch_configuration, Ne(one.HPMN, other.HPMN))
    assert initial(epoch_configuration, Ne(one.raw, other.raw), one.same(other, "HPMN"))


@pytest.mark.parametrize("pattern", [0, (1 << 64) - 1, 0xAAAA_AAAA_AAAA_AAAA])
def test_init_leaves_open_what_boot_code_writes(pattern: int, epoch_configuration: Configuration) -> None:
    """Whatever the boot code puts beside HPMN is allowed; so is anything in the host's debug registers."""
    s = System(epoch_configuration.kernel()).state()
    mask = t.const(~MDCR_EL2.mask("HPMN"), 64)
    fact = Eq(s.boot_mdcr_el2.raw & mask, t.const(pattern, 64) & mask)
    assert initial(epoch_configuration, fact, Eq(s.hw_mdscr_el1.raw, t.const(pattern, 64)))


@pytest.mark.parametrize(("hpmn", "counters", "possible"), [(0, 6, False), (7, 6, False), (6, 6, True), (31, 31, True)])
def test_init_excludes_reserved_numbers_of_counters(hpmn: int, counters: int, possible: bool) -> None:
    c = Configuration("E8", "vhe")
    s = System(c.kernel()).state()
    facts = (Eq(s.boot_mdcr_el2.HPMN, t.const(hpmn, 5)), Eq(s.event_counters, t.const(counters, 5)))
    assert initial(c, *facts) is possible


def test_a_vcpu_starts_zeroed_except_for_debug_ptr(epoch_configuration: Configuration) -> None:
    """kvm_arch_vcpu_create has to set debug_ptr: before it, the pointer is anything."""
    s = System(epoch_configuration.kernel()).state()
    if "debug_ptr_external" in s.values:
        for wild in (s.debug_ptr_external, Not(s.debug_ptr_external)):
            assert initial(epoch_configuration, wild, cpus=1)
    zeroed = "mdcr_el2 mdcr_el2_host guest_debug mdscr_el1 preserved_mdscr_el1 oslsr_el1 debug_owner external_mdscr_el1"
    for name in s.values.keys() & set(zeroed.split()):
        value = s.values[name]
        assert not initial(epoch_configuration, Ne(value, t.const(0, t.width(value))), cpus=1), f"{name} is not zeroed"


def test_init_needs_nothing_of_other_vcpus_and_cpus() -> None:
    for pair in ((0, 0), (1, 0), (2, 1)):
        names = support(init(fresh(E8, *pair), E8))
        assert {n.partition(".")[0] for n in names} == {f"v{pair[0]}", f"p{pair[1]}"}


# ---- ghosts

# Where the vCPU is, and the boot code: the world that the kernel runs in reads these, not the kernel.
WORLD = {"phase", "exit"}


@pytest.mark.parametrize("configuration", EPOCH_CONFIGURATIONS, ids=str)
def test_no_guard_and_no_real_variable_depends_on_a_ghost(configuration: Configuration) -> None:
    ghosts = {name for name, v in VARIABLES.items() if v.ghost} - WORLD
    for step in System(configuration.kernel()).applied:
        name = step.operation.name
        terms = {n: term for n, term in step.after.values.items() if not VARIABLES[n].ghost or n in WORLD}
        terms = {n: term for n, term in terms.items() if term is not step.before.values[n]} | {"guard": step.guard}
        allowed = {"boot_mdcr_el2"} if name == "cpu_boot" else set()
        for target, term in terms.items():
            read = {full.partition(".")[2] for full in support(term) if not full.startswith("in.")}
            assert not read & ghosts - allowed, f"{name}: {target} depends on {sorted(read & ghosts)}"


def test_every_variable_is_used() -> None:
    """A variable that no operation changes, or that nothing reads, says nothing (what there is does not change)."""
    from formal.lemmas import LEMMAS
    from formal.properties import CLAIMS

    changed, read = set(), set()
    for configuration in EPOCH_CONFIGURATIONS:
        system = System(configuration.kernel())
        k, s = system.kernel, system.state()
        for step in system.applied:
            changed |= {full.partition(".")[2] for full in step.changed}
            after = [term for n, term in step.after.values.items() if term is not step.before.values[n]]
            for term in (step.guard, *after):
                read |= {full.partition(".")[2] for full in support(term)}
        for claim in (c for c in CLAIMS if c.applies(k) is None):
            read |= {full.partition(".")[2] for full in support(claim.holds_between(s, s, k))}
        for lemma in (m for m in LEMMAS if m.applies(k)):
            read |= {full.partition(".")[2] for full in support(lemma.holds(s, k))}
    assert changed == VARIABLES.keys() - {"boot_mdcr_el2", "event_counters", "has_nv", "has_fgt", "protected_vm"} - {
        "pmuv3p8"
    }
    assert read >= VARIABLES.keys(), f"nothing reads {sorted(VARIABLES.keys() - read)}"


def test_views_are_terms_of_the_declared_kind() -> None:
    for s in (fresh(E8), fresh(E10), fresh(E11)):
        for name in s.values:
            kind = VARIABLES[name].kind
            view = getattr(s, name)
            assert isinstance(view, kind if kind is not None and issubclass(kind, Register) else Term), name


def test_here_needs_this_cpu_and_a_loaded_phase() -> None:
    s = fresh(E8, 0, 1)
    env = {"v0.cpu": 1, "v0.phase": int(Phase.LOADED)}
    assert evaluate(s.here, env)
    assert not evaluate(s.here, {**env, "v0.cpu": 0})
    for phase in (Phase.NEW, Phase.CREATED, Phase.READY):
        assert not evaluate(s.here, {**env, "v0.phase": int(phase)})
    assert evaluate(replace(s, cpu_id=0).here, {**env, "v0.cpu": 0})
    assert not z3backend.check([And(s.in_guest, Not(s.here))])
