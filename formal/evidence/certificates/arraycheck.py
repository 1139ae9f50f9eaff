"""Checks that formulas without arrays follow from formulas with arrays: one case each, by shape, and no search.

``formal.evidence.certificates.arrays`` says what the new variables stand for. Here that is put back in, and each
result is compared
with what it may be: a given formula, or an instance of an axiom of the theory of arrays, in which reads are pushed
through ``store``, ``ite`` and constant arrays. Terms are shared, so comparing is identity. A witness ``w.k`` stands for
the value of a function that picks an index where two arrays differ; it must belong to one equality and occur in no
given formula, and no new variable may be defined by itself.
"""

from __future__ import annotations

from itertools import permutations

from formal.evidence.certificates.arrays import Flat
from formal.logic import terms as t
from formal.logic.evaluation import nodes, rebuild, substitute, support
from formal.logic.terms import Eq, If, Implies, Not, Or, Term


class EliminationError(Exception):
    """A formula that does not follow, or a variable that stands for nothing it may stand for."""


def check(given: tuple[Term, ...], flat: Flat) -> None:
    """Checks that every formula of ``flat`` holds in an extension of every model of ``given``.

    Raises:
        EliminationError: naming the first that is not seen to.
    """
    variables = [n for n in nodes(given) if n.op == "var"]
    old = {str(n.data) for n in variables}
    arrays = {n for n in variables if isinstance(n.sort, tuple)}
    pushed: dict[Term, Term] = {}
    back: dict[str, Term] = {}
    witnesses: list[tuple[Term, Term]] = []
    for name, meaning in flat.meaning.items():
        if name in old:
            raise EliminationError(f"{name} is a variable of the given formulas")
        equality = meaning.op == "=" and isinstance(meaning.args[0].sort, tuple)
        if equality and not support(meaning) <= old:
            raise EliminationError(f"{name} is defined by other new variables: {meaning!r}"[:300])
        if name.startswith("w.") and equality:
            witnesses.append((t.var(name, meaning.args[0].sort[0]), push(meaning, pushed)))  # type: ignore[index]
        elif equality or (meaning.op == "select" and meaning.args[0] in arrays):
            back[name] = push(substitute(meaning, back), pushed)
            if not support(back[name]) <= old | {str(w.data) for w, _ in witnesses}:
                raise EliminationError(f"{name} is defined by itself, or by a later variable: {meaning!r}"[:300])
        else:
            raise EliminationError(f"{name} stands for {meaning!r}, which is no equality of arrays and no value of one")
    done: dict[Term, Term] = {}
    if len(flat.formulas) != len(given):
        raise EliminationError(f"{len(given)} formulas became {len(flat.formulas)}")
    for before, after in zip(given, flat.formulas, strict=True):
        if push(substitute(after, back, done), pushed) is not push(before, pushed):
            raise EliminationError(f"a formula became another one: {after!r}"[:300])
    if not flat.axioms:
        return
    indices = [push(substitute(i, back, done), pushed) for i in flat.indices]
    equalities = [m for m in back.values() if m.op == "="]
    instances = _instances(indices, equalities, witnesses, arrays)
    for axiom in flat.axioms:
        if push(substitute(axiom, back, done), pushed) not in instances:
            raise EliminationError(f"not an instance of an axiom: {axiom!r}"[:300])


def _instances(
    indices: list[Term], equalities: list[Term], witnesses: list[tuple[Term, Term]], arrays: set[Term]
) -> set[Term]:
    """Everything that the theory of arrays says about these terms."""
    instances: set[Term] = set()
    for equality in equalities:
        a, b = equality.args
        instances |= {Implies(equality, Eq(_read(a, i), _read(b, i))) for i in indices if _fits(a, i)}
    for witness, equality in witnesses:
        a, b = equality.args
        instances.add(Or(equality, Not(Eq(_read(a, witness), _read(b, witness)))))
    for array in arrays:
        for i, j in permutations([i for i in indices if _fits(array, i)], 2):
            instances.add(Implies(Eq(i, j), Eq(t.select(array, i), t.select(array, j))))
    return instances


def _fits(array: Term, index: Term) -> bool:
    return isinstance(array.sort, tuple) and array.sort[0] == index.sort


def _read(array: Term, index: Term) -> Term:
    """A value of an array, by the axioms of ``store``, ``ite`` and constant arrays."""
    match array.op:
        case "store":
            return If(Eq(index, array.args[1]), array.args[2], _read(array.args[0], index))
        case "ite":
            return If(array.args[0], _read(array.args[1], index), _read(array.args[2], index))
        case "const-array":
            return array.args[0]
    return t.select(array, index)


def push(term: Term, done: dict[Term, Term]) -> Term:
    """The term with all reads pushed down to array variables; ``done`` carries results between calls."""
    stack = [term]
    while stack:
        node = stack[-1]
        if node in done:
            stack.pop()
        elif pending := [a for a in node.args if a not in done]:
            stack += pending
        else:
            args = tuple(done[a] for a in node.args)
            if node.op == "select":
                done[node] = _read(*args)
            else:
                done[node] = node if args == node.args else rebuild(node, args)
            stack.pop()
    return done[term]
