"""What happens between two entries: PC adjustments, handled exits, perf's writes of PMUSERENR_EL0."""

from __future__ import annotations

import re
from collections.abc import Iterator

from formal.kernel.belongs import EMULATES, MMIO, TRAPS
from formal.kernel.model.binding import ON_CPU, Flag
from formal.kernel.model.calls import Skeleton
from formal.kernel.recognition.rules import (
    SKIPS,
    WATCHED,
    Reader,
    Rule,
    belonging,
    differ,
    nonzero,
    succeeds,
    truth,
    word,
)
from formal.kernel.recognition.skeleton import skeleton
from formal.kernel.source.tree import KVM
from formal.logic import terms as t
from formal.logic.evaluation import nodes
from formal.logic.terms import BOOL, FALSE, TRUE, And, Eq, If, Ne, Not, Or, Term

_ENTRY, _FOUND = re.compile(r"find_reg\(\)#\d+ != NULL"), re.compile(r"find_reg\(\)#\d+->access")


class Emulation(Reader):
    """Rules of what happens between two entries."""

    def program_counter(self) -> Iterator[Rule]:
        """A skip is noted, and done at the next entry unless an exception is pending, which comes first."""
        if not self.k.defers_pc_adjustment:
            return
        increment, pending = (self.flags.get(name) for name in ("INCREMENT_PC", "PENDING_EXCEPTION"))
        f = self.read("kvm_incr_pc")
        stores = [c for c in f.calls if c.name.endswith("flags")]
        right: Term = FALSE
        if len(stores) == 1 and increment is not None and (value := stores[0].result) is not None:
            noted = Eq(value, word(value) | t.const(1 << increment.bit, t.width(value)))
            right = And(noted, stores[0].guard, t.boolean(stores[0].name == f"= {increment.lvalue}"))
        yield Rule("kvm_incr_pc() sets INCREMENT_PC and nothing else", f.file, f.line, right)
        f = self.read("__kvm_adjust_pc")
        yield from self.exactly(f, ["kvm_inject_exception", "kvm_skip_instr"])
        words = [c for c in f.named("kvm_inject_exception", "kvm_skip_instr") if increment and pending]
        if len(words) == 2 and increment is not None and pending is not None:
            first = t.var(increment.lvalue, self._width(f, increment.lvalue))
            has = {flag: Eq(t.extract(first, flag.bit, flag.bit), t.const(1, 1)) for flag in (increment, pending)}
            yield from self.when(f, "kvm_inject_exception", has[pending])
            yield from self.when(f, "kvm_skip_instr", And(has[increment], Not(has[pending])))
            skipped = And(has[increment], Not(has[pending]))
            for when, flags in ((has[pending], (pending, increment)), (skipped, (increment,))):
                cleared = And(*(self._left_clear(f, flag, first) for flag in flags))
                yield Rule("__kvm_adjust_pc() clears what it has done", f.file, f.line, Or(Not(when), cleared))

    def _left_clear(self, f: Skeleton, flag: Flag, first: Term) -> Term:
        """A flag is clear after the last store to its word."""
        word = first
        for call in f.named(f"= {flag.lvalue}"):
            if call.result is None or call.result.sort != word.sort:
                return FALSE
            word = If(call.guard, call.result, word)
        return Eq(t.extract(word, flag.bit, flag.bit), t.const(0, 1))

    def _width(self, f: Skeleton, lvalue: str) -> int:
        found = [v for c in f.calls for v in nodes((c.guard,)) if v.op == "var" and str(v.data) == lvalue]
        return t.width(found[0]) if found else 8

    def pmuserenr(self) -> Iterator[Rule]:
        """perf's value for PMUSERENR_EL0 goes to the host's saved copy while a vCPU is loaded under VHE."""
        if not self.k.guards_pmuserenr:
            return
        register = "percpu.kvm_host_data.host_ctxt.sys_regs[PMUSERENR_EL0]"
        f = skeleton(
            self.program,
            "kvm_set_pmuserenr",
            self.mode,
            WATCHED,
            f"{KVM}/pmu.c",
            re.compile(f"^{re.escape(register)}$"),
        )
        saved = f.named(f"= {register}")
        done = Ne(f.result, t.const(0, t.width(f.result))) if f.result is not None else FALSE
        if not self.k.vhe:
            nothing = And(Not(done), t.boolean(not saved))
            yield Rule("kvm_set_pmuserenr() does nothing without VHE", f.file, f.line, nothing)
            return
        right: Term = FALSE
        if len(saved) == 1 and saved[0].result is not None and ON_CPU in self.flags:
            flag = self.flags[ON_CPU]
            asked = [v for v in nodes((saved[0].guard,)) if v.op == "var"]
            word = [v for v in asked if str(v.data).endswith(flag.lvalue.removeprefix("vcpu->"))]
            tests = [v for v in asked if v.sort == BOOL]
            if len(word) == 1 and len(tests) == len(asked) - 1 == 2:
                loaded = And(*tests, Eq(t.extract(word[0], flag.bit, flag.bit), t.const(1, 1)))
                kept = Eq(saved[0].result, t.var("val", t.width(saved[0].result)))
                right = And(Not(differ(saved[0].guard, done)), Not(differ(done, loaded)), kept)
        yield Rule("kvm_set_pmuserenr() keeps the value for the host", f.file, f.line, right)

    def exits(self) -> Iterator[Rule]:
        """An emulated instruction is skipped, once; what its handler refuses is not."""
        skip = SKIPS[0] if self.k.defers_pc_adjustment else SKIPS[1]
        yield from belonging((*TRAPS, EMULATES), self._accesses(skip))
        yield from belonging((EMULATES,), self._traps(skip))
        yield from belonging((MMIO,), self._completed(skip))
        if self.k.skips_mmio_when_decoded:
            yield from belonging((EMULATES, MMIO), self._decoded(skip))

    def _accesses(self, skip: str) -> Iterator[Rule]:
        f = self.read("perform_access", more=("sysreg_hidden", "bad_trap", "find_reg"))
        if f.named("find_reg"):  # before v4.11 what looks for the register's entry does it itself
            yield from self._found_accesses(f, skip)
            return
        refused = ["bad_trap"] if f.named("bad_trap") else []  # from v6.15: a register that nobody handles
        hides = ["sysreg_hidden", "kvm_inject_undefined"]
        if not self.program.defines(hides[0], self.mode, f"{KVM}/sys_regs.c"):  # before v5.0 no register is hidden
            hides = []
        yield from self.exactly(f, [*hides, *refused, "*access", skip])
        for asked in f.named("sysreg_hidden"):
            yield from self.when(f, "kvm_inject_undefined", truth(asked))
        access, skipped = f.named("*access"), f.named(skip)
        if access and skipped:
            yield from self.when(f, skip, And(access[0].guard, truth(access[0])))
            right = access[0].arguments == ("vcpu", "params", "r")
            yield Rule("r->access(vcpu, params, r) is called", access[0].file, access[0].line, t.boolean(right))
            if not hides:
                yield from self.when(f, "*access", TRUE, f.returns)
            for hidden in f.named("kvm_inject_undefined"):
                bad = Or(*(c.guard for c in f.named(*refused)))
                handled = differ(hidden.guard, access[0].guard)
                yield Rule("a register is either hidden or accessed", hidden.file, hidden.line,
                           Or(Not(f.returns), And(Not(bad), handled), And(bad, Not(hidden.guard))))  # fmt: skip
            for c in f.named(*refused):
                pointer = [v for v in nodes((c.guard,)) if v.op == "var" and str(v.data).startswith("r->access")]
                unhandled = Not(pointer[0]) if len(pointer) == 1 else FALSE
                yield Rule("bad_trap() is called only where no access is given", c.file, c.line,
                           And(Not(And(c.guard, Not(unhandled))), Not(And(c.guard, access[0].guard))))  # fmt: skip

    def _found_accesses(self, f: Skeleton, skip: str) -> Iterator[Rule]:
        """The register whose entry is found in one of two tables is accessed; another, or one refused, is answered."""
        yield from self.exactly(f, ["*access", skip, "kvm_inject_undefined"], ("find_reg",))
        access, skipped = f.named("*access"), f.named(skip)
        if not access or not skipped:
            return
        yield from self.when(f, skip, And(access[0].guard, truth(access[0])))
        yield from self.when(f, "kvm_inject_undefined", Not(skipped[0].guard), f.returns)
        entries = [v for v in nodes((access[0].guard,)) if _ENTRY.fullmatch(str(v.data))]
        there, found = Or(*entries), f.named("find_reg")
        yield from self.when(f, "*access", there, f.returns)
        tables = [call.arguments[:2] for call in found]
        right = len(tables) == len(entries) == 2 and tables[0][0] == tables[1][0] == "params"
        right &= access[0].arguments[:2] == ("vcpu", "params") and tables[1][1:] == ("sys_reg_descs",)
        right &= all(_FOUND.fullmatch(name) for _, name in access[0].targets) and len(access[0].targets) == 2
        yield Rule("r->access(vcpu, params, r) is called of the entry that is found", access[0].file, access[0].line,
                   t.boolean(right))  # fmt: skip

    def _traps(self, skip: str) -> Iterator[Rule]:
        inner, outer = "handle_trap_exceptions", "handle_exit"
        apart = self.program.defines(inner, self.mode)  # from v4.16 on
        f = self.read(inner if apart else outer, None if apart else f"{KVM}/handle_exit.c")
        yield from self.exactly(f, [skip, "*arm_exit_handlers"])
        for call in self.read(outer, f"{KVM}/handle_exit.c").named(*SKIPS) if apart else ():
            yield Rule(f"{outer}() leaves {call.name}() to {inner}()", call.file, call.line, FALSE)
        handler, skipped = f.named("*arm_exit_handlers"), f.named(skip)
        if handler and skipped:
            trapped = TRUE if apart else Or(handler[0].guard, skipped[0].guard)
            yield from self.when(f, skip, Not(handler[0].guard), trapped)
            valid = [v for v in nodes((handler[0].guard,)) if str(v.data).startswith("kvm_condition_valid()")]
            right = nonzero(valid[0]) if len(valid) == 1 else FALSE
            yield from self.when(f, "*arm_exit_handlers", right, trapped)

    def _completed(self, skip: str) -> Iterator[Rule]:
        f = self.read("kvm_handle_mmio_return", f"{KVM}/mmio.c")
        once = self.k.completes_mmio_once
        skips = [] if self.k.skips_mmio_when_decoded else [skip]
        yield from self.exactly(f, [*(["= vcpu->mmio_needed"] if once else []), *skips])
        sizes = [v for c in f.calls for v in nodes((c.guard,)) if v.op == "var" and str(v.data).endswith("mmio.len")]
        long = Or(*(t.ult(t.const(8, t.width(v)), v) for v in sizes))
        whole = Or(Not(long), succeeds(f))  # before v5.5 what is longer is refused: user space has changed it
        for call in f.named(skip):
            needed = [v for v in nodes((call.guard,)) if str(v.data) == "vcpu->mmio_needed"]
            others = [v for v in nodes((call.guard,)) if v.op == "var" and str(v.data).startswith("kvm_pending_")]
            completed = And(*map(nonzero, needed), *(Not(nonzero(v)) for v in others))
            completed = completed if bool(needed) is once else FALSE
            yield Rule(f"{skip}() is called exactly when an access is completed", call.file, call.line,
                       Or(Not(whole), Not(differ(completed, call.guard))))  # fmt: skip
            for store in f.named("= vcpu->mmio_needed"):
                yield from self.when(f, store.name, call.guard, whole)
                cleared = FALSE if store.result is None else Not(nonzero(store.result))
                yield Rule("an access is completed once", store.file, store.line, cleared)

    def _decoded(self, skip: str) -> Iterator[Rule]:
        """Before v5.0 an access is skipped when it has been decoded, and is not done again, whoever completes it."""
        mmio, decode = f"{KVM}/mmio.c", "decode_hsr"
        f = self.read(decode, mmio)
        yield from self.exactly(f, [skip])
        yield from self.when(f, skip, succeeds(f), f.returns)
        f = self.read("io_mem_abort", mmio, (decode,))
        yield from self.exactly(f, [decode, "kvm_handle_mmio_return"])
        for call in f.named(decode):
            failed = truth(call)
            same = Eq(f.result, call.result) if f.result is not None and call.result is not None else FALSE
            yield Rule(f"{f.function}() does nothing but give the answer of {decode}() where that fails", call.file,
                       call.line, Or(Not(failed), same))  # fmt: skip
            for other in f.named("kvm_handle_mmio_return"):
                yield Rule(f"{other.name}() is called only for what is decoded", other.file, other.line,
                           Or(Not(other.guard), And(call.guard, Not(failed))))  # fmt: skip
