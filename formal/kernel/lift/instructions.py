"""Inline assembly on the machine: what reads or writes a register, orders accesses, is patched, or branches to a label.

An instruction that only computes leaves its outputs unknown; one that is not known refuses the function.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Mapping

from formal.kernel.lift.assembly import Assembly, KeyBranch, Patched, Step, parse, unquoted
from formal.kernel.lift.unknowns import Unknowns
from formal.kernel.lift.values import IntType, Object, Pointer, Value, choose, pointer_to, resized, truth
from formal.kernel.parse import clang
from formal.kernel.parse.clang import Cursor, Kind, Type, children
from formal.kernel.parse.encodings import Registers
from formal.kernel.text.numbers import number
from formal.logic import terms as t
from formal.logic.terms import BOOL, FALSE, TRUE, Not, Term

NON_NESTED = "the guest has no EL2 (no CPU has the capability ARM64_HAS_NESTED_VIRT)"
NON_HVHE = "the hypervisor of nVHE runs with HCR_EL2.E2H clear (not hVHE)"
FINAL = "capabilities are final when KVM runs"
_ALWAYS = ("ARM64_ALWAYS_BOOT", "ARM64_ALWAYS_SYSTEM")
_ORDER = frozenset("nop isb dsb dmb hint yield psb tsb csdb sb esb wfe wfi sev sevl bti prfm clrex ssbb pssbb".split())
_CACHES = frozenset(("tlbi", "ic", "dc"))  # maintenance; dc zva and the like write memory
_PSTATE = frozenset("daifset daifclr spsel pan uao dit ssbs tco allint".split())  # immediate: none is modelled
_COMPUTES = re.compile(
    r"adcs?|adds?|adrp?|ands?|asr|bf(i|m|xil)|bics?|ccm[np]|cinc|cl[sz]|cm[np]|cneg|csetm?|cs(el|inc|inv|neg)|crc32c?[bhwx]|"
    r"eo[nr]|extr|ls[lr]|madd|mneg|mov[knz]?|msub|mul|mvn|negs?|or[nr]|rbit|rev(16|32)?|ror|sbcs?|[su]bfi?[mxz]|[su]div|"
    r"[su]mulh|[su]mull|subs?|[su]xt[bhw]|tst|ld(r|rb|rh|rsw|p|xr|axr|xp|axp|ar|apr|tr|trb|trh)|xpac[di]|irg"
)
_STORES = re.compile(
    r"st(l?xr|l?xp|r|p|lr)[bh]?|(ld|st)(add|clr|set|eor)(a|l|al)?[bh]?|swp(a|l|al)?[bh]?|casp?(a|l|al)?[bh]?"
)
_USER = re.compile(r"sttr[bh]?")  # writes the memory of user space (Arm ARM C6.2, STTR)
_LOCAL = re.compile(r"(b(\.\w+)?|cbn?z|tbn?z)\b.*\b\d+[bf]$")
_SPELLED = re.compile(r"s(\d+)_(\d+)_c(\d+)_c(\d+)_(\d+)")
_SAME_OBJECT = "kvm_update_va_mask"  # the callback that makes an address of the host one of EL2
_NO_CHANGE = "alt_cb_patch_nops"  # the callback that writes nops


class Instructions(Unknowns):
    """Executes assembly on the machine."""

    vhe: bool
    nests: bool  # the tree has nested virtualization as v6.18 has it, and the host runs at EL2
    capabilities: Mapping[int, str]
    registers: Registers

    @abstractmethod
    def source(self, cursor: Cursor) -> tuple[str, int, str]:
        """File (below the tree), line and text of a piece of source."""

    def assembly(self, cursor: Cursor) -> None:
        """Executes an assembly statement, or the call that stands for one."""
        statement, text, word = _parts(cursor)
        found = parse(text if text is not None else self.spelled(statement))
        if found is None:
            raise self.refusal(cursor, "assembly that is not understood")
        _Run(self, found, statement, cursor, word).run()

    @abstractmethod
    def at_el2(self, cursor: Cursor) -> bool:
        """Whether a piece of source runs at EL2."""

    @abstractmethod
    def spelled(self, cursor: Cursor) -> str:
        """What stands between the parentheses of an assembly statement in the source, macros not expanded."""

    # ---- what assembly asks of the machine

    def has_capability(self, code: int, cursor: Cursor) -> Term:
        """Whether the CPUs have a capability, by its number."""
        name = self.capabilities.get(code)
        if name is None:
            raise self.refusal(cursor, f"capability {code} has no name")
        if name in _ALWAYS:
            self.notes[FINAL] = None
            return TRUE
        if name == "ARM64_HAS_NESTED_VIRT" and not self.nests:
            self.notes[NON_NESTED] = None
            return FALSE
        if name == "ARM64_KVM_HVHE":
            self.notes[NON_HVHE] = None
            return FALSE
        return t.boolean(self.vhe) if name == "ARM64_HAS_VIRT_HOST_EXTN" else t.var(f"cap.{name}", BOOL)

    def static_key(self, pointer: Pointer, size: int, cursor: Cursor) -> Term:
        """Whether a static key is enabled."""
        if len(pointer.choices) != 1 or pointer.choices[0][1] is None:
            raise self.refusal(cursor, "a static key chosen at run time")
        address = pointer.choices[0][1]
        kind = address.object.type.get_canonical() if address.object.type is not None else None
        if kind is not None and kind.kind == clang.TypeKind.CONSTANTARRAY:
            index, rest = divmod(address.offset, max(1, clang.bits(kind.element_type) // 8))
            if not rest and kind.element_count in (len(self.capabilities), self.capability_count()):
                return self.has_capability(index, cursor)  # an array of keys, one for each capability
        name = address.object.name if address.offset == 0 else self.layout.name(address, size)
        if name in ("arm64_const_caps_ready",):
            self.notes[FINAL] = None
            return TRUE
        return t.var(f"key.{name}", BOOL)

    def capability_count(self) -> int:
        """How many capabilities the tree has."""
        numbers = {name: code for code, name in self.capabilities.items()}
        return numbers.get("ARM64_NCAPS", len(self.capabilities))

    def register(self, name: str) -> Pointer:
        """Where a System register is."""
        return pointer_to(Object(f"hw.{name}", "hardware"))

    def jump(self, label: str, cursor: Cursor) -> None:
        """The current paths go on at a label further down."""
        if label in self.scopes[-1].passed:
            raise self.refusal(cursor, f"goto {label} backwards")
        self.scopes[-1].pending.setdefault(label, []).append(self.leave())


class _Run:
    """One execution of an assembly statement."""

    def __init__(self, machine: Instructions, found: Assembly, statement: Cursor, cursor: Cursor, word: Type) -> None:
        self.machine, self.asm, self.cursor, self.word = machine, found, cursor, word
        self.operands = children(statement)
        self.values: dict[int, Value] = {}
        if len(self.operands) < len(found.outputs) + len(found.inputs):
            raise machine.refusal(cursor, "assembly with operands that cannot be read")

    def run(self) -> None:
        m, outputs = self.machine, self.asm.outputs
        for n, operand in enumerate(self.asm.inputs, len(outputs)):
            if operand.in_memory:
                continue
            value = m.operand(self.operands[n])
            self.values[n] = value
            if operand.constraint.isdigit() and int(operand.constraint) < len(outputs):
                self.values[int(operand.constraint)] = value
        for n, operand in enumerate(outputs):
            if operand.constraint.startswith("+") and not operand.in_memory:
                self.values[n] = m.operand(self.operands[n])
        self._steps(self.asm.steps)
        for n, operand in enumerate(outputs):
            if m.state.live is FALSE:
                return
            place = self.operands[n]
            if operand.in_memory and not self._stores():
                continue
            value = self.values[n] if n in self.values and not operand.in_memory else self._any(n)
            if isinstance(value, Term) and clang.is_integer(place.type):
                value = resized(value, IntType(t.width(value), False), clang.bits(place.type))
            m.store(m.place(place), place.type, value, self.cursor)

    def _stores(self) -> bool:
        return any(isinstance(step, str) and _STORES.fullmatch(step.split()[0]) for step in self._all(self.asm.steps))

    def _all(self, steps: tuple[Step, ...]) -> list[Step]:
        found: list[Step] = []
        for step in steps:
            found += [*self._all(step.old), *self._all(step.new)] if isinstance(step, Patched) else [step]
        return found

    def _any(self, n: int) -> Value:
        return self.machine.unknown(self.operands[n], self.operands[n].type, "what this assembly gives")

    def _steps(self, steps: tuple[Step, ...]) -> None:
        for step in steps:
            if self.machine.state.live is FALSE:
                return
            if isinstance(step, Patched):
                self._patched(step)
            elif isinstance(step, KeyBranch):
                self._branch(step)
            else:
                self._instruction(step)

    def _constant(self, reference: str) -> int | None:
        n = self.asm.index(reference)
        value = self.values.get(n) if n is not None else None
        return t.value_of(value) if isinstance(value, Term) and t.is_const(value) else None

    def _patched(self, step: Patched) -> None:
        m = self.machine
        code = number(step.capability, self._constant)
        if step.callback == _SAME_OBJECT:
            return
        if step.callback and step.callback != _NO_CHANGE:
            raise m.refusal(self.cursor, f"instructions that {step.callback}() writes")
        if code is None:
            condition = truth(m.unknown(self.cursor, None, "which instructions stand here"))
        else:
            condition = m.has_capability(code & 0x7FFF, self.cursor)
        before = dict(self.values)
        sides: list[dict[int, Value]] = []

        def side(steps: tuple[Step, ...]) -> Callable[[], None]:
            def run() -> None:
                self.values = dict(before)
                self._steps(steps)
                sides.append(self.values)

            return run

        m.either(condition, side(step.new), side(step.old))
        if len(sides) == 2:
            self.values = {n: choose(condition, sides[0][n], sides[1][n]) for n in sides[0].keys() & sides[1].keys()}

    def _branch(self, step: KeyBranch) -> None:
        m, n, label = self.machine, self.asm.index(step.key), self.asm.label(step.label)
        value = self.values.get(n) if n is not None else None
        if not isinstance(value, Pointer) or label is None or len(value.choices) != 1 or value.choices[0][1] is None:
            raise m.refusal(self.cursor, "a branch by a static key that is not known")
        address = value.choices[0][1]
        odd = address.offset % 2
        key = Pointer(((TRUE, address._replace(offset=address.offset - odd)),))
        enabled = m.static_key(key, 1, self.cursor)
        m.either(Not(enabled) if odd else enabled, lambda: m.jump(label, self.cursor), lambda: None)

    # ---- instructions

    def _instruction(self, step: str) -> None:
        m = self.machine
        word, _, rest = step.partition(" ")
        word, parts = word.lower(), [part.strip() for part in rest.split(",")]
        if (
            word in _ORDER
            or _USER.fullmatch(word)
            or (word in _CACHES and not re.search(r"z?g?zva|gva", parts[0]))
            or _LOCAL.match(step)
        ):
            return
        if word == "b" and (label := self.asm.label(rest)) is not None:
            m.jump(label, self.cursor)
        elif word in ("mrs", "mrs_s") and len(parts) == 2:
            self._read(parts[0], self._named(word, parts[1]))
        elif word == "msr" and len(parts) == 2 and (parts[0].lower() in _PSTATE or number(parts[0]) is not None):
            return
        elif word in ("msr", "msr_s") and len(parts) == 2:
            self._write(self._named(word, parts[0]), parts[1])
        elif word == "mov" and len(parts) == 2 and self._moves(*parts):
            return
        elif _COMPUTES.fullmatch(word) or (_STORES.fullmatch(word) and any(o.in_memory for o in self.asm.outputs)):
            for n, operand in enumerate(self.asm.outputs):
                if not operand.in_memory:
                    self.values[n] = self._any(n)
        else:
            raise m.refusal(self.cursor, f"the instruction {step[:60]}")

    def _moves(self, target: str, source: str) -> bool:
        """Gives one operand the value of another, where both are whole registers; whether it is that."""
        to, of = (self.asm.index(part) if re.match(r"%x?[\d\[]", part) else None for part in (target, source))
        if to is None or of is None or to >= len(self.asm.outputs) or of not in self.values:
            return False
        if any(clang.bits(self.operands[n].type) != 64 for n in (to, of)):
            return False
        self.values[to] = self.values[of]
        return True

    def _named(self, word: str, text: str) -> str:
        if word.endswith("_s"):
            code = number(text, self._constant)
            if code is None:
                raise self.machine.refusal(self.cursor, f"the register {text[:60]}")
            return self.machine.registers.name(code)
        name = text.lower()
        if found := _SPELLED.fullmatch(name):
            op0, op1, crn, crm, op2 = map(int, found.groups())
            return self.machine.registers.name(op0 << 19 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5)
        if not re.fullmatch(r"[a-z]\w*", name):
            raise self.machine.refusal(self.cursor, f"the register {text[:60]}")
        return name

    def _read(self, target: str, name: str) -> None:
        m, n = self.machine, self.asm.index(target)
        if n is None or n >= len(self.asm.outputs):
            raise m.refusal(self.cursor, f"mrs into {target}")
        kind = self.operands[n].type
        if name == "currentel":
            self.values[n] = t.const((2 if m.at_el2(self.cursor) else 1) << 2, 64)  # Arm ARM C5.2.2
            return
        if not clang.is_integer(kind) or clang.bits(kind) != 64:
            self.values[n] = self._any(n)
            return
        self.values[n] = m.load(m.register(name), kind, self.cursor)

    def _write(self, name: str, source: str) -> None:
        m, n = self.machine, self.asm.index(source)
        if source.lower() == "xzr" and self.word is not None:
            m.store(m.register(name), self.word, t.const(0, 64), self.cursor)
            return
        if n is None:
            raise m.refusal(self.cursor, f"msr of {source}")
        value, kind = self.values.get(n), self.operands[n].type
        if not isinstance(value, Term) or clang.bits(kind) != 64:
            raise m.refusal(self.cursor, f"msr of {source}, which is not 64 bits wide")
        m.store(m.register(name), kind, value, self.cursor)


def _parts(cursor: Cursor) -> tuple[Cursor, str | None, Type]:
    """The assembly statement, its text where the overlay kept it, and then a type of 64 bits."""
    if cursor.kind == Kind.ASM_STMT:
        return cursor, None, None
    inside = clang.preorder(cursor)
    statement = next(c for c in inside if c.kind == Kind.ASM_STMT)
    literal = [c for c in inside if c.kind == Kind.STRING_LITERAL][-1]
    return statement, unquoted(literal.spelling), inside[-1].type
