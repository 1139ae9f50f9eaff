"""The C functions of operations outside debug.c: trap handlers, ioctls, and which of their variables are what.

An operation is more than its C function: after a trap handler the caller skips the instruction. So each entry says
which state variables the function decides (``owns``); all others it has to leave alone. What the operation leaves
open (the value that a guest writes, the flags that user space gives) is what the function finds in its parameters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from formal.arch.registers import KVM_GUESTDBG
from formal.environment import OSLM_IMPLEMENTED
from formal.epochs import Kernel
from formal.kernel.errors import Gaps, NotUnderstoodError
from formal.kernel.lift.calls import INJECTED, USER_COPY_FAILS
from formal.kernel.lift.pointers import Mode as FrontMode
from formal.kernel.lift.program import Lifted, Program
from formal.kernel.model.binding import DEBUG_OWNER, KINDS, LOADED, ON_CPU, SYSREGS, UNMODELLED, Binding, understood
from formal.kernel.model.counterparts import Counterpart, Forwarding, Given, nothing
from formal.kernel.recognition import debugexit
from formal.kernel.source.tree import KVM
from formal.logic import terms as t
from formal.logic.evaluation import support
from formal.logic.terms import FALSE, TRUE, And, Eq, If, Or, Term
from formal.operations import Inputs, Operation, nests
from formal.state import Exit, State
from formal.transitions import OPERATIONS, forwards_debug_exception, handles_debug_exception

SYS_REGS, GUEST, HANDLE_EXIT = f"{KVM}/sys_regs.c", f"{KVM}/guest.c", debugexit.FILE
KVM_EXIT_DEBUG = 4  # include/uapi/linux/kvm.h
EC_SOFTSTP_LOW, EC_SHIFT = 0x32, 26  # ESR_EL2.EC (Arm ARM D24): software step from a lower Exception level
EC_OTHERS = (0x30, 0x34, 0x38, 0x3C)  # breakpoint, watchpoint, BKPT and BRK
_ELEMENT = re.compile(r"dbg->arch\.dbg_(bcr|bvr|wcr|wvr)\[(\d+)\]")


# what parameters are called here, whatever a tree calls them
PARAMETERS: Mapping[str, str] = {
    "sys_reg_params": "p", "sys_reg_desc": "rd", "kvm_guest_debug": "dbg", "unsigned long long": "val",
    "kvm_one_reg": "reg",
}  # fmt: skip
BY_REGISTER: Mapping[str, str] = {**PARAMETERS, "sys_reg_desc": "r"}


@dataclass(frozen=True)
class Handler:
    """An operation and its C function (or functions, one for each kind of register in a bank)."""

    operation: str
    functions: tuple[str, ...]
    file: str
    owns: frozenset[str]
    given: Given = nothing
    memory: Mapping[str, int | str] = field(default_factory=dict)
    result: int | None = None
    finds: Mapping[str, int] = field(default_factory=dict)  # lvalues that are not modelled: what they must hold after
    when: Callable[[Kernel], bool] = lambda k: True
    parts: tuple[Mapping[str, int | str], ...] = ({},)  # memory besides, if one function is for all kinds of register
    reloads: bool = False  # puts and loads the vCPU
    succeeds: Callable[[Lifted], Term | None] = lambda f: None  # exactly when the function returns 0
    forwarding: Forwarding | None = None  # then it returns 1
    names: Mapping[str, str] = field(default_factory=lambda: PARAMETERS)

    def lifted(self, program: Program, mode: FrontMode) -> list[Lifted]:
        """The functions; one that is for several kinds of registers, once for each.

        Raises:
            NotUnderstoodError: if one is not understood, or not there.
        """
        return [
            program.lift(name, mode, file=self.file, memory={**self.memory, **more}, names=self.names)
            for name in self.functions
            for more in self.parts
        ]


def _trapped_write(lifted: Lifted, s: State, i: Inputs) -> Mapping[str, Term]:
    return {"p->regval": i.bits("value"), "p->is_write": i.flag("is_write")}


def _trapped_mdcr(lifted: Lifted, s: State, i: Inputs) -> Mapping[str, Term]:
    return {"p->regval": i.bits("value")}


def _bank_access(lifted: Lifted, s: State, i: Inputs) -> Mapping[str, Term]:
    """One of four functions for one of sixteen registers: the two parts of an index into a bank."""
    index = i.index("index")
    number, kind = t.extract(index, 3, 0), t.extract(index, 5, 4)
    value = i.bits("value")
    return {
        "p->regval": value, "p->is_write": TRUE, "rd->CRm": t.zero_extend(number, 8),
        "rd->reg": t.zero_extend(number, 32), "kind": kind, **_from_user(lifted, value),
    }  # fmt: skip


def _from_user(lifted: Lifted, value: Term) -> Mapping[str, Term]:
    """A register's value that user space gives: up to v5.19 the handlers copy it themselves, which succeeds."""
    terms = [*lifted.writes.values(), *((lifted.result,) if lifted.result is not None else ())]
    failures = {name for term in terms for name in support(term) if name.startswith(USER_COPY_FAILS)}
    return {"val": value, "from user space": value, **dict.fromkeys(failures, FALSE)}


def _oslar_write(lifted: Lifted, s: State, i: Inputs) -> Mapping[str, Term]:
    return {"p->regval": t.concat(i.bits("C: regval", 63), _bit(i.flag("locks"))), "p->is_write": TRUE}


def _oslsr_value(lifted: Lifted, s: State, i: Inputs) -> Mapping[str, Term]:
    fixed = t.const(OSLM_IMPLEMENTED, 64)
    return {**_from_user(lifted, If(i.flag("locks"), fixed | t.const(2, 64), fixed)), "rd->val": fixed}


def _syndrome(lifted: Lifted, s: State, i: Inputs) -> Mapping[str, Term]:
    """ESR_EL2 of the exit that is handled: a software step, or another debug exception."""
    size = t.width(lifted.reads["vcpu->arch.fault.esr_el2"])
    other = i.bits("C: class", 2)
    code = t.const(EC_OTHERS[0], 6)
    for n, number in enumerate(EC_OTHERS[1:], 1):
        code = If(Eq(other, t.const(n, 2)), t.const(number, 6), code)
    code = If(s.exits_with(Exit.STEP), t.const(EC_SOFTSTP_LOW, 6), code)
    esr = t.concat(code, i.bits("C: syndrome", EC_SHIFT))
    return {"vcpu->arch.fault.esr_el2": t.zero_extend(esr, size), "vcpu->run != NULL": TRUE}


def _guest_debug(lifted: Lifted, s: State, i: Inputs) -> Mapping[str, Term]:
    bank = i.bank("bank")
    assert isinstance(bank.sort, tuple)
    found: dict[str, Term] = {"dbg->control": i.bits("control", 32)}
    for name in lifted.reads:
        if element := _ELEMENT.fullmatch(name):
            index = KINDS.index(element[1]) << 4 | int(element[2])
            found[name] = t.select(bank, t.const(index, bank.sort[0]))
    return found


def _valid_flags(f: Lifted) -> Term | None:
    control = f.reads.get("dbg->control")
    return None if control is None else Eq(control & t.const(~KVM_GUESTDBG.mask(), 32), t.const(0, 32))


def _bit(condition: Term) -> Term:
    return If(condition, t.const(1, 1), t.const(0, 1))


AARCH64: Mapping[str, int | str] = {"rd->aarch32_map": 0, "p->is_32bit": 0}
BANKS = ("bcr", "bvr", "wcr", "wvr")

# from v6.14 one function for all kinds of register in a bank, told apart by Op2 (Arm ARM D24.3)
OP2: Mapping[str, int] = {"bcr": 5, "bvr": 4, "wcr": 7, "wvr": 6}
_KINDS: tuple[Mapping[str, int | str], ...] = tuple({"rd->Op2": OP2[kind]} for kind in BANKS)
_OWNED = frozenset(("debug_owner", "mdcr_el2", "hw_mdcr_el2"))  # what a trapped access decides, from v6.14
_LOADED = _OWNED | {"external_mdscr_el1", "mdcr_el2_host", "guest_ss_pending", "ss_active_pending", "pstate",
                    "hw_pmuserenr_el0", "host_ctxt_pmuserenr_el0"}  # fmt: skip


TAKING = (DEBUG_OWNER, "vcpu->arch.mdcr_el2", "hw.mdcr_el2")  # the same as lvalues
READ: Mapping[str, Term] = {"p->is_write": FALSE}


def _by_owner(k: Kernel) -> bool:
    return k.tracks_debug_owner


def _by_dirty(k: Kernel) -> bool:
    return not k.tracks_debug_owner


HANDLERS: tuple[Handler, ...] = (
    Handler(
        "trap_debug_regs", ("trap_debug_regs",), SYS_REGS, frozenset(("mdscr_el1", "debug_dirty")) | _OWNED,
        _trapped_write, {"r->reg": "MDSCR_EL1"}, result=1, names=BY_REGISTER,
    ),
    Handler(
        "trap_bvr, trap_bcr, trap_wvr, trap_wcr", tuple(f"trap_{kind}" for kind in BANKS), SYS_REGS,
        frozenset(("vcpu_debug_state", "debug_dirty")), _bank_access, AARCH64, result=1, when=_by_dirty,
    ),
    Handler(
        "trap_bvr, trap_bcr, trap_wvr, trap_wcr", ("trap_dbg_wb_reg",), SYS_REGS,
        frozenset(("vcpu_debug_state",)) | _OWNED, _bank_access, AARCH64, result=1, when=_by_owner, parts=_KINDS,
    ),
    Handler(
        "trap_oslar_el1", ("trap_oslar_el1",), SYS_REGS, frozenset(("oslsr_el1",)), _oslar_write, result=1,
        when=lambda k: k.emulates_os_lock and not k.tracks_debug_owner,
    ),
    Handler(
        "trap_oslar_el1", ("trap_oslar_el1",), SYS_REGS, frozenset(("oslsr_el1",)) | _LOADED, _oslar_write,
        {"p->is_write": 1}, result=1, when=_by_owner, reloads=True,
    ),
    Handler(
        "KVM_SET_ONE_REG OSLSR_EL1", ("set_oslsr_el1",), SYS_REGS, frozenset(("oslsr_el1",)), _oslsr_value,
        {"rd->reg": "OSLSR_EL1"}, result=0, when=lambda k: k.emulates_os_lock,
    ),
    Handler(
        "KVM_SET_ONE_REG DBGBCR<n>_EL1 and its siblings", tuple(f"set_{kind}" for kind in BANKS), SYS_REGS,
        frozenset(("vcpu_debug_state",)), _bank_access, {"reg->id": 0x0030 << 48}, when=_by_dirty,
    ),
    Handler(
        "KVM_SET_ONE_REG DBGBCR<n>_EL1 and its siblings", ("set_dbg_wb_reg",), SYS_REGS,
        frozenset(("vcpu_debug_state",)), _bank_access, result=0, when=_by_owner, parts=_KINDS,
    ),
    Handler(
        "kvm_handle_guest_debug", ("kvm_handle_guest_debug",), HANDLE_EXIT, frozenset(("ss_active_pending",)),
        _syndrome, result=0, finds={"vcpu->run->exit_reason": KVM_EXIT_DEBUG}, when=_by_dirty,
    ),
    Handler(
        "kvm_handle_guest_debug", ("kvm_handle_guest_debug",), HANDLE_EXIT,
        frozenset(("ss_active_pending", "guest_ss_pending", "pstate")), _syndrome, result=0,
        finds={"vcpu->run->exit_reason": KVM_EXIT_DEBUG},
        when=lambda k: k.tracks_debug_owner and not k.nests,
    ),
    Handler(
        "kvm_handle_guest_debug", ("kvm_handle_guest_debug",), HANDLE_EXIT,
        frozenset(("ss_active_pending", "guest_ss_pending", "pstate")), _syndrome, result=0,
        finds={"vcpu->run->exit_reason": KVM_EXIT_DEBUG}, when=nests,
        forwarding=Forwarding(forwards_debug_exception, handles_debug_exception),
    ),
    Handler(
        "access_mdcr", ("access_mdcr",), SYS_REGS, frozenset(("virtual_mdcr_el2",)), _trapped_mdcr,
        {"p->is_write": 1}, result=1, when=nests,
    ),
    Handler(
        "KVM_SET_GUEST_DEBUG", ("kvm_arch_vcpu_ioctl_set_guest_debug",), GUEST,
        frozenset(("guest_debug", "external_debug_state", "ss_active_pending", "guest_ss_pending")), _guest_debug,
        succeeds=_valid_flags,
    ),
)  # fmt: skip


def counterparts(program: Program, k: Kernel, binding: Binding, gaps: Gaps) -> dict[str, Counterpart]:
    """The operations outside debug.c with their C functions, by the operation's name.

    Raises:
        NotUnderstoodError: if the tree lacks a function, or one is not understood, and that is not noted.
    """
    operations, found = {op.name: op for op in OPERATIONS}, {}
    for handler in HANDLERS:
        if handler.when(k):
            with gaps.at(handler.operation):
                name = handler.operation
                found[name] = _counterpart(program, k, binding, handler, operations[name])
    return found


def _counterpart(program: Program, k: Kernel, binding: Binding, handler: Handler, operation: Operation) -> Counterpart:
    parts = handler.lifted(program, "vhe" if k.vhe else "nvhe")
    lifted = parts[0] if len(parts) == 1 else _joined(parts)
    if lifted.returns is not TRUE:
        raise NotUnderstoodError(lifted.file, lifted.line, f"{lifted.name}() does not return on every path")

    demands: list[tuple[str, Term]] = []
    for n, part in enumerate(parts):
        here = TRUE if len(parts) == 1 else Eq(t.var("kind", 2), t.const(n, 2))
        gone = _forwards(part) if handler.forwarding is not None else FALSE
        if handler.result is not None:
            returned = part.result
            right = FALSE
            if returned is not None:
                zero, one = (t.const(n, t.width(returned)) for n in (handler.result, 1))
                right = Eq(returned, If(gone, one, zero))
            demands.append((f"{part.name}() returns {handler.result}", Or(t.Not(here), right)))
        for lvalue, number in handler.finds.items():
            value = part.writes.get(lvalue)
            right = FALSE if value is None else Eq(value, t.const(number, t.width(value)))
            demands.append((f"{part.name}() leaves {lvalue} = {number}", Or(t.Not(here), gone, right)))
    wanted = handler.succeeds(lifted)
    if wanted is not None:
        zero = FALSE if lifted.result is None else Eq(lifted.result, t.const(0, t.width(lifted.result)))
        right = Or(And(wanted, zero), And(t.Not(wanted), t.Not(zero)))
        demands.append((f"{lifted.name}() returns 0 exactly when it takes what it is given", right))
    given = _while_loaded(program, binding, handler.given, k.vhe) if handler.reloads else handler.given
    if "rd->reg" in lifted.reads and not k.indexes_trapped_banks:
        given = _unnumbered(given)
    return Counterpart(operation, lifted, binding, handler.owns, given, tuple(demands), handler.forwarding)


def _forwards(f: Lifted) -> Term:
    """Whether a function has given what it handles to the guest hypervisor."""
    word = f.writes.get(INJECTED)
    return FALSE if word is None else t.Not(Eq(word, t.const(0, t.width(word))))


def _unnumbered(given: Given) -> Given:
    """What a handler finds in an entry that has 0 where others have the number of their register."""
    return lambda lifted, s, i: {**given(lifted, s, i), "rd->reg": t.const(0, t.width(lifted.reads["rd->reg"]))}


def _while_loaded(program: Program, binding: Binding, given: Given, vhe: bool) -> Given:
    """What a handler finds besides: flags that VHE sets at vcpu_load and clears at vcpu_put, and nVHE never here."""
    flags = understood(program.tree, {**UNMODELLED, **SYSREGS})
    here = [flags[name] for name in (LOADED, ON_CPU) if name in flags]

    def found(lifted: Lifted, s: State, i: Inputs) -> Mapping[str, Term]:
        words = binding.before(lifted, s)
        for flag in here:
            if flag.lvalue in words:
                mask = t.const(1 << flag.bit, t.width(words[flag.lvalue]))
                words[flag.lvalue] = words[flag.lvalue] | mask if vhe else words[flag.lvalue] & ~mask
        return {**{f.lvalue: words[f.lvalue] for f in here if f.lvalue in words}, **given(lifted, s, i)}

    return found


def _joined(parts: list[Lifted]) -> Lifted:
    """Functions for the kinds of registers in a bank as one function that the variable ``kind`` selects from."""
    kind = t.var("kind", 2)
    reads = {name: v for part in parts for name, v in part.reads.items()}
    stored = dict.fromkeys(name for part in parts for name in part.writes)
    writes: dict[str, Term] = {}
    for name in stored:
        value = reads[name]
        for n, part in enumerate(parts):
            if name in part.writes:
                value = If(Eq(kind, t.const(n, 2)), part.writes[name], value)
        writes[name] = value
    guards = [Eq(kind, t.const(n, 2)) for n in range(len(parts))]
    result = parts[0].result
    for guard, part in zip(guards, parts, strict=True):
        result = None if result is None or part.result is None else If(guard, part.result, result)
    return replace(
        parts[0],
        name=", ".join(dict.fromkeys(part.name for part in parts)),
        reads=reads,
        writes=writes,
        result=result,
        returns=And(*(Or(t.Not(g), part.returns) for g, part in zip(guards, parts, strict=True))),
        obligations=tuple(
            replace(o, condition=And(g, o.condition))
            for g, part in zip(guards, parts, strict=True)
            for o in part.obligations
        ),
        events=tuple(
            replace(e, guard=And(g, e.guard)) for g, part in zip(guards, parts, strict=True) for e in part.events
        ),
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        bodies=frozenset().union(*(part.bodies for part in parts)),
    )
