"""A transition system as AIGER: and-gates and latches, binary (Biere, "The AIGER And-Inverter Graph Format", 2007).

Latches are 0 at first. Each property is an output, or all of them are one, which is 1 where it is bad. The symbol table
names inputs, latches and outputs: bit 3 of ``v0.exit`` is ``v0.exit[3]``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from formal.evidence.exchange.flat import Flat, ordered
from formal.logic import terms as t
from formal.logic.terms import BOOL, Term

Literal = int  # 2 * variable, plus 1 if negated; 0 is false, 1 is true
Bits = list[Literal]


class Graph:
    """And-inverter graph; equal gates are shared, constants are folded."""

    def __init__(self) -> None:
        self.variables = 0
        self.gates: dict[tuple[Literal, Literal], Literal] = {}

    def new(self) -> Literal:
        """A new variable."""
        self.variables += 1
        return 2 * self.variables

    def both(self, a: Literal, b: Literal) -> Literal:
        """and"""
        a, b = max(a, b), min(a, b)
        if b == 0 or a == b ^ 1:
            return 0
        if b == 1 or a == b:
            return a
        if (a, b) not in self.gates:
            self.gates[a, b] = self.new()
        return self.gates[a, b]

    def either(self, a: Literal, b: Literal) -> Literal:
        """or"""
        return self.both(a ^ 1, b ^ 1) ^ 1

    def every(self, literals: Iterable[Literal]) -> Literal:
        """and of many"""
        found = 1
        for x in literals:
            found = self.both(found, x)
        return found

    def mux(self, c: Literal, a: Literal, b: Literal) -> Literal:
        """``a`` where ``c``, else ``b``."""
        if a == b:
            return a
        return self.either(self.both(c, a), self.both(c ^ 1, b))

    def xor(self, a: Literal, b: Literal) -> Literal:
        """Exclusive or."""
        return self.mux(a, b ^ 1, b)

    def add(self, a: Bits, b: Bits, carry: Literal) -> Bits:
        """The sum, modulo the width."""
        total: Bits = []
        for x, y in zip(a, b, strict=True):
            half = self.xor(x, y)
            total.append(self.xor(half, carry))
            carry = self.either(self.both(x, y), self.both(half, carry))
        return total

    def less(self, a: Bits, b: Bits, signed: bool) -> Literal:
        """Whether ``a`` is less than ``b``."""
        less = 0
        for n, (x, y) in enumerate(zip(a, b, strict=True)):
            less = self.mux(self.xor(x, y), x if signed and n == len(a) - 1 else y, less)
        return less

    def node(self, term: Term, a: Sequence[Bits]) -> Bits:
        """The bits of a term whose arguments have these bits, bit 0 first.

        Raises:
            ValueError: for an operation that is not known.
        """
        match term.op:
            case "const":
                return [t.value_of(term) >> i & 1 for i in range(_size(term))]
            case "not" | "bvnot":
                return [x ^ 1 for x in a[0]]
            case "and":
                return [self.every(x for (x,) in a)]
            case "or":
                return [self.every(x ^ 1 for (x,) in a) ^ 1]
            case "bvand":
                return [self.both(x, y) for x, y in zip(*a, strict=True)]
            case "bvor":
                return [self.either(x, y) for x, y in zip(*a, strict=True)]
            case "bvxor":
                return [self.xor(x, y) for x, y in zip(*a, strict=True)]
            case "ite":
                return [self.mux(a[0][0], x, y) for x, y in zip(a[1], a[2], strict=True)]
            case "=":
                return [self.every(self.xor(x, y) ^ 1 for x, y in zip(*a, strict=True))]
            case "concat":
                return a[1] + a[0]
            case "extract":
                hi, lo = t.bounds(term)
                return a[0][lo : hi + 1]
            case "sign_extend":
                return a[0] + [a[0][-1]] * (_size(term) - len(a[0]))
            case "bvadd":
                return self.add(a[0], a[1], 0)
            case "bvsub":
                return self.add(a[0], [x ^ 1 for x in a[1]], 1)
            case "bvult" | "bvslt":
                return [self.less(a[0], a[1], term.op == "bvslt")]
            case "bvule" | "bvsle":
                return [self.less(a[1], a[0], term.op == "bvsle") ^ 1]
        raise ValueError(f"{term.op} is not written as AIGER")


def _size(term: Term) -> int:
    return 1 if term.sort == BOOL else t.width(term)


def aiger(model: Flat, *, together: bool = False) -> bytes:
    """The system as a binary AIGER file; ``together`` makes one output of all properties.

    Raises:
        ValueError: for an operation that the writer does not know.
    """
    g, bits = Graph(), dict[Term, Bits]()
    for v in (*model.inputs, *model.next):
        bits[v] = [g.new() for _ in range(_size(v))]
    for term in ordered(model):
        if term not in bits:
            bits[term] = g.node(term, [bits[x] for x in term.args])
    outputs = {name: bits[term][0] for name, term in model.bad.items()}
    if together:
        outputs = {"any": g.every(x ^ 1 for x in outputs.values()) ^ 1}
    inputs = [f"{v.data}[{i}]" for v in model.inputs for i in range(_size(v))]
    latches = [f"{v.data}[{i}]" for v in model.next for i in range(_size(v))]
    out = [f"aig {g.variables} {len(inputs)} {len(latches)} {len(outputs)} {len(g.gates)}\n".encode()]
    out += [b"%d\n" % x for v, term in model.next.items() for x in bits[term]]
    out += [b"%d\n" % x for x in outputs.values()]
    out += [_delta(literal - a) + _delta(a - b) for (a, b), literal in g.gates.items()]
    for letter, names in (("i", inputs), ("l", latches), ("o", outputs)):
        out += [f"{letter}{n} {name}\n".encode() for n, name in enumerate(names)]
    return b"".join(out)


def _delta(number: int) -> bytes:
    """A number in groups of 7 bits, least significant first."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])
