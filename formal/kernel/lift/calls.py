"""Calls: what the front end knows by name, and everything else by lifting the body of the function called.

A function known by name (an intrinsic) is one that no body explains: a register access, a per-CPU pointer, a question
about the CPU. If the tree defines it inline, its definition is first compared with the reviewed forms.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping

from formal.kernel.lift.statements import Statements
from formal.kernel.lift.values import Object, Pointer, Value, from_truth, pointer_to, truth
from formal.kernel.parse import clang
from formal.kernel.parse.clang import Cursor, Kind, children
from formal.kernel.parse.encodings import Registers
from formal.kernel.text import forms
from formal.logic import terms as t
from formal.logic.terms import BOOL, TRUE, And, Not, Term, is_const, value_of

NON_NESTED = "the guest has no EL2 (vcpu_has_nv() is false)"
REQUESTS = "requests to a vCPU of kvm_make_request() change no state by being made"
MASKS = "kvm_vcpu_apply_reg_masks() changes no bit: registers have no RES0 and RES1 bits"
HAS_EL2, NESTED = "guest.has_nv", "guest.nested"  # the state's has_nv and nested, where the tree knows them
INJECTED = "hw.exception to the guest hypervisor"  # not 0: a function has called kvm_inject_nested_sync
HYP_CALL = "a hypercall runs the function of its name at EL2 with its arguments"
TRACE = "tracepoints do not change state"
LOGGING = "log messages do not change state"
USER_COPY_FAILS = "copy_from_user() fails"
USER_COPY = "copy_from_user() copies what user space gives, or fails and leaves anything"
_CAPABILITY = ("cpus_have_final_cap", "cpus_have_const_cap", "cpus_have_final_boot_cap", "cpus_have_cap",
               "alternative_has_cap_likely", "alternative_has_cap_unlikely", "alternative_has_feature_likely",
               "alternative_has_feature_unlikely")  # fmt: skip
_COUNTING = (
    "ffs",
    "ffsl",
    "ffsll",
    "clz",
    "clzl",
    "clzll",
    "ctz",
    "ctzl",
    "ctzll",
    "popcount",
    "popcountl",
    "popcountll",
)
_FOLDED = frozenset(f"__builtin_{name}" for name in (*_COUNTING, "constant_p", "offsetof", "types_compatible_p"))
# outside KVM: taken by their names
_LIBRARY = ("copy_from_user", "copy_to_user", "set_bit", "clear_bit", "read_cpuid_id", "arch_local_save_flags",
            "arch_timer_read_cntpct_el0", "kvm_make_request")  # fmt: skip
OUTLINE = "vcpu_load and vcpu_put change the debug state by the parts that they call for it, and by nothing else"
VM_AT_EL2 = "the hypervisor's VM"
PROTECTED = "what the hypervisor at EL2 has of a VM is an object of its own"


class Calls(Statements):
    """Evaluates calls on the machine."""

    vhe: bool
    nests: bool  # the tree has nested virtualization as v6.18 has it, and the host runs at EL2
    capabilities: Mapping[int, str]
    registers: Registers

    @abstractmethod
    def definition(self, callee: Cursor, cursor: Cursor) -> Cursor | None:
        """The definition of the function called, wherever the program has it."""

    @abstractmethod
    def outlined(self, name: str) -> tuple[Cursor, ...]:
        """The parts that stand for a function that is not lifted whole: each takes its first argument."""

    @abstractmethod
    def reviewed(self, callee: Cursor) -> None:
        """Refuses an inline definition of an intrinsic that nobody has read."""

    @abstractmethod
    def source(self, cursor: Cursor) -> tuple[str, int, str]:
        """File, line and text of a piece of source."""

    @abstractmethod
    def is_tracepoint(self, name: str) -> bool:
        """Whether ``trace_<name>`` is a tracepoint of the file being lifted."""

    def call(self, cursor: Cursor) -> Value | None:
        """Evaluates a call."""
        callee = cursor.referenced
        if callee is None or callee.kind != Kind.FUNCTION_DECL:
            raise self.refusal(cursor, "a call through a pointer")
        name: str = callee.spelling
        arguments = list(cursor.get_arguments())
        if name in _FOLDED:
            return self._folded(cursor, name)
        intrinsic = self._intrinsics().get(name) or (self._of_nested().get(name) if self.nests else None)
        if intrinsic is not None:
            if not name.startswith("__") and name not in _LIBRARY:
                self.reviewed(callee)
            return intrinsic(cursor, arguments)
        if name in _CAPABILITY:
            self.reviewed(callee)
            return self._capability(cursor, arguments)
        values = [self._argument(argument) for argument in arguments]
        if name.startswith("trace_") and self.is_tracepoint(name.removeprefix("trace_")):
            self.notes[TRACE] = None
            return None
        parts = self.outlined(name)
        for part in parts:
            self.enter(part, values[:1])
        if parts:
            self.notes[OUTLINE] = None
            return None
        definition = self.definition(callee, cursor)
        if definition is None:
            raise self.refusal(cursor, f"{name}() is not defined in the files read")
        return self.enter(definition, values)

    def _argument(self, argument: Cursor) -> Value:
        value = self.value(argument)
        if value is None:
            raise self.refusal(argument, "an argument without a value")
        return value

    def _intrinsics(self) -> dict[str, Callable[[Cursor, list[Cursor]], Value | None]]:
        return {
            "__builtin_expect": lambda c, a: self._first(a),
            "__builtin_unreachable": self._bug,
            "__lift_nothing": lambda c, a: None,
            "__lift_host_is_vhe": lambda c, a: from_truth(t.boolean(self.vhe), clang.bits(c.type)),
            "__lift_static_key": self._static_key,
            "__lift_bug": self._bug,
            "__lift_bug_on": self._bug_on,
            "__lift_warn_on": self._warn_on,
            "__lift_this_cpu_ptr": self._this_cpu,
            "__lift_read_register": lambda c, a: self._read_register(c, self._text(a[0])),
            "__lift_write_register": lambda c, a: self._write_register(c, a[0], self._text(a[1])),
            "__lift_read_encoded": lambda c, a: self._read_register(c, self._encoded(a[0], a[1])),
            "__lift_write_encoded": lambda c, a: self._write_register(c, a[0], self._encoded(a[1], a[2])),
            "has_vhe": lambda c, a: from_truth(t.boolean(self.vhe), clang.bits(c.type)),
            "is_kernel_in_hyp_mode": lambda c, a: from_truth(t.boolean(self.vhe), clang.bits(c.type)),
            "vcpu_has_nv": self._has_nv,
            "kvm_vcpu_apply_reg_masks": self._masked,  # its text: formal/kernel/recognition/reviewed.py
            "read_sanitised_ftr_reg": self._sanitised,
            "get_current": lambda c, a: pointer_to(Object("current", "pointee", c.type.get_canonical().get_pointee())),
            "copy_from_user": self._copy_from_user,
            "copy_to_user": lambda c, a: t.var(f"copy_to_user()#{self.serial()}", clang.bits(c.type)),
            "set_bit": lambda c, a: self._change_bit(c, a, True),
            "clear_bit": lambda c, a: self._change_bit(c, a, False),
            "read_cpuid_id": lambda c, a: self._open_value(c, "MIDR_EL1"),
            "arch_local_save_flags": lambda c, a: self._open_value(c, "the interrupt mask"),
            "arch_timer_read_cntpct_el0": lambda c, a: self._open_value(c, "CNTPCT_EL0"),
            "pkvm_vcpu_get_kvm": self._protected,
            "pkvm_vcpu_put_kvm": self._protected,
            "print_sys_reg_msg": self._logging,
            "printk": self._logging,
            "_printk": self._logging,
        }

    def _of_nested(self) -> dict[str, Callable[[Cursor, list[Cursor]], Value | None]]:
        """What is asked of a guest that may be a hypervisor."""
        return {
            "is_hyp_ctxt": lambda c, a: self._asked(c, a, And(t.var(HAS_EL2, BOOL), Not(t.var(NESTED, BOOL)))),
            "is_nested_ctxt": lambda c, a: self._asked(c, a, t.var(NESTED, BOOL)),
            "kvm_inject_nested_sync": self._injects,
            "kvm_make_request": self._requests,
        }

    def _folded(self, cursor: Cursor, name: str) -> Term:
        number = clang.constant(cursor)
        if number is None:
            if name != "__builtin_constant_p":
                raise self.refusal(cursor, f"{name} of something that is not constant")
            number = 0
        return t.const(number, clang.bits(cursor.type))

    def assembly(self, cursor: Cursor) -> None:
        """Refuses an assembly statement, unless it is known to do nothing that is modelled."""
        file, line, text = self.source(cursor)
        forms.known().check("asm", text, file, line)

    def _logging(self, cursor: Cursor, arguments: list[Cursor]) -> Value | None:
        for argument in arguments:
            self.value(argument)
        self.notes[LOGGING] = None
        return t.const(0, clang.bits(cursor.type)) if clang.is_integer(cursor.type) else None

    def _open_value(self, cursor: Cursor, what: str) -> Term:
        """Anything, whenever it is asked for."""
        return t.var(f"{what}#{self.serial()}", clang.bits(cursor.type))

    def _change_bit(self, cursor: Cursor, arguments: list[Cursor], value: bool) -> None:
        """One bit of an array of longs, atomically."""
        number, place = self.integer(arguments[0]), self.pointer(arguments[1])
        long = clang.strip_casts(arguments[1]).type.get_canonical().get_pointee()
        if not is_const(number) or value_of(number) >= 64 or clang.bits(long) != 64:
            raise self.refusal(cursor, "a bit chosen at run time, or beyond the first word")
        before, mask = self.load(place, long, cursor), t.const(1 << value_of(number), 64)
        assert isinstance(before, Term)
        self.store(place, long, before | mask if value else before & ~mask, cursor)

    def _protected(self, cursor: Cursor, arguments: list[Cursor]) -> Value | None:
        self.notes[PROTECTED] = None
        if not clang.is_pointer(cursor.type):
            return None
        return pointer_to(Object(VM_AT_EL2, "pointee", cursor.type.get_canonical().get_pointee()))

    def _static_key(self, cursor: Cursor, arguments: list[Cursor]) -> Value:
        pointer = self.pointer(arguments[0])
        if len(pointer.choices) != 1 or pointer.choices[0][1] is None:
            raise self.refusal(cursor, "a static key chosen at run time")
        name = self.layout.name(pointer.choices[0][1], max(1, clang.bits(cursor.type) // 8))
        return from_truth(t.var(f"key.{name}", BOOL), clang.bits(cursor.type))

    def _first(self, arguments: list[Cursor]) -> Value:
        return self._argument(arguments[0])

    # ---- errors

    def _bug(self, cursor: Cursor, _arguments: list[Cursor]) -> None:
        self.require(TRUE, "bug", "BUG is reached", cursor)
        self.leave()

    def _bug_on(self, cursor: Cursor, arguments: list[Cursor]) -> None:
        condition = truth(self._argument(arguments[0]))
        self.require(condition, "bug", "the condition of BUG_ON holds", cursor)
        self.state.live = And(self.state.live, Not(condition))
        self.escapes += 1

    def _warn_on(self, cursor: Cursor, arguments: list[Cursor]) -> Value:
        value = self._argument(arguments[0])
        self.require(truth(value), "warn", "the condition of a warning holds", cursor)
        return value

    # ---- registers and per-CPU memory

    def _text(self, cursor: Cursor) -> str:
        literals = [c for c in clang.preorder(cursor) if c.kind == Kind.STRING_LITERAL]
        if not literals:
            raise self.refusal(cursor, "a register name was expected")
        return str(literals[0].spelling).strip('"').strip().lower()

    def _encoded(self, encoding: Cursor, written: Cursor) -> str:
        number = self.integer(encoding)
        if not is_const(number):
            raise self.refusal(encoding, "a register chosen at run time")
        return self.registers.name(value_of(number), self._text(written).upper())

    def _register(self, name: str) -> Pointer:
        return pointer_to(Object(f"hw.{name}", "hardware"))

    def _read_register(self, cursor: Cursor, name: str) -> Value:
        return self.load(self._register(name), cursor.type, cursor)

    def _write_register(self, cursor: Cursor, value: Cursor, name: str) -> None:
        self.store(self._register(name), value.type, self.integer(value), cursor)

    def _this_cpu(self, cursor: Cursor, arguments: list[Cursor]) -> Pointer:
        pointer = self.pointer(arguments[0])
        choices = []
        for guard, address in pointer.choices:
            if address is None or address.object.place != "global":
                raise self.refusal(cursor, "this CPU's instance of something that is no per-CPU variable")
            instance = Object(f"percpu.{address.object.name}", "percpu", address.object.type)
            choices.append((guard, address._replace(object=instance)))
        return Pointer(tuple(choices))

    # ---- questions about the CPU and the guest

    def _capability(self, cursor: Cursor, arguments: list[Cursor]) -> Value:
        number = self.integer(arguments[0])
        if not is_const(number):
            raise self.refusal(cursor, "a capability chosen at run time")
        name = self.capabilities.get(value_of(number))
        if name is None:
            raise self.refusal(cursor, f"capability {value_of(number)} has no name")
        if name == "ARM64_HAS_VIRT_HOST_EXTN":
            return from_truth(t.boolean(self.vhe), clang.bits(cursor.type))
        return from_truth(t.var(f"cap.{name}", BOOL), clang.bits(cursor.type))

    def _asked(self, cursor: Cursor, arguments: list[Cursor], answer: Term) -> Value:
        if self._argument(arguments[0]) != Pointer(((TRUE, self.address("vcpu")),)):
            raise self.refusal(cursor, "asked of another vCPU")
        return from_truth(answer, clang.bits(cursor.type))

    def _has_nv(self, cursor: Cursor, arguments: list[Cursor]) -> Value:
        if self.nests:
            return self._asked(cursor, arguments, t.var(HAS_EL2, BOOL))
        self._argument(arguments[0])
        self.notes[NON_NESTED] = None
        return t.const(0, clang.bits(cursor.type))

    def _masked(self, cursor: Cursor, arguments: list[Cursor]) -> Value:
        """What a register is taken to hold: what was written to it."""
        self.notes[MASKS] = None
        return self._argument(arguments[2])

    def _requests(self, cursor: Cursor, arguments: list[Cursor]) -> None:
        """Something to do before the next entry, such as programming the counters: nothing that is modelled."""
        for argument in arguments:
            self._argument(argument)
        self.notes[REQUESTS] = None

    def _injects(self, cursor: Cursor, arguments: list[Cursor]) -> Value:
        """An exception for the guest hypervisor: noted, and compared with the operation kvm_inject_nested."""
        for argument in arguments:
            self._argument(argument)
        one = t.const(1, clang.bits(cursor.type))
        self.store(self._register(INJECTED.removeprefix("hw.")), cursor.type, one, cursor)
        return one

    def _sanitised(self, cursor: Cursor, arguments: list[Cursor]) -> Value:
        encoding = self.integer(arguments[0])
        if not is_const(encoding):
            raise self.refusal(cursor, "a register chosen at run time")
        name = self.registers.name(value_of(encoding))
        return t.var(f"sanitised.{name}", clang.bits(cursor.type))

    def _copy_from_user(self, cursor: Cursor, arguments: list[Cursor]) -> Value:
        target, size = self.pointer(arguments[0]), self.integer(arguments[2])
        if not is_const(size) or value_of(size) not in (1, 2, 4, 8):
            raise self.refusal(cursor, "a copy from user space of unknown or great size")
        self.pointer(arguments[1])
        self.notes[USER_COPY] = None
        whole = clang.strip_casts(arguments[0]).type.get_canonical().get_pointee()
        if clang.bits(whole) != value_of(size) * 8:
            raise self.refusal(cursor, f"{value_of(size)} bytes from user space into {whole.spelling}")
        number = self.serial()
        fault = t.var(f"{USER_COPY_FAILS}#{number}", BOOL)
        wrong = t.var(f"after copy_from_user()#{number}", value_of(size) * 8)
        self.store(target, whole, t.If(fault, wrong, t.var("from user space", value_of(size) * 8)), cursor)
        return t.If(fault, t.const(1, clang.bits(cursor.type)), t.const(0, clang.bits(cursor.type)))


def empty_body(function: Cursor) -> bool:
    """Whether a function's body has no statement."""
    bodies = [c for c in children(function) if c.kind == Kind.COMPOUND_STMT]
    return len(bodies) == 1 and not children(bodies[0])
