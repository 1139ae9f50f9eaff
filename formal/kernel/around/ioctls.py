"""How KVM is entered: which ioctl does what, what is copied from user space, what is done when a CPU comes up."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

from formal.epochs import Kernel
from formal.kernel.belongs import (
    ENTERS,
    FIRST_RUN,
    INIT,
    INJECTS,
    RESET_BY_USER,
    RUN_RETURNS,
    SET_BANK,
    SET_DEBUG,
    SET_PSTATE,
    SETTING,
)
from formal.kernel.errors import Gaps
from formal.kernel.lift.pointers import Mode
from formal.kernel.lift.program import Program
from formal.kernel.model.calls import Call, Skeleton
from formal.kernel.recognition.rules import ARM_C, PSTATE, Rule, belonging, parameters, succeeds
from formal.kernel.recognition.skeleton import skeleton
from formal.kernel.source.tree import KVM
from formal.kernel.text import signs
from formal.kernel.text.tokens import Token, arguments_of, kept
from formal.logic import terms as t
from formal.logic.evaluation import nodes, substitute
from formal.logic.known import known_bits
from formal.logic.terms import BOOL, FALSE, TRUE, And, Eq, Implies, Ne, Not, Or, Term

_MAIN, _GUEST, _REGS = "virt/kvm/kvm_main.c", f"{KVM}/guest.c", f"{KVM}/sys_regs.c"
_RUN, _CHANGE, _SET_DEBUG = (
    "kvm_arch_vcpu_ioctl_run",
    "kvm_arch_vcpu_run_pid_change",
    "kvm_arch_vcpu_ioctl_set_guest_debug",
)
_ARCH: Mapping[str, tuple[str, tuple[str, ...]]] = {  # by the ioctl: what it does, and what that belongs to
    "KVM_SET_ONE_REG": ("kvm_arm_set_reg", SETTING),
    "KVM_GET_ONE_REG": ("kvm_arm_get_reg", SETTING),
    "KVM_ARM_VCPU_INIT": ("kvm_arch_vcpu_ioctl_vcpu_init", (RESET_BY_USER,)),
}
_COMMON: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "KVM_RUN": (_RUN, (ENTERS, RUN_RETURNS)),
    "KVM_SET_GUEST_DEBUG": (_SET_DEBUG, (SET_DEBUG,)),
}
_SETTERS = ("set_core_reg", "kvm_arm_sys_reg_set_reg", "kvm_sys_reg_set_user")
_SPSR = ("__vcpu_write_spsr", "vcpu_write_spsr")  # the latter up to v5.10
_SIZE, _U64 = (55, 52), 3  # KVM_SET_ONE_REG's: its size's logarithm, of 64 bits
_POWERS_UP = "CPU_PM_EXIT"  # what a power management notifier is told
_USED, _NOT_YET = "kvm_usage_count", re.compile(r"^percpu\.\w+$|^cpumask_test_cpu\(\)#\d+$")
_ON_EACH, _CREATES = "on_each_cpu", "kvm_create_vm"
_INITIALISES, _COMES_UP = "cpu_hyp_reinit", "cpuhp_setup_state"
_BEFORE, _UNKNOWN_IOCTL = re.compile(r"^kvm_arch_vcpu_\w+_ioctl\(\)"), 515  # ENOIOCTLCMD (include/linux/errno.h)
_BANK = re.compile(r"\.dbg_[bw][cv]r\[")


def rules(program: Program, k: Kernel, gaps: Gaps) -> Iterator[Rule]:
    """What must hold of the ways in, each rule with the operations that it is about; gaps are noted."""
    mode: Mode = "vhe" if k.vhe else "nvhe"
    later = k.first_run_init and program.defines(_CHANGE, mode, ARM_C)
    groups: list[tuple[tuple[str, ...], Callable[[], Iterator[Rule]]]] = [
        (SETTING, lambda: _dispatches(program, mode, "kvm_arch_vcpu_ioctl", ARM_C, _ARCH)),
        ((ENTERS, RUN_RETURNS, SET_DEBUG), lambda: _dispatches(program, mode, "kvm_vcpu_ioctl", _MAIN, _COMMON)),
        (SETTING, lambda: _only_reads(program, mode)),
        ((SET_BANK,), lambda: _own_bank(program, mode)),
        ((FIRST_RUN,), lambda: _first_run(program, mode) if later else iter(())),
        ((SET_PSTATE,), lambda: _whole_core(program, mode)),
        (SETTING, lambda: _whole_register(program, mode)),
        ((INIT,), lambda: _comes_up(program, mode)),
        ((ENTERS, RUN_RETURNS, INJECTS), lambda: _saved_pstate(program, mode)),
    ]
    for of, make in groups:
        with gaps.at(*of, untimely=True):
            yield from belonging(of, make())


def _dispatches(
    program: Program, mode: Mode, name: str, file: str, does: Mapping[str, tuple[str, tuple[str, ...]]]
) -> Iterator[Rule]:
    """An ioctl does what it is for, on its own number only."""
    f = skeleton(program, name, mode, {called for called, _ in does.values()} | {_CHANGE}, file)
    numbers, number = program.resolver.evaluated(does), parameters(program, name, mode, file)[1]
    for ioctl, (called, of) in does.items():
        calls, asked = f.named(called), _variable(f, number)
        right: Term = FALSE
        if asked is not None and ioctl in numbers and calls:
            own = Eq(asked, t.const(numbers[ioctl], t.width(asked)))
            does_it = substitute(Implies(And(own, succeeds(f)), _made(calls)), _not_done_before(f))
            right = And(*(Implies(c.guard, own) for c in calls), does_it)
        line = calls[0].line if calls else f.line
        yield Rule(f"{name}() calls {called}() for {ioctl}, and for nothing else", f.file, line, right, of=of)


def _not_done_before(f: Skeleton) -> dict[str, Term]:
    """What is asked first, without vcpu->mutex, does not know the ioctl."""
    result = () if f.result is None else nodes((f.result, f.returns))
    asked = (v for v in result if v.op == "var" and v.sort != BOOL and _BEFORE.match(str(v.data)))
    return {str(v.data): t.const(-_UNKNOWN_IOCTL & (1 << t.width(v)) - 1, t.width(v)) for v in asked}


def _variable(f: Skeleton, *names: str) -> Term | None:
    """The first variable of these names on which a call depends."""
    found = [v for c in f.calls for v in nodes((c.guard,)) if v.op == "var" and str(v.data) in names]
    return found[0] if found else None


def _made(calls: tuple[Call, ...]) -> Term:
    return Or(*(call.guard for call in calls))


def _only_reads(program: Program, mode: Mode) -> Iterator[Rule]:
    """KVM_GET_ONE_REG sets nothing."""
    f = skeleton(program, "kvm_arm_get_reg", mode, _SETTERS, _GUEST)
    for call in f.named(*_SETTERS):
        yield Rule(f"{f.function}() does not call {call.name}()", call.file, call.line, Not(call.guard))


def _own_bank(program: Program, mode: Mode) -> Iterator[Rule]:
    """KVM_GET_ONE_REG gives the guest's break- and watchpoints, not those that user space debugs with."""
    for name in ("get_bvr", "get_bcr", "get_wvr", "get_wcr", "get_dbg_wb_reg"):
        if program.defines(name, mode, _REGS):
            f = program.lift(name, mode, _REGS, unknowns=True)
            other = [lvalue for lvalue in f.reads if _BANK.search(lvalue) and ".vcpu_debug_state." not in lvalue]
            yield Rule(f"{name}() gives the guest's own registers", f.file, f.line, t.boolean(not other), of=None)


def _first_run(program: Program, mode: Mode) -> Iterator[Rule]:
    """Before a vCPU runs for the first time, when no task has run it, KVM prepares it."""
    f = skeleton(program, "kvm_vcpu_ioctl", mode, {_RUN, _CHANGE}, _MAIN)
    runs, changes = f.named(_RUN), f.named(_CHANGE)
    tasks = {
        str(v.data) for c in changes for v in nodes((c.guard,)) if re.search(r"(\+\d+|->pid) != NULL$", str(v.data))
    }
    running = {
        str(v.data): TRUE for c in (*runs, *changes) for v in nodes((c.guard,)) if str(v.data).startswith("task_pid()")
    }
    asked = [
        substitute(And(*(Implies(run.guard, _made(changes)) for run in runs)), {**running, name: FALSE})
        for name in tasks
    ]
    line = changes[0].line if changes else f.line
    yield Rule(f"{f.function}() calls {_CHANGE}() before the first run", f.file, line, Or(*asked))


def _whole_core(program: Program, mode: Mode) -> Iterator[Rule]:
    """What user space gives of a core register is taken whole."""
    f = skeleton(program, "set_core_reg", mode, {"copy_from_user"}, _GUEST)
    given_by = parameters(program, "set_core_reg", mode, _GUEST)[1]
    for call in f.named("copy_from_user"):
        size = call.values[2]
        right: Term = FALSE
        if size is not None:
            index = t.var("the index", 64)  # which nobody writes meanwhile
            one = {str(v.data): index for v in nodes((size,)) if str(v.data).partition("#")[0] == f"{given_by}->id"}
            given = Eq(t.extract(index, *_SIZE), t.const(_U64, 4)) if one else TRUE
            right = Implies(given, t.ule(t.const(8, t.width(size)), substitute(size, one)))
        yield Rule(f"{f.function}() takes the whole register", call.file, call.line, right)


def _whole_register(program: Program, mode: Mode) -> Iterator[Rule]:
    """The same of System registers: no bit of what their functions get is the same whatever user space gives."""
    name = "kvm_sys_reg_set_user"
    if not program.defines(name, mode, _REGS):
        return
    f = skeleton(program, name, mode, {"*set_user"}, _REGS)
    for call in f.named("*set_user"):
        value = call.values[2] if len(call.values) > 2 else None
        right = value is not None and t.width(value) == 64 and known_bits(value)[0] == 0
        yield Rule(f"{name}() takes the whole register", call.file, call.line, t.boolean(right))


def _comes_up(program: Program, mode: Mode) -> Iterator[Rule]:
    """A CPU on which KVM has not been initialised is, when it comes up while KVM is in use."""
    arm = program.resolver.find(_INITIALISES, mode, ARM_C)[0].file
    words = {file: kept(text) for file in (arm, _MAIN) if (text := signs.source(program.tree, file)) is not None}
    chain: dict[str, str] = {}
    found = [_INITIALISES]
    for called in found:
        for function, file in _callers(words, called):
            if function not in chain and function != _INITIALISES:
                chain[function] = file
                found.append(function)
    for name in _hotplug(words.get(_MAIN, [])) or ("",):
        yield Rule(f"{name or 'nothing'}() is what a CPU that comes up runs, and initialises it", _MAIN, 1,
                   t.boolean(name in chain))  # fmt: skip
    powered = False
    for function, file in chain.items():
        f = skeleton(program, function, mode, frozenset(found), file)
        number = program.resolver.unit(file, mode).enumerators.get(_POWERS_UP)
        names = () if number is None else parameters(program, function, mode, file)
        calls, told = f.named(*found), _variable(f, *names)
        powered |= told is not None
        if not calls:
            yield Rule(f"{function}() calls what initialises a CPU", f.file, f.line, FALSE)
        for call in calls:
            open_ = [v for v in nodes((call.guard,)) if v.op == "var" and v is not told]
            given = And(*(_given(v, told is not None) for v in open_))
            if told is not None and number is not None:
                given = And(given, Eq(told, t.const(number, t.width(told))))
            says = f"{function}() calls {call.name}() when KVM is in use on the CPU"
            yield Rule(says, call.file, call.line, Implies(given, call.guard))
    yield Rule("a CPU is initialised when it is powered up", arm, 1, t.boolean(powered))
    yield from _first_used(program, mode, words.get(_MAIN, []), frozenset(chain))


def _first_used(program: Program, mode: Mode, words: Sequence[Token], chain: frozenset[str]) -> Iterator[Rule]:
    """The first VM has all CPUs initialised: by a call to each, or by what a CPU that comes up runs."""
    everywhere = {_COMES_UP, f"__{_COMES_UP}"}
    named = {w.function for i, w in enumerate(words) if w.function and w.text in {_ON_EACH, *everywhere}
             and any(one.text in chain for given in arguments_of(words, i + 1) for one in given)}  # fmt: skip
    read = [skeleton(program, name, mode, chain | everywhere, _MAIN) for name in sorted(named)]
    says = "all CPUs are initialised when KVM is used first"
    for f in read:
        made = Or(*(c.guard for c in f.calls))
        unused = {str(v.data): t.const(0, t.width(v)) for v in nodes((made, succeeds(f)))
                  if v.op == "var" and str(v.data).partition("#")[0] == _USED}  # fmt: skip
        yield Rule(says, f.file, f.line, substitute(Implies(succeeds(f), made), unused))
    if not read:
        yield Rule(says, _MAIN, 1, FALSE)
    g = skeleton(program, _CREATES, mode, {f.function for f in read}, _MAIN)
    yield Rule(
        f"{_CREATES}() has all CPUs initialised", g.file, g.line, t.boolean(any(c.guard is not FALSE for c in g.calls))
    )


def _hotplug(words: Sequence[Token]) -> tuple[str, ...]:
    """The functions that KVM has run on a CPU that comes up."""
    uses = [arguments_of(words, i + 1) for i, w in enumerate(words) if w.function and w.text.startswith(_COMES_UP)]
    return tuple(given[2][0].text for given in uses if len(given) == 4 and len(given[2]) == 1)


def _given(variable: Term, initialised: bool) -> Term:
    """KVM is in use, and not yet on this CPU; or it was, before the CPU was powered down."""
    if _NOT_YET.match(str(variable.data)):
        there = variable if variable.sort == BOOL else Ne(variable, t.const(0, t.width(variable)))
        return there if initialised else Not(there)
    if str(variable.data) == _USED:
        return Ne(variable, t.const(0, t.width(variable)))
    return TRUE


def _callers(words: Mapping[str, Sequence[Token]], called: str) -> Iterator[tuple[str, str]]:
    for file, text in words.items():
        for one, other in pairwise(text):
            if one.text == called and other.text == "(" and one.function and one.function != called:
                yield one.function, file


def _saved_pstate(program: Program, mode: Mode) -> Iterator[Rule]:
    """A guest's exception saves the PSTATE of what it interrupts, SS and D included."""
    name = "enter_exception64"
    if not program.defines(name, mode):
        return
    f = skeleton(program, name, mode, _SPSR)
    saved = f.named(*_SPSR)
    for call in saved:
        value = call.values[-1]
        same = value is not None and value.op == "var" and str(value.data).partition("#")[0] == PSTATE
        yield Rule(f"{name}() saves the guest's PSTATE", call.file, call.line, t.boolean(same))
    if not saved:
        yield Rule(f"{name}() saves the guest's PSTATE", f.file, f.line, FALSE)
