"""Terms as one straight-line Python function: what ``formal.logic.evaluation.evaluate`` gives, for many values of the
variables.

    f = straight([a, b], ["x", "y"])       # terms and the names of their variables, in the order of the arguments
    f((1, 2))                              # the values of a and b; a Boolean is 0 or 1

Each node becomes one assignment. Bit-vectors and Booleans only: lifted terms have no arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from formal.logic import terms as t
from formal.logic.evaluation import nodes
from formal.logic.terms import BOOL, Term, width

Function = Callable[[Sequence[int]], tuple[int, ...]]
# {n}: width, {m}: its mask, {h}: 2**(n-1). Operands are unsigned; flipping the top bit turns signed order into theirs.
_BINARY = {
    "bvand": "{a} & {b}", "bvor": "{a} | {b}", "bvxor": "{a} ^ {b}", "bvadd": "{a} + {b} & {m}",
    "bvsub": "{a} - {b} & {m}", "bvmul": "{a} * {b} & {m}", "bvudiv": "{a} // {b} if {b} else {m}",
    "bvurem": "{a} % {b} if {b} else {a}", "bvshl": "{a} << {b} & {m} if {b} < {n} else 0",
    "bvlshr": "{a} >> {b} if {b} < {n} else 0", "bvashr": "(({a} ^ {h}) - {h}) >> min({b}, {n} - 1) & {m}",
    "bvult": "1 if {a} < {b} else 0", "bvule": "1 if {a} <= {b} else 0",
    "bvslt": "1 if ({a} ^ {h}) < ({b} ^ {h}) else 0", "bvsle": "1 if ({a} ^ {h}) <= ({b} ^ {h}) else 0",
    "=": "1 if {a} == {b} else 0",
}  # fmt: skip


def straight(terms: Sequence[Term], names: Sequence[str]) -> Function:
    """A function that evaluates terms.

    Args:
        terms: what to evaluate.
        names: the variables' names in the order in which the function takes their values.

    Raises:
        KeyError: if a variable is not named.
        ValueError: if a term has an array in it.
    """
    place = {name: f"v[{i}]" for i, name in enumerate(names)}
    code: dict[Term, str] = {}
    lines = []
    for i, node in enumerate(nodes(tuple(terms))):
        if node.op == "var":
            code[node] = place[str(node.data)]
        elif node.op == "const":
            code[node] = str(int(t.value_of(node)) if node.sort != BOOL else int(bool(node.data)))
        else:
            code[node] = f"x{i}"
            lines.append(f" x{i} = {_expression(node, [code[a] for a in node.args])}")
    text = "\n".join(["def f(v):", *lines, f" return ({''.join(code[term] + ',' for term in terms)})"])
    space: dict[str, Function] = {}
    exec(compile(text, "<terms>", "exec"), space)
    return space["f"]


def _expression(node: Term, a: list[str]) -> str:
    if isinstance(node.sort, tuple) or any(isinstance(x.sort, tuple) for x in node.args):
        raise ValueError(f"{node.op} of an array")
    if node.op in _BINARY:
        n = max(1, width(node.args[0]) if node.args[0].sort != BOOL else 1)
        return _BINARY[node.op].format(a=a[0], b=a[1], n=n, m=(1 << n) - 1, h=1 << (n - 1))
    if node.op == "extract":
        return f"{a[0]} >> {t.bounds(node)[1]} & {(1 << width(node)) - 1}"
    if node.op == "sign_extend":
        h = 1 << (width(node.args[0]) - 1)
        return f"({a[0]} ^ {h}) - {h} & {(1 << width(node)) - 1}"
    simple = {
        "ite": lambda: f"{a[1]} if {a[0]} else {a[2]}",
        "not": lambda: f"1 - {a[0]}",
        "and": lambda: " & ".join(a),
        "or": lambda: " | ".join(a),
        "concat": lambda: f"{a[0]} << {width(node.args[1])} | {a[1]}",
        "bvnot": lambda: f"{a[0]} ^ {(1 << width(node)) - 1}",
    }
    return simple[node.op]()
