"""Arrays eliminated: sound against z3, strong enough where it is meant to be, and every wrong result is refused."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import assume, given, settings

from formal.evidence.certificates.arraycheck import EliminationError, check
from formal.evidence.certificates.arrays import Flat, eliminate
from formal.evidence.certificates.smtlib import Script
from formal.evidence.exchange.cross import SOLVERS
from formal.logic import terms as t
from formal.logic.evaluation import nodes
from formal.logic.terms import BOOL, And, Eq, Implies, Not, Or, Term
from tests.evidence.formulas import BANK, formulas

pytest.importorskip("z3")

M, N, K = (t.var(name, BANK) for name in ("m", "n", "k"))
AT, J = t.var("i", 6), t.var("j", 6)
X, Y = t.var("x", 8), t.var("y", 8)
C = t.var("c", BOOL)


def z3_says(asserted: tuple[Term, ...]) -> str:
    """What z3 says about some formulas."""
    return SOLVERS["z3"](Script(asserted).file(()), 60)


@settings(max_examples=250)
@given(formulas(arrays=True))
def test_the_result_is_unsatisfiable_where_the_formulas_are(asserted: tuple[Term, ...]) -> None:
    """Soundness is one direction. That nothing is lost is the other: constant arrays are outside of its theorem.

    (That ``const(x) = store(const(0), i, 1)`` is false shows at an index other than ``i`` only, and there is no term
    for one.)
    """
    flat = eliminate(asserted)
    assume(flat.meaning)
    assert not any(isinstance(n.sort, tuple) for n in nodes(flat.formulas + flat.axioms))
    check(asserted, flat)
    says = z3_says(flat.formulas + flat.axioms), z3_says(asserted)
    constants = any(n.op == "const-array" for n in nodes(asserted))
    assert says in {("sat", "sat"), ("unsat", "unsat"), *([("sat", "unsat")] if constants else [])}


HOLD = {
    "read over write": Eq(t.select(t.store(M, AT, X), J), t.If(Eq(AT, J), X, t.select(M, J))),
    "writes commute": Or(
        Eq(AT, J), Eq(t.store(t.store(M, AT, X), J, Y), t.store(t.store(M, J, Y), AT, X))
    ),
    "equal arrays have equal values": Implies(Eq(M, N), Eq(t.select(M, AT), t.select(N, AT))),
    "equality is transitive": Implies(And(Eq(M, N), Eq(N, K)), Eq(M, K)),
    "a write that changes nothing": Eq(t.store(M, AT, t.select(M, AT)), M),
    "constant arrays": Implies(Eq(M, t.const_array(X, 6)), Eq(t.select(M, AT), t.select(M, J))),
    "branches": Implies(And(Eq(M, N), Eq(N, K)), Eq(t.If(C, M, N), K)),
    "equal after the same write elsewhere": Implies(
        And(Eq(t.store(M, AT, X), t.store(N, AT, X)), Eq(t.select(M, AT), t.select(N, AT))), Eq(M, N)
    ),
    "equal indices, equal values": Implies(Eq(AT, J), Eq(t.select(M, AT), t.select(M, J))),
}  # fmt: skip


@pytest.mark.parametrize("name", HOLD)
def test_what_holds_for_arrays_still_follows(name: str) -> None:
    flat = eliminate((Not(HOLD[name]),))
    check((Not(HOLD[name]),), flat)
    assert z3_says(flat.formulas + flat.axioms) == "unsat"


def test_formulas_without_arrays_stay() -> None:
    asserted = (Eq(AT, J), C)
    assert eliminate(asserted) == Flat(asserted, ())
    check(asserted, Flat(asserted, ()))


def test_a_name_that_is_taken_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the name d\.0 is needed"):
        eliminate((Eq(M, N), t.var("d.0", BOOL)))


GIVEN = (Eq(M, t.store(N, AT, X)), Not(Eq(N, K)), Eq(t.select(M, J), Y))
FLAT = eliminate(GIVEN)
W, LATER = t.var("w.1", 6), t.var("m@9", 8)


@pytest.mark.parametrize(
    ("flat", "why"),
    [
        (dataclasses.replace(FLAT, formulas=FLAT.formulas[:-1]), "3 formulas became 2"),
        (dataclasses.replace(FLAT, formulas=(*FLAT.formulas[:-1], t.FALSE)), "a formula became another one"),
        (dataclasses.replace(FLAT, formulas=FLAT.formulas[::-1]), "a formula became another one"),
        (dataclasses.replace(FLAT, axioms=(*FLAT.axioms, t.FALSE)), "not an instance"),
        (dataclasses.replace(FLAT, axioms=(*FLAT.axioms, t.var("d.0", BOOL))), "not an instance"),
        (dataclasses.replace(FLAT, axioms=(*FLAT.axioms, Not(FLAT.axioms[0]))), "not an instance"),
        (dataclasses.replace(FLAT, axioms=(*FLAT.axioms, Eq(t.var("m@0", 8), t.var("m@1", 8)))), "not an instance"),
        (dataclasses.replace(FLAT, meaning={**FLAT.meaning, "i": FLAT.meaning["d.0"]}), "a variable of the given"),
        (dataclasses.replace(FLAT, meaning={**FLAT.meaning, "d.0": C}), "no equality of arrays"),
        (dataclasses.replace(FLAT, meaning={**FLAT.meaning, "d.0": FLAT.meaning["d.1"]}), "a formula became"),
        (dataclasses.replace(FLAT, meaning={"d.9": Eq(M, t.store(N, W, X)), **FLAT.meaning}), "by other new variables"),
        (dataclasses.replace(FLAT, meaning={"m@9": t.select(M, t.extract(LATER, 5, 0))}), "by itself, or by a later"),
    ],
)
def test_what_does_not_follow_is_refused(flat: Flat, why: str) -> None:
    check(GIVEN, FLAT)
    with pytest.raises(EliminationError, match=why):
        check(GIVEN, flat)


def test_a_witness_belongs_to_one_equality() -> None:
    """With one witness for two equalities, arrays would have to differ in the same place."""
    given_ = (Not(Eq(M, N)), Not(Eq(M, K)))
    flat = eliminate(given_)
    swapped = tuple(
        Or(t.var("d.0", BOOL), Not(Eq(t.var("m@1", 8), t.var("n@1", 8)))) if a is flat.axioms[0] else a
        for a in flat.axioms
    )
    with pytest.raises(EliminationError, match="not an instance"):
        check(given_, dataclasses.replace(flat, axioms=swapped))


def test_constant_arrays_differ_though_nothing_is_read() -> None:
    """Without a single index term an equality of constant arrays must not hold for nothing."""
    x, y = t.var("x8.0", 8), t.var("x8.1", 8)
    asserted = (Eq(t.const_array(x, 4), t.const_array(t.const(0, 8), 4)), t.ult(y, x))
    flat = eliminate(asserted)
    check(asserted, flat)
    assert z3_says(flat.formulas + flat.axioms) == "unsat"
