"""What user space is told when a debug exception of the guest is its own: the syndrome, and a watchpoint's address.

A debugger that is told nothing, or something else, does not see its breakpoint, whatever was trapped.
"""

from __future__ import annotations

from collections.abc import Iterator

from formal.kernel.lift.calls import INJECTED
from formal.kernel.lift.pointers import Mode
from formal.kernel.lift.program import Lifted, Program
from formal.kernel.recognition.rules import Rule
from formal.kernel.source.tree import KVM
from formal.logic import terms as t
from formal.logic.terms import FALSE, And, Eq, Not, Or, Term

FUNCTION, FILE = "kvm_handle_guest_debug", f"{KVM}/handle_exit.c"
EC_WATCHPT_LOW, EC_SHIFT = 0x34, 26  # ESR_EL2.EC (Arm ARM D24): watchpoint from a lower Exception level
HSR_HIGH_VALID = 1  # KVM_DEBUG_ARCH_HSR_HIGH_VALID in arch/arm64/include/uapi/asm/kvm.h
ESR, FAR = "vcpu->arch.fault.esr_el2", "vcpu->arch.fault.far_el2"
# struct kvm_run's union is named by its first members: debug.arch has hsr and hsr_high, 32 bits each, and far, 64 bits
HSR, HSR_HIGH, TOLD_FAR = "vcpu->run->ex.exception", "vcpu->run->ex.error_code", "vcpu->run->io.data_offset"
FLAGS = "vcpu->run->flags"


def rules(program: Program, mode: Mode) -> Iterator[Rule]:
    """What the handler of debug exceptions stores for user space, unless the exception goes to a guest hypervisor.

    Raises:
        NotUnderstoodError: if the function is missing or not understood.
    """
    f = program.lift(FUNCTION, mode, file=FILE, memory={})
    esr = f.reads.get(ESR)
    if esr is None:
        yield Rule(f"{FUNCTION}() reads the syndrome", f.file, f.line, FALSE, of=None)
        return
    low = t.extract(esr, 31, 0)
    yield _tells(f, "the syndrome", _holds(f, HSR, low))
    if t.width(esr) == 64:  # from v5.17 on
        high = And(_holds(f, HSR_HIGH, t.extract(esr, 63, 32)), _holds(f, FLAGS, t.const(HSR_HIGH_VALID, 16)))
        yield _tells(f, "the upper half of the syndrome, and that it does", high)
    far = f.reads.get(FAR)
    right = FALSE if far is None else _holds(f, TOLD_FAR, far)
    watchpoint = Eq(t.extract(low, 31, EC_SHIFT), t.const(EC_WATCHPT_LOW, 6))
    yield _tells(f, "the address that met a watchpoint", Or(Not(watchpoint), right))


def _holds(f: Lifted, lvalue: str, value: Term) -> Term:
    stored = f.writes.get(lvalue)
    return Eq(stored, value) if stored is not None and stored.sort == value.sort else FALSE


def _tells(f: Lifted, what: str, right: Term) -> Rule:
    forwarded = f.writes.get(INJECTED)
    gone = FALSE if forwarded is None else Not(Eq(forwarded, t.const(0, t.width(forwarded))))
    run = f.reads.get("vcpu->run")  # that it is not NULL is an obligation of its own
    nowhere = FALSE if run is None else Eq(run, t.const(0, t.width(run)))
    return Rule(f"{f.name}() tells user space {what}", f.file, f.line, Or(gone, nowhere, right), of=None)
