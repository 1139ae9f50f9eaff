"""Small functions, macros and labels that rules take by their names: each does what its name says.

A rule that reads ``kvm_handle_sys_reg`` by its calls takes ``vcpu_get_reg(vcpu, 5)`` for the guest's X5. That it is so
is asked here, of the C wherever it is lifted; else of the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise

from formal.epochs import Kernel
from formal.kernel.around import entries
from formal.kernel.around.a64 import assembler
from formal.kernel.around.lookup import TRAPPED
from formal.kernel.belongs import (
    EMULATES,
    ENTERS,
    EXITS,
    GUEST_DEBUG,
    HANDLING,
    INIT,
    LOADING,
    MMIO,
    RESET_BY_USER,
    SETTING,
    TRAPS,
)
from formal.kernel.errors import Gaps
from formal.kernel.lift.calls import INJECTED
from formal.kernel.lift.pointers import Mode
from formal.kernel.lift.program import Lifted, Program
from formal.kernel.model import passage
from formal.kernel.model.binding import Flag
from formal.kernel.parse import clang
from formal.kernel.parse.clang import Kind
from formal.kernel.recognition import debugexit, scan
from formal.kernel.recognition.rules import (
    AARCH64,
    ARM_C,
    PSTATE,
    WATCHED,
    Rule,
    belonging,
    nonzero,
    parameters,
    succeeds,
    word,
)
from formal.kernel.recognition.skeleton import skeleton
from formal.kernel.source.tree import KVM, sources
from formal.kernel.text.forms import without_comments
from formal.kernel.text.tokens import tokens
from formal.logic import terms as t
from formal.logic.evaluation import nodes, substitute
from formal.logic.terms import FALSE, And, Eq, Not, Or, Term

_ZERO = 31  # the register that reads as zero
_ENTRIES, _KVM_HOST = f"{KVM}/hyp/hyp-entry.S", "arch/arm64/include/asm/kvm_host.h"
_CALLS_EL2 = re.compile(r"(?m)^#define[ \t]+kvm_call_hyp_nvhe\((?:.*\\\n)*.*")
_ANSWER = re.compile(r"(\w+)\.a(\d)\s*;\s*\}\s*\)\s*$")  # what a statement expression gives
_CREATES = re.compile(r"\b(k\w*alloc\w*)\s*\(\s*(?:kvm_vcpu_cache\b|[^;()]*sizeof\s*\(\s*struct\s+kvm_vcpu\s*\))[^;]*;")
_ESR, _NOTHING = re.compile(r"hw\.esr_el[12]"), re.compile(r"(?!)")
_TOLD, _TELLERS = "KVM_EXIT_DEBUG", (debugexit.FUNCTION, "kvm_arm_handle_step_debug")  # the latter from v4.16 to v4.20


def rules(program: Program, k: Kernel, flags: Mapping[str, Flag], gaps: Gaps) -> Iterator[Rule]:
    """What these must do, each rule with the operations that it is about; what is not understood is noted."""
    mode: Mode = "vhe" if k.vhe else "nvhe"
    groups: list[tuple[tuple[str, ...], Callable[[], Iterator[Rule]]]] = [
        ((*TRAPS, EMULATES), lambda: _general_registers(program, mode)),
        (HANDLING, lambda: _condition(program, mode)),
        ((EMULATES,), lambda: _undefined(program, mode, flags)),
        ((*TRAPS, *SETTING, EMULATES), lambda: _visible(program, mode)),
        ((MMIO,), lambda: _pending(program, mode, flags)),
        ((ENTERS, EXITS), lambda: _exit_codes(program)),
        (HANDLING, lambda: _syndrome(program, mode)),
        ((RESET_BY_USER,), lambda: _reset_by_user(program, mode)),
        ((INIT,), lambda: iter(()) if k.vhe else _answer(program)),
        ((INIT, LOADING), lambda: _created(program)),
        ((GUEST_DEBUG,), lambda: _told(program, mode)),
    ]
    for of, make in groups:
        with gaps.at(*of, untimely=True):
            yield from belonging(of, make())


def _general_registers(program: Program, mode: Mode) -> Iterator[Rule]:
    """vcpu_get_reg and vcpu_set_reg are about the guest's X0 to X30; the zero register reads as zero."""
    for name in ("vcpu_get_reg", "vcpu_set_reg"):
        _, number, *value = parameters(program, name, mode)
        right = True
        for n in range(_ZERO + 1):
            f = program.lift(name, mode, arguments={number: n})
            right = right and f.returns is t.TRUE and (_sets(f, n, value[0]) if value else _gets(f, n))
        says = f"{name}() {'sets' if value else 'gives'} the guest's general register, for each number"
        yield Rule(says, f.file, f.line, t.boolean(right), whole=f.bodies)


def _gets(f: Lifted, number: int) -> bool:
    if number == _ZERO:
        return f.result is not None and f.result is t.const(0, t.width(f.result)) and not f.writes
    register = [v for lvalue, v in f.reads.items() if lvalue.endswith(f"regs.regs[{number}]")]
    return len(register) == 1 and f.result is register[0] and not f.writes


def _sets(f: Lifted, number: int, value: str) -> bool:
    if number == _ZERO:
        return not f.writes
    return [(str(k).endswith(f"regs.regs[{number}]"), str(v)) for k, v in f.writes.items()] == [(True, value)]


def _condition(program: Program, mode: Mode) -> Iterator[Rule]:
    """An instruction in AArch64 state has no condition that fails."""
    f = program.lift("kvm_condition_valid", mode, memory={PSTATE: AARCH64})
    right = nonzero(f.result) if f.result is not None else FALSE
    yield Rule(f"{f.name}() is so in AArch64 state", f.file, f.line, And(f.returns, right))


def _undefined(program: Program, mode: Mode, flags: Mapping[str, Flag]) -> Iterator[Rule]:
    """A register that KVM does not give the guest is UNDEFINED to it, and the instruction is not skipped then."""
    file, name = f"{KVM}/sys_regs.c", "undef_access"
    if program.defines(name, mode, file):
        _, function = program.resolver.find(name, mode, file)
        given = [c for c in clang.preorder(function) if c.kind == Kind.RETURN_STMT]
        right = bool(given) and all([clang.constant(v) for v in clang.children(c)] == [0] for c in given)
        yield Rule(f"{name}() refuses the access", file, int(function.location.line), t.boolean(right))
    flag = flags.get("PENDING_EXCEPTION")
    if flag is not None:
        f = program.lift("kvm_inject_undefined", mode, unknowns=True)
        after, forwarded = f.writes.get(flag.lvalue), f.writes.get(INJECTED)
        pending = FALSE if after is None else Eq(t.extract(after, flag.bit, flag.bit), t.const(1, 1))
        gone = FALSE if forwarded is None else Not(Eq(forwarded, t.const(0, t.width(forwarded))))
        yield Rule(f"{f.name}() makes an exception pending", f.file, f.line, Or(Not(f.returns), gone, pending))


def _visible(program: Program, mode: Mode) -> Iterator[Rule]:
    """A register is hidden, or not writable by user space, only if its entry says so: those of debug say nothing."""
    file = f"{KVM}/sys_regs.c"
    for name in ("sysreg_hidden", "sysreg_user_write_ignore"):
        if program.defines(name, mode, file):
            f = skeleton(program, name, mode, {"*visibility"}, file, _NOTHING, inside=("sysreg_visibility",))
            so = nonzero(f.result) if f.result is not None else t.TRUE
            said = Or(*(call.guard for call in f.named("*visibility")))
            yield Rule(f"{name}() asks the entry", f.file, f.line, And(f.returns, Or(Not(so), said)))


def _pending(program: Program, mode: Mode, flags: Mapping[str, Flag]) -> Iterator[Rule]:
    """Whether the exception that waits is one of the instruction itself: a synchronous one to EL1 is."""
    name, flag = "kvm_pending_sync_exception", flags.get("PENDING_EXCEPTION")
    if flag is None or not program.defines(name, mode):
        return
    f = program.lift(name, mode)
    word = f.reads.get(flag.lvalue)
    asked: Mapping[str, Term] = {}
    if word is not None:  # EXCEPT_AA64_EL1_SYNC is 0
        asked = {flag.lvalue: t.const(1 << flag.bit, t.width(word)), PSTATE: t.const(0, 64)}
    features = {v: t.const(0, t.width(term)) for v, term in f.reads.items() if v.endswith("arch.flags")}
    right = FALSE if f.result is None or not asked else nonzero(substitute(f.result, {**asked, **features}))
    yield Rule(f"{name}() knows a synchronous exception to EL1", f.file, f.line, right)


def _exit_codes(program: Program) -> Iterator[Rule]:
    """What __guest_enter returns says what has arrived at EL2."""
    if not assumed(program):
        yield from entries.rules(_ENTRIES, assembler(program).expanded(_ENTRIES, entries.VECTOR))


def assumed(program: Program) -> tuple[str, ...]:
    """What of this is taken for granted of a tree that is not whole."""
    return () if (program.tree.path / _ENTRIES).is_file() else (f"{_ENTRIES} is missing: what it returns is not read",)


def _syndrome(program: Program, mode: Mode) -> Iterator[Rule]:
    """What KVM is told of a trap is the ESR_EL2 of that trap."""
    lvalue, names = "vcpu->arch.fault.esr_el2", ("__fixup_guest_exit", "fixup_guest_exit")
    if passage.whole(program, mode):
        whole = passage.passage(program, mode).returns
        kept = [e for e in whole.events if e.lvalue == lvalue]
        guard, value = (kept[0].guard, kept[0].value) if len(kept) == 1 else (FALSE, None)
        yield _kept(guard, value, whole.file, whole.line)
        return
    read = [skeleton(program, name, mode, WATCHED, None, re.compile(f"^{re.escape(lvalue)}$"))
            for name in names if name == names[-1] or program.defines(name, mode)]  # fmt: skip
    stores = [store for f in read for store in f.named(f"= {lvalue}")]
    place = stores[0] if stores else read[-1]
    one = len(stores) == 1
    yield _kept(stores[0].guard if one else FALSE, stores[0].result if one else None, place.file, place.line)


def _kept(guard: Term, value: Term | None, file: str, line: int) -> Rule:
    """What is stored, and when: ESR_EL2, at least for a trap."""
    codes = [v for v in nodes((guard,)) if v.op == "var" and v.sort != t.BOOL]
    register = word(value) if value is not None else None
    right: Term = FALSE
    if len(codes) == 1 and value is not None and register is not None and _ESR.fullmatch(str(register.data)):
        trapped = substitute(guard, {str(codes[0].data): t.const(TRAPPED, t.width(codes[0]))})
        right = And(trapped, Eq(value, t.extract(register, t.width(value) - 1, 0)))
    return Rule("ESR_EL2 of a trap is kept at an exit", file, line, right)


def _reset_by_user(program: Program, mode: Mode) -> Iterator[Rule]:
    """KVM_ARM_VCPU_INIT that succeeds has reset the vCPU, whether it has run or not."""
    resets = ("kvm_reset_vcpu", "__kvm_vcpu_set_target")  # the latter from v6.4 on
    for name in ("kvm_vcpu_set_target", "__kvm_vcpu_set_target"):
        if name == "kvm_vcpu_set_target" or program.defines(name, mode, ARM_C):
            f = skeleton(program, name, mode, {*WATCHED, *resets}, ARM_C, _NOTHING)
            done = Or(*(call.guard for call in f.named(*resets)))
            yield Rule(f"{name}() resets the vCPU", f.file, f.line, Or(Not(succeeds(f)), done))


def _answer(program: Program) -> Iterator[Rule]:
    """The host finds what a function at EL2 returns in x1 (SMCCC has whether it was called in x0): from v5.9 on."""
    text = without_comments(program.tree.read(_KVM_HOST))
    for macro in _CALLS_EL2.finditer(text):
        given, line = _ANSWER.search(macro[0].replace("\\\n", " ")), text[: macro.start()].count("\n") + 1
        if "arm_smccc" in macro[0]:  # in v5.8 it is an assembler function that calls
            right = given is not None and given[2] == "1"
            yield Rule("kvm_call_hyp_nvhe() gives x1", _KVM_HOST, line, t.boolean(right))


def _created(program: Program) -> Iterator[Rule]:
    """A new vCPU is all zero."""
    made = False
    for file, text in _files(program):
        for call in _CREATES.finditer(text):
            line, made = text[: call.start()].count("\n") + 1, True
            zero = "zalloc" in call[1] or "__GFP_ZERO" in call[0]
            yield Rule("a new vCPU is all zero", file, line, t.boolean(zero))
    if not made:
        yield Rule("a new vCPU is all zero", f"{KVM}/arm.c", 1, FALSE)


def _told(program: Program, mode: Mode) -> Iterator[Rule]:
    """User space is told of a debug exception by its handler alone, or a helper that only this executes."""
    own = {name for name, _ in program.lift(debugexit.FUNCTION, mode, debugexit.FILE, memory={}).bodies}
    for file, text in _files(program):
        words = tokens(text) if _TOLD in text else []
        private = scan.helpers(text) if words else frozenset[str]()
        for before, here in pairwise(words):
            if here.text == _TOLD and here.function and before.text not in ("==", "!=", "case"):
                callers = {word.function for word in words if word.text == here.function and word.function}
                helper = here.function in private & own and callers <= own
                if here.function not in _TELLERS and not helper:
                    says = f"{here.function}() does not tell user space of a debug exception"
                    yield Rule(says, file, here.line, FALSE, of=None)


def _files(program: Program) -> Iterator[tuple[str, str]]:
    """The C files of KVM, without comments; the last folder has some before v4.12."""
    for folder in (KVM, "virt/kvm", "arch/arm/kvm"):
        for path in sources(program.tree.path / folder, (".c",)):
            file = program.tree.relative(str(path))
            yield file, without_comments(program.tree.read(file))
