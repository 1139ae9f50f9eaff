"""A transition system as BTOR2 (Niemetz, Preiner, Wolf, Biere, "Btor2, BtorMC and Boolector 3.0", CAV 2018)."""

from __future__ import annotations

import re

from formal.evidence.exchange.flat import Flat, ordered
from formal.logic import terms as t
from formal.logic.terms import BOOL, Term

_NAMES = {"=": "eq", "bvand": "and", "bvor": "or", "bvxor": "xor", "bvadd": "add", "bvsub": "sub", "bvult": "ult",
          "bvule": "ulte", "bvslt": "slt", "bvsle": "slte", "concat": "concat", "ite": "ite", "bvnot": "not",
          "not": "not", "and": "and", "or": "or"}  # fmt: skip


def symbol(name: str) -> str:
    """A name without white space, as the format wants it."""
    return re.sub(r"\s+", "_", name)


class _Writer:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.sorts: dict[int, int] = {}
        self.ids: dict[Term, int] = {}

    def line(self, text: str) -> int:
        self.lines.append(f"{len(self.lines) + 1} {text}")
        return len(self.lines)

    def sort(self, bits: int) -> int:
        if bits not in self.sorts:
            self.sorts[bits] = self.line(f"sort bitvec {bits}")
        return self.sorts[bits]

    def node(self, term: Term) -> int:
        bits = _bits(term)
        args = [self.ids[a] for a in term.args]
        sort = self.sort(bits)
        if term.op == "const":
            return self.line(f"constd {sort} {t.value_of(term)}")
        if term.op == "extract":
            hi, lo = t.bounds(term)
            return self.line(f"slice {sort} {args[0]} {hi} {lo}")
        if term.op == "sign_extend":
            return self.line(f"sext {sort} {args[0]} {bits - _bits(term.args[0])}")
        if term.op not in _NAMES:
            raise ValueError(f"{term.op} is not written as BTOR2")
        if term.op in ("and", "or"):
            found = args[0]
            for other in args[1:]:
                found = self.line(f"{term.op} {sort} {found} {other}")
            return found
        return self.line(f"{_NAMES[term.op]} {sort} {' '.join(map(str, args))}")


def _bits(term: Term) -> int:
    return 1 if term.sort == BOOL else t.width(term)


def btor2(model: Flat) -> str:
    """The system as text; ``bad`` properties in the order of ``model.bad``, named.

    Raises:
        ValueError: for an operation that the writer does not know.
    """
    w = _Writer()
    for kind, variables in (("input", model.inputs), ("state", tuple(model.next))):
        for v in variables:
            w.ids[v] = w.line(f"{kind} {w.sort(_bits(v))} {symbol(str(v.data))}")
    for v in model.next:
        sort = w.sort(_bits(v))
        w.line(f"init {sort} {w.ids[v]} {w.line(f'zero {sort}')}")
    for term in ordered(model):
        if term not in w.ids:
            w.ids[term] = w.node(term)
    for v, term in model.next.items():
        w.line(f"next {w.sort(_bits(v))} {w.ids[v]} {w.ids[term]}")
    for name, term in model.bad.items():
        w.line(f"bad {w.ids[term]} {symbol(name)}")
    return "\n".join(w.lines) + "\n"
