"""Functions read by their calls: rules about which calls they make, when, in which order and with what.

Each rule is a sentence with its place and a term that must be valid.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations

from formal.epochs import Kernel
from formal.kernel.errors import Gap
from formal.kernel.lift.pointers import Mode
from formal.kernel.lift.program import Program
from formal.kernel.model.binding import PENDING, Flag
from formal.kernel.model.calls import Call, Skeleton
from formal.kernel.recognition.skeleton import skeleton
from formal.kernel.source.tree import KVM
from formal.logic import terms as t
from formal.logic.evaluation import nodes
from formal.logic.terms import BOOL, FALSE, TRUE, And, Eq, Ne, Not, Or, Term

ARM_C = f"{KVM}/arm.c"
HOST_CONTEXT = "percpu.kvm_host_data.host_ctxt"
PSTATE = "vcpu->arch.ctxt.regs.pstate"
AARCH64 = t.var("the guest's PSTATE", 64) & t.const(~(1 << 4) & (1 << 64) - 1, 64)  # PSTATE.M[4] is 0 (Arm ARM C5.2)
MODELLED = re.compile(
    r"(->|\.)(mdcr_el2(_host)?|guest_debug|debug_ptr|debug_owner|pstate|([isc]|debug_)?flags|(external_)?mdscr_el1"
    r"|sys_regs\[(MDSCR_EL1|OSLSR_EL1|MDCR_EL2)\]|nr_event_counters|mmio_needed)$"
    r"|\.dbg_[bw][cv]r\[|^hw\.(mdcr_el2|mdscr_el1|pmuserenr_el0|oslar_el1|dbg[bw][cv]r\d+_el1)$"
)
SETUP, CLEAR, RESET_PTR = "kvm_arm_setup_debug", "kvm_arm_clear_debug", "kvm_arm_reset_debug_ptr"
FIRST_RUN, INIT = "kvm_arm_vcpu_init_debug", "kvm_arm_init_debug"
OUTER = ("kvm_vcpu_run_vhe", "__kvm_vcpu_run")  # what is around __kvm_vcpu_run_vhe(): in v5.8, and from v5.9 on
ENTRIES = ("kvm_arm_vcpu_enter_exit", *OUTER, "__kvm_vcpu_run_vhe")
INIT_OWNER, LOAD, PUT = "kvm_init_host_debug_data", "kvm_vcpu_load_debug", "kvm_vcpu_put_debug"  # from v6.14
LOADS, PUTS = ("kvm_vcpu_load_sysregs_vhe", "kvm_vcpu_load_vhe"), ("kvm_vcpu_put_sysregs_vhe", "kvm_vcpu_put_vhe")
SKIPS = ("kvm_incr_pc", "kvm_skip_instr")
REQUESTS = ("kvm_vcpu_exit_request", "kvm_request_pending")
# > 0, or >= 0, to go on
WORK = ("check_vcpu_requests", "xfer_to_guest_mode_handle_work", "kvm_xfer_to_guest_mode_handle_work")
IRQ_ON, IRQ_OFF = "arch_local_irq_enable", "arch_local_irq_disable"
_SWITCH = ("sysreg_save_host_state_vhe", "sysreg_restore_guest_state_vhe", "sysreg_save_guest_state_vhe",
           "sysreg_restore_host_state_vhe", "__sysreg_save_state_nvhe", "__sysreg_restore_state_nvhe",
           "__activate_traps", "__deactivate_traps", "__debug_switch_to_guest", "__debug_switch_to_host",
           "__guest_enter", "fixup_guest_exit", "synchronize_vcpu_pstate", "__fixup_guest_exit",
           "__vcpu_load_activate_traps", "__vcpu_put_deactivate_traps", "__activate_traps_common",
           "__deactivate_traps_common")  # fmt: skip
_VCPU = ("vcpu_load", "vcpu_put", "kvm_arch_vcpu_load", "kvm_arch_vcpu_put", "kvm_reset_vcpu", "kvm_reset_sys_regs",
         "kvm_handle_mmio_return", "handle_exit", "__kvm_adjust_pc", "kvm_inject_exception", "kvm_vcpu_first_run_init",
         "perform_access", "*access", "*arm_exit_handlers", "kvm_inject_undefined", "cpu_hyp_init_features",
         "cpu_hyp_reinit", "__kvm_vcpu_run_vhe")  # fmt: skip
WATCHED = frozenset((SETUP, CLEAR, RESET_PTR, FIRST_RUN, INIT, INIT_OWNER, LOAD, PUT, *ENTRIES, *LOADS, *PUTS,
                     *SKIPS, *REQUESTS, IRQ_ON, IRQ_OFF, *_SWITCH, *_VCPU))  # fmt: skip


@dataclass(frozen=True)
class Rule:
    """Something that a function must do: a sentence, its place, and a term that must be valid.

    A call that is missing, and nothing else, breaks no more than that: ``omits`` is the part of operations
    (``formal/worldswitch.py``) or the operation that such a tree goes without. ``of`` are the operations and parts that
    are not what is said if it is broken (none: all that KVM does; ``None``: it is about nothing that is modelled), and
    ``untimely`` is whether they may come at other times then. With ``keeps`` a tree that breaks it has an operation
    that leaves these variables as they were; with ``handles``, one that also gets what it should not: the accesses of
    these registers, by their number in a bank. ``whole`` are functions, and their files, of whose stores it speaks.
    With ``writes`` a tree that breaks it has a step of its own that may change these variables, and no more.
    """

    says: str
    file: str
    line: int
    holds: Term
    omits: str | None = None
    of: tuple[str, ...] | None = ()
    untimely: bool = True
    keeps: tuple[str, frozenset[str]] | None = None
    handles: tuple[str, frozenset[int]] | None = None
    whole: frozenset[tuple[str, str]] = frozenset()
    writes: frozenset[str] | None = None

    @property
    def gap(self) -> Gap:
        """What is not understood of a tree that breaks it."""
        of = frozenset(self.of or ()) if self.writes is None else frozenset(("",))
        says = f"not so: {self.says}"
        return Gap(self.file, self.line, says, of, self.writes, broken=True, untimely=self.untimely)


def stores_read(program: Program, mode: Mode) -> set[tuple[str, str]]:
    """The functions, and their files, of which every store to what is modelled is read."""
    read = [f for key, f in program.kept("skeleton").items() if (key[2], key[5]) == (mode, MODELLED)]
    helpers = {body for f in read for body in f.bodies if body[0] in program.helpers}
    return {(f.function, f.file) for f in read} | helpers


def belonging(of: Iterable[str], rules: Iterable[Rule]) -> Iterator[Rule]:
    """Rules that are about these operations and parts, unless they say otherwise."""
    yield from (replace(rule, of=tuple(of)) if rule.of == () else rule for rule in rules)


class Reader:
    """Functions of one tree in one mode, read by their calls; the rules of a part are made by a class below it."""

    def __init__(self, program: Program, k: Kernel, flags: Mapping[str, Flag]) -> None:
        self.program, self.k, self.flags = program, k, flags
        self.mode: Mode = "vhe" if k.vhe else "nvhe"

    def read(
        self, name: str, file: str | None = None, more: tuple[str, ...] = (), inside: tuple[str, ...] = ()
    ) -> Skeleton:
        return skeleton(self.program, name, self.mode, {*WATCHED, *more}, file, MODELLED, inside=inside)

    @property
    def enters_itself(self) -> bool:
        """Whether the run loop calls the world switch of VHE itself, as before v5.8."""
        return self.k.vhe and bool(self.read("kvm_arch_vcpu_ioctl_run", ARM_C, WORK).named("__kvm_vcpu_run_vhe"))

    @property
    def outer(self) -> str:
        """The function that masks exceptions around the guest's run under VHE, or runs it under nVHE."""
        own = self.k.vhe and self.read("kvm_arch_vcpu_ioctl_run", ARM_C, WORK).named(OUTER[0])
        return OUTER[0] if own else OUTER[1]

    def exactly(
        self, f: Skeleton, names: list[str], ignored: tuple[str, ...] = (), parts: Mapping[str, str] | None = None
    ) -> Iterator[Rule]:
        """A function makes these watched calls and modelled stores in this order, and no others.

        Args:
            parts: what a tree goes without if one of these calls is missing, by the name of the call.
        """
        wanted = [c for c in f.calls if c.name not in ignored and not c.name.endswith("flags")]
        yield from (self._keeps_flags(f, c) for c in f.calls if c.name.endswith("flags"))
        found = [c.name for c in wanted]
        missing = [name for name in names if name not in found and name in (parts or {})]
        if missing and found == [name for name in names if name not in missing]:
            yield from (missed(f, name, (parts or {})[name]) for name in missing)
        elif found != names and sorted(found) == sorted(names) and len({*names}) == len(names):
            yield from self._apart(f, wanted, names)
        elif found != names:
            at = next((i for i, (a, b) in enumerate(zip(found, names, strict=False)) if a != b), len(names))
            line = wanted[at].line if at < len(wanted) else f.line
            here = wanted[at].file if at < len(wanted) else f.file
            shown = [", ".join(x) or "nothing" for x in (names, found)]
            yield Rule(f"{f.function}() calls {shown[0]}; it calls {shown[1]}", here, line, FALSE)

    def _apart(self, f: Skeleton, calls: list[Call], names: list[str]) -> Iterator[Rule]:
        """Calls come in another order only where no run makes both of them."""
        shown = [", ".join(x) for x in (names, [c.name for c in calls])]
        for one, other in combinations(calls, 2):
            if names.index(one.name) > names.index(other.name):
                says = f"{f.function}() calls {shown[0]}; it calls {shown[1]}"
                once = t.boolean(not one.loops and not other.loops)
                yield Rule(says, other.file, other.line, And(once, Not(And(one.guard, other.guard))))

    def _keeps_flags(self, f: Skeleton, c: Call) -> Rule:
        """A store to a word of flags leaves those that are modelled alone."""
        lvalue = c.name.removeprefix("= ")
        resets = f.function in ("kvm_reset_vcpu", "__kvm_adjust_pc")  # which clear what is pending
        kept = [flag for name, flag in self.flags.items() if not (resets and name in PENDING)]
        bits = sum(1 << flag.bit for flag in kept if flag.lvalue == lvalue)
        value = c.result
        says = f"{f.function}() leaves the modelled bits of {lvalue} alone"
        if bits == 0 or value is None:
            return Rule(says, c.file, c.line, t.boolean(value is not None), untimely=False)
        before = [v for v in nodes((value,)) if v.op == "var" and str(v.data).startswith(lvalue)]
        mask = t.const(bits, t.width(value))
        same = Eq(value & mask, before[0] & mask) if len(before) == 1 else FALSE
        return Rule(says, c.file, c.line, same, untimely=False)

    def when(self, f: Skeleton, name: str, expected: Term, only_if: Term = TRUE) -> Iterator[Rule]:
        """A call happens exactly then; ``only_if`` restricts the question."""
        for call in f.named(name):
            same = Not(differ(call.guard, expected))
            says = f"{f.function}() calls {name}() under the condition of the specification"
            yield Rule(says, call.file, call.line, Or(Not(only_if), same))


def parameters(program: Program, name: str, mode: Mode, file: str | None = None) -> list[str]:
    """The names of a function's parameters in a tree."""
    return [str(p.spelling) for p in program.resolver.find(name, mode, file)[1].get_arguments()]


def missed(f: Skeleton, name: str, part: str) -> Rule:
    """A call that a function does not make, though it should."""
    return Rule(f"{f.function}() calls {name}()", f.file, f.line, FALSE, part)


def differ(a: Term, b: Term) -> Term:
    return Or(And(a, Not(b)), And(Not(a), b))


def word(value: Term) -> Term:
    """The variable that a term is made from, if it is only one."""
    found = [v for v in nodes((value,)) if v.op == "var"]
    return found[0] if len(found) == 1 else t.var("?", t.width(value))


def succeeds(f: Skeleton) -> Term:
    return And(f.returns, Eq(f.result, t.const(0, t.width(f.result)))) if f.result is not None else f.returns


def nonzero(value: Term) -> Term:
    return value if value.sort == BOOL else Ne(value, t.const(0, t.width(value)))


def truth(call: Call) -> Term:
    """Whether a call happens and returns something else than 0."""
    return And(call.guard, nonzero(call.result)) if call.result is not None else FALSE
