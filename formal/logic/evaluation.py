"""Reading terms: traversal, free variables, substitution, and evaluation on concrete values without any solver."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from formal.logic import terms as t
from formal.logic.terms import BINARY, COMPARE, ArrayValue, Term, Value, signed, width


def nodes(roots: tuple[Term, ...]) -> Iterator[Term]:
    """Every node below ``roots`` once, arguments before the terms that use them."""
    seen: set[Term] = set()
    for root in roots:
        stack = [(root, False)]
        while stack:
            node, done = stack.pop()
            if done:
                yield node
            elif node not in seen:
                seen.add(node)
                stack.append((node, True))
                stack.extend((a, False) for a in node.args if a not in seen)


def support(term: Term) -> frozenset[str]:
    """The names of the free variables of a term."""
    if term.free is None:
        for node in nodes((term,)):
            if node.free is None:
                if node.op == "var":
                    node.free = frozenset((str(node.data),))
                else:
                    node.free = frozenset().union(*(a.free or frozenset() for a in node.args))
    assert term.free is not None
    return term.free


_BUILD: dict[str, Callable[..., Term]] = {
    "not": t.Not, "and": t.And, "or": t.Or, "ite": t.If, "=": t.Eq,
    "bvand": t.bvand, "bvor": t.bvor, "bvxor": t.bvxor, "bvnot": t.bvnot,
    "bvadd": t.bvadd, "bvsub": t.bvsub, "bvmul": t.bvmul, "bvudiv": t.bvudiv, "bvurem": t.bvurem,
    "bvshl": t.bvshl, "bvlshr": t.bvlshr, "bvashr": t.bvashr,
    "bvult": t.ult, "bvule": t.ule, "bvslt": t.slt, "bvsle": t.sle,
    "concat": t.concat, "select": t.select, "store": t.store,
}  # fmt: skip


def rebuild(term: Term, args: tuple[Term, ...]) -> Term:
    """The term with other arguments, folded again."""
    if term.op == "extract":
        hi, lo = t.bounds(term)
        return t.extract(args[0], hi, lo)
    if term.op == "sign_extend":
        return t.sign_extend(args[0], width(term))
    if term.op == "const-array":
        assert isinstance(term.sort, tuple)
        return t.const_array(args[0], term.sort[0])
    return _BUILD[term.op](*args)


def substitute(term: Term, mapping: Mapping[str, Term], done: dict[Term, Term] | None = None) -> Term:
    """The term with variables replaced; ``done`` carries results between calls with the same mapping."""
    memo: dict[Term, Term] = {} if done is None else done
    stack = [term]
    while stack:
        node = stack[-1]
        if node in memo:
            stack.pop()
            continue
        if node.op == "var":
            memo[node] = mapping.get(str(node.data), node)
        elif node.op == "const":
            memo[node] = node
        else:
            pending = [a for a in node.args if a not in memo]
            if pending:
                stack.extend(pending)
                continue
            args = tuple(memo[a] for a in node.args)
            memo[node] = node if args == node.args else rebuild(node, args)
        stack.pop()
    return memo[term]


def evaluate(term: Term, env: Mapping[str, Value], done: dict[Term, Value] | None = None) -> Value:
    """The value of a term when its variables have the values of ``env``; no solver takes part.

    ``done`` carries results between calls with the same ``env``.

    Raises:
        KeyError: if a variable that matters has no value.
    """
    memo: dict[Term, Value] = {} if done is None else done
    stack = [term]
    while stack:
        node = stack[-1]
        if node in memo:
            stack.pop()
            continue
        if node.op == "ite":  # of the branches one matters
            pending = [node.args[0]] if node.args[0] not in memo else [node.args[1 if memo[node.args[0]] else 2]]
            if pending[0] in memo:
                memo[node] = memo[pending[0]]
                pending = []
        elif node.op == "var":
            memo[node], pending = env[str(node.data)], []
        elif not (pending := [a for a in node.args if a not in memo]):
            memo[node] = _apply(node, [memo[a] for a in node.args])
        stack.extend(pending)
    return memo[term]


def _same_array(term: Term, a: ArrayValue, b: ArrayValue) -> bool:
    """Whether two arrays hold the same everywhere; one that is overwritten everywhere has no use for its default."""
    if a == b or a.default == b.default:
        return a == b
    assert isinstance(term.sort, tuple)
    places = 1 << term.sort[0]
    return len(a.index.keys() | b.index.keys()) == places and all(a[i] == b[i] for i in range(places))


def _apply(term: Term, a: list[Any]) -> Value:
    """The value of a node whose arguments have the values ``a``, each of the sort that the constructor checked."""
    result: Value
    match term.op:
        case "const":
            result = t.value_of(term) if term.sort else bool(term.data)
        case "not":
            result = not a[0]
        case "and":
            result = all(a)
        case "or":
            result = any(a)
        case "=":
            result = _same_array(term.args[0], *a) if isinstance(a[0], ArrayValue) else bool(a[0] == a[1])
        case "select":
            result = int(a[0][a[1]])
        case "store":
            result = a[0].set(a[1], a[2])
        case "const-array":
            result = ArrayValue(a[0])
        case "extract":
            result = a[0] >> t.bounds(term)[1] & ((1 << width(term)) - 1)
        case "concat":
            result = a[0] << width(term.args[1]) | a[1]
        case "sign_extend":
            result = signed(a[0], width(term.args[0])) & ((1 << width(term)) - 1)
        case "bvnot":
            result = ~a[0] & ((1 << width(term)) - 1)
        case op if op in COMPARE:
            result = COMPARE[op](a[0], a[1], width(term.args[0]))
        case op:
            result = BINARY[op](a[0], a[1], width(term)) & ((1 << width(term)) - 1)
    return result
