"""From a trapped access to the entry of its register, and back: what is done with what the entry gives."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from formal.kernel.belongs import ACCESS_MDCR, EMULATES, REENTERS, RESETS, TRAP_OSLAR, TRAPS
from formal.kernel.lift.program import Lifted
from formal.kernel.recognition.rules import MODELLED, PSTATE, Reader, Rule, nonzero, truth
from formal.kernel.source.tree import KVM
from formal.logic import terms as t
from formal.logic.evaluation import nodes, substitute
from formal.logic.terms import BOOL, FALSE, And, Eq, Not, Or, Term

SYS_REGS, INJECT = f"{KVM}/sys_regs.c", f"{KVM}/inject_fault.c"
_HANDLES_OSLAR = "kvm_debug_handle_oslar"  # from v6.14
_PC = "vcpu->arch.ctxt.regs.pc"
_ESR, _OP0 = "vcpu->arch.fault.esr_el2", 20  # where Op0 begins, of a trapped MSR or MRS (Arm ARM D24.2.40)
_SS, _M4 = 1 << 21, 1 << 4  # PSTATE.SS, AArch32 state (Arm ARM C5.2)
_SINGLESTEP = 1 << 1  # KVM_GUESTDBG_SINGLESTEP, include/uapi/linux/kvm.h


def _op0(guard: Term, number: int) -> dict[str, Term]:
    """What an access has of which Op0 is a number: the member of its parameters, or the syndrome that gives it."""
    found: dict[str, Term] = {}
    for v in (v for v in nodes((guard,)) if v.op == "var"):
        if ".Op0" in str(v.data):
            found[str(v.data)] = t.const(number, t.width(v))
        elif str(v.data) == _ESR:
            others = v & t.const(~(3 << _OP0) & (1 << t.width(v)) - 1, t.width(v))
            found[_ESR] = others | t.const(number << _OP0, t.width(v))
    return found


class Dispatch(Reader):
    """Rules of what lies around the entries of the tables."""

    def groups(self) -> Iterator[tuple[tuple[str, ...], Callable[[], Iterator[Rule]]]]:
        """All rules, with the operations that they are about."""
        yield (*TRAPS, EMULATES), self._trap
        yield RESETS, self._reset
        yield (EMULATES,), self._entries
        if self.k.emulates_os_lock:
            yield (TRAP_OSLAR, EMULATES), self._other_way
        if self.k.nests:
            yield (ACCESS_MDCR, EMULATES), self._virtual_mdcr
        if self.program.defines("kvm_hyp_handle_mops", self.mode):
            yield (REENTERS,), self._mops
        if not self.k.defers_pc_adjustment:
            yield (REENTERS,), self._skip
            yield (EMULATES,), self._enters

    def _trap(self) -> Iterator[Rule]:
        """kvm_handle_sys_reg: the register named by the instruction gets what is read, and is left alone by a write."""
        gives, asks = "vcpu_set_reg", ("perform_access", "emulate_sys_reg")
        f = self.read("kvm_handle_sys_reg", SYS_REGS, (gives, "vcpu_get_reg", *asks))
        done, given = f.named(*asks), f.named(gives)
        once = len(done) == 1 and len(given) == 1 and len(f.named("vcpu_get_reg")) == 1
        yield Rule(f"{f.function}() emulates the access, and gives its answer", f.file, f.line, t.boolean(once))
        for call in given:
            asked = [v for v in nodes((call.guard,)) if v.op == "var" and "is_write" in str(v.data)]
            right: Term = FALSE
            if len(asked) == 1:
                write, name = asked[0], str(asked[0].data)
                both = (t.FALSE, t.TRUE) if write.sort == BOOL else (t.const(n, t.width(write)) for n in (0, 1))
                read, written = (substitute(call.guard, {name: value}) for value in both)
                performed = done[0].guard if once and done[0].result is None else truth(done[0]) if once else FALSE
                for_read = substitute(performed, {name: t.FALSE if write.sort == BOOL else t.const(0, t.width(write))})
                of = [substitute(read, _op0(call.guard, number)) for number in (2, 3)]  # of MRS, not of SYS
                right = And(Not(written), Or(Not(for_read), And(*of)), t.boolean(read is not FALSE))
            yield Rule(f"{f.function}() gives an answer to reads, and to nothing else", call.file, call.line, right)
        if f.named("emulate_sys_reg"):
            f = self.read("emulate_sys_reg", SYS_REGS, ("perform_access",))
            called = f.named("perform_access")
            yield Rule(f"{f.function}() performs the access", f.file, f.line, t.boolean(len(called) == 1))

    def _reset(self) -> Iterator[Rule]:
        """reset_val stores the entry's value in the entry's register."""
        f = self.program.lift("reset_val", self.mode, SYS_REGS, memory={"r->reg": "MDSCR_EL1"})
        lvalue, value = "vcpu->arch.ctxt.sys_regs[MDSCR_EL1]", f.reads.get("r->val")
        stored = f.writes.get(lvalue)
        only = set(f.writes) == {lvalue} and value is not None and stored is not None
        right = Eq(stored, value) if only and stored is not None and value is not None else FALSE
        yield Rule(f"{f.name}() stores the entry's value", f.file, f.line, right)

    def _entries(self) -> Iterator[Rule]:
        """What reads OSLSR_EL1, or as zero, changes nothing."""
        names = self.program.resolver.unit(SYS_REGS, self.mode).enumerators
        known: dict[str, int | str | Term] = {"p->is_write": 0}
        if "OSLSR_EL1" in names:  # before, the register has no element
            known["r->reg"] = "OSLSR_EL1"
        for name in ("trap_raz_wi", "trap_oslsr_el1", "read_zero"):
            if self.program.defines(name, self.mode, SYS_REGS):
                f = self.program.lift(name, self.mode, SYS_REGS, memory=known)
                flags = re.compile(r"vcpu->arch\.\w*flags$")  # an exception is pending
                changed = [v for v in f.writes if v != "p->regval" and not flags.match(v)]
                yield Rule(f"{name}() changes no register", f.file, f.line, t.boolean(not changed))

    def _other_way(self) -> Iterator[Rule]:
        """OSLAR_EL1 can only be written, OSLSR_EL1 only be read: the other access changes nothing."""
        yield from self._only("trap_oslar_el1", True)
        yield from self._only("trap_oslsr_el1", False)

    def _virtual_mdcr(self) -> Iterator[Rule]:
        """A guest hypervisor's read of its MDCR_EL2 changes nothing."""
        yield from self._only("access_mdcr", True)

    def _only(self, name: str, writes: bool) -> Iterator[Rule]:
        """A handler stores nothing that is modelled for a read, or for a write: it is lifted for the other one."""
        f = self.read(name, SYS_REGS, (_HANDLES_OSLAR,))
        for call in f.calls:
            if call.name.startswith("= ") or call.name == _HANDLES_OSLAR:
                asked = [v for v in nodes((call.guard,)) if v.op == "var" and str(v.data).endswith("is_write")]
                other = {str(v.data): t.boolean(not writes) if v.sort == BOOL else t.const(not writes, t.width(v))
                         for v in asked}  # fmt: skip
                says = f"{name}() does not get to {call.name} for a {'read' if writes else 'write'}"
                yield Rule(says, call.file, call.line, Not(substitute(call.guard, other)))

    def _enters(self) -> Iterator[Rule]:
        """An exception is entered at once, while the PC was adjusted at once: PSTATE.SS is clear then."""
        for name in ("inject_abt64", "inject_undef64"):
            f = self.program.lift(name, self.mode, INJECT)
            after = f.writes.get(PSTATE)
            clear = FALSE if after is None else Eq(after & t.const(_SS, 64), t.const(0, 64))
            others = [lvalue for lvalue in f.writes if lvalue != PSTATE and MODELLED.search(lvalue)]
            yield Rule(f"{name}() clears PSTATE.SS, and stores nothing else that is modelled", f.file, f.line,
                       And(f.returns, clear, t.boolean(not others)), whole=f.bodies)  # fmt: skip

    def _mops(self) -> Iterator[Rule]:
        """kvm_hyp_handle_mops: a copy of memory is begun anew, and a step that was under way has been done."""
        f = self.program.lift("kvm_hyp_handle_mops", self.mode)
        spsr = [name for name in f.writes if name in ("hw.spsr_el2", "hw.spsr_el1")]
        others = [v for v in f.writes if v not in (PSTATE, *spsr) and MODELLED.search(v)]
        right: Term = FALSE
        if len(spsr) == 1 and not others:
            after, before = f.writes[spsr[0]], [f.reads[v] for v in (*spsr, PSTATE) if v in f.reads]
            stepped = Or(*(Eq(after, pstate & t.const(~_SS, 64)) for pstate in before))
            right = And(f.returns, stepped, Eq(f.writes.get(PSTATE, after), after))
        yield Rule(f"{f.name}() clears SPSR_EL2.SS, and changes nothing else that is modelled", f.file, f.line, right)

    def _moved(self, f: Lifted, spsr: list[str]) -> Rule:
        """In AArch64 state the guest goes on at the next instruction; nothing else that is modelled changes."""
        elr = [name for name in f.writes if name in ("hw.elr_el2", "hw.elr_el1")]
        others = [v for v in f.writes if v not in (PSTATE, _PC, *spsr, *elr) and MODELLED.search(v)]
        right: Term = FALSE
        if len(elr) == 1 and not others and elr[0] in f.reads and _PC in f.writes and PSTATE in f.reads:
            following = Eq(f.writes[_PC], f.reads[elr[0]] + t.const(4, 64))
            read = (f.reads[PSTATE], *(f.reads[name] for name in spsr if name in f.reads))
            aarch32 = Or(*(nonzero(pstate & t.const(_M4, 64)) for pstate in read))
            right = And(f.returns, Eq(f.writes[elr[0]], f.writes[_PC]), Or(aarch32, following))
        says = f"{f.name}() moves PC and ELR_EL2 to the next instruction, and stores nothing else that is modelled"
        return Rule(says, f.file, f.line, right, whole=f.bodies)

    def _skip_without_step(self, f: Lifted, spsr: list[str]) -> Iterator[Rule]:
        """Before v5.0 PSTATE stays in AArch64 state, and from v4.16 on the host gets a step if user space steps."""
        now = f.reads.get(PSTATE)
        aarch32 = FALSE if now is None else nonzero(now & t.const(_M4, 64))
        same = And(*(Eq(f.writes[name], f.reads[name]) for name in spsr if name in f.reads))
        right = And(t.boolean(all(name in f.reads for name in spsr)), Or(aarch32, same))
        yield Rule(f"{f.name}() leaves SPSR_EL2 alone in AArch64 state", f.file, f.line, right)
        if self.k.fakes_step_exit:
            debug = f.reads.get("vcpu->guest_debug")
            says: Term = FALSE
            if debug is not None and isinstance(f.result, Term):
                says = Eq(nonzero(f.result), Not(nonzero(debug & t.const(_SINGLESTEP, t.width(debug)))))
            yield Rule(f"{f.name}() sends the vCPU to the host if user space steps it", f.file, f.line, says)

    def _skip(self) -> Iterator[Rule]:
        """__kvm_skip_instr, while the PC was adjusted at once: PSTATE from SPSR_EL2 and back, PSTATE.SS clear."""
        f = self.program.lift("__kvm_skip_instr", self.mode)
        spsr = [name for name in f.writes if name in ("hw.spsr_el2", "hw.spsr_el1")]
        yield self._moved(f, spsr)
        if not self.k.skip_advances_step:
            yield from self._skip_without_step(f, spsr)
            return
        after = f.writes.get(PSTATE)
        right: Term = FALSE
        if len(spsr) == 1 and after is not None:
            stepped = Eq(after & t.const(_SS, 64), t.const(0, 64))
            right = And(Eq(f.writes[spsr[0]], after), stepped)
        yield Rule(f"{f.name}() takes the guest's PSTATE from SPSR_EL2 and writes it back", f.file, f.line, right)
