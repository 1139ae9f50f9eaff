"""Integer expressions as text: the assembler's, and those of macros that are nothing else."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping

_BINARY: Mapping[type, Callable[[int, int], int]] = {
    ast.BitOr: operator.or_, ast.BitAnd: operator.and_, ast.BitXor: operator.xor,
    ast.LShift: lambda a, b: a << (b & 63), ast.RShift: lambda a, b: a >> (b & 63),
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.Gt: operator.gt,
}  # fmt: skip


def number(text: str, operand: Callable[[str], int | None] = lambda reference: None) -> int | None:
    """The value of an integer expression as the assembler has it, shifts by 64 bits; ``None`` if it is not one.

    Args:
        operand: the value of an operand such as ``%0`` or ``%[cap]``.
    """

    def replaced(found: re.Match[str]) -> str:
        value = operand(found[0])
        return "unknown" if value is None else str(value)

    text = re.sub(r"%[a-zA-Z]?(?:\d+|\[\w+\])", replaced, text.replace("#", " "))
    text = re.sub(
        r"\b(0[xXbB])?([0-9a-fA-F]+)[uUlL]*\b",
        lambda m: (m[1] or "") + (m[2] if m[1] else m[2].lstrip("0") or "0"),
        text,
    )
    text = text.replace("&&", " and ").replace("||", " or ")
    try:
        return _value(ast.parse(re.sub(r"!(?!=)", " not ", text).strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError):
        return None


def _value(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        return _BINARY[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _BINARY:
        return int(_BINARY[type(node.ops[0])](_value(node.left), _value(node.comparators[0])))
    if isinstance(node, ast.BoolOp):
        values = [bool(_value(part)) for part in node.values]
        return int(all(values) if isinstance(node.op, ast.And) else any(values))
    if isinstance(node, ast.UnaryOp):
        value = _value(node.operand)
        return {ast.Not: int(not value), ast.Invert: ~value, ast.USub: -value}.get(type(node.op), value)
    raise ValueError("not an integer expression")
