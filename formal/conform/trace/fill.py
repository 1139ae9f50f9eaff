"""How a run of the model can go on so that it shows a given part of a trace: what no event shows is filled in.

Choices that no event decides at once are all tried: ``Fill`` returns every continuation, with what it would show, and
the caller keeps those that show what the trace has. Values that the guest or user space is free to choose (MDSCR_EL1,
PSTATE, breakpoints) are taken from where the trace shows them next; if they cannot have been chosen, the model shows
something else there. Steps of user space are only filled in where the trace does not say what user space did.

Not all that is possible is tried, so that a legal trace may be called unexplained: under VHE before v5.15 HPMN may be
read again from what a vCPU left (tried for vCPUs that rest), and before v5.6 a guest may reach registers of the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from formal.conform.trace.groups import Key, Part
from formal.conform.trace.runs import Chain, Machine, Run, Shown, shows_entry, shows_first_run, shows_setup
from formal.logic.terms import ArrayValue
from formal.state import Exit, Phase

SS = 1 << 21  # PSTATE.SS
ENABLE, SINGLESTEP = 1, 2
CALLS = (0x12, 0x13, 0x16, 0x17)  # ESR_EL2.EC of HVC and SMC, from AArch32 and AArch64


@dataclass(frozen=True)
class Attempt:
    """One continuation, and the events that it shows."""

    run: Run
    shown: list[Shown]


@dataclass(frozen=True)
class Visible:
    """What the trace tells: the names of its events, and whether markers or kvm_userspace_exit show user space."""

    names: frozenset[str]
    marked: bool
    hpmn: dict[int, int]  # MDCR_EL2.HPMN that each CPU shows first

    @property
    def returns(self) -> bool:
        """The return of KVM_RUN is seen."""
        return self.marked or "kvm_userspace_exit" in self.names


def wanted_mdscr(part: Part | None) -> int | None:
    """MDSCR_EL1 of the vCPU before an entry changes it, as far as the entry shows it."""
    if part is None or (now := part.named("kvm_arm_set_dreg32", "MDSCR_EL1")) is None:
        return None
    saved = part.named("kvm_arm_set_dreg32", "Saved MDSCR_EL1")
    value = int(now.fields["value"])
    return value if saved is None else value >> 32 << 32 | int(saved.fields["value"]) & 0xFFFFFFFF


def wanted_pstate(part: Part | None) -> int | None:
    """PSTATE of the vCPU as an entry shows it (SS may be the debugger's)."""
    spsr = part.named("kvm_arm_set_dreg32", "SPSR_EL2") if part is not None else None
    return None if spsr is None else int(spsr.fields["value"])


def next_pstate(part: Part) -> int | None:
    """PSTATE of the vCPU as the trace shows it after this part."""
    if part.next_returned is not None and "pstate" in part.next_returned.fields:
        return int(part.next_returned.fields["pstate"], 0)
    return wanted_pstate(part.next_enter)


class Fill:
    """Continuations of runs of one machine."""

    def __init__(self, machine: Machine, visible: Visible) -> None:
        self.machine = machine
        self.visible = visible
        self.kernel = machine.kernel

    # ---- steps of the run loop that no event shows

    def with_cpu(self, run: Run, vcpu: Key, cpu: int) -> Run | None:
        """The run with this CPU booted and initialised, if it was not seen before."""
        if cpu in run.cpus:
            return run
        values = self.machine.new_cpu(self.visible.hpmn.get(cpu, 0) or 1)
        return self.machine.step(replace(run, cpus={**run.cpus, cpu: values}), "kvm_arm_init_debug", vcpu, cpu, 0)

    def free(self, run: Run, cpu: int, line: int, keep: Key | None = None) -> Run | None:
        """The run with no other vCPU loaded on a CPU; none if one is in its entry window there."""
        other = run.loaded_on(cpu)
        if other is None or other == keep:
            return run
        return self.machine.step(run, "kvm_arch_vcpu_put", other, cpu, line)

    def load(self, run: Run | None, vcpu: Key, cpu: int, line: int) -> Run | None:
        """The vCPU loaded on this CPU, in KVM_RUN: started, preempted, or moved as need be."""
        step = self.machine.step
        if run is None:
            return None
        if run.phase(vcpu) is Phase.LOADED and run.on[vcpu] != cpu:
            run = step(run, "kvm_arch_vcpu_put", vcpu, run.on[vcpu], line)
        if run is not None:
            run = self.with_cpu(run, vcpu, cpu)
        if run is not None:
            run = self.free(run, cpu, line, vcpu)
        if run is None or run.phase(vcpu) is Phase.LOADED:
            return run
        if run.phase(vcpu) is Phase.CREATED:
            run = step(run, "kvm_arm_vcpu_init_debug", vcpu, cpu, line)
        if run is not None and not run.value(vcpu, "in_run") and run.value(vcpu, "exit") == Exit.MMIO:
            run = step(run, "kvm_handle_mmio_return", vcpu, cpu, line)
        return None if run is None else step(run, "kvm_arch_vcpu_load", vcpu, cpu, line)

    def returned(self, run: Run | None, vcpu: Key, line: int, pstate: int | None = None) -> Iterator[Run]:
        """KVM_RUN returns to user space; an exception that is pending for the guest leaves it with this PSTATE."""
        if run is None or run.phase(vcpu) is not Phase.LOADED:
            return
        for inputs in self.adjustments(run, vcpu, pstate):
            after = self.machine.step(run, "kvm_arch_vcpu_ioctl_run returns", vcpu, run.on[vcpu], line, **inputs)
            if after is not None:
                yield after

    def adjustments(self, run: Run, vcpu: Key, pstate: int | None) -> Iterator[dict[str, Any]]:
        """How a pending PC adjustment may be committed: the instruction skipped, or an exception entered."""
        yield {}
        pending = run.value(vcpu, "adjust_pc") and self.kernel.defers_pc_adjustment
        if pending and pstate is not None and (pstate ^ run.value(vcpu, "pstate")) & ~SS:
            yield {"takes_exception": True, "exception_pstate": pstate}

    def in_user_space(self, run: Run, vcpu: Key, line: int) -> Iterator[Run]:
        """Runs in which user space has the vCPU, if the trace leaves that open."""
        if self.visible.marked:
            return
        if run.phase(vcpu) in (Phase.CREATED, Phase.READY) and not run.value(vcpu, "in_run"):
            yield run
        elif not self.visible.returns:
            preempted = run.phase(vcpu) is Phase.READY
            cpu = next((p for p in run.cpus if run.loaded_on(p) is None), None) if preempted else run.on.get(vcpu)
            if cpu is not None:
                yield from self.returned(self.load(run, vcpu, cpu, line), vcpu, line)

    def retire(self, run: Run, vcpu: Key) -> Run:
        """The run without a vCPU that the trace says no more of; one in the guest keeps its CPU."""
        now: Run | None = run
        if vcpu in run.on:
            now = self.machine.step(run, "kvm_arch_vcpu_put", vcpu, run.on[vcpu], 0)
        if now is None:
            return run
        left = {v: x for v, x in now.vcpus.items() if v != vcpu}
        return replace(now, vcpus=left, last={v: x for v, x in now.last.items() if v != vcpu})

    # ---- what user space may have done

    def mdscr(self, part: Part | None) -> int | None:
        """MDSCR_EL1 before an entry changes it; with 32 bits printed, the others are as the guest reads them next."""
        seen = wanted_mdscr(part)
        if part is not None and seen is not None and self.kernel.mdcr_el2_bits == 32 and part.mdscr_read is not None:
            return part.mdscr_read if part.mdscr_read & 0xFFFFFFFF == seen else seen
        return seen

    def set_mdscr(self, run: Run | None, vcpu: Key, value: int | None, line: int, assumed: bool = True) -> Run | None:
        """KVM_SET_ONE_REG of MDSCR_EL1, if it has another value."""
        if run is None or value is None or run.value(vcpu, "mdscr_el1") == value:
            return run
        return self.user(run, "KVM_SET_ONE_REG MDSCR_EL1", vcpu, line, assumed, value=value)

    def set_bank(self, run: Run | None, vcpu: Key, part: Part, line: int) -> Run | None:
        """KVM_SET_ONE_REG of the break- and watchpoint registers that the trace shows later with other values."""
        for (kind, number), value in part.bank.items():
            if run is None:
                return None
            index = self.machine.place(kind, number)
            if run.value(vcpu, "vcpu_debug_state")[index] != value:
                name = "KVM_SET_ONE_REG DBGBCR<n>_EL1 and its siblings"
                run = self.user(run, name, vcpu, line, True, index=index, value=value)
        return run

    def user(
        self, run: Run | None, name: str, vcpu: Key, line: int, assumed: bool, **inputs: int | bool | ArrayValue
    ) -> Run | None:
        """A step of user space; the CPU plays no part in it."""
        if run is None:
            return None
        cpu = next(iter(run.cpus), None)
        if cpu is None:
            cpu = next(iter(self.visible.hpmn), 0)
            run = self.with_cpu(run, vcpu, cpu)
        return None if run is None else self.machine.step(run, name, vcpu, cpu, line, assumed, **inputs)

    def bank_of(self, contents: dict[tuple[str, int], int]) -> ArrayValue:
        """Registers by kind and number as a bank."""
        bank = ArrayValue(0)
        for (kind, number), value in contents.items():
            bank = bank.set(self.machine.place(kind, number), value)
        return bank

    def _user_acts(self, run: Run, vcpu: Key, part: Part) -> Iterator[Run]:
        """User space has the vCPU before an entry: what it may have written so that the entry shows what it shows."""
        line = part.first.line
        flags = int(part.first.fields["flags"])
        now: Run | None = run
        if run.value(vcpu, "powered_off"):
            now = self.user(now, "KVM_SET_MP_STATE", vcpu, line, True, stopped=False)
        if flags != run.value(vcpu, "guest_debug") and "kvm_set_guest_debug" not in self.visible.names:
            bank = self.bank_of(dict(part.user_bank))
            now = self.user(now, "KVM_SET_GUEST_DEBUG", vcpu, line, True, control=flags, bank=bank)
        now = self.set_bank(self.set_mdscr(now, vcpu, self.mdscr(part), line), vcpu, part, line)
        if now is None:
            return
        locks = [now]
        if self.kernel.emulates_os_lock:
            locked = bool(now.value(vcpu, "oslsr_el1") & 2)
            other = self.user(now, "KVM_SET_ONE_REG OSLSR_EL1", vcpu, line, True, locks=not locked)
            locks += [other] if other is not None else []
        pstate = wanted_pstate(part)
        for one in locks:
            yield one
            if pstate is not None:
                for value in {pstate, pstate ^ SS} - {one.value(vcpu, "pstate")}:
                    written = self.user(one, "KVM_SET_ONE_REG PSTATE", vcpu, line, True, value=value)
                    if written is not None:
                        yield written

    # ---- entries

    def first_run(self, run: Run, vcpu: Key, part: Part) -> Iterator[Attempt]:
        """The first KVM_RUN of a vCPU: created, perhaps debugged, and its MDCR_EL2 computed."""
        started = self._created(run, vcpu, part)
        for one in started:
            free = self.free(one, part.cpu, part.first.line)
            if free is None:
                continue
            after = self.machine.step(free, "kvm_arm_vcpu_init_debug", vcpu, part.cpu, part.first.line)
            if after is not None:
                yield Attempt(after, [shows_first_run(self.machine, after, vcpu)])

    def _created(self, run: Run, vcpu: Key, part: Part) -> list[Run]:
        fresh = self.create(run, vcpu, part.cpu)
        if fresh is None:
            return []
        ready = self.with_cpu(fresh, vcpu, part.cpu)
        if ready is None:
            return []
        enter = part.next_enter
        if "kvm_set_guest_debug" in self.visible.names or self.visible.marked or enter is None:
            return [ready]
        control = int(enter.first.fields["flags"])
        bank = self.bank_of(dict(part.user_bank))
        debugged = self.user(ready, "KVM_SET_GUEST_DEBUG", vcpu, part.first.line, True, control=control, bank=bank)
        return [r for r in (ready, debugged) if r is not None]

    def create(self, run: Run, vcpu: Key, cpu: int, line: int = 0) -> Run | None:
        """The run with this vCPU created, if it was not seen before."""
        if vcpu in run.vcpus:
            return run
        run = replace(run, vcpus={**run.vcpus, vcpu: self.machine.new_vcpu()})
        now = self.with_cpu(run, vcpu, cpu)
        now = None if now is None else self.machine.step(now, "kvm_arch_vcpu_create", vcpu, cpu, line)
        # No vCPU runs without KVM_ARM_VCPU_INIT; with markers it is announced.
        return now if self.visible.marked else self.user(now, "KVM_ARM_VCPU_INIT", vcpu, line, False)

    def enter(self, run: Run, vcpu: Key, part: Part) -> Iterator[Attempt]:
        """Straight on: the vCPU is loaded where need be, set up, and the guest entered."""
        line = part.first.line
        loaded = self.load(run, vcpu, part.cpu, line)
        if loaded is not None and loaded.value(vcpu, "powered_off"):
            loaded = self.machine.step(loaded, "kvm_reset_vcpu", vcpu, part.cpu, line)
        if loaded is None:
            return
        for one in self._preempted(loaded, vcpu, part) if loaded.value(vcpu, "exit") == Exit.NONE else ():
            for attempt in self.set_up(one, vcpu, part):
                first = run.phase(vcpu) is Phase.CREATED and self.kernel.first_run_init
                shown = [shows_first_run(self.machine, loaded, vcpu)] if first else []
                yield Attempt(attempt.run, shown + attempt.shown)

    def _preempted(self, run: Run, vcpu: Key, part: Part) -> Iterator[Run]:
        """The run, and where it matters also with the thread preempted before the entry, on the same CPU."""
        yield run
        if self.kernel.vhe and not self.kernel.vhe_writes_changed_mdcr:  # load writes MDCR_EL2, the entry does not
            put = self.machine.step(run, "kvm_arch_vcpu_put", vcpu, part.cpu, part.first.line)
            again = self.load(put, vcpu, part.cpu, part.first.line)
            if again is not None:
                yield again

    def set_up(self, run: Run, vcpu: Key, part: Part) -> Iterator[Attempt]:
        """kvm_arm_setup_debug and the world switch, from a loaded vCPU."""
        line, cpu = part.first.line, part.cpu
        after = self.machine.step(run, "kvm_arm_setup_debug", vcpu, cpu, line)
        if after is None:
            return
        shown = [*shows_setup(self.machine, run, after, vcpu, cpu), shows_entry()]
        for inputs in self.adjustments(after, vcpu, next_pstate(part)):
            entered = self.machine.step(after, "__kvm_vcpu_run enters", vcpu, cpu, line, **inputs)
            if entered is not None:
                yield Attempt(entered, shown)

    def enter_after_unseen(self, run: Run, vcpu: Key, part: Part) -> Iterator[Attempt]:
        """An entry after something that no event shows: a reset by another vCPU, user space, hyp initialisation."""
        line, cpu = part.first.line, part.cpu
        loaded = self.load(run, vcpu, cpu, line)
        if loaded is not None and loaded.value(vcpu, "exit") == Exit.NONE:
            for ready in (self._turned_on(loaded, vcpu, part), *self._read_again(loaded, vcpu, part)):
                yield from () if ready is None else self.set_up(ready, vcpu, part)
        for user in self.in_user_space(run, vcpu, line):
            for acted in self._user_acts(user, vcpu, part):
                yield from self.enter(acted, vcpu, part)

    def _turned_on(self, run: Run, vcpu: Key, part: Part) -> Run | None:
        """The guest turned this vCPU off by a call of PSCI, and another vCPU has turned it on again."""
        if part.last_exit is None or part.last_exit.fields["ec"] not in CALLS:
            return None
        off = self.machine.step(run, "PSCI CPU_OFF", vcpu, part.cpu, part.first.line, True)
        return None if off is None else self.machine.step(off, "kvm_reset_vcpu", vcpu, part.cpu, part.first.line, True)

    def _read_again(self, run: Run, vcpu: Key, part: Part) -> Iterator[Run]:
        """Hyp initialisation has read MDCR_EL2 again, where the kernel leaves the value of the vCPU that was there."""
        if self.kernel.saves_host_mdcr or not self.kernel.vhe:
            return
        line, cpu = part.first.line, part.cpu
        resting = (u for u in run.vcpus if run.phase(u) is Phase.READY and run.value(u, "in_run"))
        for other in (vcpu, *resting):
            there = self.load(run, other, cpu, line)
            put = None if there is None else self.machine.step(there, "kvm_arch_vcpu_put", other, cpu, line)
            read = None if put is None else self.machine.step(put, "kvm_arm_init_debug", other, cpu, line, True)
            again = self.load(read, vcpu, cpu, line)
            if again is not None:
                yield again

    # ---- vCPUs that were there before the trace began

    def earlier_life(self, run: Run, vcpu: Key, part: Part) -> Iterator[Attempt]:
        """The first entry that the trace has of a vCPU: it has run before, and left what it left."""
        cpu = part.cpu
        created = self.create(run, vcpu, cpu)
        if created is None:
            return
        flags = int(run.value(vcpu, "guest_debug") if vcpu in run.vcpus else part.first.fields["flags"])
        pstate = wanted_pstate(part)
        guest_ss = (0, SS) if pstate is not None else (0,)
        for lived in (created, self._once(created, vcpu, cpu, dirty=True), self._once(created, vcpu, cpu, dirty=False)):
            for user in () if lived is None else (lived, *self.returned(lived, vcpu, 0)):
                if user.phase(vcpu) is Phase.LOADED:
                    continue
                for acted in self._as_left(user, vcpu, part, flags):
                    for ss in guest_ss:
                        value = (0x3C5 if pstate is None else pstate) & ~SS | ss
                        set_ = self.user(acted, "KVM_SET_ONE_REG PSTATE", vcpu, 0, False, value=value)
                        loaded = self.load(set_, vcpu, cpu, 0)
                        yield from () if loaded is None else self.set_up(loaded, vcpu, part)

    def _as_left(self, run: Run, vcpu: Key, part: Part, flags: int) -> Iterator[Run]:
        now: Run | None = run
        if flags != run.value(vcpu, "guest_debug"):
            bank = self.bank_of(dict(part.user_bank))
            now = self.user(run, "KVM_SET_GUEST_DEBUG", vcpu, 0, False, control=flags, bank=bank)
        now = self.set_mdscr(now, vcpu, self.mdscr(part), 0, False)
        now = self.set_bank(now, vcpu, part, 0)
        if now is None:
            return
        yield now
        locked = self.user(now, "KVM_SET_ONE_REG OSLSR_EL1", vcpu, 0, False, locks=True)
        if locked is not None:
            yield locked

    def _once(self, run: Run, vcpu: Key, cpu: int, dirty: bool) -> Run | None:
        """One run of the guest before the trace: it wrote a debug register, or ran while its step was on its way."""
        step = self.machine.step
        now: Run | None = run
        if not dirty:
            if not self.kernel.keeps_step_pending:
                return None
            now = self.user(run, "KVM_SET_GUEST_DEBUG", vcpu, 0, False, control=ENABLE | SINGLESTEP, bank=ArrayValue(0))
        now = self.load(now, vcpu, cpu, 0)
        ran = ("kvm_arm_setup_debug", "__kvm_vcpu_run enters", *(() if dirty else ("the guest executes",)))
        for name in ran:
            now = None if now is None else step(now, name, vcpu, cpu, 0)
        kind = Exit.DEBUG_ACCESS if dirty else Exit.NONE
        now = None if now is None else step(now, "__kvm_vcpu_run returns", vcpu, cpu, 0, exit=kind.value)
        now = None if now is None else step(now, "kvm_arm_clear_debug", vcpu, cpu, 0)
        if dirty and now is not None:
            value = int(now.value(vcpu, "mdscr_el1"))
            now = step(now, "trap_debug_regs", vcpu, cpu, 0, is_write=True, value=value)
        return now


def forget(run: Run) -> Run:
    """The run without its past, once that has been looked at."""
    return replace(run, done=None)


def past(chain: Chain | None) -> list[Chain]:
    """The steps of a chain, the earliest first."""
    found = []
    while chain is not None:
        found.append(chain)
        chain = chain.before
    return found[::-1]
