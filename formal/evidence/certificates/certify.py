"""A proof that a CNF has no model: Glucose finds it, and it is rewritten as LRAT, which is simple to check.

Glucose (through python-sat) writes the clauses it learns (DRUP). Each follows from what was known by unit propagation;
here the propagation is done once more, to note which clauses it needed (the hints), and steps that nothing needs are
left out. A literal that propagation alone makes true is a step of its own where it is used, so that no step repeats how
it came about. Nothing here has to be trusted: ``formal/evidence/certificates/lrat.py`` checks the result.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

from formal.evidence.certificates.blast import Clause, Cnf
from formal.evidence.certificates.lrat import Step

SOLVER = "glucose4"


class NotUnsatisfiableError(Exception):
    """The CNF has a model, or the solver's proof proves nothing."""


def refute(cnf: Cnf) -> str:
    """An LRAT proof that the CNF is unsatisfiable, as text.

    Raises:
        NotUnsatisfiableError: if it is satisfiable.
    """
    part = relevant(cnf)
    steps = hinted(part, len(cnf.clauses), learned(part.values()))
    return "".join(f"{step}\n" for step in trimmed(steps, len(cnf.clauses)))


def satisfiable(cnf: Cnf) -> bool:
    """Whether the CNF has a model, by the word of the solver alone."""
    with _solver(cnf.clauses) as solver:
        return bool(solver.solve())


def relevant(cnf: Cnf) -> dict[int, Clause]:
    """Clauses by number that are enough for a contradiction: a few assertions, and the gates below them.

    Raises:
        NotUnsatisfiableError: if the CNF is satisfiable.
    """
    every = dict(enumerate(cnf.clauses, 1))
    if not cnf.asserted:
        return every
    gates = len(cnf.clauses) - len(cnf.asserted)
    with _solver(cnf.clauses[:gates]) as solver:
        if solver.solve(assumptions=cnf.asserted):
            raise NotUnsatisfiableError("it is satisfiable")
        core = set(solver.get_core() or cnf.asserted)
    numbers = {1} | {gates + n for n, x in enumerate(cnf.asserted, 1) if x in core}
    starts = [variable for variable, _ in cnf.blocks]
    ends = [clause for _, clause in cnf.blocks[1:]] + [gates + 1]
    stack, seen = [abs(x) for x in core], set[int]()
    while stack:
        block = bisect_right(starts, stack.pop()) - 1
        if block >= 0 and block not in seen:
            seen.add(block)
            own = range(cnf.blocks[block][1], ends[block])
            numbers.update(own)
            stack += {abs(x) for n in own for x in every[n]}
    return {n: every[n] for n in sorted(numbers)}


def learned(clauses: Iterable[Clause]) -> list[list[int]]:
    """The clauses that the solver learns on the way to the contradiction.

    Raises:
        NotUnsatisfiableError: if there is none.
    """
    with _solver(clauses, with_proof=True) as solver:
        if solver.solve():
            raise NotUnsatisfiableError("it is satisfiable")
        lines = solver.get_proof() or []
    return [[int(x) for x in line.split()[:-1]] for line in lines if not line.startswith("d")]


def _solver(clauses: Iterable[Clause], **options: bool) -> Any:
    solvers = import_module("pysat.solvers")  # here, so that everything else works without python-sat
    return solvers.Solver(name=SOLVER, bootstrap_with=clauses, **options)


def hinted(clauses: Mapping[int, Clause], count: int, proof: Iterable[Sequence[int]]) -> list[Step]:
    """The steps of a proof with their hints, numbered from ``count + 1`` on, each using earlier ones only.

    Raises:
        NotUnsatisfiableError: if a clause does not follow by unit propagation, or they do not end in a contradiction.
    """
    return _Propagation(clauses, count).run(proof)


def trimmed(steps: list[Step], count: int) -> list[Step]:
    """The steps that the last one needs, numbered from ``count + 1`` on."""
    needed = {steps[-1].number}
    for step in reversed(steps):
        if step.number in needed:
            needed.update(step.hints)
    numbers: dict[int, int] = {}
    kept: list[Step] = []
    for step in steps:
        if step.number in needed:
            numbers[step.number] = count + 1 + len(kept)
            hints = tuple(numbers.get(h, h) for h in step.hints)
            kept.append(Step(numbers[step.number], step.clause, hints))
    return kept


class _Propagation:
    """Unit propagation with two watched literals; what it derives without assumptions stays."""

    def __init__(self, clauses: Mapping[int, Clause], count: int) -> None:
        self.clauses: dict[int, list[int]] = {}
        self.watches: defaultdict[int, list[int]] = defaultdict(list)  # literal -> numbers of the clauses that watch it
        self.true: set[int] = set()
        self.reason: dict[int, int] = {}  # true literal -> clause that made it true; none for assumptions
        self.trail: list[int] = []
        self.position = 0
        self.fixed = 0  # how much of the trail needs no assumption
        self.unit: dict[int, int] = {}  # literal -> step that says it is true
        self.steps: list[Step] = []
        self.next = count + 1
        self.contradiction = 0
        for number, clause in clauses.items():
            self._add(number, list(dict.fromkeys(clause)))
        self._settle()

    def run(self, proof: Iterable[Sequence[int]]) -> list[Step]:
        for clause in [*proof, ()]:
            if self.contradiction:
                break
            self._learn(list(dict.fromkeys(clause)))
        if not self.contradiction:
            raise NotUnsatisfiableError("the solver's proof does not end in a contradiction")
        hints = [self._unit(-x) for x in self.clauses[self.contradiction]]
        self._emit((), [*hints, self.contradiction])
        return self.steps

    def _learn(self, clause: list[int]) -> None:
        if any(x in self.true for x in clause):
            return
        for x in clause:
            self._assign(-x)
        conflict = self._propagate()
        if not conflict:
            raise NotUnsatisfiableError(f"a step of the solver's proof does not follow: {clause}")
        hints = self._explain(conflict)
        for x in self.trail[self.fixed :]:
            self.true.discard(x)
            self.reason.pop(x, None)
        del self.trail[self.fixed :]
        self.position = self.fixed
        number = self._emit(tuple(clause), hints)
        self._add(number, clause)
        self._settle()

    def _explain(self, conflict: int) -> list[int]:
        """The clauses that led to the conflict, in the order in which they became unit."""
        needed = {-x for x in self.clauses[conflict]}
        chain = [conflict]
        for x in reversed(self.trail[self.fixed :]):
            if x in needed and x in self.reason:
                chain.append(self.reason[x])
                needed.update(-y for y in self.clauses[self.reason[x]] if y != x)
        fixed = [self._unit(x) for x in self.trail[: self.fixed] if x in needed]
        return [*fixed, *reversed(chain)]

    def _unit(self, literal: int) -> int:
        """The number of a clause that says just ``literal``, which no assumption made true."""
        stack = [literal]
        while stack:
            x = stack[-1]
            others = [-y for y in self.clauses[self.reason[x]] if y != x]
            pending = [y for y in others if y not in self.unit]
            if x in self.unit or not pending:
                stack.pop()
                if x not in self.unit:
                    hints = [self.unit[y] for y in others]
                    self.unit[x] = self._emit((x,), [*hints, self.reason[x]]) if others else self.reason[x]
            else:
                stack.extend(pending)
        return self.unit[literal]

    def _emit(self, clause: tuple[int, ...], hints: list[int]) -> int:
        self.steps.append(Step(self.next, clause, tuple(dict.fromkeys(hints))))
        self.next += 1
        return self.next - 1

    def _add(self, number: int, clause: list[int]) -> None:
        """Adds a clause and watches two of its literals, if it can, that are not false."""
        clause.sort(key=lambda x: -x in self.true)
        self.clauses[number] = clause
        if len(clause) > 1:
            self.watches[clause[0]].append(number)
            self.watches[clause[1]].append(number)
        if -clause[0] in self.true:
            self.contradiction = self.contradiction or number
        elif len(clause) == 1 or -clause[1] in self.true:
            self._assign(clause[0], number)

    def _settle(self) -> None:
        if not self.contradiction:
            self.contradiction = self._propagate()
            self.fixed = len(self.trail)

    def _assign(self, literal: int, reason: int = 0) -> None:
        if literal not in self.true:
            self.true.add(literal)
            self.trail.append(literal)
            if reason:
                self.reason[literal] = reason

    def _propagate(self) -> int:
        """Propagates what the trail says; the number of a clause that is false, or 0."""
        true, clauses, watches = self.true, self.clauses, self.watches
        while self.position < len(self.trail):
            false = -self.trail[self.position]
            self.position += 1
            kept: list[int] = []
            watching = watches[false]
            for at, number in enumerate(watching):
                clause = clauses[number]
                other = clause[1] if clause[0] == false else clause[0]
                if other in true:
                    kept.append(number)
                    continue
                for n in range(2, len(clause)):
                    if -clause[n] not in true:
                        clause[0], clause[1], clause[n] = other, clause[n], false
                        watches[clause[1]].append(number)
                        break
                else:
                    kept.append(number)
                    if -other in true:
                        watches[false] = kept + watching[at + 1 :]
                        return number
                    self._assign(other, number)
            watches[false] = kept
        return 0
