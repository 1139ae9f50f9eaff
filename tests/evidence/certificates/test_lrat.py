"""The proof checker accepts proofs and nothing else."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formal.evidence.certificates.blast import Cnf
from formal.evidence.certificates.certify import NotUnsatisfiableError, hinted, refute, trimmed
from formal.evidence.certificates.lrat import ProofError, Step, check, parse

CLAUSES = [(1, 2), (-1, 2), (1, -2), (-1, -2)]
PROOF = "5 2 0 1 2 0\n6 0 5 3 4 0\n"


def accepts(clauses: list[tuple[int, ...]], proof: str) -> None:
    """Checks a proof against some clauses."""
    check(len(clauses), lambda n: clauses[n - 1], proof)


def test_a_proof() -> None:
    checked = check(4, lambda n: CLAUSES[n - 1], PROOF)
    assert checked.used == dict(enumerate(CLAUSES, 1))
    assert "".join(f"{s}\n" for s in checked.steps) == PROOF


def test_the_empty_clause_may_be_given() -> None:
    accepts([()], "2 0 1 0\n")


@pytest.mark.parametrize(
    ("proof", "why"),
    [
        ("", "does not end with the empty clause"),
        ("5 2 0 1 2 0\n", "does not end with the empty clause"),
        ("6 0 5 3 4 0\n", "there is no clause 5 yet"),
        ("5 2 0 1 2 0\n6 0 7 3 4 0\n", "there is no clause 7 yet"),
        ("5 2 0 1 0\n6 0 5 3 4 0\n", "the hints lead to no contradiction"),
        ("5 0 1 2 0\n", "clause 1 is not unit"),
        ("5 2 0 1 2 3 0\n6 0 5 3 4 0\n", "a contradiction before the last hint"),
        ("4 2 0 1 2 0\n6 0 5 3 4 0\n", "the number is not above 4"),
        ("5 2 0 1 2 0\n5 0 5 3 4 0\n", "the number is not above 5"),
        ("5 2 0 1 2 0\n6 0 -5 3 4 0\n", "there is no clause -5 yet"),
        ("5 d 1 0\n", "not a list of numbers"),
        ("5 2 0 1 2\n", "not `number literals 0 hints 0`"),
        ("5 2 0 1 2 0 0\n", "not `number literals 0 hints 0`"),
        ("\n", "not a list of numbers"),
        ("-5 2 0 1 2 0\n", "not `number literals 0 hints 0`"),
        ("5 2 0 0\n", "the hints lead to no contradiction"),
    ],
)
def test_what_is_no_proof_is_refused(proof: str, why: str) -> None:
    with pytest.raises(ProofError, match=why):
        accepts(CLAUSES, proof)


literals = st.integers(1, 4).flatmap(lambda v: st.sampled_from((v, -v)))
cnfs = st.lists(st.lists(literals, min_size=1, max_size=3).map(tuple), min_size=1, max_size=14)


def has_model(clauses: list[tuple[int, ...]]) -> bool:
    """Whether clauses over variables 1 to 4 can all be true."""
    return any(
        all(any((x > 0) == values[abs(x) - 1] for x in c) for c in clauses)
        for values in product((False, True), repeat=4)
    )


@settings(max_examples=400)
@given(cnfs, st.data())
def test_no_proof_of_a_formula_that_has_a_model(clauses: list[tuple[int, ...]], data: Any) -> None:
    """Whatever steps are accepted on the way, the empty clause is not among them."""
    steps = []
    for number in range(len(clauses) + 1, len(clauses) + 1 + data.draw(st.integers(1, 5))):
        clause = tuple(data.draw(st.lists(literals, max_size=2)))
        hints = tuple(data.draw(st.lists(st.integers(1, number - 1), min_size=1, max_size=4)))
        steps.append(Step(number, clause, hints))
    proof = "".join(f"{s}\n" for s in [*steps, Step(steps[-1].number + 1, (), tuple(s.number for s in steps))])
    if has_model(clauses):
        with pytest.raises(ProofError):
            accepts(clauses, proof)


@settings(max_examples=400)
@given(cnfs)
def test_what_has_no_model_is_refuted(clauses: list[tuple[int, ...]]) -> None:
    pytest.importorskip("pysat")
    cnf = Cnf(4, clauses)
    if has_model(clauses):
        with pytest.raises(NotUnsatisfiableError, match="satisfiable"):
            refute(cnf)
    else:
        accepts(clauses, refute(cnf))


def test_a_solver_that_learns_nonsense_is_found_out() -> None:
    with pytest.raises(NotUnsatisfiableError, match="does not follow"):
        hinted({1: (1, 2), 2: (1, 3)}, 2, [(2,)])
    with pytest.raises(NotUnsatisfiableError, match="does not follow"):
        hinted({1: (1, 2)}, 1, [])


def test_steps_that_nothing_needs_are_left_out() -> None:
    steps = hinted(dict(enumerate([*CLAUSES, (3, 1)], 1)), 5, [(3, 2), (2,)])
    kept = trimmed(steps, 5)
    assert [s.number for s in kept] == list(range(6, 6 + len(kept)))
    assert all(s.clause != (3, 2) for s in kept)
    accepts([*CLAUSES, (3, 1)], "".join(f"{s}\n" for s in kept))


def test_parsing_keeps_everything() -> None:
    assert parse(PROOF) == (Step(5, (2,), (1, 2)), Step(6, (), (5, 3, 4)))
