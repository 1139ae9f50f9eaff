"""The checker's own reader and encoder: from the SMT-LIB text of an obligation to any clause of its CNF, by number.

Written from the format that ``formal/evidence/certificates/blast.py`` documents, not from its code, and sharing
nothing with it: it
reads text instead of terms, and instead of writing all clauses in a row it computes a clause from its number. A proof
uses a few hundred of the hundred thousand clauses, so checking takes milliseconds.

The text may contain one command a line: ``set-info``, ``set-logic QF_BV``, ``declare-const``, ``define-fun`` without
arguments and with one operator, ``assert`` of a name or of a constant, ``check-sat``, ``exit``, and comments. Anything
else is refused, and every sort is checked.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

Bits = Sequence[int]
Clause = tuple[int, ...]

_SYMBOL = r"(?:\|[^|\\]+\||[A-Za-z_][A-Za-z0-9_.@]*)"
_SORT = r"(Bool|\(_ BitVec [1-9][0-9]*\))"
_DECLARE = re.compile(rf"\(declare-const ({_SYMBOL}) {_SORT}\)")
_DEFINE = re.compile(rf"\(define-fun ({_SYMBOL}) \(\) {_SORT} \((\(_ [a-z_]+(?: [0-9]+)+\)|[a-z=]+) (.+)\)\)")
_ASSERT = re.compile(r"\(assert (.+)\)")
_ARGUMENT = re.compile(rf"{_SYMBOL}|#x[0-9a-f]+|#b[01]+")
_HEAD = ("(set-info :smt-lib-version 2.6)", "(set-logic QF_BV)")


class TextError(Exception):
    """A text that is not of the form above."""


@dataclass(frozen=True)
class Value:
    """What a name stands for: one literal a bit, bit 0 first. A Boolean has the width 0, and one bit."""

    width: int
    bits: Bits


@dataclass(frozen=True)
class _Block:
    """The gates of one line: ``variable`` is the first of its variables, ``clause(i)`` its i-th clause."""

    variables: int
    clauses: int
    clause: Callable[[int], Clause]


class Encoding:
    """The CNF of a text: ``count`` clauses over ``variables`` variables, ``clause(n)`` for n from 1 on.

    Raises:
        TextError: with the line that is not understood.
    """

    def __init__(self, text: str) -> None:
        self.variables, self.count = 1, 1
        self._names: dict[str, Value] = {"true": Value(0, (1,)), "false": Value(0, (-1,))}
        self._starts: list[int] = [1]
        self._clauses: list[Callable[[int], Clause]] = [lambda _: (1,)]
        lines = [line for line in text.split("\n") if not line.startswith(";")]
        if tuple(lines[:2]) != _HEAD or lines[-3:] != ["(check-sat)", "(exit)", ""]:
            raise TextError(f"it does not begin with {' '.join(_HEAD)} and end with (check-sat) (exit)")
        stage = 0
        for line in lines[2:-3]:
            kinds = ("(declare-const", "(define-fun", "(assert")
            kind = kinds.index(line.split(" ", 1)[0]) if line.split(" ", 1)[0] in kinds else -1
            if kind < stage:
                raise TextError(f"not understood, or out of order: {line}")
            stage = kind
            (self._declare, self._define, self._assert)[kind](line)

    def clause(self, number: int) -> Clause:
        """Clause ``number``.

        Raises:
            IndexError: if there is no such clause.
        """
        if not 1 <= number <= self.count:
            raise IndexError(f"clause {number} of {self.count}")
        block = bisect_right(self._starts, number) - 1
        return self._clauses[block](number - self._starts[block])

    def clauses(self) -> Iterator[Clause]:
        """All clauses in order."""
        return (self.clause(n) for n in range(1, self.count + 1))

    def _add(self, block: _Block) -> None:
        if block.clauses:
            self._starts.append(self.count + 1)
            self._clauses.append(block.clause)
        self.count += block.clauses
        self.variables += block.variables

    def _name(self, name: str, value: Value) -> None:
        if name in self._names:
            raise TextError(f"{name} is declared twice")
        self._names[name] = value

    def _declare(self, line: str) -> None:
        found = _DECLARE.fullmatch(line)
        if not found:
            raise TextError(f"not understood: {line}")
        width = _width(found[2])
        first = self.variables + 1
        self.variables += width or 1
        self._name(found[1], Value(width, range(first, self.variables + 1)))

    def _define(self, line: str) -> None:
        found = _DEFINE.fullmatch(line)
        if not found:
            raise TextError(f"not understood: {line}")
        arguments = [self._value(a, line) for a in self._split(found[4], line)]
        made = _operator(found[3], arguments, self.variables + 1)
        if made is None or made[0].width != _width(found[2]):
            raise TextError(f"operator, widths or sort do not fit: {line}")
        value, block = made
        self._name(found[1], value)
        self._add(block)

    def _assert(self, line: str) -> None:
        found = _ASSERT.fullmatch(line)
        if not found:
            raise TextError(f"not understood: {line}")
        value = self._value(found[1], line)
        if value.width:
            raise TextError(f"asserts a bit-vector: {line}")
        unit = (value.bits[0],)
        self._add(_Block(0, 1, lambda _: unit))

    def _split(self, text: str, line: str) -> list[str]:
        parts = _ARGUMENT.findall(text)
        if " ".join(parts) != text:
            raise TextError(f"arguments not understood: {line}")
        return parts

    def _value(self, text: str, line: str) -> Value:
        if text.startswith("#"):
            width = (len(text) - 2) * (4 if text[1] == "x" else 1)
            number = int(text[2:], 16 if text[1] == "x" else 2)
            return Value(width, [1 if number >> i & 1 else -1 for i in range(width)])
        if text not in self._names:
            raise TextError(f"{text} is not declared: {line}")
        return self._names[text]


def _width(sort: str) -> int:
    return 0 if sort == "Bool" else int(sort[len("(_ BitVec ") : -1])


def _negated(bits: Bits) -> Bits:
    return [-b for b in bits]


_NONE = _Block(0, 0, lambda i: ())


def _operator(text: str, arguments: list[Value], first: int) -> tuple[Value, _Block] | None:
    """The value of an operator and its gates, whose variables are numbered from ``first``; None if it is ill-sorted."""
    widths, bits = [a.width for a in arguments], [a.bits for a in arguments]
    n = len(arguments)
    if text.startswith("(_"):
        return _indexed(text[3:-1].split(), arguments)
    if text in ("and", "or"):
        gate = _junction(first, [b[0] for b in bits], text == "and")
        return None if any(widths) else (Value(0, (first,)), gate)
    if text == "ite":
        if n != 3 or widths[0] or widths[1] != widths[2]:
            return None
        return Value(widths[1], range(first, first + len(bits[1]))), _mux(first, bits[0][0], bits[1], bits[2])
    if text in ("not", "bvnot"):
        return (Value(widths[0], _negated(bits[0])), _NONE) if n == 1 and (text == "not") == (not widths[0]) else None
    if n != 2:
        return None
    width, (a, b) = widths[0], bits
    if text == "concat":
        return (Value(width + widths[1], [*b, *a]), _NONE) if width and widths[1] else None
    if width != widths[1]:
        return None
    if text == "=":
        gates = _equality(first, a, b, bool(width))
        return Value(0, (first + gates.variables - 1,)), gates
    if not width:
        return None
    if text in ("bvand", "bvor", "bvxor"):
        return Value(width, range(first, first + width)), _BITWISE[text](first, a, b)
    if text in ("bvadd", "bvsub"):
        gates = _sum(first, a, b, -1) if text == "bvadd" else _sum(first, a, _negated(b), 1)
        return Value(width, range(first + 1, first + 5 * width, 5)), gates
    if text in ("bvult", "bvslt"):
        return Value(0, (first + 2 * width - 1,)), _less(first, a, b, text == "bvslt")
    if text in ("bvule", "bvsle"):
        return Value(0, (-(first + 2 * width - 1),)), _less(first, b, a, text == "bvsle")
    return None


def _indexed(words: list[str], arguments: list[Value]) -> tuple[Value, _Block] | None:
    if len(arguments) != 1 or not arguments[0].width:
        return None
    width, bits = arguments[0].width, arguments[0].bits
    if words[0] == "extract" and len(words) == 3:
        high, low = int(words[1]), int(words[2])
        return (Value(high - low + 1, bits[low : high + 1]), _NONE) if low <= high < width else None
    if words[0] == "sign_extend" and len(words) == 2:
        more = int(words[1])
        return Value(width + more, [*bits, *[bits[-1]] * more]), _NONE
    return None


# ---- gates; each returns clause i of its block by itself


def _junction(o: int, a: Bits, conjunction: bool) -> _Block:
    sign = 1 if conjunction else -1

    def clause(i: int) -> Clause:
        return (-sign * o, sign * a[i]) if i < len(a) else (sign * o, *(-sign * x for x in a))

    return _Block(1, len(a) + 1, clause)


def _and_gate(o: int, a: int, b: int, i: int) -> Clause:
    return ((-o, a), (-o, b), (o, -a, -b))[i]


def _or_gate(o: int, a: int, b: int, i: int) -> Clause:
    return ((o, -a), (o, -b), (-o, a, b))[i]


def _xor_gate(o: int, a: int, b: int, i: int) -> Clause:
    return ((-o, a, b), (-o, -a, -b), (o, a, -b), (o, -a, b))[i]


def _mux_gate(o: int, c: int, a: int, b: int, i: int) -> Clause:
    return ((-c, -a, o), (-c, a, -o), (c, -b, o), (c, b, -o))[i]


def _bitwise(gate: Callable[[int, int, int, int], Clause], size: int) -> Callable[[int, Bits, Bits], _Block]:
    def block(o: int, a: Bits, b: Bits) -> _Block:
        return _Block(len(a), size * len(a), lambda i: gate(o + i // size, a[i // size], b[i // size], i % size))

    return block


_BITWISE = {"bvand": _bitwise(_and_gate, 3), "bvor": _bitwise(_or_gate, 3), "bvxor": _bitwise(_xor_gate, 4)}


def _mux(o: int, c: int, a: Bits, b: Bits) -> _Block:
    return _Block(len(a), 4 * len(a), lambda i: _mux_gate(o + i // 4, c, a[i // 4], b[i // 4], i % 4))


def _equality(o: int, a: Bits, b: Bits, vector: bool) -> _Block:
    n = len(a)
    all_equal = _junction(o + n, range(o, o + n), True)

    def clause(i: int) -> Clause:
        bit = i // 4
        return all_equal.clause(i - 4 * n) if bit >= n else _xor_gate(o + bit, a[bit], -b[bit], i % 4)

    return _Block(n + 1, 5 * n + 1, clause) if vector else _Block(1, 4, clause)


def _sum(o: int, a: Bits, b: Bits, carry: int) -> _Block:
    def clause(i: int) -> Clause:
        bit, i = divmod(i, 17)
        x, y, v = a[bit], b[bit], o + 5 * bit  # v .. v + 4: half, sum, both, through, carry
        c = v - 1 if bit else carry
        if i < 4:
            return _xor_gate(v, x, y, i)
        if i < 8:
            return _xor_gate(v + 1, v, c, i - 4)
        if i < 11:
            return _and_gate(v + 2, x, y, i - 8)
        return _and_gate(v + 3, v, c, i - 11) if i < 14 else _or_gate(v + 4, v + 2, v + 3, i - 14)

    return _Block(5 * len(a), 17 * len(a), clause)


def _less(o: int, a: Bits, b: Bits, signed: bool) -> _Block:
    def clause(i: int) -> Clause:
        bit, i = divmod(i, 8)
        v = o + 2 * bit  # v, v + 1: differ, less so far
        smaller = a[bit] if signed and bit == len(a) - 1 else b[bit]
        if i < 4:
            return _xor_gate(v, a[bit], b[bit], i)
        return _mux_gate(v + 1, v, smaller, v - 1 if bit else -1, i - 4)

    return _Block(2 * len(a), 8 * len(a), clause)
