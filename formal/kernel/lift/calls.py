"""Calls: what the front end knows by name, and everything else by lifting the body of the function called.

A function known by name (an intrinsic) is one that no body explains: a per-CPU pointer, a lock, a message.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

from formal.kernel.errors import NotUnderstoodError
from formal.kernel.lift.instructions import Instructions
from formal.kernel.lift.values import Object, Pointer, Value, from_truth, pointer_to, truth
from formal.kernel.parse import clang
from formal.kernel.parse.clang import Cursor, Kind, Type, children
from formal.logic import terms as t
from formal.logic.known import folded
from formal.logic.terms import BOOL, TRUE, And, Not, Term, is_const, value_of

REQUESTS = "requests to a vCPU of kvm_make_request() change no state by being made"
MASKS = "kvm_vcpu_apply_reg_masks() changes no bit: registers have no RES0 and RES1 bits"
HAS_EL2, NESTED = "guest.has_nv", "guest.nested"  # the state's has_nv and nested, where the tree knows them
INJECTED = "hw.exception to the guest hypervisor"  # not 0: a function has called kvm_inject_nested_sync
HYP_CALL = "a hypercall runs the function of its name at EL2 with its arguments"
TRACE = "tracepoints do not change state"
LOGGING = "log messages do not change state"
USER_COPY_FAILS = "copy_from_user() fails"
USER_COPY = "copy_from_user() copies what user space gives, or fails and leaves anything"
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
COPIES = frozenset("memcpy memmove memset __memcpy __memmove __memset".split())  # and what the compiler makes of them
COPIES |= {f"__builtin_{name}" for name in COPIES}
_PREEMPTION = ("__preempt_count_add", "__preempt_count_sub", "__preempt_count_dec_and_test", "preempt_count_add",
               "preempt_count_sub", "preempt_schedule", "preempt_schedule_notrace")  # fmt: skip
OUTLINE = "vcpu_load and vcpu_put change the debug state by the parts that they call for it, and by nothing else"
HOST_CONTEXT = "percpu.kvm_host_data.host_ctxt"
PER_CPU = {"kvm_host_cpu_state": HOST_CONTEXT}  # before v5.1
VM_AT_EL2 = "the hypervisor's VM"
PROTECTED = "what the hypervisor at EL2 has of a VM is an object of its own"


class Calls(Instructions):
    """Evaluates calls on the machine."""

    @abstractmethod
    def definition(self, callee: Cursor, cursor: Cursor) -> Cursor | None:
        """The definition of the function called, wherever the program has it."""

    @abstractmethod
    def outlined(self, name: str) -> tuple[Cursor, ...]:
        """The parts that stand for a function that is not lifted whole: each takes its first argument."""

    @abstractmethod
    def source(self, cursor: Cursor) -> tuple[str, int, str]:
        """File, line and text of a piece of source."""

    @abstractmethod
    def is_tracepoint(self, name: str, cursor: Cursor) -> bool:
        """Whether ``trace_<name>`` is a tracepoint of the file in which it is called."""

    def call(self, cursor: Cursor) -> Value | None:
        """Evaluates a call."""
        callee = clang.callee(cursor)
        if callee is None or callee.kind != Kind.FUNCTION_DECL:
            return self._through_pointer(cursor)
        name: str = callee.spelling
        arguments = list(cursor.get_arguments())
        if name in _FOLDED:
            return self._folded(cursor, name)
        intrinsic = self._intrinsics().get(name) or (self._of_nested().get(name) if self.nests else None)
        if intrinsic is not None:
            if not name.startswith("__") and any(map(_assigns, arguments)):  # not all arguments are evaluated
                raise self.refusal(cursor, f"an assignment in the arguments of {name}()")
            return intrinsic(cursor, arguments)
        return self._called(callee, [self._argument(argument) for argument in arguments], cursor)

    def _called(self, callee: Cursor, values: list[Value], cursor: Cursor) -> Value | None:
        name: str = callee.spelling
        if name in COPIES and self._copied(name, list(cursor.get_arguments()), values, cursor):
            return values[0]
        if name.startswith("trace_") and self.is_tracepoint(name.removeprefix("trace_"), cursor):
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
            return self.opaque_call(cursor, values, self.refusal(cursor, f"{name}() is not defined in the files read"))
        kept = self.keep()
        try:
            return self.enter(definition, values)
        except NotUnderstoodError as error:
            self.take_back(kept)
            return self.opaque_call(cursor, values, error)

    def _through_pointer(self, cursor: Cursor) -> Value | None:
        """A call of what a pointer points to: one of some functions, each where the pointer points to it."""
        values = [self._argument(a) for a in cursor.get_arguments()]
        kept, pointer = self.keep(), None
        try:
            pointer = self.value(children(cursor)[0]) if children(cursor) else None
        except NotUnderstoodError:
            self.take_back(kept)
        choices = pointer.choices if isinstance(pointer, Pointer) else ()
        targets = [(guard, self.functions.get(a.object.name) if a is not None and a.object.place == "text" else None)
                   for guard, a in choices]  # fmt: skip
        taken = [str(function.spelling) for _, function in targets if function is not None]
        special = {*_FOLDED, *COPIES, *self._intrinsics(), *self._of_nested()}
        if not taken or len(taken) < len(targets) or not special.isdisjoint(taken):
            return self.opaque_call(cursor, values, self.refusal(cursor, "a call through a pointer"))

        def chosen(left: list[tuple[Term, Cursor | None]]) -> Value | None:
            guard, function = left[0]
            assert function is not None
            if len(left) == 1:
                return self._called(function, values, cursor)
            return self.either(guard, lambda: self._called(function, values, cursor), lambda: chosen(left[1:]))

        return chosen(targets)

    def _copied(self, name: str, arguments: list[Cursor], values: list[Value], cursor: Cursor) -> bool:
        """Copies or clears a whole object as an assignment does; False if it is none, or not all of one."""
        target, source, size = values
        size = folded(size) if isinstance(size, Term) else size
        kind, other = (_whole(argument) for argument in arguments[:2])
        if not isinstance(target, Pointer) or not isinstance(size, Term) or not is_const(size):
            return False
        if kind.kind == clang.TypeKind.VOID or clang.bits(kind) != value_of(size) * 8:
            return False
        kept = self.keep()
        try:
            if isinstance(source, Pointer) and other.spelling.removeprefix("const ") == kind.spelling:
                self.copy(target, source, kind, cursor)
            elif isinstance(source, Term) and is_const(source) and value_of(source) == 0:
                self.clear(target, kind, cursor)
            else:
                return False
        except NotUnderstoodError:
            self.take_back(kept)
            return False
        return True

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
            "__lift_static_key": self._static_key,
            "__lift_bug": self._bug,
            "__lift_bug_on": self._bug_on,
            "__lift_warn_on": self._warn_on,
            "__lift_this_cpu_ptr": self._this_cpu,
            "kvm_vcpu_apply_reg_masks": self._masked,
            **dict.fromkeys(("read_sanitised_ftr_reg", "read_system_reg"), self._sanitised),  # the latter before v4.11
            "get_current": lambda c, a: pointer_to(Object("current", "pointee", c.type.get_canonical().get_pointee())),
            "current_thread_info": lambda c, a: pointer_to(
                Object("current_thread", "pointee", c.type.get_canonical().get_pointee())
            ),
            "copy_from_user": self._copy_from_user,
            "copy_to_user": lambda c, a: t.var(f"copy_to_user()#{self.serial()}", clang.bits(c.type)),
            "set_bit": lambda c, a: self._change_bit(c, a, True),
            "clear_bit": lambda c, a: self._change_bit(c, a, False),
            "read_cpuid_id": lambda c, a: self._open_value(c, "MIDR_EL1"),
            "this_cpu_has_cap": lambda c, a: self._open_truth(c, "a capability of this CPU"),
            **dict.fromkeys(_PREEMPTION, lambda c, a: self._preemption(c)),
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
            "vcpu_has_nv": lambda c, a: self._asked(c, a, t.var(HAS_EL2, BOOL)),
            "is_hyp_ctxt": lambda c, a: self._asked(c, a, And(t.var(HAS_EL2, BOOL), Not(t.var(NESTED, BOOL)))),
            "is_nested_ctxt": lambda c, a: self._asked(c, a, t.var(NESTED, BOOL)),
            "kvm_inject_nested_sync": self._injects,
            "kvm_make_request": self._requests,
        }

    def _folded(self, cursor: Cursor, name: str) -> Value:
        number = clang.constant(cursor)
        if name == "__builtin_constant_p" and not number:  # true as well of what inlining makes constant
            argument = next(iter(cursor.get_arguments()))
            number = int(self.is_plain(argument) and is_const(self._value_of_plain(argument)))
        if number is None:
            for argument in cursor.get_arguments():
                self.value(argument)
            return self.unknown(cursor, cursor.type, f"{name} of something that is not constant")
        return t.const(number, clang.bits(cursor.type))

    def _value_of_plain(self, cursor: Cursor) -> Term:
        value = self.value(cursor)
        return value if isinstance(value, Term) else t.var("not constant", 1)

    def _logging(self, cursor: Cursor, arguments: list[Cursor]) -> Value | None:
        for argument in arguments:
            self.value(argument)
        self.notes[LOGGING] = None
        return t.const(0, clang.bits(cursor.type)) if clang.is_integer(cursor.type) else None

    def _open_value(self, cursor: Cursor, what: str) -> Term:
        """Anything, whenever it is asked for."""
        return t.var(f"{what}#{self.serial()}", clang.bits(cursor.type))

    def _preemption(self, cursor: Cursor) -> Value | None:
        """How deep preemption is off, which ``recognition/regions.py`` asks for; never 0 after a decrement."""
        return t.const(0, clang.bits(cursor.type)) if clang.is_integer(cursor.type) else None

    def _open_truth(self, cursor: Cursor, what: str) -> Term:
        return from_truth(t.var(f"{what}#{self.serial()}", BOOL), clang.bits(cursor.type))

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
        size = max(1, clang.bits(cursor.type) // 8)
        return from_truth(self.static_key(self.pointer(arguments[0]), size, cursor), clang.bits(cursor.type))

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

    # ---- per-CPU memory

    def _this_cpu(self, cursor: Cursor, arguments: list[Cursor]) -> Pointer:
        named = self._allocated(arguments[0])
        if named is not None:
            return pointer_to(Object(PER_CPU[named.spelling], "percpu", named.type.get_canonical().get_pointee()))
        pointer = self.pointer(arguments[0])
        choices = []
        for guard, address in pointer.choices:
            if address is None or address.object.place != "global":
                raise self.refusal(cursor, "this CPU's instance of something that is no per-CPU variable")
            name = PER_CPU.get(address.object.name, f"percpu.{address.object.name}")
            instance = Object(name, "percpu", address.object.type)
            choices.append((guard, address._replace(object=instance)))
        return Pointer(tuple(choices))

    def _allocated(self, argument: Cursor) -> Cursor | None:
        """The variable that names an instance of something on each CPU, if it is a pointer to it, as before v4.13."""
        while argument.kind in (Kind.UNEXPOSED_EXPR, Kind.PAREN_EXPR, Kind.CSTYLE_CAST_EXPR):
            argument = children(argument)[-1]
        found = argument.referenced if argument.kind == Kind.DECL_REF_EXPR else None
        known = found is not None and found.spelling in PER_CPU and clang.is_pointer(found.type)
        return found if known else None

    # ---- questions about the CPU and the guest

    def _asked(self, cursor: Cursor, arguments: list[Cursor], answer: Term) -> Value:
        if self._argument(arguments[0]) != Pointer(((TRUE, self.address("vcpu")),)):
            raise self.refusal(cursor, "asked of another vCPU")
        return from_truth(answer, clang.bits(cursor.type))

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
        self.store(self.register(INJECTED.removeprefix("hw.")), cursor.type, one, cursor)
        return one

    def _sanitised(self, cursor: Cursor, arguments: list[Cursor]) -> Value:
        encoding = self.integer(arguments[0])
        if not is_const(encoding):
            raise self.refusal(cursor, "a register chosen at run time")
        name = self.registers.name(value_of(encoding))
        return t.var(f"sanitised.{name}", clang.bits(cursor.type))

    def _copy_from_user(self, cursor: Cursor, arguments: list[Cursor]) -> Value:
        target, size = self.pointer(arguments[0]), folded(self.integer(arguments[2]))
        self.value(arguments[1])
        if not is_const(size) or value_of(size) not in (1, 2, 4, 8):
            self._any_bytes(target, cursor, "a copy from user space of unknown or great size")
            return self.unknown(cursor, cursor.type, "a copy from user space of unknown or great size")
        self.notes[USER_COPY] = None
        whole = clang.strip_casts(arguments[0]).type.get_canonical().get_pointee()
        if clang.bits(whole) != value_of(size) * 8:
            raise self.refusal(cursor, f"{value_of(size)} bytes from user space into {whole.spelling}")
        number = self.serial()
        fault = t.var(f"{USER_COPY_FAILS}#{number}", BOOL)
        wrong = t.var(f"after copy_from_user()#{number}", value_of(size) * 8)
        self.store(target, whole, t.If(fault, wrong, t.var("from user space", value_of(size) * 8)), cursor)
        return t.If(fault, t.const(1, clang.bits(cursor.type)), t.const(0, clang.bits(cursor.type)))


def _whole(argument: Cursor) -> Type:
    """The type of what an argument points to; of an array, its own."""
    kind = clang.strip_casts(argument).type.get_canonical()
    return kind if kind.kind == clang.TypeKind.CONSTANTARRAY else kind.get_pointee().get_canonical()


def empty_body(function: Cursor) -> bool:
    """Whether a function's body has no statement."""
    bodies = [c for c in children(function) if c.kind == Kind.COMPOUND_STMT]
    return len(bodies) == 1 and not children(bodies[0])


def _assigns(cursor: Cursor) -> bool:
    """Whether evaluating an expression changes memory, but for what functions inside it do."""
    for c in clang.preorder(cursor):
        if c.kind == Kind.COMPOUND_ASSIGNMENT_OPERATOR:
            return True
        if c.kind == Kind.BINARY_OPERATOR and clang.binary_operator(c) == "=":
            return True
        if c.kind == Kind.UNARY_OPERATOR and clang.unary_operator(c) in ("++", "--", "p++", "p--"):
            return True
    return False
