"""A claim's formula as a person reads it, generated from the terms that ``properties.py`` builds.

Fields of registers are named (``hw_mdcr_el2.TDA``), members of enumerations too; connectives are words. What is shared
by many operations of the term is printed where it stands: nothing is abbreviated, so long formulas stay long.
"""

from __future__ import annotations

from enum import IntEnum

from formal.arch.bits import Register
from formal.epochs import Kernel
from formal.logic.terms import Term
from formal.state import VARIABLES, State
from formal.system import System
from formal.vocabulary import Claim

_INFIX = {"=": "=", "bvand": "&", "bvor": "|", "bvxor": "^", "bvadd": "+", "bvsub": "-", "bvult": "<", "bvule": "<=",
          "bvshl": "<<", "bvlshr": ">>", "concat": "::", "=>": "implies"}  # fmt: skip
_WORD = {"and": "and", "or": "or"}
LIMIT = 4000  # characters that a page shows of one formula; the data file has it whole


def formulas(claim: Claim, k: Kernel) -> tuple[str, str]:
    """When the claim speaks, and what it says then: of one vCPU and one CPU, of two states if it is about a step."""
    system = System(k)
    before = system.state()
    if claim.actors:
        after = State({name: _primed(term) for name, term in before.values.items()}, before.vcpu_id, before.cpu_id)
        return text(claim.when(before, k)), text(claim.then(before, after, k))
    return text(claim.when(before, k)), text(claim.then(before, before, k))


def _primed(term: Term) -> Term:
    from formal.logic import terms as t

    return t.var(f"{term.data}'", term.sort)


def text(term: Term) -> str:
    """One term as text."""
    return _text(term)


def _name(term: Term) -> str:
    return str(term.data).partition(".")[2]


def _text(term: Term) -> str:
    if term.op == "var":
        return _name(term)
    if term.op == "const":
        return str(term.data).lower() if isinstance(term.data, bool) else f"{term.data:#x}"
    if term.op == "not":
        inner = _text(term.args[0])
        return inner.replace(" = ", " != ", 1) if term.args[0].op == "=" and inner.count(" = ") == 1 else f"not {inner}"
    if term.op == "extract":
        return _field(term)
    if term.op == "=":
        return _equation(*term.args)
    if term.op in _WORD:
        return "(" + f" {_WORD[term.op]} ".join(map(_text, term.args)) + ")"
    if term.op == "bvand" and (masked := _masked(*term.args)):
        return masked
    if term.op in _INFIX and len(term.args) == 2:
        return f"({_text(term.args[0])} {_INFIX[term.op]} {_text(term.args[1])})"
    if term.op == "ite":
        return f"(if {_text(term.args[0])} then {_text(term.args[1])} else {_text(term.args[2])})"
    if term.op == "select":
        return f"{_text(term.args[0])}[{_text(term.args[1])}]"
    if term.op == "zero_extend":
        return _text(term.args[0])
    return f"{term.op}({', '.join(map(_text, term.args))})"


def _bounds(term: Term) -> tuple[int, int]:
    assert isinstance(term.data, tuple)
    return int(term.data[0]), int(term.data[1])


def _field(term: Term) -> str:
    """``hw_mdcr_el2.TDA`` for the bits of a register that have a name; else the bits."""
    of, (high, low) = term.args[0], _bounds(term)
    while of.op == "zero_extend":
        of = of.args[0]
    kind = VARIABLES[_name(of).rstrip("'")].kind if of.op == "var" and _name(of).rstrip("'") in VARIABLES else None
    if kind is not None and issubclass(kind, Register):
        for name, field in kind.fields.items():
            if (field.hi, field.lo) == (high, low):
                return f"{_text(of)}.{name}"
    return f"{_text(of)}[{high}:{low}]" if high != low else f"{_text(of)}[{high}]"


def _masked(a: Term, b: Term) -> str:
    """``hw_mdcr_el2.{TDE, HPMN}`` for whole fields of a register; empty if it is something else."""
    if a.op == "const":
        a, b = b, a
    kind = VARIABLES[_name(a).rstrip("'")].kind if a.op == "var" and _name(a).rstrip("'") in VARIABLES else None
    if b.op != "const" or kind is None or not issubclass(kind, Register) or not isinstance(b.data, int):
        return ""
    names = [name for name, field in kind.fields.items() if field.mask & b.data == field.mask]
    whole = sum(kind.fields[name].mask for name in names) == b.data
    return f"{_text(a)}.{names[0] if len(names) == 1 else '{' + ', '.join(names) + '}'}" if whole and names else ""


def _equation(a: Term, b: Term) -> str:
    if a.op == "const":
        a, b = b, a
    if b.op == "const" and a.op == "extract" and isinstance(b.data, int) and _bounds(a)[0] == _bounds(a)[1]:
        return _text(a) if b.data else f"not {_text(a)}"
    if b.op == "const" and a.op == "var":
        kind = VARIABLES[_name(a).rstrip("'")].kind if _name(a).rstrip("'") in VARIABLES else None
        if kind is not None and issubclass(kind, IntEnum) and b.data in {*map(int, kind)}:
            return f"{_text(a)} = {kind(b.data).name}"
    return f"{_text(a)} = {_text(b)}"
