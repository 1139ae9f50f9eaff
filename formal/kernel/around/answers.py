"""What trap handlers do besides the operations: they reset registers, and answer reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from formal.arch.registers import OSLSR_EL1
from formal.environment import OSLM_IMPLEMENTED
from formal.epochs import Kernel
from formal.kernel.belongs import RESETS, SET_OSLSR, TRAP_BANK, TRAP_MDSCR
from formal.kernel.compare.handlers import AARCH64, BANKS, BY_REGISTER, OP2, PARAMETERS, READ, SYS_REGS, TAKING
from formal.kernel.errors import Gaps
from formal.kernel.lift.pointers import Mode as FrontMode
from formal.kernel.lift.program import Lifted, Program
from formal.kernel.model.binding import Binding
from formal.kernel.recognition.rules import Rule, belonging
from formal.logic import terms as t
from formal.logic.evaluation import substitute
from formal.logic.terms import FALSE, And, Eq, If, Or, Term

NO_VALUE = t.var("a value that the function does not read", 64)


def rules(program: Program, k: Kernel, binding: Binding, gaps: Gaps | None = None) -> Iterator[Rule]:
    """What the handlers do besides the operations: they reset registers, and answer reads.

    Raises:
        NotUnderstoodError: if the tree lacks a function, or one is not understood, and that is not noted.
    """
    gaps = gaps or Gaps()
    mode: FrontMode = "vhe" if k.vhe else "nvhe"
    owns = TAKING if k.tracks_debug_owner else ()
    debug: Lifted | None = None
    with gaps.at(TRAP_MDSCR):
        debug = program.lift("trap_debug_regs", mode, SYS_REGS, memory={"r->reg": "MDSCR_EL1"}, names=BY_REGISTER)
    for kind in BANKS:
        own: Mapping[str, int | str] = {"rd->Op2": OP2[kind]} if k.tracks_debug_owner else {}
        suffix = "dbg_wb_reg" if k.tracks_debug_owner else kind
        with gaps.at(*RESETS):
            reset = program.lift(f"reset_{suffix}", mode, file=SYS_REGS, memory=own, names=PARAMETERS)
            value = reset.reads.get("rd->val", NO_VALUE)
            yield from belonging(RESETS, _register_access(reset, binding, kind, value, {}))
        with gaps.at(TRAP_BANK):
            trap = program.lift(f"trap_{suffix}", mode, SYS_REGS, memory={**AARCH64, **own}, names=PARAMETERS)
            yield from belonging((TRAP_BANK,), _register_access(trap, binding, kind, None, READ, owns))
            if debug is not None:
                yield from _bank_read(trap, debug, kind, owns)
    if debug is not None:
        yield from belonging((TRAP_MDSCR,), _register_access(debug, binding, "", None, READ, owns))
        yield _register_read(debug, "MDSCR_EL1")
    if k.emulates_os_lock:
        with gaps.at(SET_OSLSR):
            read: dict[str, int | str | Term] = {"r->reg": "OSLSR_EL1", "p->is_write": 0}  # a write is refused
            lock = program.lift("trap_oslsr_el1", mode, SYS_REGS, memory=read, names=BY_REGISTER)
            yield _register_read(lock, "OSLSR_EL1")
            own = {"rd->reg": "OSLSR_EL1"}
            yield _only_the_lock(program.lift("set_oslsr_el1", mode, SYS_REGS, memory=own, names=PARAMETERS))


def _only_the_lock(f: Lifted) -> Rule:
    """User space cannot give OSLSR_EL1 a value that differs from the entry's in anything but the lock."""
    value, rest = t.var("val", 64), ~OSLSR_EL1.mask("OSLK")
    fits = Eq(value & t.const(rest, 64), t.const(OSLM_IMPLEMENTED & rest, 64))
    given = {"from user space": value, "rd->val": t.const(OSLM_IMPLEMENTED, 64)}
    refused = FALSE if f.result is None else t.Not(Eq(f.result, t.const(0, t.width(f.result))))
    return _rule(f, "refuses a value that changes more than the lock", Or(fits, refused), given, None)


def _register_read(f: Lifted, register: str) -> Rule:
    """A handler gives a read what the context holds of the register."""
    memory, answer = f.reads.get(f"vcpu->arch.ctxt.sys_regs[{register}]"), f.writes.get("p->regval")
    right = FALSE if memory is None or answer is None else Eq(answer, memory)
    return _rule(f, f"gives {register} to a read", right, READ, None)


def _bank_read(trap: Lifted, debug: Lifted, kind: str, owns: tuple[str, ...]) -> Iterator[Rule]:
    """What a handler of a break- or watchpoint register does for a read."""
    if owns:  # a read makes the guest the owner as a read of MDSCR_EL1 does, which is an operation
        same = (Eq(trap.writes[x], debug.writes[x]) if x in trap.writes and x in debug.writes
                else t.boolean(x not in trap.writes and x not in debug.writes) for x in owns)  # fmt: skip
        number = number_of(trap)
        other = FALSE if number is None else t.Not(t.ult(number, t.const(16, t.width(number))))  # in no entry
        says = "takes the registers for a read as trap_debug_regs() does"
        yield _rule(trap, says, Or(other, And(*same)), READ, (TRAP_BANK, TRAP_MDSCR))
    elements = {n: trap.reads[name] for n in range(16) if (name := _element(kind, n)) in trap.reads}
    value, number = trap.writes.get("p->regval"), number_of(trap)
    right = FALSE
    if len(elements) == 16 and value is not None and number is not None:
        pairs = ((Eq(number, t.const(n, t.width(number))), element) for n, element in elements.items())
        right = And(*(Or(t.Not(here), Eq(value, element)) for here, element in pairs))
    yield _rule(trap, "gives the register to a read", right, READ, None)


def number_of(f: Lifted) -> Term | None:
    """The number of a register in its bank, as an entry of the table has it: CRm; before v5.13 what ``reg`` says."""
    return f.reads.get("rd->CRm", f.reads.get("rd->reg"))


def _element(kind: str, number: int) -> str:
    return f"vcpu->arch.vcpu_debug_state.dbg_{kind}[{number}]"


def _rule(f: Lifted, says: str, holds: Term, given: Mapping[str, Term], of: tuple[str, ...] | None = ()) -> Rule:
    return Rule(f"{f.name}() {says}", f.file, f.line, substitute(holds, given), of=of, untimely=False)


def _register_access(
    f: Lifted, binding: Binding, kind: str, value: Term | None, given: Mapping[str, Term], but: tuple[str, ...] = ()
) -> Iterator[Rule]:
    """A function stores ``value`` to the register whose number the entry has, and to nothing else but."""
    number = number_of(f)
    missing = number is None or _element(kind, 15) not in f.writes
    stored = [FALSE] if value is not None and missing else []
    for lvalue, after in f.writes.items():
        before = f.reads[lvalue]
        own = [n for n in range(16) if lvalue == _element(kind, n)]
        if own and value is not None and number is not None:
            stored.append(Eq(after, If(Eq(number, t.const(own[0], t.width(number))), value, before)))
        elif binding.models(lvalue) and lvalue not in but:
            stored.append(Eq(after, before))
    yield replace(_rule(f, "changes its own register only", And(*stored), given), whole=f.bodies)
