"""A transition system as Verilog with assertions, for Yosys (IEEE 1364-2005, and ``assert`` of IEEE 1800)."""

from __future__ import annotations

from formal.evidence.exchange.flat import Flat, ordered
from formal.logic import terms as t
from formal.logic.terms import BOOL, Term

_BINARY = {"=": "==", "bvand": "&", "bvor": "|", "bvxor": "^", "bvadd": "+", "bvsub": "-", "bvult": "<", "bvule": "<=",
           "and": "&", "or": "|"}  # fmt: skip
_SIGNED = {"bvslt": "<", "bvsle": "<="}


def _bits(term: Term) -> int:
    return 1 if term.sort == BOOL else t.width(term)


def _expression(term: Term, args: list[str]) -> str:
    if term.op in _BINARY:
        return f" {_BINARY[term.op]} ".join(args)
    if term.op in _SIGNED:
        return f"$signed({args[0]}) {_SIGNED[term.op]} $signed({args[1]})"
    match term.op:
        case "const":
            return f"{_bits(term)}'h{t.value_of(term):x}"
        case "not" | "bvnot":
            return f"~{args[0]}"
        case "ite":
            return f"{args[0]} ? {args[1]} : {args[2]}"
        case "concat":
            return f"{{{args[0]}, {args[1]}}}"
        case "extract":
            hi, lo = t.bounds(term)
            return f"{args[0]}[{hi}:{lo}]"
        case "sign_extend":
            (inner,), (name,) = term.args, args
            return f"{{{{{_bits(term) - _bits(inner)}{{{name}[{_bits(inner) - 1}]}}}}, {name}}}"
    raise ValueError(f"{term.op} is not written as Verilog")


def verilog(model: Flat) -> str:
    """The system as one module ``top`` with one assertion for each property, in their order.

    Raises:
        ValueError: for an operation that the writer does not know.
    """
    names = {v: f"i{n}" for n, v in enumerate(model.inputs)} | {v: f"s{n}" for n, v in enumerate(model.next)}
    lines = ["module top(", "  input clk"]
    lines += [f"  , input [{_bits(v) - 1}:0] {names[v]} // {v.data}" for v in model.inputs]
    lines.append(");")
    lines += [f"reg [{_bits(v) - 1}:0] {names[v]} = 0; // {v.data}" for v in model.next]
    for term in ordered(model):
        if term not in names:
            names[term] = f"t{len(names)}"
            text = _expression(term, [names[a] for a in term.args])
            lines.append(f"wire [{_bits(term) - 1}:0] {names[term]} = {text};")
    lines += ["always @(posedge clk) begin"]
    lines += [f"  {names[v]} <= {names[term]};" for v, term in model.next.items()]
    lines += ["end", "always @* begin"]
    lines += [f"  assert(!{names[term]}); // {name}" for name, term in model.bad.items()]
    return "\n".join([*lines, "end", "endmodule", ""])
