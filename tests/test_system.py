"""Two vCPUs and two CPUs stand for any number: explicit instances of up to three of each agree with the reduction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from formal.engines.induction import Invariant
from formal.engines.z3backend import Z3Solver, check, shared_terms
from formal.epochs import EPOCHS, Kernel, Mode
from formal.lemmas import LEMMAS
from formal.logic import terms as t
from formal.logic.evaluation import substitute, support
from formal.logic.terms import And, Eq, Ne, Not, Or, Term
from formal.operations import Operation
from formal.preconditions import DEBUG_LEFT_ALONE, NEVER_DEBUGGED, NEVER_STEPPED
from formal.properties import CLAIMS, NON_PROPERTIES
from formal.scope.configuration import Configuration
from formal.state import ID_BITS, Phase, State, init
from formal.system import ACTING, OBSERVED, Pair, System
from formal.transitions import OPERATIONS
from formal.vocabulary import Claim, Lemma, Precondition
from tests.conftest import checker_of
from tests.walks import Predicate, Walk, Watched

BY_NAME = {op.name: op for op in OPERATIONS}
STEPS = 1000


def proved(configuration: Configuration, given: tuple[Precondition, ...] = ()) -> Iterator[tuple[str, Predicate]]:
    """Every lemma, and every one-state claim that is PROVED, under some preconditions."""
    checker = checker_of(configuration)
    k = checker.system.kernel
    invariant = checker.invariant(given)

    def predicate(holds: Lemma | Claim) -> Predicate:
        return lambda s: holds.holds(s, k)

    for lemma in invariant.all_lemmas():
        yield lemma.name, predicate(lemma)
    for one in CLAIMS:
        if not one.actors and not one.applies(k) and set(one.given) <= set(given) and invariant.implies(one):
            yield one.name, predicate(one)


def walked(configuration: Configuration, seed: int, given: tuple[Precondition, ...] = ()) -> Walk:
    """A walk of 3 vCPUs on 3 CPUs in which nothing that is proved is ever broken."""
    walk = Walk(checker_of(configuration).system, 3, 3, seed, given)
    watched = Watched(walk, proved(configuration, given))
    assert not watched.broken(walk.env), "Init"
    for number in range(STEPS):
        walk.step()
        broken = watched.broken(walk.env)
        assert not broken, f"seed {seed}, step {number}, {walk.steps[-1]} breaks {broken}"
    return walk


# ---- random walks, 3 x 3

RARE = {"the guest writes OSLAR_EL1"}  # proved impossible: OSLAR_EL1 always traps


RETIRED = {"kvm_arm_setup_debug", "kvm_arm_clear_debug"}  # by v6.14


@pytest.mark.parametrize(
    "configuration", [Configuration(e, m) for e in ("E8", "E10", "E11") for m in ("vhe", "nvhe")], ids=str
)
def test_what_is_proved_holds_on_every_step_of_three_vcpus_on_three_cpus(configuration: Configuration) -> None:
    walk = walked(configuration, 1)
    there = {op.name for op in walk.system.operations}
    missing = there - walk.taken.keys() - RARE - (set() if configuration.name == "E8" else RETIRED)
    assert not missing, f"the walk is no evidence about {sorted(missing)}"
    assert walk.most_in_guest == 3, "three guests at once"
    assert walk.migrations > 10, "vCPUs move between CPUs"
    assert walk.taken["__kvm_vcpu_run enters"] > 50


@pytest.mark.parametrize("configuration", [Configuration("E4s", "nvhe"), Configuration("E3a", "vhe")], ids=str)
def test_older_kernels_as_well(configuration: Configuration) -> None:
    walk = walked(configuration, 2)
    assert walk.taken["__kvm_vcpu_run enters"] > 50


@pytest.mark.parametrize(
    ("name", "among_them"),
    [
        ("E8", {"one_step_one_instruction_if_undisturbed", "hpmn_preserved_always_on_equal_cpus"}),
        ("E10", {"one_step_one_instruction_if_not_reset", "external_mdscr_follows_guest_if_left_alone"}),
    ],
)
def test_what_is_proved_under_preconditions_holds_where_they_do(name: str, among_them: set[str]) -> None:
    configuration = Configuration(name, "vhe")
    asked = dict.fromkeys(p for one in CLAIMS if not one.applies(configuration.kernel()) for p in one.given)
    nothing_to_see = (NEVER_DEBUGGED, NEVER_STEPPED, DEBUG_LEFT_ALONE)
    given = tuple(p for p in asked if p not in nothing_to_see)
    assert len(given) >= 4
    names = dict(proved(configuration, given))
    assert among_them <= names.keys()
    walks = [walked(configuration, seed, given) for seed in (3, 4, 5)]
    assert sum(walk.taken["kvm_handle_guest_debug"] for walk in walks) > 10
    assert sum(walk.migrations for walk in walks) > 10


def test_a_walk_replays() -> None:
    """The instance and the replay are one and the same system."""
    checker = checker_of(Configuration("E8", "vhe"))
    walk = Walk(checker.system, 3, 3, 4)
    for _ in range(60):
        walk.step()
    final = [*checker.replay.run(walk.trace())][-1].after
    assert {name: walk.env[name] for name in final} == dict(final)


def test_a_walk_finds_what_is_not_true() -> None:
    """The walk can fail: claims that are VIOLATED are broken on the way."""
    configuration = Configuration("E8", "vhe")
    checker = checker_of(configuration)
    k = checker.system.kernel
    wrong = {"hpmn_preserved_always", "guest_mdscr_preserved", "debug_exceptions_enabled_means_untrapped"}
    walk = Walk(checker.system, 3, 3, 1)
    predicates = [(c.name, lambda s, c=c: c.holds(s, k)) for c in CLAIMS if c.name in wrong]
    watched = Watched(walk, predicates)
    found: set[str] = set()
    for _ in range(STEPS):
        walk.step()
        found |= {name for name, _ in watched.broken(walk.env)}
    assert found == wrong


# ---- the reduction, term by term


def test_an_operation_on_any_pair_is_the_one_on_the_acting_pair_renamed() -> None:
    """Nothing depends on the numbers of a vCPU and a CPU except the numbers that are kept: cpu, vcpu."""
    system = System(EPOCHS["E8"].kernel(Mode.NVHE))
    for op in OPERATIONS:
        here, there = system.apply(op, (0, 0)), system.apply(op, (2, 1))
        assert {n.replace("v0.", "v2.").replace("p0.", "p1.") for n in here.changed} == there.changed
        assert {n.replace("v0.", "v2.").replace("p0.", "p1.") for n in support(here.guard)} == support(there.guard)


def test_an_observed_pair_shares_what_it_shares_with_the_acting_one() -> None:
    system = System(EPOCHS["E8"].kernel(Mode.VHE))
    step = system.apply(BY_NAME["kvm_arch_vcpu_load"])
    own, cpu, vcpu, other = (system.after(step, pair) for pair in ((0, 0), (1, 0), (0, 1), (1, 1)))
    assert own.values == step.after.values
    assert cpu.values["hw_mdcr_el2"] is own.values["hw_mdcr_el2"]
    assert cpu.values["phase"] is system.part("vcpu", 1)["phase"]
    assert vcpu.values["phase"] is own.values["phase"]
    assert vcpu.values["hw_mdcr_el2"] is system.part("cpu", 1)["hw_mdcr_el2"]
    assert other.values == system.state((1, 1)).values, "(1, 1) is untouched, which is why it is not observed"


def test_replacing_changes_named_operations_only() -> None:
    system = System(EPOCHS["E8"].kernel(Mode.VHE))
    put = replace(BY_NAME["kvm_arch_vcpu_put"], says="another")
    other = system.replacing({put.name: put})
    assert [op.name for op in other.operations] == [op.name for op in system.operations]
    assert [op for op in other.operations if op not in system.operations] == [put]


# ---- induction on explicit instances

PAIRS: tuple[Pair, ...] = tuple((v, p) for v in range(3) for p in range(2))
EXPLICIT = (
    "kvm_arch_vcpu_load",
    "kvm_arch_vcpu_put",
    "kvm_arm_setup_debug",
    "__kvm_vcpu_run enters",
    "__kvm_vcpu_run returns",
    "kvm_arm_clear_debug",
    "kvm_arm_init_debug",
    "cpu_boot",
    "trap_debug_regs",
    "KVM_SET_GUEST_DEBUG",
    "kvm_reset_vcpu",
)


def lost(system: System, invariant: Invariant, op: Operation, acting: Pair, pairs: tuple[Pair, ...]) -> set[str]:
    """The lemmas that an operation on one pair does not keep for all pairs, from all lemmas for all pairs."""
    k = system.kernel
    step = system.apply(op, acting)
    lemmas = invariant.all_lemmas()
    solver = Z3Solver(shared_terms())
    solver.add(*(m.holds(system.state(pair), k) for m in lemmas for pair in pairs), step.guard)
    goals = {m.name: And(*(m.holds(after(system, step.after, pair, acting), k) for pair in pairs)) for m in lemmas}
    return {name for name, goal in goals.items() if solver.satisfiable(Not(goal))}


def after(system: System, acted: State, pair: Pair, acting: Pair) -> State:
    """What a pair looks like after an operation, written without System.after."""
    values: dict[str, Term] = dict(system.state(pair).values)
    if pair[0] == acting[0]:
        values |= {name: acted.values[name] for name in system.part("vcpu", pair[0])}
    if pair[1] == acting[1]:
        values |= {name: acted.values[name] for name in system.part("cpu", pair[1])}
    return State(values, *pair)


@pytest.mark.parametrize("name", EXPLICIT)
@pytest.mark.parametrize("mode", ["vhe", "nvhe"])
def test_the_lemmas_are_inductive_on_an_explicit_instance(name: str, mode: str) -> None:
    checker = checker_of(Configuration("E8", mode))
    assert not lost(checker.system, checker.invariant(), BY_NAME[name], (2, 1), PAIRS)


def _load_on_a_busy_cpu() -> Operation:
    load = BY_NAME["kvm_arch_vcpu_load"]
    return replace(load, guard=lambda s, k, i: And(s.at(Phase.READY), s.kvm_ready))


def _load_anywhere() -> Operation:
    """A loaded vCPU is loaded a second time, somewhere else."""
    load = BY_NAME["kvm_arch_vcpu_load"]
    return replace(load, guard=lambda s, k, i: And(Or(s.at(Phase.READY), s.at(Phase.LOADED)), s.idle, s.kvm_ready))


def _put_of_another() -> Operation:
    """The CPU is released although another vCPU is loaded there."""
    put = BY_NAME["kvm_arch_vcpu_put"]
    return replace(put, guard=lambda s, k, i: s.at(Phase.LOADED))


def _boot_while_busy() -> Operation:
    return replace(BY_NAME["cpu_boot"], guard=lambda s, k, i: s.kvm_ready)


MUTANTS = {f.__name__.strip("_"): f for f in (_load_on_a_busy_cpu, _load_anywhere, _put_of_another, _boot_while_busy)}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_reduction_loses_what_an_explicit_instance_loses(name: str) -> None:
    """What goes wrong between vCPUs and CPUs is seen by {observed, acting} just as by three and two of them."""
    base = checker_of(Configuration("E8", "vhe"))
    mutant = MUTANTS[name]()
    system = base.system.replacing({mutant.name: mutant})
    explicit = lost(system, base.invariant(), mutant, ACTING, PAIRS)
    reduced = lost(system, base.invariant(), mutant, ACTING, OBSERVED)
    assert explicit, "the mutant breaks nothing; it tests nothing"
    assert reduced == explicit
    assert {d.lemma for d in Invariant(system, LEMMAS).dropped} >= explicit


def test_one_vcpu_and_one_cpu_would_not_be_enough() -> None:
    """Loading on a busy CPU harms the vCPU that is there: only a second vCPU shows it."""
    base = checker_of(Configuration("E8", "vhe"))
    mutant = _load_on_a_busy_cpu()
    system = base.system.replacing({mutant.name: mutant})
    assert "loaded_where_it_says" not in lost(system, base.invariant(), mutant, ACTING, (ACTING,))
    assert "loaded_where_it_says" in lost(system, base.invariant(), mutant, ACTING, OBSERVED)


# ---- names

Renamed = dict[str, Term]
SWAP = {"cpu": (0, 1), "vcpu": (0, 2)}  # the variables that hold a name, and the names that change places


def renamed(system: System) -> Renamed:
    """The variables of vCPU 2 and CPU 1, as if everything had been called vCPU 0 and CPU 0."""
    mapping: Renamed = {}
    for owner, here, there in (("vcpu", 0, 2), ("cpu", 0, 1)):
        for name, variable in system.part(owner, there).items():  # type: ignore[arg-type]
            value = system.part(owner, here)[name]  # type: ignore[arg-type]
            if name in SWAP:
                value = swapped(value, *SWAP[name])
            mapping[str(variable.data)] = value
    return mapping


def swapped(value: Term, one: int, other: int) -> Term:
    """A name after two names have changed places."""
    a, b = t.const(one, ID_BITS), t.const(other, ID_BITS)
    return t.If(Eq(value, a), b, t.If(Eq(value, b), a, value))


def differs(system: System, predicate: Predicate) -> bool:
    """Whether a predicate means something else for vCPU 2 on CPU 1 than for vCPU 0 on CPU 0."""
    here = predicate(system.state((0, 0)))
    there = substitute(predicate(system.state((2, 1))), renamed(system))
    return here is not there and check([Ne(here, there)])


def predicates(system: System) -> Iterator[tuple[str, Predicate]]:
    """Everything that is said of a pair."""
    k = system.kernel
    yield "Init", lambda s: init(s, k)
    for lemma in (m for m in LEMMAS if m.applies(k)):
        yield lemma.name, lambda s, m=lemma: m.holds(s, k)  # type: ignore[misc]
    for one in (c for c in (*CLAIMS, *NON_PROPERTIES) if c.applies(k) is None):
        yield one.name, lambda s, c=one: c.holds_between(s, s, k)  # type: ignore[misc]
        for p in one.given:
            yield p.name, lambda s, p=p: p.initially(s, k)  # type: ignore[misc]


@pytest.mark.parametrize("name", ["E3a", "E8", "E10"])
@pytest.mark.parametrize("mode", Mode, ids=lambda m: m.value)
def test_nothing_depends_on_which_vcpu_or_cpu_it_is(name: str, mode: Mode) -> None:
    """Induction looks at vCPU 0 on CPU 0 for all pairs, so no predicate may single out a number. Nothing but this test
    would notice: a claim like "guests run on CPU 0 only" passes the engine."""
    system = System(EPOCHS[name].kernel(mode))
    wrong = [name for name, predicate in predicates(system) if differs(system, predicate)]
    assert not wrong, f"not the same for every vCPU and CPU: {wrong}"


@pytest.mark.parametrize("name", ["E3a", "E8", "E10"])
@pytest.mark.parametrize("mode", Mode, ids=lambda m: m.value)
def test_no_operation_depends_on_which_vcpu_or_cpu_it_is(name: str, mode: Mode) -> None:
    system = System(EPOCHS[name].kernel(mode))
    mapping = renamed(system)
    for op in OPERATIONS:
        here, there = system.apply(op, (0, 0)), system.apply(op, (2, 1))
        results = {name: substitute(term, mapping) for name, term in there.after.values.items()}
        for name_of_name, names in SWAP.items():
            results[name_of_name] = swapped(results[name_of_name], *names)
        pairs = [(here.guard, substitute(there.guard, mapping))]
        pairs += [(term, results[variable]) for variable, term in here.after.values.items()]
        different = [Ne(a, b) for a, b in pairs if a is not b]
        assert not check([Or(*different)]), f"{op.name} is another operation for another vCPU or CPU"


def test_a_predicate_that_singles_out_a_cpu_is_noticed() -> None:
    system = System(EPOCHS["E8"].kernel(Mode.VHE))
    assert differs(system, lambda s: t.Implies(s.in_guest, Eq(s.values["cpu"], t.const(0, ID_BITS))))
    assert not differs(system, lambda s: t.Implies(s.in_guest, Eq(s.values["cpu"], t.const(s.cpu_id, ID_BITS))))


def test_init_gives_no_vcpu_a_cpu() -> None:
    """A lemma that is true at Init for CPU 0 only is dropped."""
    base = checker_of(Configuration("E8", "vhe"))

    def holds(s: State, k: Kernel) -> Term:
        return t.Implies(s.at(Phase.NEW), Eq(s.values["cpu"], t.const(s.cpu_id, ID_BITS)))

    dropped = Invariant(base.system, (*LEMMAS, Lemma("new_means_this_cpu", "", holds, lambda k: True))).dropped
    assert [(d.lemma, d.by) for d in dropped] == [("new_means_this_cpu", "Init")]
