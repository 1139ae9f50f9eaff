"""The bits of a term that its variables do not change: ``1 << ((x | 3 << 4) >> 4 & 3)`` is 8, whatever x is."""

from __future__ import annotations

from formal.logic import terms as t
from formal.logic.evaluation import nodes, rebuild
from formal.logic.terms import Term, value_of, width

Bits = tuple[int, int]  # which bits are known, and what they are
_BITWISE = {"bvand": t.bvand, "bvor": t.bvor, "bvxor": t.bvxor}


def folded(term: Term) -> Term:
    """A bit-vector term, or the constant that it is if all of its bits are known."""
    found = known_bits(term)
    return t.const(found[1], width(term)) if found[0] == _ones(term) else term


def known_bits(term: Term) -> Bits:
    """The bits of a bit-vector term that are the same whatever its variables are.

    Returns:
        a mask, and the value of the bits in it; no other bit is set in the value.
    """
    return _all_known(term)[term]


def decided(condition: Term) -> Term:
    """A condition without those comparisons in it that have the same answer whatever the variables are."""
    found = _all_known(condition)
    done: dict[Term, Term] = {}
    for node in nodes((condition,)):
        if node.op == "=" and _is_vector(node.args[0]):
            (m, a), (n, b) = (found[arg] for arg in node.args)
            if (a ^ b) & m & n:
                done[node] = t.FALSE
            elif m & n == _ones(node.args[0]):
                done[node] = t.TRUE
        elif node.sort == t.BOOL and node.op in ("not", "and", "or") and any(a in done for a in node.args):
            done[node] = rebuild(node, tuple(done.get(a, a) for a in node.args))
    return done.get(condition, condition)


def _all_known(term: Term) -> dict[Term, Bits]:
    found: dict[Term, Bits] = {}
    for node in nodes((term,)):
        if _is_vector(node):
            mask, value = _of(node, [found.get(a, (0, 0)) for a in node.args])
            found[node] = mask & _ones(node), value & mask & _ones(node)
    return found


def _is_vector(term: Term) -> bool:
    return isinstance(term.sort, int) and term.sort != t.BOOL


def _ones(term: Term) -> int:
    return (1 << width(term)) - 1


def _of(node: Term, args: list[Bits]) -> Bits:
    if node.op == "const":
        return _ones(node), value_of(node)
    if node.op == "ite":
        (_, a), (_, b) = args[1:]
        return args[1][0] & args[2][0] & ~(a ^ b), a
    if node.op == "concat":
        (high, low), n = args, width(node.args[1])
        return high[0] << n | low[0], high[1] << n | low[1]
    if node.op == "extract":
        low_bit = t.bounds(node)[1]
        return args[0][0] >> low_bit, args[0][1] >> low_bit
    if not args or not all(map(_is_vector, node.args)):
        return 0, 0
    whole = [mask == _ones(a) for a, (mask, _) in zip(node.args, args, strict=True)]
    if all(whole):
        return _ones(node), value_of(rebuild(node, tuple(map(folded, node.args))))
    if node.op == "sign_extend":
        (mask, value), n = args[0], width(node.args[0])
        above = _ones(node) & ~_ones(node.args[0])
        return (mask | above if mask >> (n - 1) else mask), (value | above if value >> (n - 1) else value)
    if node.op == "bvnot":
        return args[0][0], ~args[0][1]
    if node.op in _BITWISE:
        (m, a), (n_, b) = args
        if node.op == "bvand":
            return m & n_ | m & ~a | n_ & ~b, a & b
        return (m & n_, a ^ b) if node.op == "bvxor" else (m & n_ | a | b, a | b)
    if node.op in ("bvshl", "bvlshr") and whole[1]:
        by, (mask, value), n = min(args[1][1], width(node)), args[0], width(node)
        if node.op == "bvshl":
            return mask << by | (1 << by) - 1, value << by
        return mask >> by | _ones(node) & ~(_ones(node) >> by) if by < n else _ones(node), value >> by
    return 0, 0
