"""Arrays eliminated: formulas with arrays become bit-vector formulas that follow from them.

Every model of the formulas extends to a model of the result, so if the result has no model, neither have the formulas:
that is all that a proof of unsatisfiability needs. The result contains new variables, and ``meaning`` says what value
each has in the extended model:

* ``d.k`` is the truth value of the k-th array equality ``a = b``;
* ``w.k`` is an index at which ``a`` and ``b`` differ if they do (extensionality: there is one), else any index;
* ``bank@n`` is the value of the array variable ``bank`` at the n-th index term, ``(select bank i)``.

The asserted formulas are then, each true in the extended model:

* the given formulas, with ``d.k`` for equalities and reads pushed down to array variables
  (read over write: ``store(a, j, v)[i]`` is ``v`` if ``i = j``, else ``a[i]``);
* for an equality: ``d.k`` implies ``a[i] = b[i]``, for index terms ``i``;
* for an equality: not ``d.k`` implies ``a[w.k] != b[w.k]``;
* for two index terms: ``i = j`` implies ``bank[i] = bank[j]`` (not for two witnesses, which may as well differ).

Which index terms are used (all that are read or written, and all witnesses) and that an equality that occurs under one
polarity only gets one kind of axiom decides how often the result is unsatisfiable, not whether it is sound. That this
suffices for formulas without quantifiers and constant arrays is Stump, Barrett, Dill and Levitt, "A Decision Procedure
for an Extensional Theory of Arrays" (LICS 2001). ``formal/evidence/certificates/arraycheck.py`` checks every formula
of a result by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from formal.logic import terms as t
from formal.logic.evaluation import nodes, rebuild
from formal.logic.terms import Eq, If, Implies, Not, Sort, Term


@dataclass(frozen=True)
class Flat:
    """Formulas without arrays: the given ones first, in their order, then the axioms."""

    formulas: tuple[Term, ...]
    axioms: tuple[Term, ...]
    meaning: Mapping[str, Term] = field(default_factory=dict)  # an equality, or a select from an array variable
    indices: tuple[Term, ...] = ()  # the index terms by number


def is_array(term: Term) -> bool:
    """Whether the term is an array."""
    return isinstance(term.sort, tuple)


def eliminate(formulas: tuple[Term, ...]) -> Flat:
    """The formulas without arrays.

    Raises:
        ValueError: if a new variable has the name of an old one.
    """
    if not any(is_array(n) for n in nodes(formulas)):
        return Flat(formulas, ())
    flat = _Elimination(formulas).result()
    for node in nodes(formulas):
        if node.op == "var" and node.data in flat.meaning:
            raise ValueError(f"the name {node.data} is needed for a variable that arrays are eliminated with")
    return flat


def polarities(formulas: tuple[Term, ...]) -> dict[Term, set[bool]]:
    """How the Boolean terms occur below the formulas: positively (true), negatively, or both."""
    found: dict[Term, set[bool]] = {}
    stack = [(f, True) for f in formulas]
    while stack:
        node, positive = stack.pop()
        if positive in found.setdefault(node, set()):
            continue
        found[node].add(positive)
        if node.op in ("and", "or"):
            stack += [(a, positive) for a in node.args]
        elif node.op == "not":
            stack.append((node.args[0], not positive))
        elif node.op == "ite" and node.sort == t.BOOL:
            stack += [(node.args[0], True), (node.args[0], False), *((a, positive) for a in node.args[1:])]
        else:
            stack += [(a, sign) for a in node.args for sign in (True, False)]
    return found


class _Elimination:
    def __init__(self, formulas: tuple[Term, ...]) -> None:
        self.given = formulas
        self.meaning: dict[str, Term] = {}
        self.done: dict[Term, Term] = {}
        self.reads: dict[tuple[Term, Term], Term] = {}
        self.numbers: dict[Term, int] = {}  # flat index terms, in order of first use
        self.indices: dict[Sort, dict[Term, None]] = {}  # those of arrays of one sort
        self.witnesses: set[Term] = set()
        self.known: dict[Term, list[Term]] = {}  # the indices at which an array variable has been read
        self.order = list(nodes(formulas))
        self.atoms = [n for n in self.order if n.op == "=" and is_array(n.args[0])]

    def result(self) -> Flat:
        formulas = tuple(self.flat(f) for f in self.given)
        for node in self.order:
            if node.op in ("select", "store"):
                self.number(node.args[0].sort, self.flat(node.args[1]))
        return Flat(formulas, tuple(dict.fromkeys(self.axioms())), self.meaning, tuple(self.numbers))

    def number(self, sort: Sort, index: Term) -> int:
        """The number of an index term."""
        self.indices.setdefault(sort, {})[index] = None
        return self.numbers.setdefault(index, len(self.numbers))

    def axioms(self) -> Iterator[Term]:
        occurs = polarities(self.given)
        for number, atom in enumerate(self.atoms):
            if False in occurs[atom]:
                a, b = atom.args
                witness = t.var(f"w.{number}", a.sort[0])  # type: ignore[index]
                self.meaning[str(witness.data)] = atom
                self.witnesses.add(witness)
                self.number(a.sort, witness)
                yield t.Or(self.flat(atom), Not(Eq(self.read(a, witness), self.read(b, witness))))
        for atom in self.atoms:
            if True in occurs[atom]:
                a, b = atom.args
                if a.sort not in self.indices:  # nothing is read: one index tells constant arrays apart
                    self.number(a.sort, t.const(0, a.sort[0]))  # type: ignore[index]
                for index in list(self.indices[a.sort]):
                    yield Implies(self.flat(atom), Eq(self.read(a, index), self.read(b, index)))
        for array, indices in self.known.items():
            for n, j in enumerate(indices):
                for i in indices[:n]:
                    if i in self.witnesses and j in self.witnesses:
                        continue
                    yield Implies(Eq(i, j), Eq(self.read(array, i), self.read(array, j)))

    def flat(self, term: Term) -> Term:
        """A term that is no array, without arrays."""
        stack = [term]
        while stack:
            node = stack[-1]
            if node in self.done:
                stack.pop()
                continue
            inner = [a for a in node.args if not is_array(a)]
            pending = [a for a in inner if a not in self.done]
            if pending:
                stack.extend(pending)
                continue
            self.done[node] = self._flat_node(node)
            stack.pop()
        return self.done[term]

    def _flat_node(self, node: Term) -> Term:
        if node.op == "select":
            return self.read(node.args[0], self.done[node.args[1]])
        if node.op == "=" and is_array(node.args[0]):
            name = f"d.{self.atoms.index(node)}"
            self.meaning[name] = node
            return t.var(name, t.BOOL)
        args = tuple(self.done[a] for a in node.args)
        return node if args == node.args else rebuild(node, args)

    def read(self, array: Term, index: Term) -> Term:
        """The value of an array at a flat index term, down to array variables."""
        if (array, index) not in self.reads:
            self.reads[array, index] = self._read(array, index)
        return self.reads[array, index]

    def _read(self, array: Term, index: Term) -> Term:
        if array.op == "store":
            before, at, value = array.args
            return If(Eq(index, self.flat(at)), self.flat(value), self.read(before, index))
        if array.op == "ite":
            condition, a, b = array.args
            return If(self.flat(condition), self.read(a, index), self.read(b, index))
        if array.op == "const-array":
            return self.flat(array.args[0])
        assert array.op == "var"
        name = f"{array.data}@{self.number(array.sort, index)}"
        self.meaning[name] = t.select(array, index)
        self.known.setdefault(array, []).append(index)
        return t.var(name, t.width(self.meaning[name]))
