"""Which calls the functions around debug.c make, when and in which order, as the specification takes it.

These functions do not lift (they loop, lock, call through pointers), but their watched calls are read with the
conditions under which they happen (``skeleton``). Each rule is a sentence with its place and a term that must be valid.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from formal.arch import registers
from formal.epochs import Kernel
from formal.kernel import belongs
from formal.kernel.errors import Gaps
from formal.kernel.lift.calls import HAS_EL2
from formal.kernel.lift.program import Program
from formal.kernel.model import passage
from formal.kernel.model.binding import Flag
from formal.kernel.model.calls import Call, Skeleton
from formal.kernel.recognition.dispatch import Dispatch
from formal.kernel.recognition.emulation import Emulation
from formal.kernel.recognition.lifecycle import Lifecycle
from formal.kernel.recognition.nesting import Nesting
from formal.kernel.recognition.regions import loads_for_all
from formal.kernel.recognition.rules import (
    ARM_C,
    CLEAR,
    ENTRIES,
    HOST_CONTEXT,
    IRQ_OFF,
    IRQ_ON,
    PSTATE,
    REQUESTS,
    SETUP,
    SKIPS,
    WORK,
    Reader,
    Rule,
    belonging,
    missed,
    nonzero,
    truth,
)
from formal.logic import terms as t
from formal.logic.evaluation import nodes
from formal.logic.terms import BOOL, FALSE, TRUE, And, Eq, If, Ne, Not, Or

_SPSR = frozenset(("hw.spsr_el2", "hw.spsr_el1"))  # EL2's, as the host names it under VHE
_ELR = frozenset(("hw.elr_el2", "hw.elr_el1"))
_GUEST = "vcpu->arch.ctxt"
_M4 = 1 << 4  # PSTATE.M[4]: AArch32 state (Arm ARM C5.2)
_LOADING = ["vcpu_load", "vcpu_put"]
_POWER_OFF = re.compile(r"vcpu->arch\.power_off(?:#(\d+))?")
_EXIT_MMIO = 6  # KVM_EXIT_MMIO, include/uapi/linux/kvm.h


class RunLoop(Reader):
    """Rules of the run loop and the world switch."""

    def run_loop(self) -> Iterator[Rule]:
        """setup, entry and clear follow one another with interrupts off, whenever nothing keeps from entering."""
        f = self.read("kvm_arch_vcpu_ioctl_run", ARM_C, WORK)
        entry = next((name for name in ENTRIES if f.named(name)), ENTRIES[0])
        begin, end = (entry, entry) if self.k.tracks_debug_owner else (SETUP, CLEAR)
        if not self.k.tracks_debug_owner and f.named(entry):
            yield from (missed(f, name, name) for name in (SETUP, CLEAR) if not f.named(name))
            begin, end = (name if f.named(name) else entry for name in (SETUP, CLEAR))
        chain = [*dict.fromkeys((begin, entry, end)), "handle_exit"]
        early = ["kvm_vcpu_first_run_init"] if f.named("kvm_vcpu_first_run_init") else []
        adjust = ["__kvm_adjust_pc"] if self.k.defers_pc_adjustment else []
        if adjust and not f.named(*adjust) and not self.k.tracks_debug_owner:  # else a put changes PSTATE, too
            adjust = []
            yield Rule(f"{f.function}() commits a pending adjustment of the PC", f.file, f.line, FALSE,
                       of=(belongs.RUN_RETURNS,), untimely=False,
                       keeps=(belongs.RUN_RETURNS, frozenset(("adjust_pc", "pstate"))))  # fmt: skip
        outside = not self.k.traps_at_load and not self.k.tracks_debug_owner and not f.named(*_LOADING)  # before v4.17
        load, put = (list[str](), list[str]()) if outside else (_LOADING[:1], _LOADING[1:])
        if outside:
            yield Rule("kvm_vcpu_ioctl() loads the vCPU for every ioctl", f.file, f.line,
                       t.boolean(loads_for_all(self.program.tree)))  # fmt: skip
        names = [*early, "kvm_handle_mmio_return", *load, *chain, *adjust, *put]
        yield from self.exactly(f, names, (IRQ_ON, IRQ_OFF, *REQUESTS, *WORK))
        if [c.name for c in f.calls if c.name in chain] != chain:
            return
        setup, entered, clear, handled = (f.named(name)[0] for name in (begin, entry, end, "handle_exit"))
        for call in dict.fromkeys((setup, entered, clear)):
            right = call.arguments[:1] == (f.place("vcpu"),)
            yield Rule(f"{call.name}() is called with vcpu", call.file, call.line, t.boolean(right))
        for call in dict.fromkeys((entered, clear, handled)):
            yield from self.when(f, call.name, setup.guard)
            if call.loops != setup.loops or len(call.loops) != 1:
                yield Rule(f"{call.name}() is called in the run loop", call.file, call.line, FALSE)
        yield self._asked(f, setup)
        for call in f.named(*WORK):
            if call.result is not None and call.result.sort != BOOL:
                zero = t.const(0, t.width(call.result))
                goes_on = t.slt(zero, call.result) if call.name == WORK[0] else t.sle(zero, call.result)
                yield Rule(f"{setup.name}() is called only when {call.name}() says so", setup.file, setup.line,
                           Not(And(setup.guard, call.guard, Not(goes_on))))  # fmt: skip
        yield from self._interrupts(f, setup, clear)
        loads = [setup] if outside else f.named(_LOADING[0])
        yield from belonging((belongs.MMIO, belongs.LOAD), self._completed_access(f, loads))
        if loads and f.named(_LOADING[1]):
            yield from self.when(f, _LOADING[1], loads[0].guard)
        if early:
            first = f.named(*early)[0]
            failed = Ne(first.result, t.const(0, 32)) if first.result is not None else TRUE
            yield Rule(f"{early[0]}() precedes {loads[0].name if loads else _LOADING[0]}()", first.file, first.line,
                       And(*(Not(And(c.guard, Or(failed, Not(first.guard)))) for c in loads)))  # fmt: skip
        if adjust:
            yield from belonging((belongs.RUN_RETURNS,), self._pending_adjustment(f))
        if entry == ENTRIES[0]:
            g = self.read(entry, ARM_C)
            yield from self.exactly(g, ["__kvm_vcpu_run"])
            yield from self.when(g, "__kvm_vcpu_run", TRUE)

    def _asked(self, f: Skeleton, setup: Call) -> Rule:
        """A request keeps from entering; before v4.13, where none is asked for, that the vCPU is turned off does."""
        requests = [c for c in f.named(*REQUESTS) if c.loops == setup.loops]
        refused = Or(*(Not(And(c.guard, Not(truth(c)))) for c in requests)) if requests else TRUE
        says = "no request is pending"
        if not f.named(*REQUESTS):
            read = [(v, _POWER_OFF.fullmatch(str(v.data))) for v in nodes((setup.guard,)) if v.op == "var"]
            off = {int(number[1] or 0): v for v, number in read if number is not None}  # in the order of the reads
            says = f"{says}, or the vCPU is turned on" if off else says
            refused = nonzero(off[max(off)]) if off else TRUE
        return Rule(f"{setup.name}() is called only when {says}", setup.file, setup.line,
                    Not(And(setup.guard, refused)))  # fmt: skip

    def _completed_access(self, f: Skeleton, loads: Sequence[Call]) -> Iterator[Rule]:
        """KVM_RUN completes an MMIO access before it goes on, if that is what it returned for."""
        for call in f.named("kvm_handle_mmio_return"):
            asked = [v for v in nodes((call.guard,)) if v.op == "var" and str(v.data).endswith("exit_reason")]
            mmio = Eq(asked[0], t.const(_EXIT_MMIO, t.width(asked[0]))) if len(asked) == 1 else FALSE
            forgotten = Or(*(And(load.guard, mmio, Not(call.guard)) for load in loads))
            yield Rule(f"{call.name}() is called exactly after KVM_EXIT_MMIO", call.file, call.line,
                       And(t.boolean(len(asked) == 1), Or(Not(call.guard), mmio), Not(forgotten)))  # fmt: skip

    def _interrupts(self, f: Skeleton, setup: Call, clear: Call) -> Iterator[Rule]:
        """Interrupts are switched off before setup, and whatever switches them on again first does not get there."""
        at, to = f.calls.index(setup), f.calls.index(clear)
        off = [n for n, c in enumerate(f.calls[:at]) if c.name == IRQ_OFF and c.loops == setup.loops]
        since = f.calls[off[-1] :] if off else ()
        on = [c for c in since if c.name == IRQ_ON and f.calls.index(c) < to]
        between = any(f.calls.index(c) > at for c in on)
        reached = Or(Not(f.calls[off[-1]].guard), *(c.guard for c in on)) if off and not between else TRUE
        yield Rule(f"interrupts are off from {setup.name}() to {clear.name}()", setup.file, setup.line,
                   Not(And(setup.guard, reached)))  # fmt: skip

    def _pending_adjustment(self, f: Skeleton) -> Iterator[Rule]:
        """A pending change of PC is committed before user space sees the vCPU."""
        for call in f.named("__kvm_adjust_pc"):
            words = [v for v in nodes((call.guard,)) if v.op == "var" and re.match(r"vcpu->arch\.i?flags", str(v.data))]
            pending = [self.flags[n] for n in ("INCREMENT_PC", "PENDING_EXCEPTION") if n in self.flags]
            tests = [Eq(t.extract(w, p.bit, p.bit), t.const(1, 1)) for w in words for p in pending]
            asked = len(words) == 1 and len(pending) == 2
            put = f.named("vcpu_put")
            expected = And(put[0].guard, Or(*tests)) if asked and put else FALSE
            yield from self.when(f, call.name, expected)

    def world_switch(self) -> Iterator[Rule]:
        """Save the host's registers, load the guest's, run it until an exit has to be handled, and back."""
        if passage.whole(self.program, self.mode) and not self.k.traps_at_load:
            yield from belonging((belongs.REENTERS,), self._again())
            return
        adjust = [("__kvm_adjust_pc", "vcpu", None)] if self.k.defers_pc_adjustment else []
        host, guest = HOST_CONTEXT, _GUEST
        enters = [("__debug_switch_to_guest", "vcpu", "debug switch to guest"), ("__guest_enter", "vcpu", None),
                  ("fixup_guest_exit", "vcpu", None)]  # fmt: skip
        if self.k.vhe:
            f = self.read("__kvm_vcpu_run_vhe")
            before = [("sysreg_save_host_state_vhe", host, "save host state"),
                      ("__activate_traps", "vcpu", "traps at entry"), *adjust,
                      ("sysreg_restore_guest_state_vhe", guest, "restore guest state")]  # fmt: skip
            after = [("sysreg_save_guest_state_vhe", guest, "save guest state"),
                     ("__deactivate_traps", "vcpu", "traps at exit"),
                     ("sysreg_restore_host_state_vhe", host, "restore host state")]  # fmt: skip
            if not self.enters_itself:
                outer = self.read(self.outer)
                yield from self.exactly(outer, ["__kvm_vcpu_run_vhe"], (IRQ_ON, IRQ_OFF))
                yield from self.when(outer, "__kvm_vcpu_run_vhe", TRUE)
        else:
            f = self.read("__kvm_vcpu_run")
            before = [("__sysreg_save_state_nvhe", host, "save host state"), *adjust,
                      ("__sysreg_restore_state_nvhe", guest, "restore guest state"),
                      ("__activate_traps", "vcpu", "activate traps")]  # fmt: skip
            after = [("__sysreg_save_state_nvhe", guest, "save guest state"),
                     ("__deactivate_traps", "vcpu", "deactivate traps"),
                     ("__sysreg_restore_state_nvhe", host, "restore host state")]  # fmt: skip
        if not self.k.vhe and self._early(f):  # before v5.8
            before[-2:] = reversed(before[-2:])
        wanted = [*before, *enters, *after, ("__debug_switch_to_host", "vcpu", "debug switch to host")]
        missing = _left_out(f, wanted)
        yield from (missed(f, name, part) for name, _, part in missing if part is not None)
        expected = [(name, argument) for name, argument, part in wanted if (name, argument, part) not in missing]
        yield from self.exactly(f, [name for name, _ in expected], (IRQ_ON, IRQ_OFF))
        calls = [c for c in f.calls if c.name in dict(expected)]
        for call, (name, argument) in zip(calls, expected, strict=False):
            says = f"{f.function}() calls {name}() with {argument}, always"
            if call.name == name:
                right = bool(call.arguments) and call.arguments[0] == f.place(argument)
                yield Rule(says, call.file, call.line, And(t.boolean(right), call.guard))
            looped = name in ("__guest_enter", "fixup_guest_exit")
            if bool(call.loops) != looped:
                where = "in" if looped else "outside"
                yield Rule(f"{name}() is called {where} the loop around the guest", call.file, call.line, FALSE)
        yield from self._fixup()

    def _again(self) -> Iterator[Rule]:
        """What is done before the guest runs on: an instruction may be skipped, all else is as the guest left it.

        What is stored as PSTATE there is stored anew when the guest is left; its SPSR_EL2 is what it goes on with.
        """
        whole = passage.passage(self.program, self.mode)
        f = whole.again
        aarch32 = [nonzero(f.reads[v] & t.const(_M4, 64)) for v in (PSTATE, *_SPSR) if v in f.reads]
        for lvalue in sorted({*whole.stored, *(f.writes.keys() & (_SPSR | _ELR))} - {PSTATE}):
            before = f.reads[lvalue]
            same = [Eq(f.writes[lvalue], before), *(aarch32 if lvalue in _SPSR | _ELR else ())]
            same += [Eq(f.writes[lvalue], before + t.const(4, 64))] if lvalue in _ELR else []
            yield Rule(f"{f.name}() leaves {lvalue} as it was before it runs the guest again, or skips an instruction",
                       f.file, f.line, Or(Not(f.when), *same))  # fmt: skip
        known = not self.k.skip_advances_step and not self.k.fakes_step_exit
        yield Rule(f"{f.name}() runs the guest again as these releases do", f.file, f.line, t.boolean(known))

    def _early(self, f: Skeleton) -> bool:
        """Whether the traps are activated before the guest's registers are loaded, and neither sees the other."""
        order = [c.name for c in f.named("__activate_traps", "__sysreg_restore_state_nvhe")]
        if order[:1] != ["__activate_traps"]:
            return False
        traps = self.program.lift("__activate_traps", self.mode)
        state = self.program.lift("__sysreg_restore_state_nvhe", self.mode, arguments={"ctxt": _GUEST})
        return not any(
            a.writes.keys() & (b.reads.keys() | b.writes.keys()) for a, b in ((traps, state), (state, traps))
        )

    def _fixup(self) -> Iterator[Rule]:
        """fixup_guest_exit saves PSTATE first, on every exit."""
        f = self.read("fixup_guest_exit", more=("__kvm_skip_instr",))
        if not f.named("synchronize_vcpu_pstate"):  # before v5.17
            # before v5.0 EL2 skips here, and what it makes of PSTATE before that is saved is lost
            old = () if self.k.skip_advances_step else ("__kvm_skip_instr", f"= {PSTATE}")
            if (old or not f.named(f"= {PSTATE}")) and (late := self._saved_late()) is not None:  # before v5.15
                yield from self.exactly(f, [], (*SKIPS, *old))
                yield late
                for call in f.named("__kvm_skip_instr"):
                    goes_on = FALSE if f.result is None else nonzero(f.result)
                    may = TRUE if call.result is None else nonzero(call.result)
                    yield Rule(f"{f.function}() goes back to the guest only if {call.name}() says so", call.file,
                               call.line, Or(Not(call.guard), may, Not(goes_on)))  # fmt: skip
                return
            yield from self.exactly(f, [f"= {PSTATE}"], SKIPS)
            for call in f.named(f"= {PSTATE}"):
                held = call.result is not None and str(call.result.data) in _SPSR
                yield Rule(f"{f.function}() saves SPSR_EL2 as PSTATE", call.file, call.line,
                           And(t.boolean(held), call.guard))  # fmt: skip
        else:
            inner = "__fixup_guest_exit"  # from v6.4 on a function of its own
            names = ["synchronize_vcpu_pstate", *([inner] if self.program.defines(inner, self.mode) else [])]
            yield from self.exactly(f, names, (f"= {PSTATE}",))
            yield from () if self.k.nests else self._shown(f)  # those are Nesting's
            ends = And(t.boolean(self.k.nests), t.var(HAS_EL2, BOOL), Not(f.returns))  # BUG_ON about a guest hypervisor
            for name in names:
                yield from self.when(f, name, Not(ends) if name == inner else TRUE)

    def _shown(self, f: Skeleton) -> Iterator[Rule]:
        """What becomes of PSTATE once it has been saved: its EL may change, as the guest may change that by itself."""
        stores = f.named(f"= {PSTATE}")
        if not stores:
            return
        saved = [f.calls.index(c) for c in f.named("synchronize_vcpu_pstate")]
        values = [c.result for c in stores if c.result is not None]
        words = {v for v in nodes(tuple(values)) if str(v.data).startswith(PSTATE)}
        known = saved[:1] < [f.calls.index(stores[0])] and len(words) == 1 and len(values) == len(stores)
        word = after = next(iter(words), t.var("?", 64))
        for store, value in zip(stores, values, strict=False):
            after = If(store.guard, value, after)
        mask = t.const(registers.PSTATE.mask("SS", "D", "nRW"), 64)
        yield Rule(f"{f.function}() leaves PSTATE.SS, D and nRW as saved", stores[0].file, stores[0].line,
                   And(t.boolean(known), Eq(after & mask, word & mask)))  # fmt: skip

    def _saved_late(self) -> Rule | None:
        """Where the guest's state is saved PSTATE is too: nothing between reads what is modelled of it."""
        name = "sysreg_save_guest_state_vhe" if self.k.vhe else "__sysreg_save_state_nvhe"
        f = self.program.lift(name, self.mode, arguments={"ctxt": _GUEST})
        saved = f.writes.get(PSTATE)
        if saved is None:
            return None
        held = And(f.returns, t.boolean(str(saved.data) in _SPSR))
        return Rule(f"{name}() saves SPSR_EL2 as PSTATE", f.file, f.line, held)


_Wanted = tuple[str, str, str | None]  # a call, its first argument, the part of the world switch that it is


def _left_out(f: Skeleton, wanted: Sequence[_Wanted]) -> list[_Wanted]:
    """The parts that a function does not call, if it calls all the rest in order; else none."""
    calls = [c for c in f.calls if c.name not in (IRQ_ON, IRQ_OFF) and not c.name.endswith("flags")]
    missing: list[_Wanted] = []
    for name, argument, part in wanted:
        if calls and (calls[0].name, *calls[0].arguments[:1]) == (name, f.place(argument)):
            calls.pop(0)
        elif part is None:
            return []
        else:
            missing.append((name, argument, part))
    return [] if calls else missing


def rules(program: Program, k: Kernel, flags: Mapping[str, Flag], gaps: Gaps | None = None) -> Iterator[Rule]:
    """What the functions around debug.c must do, each rule with the operations that it is about.

    Args:
        flags: where the flags of a vCPU are kept, those of ``PENDING`` and ``ON_CPU`` among them.

    Raises:
        NotUnderstoodError: if a function is missing, or a watched call in it cannot be placed, and that is not noted.
    """
    life, loop, gaps = Lifecycle(program, k, flags), RunLoop(program, k, flags), gaps or Gaps()
    between, nested = Emulation(program, k, flags), Nesting(program, k, flags)
    groups: tuple[tuple[tuple[str, ...], Callable[[], Iterator[Rule]]], ...] = (
        ((belongs.INIT,), life.initialisation),
        ((belongs.CREATE, belongs.FIRST_RUN), life.creation),
        ((belongs.RESET,), life.noted),
        ((belongs.LOADING,), life.load_and_put),
        (belongs.WORLD_SWITCH, life.host_context),
        (belongs.RESETS, life.reset),
        (belongs.RUN_LOOP, loop.run_loop),
        (belongs.WORLD_SWITCH, loop.world_switch),
        ((*belongs.SKIPPING, belongs.ENTERS, belongs.RUN_RETURNS, belongs.INJECTS), between.program_counter),
        ((belongs.PERF,), between.pmuserenr),
        (belongs.SKIPPING, between.exits),
        *((of, make) for of, make in nested.groups()),
        *((of, make) for of, make in Dispatch(program, k, flags).groups()),
    )
    for of, make in groups:
        with gaps.at(*of, untimely=True):
            yield from belonging(of, make())
