"""Exits: what the guest may have done before, which exit it was, and how KVM handled it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from formal.conform.trace.fill import SS, Attempt, Fill, next_pstate
from formal.conform.trace.groups import Key, Part, bank_access
from formal.conform.trace.runs import Run, Shown, guest_enter_defers, shows_clear, shows_trap
from formal.conform.trace.text import Event
from formal.state import Exit, Phase

Encoding = tuple[int, int, int, int, int]  # op0, op1, CRn, CRm, op2

OSLAR_EL1: Encoding = (2, 0, 1, 0, 4)
BY_TRAP_DEBUG_REGS: dict[Encoding, str] = {(2, 0, 0, 2, 2): "MDSCR_EL1", (2, 0, 0, 2, 0): "MDCCINT_EL1"}
BY_BANK = {4: ("trap_bvr", "DBGBVR"), 5: ("trap_bcr", "DBGBCR"), 6: ("trap_wvr", "DBGWVR"), 7: ("trap_wcr", "DBGWCR")}

CPU_OFF = 0x84000002  # PSCI
_HVC = (0x12, 0x16)
KVM_EXIT_MMIO = 6  # include/uapi/linux/kvm.h
EC_SYS64 = 0x18
_BY_CLASS: dict[int, tuple[Exit, ...]] = {  # ESR_EL2.EC (Arm ARM D24.2, ESR_ELx), as handle_exit.c dispatches it
    0x12: (Exit.NONE, Exit.EMULATE),  # HVC from AArch32: the PC is past it already
    0x16: (Exit.NONE, Exit.EMULATE),  # HVC
    0x20: (Exit.FAULT, Exit.EMULATE),  # instruction abort
    0x24: (Exit.FAULT, Exit.EMULATE, Exit.MMIO),  # data abort
    0x30: (Exit.DEBUG,),  # breakpoint
    0x32: (Exit.STEP,),  # software step
    0x34: (Exit.DEBUG,),  # watchpoint
    0x38: (Exit.DEBUG,),  # BKPT from AArch32
    0x3C: (Exit.DEBUG,),  # BRK
}
_OTHER_TRAP = (Exit.EMULATE, Exit.FAULT)
_SKIP_OR_NOT = {Exit.NONE, Exit.EMULATE, Exit.FAULT, Exit.MMIO}
_WITHOUT_TRAP = ("IRQ", "SERROR")


def access(part: Part) -> tuple[Encoding, bool] | None:
    """The System register that a trapped instruction names, and whether it writes."""
    named = part.named("kvm_sys_access")
    if named is not None:
        f = named.fields
        return (f["op0"], f["op1"], f["crn"], f["crm"], f["op2"]), f["direction"] == "write"
    handled = part.named("kvm_handle_sys_reg")
    return None if handled is None else _of_syndrome(handled.fields["hsr"])


def _of_syndrome(hsr: int) -> tuple[Encoding, bool]:
    """The ISS of an MSR or MRS (Arm ARM D24.2, ESR_ELx)."""
    encoding = (hsr >> 20 & 3, hsr >> 14 & 7, hsr >> 10 & 15, hsr >> 1 & 15, hsr >> 17 & 7)
    return encoding, not hsr & 1


def is_bank(encoding: Encoding) -> bool:
    """Whether it is a break- or watchpoint register."""
    return encoding[:3] == (2, 0, 0) and encoding[4] in BY_BANK


class Leave:
    """The continuations of a run in the guest up to the end of an exit's handling."""

    def __init__(self, fill: Fill) -> None:
        self.fill = fill
        self.machine = fill.machine
        self.kernel = fill.kernel
        self.names = fill.visible.names

    def attempts(self, run: Run, vcpu: Key, part: Part) -> Iterator[Attempt]:
        """Every way to leave the guest as the part shows it."""
        if vcpu not in run.vcpus or run.phase(vcpu) is not Phase.IN_GUEST:
            return
        cpu, line = run.on[vcpu], part.first.line
        if part.cpu != cpu:
            return
        for ran in self.guest(run, vcpu, part):
            for kind in self._telling(ran, vcpu, part, self.kinds(part)):
                left = self.machine.step(ran, "__kvm_vcpu_run returns", vcpu, cpu, line, exit=kind.value)
                if left is None:
                    continue
                cleared = self.machine.step(left, "kvm_arm_clear_debug", vcpu, cpu, line)
                if cleared is None:
                    continue
                shown = [*shows_clear(self.machine, left, cleared, vcpu, cpu), _shows_exit(part, kind)]
                cleared = replace(cleared, last={**cleared.last, vcpu: kind})
                for handled, more in self.handled(cleared, vcpu, part, kind):
                    yield Attempt(handled, shown + more)

    # ---- the guest

    def guest(self, run: Run, vcpu: Key, part: Part) -> Iterator[Run]:
        """What the guest may have done: nothing, instructions, writes of registers that it reaches without a trap."""
        cpu, line, step = run.on[vcpu], part.first.line, self.machine.step
        yield run
        yield from self._deferred(run, vcpu, part)
        mdscr = self.next_mdscr(part)
        for pstate in self.next_pstates(run, part, cpu):
            ran = step(run, "the guest executes", vcpu, cpu, line, pstate=pstate)
            if ran is None:
                return  # a step exception comes first
            yield ran
            if mdscr is not None:
                for before in self._steps_itself(run, vcpu, part, mdscr, pstate):
                    written = step(before, "the guest writes MDSCR_EL1", vcpu, cpu, line, value=mdscr, pstate=pstate)
                    if written is not None:
                        yield from self._writes_bank(written, vcpu, cpu, part, pstate)
                for before in self._writes_bank(run, vcpu, cpu, part, pstate):  # or in the other order
                    last = step(before, "the guest writes MDSCR_EL1", vcpu, cpu, line, value=mdscr, pstate=pstate)
                    if last is not None and before is not run:
                        yield last
            yield from self._writes_bank(ran, vcpu, cpu, part, pstate)

    def _deferred(self, run: Run, vcpu: Key, part: Part) -> Iterator[Run]:
        """An interrupt was pending, and the guest has not been entered: PSTATE.SS is as the entry wrote it."""
        event = part.named("kvm_exit")
        if (event is None or event.fields["code"] == "IRQ") and run.cpus[run.on[vcpu]]["p0.hw_pstate"] != run.value(
            vcpu, "pstate"
        ):
            deferred = self.machine.step(run, guest_enter_defers.name, vcpu, run.on[vcpu], part.first.line)
            yield from () if deferred is None else (deferred,)

    def _steps_itself(self, run: Run, vcpu: Key, part: Part, mdscr: int, pstate: int) -> Iterator[Run]:
        """The guest may have stepped itself before it wrote this value: that is how it comes to PSTATE.SS."""
        cpu = run.on[vcpu]
        if run.cpus[cpu]["p0.hw_mdscr_el1"] != mdscr:
            yield run
        if pstate & SS:
            name = "the guest writes MDSCR_EL1"
            stepping = self.machine.step(run, name, vcpu, cpu, part.first.line, value=mdscr | 1, pstate=pstate)
            if stepping is not None:
                yield stepping

    def _writes_bank(self, run: Run, vcpu: Key, cpu: int, part: Part, pstate: int) -> Iterator[Run]:
        """The guest has also written the break- and watchpoint registers that the trace shows later."""
        yield run
        now, wrote = run, False
        for (kind, number), value in part.bank.items():
            index = self.machine.place(kind, number)
            if now.cpus[cpu]["p0.hw_bank"][index] == value:  # type: ignore[index]
                continue
            name = "the guest writes a break- or watchpoint register"
            after = self.machine.step(now, name, vcpu, cpu, part.first.line, index=index, value=value, pstate=pstate)
            if after is None:
                return
            now, wrote = after, True
        if wrote:
            yield now

    def next_mdscr(self, part: Part) -> int | None:
        """MDSCR_EL1 as the trace shows it next."""
        if part.next_returned is not None and "mdscr_el1" in part.next_returned.fields:
            return int(part.next_returned.fields["mdscr_el1"], 0)
        return self.fill.mdscr(part.next_enter)

    def next_pstates(self, run: Run, part: Part, cpu: int) -> list[int]:
        """PSTATE as the trace shows it next, with either value of SS; else as it is."""
        seen = next_pstate(part)
        now = run.cpus[cpu]["p0.hw_pstate"]
        assert isinstance(now, int)
        return [now] if seen is None else [seen, seen ^ SS]

    # ---- the exit

    def kinds(self, part: Part) -> tuple[Exit, ...]:
        """Which exits of the model the exit of the trace may be."""
        event = part.named("kvm_exit")
        if event is None:
            if access(part) is not None or part.named("trap_reg") is not None:
                return self._of_access(part)
            others = (Exit.NONE, Exit.STEP, Exit.DEBUG, Exit.FAULT, Exit.MMIO)
            return tuple(dict.fromkeys((*others, *self._of_access(part))))
        if event.fields["code"] in _WITHOUT_TRAP:
            return (Exit.NONE,)
        if event.fields["code"] != "TRAP":
            return ()
        if event.fields["ec"] == EC_SYS64:
            return self._of_access(part)
        return _BY_CLASS.get(event.fields["ec"], _OTHER_TRAP)

    def _telling(self, run: Run, vcpu: Key, part: Part, kinds: tuple[Exit, ...]) -> tuple[Exit, ...]:
        """The kinds less those that differ from another in nothing that this trace can show."""
        if Exit.MMIO in kinds and self.fill.visible.returns:
            mmio = part.next_exit is not None and _is_mmio(part.next_exit)
            kinds = (Exit.MMIO,) if mmio else tuple(k for k in kinds if k is not Exit.MMIO)
        cpu = run.cpus[run.on[vcpu]]
        steps = (int(cpu["p0.hw_pstate"]) & SS) or (int(cpu["p0.hw_mdscr_el1"]) & 1)  # type: ignore[arg-type]
        if steps or len(kinds) < 2 or not set(kinds) <= _SKIP_OR_NOT:
            return kinds
        return kinds[:1]  # they differ in PSTATE.SS only, which is clear

    def _of_access(self, part: Part) -> tuple[Exit, ...]:
        named = access(part)
        trap = part.named("trap_reg")
        if named is None:
            if trap is not None:
                return (Exit.DEBUG_ACCESS,)
            if self.names & {"kvm_sys_access", "kvm_handle_sys_reg"}:
                return (Exit.EMULATE,)  # a register that KVM does not know: nothing more is printed
            hidden = () if "trap_reg" in self.names else (Exit.DEBUG_ACCESS,)
            return (*hidden, Exit.OS_ACCESS, Exit.EMULATE)
        encoding, writes = named
        if encoding in BY_TRAP_DEBUG_REGS or is_bank(encoding):
            return (Exit.DEBUG_ACCESS,)
        if encoding == OSLAR_EL1 and writes:
            return (Exit.OS_ACCESS,)
        return (Exit.EMULATE,)

    # ---- its handling

    def handled(self, run: Run, vcpu: Key, part: Part, kind: Exit) -> Iterator[tuple[Run, list[Shown]]]:
        """The exit handled, and what that shows."""
        cpu, line, step = run.on[vcpu], part.first.line, self.machine.step
        shown = self._shows_access(part) if kind in (Exit.DEBUG_ACCESS, Exit.OS_ACCESS, Exit.EMULATE) else []
        shown = [*shows_call(part), *shown]
        after: list[Run | None] = []
        if kind in (Exit.NONE, Exit.MMIO):
            after = [step(run, "PSCI CPU_OFF", vcpu, cpu, line) if turns_off(part) else run]
        elif kind in (Exit.STEP, Exit.DEBUG):
            after = [step(run, "kvm_handle_guest_debug", vcpu, cpu, line)]
        elif kind is Exit.OS_ACCESS:
            after = [step(run, "trap_oslar_el1", vcpu, cpu, line, locks=locks) for locks in (False, True)]
        elif kind is Exit.FAULT:
            after = [step(run, "handle_exit repairs", vcpu, cpu, line)]
        elif kind is Exit.EMULATE:
            after = [step(run, "handle_exit emulates", vcpu, cpu, line)]
            if not self.kernel.defers_pc_adjustment:
                after += [
                    step(run, "handle_exit emulates", vcpu, cpu, line, takes_exception=True, exception_pstate=pstate)
                    for pstate in self.next_pstates(run, part, cpu)
                ]
        else:
            yield from self._debug_access(run, vcpu, part, shown)
            return
        for one in after:
            if one is not None:
                yield one, shown

    def _shows_access(self, part: Part) -> list[Shown]:
        """kvm_handle_sys_reg and kvm_sys_access of a trapped MSR or MRS; they must name the same register."""
        event = part.named("kvm_exit")
        if event is not None and event.fields["ec"] != EC_SYS64:
            return []
        named = access(part)
        if named is None:
            if part.named("trap_reg") is None:
                return [Shown("kvm_handle_sys_reg", "HSR ...", _always)]
            return [Shown("kvm_handle_sys_reg", "HSR ...", _always), Shown("kvm_sys_access", "PC: ...", _always)]
        encoding, writes = named
        text = f"({','.join(map(str, encoding))}) {'write' if writes else 'read'}"

        def syndrome(e: Event) -> bool:
            return _of_syndrome(e.fields["hsr"]) == named and e.fields["hsr"] >> 26 == EC_SYS64

        shown = [Shown("kvm_handle_sys_reg", f"HSR of {text}", syndrome)]
        known = encoding in BY_TRAP_DEBUG_REGS or is_bank(encoding) or encoding == OSLAR_EL1
        if known or part.named("kvm_sys_access") is not None:  # not printed for registers that KVM does not know
            shown.append(Shown("kvm_sys_access", text, _always))
        return shown

    def _debug_access(self, run: Run, vcpu: Key, part: Part, shown: list[Shown]) -> Iterator[tuple[Run, list[Shown]]]:
        cpu, line, step = run.on[vcpu], part.first.line, self.machine.step
        named = access(part)
        trap = part.named("trap_reg")
        bank = bank_access(part)
        if named is not None and is_bank(named[0]):
            function, kind = BY_BANK[named[0][4]]
            number = named[0][3]
            yield from self._bank(run, vcpu, part, shown, (function, kind, number, named[1]))
            return
        if named is None and bank is not None and trap is not None:
            yield from self._bank(run, vcpu, part, shown, (trap.fields["function"], *bank[:3]))
            return
        if named is None and trap is None:
            writes_or_not, registers = (False, True), ["MDSCR_EL1"]
        elif named is not None:
            writes_or_not, registers = (named[1],), [BY_TRAP_DEBUG_REGS[named[0]]]  # type: ignore[assignment]
        else:
            assert trap is not None
            writes_or_not = (trap.fields["direction"] == "write to",)  # type: ignore[assignment]
            registers = ["MDSCR_EL1", "MDCCINT_EL1"]
        for register in registers:
            for writes in writes_or_not:
                now = int(run.value(vcpu, "mdscr_el1"))
                seen = int(trap.fields["value"]) if trap is not None else self.next_mdscr(part)
                # A write of MDCCINT_EL1, which is not modelled, makes DEBUG_DIRTY as one of MDSCR_EL1 does.
                value = seen if register == "MDSCR_EL1" and seen is not None else now
                after = step(run, "trap_debug_regs", vcpu, cpu, line, is_write=writes, value=value)
                if after is None:
                    continue
                printed = value if register == "MDSCR_EL1" else seen
                printed = now if not writes and register == "MDSCR_EL1" else printed
                yield after, [*shown, shows_trap("trap_debug_regs", writes, printed or 0)]

    def _bank(
        self, run: Run, vcpu: Key, part: Part, shown: list[Shown], what: tuple[str, str, int, bool]
    ) -> Iterator[tuple[Run, list[Shown]]]:
        function, kind, number, writes = what
        cpu, line, step = run.on[vcpu], part.first.line, self.machine.step
        index = self.machine.place(kind, number)
        trap = part.named("trap_reg")
        if not writes:
            slot = index if self.kernel.indexes_trapped_banks else self.machine.place(kind, 0)
            value = int(run.value(vcpu, "vcpu_debug_state")[slot])
            after = step(run, "trap_debug_regs", vcpu, cpu, line, is_write=False)
        else:
            value = int(trap.fields["value"]) if trap is not None else part.bank.get((kind, number), 0)
            after = step(run, "trap_bvr, trap_bcr, trap_wvr, trap_wcr", vcpu, cpu, line, index=index, value=value)
        if after is None:
            return
        printed = shows_trap(function, writes, value)
        if self.kernel.indexes_trapped_banks:  # v5.3 to v5.12 also printed number 0 for all of them
            same = printed.same
            text = printed.text.replace("reg ...", f"reg {number}")
            printed = replace(printed, text=text, same=lambda e: same(e) and e.fields["number"] == number)
        yield after, [*shown, printed]


def shows_call(part: Part) -> list[Shown]:
    """kvm_hvc_arm64 of a call."""
    event = part.named("kvm_exit")
    called = event is not None and event.fields["ec"] in _HVC
    return [Shown("kvm_hvc_arm64", "HVC at ...", _always)] if called else []


def turns_off(part: Part) -> bool:
    """Whether the guest asks to be turned off by its call."""
    call = part.named("kvm_hvc_arm64")
    return call is not None and call.fields["r0"] & 0xFFFFFFFF == CPU_OFF


def _is_mmio(event: Event) -> bool:
    """Whether a kvm_userspace_exit, or a marker, says that user space has to complete an access."""
    if event.name == "marker":
        return bool(event.fields["reason"] == "MMIO")
    return bool(event.fields["number"] == KVM_EXIT_MMIO and event.fields["reason"] not in ("restart", "error"))


def _always(event: Event) -> bool:
    return True


def _shows_exit(part: Part, kind: Exit) -> Shown:
    """The exit of the trace, which the kind was chosen for."""
    return Shown("kvm_exit", f"an exit of the kind {kind.name}", _always)
