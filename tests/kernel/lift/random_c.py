"""Random C functions of the kind that the lifter understands, and of some kinds that it refuses.

No operation in them has an effect that depends on the order of evaluation; what may be undefined (a shift, a division)
is an obligation of the lifted function.
"""

from __future__ import annotations

import ctypes
from random import Random

KINDS = {
    "unsigned long": 64, "unsigned int": 32, "unsigned short": 16, "unsigned char": 8,
    "long": 64, "int": 32, "short": 16, "signed char": 8, "_Bool": 1,
}  # fmt: skip
SCALARS = {"a": "unsigned long", "b": "unsigned int", "c": "unsigned short", "d": "unsigned char", "e": "long",
           "f": "int", "g": "short", "h": "signed char", "k": "_Bool"}  # fmt: skip
INNER = {"x": "unsigned int", "y": "signed char", "z": "long"}
PLACES: dict[str, str] = {  # lvalue below the vCPU: its type
    **SCALARS, "in.x": "unsigned int", "in.y": "signed char", "in.z": "long",
    **{f"two[{i}].{name}": kind for i in range(2) for name, kind in INNER.items()},
    **{f"arr[{i}]": "unsigned short" for i in range(4)}, **{f"bank[{i}]": "unsigned long" for i in range(16)},
}  # fmt: skip
HEAD = (
    "#define BIT(n) (1UL << (n))\n#define GENMASK(h, l) (((~0UL) - (1UL << (l)) + 1) & (~0UL >> (63 - (h))))\n"
    "#define FIELD_GET(m, r) (((r) & (m)) >> __builtin_ctzl(m))\n"
    "enum { ZERO, SEVEN = 7, MINUS = -3, BIG = 0x7fffffff };\n"
    "struct inner { unsigned int x; signed char y; long z; };\n"
    "struct kvm_vcpu { "
    + " ".join(f"{kind} {name};" for name, kind in SCALARS.items())
    + " struct inner in, two[2]; unsigned short arr[4]; unsigned long bank[16]; unsigned int bits : 5; };\n"
)


class Inner(ctypes.Structure):
    """``struct inner``."""

    _fields_ = [("x", ctypes.c_uint32), ("y", ctypes.c_uint8), ("z", ctypes.c_uint64)]


class Memory(ctypes.Structure):
    """``struct kvm_vcpu``; all numbers unsigned."""

    _fields_ = [
        ("a", ctypes.c_uint64), ("b", ctypes.c_uint32), ("c", ctypes.c_uint16), ("d", ctypes.c_uint8),
        ("e", ctypes.c_uint64), ("f", ctypes.c_uint32), ("g", ctypes.c_uint16), ("h", ctypes.c_uint8),
        ("k", ctypes.c_uint8), ("in_", Inner), ("two", Inner * 2), ("arr", ctypes.c_uint16 * 4),
        ("bank", ctypes.c_uint64 * 16), ("bits", ctypes.c_uint32),
    ]  # fmt: skip

    def values(self) -> dict[str, int]:
        """Every place's value."""
        return {place: eval(f"self.{place.replace('in.', 'in_.')}", {"self": self}) for place in PLACES}

    def fill(self, values: dict[str, int]) -> None:
        """Sets every place."""
        for place, value in values.items():
            exec(f"self.{place.replace('in.', 'in_.')} = value", {"self": self, "value": value})


class Writer:
    """Writes functions ``f<n>`` with helpers."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.serial = 0
        self.locals: list[tuple[str, str]] = []  # name and type, in scope
        self.pointers: list[str] = []  # to struct inner, in scope
        self.helpers: list[tuple[str, list[str]]] = []
        self.labels: list[str] = []
        self.loop = 0

    def pick(self, *choices: str) -> str:
        return choices[self.random.randrange(len(choices))]

    def chance(self, percent: int) -> bool:
        return self.random.randrange(100) < percent

    def fresh(self, prefix: str) -> str:
        self.serial += 1
        return f"{prefix}{self.serial}"

    # ---- expressions

    def place(self) -> str:
        r = self.random.randrange(10)
        if r < 5:
            return f"v->{self.pick(*SCALARS)}"
        if r < 6 and self.locals:
            return self.random.choice(self.locals)[0]
        if r < 7 and self.pointers:
            return f"{self.random.choice(self.pointers)}->{self.pick('x', 'y', 'z')}"
        if r < 8:
            return f"v->arr[{self.leaf()} & 3]"
        if r < 9:
            return f"v->two[{self.leaf()} & 1].{self.pick('x', 'y', 'z')}"
        return self.pick(f"v->bank[{self.leaf()} & 15]", "v->in.x", "v->in.y", "(&v->in)->z", "(*(&v->arr[1] + 2))")

    def leaf(self) -> str:
        if self.chance(60):
            return f"v->{self.pick(*SCALARS)}"
        return self.pick(
            "0", "1", "3u", "0x80", "(-1)", "0xffffffffu", "0x123456789abL", "BIT(5)", "BIT(63)", "GENMASK(11, 4)",
            "'A'", "SEVEN", "MINUS", "BIG", "sizeof(struct inner)", "2147483648", "0xffULL", "077", "(-2147483647 - 1)",
        )  # fmt: skip

    def expression(self, depth: int) -> str:
        r = self.random.randrange(100)
        if depth <= 0 or r < 12:
            return self.leaf() if self.chance(60) else self.place()
        a = self.expression(depth - 1)
        if r < 48:
            b = self.expression(depth - 1)
            return f"({a} {self.pick(*'+ - * & | ^ == != < > <= >= && ||'.split())} {b})"
        if r < 56:
            return f"({a} {self.pick('<<', '>>')} ({self.expression(depth - 1)} & {self.pick('7', '15', '31')}))"
        if r < 58:  # may be undefined
            return f"({a} {self.pick('<<', '>>', '/', '%')} {self.expression(depth - 1)})"
        if r < 66:
            return f"(({self.pick(*KINDS)}){a})"
        if r < 73:
            return f"({a} ? {self.expression(depth - 1)} : {self.expression(depth - 1)})"
        if r < 77:
            return f"(((unsigned long){a}) {self.pick('/', '%')} (((unsigned int){self.expression(depth - 1)}) | 1ul))"
        if r < 84:
            return f"({self.pick('~', '!', '-', '+', '!!')}{a})"
        if r < 88 and self.helpers:
            name, kinds = self.random.choice(self.helpers)
            return f"{name}(v{''.join(f', {self.expression(1)}' for _ in kinds)})"
        if r < 90:
            return f"__builtin_expect(!!({a}), {self.pick('0', '1')})"
        if r < 92:
            return f"FIELD_GET(GENMASK({self.pick('15', '31', '63')}, 3), {a})"
        if r < 94:
            name = self.fresh("s")
            return f"({{ __typeof__(({a}) + 0) {name} = {a}; {name} {self.pick('+', '^')} 1; }})"
        if r < 96 and len(self.pointers) >= 2:
            p, q = self.random.sample(self.pointers, 2)
            return f"({p} {self.pick('==', '!=')} {q})"
        if r < 98 or self.chance(85):
            return f"({a}, {self.expression(depth - 1)})"
        return self.pick("v->bits", f"({a} ?: 1)", "(int)1.5")  # these are refused

    # ---- statements

    def assignment(self) -> str:
        r = self.random.randrange(10)
        target = self.place()
        if r < 5:
            return f"{target} = {self.expression(3)};"
        if r < 8:
            return f"{target} {self.pick(*'|= &= ^= += -= *= /= %='.split())} {self.expression(2)};"
        if r < 9:
            return f"{target} {self.pick('<<=', '>>=')} ({self.expression(1)} & 7);"
        return self.pick(
            f"{target}{self.pick('++', '--')};", f"{self.pick('++', '--')}{target};", f"*&v->b = {self.expression(1)};",
            f"v->in = v->two[{self.leaf()} & 1];", f"v->two[0] = v->{self.pick('in', 'two[1]')};",
            f"v->e = (v->{self.pick('b', 'd', 'h')} = {self.expression(2)});",
            f"if ({self.expression(1)} && (v->c = {self.expression(1)})) v->f++;",
        )  # fmt: skip

    def statement(self, depth: int) -> str:
        r = self.random.randrange(100)
        if depth <= 0 or r < 40:
            return self.assignment()
        if r < 60:
            other = f" else {self.block(depth - 1)}" if self.chance(50) else ""
            return f"if ({self.expression(2)}) {self.block(depth - 1)}{other}"
        if r < 70:
            return self.switch(depth)
        if r < 78:
            name, kind = self.fresh("t"), self.pick(*KINDS)
            text = f"{kind} {name} = {self.expression(2)};"
            self.locals.append((name, kind))
            return text
        if r < 83:
            name = self.fresh("p")
            first, second = (self.pick("&v->in", "&v->two[0]", "v->two + 1") for _ in range(2))
            value = first if self.chance(50) else f"{self.expression(1)} ? {first} : {second}"
            self.pointers.append(name)
            return f"struct inner *{name} = {value};"
        if r < 88:
            self.loop += 1
            inner = self.block(depth - 1)
            self.loop -= 1
            return f"do {inner} while (0);"
        if r < 91:
            return f"if ({self.expression(1)}) return;"
        if r < 94:
            label = self.fresh("end")
            self.labels.append(label)
            return f"if ({self.expression(1)}) goto {label};"
        if r < 96 and self.loop:
            return f"if ({self.expression(1)}) break;"
        if r < 98:
            return self.block(depth - 1)
        if self.chance(70):
            return self.assignment()
        i = self.fresh("i")  # these are refused
        return self.pick(f"for (int {i} = 0; {i} < 3; {i}++) v->a += {i};", "while (v->d) v->d >>= 1;", "v->bits = 3;")

    def switch(self, depth: int) -> str:
        mask, count = self.pick("7", "15", "0xff"), self.pick("3", "5", "16")
        numbers = list(range(int(count)))
        subject = self.pick(f"{self.expression(1)} & {mask}", "v->h", "v->d", "v->e", "v->b")
        cases, at = [], self.random.randrange(len(numbers) + 1)
        self.loop += 1
        for i, n in enumerate(numbers):
            if i == at and self.chance(80):
                cases.append(f"default: {self.assignment()} {self.pick('break;', '')}")
            label = f"case {-n if n and subject in ('v->h', 'v->e') and self.chance(50) else n}:"
            if n == numbers[-1] and self.chance(30):
                label = f"case {n} ... {n + 3}:"
            body = self.assignment() if count == "16" else self.statement(min(depth - 1, 1)) if self.chance(50) else ""
            if body.startswith((*KINDS, "struct ")):
                body = f"{{ {body} }}"
                self.forget_last(body)
            cases.append(f"{label} {body} {self.pick('break;', 'break;', '')}")
        self.loop -= 1
        return f"switch ({subject}) {{ {' '.join(cases)} ; }}"

    def forget_last(self, body: str) -> None:
        """A declaration that is out of scope."""
        if self.locals and f" {self.locals[-1][0]} =" in body:
            self.locals.pop()
        if self.pointers and f"*{self.pointers[-1]} =" in body:
            self.pointers.pop()

    def block(self, depth: int) -> str:
        kept, pointers = list(self.locals), list(self.pointers)
        text = " ".join(self.statement(depth) for _ in range(self.random.randrange(1, 4)))
        self.locals, self.pointers = kept, pointers
        return f"{{ {text} }}"

    def helper(self) -> str:
        """A function of narrow parameters that returns something."""
        name, kinds, result = self.fresh("help"), [self.pick(*KINDS) for _ in range(2)], self.pick(*KINDS)
        saved, self.locals, self.pointers = self.locals, [("x", kinds[0]), ("y", kinds[1])], []
        body = f"if ({self.expression(2)}) return {self.expression(2)}; x {self.pick('+=', '^=')} y; "
        body += f"return {self.expression(3)};"
        self.locals = saved
        self.helpers.append((name, kinds))
        return f"static {result} {name}(struct kvm_vcpu *v, {kinds[0]} x, {kinds[1]} y) {{ {body} }}\n"

    def function(self, name: str) -> str:
        """A function, with its helper before it."""
        before = self.helper() if self.chance(40) else ""
        self.locals, self.pointers, self.labels, self.loop = [], [], [], 0
        body = " ".join(self.statement(2) for _ in range(self.random.randrange(1, 4)))
        ends = " ".join(f"{label}: {self.assignment()}" for label in self.labels)
        self.helpers = []
        return f"{before}void {name}(struct kvm_vcpu *v) {{ {body} {ends} }}\n"
