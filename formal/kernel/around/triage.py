"""What triage_sysreg_trap makes of a control: which trapped accesses of its guest a guest hypervisor gets.

The tables that it looks up are read elsewhere (``compare/forwarding.py``); here it is asked that what they say is done:
the bits that an entry names decide, each control of a group is asked, and reads and writes are not exchanged. What a
return of the guest hypervisor's takes a short way for is asked too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

from formal.epochs import Kernel
from formal.kernel.belongs import EMULATES, HYP_ERET, INJECTS, TRAPS
from formal.kernel.compare.forwarding import EMULATE
from formal.kernel.errors import Gaps
from formal.kernel.lift.calls import HAS_EL2, NESTED
from formal.kernel.lift.program import Lifted, Program
from formal.kernel.model.calls import Call
from formal.kernel.recognition.rules import PSTATE, Rule, belonging, differ, nonzero, parameters
from formal.kernel.recognition.skeleton import skeleton
from formal.logic import terms as t
from formal.logic.evaluation import nodes, substitute, support
from formal.logic.terms import BOOL, FALSE, And, Eq, If, Implies, Not, Or, Term

_CONTROL, _SYNDROME, _IS_READ = "vcpu->arch.ctxt.sys_regs[MDCR_EL2]", "vcpu->arch.fault.esr_el2", 0  # ESR_ELx.ISS
_ASKS, _OF, _FORWARDS = "compute_trap_behaviour", "get_behaviour", "kvm_inject_nested_sync"
_TRIAGE, _HOST = "triage_sysreg_trap", ("is_hyp_ctxt", "vcpu_is_host_el0")
_M, _EL0T, _EL2 = 0x1F, 0, {8: 4, 9: 5}  # PSTATE.nRW and .M: EL0t; EL2t and EL2h, which run at EL1t and EL1h
_HCR, _TGE = "vcpu->arch.ctxt.sys_regs[HCR_EL2]", 27  # Arm ARM D24.2.48


def rules(program: Program, k: Kernel, gaps: Gaps) -> Iterator[Rule]:
    """What must hold of a kernel whose guests may have an EL2; none of others."""
    if not k.nests:
        return
    of = (*TRAPS, EMULATES, INJECTS)
    for make in (_behaviour, _several, _forwards, _host_el0):
        with gaps.at(*of):
            yield from belonging(of, make(program))
    with gaps.at(HYP_ERET):
        yield from belonging((HYP_ERET,), _short_return(program))


def _behaviour(program: Program) -> Iterator[Rule]:
    """A control is asked of the register and the bits that it names."""
    tb = parameters(program, _OF, "vhe", EMULATE)[1]
    f = program.lift(_OF, "vhe", EMULATE, memory={f"{tb}->index": "MDCR_EL2"})
    register, *control = (f.reads.get(name) for name in (_CONTROL, f"{tb}->mask", f"{tb}->value", f"{tb}->behaviour"))
    mask, value, gives = control
    right: Term = FALSE
    if f.result is not None and register is not None and mask is not None and value is not None and gives is not None:
        asked = Eq(register & mask, value)
        right = And(f.returns, Eq(f.result, If(asked, gives, t.const(0, t.width(gives)))))
    yield _rule(f, "asks for the bits that the control names", right)


def _several(program: Program) -> Iterator[Rule]:
    """A control that stands for itself is asked; of a group each is, from the first on."""
    inner = f"__{_ASKS}"
    name = inner if program.defines(inner, "vhe", EMULATE) else _ASKS
    f = skeleton(program, name, "vhe", {_OF, name}, EMULATE, turn=0)
    numbers, control = program.resolver.unit(EMULATE).enumerators, parameters(program, name, "vhe", EMULATE)[1]
    several, complex_ = numbers["__MULTIPLE_CONTROL_BITS__"], numbers["__COMPLEX_CONDITIONS__"]
    bounds = {_OF: (1, several), name: (several, complex_)}
    for call in f.named(*bounds):
        first, end = bounds[call.name]
        number = [v for v in nodes((call.guard,)) if v.op == "var" and str(v.data) == control]
        loop = [c.result for c in f.calls if c.name in ("= start", "= next")] if call.name == name else []
        steps = [t.const(n, t.width(c)) for n, c in enumerate(loop) if c is not None]
        turns = And(*(Eq(c, step) for c, step in zip(loop, steps, strict=False) if c is not None))
        own = [v for v in nodes((call.guard,)) if v.op == "var" and v not in number]  # whether the group goes on
        right: Term = FALSE
        if len(number) == 1 and len(own) == bool(loop) and len(steps) == (2 if loop else 0):
            wide = t.width(number[0])
            inside = And(t.ule(t.const(first, wide), number[0]), t.ult(number[0], t.const(end, wide)))
            goes_on = And(*(nonzero(v) for v in own))
            right = And(turns, Not(differ(call.guard, And(inside, goes_on))))
        yield Rule(f"{f.function}() asks each control", call.file, call.line, right)
    for called in bounds:
        if not f.named(called):
            yield Rule(f"{f.function}() asks each control", f.file, f.line, FALSE)


def _forwards(program: Program) -> Iterator[Rule]:
    """An access is forwarded exactly if the control's answer says so of a read, or of a write."""
    table = parameters(program, _TRIAGE, "vhe", EMULATE)[1]
    f = skeleton(program, _TRIAGE, "vhe", {_ASKS, _FORWARDS}, EMULATE, re.compile(f"^{table}$"))
    asked, sent, stored = f.named(_ASKS), f.named(_FORWARDS), f.named(f"= {table}")
    own, user = (t.var(f"{name}()", BOOL) for name in _HOST)
    answers = {str(v.data): _like(of, v) for name, of in zip(_HOST, (own, user), strict=True)
               for v in nodes(tuple(c.guard for c in f.calls)) if str(v.data).startswith(f"{name}()#")}  # fmt: skip
    numbers = program.resolver.unit(EMULATE).enumerators
    right, reached = FALSE, FALSE
    if len(asked) == len(sent) == 1 and (answer := asked[0].result) is not None:
        when, forwarded = (substitute(call.guard, answers) for call in (asked[0], sent[0]))
        syndrome = [v for v in nodes((forwarded,)) if v.op == "var" and str(v.data).startswith(_SYNDROME)]
        has = partial(_bit, answer)
        read = Eq(t.extract(syndrome[0], _IS_READ, _IS_READ), t.const(1, 1)) if len(syndrome) == 1 else t.var("?", BOOL)
        ways = Or(And(has(numbers["BEHAVE_FORWARD_READ"]), read), And(has(numbers["BEHAVE_FORWARD_WRITE"]), Not(read)))
        in_host = has(numbers.get("BEHAVE_FORWARD_IN_HOST_EL0", 0))
        right = Implies(when, Not(differ(forwarded, And(ways, Or(in_host, Not(user))))))
        reached = Implies(Or(Not(own), user), substitute(when, {HAS_EL2: t.TRUE, **_plain(when)}))
    for call in asked or (f,):
        yield Rule(f"{f.function}() asks for a control unless the hypervisor's EL2 runs", call.file, call.line, reached)
    for call in sent or (f,):
        yield Rule(f"{f.function}() forwards what the control says", call.file, call.line, right)
    for call in stored or (f,):
        less = _less_one(call) if isinstance(call, Call) else FALSE
        yield Rule(f"{f.function}() gives the number in the table, less one", call.file, call.line, less)


def _like(truth: Term, answer: Term) -> Term:
    """A truth as a call returns it, which does so wherever it is asked."""
    return truth if answer.sort == BOOL else If(truth, t.const(1, t.width(answer)), t.const(0, t.width(answer)))


def _plain(guard: Term) -> dict[str, Term]:
    """An access that the tables know, and no fine-grained trap of the guest hypervisor's: what is read of its entry."""
    fields = [v for v in nodes((guard,)) if v.op == "var" and str(v.data).startswith(("?", "undefined "))]
    none = {str(v.data): FALSE if v.sort == BOOL else t.const(0, t.width(v)) for v in fields}
    whole = {str(v.data): t.const(1, t.width(v)) for v in fields if str(v.data).endswith(".val")}
    return {**none, **whole}


def _host_el0(program: Program) -> Iterator[Rule]:
    """A guest hypervisor's own EL0: neither its EL2 nor its guest runs."""
    f = program.lift(_HOST[1], "vhe")
    mode = f.reads.get(PSTATE)
    right: Term = FALSE
    if f.result is not None and mode is not None:
        level = mode & t.const(_M, 64)
        at_el2 = Or(*(Eq(level, t.const(n, 64)) for n in _EL2))
        own = And(t.var(HAS_EL2, BOOL), Not(t.var(NESTED, BOOL)), Not(at_el2))
        right = Not(differ(nonzero(f.result), own))
    yield _rule(f, "is the guest hypervisor's own EL0", right)


def _short_return(program: Program) -> Iterator[Rule]:
    """EL2 completes an ERET within the guest hypervisor itself: of PSTATE only its level changes, to the real one."""
    inside = ("vcpu_el2_e2h_is_set", "vcpu_el2_tge_is_set", "__vcpu_el2_e2h_is_set", "__vcpu_el2_tge_is_set")
    f = skeleton(program, "kvm_hyp_handle_eret", "vhe", frozenset(), None, re.compile(r"^hw\.spsr_el1$"), inside=inside)
    stores = f.named("= hw.spsr_el1")
    for store in stores:
        given = [v for v in nodes((store.result,)) if str(v.data) == "hw.spsr_el12"] if store.result is not None else []
        right: Term = FALSE
        if given and store.result is not None:
            level, rest = (given[0] & t.const(bits, 64) for bits in (_M, ~_M & (1 << 64) - 1))
            as_run = If(Eq(level, t.const(_EL0T, 64)), level, t.const(0x1F, 64))
            for own, real in _EL2.items():
                as_run = If(Eq(level, t.const(own, 64)), t.const(real, 64), as_run)
            hcr = {str(v.data): t.var(_HCR, 64) for v in nodes((store.guard,)) if str(v.data).startswith(_HCR)}
            itself = Or(_bit(t.var(_HCR, 64), 1 << _TGE), Not(Eq(level, t.const(_EL0T, 64))))
            right = Implies(substitute(store.guard, hcr), And(Eq(substitute(store.result, hcr), rest | as_run), itself))
        yield Rule(f"{f.function}() returns to what the guest hypervisor asks for", store.file, store.line, right)
    if not stores:
        yield Rule(f"{f.function}() returns to what the guest hypervisor asks for", f.file, f.line, FALSE)


def _bit(value: Term, mask: int) -> Term:
    return Not(Eq(value & t.const(mask, t.width(value)), t.const(0, t.width(value))))


def _less_one(call: Call) -> Term:
    """A stored value is some field, less one."""
    value = call.result
    if value is None or value.op != "bvsub" or not t.is_const(value.args[1]):
        return FALSE
    return t.boolean(t.value_of(value.args[1]) == 1 and len(support(value.args[0])) == 1)


def _rule(f: Lifted, says: str, holds: Term) -> Rule:
    return Rule(f"{f.name}() {says}", f.file, f.line, holds)
