"""BTOR2 and AIGER read and run, apart from the writers: enough of both formats for what is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping

OPERATORS: dict[str, Callable[[int, int, int], int]] = {  # of the widths of the arguments the first is given
    "eq": lambda a, b, n: int(a == b), "and": lambda a, b, n: a & b, "or": lambda a, b, n: a | b,
    "xor": lambda a, b, n: a ^ b, "add": lambda a, b, n: a + b, "sub": lambda a, b, n: a - b,
    "ult": lambda a, b, n: int(a < b), "ulte": lambda a, b, n: int(a <= b),
    "slt": lambda a, b, n: int(a - (a >> n - 1 << n) < b - (b >> n - 1 << n)),
    "slte": lambda a, b, n: int(a - (a >> n - 1 << n) <= b - (b >> n - 1 << n)),
}  # fmt: skip


class Btor2:
    """A BTOR2 file: ``state`` by symbol; ``step`` takes inputs and says which properties are bad."""

    def __init__(self, text: str) -> None:
        self.lines = [line.split() for line in text.splitlines()]
        assert [int(words[0]) for words in self.lines] == list(range(1, len(self.lines) + 1))
        self.sorts = {int(w[0]): int(w[3]) for w in self.lines if w[1] == "sort"}
        self.names = {int(w[0]): w[3] for w in self.lines if w[1] in ("state", "input")}
        values = self._evaluate({})
        self.state = {self.names[int(w[3])]: values[int(w[4])] for w in self.lines if w[1] == "init"}

    def _evaluate(self, given: Mapping[str, int]) -> dict[int, int]:
        done: dict[int, int] = {}
        bits: dict[int, int] = {}
        for number, op, *rest in ((int(w[0]), *w[1:]) for w in self.lines):
            if op in ("sort", "init", "next", "bad"):
                continue
            n = bits[number] = self.sorts[int(rest[0])]
            args = [int(word) for word in rest[1:] if word.lstrip("-").isdigit()]
            if op in ("input", "state"):
                value = given.get(self.names[number], 0)
            elif op == "zero":
                value = 0
            elif op == "constd":
                value = args[0]
            elif op == "slice":
                value = done[args[0]] >> args[2] & (1 << args[1] - args[2] + 1) - 1
            elif op == "sext":
                inner = bits[args[0]]
                value = done[args[0]] - (done[args[0]] >> inner - 1 << inner)
            elif op == "ite":
                value = done[args[1]] if done[args[0]] else done[args[2]]
            elif op == "not":
                value = ~done[args[0]]
            elif op == "concat":
                value = done[args[0]] << bits[args[1]] | done[args[1]]
            else:
                value = OPERATORS[op](done[args[0]], done[args[1]], bits[args[0]])
            done[number] = value & (1 << n) - 1
        return done

    def step(self, inputs: Mapping[str, int]) -> set[str]:
        """Goes on by one step; the properties that are bad in it."""
        values = self._evaluate({**self.state, **inputs})
        self.state |= {self.names[int(w[3])]: values[int(w[4])] for w in self.lines if w[1] == "next"}
        return {w[3] for w in self.lines if w[1] == "bad" and values[int(w[2])]}


class Aiger:
    """A binary AIGER file, like ``Btor2``; values of words are put together from their bits."""

    def __init__(self, data: bytes) -> None:
        head, _, rest = data.partition(b"\n")
        kind, most, inputs, latches, outputs, gates = head.split()
        assert kind == b"aig" and int(most) == int(inputs) + int(latches) + int(gates)
        self.inputs, self.latches = int(inputs), int(latches)
        numbers = rest.split(b"\n", self.latches + int(outputs))
        self.next = [int(x) for x in numbers[: self.latches]]
        self.outputs = [int(x) for x in numbers[self.latches : -1]]
        self.gates: list[tuple[int, int]] = []
        stream = iter(numbers[-1])
        left = 2 * (self.inputs + self.latches)
        for _ in range(int(gates)):
            left += 2
            a = left - self._delta(stream)
            self.gates.append((a, a - self._delta(stream)))
        self.symbols = dict(line.split(" ", 1) for line in bytes(stream).decode().splitlines())
        self.state = {name: 0 for letter, name in self._named("l")}

    @staticmethod
    def _delta(stream: object) -> int:
        number = shift = 0
        for byte in stream:  # type: ignore[attr-defined]
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        return number

    def _named(self, letter: str) -> list[tuple[str, str]]:
        return [(s, name) for s, name in self.symbols.items() if s[0] == letter]

    def step(self, inputs: Mapping[str, int]) -> set[str]:
        """Goes on by one step, with values of single bits (``x[3]``); the outputs that are 1 in it."""
        names = [name for letter in "il" for _, name in self._named(letter)]
        values = [0, *(inputs.get(n, 0) if i < self.inputs else self.state[n] for i, n in enumerate(names))]

        def value(literal: int) -> int:
            return values[literal >> 1] ^ (literal & 1)

        for a, b in self.gates:
            values.append(value(a) & value(b))
        bad = {name for (_, name), literal in zip(self._named("o"), self.outputs, strict=True) if value(literal)}
        self.state = {name: value(x) for (_, name), x in zip(self._named("l"), self.next, strict=True)}
        return bad


def bits_of(words: Mapping[str, int], widths: Mapping[str, int]) -> dict[str, int]:
    """Words as bits, named as in AIGER's symbol table."""
    return {f"{name}[{i}]": v >> i & 1 for name, v in words.items() for i in range(widths[name])}
