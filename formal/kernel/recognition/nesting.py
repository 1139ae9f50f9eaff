"""Guests that are hypervisors (from v6.18, under VHE): what is read of the C besides the lifted functions.

``vcpu_has_nv``, ``is_hyp_ctxt`` and ``is_nested_ctxt`` have open answers wherever functions are lifted
(``lift/calls.py``),
so debug.c, the handlers and the world switch are compared for guests with and without an EL2. Here are the rules for
what switches between a guest hypervisor and its guest, and for what decides which of them gets a trapped access.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from formal.arch.fgt import HDFGWTR_EL2
from formal.arch.registers import MDCR_EL2
from formal.kernel.belongs import (
    ERET,
    EXITS,
    GUEST_DEBUG,
    INJECTS,
    NESTING,
    REENTERS,
    RESETS,
    TRAPS,
)
from formal.kernel.lift.calls import HAS_EL2, NESTED
from formal.kernel.model.binding import PMU_COUNTERS
from formal.kernel.recognition.rules import ARM_C, PSTATE, Reader, Rule, differ, nonzero
from formal.kernel.recognition.skeleton import skeleton
from formal.kernel.source.tree import KVM
from formal.logic import terms as t
from formal.logic.evaluation import nodes, substitute
from formal.logic.terms import BOOL, FALSE, And, Eq, If, Not, Or, Term

EMULATE, SYS_REGS, CONFIG, HANDLE_EXIT, PMU_C = (
    f"{KVM}/{name}.c" for name in ("emulate-nested", "sys_regs", "config", "handle_exit", "pmu-emul")
)
_UNKNOWN = re.compile(r"unknown#\d+$")
_DIRECT = ("kvm_inject_el2_exception", "vcpu_el2_e2h_is_set", "vcpu_el2_tge_is_set")
_CONTEXT, _TGE, _M32 = "vcpu->arch.ctxt", 27, 0x1F  # HCR_EL2.TGE (Arm ARM D24.2.48); PSTATE.nRW and .M
_M, _EL0T, _EL1, _EL2 = 0x1F, 0b0000, (0b0100, 0b0101), (0b1000, 0b1001)  # PSTATE.M (Arm ARM C5.2): EL0t; ELxt, ELxh


class Nesting(Reader):
    """Rules of what switches between a guest hypervisor and its guest."""

    def groups(self) -> Iterator[tuple[tuple[str, ...], Callable[[], Iterator[Rule]]]]:
        """All rules, with the operations that they are about; none for a kernel in which no guest has an EL2."""
        if self.k.nests:
            yield (*NESTING, *TRAPS, REENTERS, EXITS), self._context
            yield (INJECTS, GUEST_DEBUG), self._inject
            yield (ERET,), self._eret
            yield (EXITS, REENTERS), self._exit
            yield (*NESTING, *TRAPS), self._hypervisors_mdscr
            yield (ERET, EXITS), self._erets
            yield RESETS, self._counters
            yield (), self._fine_grained
            yield RESETS, self._registers

    def _context(self) -> Iterator[Rule]:
        """is_hyp_ctxt: the guest hypervisor runs at EL2, or at EL0 with HCR_EL2.TGE; is_nested_ctxt: else its guest."""
        f = self.program.lift("is_hyp_ctxt", self.mode, SYS_REGS)
        hcr, pstate = f.reads.get(f"{_CONTEXT}.sys_regs[HCR_EL2]"), f.reads.get(PSTATE)
        right: Term = FALSE
        if f.result is not None and hcr is not None and pstate is not None:
            at_el2 = Or(*(Eq(pstate & t.const(_M32, 64), t.const(mode, 64)) for mode in _EL2))
            own = And(t.var(HAS_EL2, BOOL), Or(at_el2, Eq(t.extract(hcr, _TGE, _TGE), t.const(1, 1))))
            right = Not(differ(nonzero(f.result), own))
        yield Rule("is_hyp_ctxt() is whether the guest hypervisor runs", f.file, f.line, right)
        f = self.program.lift("is_nested_ctxt", self.mode, SYS_REGS)
        guest = And(t.var(HAS_EL2, BOOL), Not(And(t.var(HAS_EL2, BOOL), Not(t.var(NESTED, BOOL)))))
        right = FALSE if f.result is None else Not(differ(nonzero(f.result), guest))
        yield Rule("is_nested_ctxt() is whether its guest runs", f.file, f.line, right)

    def _inject(self) -> Iterator[Rule]:
        """kvm_inject_nested: what is pending is committed, and the exception is entered between a put and a load."""
        f = self.read("kvm_inject_nested", EMULATE, _DIRECT)
        enters, adjusts = "kvm_inject_el2_exception", "__kvm_adjust_pc"
        chain = [adjusts, "kvm_arch_vcpu_put", enters, adjusts, "kvm_arch_vcpu_load"]
        yield from self.exactly(f, [enters, *chain], _DIRECT[1:])
        calls = [c for c in f.calls if c.name in (enters, *chain)]
        if [c.name for c in calls] != [enters, *chain]:
            return
        has_el2 = t.var(HAS_EL2, BOOL)
        words = {v for v in nodes((calls[0].guard,)) if v.op == "var" and v.data == PSTATE}
        asked = {c.name: c for c in f.named(*_DIRECT[1:])}
        if len(words) != 1 or len(asked) != 2 or len(f.named(*_DIRECT[1:])) != 2:
            yield Rule(f"{f.function}() asks whether the guest hypervisor itself runs", f.file, f.line, FALSE)
            return
        mode = words.pop() & t.const(_M, 64)
        host_user = And(*(nonzero(c.result) for c in asked.values() if c.result is not None))
        user = And(Eq(mode, t.const(_EL0T, 64)), host_user)
        direct = Or(user, *(Eq(mode, t.const(number, 64)) for number in _EL2))
        for call in calls:
            wanted = And(has_el2, direct if call is calls[0] else Not(direct))
            says = f"{f.function}() calls {call.name}() under the condition of the specification"
            yield Rule(says, call.file, call.line, And(Or(Not(call.guard), wanted), Or(Not(wanted), call.guard)))

    def _eret(self) -> Iterator[Rule]:
        """kvm_emulate_nested_eret: PSTATE is SPSR_EL2, as far as that is legal, between a put and a load."""
        checks, injects = "kvm_check_illegal_exception_return", "kvm_inject_nested_sync"
        f = self.read("kvm_emulate_nested_eret", EMULATE, (checks, injects))
        chain = ["kvm_arch_vcpu_put", f"= {PSTATE}", "kvm_arch_vcpu_load"]
        yield from self.exactly(f, [checks, injects, *chain])
        if [c.name for c in f.calls if c.name in (checks, injects, *chain)] != [checks, injects, *chain]:
            return
        refused, stored, legal = f.named(injects)[0], f.named(chain[1])[0], f.named(checks)[0]
        for name in chain:
            yield from self.when(f, name, Not(refused.guard))
        right = stored.result is not None and stored.result == legal.result
        yield Rule(f"{f.function}() stores what {checks}() gives", stored.file, stored.line, t.boolean(right))

    def _exit(self) -> Iterator[Rule]:
        """After an exit, PSTATE shows a guest hypervisor at its EL2 again, and is else as it was saved."""
        saves, inner = "synchronize_vcpu_pstate", "__fixup_guest_exit"
        f = self.read("fixup_guest_exit", inside=("fixup_nv_guest_exit",))  # a function of its own from v7.3 on
        stores, first = f.named(f"= {PSTATE}"), f.named(saves)
        order = [c.name for c in f.calls if c in stores or c.name in (saves, inner)]
        right = order == [saves, *(c.name for c in stores), inner]
        yield Rule(f"{f.function}() adjusts PSTATE when it has been saved", f.file, f.line, t.boolean(right))
        if not stores or not first:
            yield Rule(f"{f.function}() shows the guest hypervisor at its EL2", f.file, f.line, FALSE)
            return
        words = {
            v for c in stores if c.result is not None for v in nodes((c.result,)) if str(v.data).startswith(PSTATE)
        }
        word, known = next(iter(words), t.var("?", 64)), len(words) == 1 and all(c.result is not None for c in stores)
        adjusted = word
        for store in stores:
            adjusted = If(store.guard, store.result, adjusted) if store.result is not None else adjusted
        shown = word
        for mode, el2 in zip(_EL1, _EL2, strict=True):
            at = Eq(word & t.const(_M32, 64), t.const(mode, 64))
            shown = If(at, (word & t.const(~_M32 & (1 << 64) - 1, 64)) | t.const(el2, 64), shown)
        own = Or(*(c.guard for c in stores))
        asked = {
            v for v in nodes((own,)) if v.op == "var" and v.data != HAS_EL2
        }  # a flag of the host, set at the entry
        flag = asked.pop() if len(asked) == 1 else FALSE
        entered = And(t.var(HAS_EL2, BOOL), flag if flag.sort == BOOL else FALSE)
        holds = And(t.boolean(known), Eq(adjusted, If(own, shown, word)), Not(differ(own, entered)))
        yield Rule(f"{f.function}() shows a guest hypervisor at its EL2, and leaves the rest of PSTATE as it was",
                   stores[0].file, stores[0].line, holds)  # fmt: skip

    def _fine_grained(self) -> Iterator[Rule]:
        """kvm_arch_vcpu_load chooses the fine-grained traps before VHE writes them."""
        name, writes = "kvm_vcpu_load_fgt", "kvm_vcpu_load_vhe"
        f = self.read("kvm_arch_vcpu_load", ARM_C, (name,))
        order = [c.name for c in f.calls if c.name in (name, writes)]
        yield Rule(
            f"{f.function}() calls {name}(), then {writes}()", f.file, f.line, t.boolean(order == [name, writes])
        )
        yield from self.when(f, name, t.TRUE)
        for call in f.named(name):
            right = call.arguments[:1] == (f.place("vcpu"),)
            yield Rule(f"{name}() is called with vcpu", call.file, call.line, t.boolean(right))
        g = self.program.lift("__vcpu_load_activate_traps", self.mode)
        chosen = [v for lvalue, v in g.reads.items() if re.fullmatch(r"vcpu->arch\.fgt\[\w+\]\.w", lvalue)]
        after = g.writes.get("hw.hdfgwtr_el2")
        places = self._chosen()
        wanted = [v for v in chosen if v.data in places]
        has_fgt = t.var("cap.ARM64_HAS_FGT", BOOL)
        holds = Or(Not(has_fgt), Eq(after, wanted[0])) if after is not None and len(wanted) == 1 else FALSE
        yield Rule(f"{g.name}() writes the fine-grained traps that were chosen", g.file, g.line, holds)

    def _chosen(self) -> tuple[str, str]:
        """Where the fine-grained write traps of the debug registers lie that a load chooses."""
        enumerators = self.program.resolver.unit(ARM_C).enums.get("fgt_group_id", {})
        group = next((number for number, spelled in enumerators.items() if spelled == "HDFGRTR_GROUP"), None)
        return f"vcpu->arch.fgt[{group}].w", "vcpu->arch.fgt[HDFGRTR_GROUP].w"

    def _hypervisors_mdscr(self) -> Iterator[Rule]:
        """While the guest hypervisor itself runs, its writes of MDSCR_EL1 are trapped by HDFGWTR_EL2."""
        f = self.program.lift("kvm_vcpu_load_fgt", self.mode, CONFIG)
        written = [value for lvalue, value in f.writes.items() if lvalue in self._chosen()]
        asked = And(t.var("cap.ARM64_HAS_FGT", BOOL), t.var(HAS_EL2, BOOL), Not(t.var(NESTED, BOOL)))
        holds = Or(Not(asked), HDFGWTR_EL2(written[0]).MDSCR_EL1) if len(written) == 1 else FALSE
        yield Rule(f"{f.name}() traps what a guest hypervisor writes to MDSCR_EL1", f.file, f.line, holds)

    def _erets(self) -> Iterator[Rule]:
        """An ERET of the guest hypervisor is emulated, one of its guest is the hypervisor's to handle."""
        emulates, injects = "kvm_emulate_nested_eret", "kvm_inject_nested_sync"
        own, guests = "is_hyp_ctxt", "is_nested_ctxt"
        f = self.read("kvm_handle_eret", HANDLE_EXIT, (emulates, injects, own, guests))
        asked = [nonzero(c.result) for c in f.named(own) if c.result is not None]
        asked += [Not(nonzero(c.result)) for c in f.named(guests) if c.result is not None]
        calls = f.named(emulates, injects)
        right: Term = FALSE
        if len(asked) == 1 and {c.name for c in calls} == {emulates, injects}:
            right = And(*(Or(Not(c.guard), asked[0] if c.name == emulates else Not(asked[0])) for c in calls))
        yield Rule(f"{f.function}() emulates the ERET of a guest hypervisor, and no other", f.file, f.line, right)

    def _counters(self) -> Iterator[Rule]:
        """Where the number of counters changes, a guest hypervisor's HPMN is that number."""
        name = "kvm_arm_set_nr_counters"
        f = skeleton(self.program, name, self.mode, set(), PMU_C, re.compile(r"sys_regs\[MDCR_EL2\]$"))
        stores = [c for c in f.calls if c.name.startswith("= ")]
        says = f"{name}() gives a guest hypervisor all counters"
        if not stores:
            yield Rule(says, f.file, f.line, FALSE)
        for store in stores:
            value, right = store.result, FALSE
            if value is not None:
                masked = {str(v.data): FALSE for v in nodes((value,)) if v.op == "var" and _UNKNOWN.match(str(v.data))}
                plain = substitute(value, masked)  # a register's RES0 and RES1 bits are applied, or not
                number = [v for v in nodes((plain,)) if v.op == "var" and ".nr_pmu_counters" in str(v.data)]
                right = Or(*(Eq(MDCR_EL2(plain).HPMN, t.extract(n, 4, 0)) for n in number))
            yield Rule(says, store.file, store.line, right, untimely=False)

    def _registers(self) -> Iterator[Rule]:
        """The guest hypervisor's MDCR_EL2: reset to all counters, given to a read."""
        lvalue = "vcpu->arch.ctxt.sys_regs[MDCR_EL2]"
        f = self.program.lift("reset_mdcr", self.mode, file=SYS_REGS, memory={"r->reg": "MDCR_EL2"})
        counters, after = f.reads.get(PMU_COUNTERS), f.writes.get(lvalue)
        right: Term = FALSE
        if counters is not None and after is not None and f.returns is t.TRUE:
            right = Eq(after, t.zero_extend(counters, 64))
        yield Rule(f"{f.name}() lets the guest hypervisor have all counters", f.file, f.line, right, untimely=False)
        f = self.program.lift("access_mdcr", self.mode, file=SYS_REGS, memory={"p->is_write": 0})
        before, answer = f.reads.get(lvalue), f.writes.get("p->regval")
        right = Eq(answer, before) if before is not None and answer is not None and lvalue not in f.writes else FALSE
        yield Rule(f"{f.name}() gives MDCR_EL2 to a read", f.file, f.line, right, of=None)
