"""Replay of a trace by evaluating terms on concrete values. No solver is imported here, or needed.

The replay starts from the initial state of the trace, checks Init, and for every step checks the guard of the operation
and computes the next state. What a trace shows (a claim broken, a situation reached, an operation taken) is read off
the states on the way.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from formal.evidence.runs.traces import Step, Trace, TraceError
from formal.logic.evaluation import evaluate
from formal.logic.terms import ArrayValue, Sort, Term, Value
from formal.operations import Applied
from formal.state import ID_BITS, State
from formal.system import Pair, System
from formal.vocabulary import Claim, Precondition, Predicate

Env = dict[str, Value]
RUNS_KEPT = 1024  # enough for all known traces of a mode, of which each claim is asked


class ReplayError(Exception):
    """The trace is no run of the system: an internal error if an engine made it."""


@dataclass(frozen=True)
class Seen:
    """The system after one step (or at the start): values of all variables, and the step that led here."""

    number: int
    step: Step | None
    before: Mapping[str, Value]
    after: Mapping[str, Value]
    inputs: Mapping[str, Value] = field(default_factory=dict)
    applied: Applied | None = None
    _step: dict[Term, Value] = field(default_factory=dict, repr=False, compare=False)  # terms evaluated already
    _state: dict[Term, Value] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def _where(self) -> Mapping[str, Value]:
        return {**self.before, **self.inputs}

    def in_step(self, term: Term) -> Value:
        """The value of a term over the state before the step and its inputs."""
        return evaluate(term, self._where, self._step)

    def in_state(self, term: Term) -> Value:
        """The value of a term over the state after the step."""
        return evaluate(term, self.after, self._state)


def zero(sort: Sort) -> Value:
    """The value of a variable that a trace does not name."""
    return ArrayValue(0) if isinstance(sort, tuple) else (False if sort == 0 else 0)


def _fits(value: Value, sort: Sort) -> bool:
    if isinstance(sort, tuple):
        if not isinstance(value, ArrayValue):
            return False
        places, contents = value.index.keys(), (value.default, *value.index.values())
        return all(_fits(i, sort[0]) for i in places) and all(_fits(v, sort[1]) for v in contents)
    if sort == 0:
        return isinstance(value, bool)
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << sort


class _Recorded:
    """An iterable that computes each value once, when it is first asked for; an error is raised there every time."""

    def __init__(self, values: Iterator[Seen]) -> None:
        self._values, self._known = values, list[Seen]()
        self._error: Exception | None = None

    def __iter__(self) -> Iterator[Seen]:
        number = 0
        while number < len(self._known) or self._more():
            yield self._known[number]
            number += 1

    def _more(self) -> bool:
        if self._error is not None:
            raise self._error
        try:
            self._known.append(next(self._values))
        except StopIteration:
            return False
        except Exception as error:
            self._error = error
            raise
        return True


class Replay:
    """Replays traces of one system; operations are built once for each pair they act on."""

    def __init__(self, system: System) -> None:
        self.system = system
        self._by_name = {op.name: op for op in system.operations}
        self._applied: dict[tuple[str, Pair], Applied] = {}
        self._inits: dict[Pair, Term] = {}
        self._sorts: dict[Pair, dict[str, Sort]] = {}  # of the variables of a pair
        self._situations: dict[tuple[Predicate, Pair], Term] = {}
        self._formulas: dict[tuple[object, ...], Term] = {}
        self._runs: OrderedDict[int, tuple[Trace, _Recorded]] = OrderedDict()

    def applied(self, name: str, pair: Pair) -> Applied:
        """An operation applied to a pair.

        Raises:
            TraceError: if the system has no such operation.
        """
        if (name, pair) not in self._applied:
            if name not in self._by_name:
                raise TraceError(f"the system has no operation {name!r}")
            self._applied[name, pair] = self.system.apply(self._by_name[name], pair)
        return self._applied[name, pair]

    def pairs(self, trace: Trace) -> list[Pair]:
        """Every pair of a vCPU and a CPU that the trace speaks of.

        Raises:
            TraceError: for a number that is no name: two vCPUs, or two CPUs, must not share one.
        """
        for step in trace.steps:
            for number in (step.vcpu, step.cpu):
                if not _fits(number, ID_BITS):
                    raise TraceError(f"{step.operation}: vCPUs and CPUs are numbered 0 to 3, got {number!r}")
        vcpus = {s.vcpu for s in trace.steps} | {0}
        cpus = {s.cpu for s in trace.steps} | {0}
        return [(v, p) for v in sorted(vcpus) for p in sorted(cpus)]

    def run(self, trace: Trace, given: Iterable[Precondition] = ()) -> Iterator[Seen]:
        """The states of the run, the initial one first.

        Raises:
            ReplayError: if Init, a guard or a precondition does not hold.
            TraceError: if the trace does not fit the system.
        """
        given, k = tuple(given), self.system.kernel
        for seen in self._seen(trace):
            for p in given:
                if seen.applied is None:
                    if not all(seen.in_state(p.initially(self.system.state(pair), k)) for pair in self.pairs(trace)):
                        raise ReplayError(f"precondition {p.name} does not hold initially")
                elif not seen.in_step(p.allows(seen.applied, k)):
                    assert seen.step is not None
                    raise ReplayError(f"step {seen.number}, {seen.step.operation}: precondition {p.name} does not hold")
            yield seen

    def _seen(self, trace: Trace) -> Iterator[Seen]:
        """The states of the run, as far as it goes: several claims read the same run, so the last ones are kept."""
        _, states = self._runs.pop(id(trace), (trace, None))
        if states is None:
            states = _Recorded(self._run(trace))
        self._runs[id(trace)] = trace, states  # the newest at the end; the trace is kept, so that its id is its own
        if len(self._runs) > RUNS_KEPT:
            self._runs.popitem(last=False)
        return iter(states)

    def _run(self, trace: Trace) -> Iterator[Seen]:
        env = self._initial(trace)
        seen = Seen(0, None, env, env)
        for pair in self.pairs(trace):
            if not seen.in_state(self._initially(pair)):
                raise ReplayError(f"vCPU {pair[0]} and CPU {pair[1]} do not start in an initial state")
        yield seen
        for number, step in enumerate(trace.steps, 1):
            applied = self.applied(step.operation, (step.vcpu, step.cpu))
            after = dict(env)
            seen = Seen(number, step, env, after, self._inputs(applied, step), applied)
            if not seen.in_step(applied.guard):
                raise ReplayError(f"step {number}, {step.operation}: not enabled")
            for name, term in applied.after.values.items():
                variable = applied.before.values[name]
                if term is not variable:
                    after[str(variable.data)] = seen.in_step(term)
            yield seen
            env = after

    def _initially(self, pair: Pair) -> Term:
        if pair not in self._inits:
            self._inits[pair] = self.system.init(pair)
        return self._inits[pair]

    def _initial(self, trace: Trace) -> Env:
        sorts: dict[str, Sort] = {}
        for pair in self.pairs(trace):
            if pair not in self._sorts:
                variables = self.system.state(pair).values.values()
                self._sorts[pair] = {str(term.data): term.sort for term in variables}
            sorts |= self._sorts[pair]
        env = {name: zero(sort) for name, sort in sorts.items()}
        for name, value in trace.initial.items():
            if name not in sorts or not _fits(value, sorts[name]):
                raise TraceError(f"initial state: {name} = {value!r} does not fit the system")
            env[name] = value
        return env

    def _inputs(self, applied: Applied, step: Step) -> Env:
        if unknown := step.inputs.keys() - applied.inputs.keys():
            raise TraceError(f"{step.operation} has no input {sorted(unknown)[0]!r}")
        env: Env = {}
        for name, term in applied.inputs.items():
            value = step.inputs.get(name, zero(term.sort))
            if not _fits(value, term.sort):
                raise TraceError(f"{step.operation}: input {name} = {value!r} does not fit")
            env[str(term.data)] = value
        return env

    # ---- what a run shows

    def breaks(self, claim: Claim, seen: Seen, pair: Pair) -> bool:
        """Whether a claim is broken, for a pair, in this state or by the step that led to it."""
        if claim.actors and not self._taken_by(claim, seen, pair):
            return False
        formula = self._formula(claim, pair, seen.applied)
        return not (seen.in_step(formula) if claim.actors else seen.in_state(formula))

    def _formula(self, claim: Claim, pair: Pair, applied: Applied | None) -> Term:
        """What a claim says of a pair: about a state, or about a step of the pair."""
        k, step = self.system.kernel, applied if claim.actors else None
        key = (claim.when, claim.then, pair, step.operation.name if step else None)
        if key not in self._formulas:
            self._formulas[key] = (
                claim.holds_between(step.before, step.after, k) if step else claim.holds(self.system.state(pair), k)
            )
        return self._formulas[key]

    def reaches(self, claim: Claim, seen: Seen, pair: Pair) -> bool:
        """Whether the situation that a claim speaks of is there, for a pair (for two-state claims: in a step)."""
        if claim.actors and not self._taken_by(claim, seen, pair):
            return False
        if (claim.when, pair) not in self._situations:
            self._situations[claim.when, pair] = claim.when(self.system.state(pair), self.system.kernel)
        situation = self._situations[claim.when, pair]
        return bool(seen.in_step(situation) if claim.actors else seen.in_state(situation))

    def _taken_by(self, claim: Claim, seen: Seen, pair: Pair) -> bool:
        if seen.step is None or (seen.step.vcpu, seen.step.cpu) != pair:
            return False
        return claim.is_about(self._by_name[seen.step.operation])

    def first(
        self, trace: Trace, shows: Callable[[Seen, Pair], bool], given: Iterable[Precondition] = ()
    ) -> int | None:
        """The number of the first step after which ``shows`` holds for some pair; ``None`` if there is none."""
        pairs = self.pairs(trace)
        for seen in self.run(trace, given):
            if any(shows(seen, pair) for pair in pairs):
                return seen.number
        return None

    def violates(self, trace: Trace, claim: Claim) -> int | None:
        """The number of the step at which the trace, under the claim's preconditions, first breaks it."""
        return self.first(trace, lambda seen, pair: self.breaks(claim, seen, pair), claim.given)


def state_of(system: System, pair: Pair) -> State:
    """The symbolic state of a pair, whose variables name the values of a ``Seen``."""
    return system.state(pair)
