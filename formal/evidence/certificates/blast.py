"""Bit-blasting: bit-vector formulas as CNF, gate by gate, with nothing simplified on the way.

The numbering is part of the format, because proof steps name clauses by number and because
``formal/evidence/certificates/encoder.py`` derives the same clauses from the SMT-LIB text, by a program of its own:

* variable 1 is true, and clause 1 says so; a constant bit is 1 or -1;
* then every variable of the formulas, in the order in which the SMT-LIB text declares them: one CNF variable a bit, bit
  0 first; a Boolean is one bit;
* then every other node, in the order of the text, gate by gate as below, bit 0 first; a gate is one variable ``o`` and
  these clauses, in this order:

      and a1..an    (-o a1) .. (-o an) (o -a1 .. -an)
      or a1..an     (o -a1) .. (o -an) (-o a1 .. an)
      xor a b       (-o a b) (-o -a -b) (o a -b) (o -a b)
      same a b      (-o a -b) (-o -a b) (o a b) (o -a -b)
      mux c a b     (-c -a o) (-c a -o) (c -b o) (c b -o)

* then a unit clause for every formula.

Nodes: ``not``, ``bvnot``, ``concat``, ``extract`` and ``sign_extend`` have no gates. ``and`` and ``or`` are one gate;
``bvand``, ``bvor``, ``bvxor`` and ``ite`` one gate a bit. ``=`` of Booleans is one ``same``; of vectors, a ``same`` for
each bit and then an ``and`` of them. ``a + b`` with carry ``c`` (at first false) is, for each bit, x = xor a b; sum =
xor x c; p = and a b; q = and x c; next c = or p q. ``a - b`` is ``a + ~b`` with carry true. ``a < b`` is, for each bit,
x = xor a b; l = mux x b l, where l is false at first; ``a <= b`` is not ``b < a``; if signed, the top ``mux``
takes ``a`` for ``b``. Multiplication, division and shifts by a variable are not needed, and refused.

Tseitin, "On the Complexity of Derivation in Propositional Calculus" (1968), for the gates.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from formal.logic import terms as t
from formal.logic.evaluation import nodes
from formal.logic.terms import BOOL, Term

Bits = list[int]
Clause = tuple[int, ...]
TRUE_LITERAL = 1


@dataclass
class Cnf:
    """Clauses over variables 1 to ``variables``; clause number n is ``clauses[n - 1]``."""

    variables: int = 1
    clauses: list[Clause] = field(default_factory=lambda: [(TRUE_LITERAL,)])
    blocks: list[tuple[int, int]] = field(default_factory=list)  # per node with gates: its first variable and clause
    asserted: list[int] = field(default_factory=list)  # the literals that the last clauses assert

    def new(self) -> int:
        """A new variable."""
        self.variables += 1
        return self.variables

    def conjunction(self, a: Bits) -> int:
        """and"""
        o = self.new()
        self.clauses += [(-o, x) for x in a]
        self.clauses.append((o, *(-x for x in a)))
        return o

    def disjunction(self, a: Bits) -> int:
        """or"""
        o = self.new()
        self.clauses += [(o, -x) for x in a]
        self.clauses.append((-o, *a))
        return o

    def xor(self, a: int, b: int) -> int:
        """Exclusive or."""
        o = self.new()
        self.clauses += [(-o, a, b), (-o, -a, -b), (o, a, -b), (o, -a, b)]
        return o

    def same(self, a: int, b: int) -> int:
        """Equality of two bits."""
        o = self.new()
        self.clauses += [(-o, a, -b), (-o, -a, b), (o, a, b), (o, -a, -b)]
        return o

    def mux(self, c: int, a: int, b: int) -> int:
        """``a`` where ``c``, else ``b``."""
        o = self.new()
        self.clauses += [(-c, -a, o), (-c, a, -o), (c, -b, o), (c, b, -o)]
        return o

    def add(self, a: Bits, b: Bits, carry: int) -> Bits:
        """The sum, modulo the width."""
        total: Bits = []
        for x, y in zip(a, b, strict=True):
            half = self.xor(x, y)
            total.append(self.xor(half, carry))
            carry = self.disjunction([self.conjunction([x, y]), self.conjunction([half, carry])])
        return total

    def less(self, a: Bits, b: Bits, signed: bool) -> int:
        """Whether ``a`` is less than ``b``."""
        less = -TRUE_LITERAL
        for n, (x, y) in enumerate(zip(a, b, strict=True)):
            smaller = x if signed and n == len(a) - 1 else y
            less = self.mux(self.xor(x, y), smaller, less)
        return less

    def dimacs(self) -> str:
        """The clauses in DIMACS format."""
        lines = [f"p cnf {self.variables} {len(self.clauses)}"]
        lines += [" ".join(map(str, (*c, 0))) for c in self.clauses]
        return "\n".join(lines) + "\n"


def blast(formulas: tuple[Term, ...]) -> Cnf:
    """The formulas as CNF, satisfiable if and only if they are.

    Raises:
        ValueError: for an operation or a sort that is not encoded.
    """
    cnf, bits, order = Cnf(), dict[Term, Bits](), list(nodes(formulas))
    for node in order:
        if node.op == "var":
            if isinstance(node.sort, tuple):
                raise ValueError(f"the variable {node!r} is an array; arrays are eliminated first")
            bits[node] = [cnf.new() for _ in range(_size(node))]
    for node in order:
        if node.op != "var":
            first = (cnf.variables + 1, len(cnf.clauses) + 1)
            bits[node] = _node(cnf, node, [bits[a] for a in node.args])
            if cnf.variables >= first[0]:
                cnf.blocks.append(first)
    cnf.asserted = [bits[f][0] for f in formulas]
    cnf.clauses += [(x,) for x in cnf.asserted]
    return cnf


def _size(node: Term) -> int:
    return 1 if node.sort == BOOL else t.width(node)


def _node(cnf: Cnf, node: Term, a: list[Bits]) -> Bits:
    match node.op:
        case "const":
            value = t.value_of(node)
            return [TRUE_LITERAL if value >> i & 1 else -TRUE_LITERAL for i in range(_size(node))]
        case "not" | "bvnot":
            return [-x for x in a[0]]
        case "and":
            return [cnf.conjunction([x for (x,) in a])]
        case "or":
            return [cnf.disjunction([x for (x,) in a])]
        case "bvand":
            return [cnf.conjunction([x, y]) for x, y in zip(*a, strict=True)]
        case "bvor":
            return [cnf.disjunction([x, y]) for x, y in zip(*a, strict=True)]
        case "bvxor":
            return [cnf.xor(x, y) for x, y in zip(*a, strict=True)]
        case "ite":
            return [cnf.mux(a[0][0], x, y) for x, y in zip(a[1], a[2], strict=True)]
        case "=":
            equal = [cnf.same(x, y) for x, y in zip(*a, strict=True)]
            return equal if node.args[0].sort == BOOL else [cnf.conjunction(equal)]
        case "concat":
            return a[1] + a[0]
        case "extract":
            hi, lo = t.bounds(node)
            return a[0][lo : hi + 1]
        case "sign_extend":
            return a[0] + [a[0][-1]] * (t.width(node) - len(a[0]))
        case "bvadd":
            return cnf.add(a[0], a[1], -TRUE_LITERAL)
        case "bvsub":
            return cnf.add(a[0], [-x for x in a[1]], TRUE_LITERAL)
        case "bvult" | "bvslt":
            return [cnf.less(a[0], a[1], node.op == "bvslt")]
        case "bvule" | "bvsle":
            return [-cnf.less(a[1], a[0], node.op == "bvsle")]
    raise ValueError(f"{node.op} is not encoded as CNF")
