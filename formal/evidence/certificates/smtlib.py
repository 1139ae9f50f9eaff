"""Formulas as SMT-LIB 2.6 text: deterministic, one node a line, arguments before what uses them.

A text depends on the formulas' structure only: nodes are numbered in the order in which a traversal of the formulas
meets them, and shared nodes are written once, so that two runs and two machines write the same bytes. The logic is
QF_BV, or QF_ABV if there are arrays. The commands are ``set-info``, ``set-logic``, ``declare-const``, ``define-fun``
without arguments, ``assert``, ``check-sat`` and ``exit``, which every solver reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from formal.evidence.certificates.arrays import Flat, eliminate, is_array
from formal.evidence.obligations import Obligation
from formal.logic import terms as t
from formal.logic.evaluation import nodes, support
from formal.logic.terms import BOOL, Sort, Term

_SIMPLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.@]*")
_NODE = re.compile(r"t[0-9]+")  # the names that nodes get


def sort_text(sort: Sort) -> str:
    """The SMT-LIB name of a sort."""
    if isinstance(sort, tuple):
        return f"(Array (_ BitVec {sort[0]}) (_ BitVec {sort[1]}))"
    return f"(_ BitVec {sort})" if sort else "Bool"


def symbol(name: str) -> str:
    """A name as an SMT-LIB symbol, quoted if it must be.

    Raises:
        ValueError: if no symbol can have that name.
    """
    if _NODE.fullmatch(name) or "|" in name or "\\" in name or not name.isprintable():
        raise ValueError(f"no SMT-LIB symbol can be named {name!r}")
    if _SIMPLE.fullmatch(name):
        return name
    return f"|{name}|"


def constant(value: int, bits: int) -> str:
    """A bit-vector constant: hexadecimal where the width allows, else binary."""
    return f"#x{value:0{bits // 4}x}" if bits % 4 == 0 else f"#b{value:0{bits}b}"


def _leaf(node: Term) -> str | None:
    if node.op == "var":
        return symbol(str(node.data))
    if node.op != "const":
        return None
    if node.sort == BOOL:
        return "true" if node.data else "false"
    return constant(t.value_of(node), t.width(node))


def _operator(node: Term) -> str:
    if node.op == "extract":
        hi, lo = t.bounds(node)
        return f"(_ extract {hi} {lo})"
    if node.op == "sign_extend":
        return f"(_ sign_extend {node.data})"
    if node.op == "const-array":
        return f"(as const {sort_text(node.sort)})"
    return node.op


class Script:
    """Formulas as the commands of an SMT-LIB file; ``text`` has the name or constant that each node is written as."""

    def __init__(self, formulas: tuple[Term, ...]) -> None:
        order = list(nodes(formulas))
        self.logic = "QF_ABV" if any(is_array(n) for n in order) else "QF_BV"
        self.lines = [f"(declare-const {symbol(str(n.data))} {sort_text(n.sort)})" for n in order if n.op == "var"]
        self.text: dict[Term, str] = {}
        count = 0
        for node in order:
            leaf = _leaf(node)
            if leaf is None:
                count += 1
                leaf = f"t{count}"
                arguments = " ".join([self.text[a] for a in node.args])
                self.lines.append(f"(define-fun {leaf} () {sort_text(node.sort)} ({_operator(node)} {arguments}))")
            self.text[node] = leaf
        self.lines += [f"(assert {self.text[f]})" for f in formulas]

    def file(self, comments: Iterable[str]) -> str:
        """The whole file; it is unsatisfiable if the formulas contradict each other."""
        head = [f"; {c}" for c in comments]
        head += ["(set-info :smt-lib-version 2.6)", f"(set-logic {self.logic})"]
        return "\n".join([*head, *self.lines, "(check-sat)", "(exit)"]) + "\n"


def _contents(o: Obligation) -> str:
    return f"{o.name}: {len(o.assumptions)} assumptions, then the negation of the goal"


def with_arrays(o: Obligation) -> str:
    """An obligation as it is stated, banks as arrays: unsatisfiable if and only if the assumptions imply the goal."""
    return Script(o.formulas()).file([_contents(o)])


def flattened(o: Obligation) -> tuple[Flat, str]:
    """An obligation without arrays, as formulas and as text: if it is unsatisfiable, the assumptions imply the goal.

    The comments say what the variables that arrays were eliminated with stand for (see
    ``formal.evidence.certificates.arrays``).
    """
    flat = eliminate(o.formulas())
    script = Script(flat.formulas + flat.axioms)
    return flat, script.file([_contents(o), *_notes(flat, script)])


def _notes(flat: Flat, script: Script) -> Iterator[str]:
    if not flat.axioms:
        return
    yield f"then {len(flat.axioms)} axioms about arrays, in variables that stand for:"
    for name, meaning in flat.meaning.items():
        if name.startswith("d."):
            yield f"{name}: whether two arrays are equal, made from {', '.join(sorted(support(meaning)))}"
        elif name.startswith("w."):
            yield f"{name}: an index at which the arrays of d.{name[2:]} differ, if they do"
        elif t.var(name, meaning.sort) in script.text:
            array, index = meaning.args
            yield f"{symbol(name)}: {array.data} at {script.text.get(index) or _leaf(index)}"
