"""Formulas made at random from the operations that are certified, and the solvers that judge them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from formal.logic import terms as t
from formal.logic.terms import BOOL, Sort, Term

WIDTHS = (1, 5, 64)
BANK: Sort = (6, 8)
VECTORS = (t.bvand, t.bvor, t.bvxor, t.bvadd, t.bvsub)
COMPARISONS = (t.ult, t.ule, t.slt, t.sle, t.Eq, t.Ne)


class Maker:
    """Makes well-sorted terms; every choice is a draw, so that failures shrink."""

    def __init__(self, draw: Any, *, arrays: bool = False) -> None:
        self.draw, self.arrays = draw, arrays

    def pick(self, *choices: Any) -> Any:
        """One of the choices."""
        return self.draw(st.sampled_from(choices))

    def boolean(self, depth: int) -> Term:
        """A Boolean term."""
        kind = "var" if depth == 0 else self.pick("var", "compare", "compare", "and", "or", "not", "ite", "bank")
        if kind == "var":
            return t.var(self.pick("b0", "b1"), BOOL)
        if kind == "bank" and self.arrays:
            return t.Eq(self.bank(depth - 1), self.bank(depth - 1))
        if kind in ("compare", "bank"):
            n = self.pick(*WIDTHS) if not self.arrays else 8
            return self.pick(*COMPARISONS)(self.vector(n, depth - 1), self.vector(n, depth - 1))  # type: ignore[no-any-return]
        if kind == "not":
            return t.Not(self.boolean(depth - 1))
        if kind == "ite":
            return t.If(self.boolean(depth - 1), self.boolean(depth - 1), self.boolean(depth - 1))
        return (t.And if kind == "and" else t.Or)(*(self.boolean(depth - 1) for _ in range(self.pick(2, 3))))

    def vector(self, n: int, depth: int) -> Term:
        """A bit-vector term."""
        kinds = ["binary", "not", "ite", "extract", "extend", "concat"] if depth else []
        kind = self.pick("var", "const", *kinds, *(["select"] if self.arrays and depth and n == 8 else []))
        if kind == "select":
            return t.select(self.bank(depth - 1), self.vector(6, depth - 1))
        if kind == "const":
            return t.const(self.draw(st.sampled_from((0, 1, (1 << n) - 1)) | st.integers(0, (1 << n) - 1)), n)
        if kind == "binary":
            return self.pick(*VECTORS)(self.vector(n, depth - 1), self.vector(n, depth - 1))  # type: ignore[no-any-return]
        if kind == "not":
            return t.bvnot(self.vector(n, depth - 1))
        if kind == "ite":
            return t.If(self.boolean(depth - 1), self.vector(n, depth - 1), self.vector(n, depth - 1))
        if kind == "extract":
            low = self.draw(st.integers(0, 3))
            return t.extract(self.vector(n + low + 2, depth - 1), n + low - 1, low)
        if kind in ("extend", "concat") and n > 1:
            less = self.draw(st.integers(1, n - 1))
            if kind == "extend":
                return t.sign_extend(self.vector(n - less, depth - 1), n)
            return t.concat(self.vector(less, depth - 1), self.vector(n - less, depth - 1))
        return t.var(f"x{n}.{self.pick(0, 1)}", n)

    def bank(self, depth: int) -> Term:
        """An array term."""
        kind = self.pick("var", "var", "constant", "store", "ite") if depth else "var"
        if kind == "store":
            return t.store(self.bank(depth - 1), self.vector(6, depth - 1), self.vector(8, depth - 1))
        if kind == "ite":
            return t.If(self.boolean(depth - 1), self.bank(depth - 1), self.bank(depth - 1))
        if kind == "constant":
            return t.const_array(self.vector(8, depth - 1), 6)
        return t.var(self.pick("m0", "m1", "m2"), BANK)


@st.composite
def formulas(draw: Any, *, arrays: bool = False) -> tuple[Term, ...]:
    """A few formulas, about as often contradictory as not."""
    maker = Maker(draw, arrays=arrays)
    return tuple(maker.boolean(3) for _ in range(draw(st.integers(1, 4))))
