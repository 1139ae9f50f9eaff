"""A checker of propositional proofs in LRAT format, for proofs that need no more than unit propagation.

A line is ``number literals 0 hints 0``: the clause of these literals follows from the clauses that the hints number.
Its literals are assumed false; then every hinted clause in turn has all its literals false but one, which becomes true;
in the last one, none is left: a contradiction. The last line's clause is empty: the formula has no model. Clauses of
the formula have the numbers 1, 2, ... and lines higher numbers, ascending. Deletion, and steps that only preserve
satisfiability (RAT, negative hints), are not used and refused.

Cruz-Filipe, Heule, Hunt, Kaufmann, Schneider-Kamp, "Efficient Certified RAT Verification" (CADE 2017), for the format.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

Clause = tuple[int, ...]


class ProofError(Exception):
    """A proof that proves nothing; the message says which line and why."""


@dataclass(frozen=True)
class Step:
    """One line of a proof."""

    number: int
    clause: Clause
    hints: tuple[int, ...]

    def __str__(self) -> str:
        return " ".join(map(str, (self.number, *self.clause, 0, *self.hints, 0)))


@dataclass(frozen=True)
class Checked:
    """What a proof that is right consists of."""

    used: dict[int, Clause]  # the clauses of the formula
    steps: tuple[Step, ...]


def parse(text: str) -> tuple[Step, ...]:
    """The steps of a proof.

    Raises:
        ProofError: if a line is not of the format.
    """
    steps = []
    for at, line in enumerate(text.splitlines(), 1):
        try:
            numbers = [int(word) for word in line.split(" ")]
        except ValueError as error:
            raise ProofError(f"proof line {at}: not a list of numbers") from error
        if numbers.count(0) != 2 or numbers[-1] != 0 or numbers[0] < 1:
            raise ProofError(f"proof line {at}: not `number literals 0 hints 0`")
        end = numbers.index(0)
        steps.append(Step(numbers[0], tuple(numbers[1:end]), tuple(numbers[end + 1 : -1])))
    return tuple(steps)


def check(count: int, clause: Callable[[int], Collection[int]], text: str) -> Checked:
    """Checks that the formula of clauses ``clause(1)`` to ``clause(count)`` is unsatisfiable, step by step.

    Raises:
        ProofError: at the first step that does not follow, or if the empty clause is not reached.
    """
    steps = parse(text)
    known: dict[int, Clause] = {}
    used: dict[int, Clause] = {}
    last = count
    for step in steps:
        if step.number <= last:
            raise ProofError(f"proof step {step.number}: the number is not above {last}")
        for hint in step.hints:
            if hint in known or hint in used:
                continue
            if not 1 <= hint <= count:
                raise ProofError(f"proof step {step.number}: there is no clause {hint} yet")
            used[hint] = tuple(clause(hint))
        _propagate(step, known, used)
        known[step.number] = step.clause
        last = step.number
    if not steps or steps[-1].clause:
        raise ProofError("the proof does not end with the empty clause")
    return Checked(used, steps)


def _propagate(step: Step, known: dict[int, Clause], used: dict[int, Clause]) -> None:
    false = set(step.clause)  # the literals that are false
    for at, hint in enumerate(step.hints):
        rest = {x for x in (known[hint] if hint in known else used[hint]) if x not in false}
        if not rest:
            if at == len(step.hints) - 1:
                return
            raise ProofError(f"proof step {step.number}: a contradiction before the last hint")
        if len(rest) > 1:
            raise ProofError(f"proof step {step.number}: clause {hint} is not unit")
        false.add(-rest.pop())
    raise ProofError(f"proof step {step.number}: the hints lead to no contradiction")
