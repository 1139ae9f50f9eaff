"""Random C of the understood subset: the lifted terms and a C compiler agree on random and boundary values.

The host's compiler serves: the integer model of the snippets is the same on every 64-bit little-endian target.
"""

from __future__ import annotations

import ctypes
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from formal.kernel.lift.snippet import snippet
from formal.logic.evaluation import evaluate, support

FIELDS = {
    "a": ("unsigned long", 64), "b": ("unsigned int", 32), "c": ("unsigned short", 16), "d": ("unsigned char", 8),
    "e": ("long", 64), "f": ("int", 32), "g": ("short", 16), "h": ("signed char", 8), "k": ("_Bool", 1),
}  # fmt: skip
STRUCT = "struct kvm_vcpu { " + " ".join(f"{kind} {name};" for name, (kind, _) in FIELDS.items()) + " };\n"
FUNCTIONS, STATES = 60, 60
BOUNDARY = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 1 << 63, (1 << 64) - 1)


class Writer:
    """Writes random statements; no operation in them is undefined (with wrapping signed arithmetic)."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.locals = 0

    def expression(self, depth: int) -> str:
        pick = self.random.random()
        if depth == 0 or pick < 0.2:
            if self.random.random() < 0.6:
                return f"v->{self.random.choice(list(FIELDS))}"
            return self.random.choice(["0", "1", "3u", "0x80", "(-1)", "0xffffffffu", "0x123456789abL"])
        a, b = self.expression(depth - 1), self.expression(depth - 1)
        if pick < 0.6:
            return f"({a} {self.random.choice('+ - * & | ^ == != < > <= >= && ||'.split())} {b})"
        if pick < 0.7:
            return f"({a} {self.random.choice(['<<', '>>'])} ({b} & {self.random.choice([7, 15, 31])}))"
        if pick < 0.78:
            kind = self.random.choice([kind for kind, _ in FIELDS.values()])
            return f"(({kind}){a})"
        if pick < 0.86:
            return f"({a} ? {b} : {self.expression(depth - 1)})"
        if pick < 0.92:
            return f"(((unsigned long){a}) {self.random.choice('/%')} (((unsigned int){b}) | 1ul))"
        return f"({self.random.choice('~!-')}{a})"

    def statement(self, depth: int) -> str:
        pick = self.random.random()
        if depth == 0 or pick < 0.45:
            operators = "= = |= &= ^= += -= *=".split()
            target = self.random.choice([f for f in FIELDS if f != "k"])
            return f"v->{target} {self.random.choice(operators)} {self.expression(2)};"
        if pick < 0.5:
            return f"v->k = {self.expression(2)};"
        if pick < 0.55:
            return f"v->{self.random.choice('abc')}{self.random.choice(['++', '--'])};"
        if pick < 0.6:
            return f"v->{self.random.choice('abef')} {self.random.choice(['<<=', '>>='])} {self.random.randrange(32)};"
        if pick < 0.8:
            other = f" else {{ {self.block(depth - 1)} }}" if self.random.random() < 0.5 else ""
            return f"if ({self.expression(2)}) {{ {self.block(depth - 1)} }}{other}"
        if pick < 0.9:
            ends = ["break;", ""]
            cases = " ".join(f"case {i}: {self.statement(0)} {self.random.choice(ends)}" for i in (0, 1, 5))
            return f"switch ({self.expression(1)} & 7) {{ {cases} default: {self.statement(0)} }}"
        if pick < 0.95:
            self.locals += 1
            name = f"t{self.locals}"
            return f"{{ long {name} = {self.expression(2)}; {name} ^= v->a; v->e = {name}; }}"
        return f"if ({self.expression(1)}) return;"

    def block(self, depth: int) -> str:
        return " ".join(self.statement(depth) for _ in range(self.random.randrange(1, 4)))


class Struct(ctypes.Structure):
    """The structure of the snippets."""

    _fields_ = [
        ("a", ctypes.c_uint64), ("b", ctypes.c_uint32), ("c", ctypes.c_uint16), ("d", ctypes.c_uint8),
        ("e", ctypes.c_uint64), ("f", ctypes.c_uint32), ("g", ctypes.c_uint16), ("h", ctypes.c_uint8),
        ("k", ctypes.c_uint8),
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_random_functions_agree_with_the_compiler(seed: int, tmp_path: Path) -> None:
    compiler = shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler on this machine")
    writer = Writer(seed)
    bodies = [writer.block(2) for _ in range(FUNCTIONS)]
    text = STRUCT + "\n".join(f"void f{i}(struct kvm_vcpu *v) {{ {body} }}" for i, body in enumerate(bodies))
    (tmp_path / "f.c").write_text(text)
    command = [
        compiler,
        "-O1",
        "-w",
        "-fwrapv",
        "-shared",
        "-fPIC",
        "-o",
        str(tmp_path / "f.so"),
        str(tmp_path / "f.c"),
    ]
    subprocess.run(command, check=True)
    library = ctypes.CDLL(str(tmp_path / "f.so"))
    program = snippet(text)
    for i, body in enumerate(bodies):
        writes = program.lift(f"f{i}", "vhe").writes
        for _ in range(STATES):
            start = {n: writer.random.choice((*BOUNDARY, writer.random.getrandbits(64))) & ((1 << b) - 1)
                     for n, (_, b) in FIELDS.items()}  # fmt: skip
            memory = Struct(**start)
            library[f"f{i}"](ctypes.byref(memory))
            for name in FIELDS:
                term = writes.get(f"vcpu->{name}")
                given = {v: start[v.removeprefix("vcpu->")] for v in support(term)} if term is not None else {}
                lifted = evaluate(term, given) if term is not None else start[name]
                assert int(lifted) == getattr(memory, name), f"{name} after {body} from {start}"
