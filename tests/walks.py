"""Random walks through explicit instances of the system: any number of vCPUs and CPUs, concrete values, no solver."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from formal.evidence.runs.replay import Replay, zero
from formal.evidence.runs.traces import Step, Trace
from formal.logic import terms as t
from formal.logic.evaluation import evaluate, support
from formal.logic.terms import ArrayValue, Sort, Term, Value
from formal.operations import Applied
from formal.state import Exit, Phase, State
from formal.system import Pair, System
from formal.vocabulary import Precondition

Predicate = Callable[[State], Term]

# How often an operation is tried first, compared with the others; the run loop has to win against the host's noise.
WEIGHTS = {
    "cpu_boot": 0.2,
    "kvm_arm_init_debug": 0.5,
    "kvm_arch_vcpu_put": 0.6,
    "kvm_arch_vcpu_ioctl_run returns": 1.5,
    "PSCI CPU_OFF": 0.3,
    "KVM_ARM_VCPU_INIT": 0.3,
    "KVM_SET_MP_STATE": 0.5,
    "kvm_arch_vcpu_load": 6,
    "kvm_arm_setup_debug": 10,
    "__kvm_vcpu_run enters": 10,
    "__kvm_vcpu_run returns": 2,
    "kvm_arm_clear_debug": 10,
    "kvm_handle_guest_debug": 4,
    "trap_debug_regs": 6,
    "trap_bvr, trap_bcr, trap_wvr, trap_wcr": 4,
    "the guest writes MDSCR_EL1": 8,
    "the guest writes a break- or watchpoint register": 8,
    "KVM_SET_GUEST_DEBUG": 1.5,
    "the host writes its debug registers": 0.3,
    "the host writes PMUSERENR_EL0": 0.3,
}


@dataclass
class Walk:
    """One run of a system with ``vcpus`` x ``cpus``, checked in every state for every pair."""

    system: System
    vcpus: int
    cpus: int
    seed: int
    given: tuple[Precondition, ...] = ()
    taken: Counter[str] = field(default_factory=Counter)
    steps: list[Step] = field(default_factory=list)
    most_in_guest: int = 0
    migrations: int = 0
    _guards: dict[Term, tuple[list[str], dict[tuple[Value, ...], bool]]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.replay = Replay(self.system)
        self.pairs: list[Pair] = [(v, p) for v in range(self.vcpus) for p in range(self.cpus)]
        self.env: dict[str, Value] = {}
        for v in range(self.vcpus):
            self.env |= {str(x.data): zero(x.sort) for x in self.system.part("vcpu", v).values()}
            if self.system.kernel.nests:  # most guests are hypervisors; one CPU in two has fine-grained traps
                self.env |= {f"v{v}.has_nv": v != 1, f"v{v}.has_fgt": self.seed % 2 == 0}
                self.env |= {f"v{v}.nr_pmu_counters": self.random.getrandbits(5)}
        for p in range(self.cpus):
            self.env |= {str(x.data): zero(x.sort) for x in self.system.part("cpu", p).values()}
            self._boot(p)
        for pair in self.pairs:
            assert evaluate(self.system.init(pair), self.env), f"{pair} does not start in Init"
        self.initial = dict(self.env)

    def _boot(self, p: int) -> None:
        """A CPU of its own kind: another number of counters, other bits left by its boot code."""
        counters = self.random.randint(1, 31)
        hpmn = self.random.randint(1, counters)
        if any(x.name == "cpus_boot_alike" for x in self.given):
            hpmn, counters = 6, max(6, counters)
        if any(x.name == "boot_gives_all_counters" for x in self.given):
            hpmn = counters
        boot = self.random.getrandbits(64) & ~0x1F | hpmn
        if any(x.name == "boot_value_as_rebuilt" for x in self.given):
            boot = 3 << 12 | hpmn
        self.env |= {
            f"p{p}.boot_mdcr_el2": boot,
            f"p{p}.hw_mdcr_el2": boot,
            f"p{p}.event_counters": counters,
            f"p{p}.hw_mdscr_el1": (host := self.random.getrandbits(64)),
            f"p{p}.host_mdscr_el1": host,
        }

    # ---- one step

    def _value(self, name: str, sort: Sort) -> Value:
        """A value for an input: often an edge, since that is where registers do things."""
        r = self.random
        if sort == t.BOOL:
            return r.random() < {"locks": 0.15, "is_write": 0.85, "stopped": 0.2}.get(name, 0.5)
        if isinstance(sort, tuple):
            array = ArrayValue(0)
            for _ in range(r.randint(0, 3)):
                array = array.set(r.getrandbits(sort[0]), r.getrandbits(sort[1]))
            return array
        if name == "exit":
            return r.choice((*Exit, Exit.DEBUG_ACCESS, Exit.DEBUG_ACCESS, Exit.STEP, Exit.EMULATE)).value
        if name == "control":  # KVM_SET_GUEST_DEBUG: mostly flags that exist
            return r.choice(
                (0,) * 7 + (1, 1 | 2, 1 | 2, 1 | 1 << 17, 1 | 2 | 1 << 17, 1 | 1 << 16, r.getrandbits(sort))
            )
        if name == "index" and any(x.name == "first_breakpoint_only" for x in self.given):
            return r.randrange(4) << (sort - 2)
        if any(x.name == "mdscr_in_32_bits" for x in self.given) and name == "value":
            return r.choice((0, 1, 1 << 13, 1 << 15, 1 << 13 | 1 << 15, r.getrandbits(32)))
        choices = (0, 1, (1 << sort) - 1, r.getrandbits(sort), r.getrandbits(sort), 1 << r.randrange(sort))
        return r.choice(choices)

    def _try(self, name: str, pair: Pair) -> Step | None:
        """The operation with inputs for which it is enabled, if some are found."""
        applied = self.replay.applied(name, pair)
        for _ in range(6 if applied.inputs else 1):
            inputs = {n: self._value(n, v.sort) for n, v in applied.inputs.items()}
            where = {**self.env, **{str(v.data): inputs[n] for n, v in applied.inputs.items()}}
            k = self.system.kernel
            if self._enabled(applied, where) and all(evaluate(p.allows(applied, k), where) for p in self.given):
                return Step(name, *pair, inputs)
        return None

    def _enabled(self, applied: Applied, where: dict[str, Value]) -> bool:
        """Whether a guard holds; it is evaluated once for each combination of the values that it reads."""
        names, known = self._guards.setdefault(applied.guard, (sorted(support(applied.guard)), {}))
        key = tuple(where[n] for n in names)
        if key not in known:
            known[key] = bool(evaluate(applied.guard, where))
        return known[key]

    def _preferred(self) -> list[Pair]:
        """Pairs in random order, those that belong together first: a vCPU is seldom moved while it is loaded."""
        pairs = self.random.sample(self.pairs, len(self.pairs))
        return sorted(pairs, key=lambda pair: self.env[f"v{pair[0]}.cpu"] != pair[1] and self.random.random() < 0.3)

    def choose(self) -> Step:
        """An enabled operation; the kinds of operation are tried in a weighted random order."""
        names = [op.name for op in self.system.operations]
        weight = {n: self.random.random() ** (1 / WEIGHTS.get(n, 1)) for n in names}
        for pair in self._preferred():
            for name in sorted(names, key=lambda n: -weight[n])[:12]:
                step = self._try(name, pair)
                if step is not None:
                    return step
        for pair in self.pairs:
            for name in names:
                step = self._try(name, pair)
                if step is not None:
                    return step
        raise AssertionError("the system is stuck")

    def step(self) -> Pair:
        """Takes one step; everything but the acting pair must stay as it was."""
        step = self.choose()
        pair = (step.vcpu, step.cpu)
        applied = self.replay.applied(step.operation, pair)
        where = {**self.env, **{str(v.data): step.inputs[n] for n, v in applied.inputs.items()}}
        done: dict[Term, Value] = {}
        new = {str(applied.before.values[n].data): evaluate(x, where, done) for n, x in applied.after.values.items()}
        own = (f"v{step.vcpu}.", f"p{step.cpu}.")
        assert all(name.startswith(own) for name in new), f"{step.operation} changes somebody else"
        if step.operation == "kvm_arch_vcpu_load" and self.env[f"v{step.vcpu}.cpu"] != step.cpu:
            self.migrations += 1
        self.env = {**self.env, **new}
        self.taken[step.operation] += 1
        self.steps.append(step)
        in_guest = sum(self.env[f"v{v}.phase"] == Phase.IN_GUEST for v in range(self.vcpus))
        self.most_in_guest = max(self.most_in_guest, in_guest)
        return pair

    def trace(self) -> Trace:
        """The walk so far, for replay elsewhere."""
        return Trace(self.initial, tuple(self.steps))


class Watched:
    """Predicates over every pair of an instance, evaluated again only where a variable they read has changed."""

    def __init__(self, walk: Walk, predicates: Iterable[tuple[str, Predicate]]) -> None:
        self.terms: list[tuple[str, Pair, Term, frozenset[str]]] = []
        for name, predicate in predicates:
            for pair in walk.pairs:
                term = predicate(walk.system.state(pair))
                self.terms.append((name, pair, term, support(term)))
        self._before: dict[str, Value] = {}

    def broken(self, env: dict[str, Value]) -> list[tuple[str, Pair]]:
        """What does not hold in this state."""
        before = self._before
        changed = {name for name, value in env.items() if name not in before or before[name] != value}
        self._before = dict(env)
        done: dict[Term, Value] = {}
        return [
            (name, pair)
            for name, pair, term, read in self.terms
            if not read.isdisjoint(changed) and not evaluate(term, env, done)
        ]
