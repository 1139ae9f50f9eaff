"""Bounded model checking: the shortest run, in fused steps, that reaches a goal; traces are all that it is used for.

The steps with interrupts off follow one another without anything in between, so they are taken as one ("fused"); a goal
may still be met half way. One vCPU and two CPUs by default, since some violations need a second CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from formal.engines.z3backend import Z3Solver, Z3Terms
from formal.evidence.runs.traces import Step, Trace
from formal.logic import terms as t
from formal.logic.evaluation import substitute
from formal.logic.terms import BOOL, And, Eq, If, Implies, Not, Or, Term, Value
from formal.operations import Applied
from formal.state import State
from formal.system import Pair, System
from formal.vocabulary import Claim, Precondition

# Operations that follow one another with interrupts off (or, at creation, without anything to observe): only taken so.
FUSED: tuple[tuple[str, ...], ...] = (
    ("kvm_arch_vcpu_create", "kvm_arm_vcpu_init_debug"),
    ("kvm_arm_setup_debug", "__kvm_vcpu_run enters"),
    ("__kvm_vcpu_run returns", "kvm_arm_clear_debug"),
)
# Sequences that are common enough to be worth a move of their own, besides their parts.
SHORTCUTS: tuple[tuple[str, ...], ...] = (
    ("kvm_arch_vcpu_create", "KVM_ARM_VCPU_PMU_V3", "kvm_arm_vcpu_init_debug"),
    ("kvm_arch_vcpu_load", "kvm_arm_setup_debug", "__kvm_vcpu_run enters"),
    ("__kvm_vcpu_run returns", "kvm_arm_clear_debug", "kvm_handle_guest_debug"),
    ("__kvm_vcpu_run returns", "kvm_arm_clear_debug", "kvm_arch_vcpu_ioctl_run returns"),
)

# goal(before, after, operation that was taken (None: initial state), pair) -> Term
Goal = Callable[[State, State, Applied | None], Term]


def violation(claim: Claim, system: System) -> Goal:
    """The goal of breaking a claim."""
    k = system.kernel

    def goal(before: State, after: State, step: Applied | None) -> Term:
        if not claim.actors:
            return Not(claim.holds(after, k))
        if step is None or not claim.is_about(step.operation):
            return t.FALSE
        return Not(claim.holds_between(before, after, k))

    return goal


def situation(claim: Claim, system: System) -> Goal:
    """The goal of reaching the situation that a claim speaks of."""
    k = system.kernel

    def goal(before: State, after: State, step: Applied | None) -> Term:
        if not claim.actors:
            return claim.when(after, k)
        if step is None or not claim.is_about(step.operation):
            return t.FALSE
        return claim.when(before, k)

    return goal


def taking(operation: str) -> Goal:
    """The goal of taking an operation."""

    def goal(before: State, after: State, step: Applied | None) -> Term:
        return t.boolean(step is not None and step.operation.name == operation)

    return goal


@dataclass(frozen=True)
class _Move:
    """A fused step on a pair: its operations, their conditions, the state after each, and the inputs of each."""

    applied: tuple[Applied, ...]
    conditions: Term
    states: tuple[State, ...]
    inputs: tuple[dict[str, Term], ...]


class Search:
    """An unrolling of one system, grown a step at a time; every question is a goal at the end of some steps.

    A question finds what it would find in an unrolling of its own: it asks about short runs first, and a step that was
    grown for another question is taken only where it is asked about.
    """

    def __init__(
        self,
        system: System,
        given: Sequence[Precondition] = (),
        *,
        vcpus: int = 1,
        cpus: int = 2,
        timeout: float | None = None,
    ) -> None:
        self.system, self.given = system, tuple(given)
        self.pairs: list[Pair] = [(v, p) for v in range(vcpus) for p in range(cpus)]
        self.moves = [move for pair in self.pairs for move in self._moves(pair)]
        self.variables = {str(term.data): term for pair in self.pairs for term in system.state(pair).values.values()}
        self.solver = Z3Solver(Z3Terms(), timeout)
        self.depth = 0
        k = system.kernel
        start = [system.init(pair) for pair in self.pairs]
        start += [p.initially(system.state(pair), k) for p in self.given for pair in self.pairs]
        self.solver.add(*(self._at(term, 0) for term in start))
        self._memo: list[dict[Term, Term]] = []

    # ---- unrolling

    def _moves(self, pair: Pair) -> Iterator[_Move]:
        by_name = {op.name: op for op in self.system.operations}
        inside = {name for chain in FUSED for name in chain}
        chains: list[tuple[str, ...]] = [(op.name,) for op in self.system.operations if op.name not in inside]
        there = {op.name for op in self.system.operations if self.system.apply(op, pair).guard is not t.FALSE}
        chains += [*FUSED, *SHORTCUTS]
        for chain in dict.fromkeys(tuple(n for n in chain if n in there) for chain in chains):
            if not chain:
                continue
            state = self.system.state(pair)
            conditions, states, inputs, applied = [], [state], [], []
            for name in chain:
                step = self.system.apply(by_name[name], pair)
                mapping = {str(state_var.data): states[-1].values[n] for n, state_var in step.before.values.items()}
                done: dict[Term, Term] = {}
                values = {n: substitute(term, mapping, done) for n, term in step.after.values.items()}
                after = State(values, *pair)
                conditions.append(substitute(step.guard, mapping, done))
                k = self.system.kernel
                conditions += [substitute(p.allows(step, k), mapping, done) for p in self.given]
                applied.append(step)
                inputs.append(dict(step.inputs))
                states.append(after)
            yield _Move(tuple(applied), And(*conditions), tuple(states), tuple(inputs))

    def _at(self, term: Term, depth: int) -> Term:
        """A term over the state and inputs of one step of the unrolling."""
        return substitute(term, _Names(depth), {})

    def _choice(self, depth: int) -> Term:
        return t.var(f"{depth}!move", max(1, (len(self.moves) - 1).bit_length()))

    def _chosen(self, number: int, depth: int) -> Term:
        choice = self._choice(depth)
        return Eq(choice, t.const(number, t.width(choice)))

    def grow(self) -> None:
        """Adds one step."""
        d, names = self.depth, _Names(self.depth)
        done: dict[Term, Term] = {}
        after: dict[str, Term] = {name: substitute(v, names, done) for name, v in self.variables.items()}
        facts = [Or(*(self._chosen(n, d) for n in range(len(self.moves))))]
        for number, move in enumerate(self.moves):
            chosen = self._chosen(number, d)
            facts.append(Implies(chosen, substitute(move.conditions, names, done)))
            last, first = move.states[-1], move.states[0]
            for name, term in last.values.items():
                variable = first.values[name]
                if term is not variable:
                    key = str(variable.data)
                    after[key] = If(chosen, substitute(term, names, done), after[key])
        following = _Names(d + 1)
        facts += [Eq(following.variable(v), after[name]) for name, v in self.variables.items()]
        self.solver.add(*(Implies(_taken(d), fact) for fact in facts))
        self.depth += 1

    # ---- questions

    def _goal_after(self, depth: int, goal: Goal) -> Term:
        """The goal at the end of so many steps, or half way through the last one."""
        if depth == 0:
            initial = [goal(s, s, None) for s in map(self.system.state, self.pairs)]
            return self._at(Or(*initial), 0)
        d = depth - 1
        names = _Names(d)
        done: dict[Term, Term] = {}
        found = []
        for number, move in enumerate(self.moves):
            reached = []
            for n, step in enumerate(move.applied):
                for pair in self.pairs:
                    before, after = self._seen(move, n, pair), self._seen(move, n + 1, pair)
                    own = step if pair == (step.before.vcpu_id, step.before.cpu_id) else None
                    reached.append(goal(before, after, own))
            found.append(And(self._chosen(number, d), substitute(Or(*reached), names, done)))
        return Or(*found)

    def _seen(self, move: _Move, n: int, pair: Pair) -> State:
        """A pair as it is after ``n`` operations of a move."""
        acting = move.states[n]
        values = dict(self.system.state(pair).values)
        mapping = {str(v.data): acting.values[name] for name, v in move.states[0].values.items()}
        return State({name: mapping.get(str(v.data), v) for name, v in values.items()}, *pair)

    def find(self, goal: Goal, limit: int, first: int = 0) -> Trace | None:
        """The shortest run of ``first`` to ``limit`` fused steps that meets the goal; ``None`` if there is none.

        Raises:
            SolverTimeoutError: if a question takes more work than the time-out allows.
        """
        for depth in range(first, limit + 1):
            while self.depth < depth:
                self.grow()
            here = self._goal_after(depth, goal)
            if here is not t.FALSE:
                model = self.solver.model(self._wanted(depth), here, *map(_taken, range(depth)))
                if model is not None:
                    return self._trace(model, depth)
        return None

    def _wanted(self, depth: int) -> list[Term]:
        wanted = [_Names(0).variable(v) for v in self.variables.values()]
        for d in range(depth):
            wanted.append(self._choice(d))
            for move in self.moves:
                wanted += [_Names(d).variable(v) for inputs in move.inputs for v in inputs.values()]
        return list(dict.fromkeys(wanted))

    def _trace(self, model: dict[str, Value], depth: int) -> Trace:
        steps: list[Step] = []
        for d in range(depth):
            move = self.moves[_number(model[f"{d}!move"])]
            for applied, inputs in zip(move.applied, move.inputs, strict=True):
                values = {name: model[f"{d}!{v.data}"] for name, v in inputs.items()}
                steps.append(Step(applied.operation.name, applied.before.vcpu_id, applied.before.cpu_id, values))
        used = {f"v{s.vcpu}" for s in steps} | {f"p{s.cpu}" for s in steps} | {"v0", "p0"}
        initial = {name: model[f"0!{name}"] for name in self.variables if name.partition(".")[0] in used}
        return Trace(initial, tuple(steps))


def _taken(depth: int) -> Term:
    """That a step of the unrolling is taken."""
    return t.var(f"{depth}!taken", BOOL)


def _number(value: Value) -> int:
    assert isinstance(value, int)
    return value


class _Names(dict[str, Term]):
    """A mapping that renames every variable to its copy at one depth; sorts come from the variables themselves."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.depth = depth

    def variable(self, v: Term) -> Term:
        """The copy of a variable."""
        return t.var(f"{self.depth}!{v.data}", v.sort)

    def get(self, name: str, default: Term | None = None) -> Term:  # type: ignore[override]
        """The copy of the variable that ``substitute`` is looking at."""
        assert default is not None
        return self.variable(default)
