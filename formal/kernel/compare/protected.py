"""Protected mode (from v6.14): what the hypervisor at EL2 hands over between the host's vCPU and its own copy of it.

flush_hyp_vcpu before an entry, sync_hyp_vcpu after the exit, the world switch on the copy between them. The debug state
is lifted (flush_debug_state, sync_debug_state), the rest is read by its stores; where flush_hyp_vcpu differs from its
description, the entry of the specification does what the C does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from formal.epochs import Kernel
from formal.kernel.belongs import ENTERS, EXITS
from formal.kernel.errors import Gaps, NotUnderstoodError
from formal.kernel.lift.machine import PointerRule
from formal.kernel.lift.pointers import POINTERS
from formal.kernel.lift.program import Lifted, Program
from formal.kernel.model.binding import HYP_COPY, HYP_OWNER, KINDS, Binding, Effect
from formal.kernel.model.calls import Call, Skeleton
from formal.kernel.model.counterparts import equalities
from formal.kernel.model.substitution import Part
from formal.kernel.recognition.rules import PSTATE, WATCHED, Rule, belonging
from formal.kernel.recognition.skeleton import skeleton
from formal.kernel.source.tree import KVM
from formal.logic import terms as t
from formal.logic.evaluation import nodes, substitute, support
from formal.logic.terms import BOOL, FALSE, TRUE, And, Eq, If, Not, Or, Term
from formal.ownership import flush_hyp_vcpu
from formal.state import DebugOwner, State
from formal.system import System

HYP_MAIN = f"{KVM}/hyp/nvhe/hyp-main.c"
FLUSH, SYNC, RUN = "flush_hyp_vcpu", "sync_hyp_vcpu", "handle___kvm_vcpu_run"
_PARTS = ("flush_debug_state", "sync_debug_state")
_HOST = "hyp_vcpu->host_vcpu"  # how the functions that are read by their stores name the host's vCPU
_RULES = POINTERS | {_HOST: PointerRule(("vcpu",), "EL2's copy of a vCPU names the host's")}
_MODELLED = re.compile(
    r"^(hyp_vcpu->(host_vcpu->|vcpu\.)|vcpu->)(guest_debug$|arch\.(mdcr_el2|debug_owner|external_mdscr_el1|[isc]?flags"
    r"|vcpu_debug_state|external_debug_state|ctxt\.regs\.pstate|ctxt\.sys_regs\[(MDSCR|OSLSR)_EL1\]))"
)
_MDCR, _IFLAGS = ".arch.mdcr_el2", "arch.iflags"


@dataclass(frozen=True)
class Copies:
    """What one tree hands over."""

    flush: Lifted  # flush_debug_state
    sync: Lifted  # sync_debug_state
    flushed: Skeleton  # flush_hyp_vcpu
    binding: Binding

    @staticmethod
    def read(program: Program, binding: Binding) -> Copies:
        """The functions of a tree.

        Raises:
            NotUnderstoodError: if one is missing, or is not understood.
        """
        flush, sync = (program.lift(name, "nvhe", file=HYP_MAIN, rules=_RULES) for name in _PARTS)
        for f in (flush, sync):
            if f.returns is not TRUE or f.obligations:
                raise NotUnderstoodError(f.file, f.line, f"{f.name}() does not return on every path")
        return Copies(flush, sync, _skeleton(program, FLUSH), binding)

    def conditions(self, s: State, k: Kernel) -> Iterator[tuple[str, Term]]:
        """What must hold for the C to hand over what the specification says: a state variable or a sentence, a term."""
        yield from equalities(self.effect(s), self.binding, s, flush_hyp_vcpu(s, k))
        yield from self.effect(s).side_conditions.items()

    def returned(self, s: State) -> Iterator[tuple[str, Term]]:
        """The same for sync_debug_state: nothing that the specification names by itself goes back."""
        effect = replace(self.binding.after(self.sync, s), elements={})
        yield from equalities(effect, self.binding, s, s)
        yield from effect.side_conditions.items()
        yield from self._banks(self.sync, to_copy=False)  # the specification has one bank for both

    def handed_over(self) -> Iterator[tuple[str, Term]]:
        """The registers of the owner that EL2 then knows go to its copy, and the host's stay as they are."""
        yield from self._banks(self.flush, to_copy=True)
        stored = [lvalue for lvalue in self.flush.writes if lvalue.startswith("vcpu->")]
        yield f"{self.flush.name}() leaves the host's vCPU alone", t.boolean(not stored)

    def _banks(self, f: Lifted, to_copy: bool) -> Iterator[tuple[str, Term]]:
        """The owner's bank is that of the other side afterwards; the host's stay if they are not the owner's."""
        who = f.writes.get(HYP_OWNER, f.reads.get(HYP_OWNER))
        for bank, name in ((DebugOwner.GUEST, "vcpu_debug_state"), (DebugOwner.HOST, "external_debug_state")):
            right: list[Term] = []
            for element in (f"arch.{name}.dbg_{kind}[{n}]" for kind in KINDS for n in range(16)):
                host, copy = f"vcpu->{element}", f"{HYP_COPY}{element}"
                target, source = (copy, host) if to_copy else (host, copy)
                after, given = f.writes.get(target), f.reads.get(source)
                owned = TRUE if who is None else Eq(who, t.const(self.binding.owners[bank], t.width(who)))
                same = Eq(after, given) if after is not None and given is not None else FALSE
                right.append(Or(Not(owned), same))
                if not to_copy and after is not None:
                    right.append(Or(owned, Eq(after, f.reads[target])))
            yield f"{f.name}() hands over {name} with its owner", And(*right)

    def effect(self, s: State) -> Effect:
        """flush_debug_state, and the stores to MDCR_EL2 around it, as a change of the state."""
        effect = self.binding.after(self.flush, s)
        value, always = s.values["hyp_mdcr_el2"], FALSE
        known = {
            f"{_HOST}->{_MDCR[1:]}": s.values["mdcr_el2"], f"vcpu->{_MDCR[1:]}": s.values["mdcr_el2"],
            f"hyp_vcpu->vcpu{_MDCR}": s.values["hyp_mdcr_el2"],
        }  # fmt: skip
        for call in self.flushed.named(f"= hyp_vcpu->vcpu{_MDCR}"):
            if call.result is None:
                raise NotUnderstoodError(call.file, call.line, "MDCR_EL2 of EL2's copy is stored in an unknown form")
            guard, stored = (substitute(x, known | _asked(x, s)) for x in (call.guard, call.result))
            strange = {n for x in (guard, stored) for n in support(x)} - {
                n for v in s.values.values() for n in support(v)
            }
            if strange:
                reason = f"MDCR_EL2 of EL2's copy depends on {sorted(strange)[0]}"
                raise NotUnderstoodError(call.file, call.line, reason)
            value, always = If(guard, stored, value), Or(always, guard)
        if always is not FALSE and substitute(always, {str(s.values["protected_vm"].data): TRUE}) is not TRUE:
            f, reason = self.flushed, "MDCR_EL2 of a protected guest keeps what pvm_init_traps_mdcr has chosen"
            raise NotUnderstoodError(f.file, f.line, f"{f.function}(): {reason}, which is not modelled")
        return replace(effect, values={**effect.values, "hyp_mdcr_el2": value}, elements={})

    def part(self) -> Part:
        """flush_hyp_vcpu, as part of an entry."""
        return _Flush(FLUSH, self.flush, self.binding, flush_hyp_vcpu, copies=self)


@dataclass(frozen=True)
class _Flush(Part):
    """flush_debug_state, with the stores of flush_hyp_vcpu around it."""

    copies: Copies | None = None

    def effect(self, s: State) -> Effect:
        assert self.copies is not None
        return self.copies.effect(s)


def _asked(term: Term, s: State) -> dict[str, Term]:
    """The answers of pkvm_hyp_vcpu_is_protected() in a term."""
    answers = (v for v in nodes((term,)) if v.op == "var" and str(v.data).startswith("pkvm_hyp_vcpu_is_protected()"))
    return {str(v.data): s.values["protected_vm"] for v in answers if v.sort == BOOL}


def _skeleton(program: Program, name: str) -> Skeleton:
    return skeleton(program, name, "nvhe", {*WATCHED, *_PARTS, FLUSH, SYNC}, HYP_MAIN, _MODELLED)


def rules(program: Program, binding: Binding, k: Kernel, gaps: Gaps) -> Iterator[Rule]:
    """What flush_hyp_vcpu, sync_hyp_vcpu and their caller do besides; nothing in the other modes.

    Raises:
        NotUnderstoodError: if one is missing, or a watched call or store cannot be placed, and that is not noted.
    """
    if k.copies_vcpu:
        with gaps.at(ENTERS, EXITS, untimely=True):
            yield from belonging((ENTERS, EXITS), _rules(program, binding, k))


def _rules(program: Program, binding: Binding, k: Kernel) -> Iterator[Rule]:
    copies = Copies.read(program, binding)
    yield from (Rule(says, HYP_MAIN, copies.flush.line, holds) for says, holds in copies.handed_over())
    yield from (Rule(says, HYP_MAIN, copies.sync.line, holds) for says, holds in copies.returned(System(k).state()))
    yield from _run(_skeleton(program, RUN))
    host, copy = f"{_HOST}->", "hyp_vcpu->vcpu."
    for name, part, source, target, wanted in (
        (FLUSH, _PARTS[0], host, copy, (_MDCR[1:], _IFLAGS)),
        (SYNC, _PARTS[1], copy, host, (_IFLAGS,)),
    ):
        f = _skeleton(program, name)
        calls = f.named(part)
        once = len(calls) == 1 and calls[0].guard is TRUE and calls[0].arguments == ("hyp_vcpu",)
        yield Rule(f"{name}() calls {part}(hyp_vcpu), once and always", f.file, f.line, t.boolean(once))
        there = t.var(f"{_HOST} != NULL", BOOL)
        for call in f.calls:
            lvalue = call.name.removeprefix("= ")
            if not call.name.startswith("= "):
                continue
            member = lvalue.removeprefix(target)
            context = member.startswith("arch.ctxt.")
            if lvalue == member or not (member in wanted or context):
                yield Rule(f"{name}() stores to {lvalue}, of which the specification knows nothing", call.file,
                           call.line, FALSE)  # fmt: skip
            elif member != _MDCR[1:]:
                yield Rule(f"{name}() copies {member}", call.file, call.line, _copied(call, f"{source}{member}"))
        flags = [c.guard for c in f.named(f"= {target}{_IFLAGS}")]
        always = Or(Not(there), *flags)
        yield Rule(f"{name}() always copies {_IFLAGS}", f.file, f.line, always if len(flags) == 1 else FALSE)
        if name == SYNC:
            state = [c.guard for c in f.named(f"= {host}{PSTATE.removeprefix('vcpu->')}")]
            yield Rule(f"{name}() always gives PSTATE back", f.file, f.line, Or(Not(there), *state))


def _copied(call: Call, source: str) -> Term:
    """Whether a store stores what is at a place, on each path; functions that are not read may have changed it."""
    leaves = [call.result] if call.result is not None else []
    for term in leaves:
        if term.op == "ite":
            leaves += term.args[1:]
    names = {str(term.data).partition("#")[0] if term.op == "var" else "" for term in leaves if term.op != "ite"}
    return t.boolean(names == {source})


def _run(f: Skeleton) -> Iterator[Rule]:
    """The copy is flushed, run and synchronised, in this order; the host's vCPU runs only if there is none."""
    enters = "__kvm_vcpu_run"
    found = [c for c in f.calls if c.name in (FLUSH, enters, SYNC)]
    chain = [FLUSH, enters, SYNC, enters]
    right = [c.name for c in found] == chain
    says = f"{f.function}() calls {', '.join(chain)}"
    yield Rule(says, f.file, found[0].line if found else f.line, t.boolean(right))
    if not right:
        return
    first, *others, host = found
    for call in (first, *others):
        same = call.arguments[:1] == first.arguments[:1] and "hyp_vcpu" in call.arguments[0]
        says = f"{call.name}() is called with EL2's copy, whenever {FLUSH}() is"
        equal = Or(And(call.guard, first.guard), And(Not(call.guard), Not(first.guard)))
        yield Rule(says, call.file, call.line, And(t.boolean(same), equal))
    present = [v for v in nodes((first.guard,)) if v.op == "var" and re.match(r"hyp_vcpu.* != NULL$", str(v.data))]
    only = And(Not(And(host.guard, present[0])), Or(Not(first.guard), present[0])) if len(present) == 1 else FALSE
    yield Rule("the host's vCPU runs only where EL2 has no copy", host.file, host.line, only)
