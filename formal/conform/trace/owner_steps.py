"""How a run of the model can go on with a part of a trace of v6.14 or later.

Load, put, preemption and what is written to the debug registers by traps are seen; nothing of the run loop has to be
filled in but how an exit was handled that shows no register, and what user space did where the trace does not say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from formal.conform.trace.fill import CALLS, SINGLESTEP, SS, Attempt, Fill
from formal.conform.trace.groups import Key, Kind, Part
from formal.conform.trace.leave import (
    BY_BANK,
    BY_TRAP_DEBUG_REGS,
    EC_SYS64,
    OSLAR_EL1,
    Encoding,
    Leave,
    access,
    is_bank,
    turns_off,
)
from formal.conform.trace.runs import Run, Shown, shows_bank, shows_entry, shows_probe, shows_values
from formal.state import DebugOwner, Exit, Phase

_DEBUG_KINDS = (Exit.STEP, Exit.DEBUG)
_SYS64 = (Exit.DEBUG_ACCESS, Exit.OS_ACCESS, Exit.EMULATE)
ALL = (*_SYS64, Exit.NONE, Exit.STEP, Exit.DEBUG, Exit.FAULT, Exit.MMIO)


class OwnerSteps:
    """The continuations of a run with each kind of part."""

    def __init__(self, fill: Fill) -> None:
        self.fill = fill
        self.machine = fill.machine
        self.leave = OwnerLeave(fill)
        self._ways = {
            Kind.LOAD: self._load,
            Kind.PUT: self._put,
            Kind.RELOAD: self._reload,
            Kind.ENTER: self._enter,
            Kind.LEAVE: self.leave.attempts,
            Kind.ACCESS: self._access,
            Kind.OSLAR: self._oslar,
            Kind.CALL: self._call,
            Kind.OWN: self._own,
        }

    def attempts(self, run: Run, vcpu: Key, part: Part, unseen: bool) -> Iterator[Attempt]:
        """Every way to go on as the part shows; ``unseen``: with steps of user space that no event shows."""
        if unseen:
            yield from self._turned_on(run, vcpu, part)
            yield from self._after_user(run, vcpu, part)
        elif part.kind is Kind.NAMED:
            yield from self._named(run, vcpu, part)
        elif vcpu in run.vcpus:
            yield from self._ways[part.kind](run, vcpu, part)

    def _named(self, run: Run, vcpu: Key, part: Part) -> Iterator[Attempt]:
        """A vCPU is new, unless a marker has said so; or it is the one that the next event is about."""
        new = part.first.name == "vcpu_create" and not self.fill.visible.marked
        after = self.fill.create(run, vcpu, part.cpu, part.first.line) if new else run
        if after is not None:
            yield Attempt(after, [Shown(part.first.name, "", lambda e: True)])

    def _step(self, run: Run | None, name: str, vcpu: Key, part: Part, **inputs: Any) -> Run | None:
        if run is None:
            return None
        return self.machine.step(run, name, vcpu, part.cpu, part.first.line, **inputs)

    # ---- load and put

    def _shows_load(self, after: Run, vcpu: Key) -> list[Shown]:
        mdscr = shows_values("guest_mdscr", {"value": int(after.value(vcpu, "mdscr_el1"))})
        return [mdscr, shows_probe("load_debug", after, vcpu)]

    def _loaded(self, run: Run | None, vcpu: Key, part: Part) -> Run | None:
        """The vCPU loaded, by KVM_RUN or the scheduler; none where it is already, or another one is there."""
        if run is None or run.phase(vcpu) not in (Phase.CREATED, Phase.READY):
            return None
        now = self.fill.with_cpu(run, vcpu, part.cpu)
        if now is None or now.loaded_on(part.cpu) is not None:
            return None
        return self.fill.load(now, vcpu, part.cpu, part.first.line)

    def _load(self, run: Run, vcpu: Key, part: Part) -> Iterator[Attempt]:
        for before in (run, *self._written(run, vcpu, part)):
            after = self._loaded(before, vcpu, part)
            if after is not None:
                yield Attempt(after, self._shows_load(after, vcpu))

    def _written(self, run: Run, vcpu: Key, part: Part) -> Iterator[Run]:
        """User space may have written what no load shows: the break- and watchpoint registers that are seen next, or
        PSTATE.SS, which a step hides until the put; if it has the vCPU, and the trace does not say what it does."""
        if self.fill.visible.marked or run.value(vcpu, "in_run") or run.phase(vcpu) not in _OF_USER:
            return
        written = self.fill.set_bank(run, vcpu, part, part.first.line)
        if written is not None and written is not run:
            yield written
        pstate, put = int(run.value(vcpu, "pstate")), part.pstate_put
        if (
            written is not None
            and put is not None
            and (pstate ^ put) & SS
            and run.value(vcpu, "guest_debug") & SINGLESTEP
        ):
            other = self.fill.user(written, "KVM_SET_ONE_REG PSTATE", vcpu, part.first.line, True, value=pstate ^ SS)
            yield from () if other is None else (other,)

    def _puts(self, run: Run, vcpu: Key, part: Part) -> Iterator[Run]:
        """Preempted, or KVM_RUN returns; what comes next says which, if returns are seen."""
        if run.phase(vcpu) is not Phase.LOADED or run.on[vcpu] != part.cpu:
            return
        ahead = part.next_part
        returns = ahead is not None and (
            ahead.kind is Kind.RETURN or (ahead.kind is Kind.MARKER and ahead.first.fields["verb"] == "returned")
        )
        if returns or not self.fill.visible.returns or ahead is None:
            for handled in self._handled(run, vcpu, part):
                for after in self.fill.returned(handled, vcpu, part.first.line, part.first.fields["pstate"]):
                    last = after.last if self.fill.visible.returns else {**after.last, vcpu: Exit.NONE}
                    yield replace(after, last=last)
        if not returns:
            for before in (run, *(r for r in self._handled(run, vcpu, part) if r is not run)):
                put = self._step(before, "kvm_arch_vcpu_put", vcpu, part)
                if put is not None:
                    yield put

    def _put(self, run: Run, vcpu: Key, part: Part) -> Iterator[Attempt]:
        for after in self._puts(run, vcpu, part):
            yield Attempt(after, [shows_probe("put_debug", after, vcpu)])

    def _reload(self, run: Run, vcpu: Key, part: Part) -> Iterator[Attempt]:
        """A handler puts and loads the vCPU, or the thread comes back to the same CPU."""
        if run.phase(vcpu) is not Phase.LOADED or run.on[vcpu] != part.cpu:
            return
        for after in self._handlers(run, vcpu, part):
            yield from self._around(run, after, vcpu, part)
        if part.oslar is not None:
            return
        for put in self._puts(run, vcpu, part):
            for before in (put, *self._written(put, vcpu, part)):
                loaded = self._loaded(before, vcpu, part)
                if loaded is not None:
                    shown = [shows_probe("put_debug", put, vcpu), *self._shows_load(loaded, vcpu)]
                    yield Attempt(loaded, shown)

    def _around(self, run: Run, after: Run, vcpu: Key, part: Part) -> Iterator[Attempt]:
        """A handler that puts the vCPU first and loads it last."""
        put = self._step(run, "kvm_arch_vcpu_put", vcpu, part)
        if put is not None:
            yield Attempt(after, [shows_probe("put_debug", put, vcpu), *self._shows_load(after, vcpu)])

    def _turned_on(self, run: Run, vcpu: Key, part: Part) -> Iterator[Attempt]:
        """The guest turned this vCPU off by a call of PSCI, and another vCPU has turned it on again."""
        if part.kind is not Kind.RELOAD or vcpu not in run.vcpus or run.phase(vcpu) is not Phase.LOADED:
            return
        if part.last_exit is None or part.last_exit.fields["ec"] not in CALLS:
            return
        for handled in self._handled(run, vcpu, part):
            off = self._step(handled, "PSCI CPU_OFF", vcpu, part, assumed=True)
            after = self._step(off, "kvm_reset_vcpu", vcpu, part, assumed=True)
            if after is not None:
                yield from self._around(handled, after, vcpu, part)

    def _handlers(self, run: Run, vcpu: Key, part: Part) -> Iterator[Run]:
        found: list[Run | None] = []
        if part.oslar is not None:
            locks = bool(part.oslar.first.fields["value"] & 1)
            found.append(self._step(run, "trap_oslar_el1", vcpu, part, locks=locks))
        for handled in self._handled(run, vcpu, part):
            found.append(self._step(handled, "kvm_reset_vcpu", vcpu, part))
        yield from (r for r in found if r is not None)

    # ---- entry

    def _enter(self, run: Run, vcpu: Key, part: Part) -> Iterator[Attempt]:
        if run.phase(vcpu) is not Phase.LOADED or run.on[vcpu] != part.cpu or run.last.get(vcpu) in _DEBUG_KINDS:
            return
        for ready in self._handled(run, vcpu, part):
            shown = [shows_probe("vcpu_enter", ready, vcpu), shows_entry()]
            for inputs in self.fill.adjustments(ready, vcpu, part.pstate_next):
                entered = self._step(ready, "__kvm_vcpu_run enters", vcpu, part, **inputs)
                if entered is not None:
                    yield Attempt(entered, shown)

    def _handled(self, run: Run, vcpu: Key, part: Part) -> Iterator[Run]:
        """The pending exit handled, where that shows no register; what shows one has been seen before this part."""
        kind = Exit(run.value(vcpu, "exit"))
        name = {
            Exit.STEP: "kvm_handle_guest_debug",
            Exit.DEBUG: "kvm_handle_guest_debug",
            Exit.FAULT: "handle_exit repairs",
            Exit.EMULATE: "handle_exit emulates",
        }.get(kind)
        if name is not None:
            after = self._step(run, name, vcpu, part)
            yield from () if after is None else (after,)
        elif kind in (Exit.NONE, Exit.MMIO):
            yield run

    # ---- handlers that show what they handle

    def _access(self, run: Run, vcpu: Key, part: Part) -> Iterator[Attempt]:
        """The exit was this access."""
        named = access(part)
        kind = kind_of(named)
        if run.value(vcpu, "exit") != kind or run.phase(vcpu) is not Phase.LOADED:
            return
        handled, shown = part.named("kvm_handle_sys_reg"), []
        if handled is not None and named is not None:
            shown.append(Shown("kvm_handle_sys_reg", f"HSR of {named}", lambda e: e.fields["hsr"] >> 26 == EC_SYS64))
        if part.named("kvm_sys_access") is not None or kind is not Exit.EMULATE:
            shown.append(Shown("kvm_sys_access", str(named), lambda e: True))
        yield Attempt(run, shown)

    def _oslar(self, run: Run, vcpu: Key, part: Part) -> Iterator[Attempt]:
        if run.value(vcpu, "exit") == Exit.OS_ACCESS and run.phase(vcpu) is Phase.LOADED:
            yield Attempt(run, [Shown("handle_oslar", "value=...", lambda e: True)])

    def _call(self, run: Run, vcpu: Key, part: Part) -> Iterator[Attempt]:
        """The guest has called; one call turns it off."""
        if run.phase(vcpu) is Phase.LOADED and run.value(vcpu, "exit") == Exit.NONE:
            after = self._step(run, "PSCI CPU_OFF", vcpu, part) if turns_off(part) else run
            if after is not None:
                yield Attempt(after, [Shown("kvm_hvc_arm64", "HVC at ...", lambda e: True)])

    def _own(self, run: Run, vcpu: Key, part: Part) -> Iterator[Attempt]:
        """trap_debug_regs or trap_dbg_wb_reg: the value, then whose the registers are."""
        if run.phase(vcpu) is not Phase.LOADED or run.on[vcpu] != part.cpu:
            return
        trap = part.events[-1] if len(part.events) > 1 else None
        named = access(part.access) if part.access is not None else None
        if named is None and trap is not None:
            op2 = (2, 0, 0, trap.fields["crm"], trap.fields["op2"])
            named = (op2, bool(trap.fields["is_write"]))
        if named is None:
            return
        encoding, writes = named
        seen = trap.fields["value"] if trap is not None else None
        name, inputs, value = self._register(run, vcpu, encoding, writes, seen)
        after = self._step(run, name, vcpu, part, **inputs)
        if after is None:
            return
        function = "trap_dbg_wb_reg" if is_bank(encoding) else "trap_debug_regs"
        values = {"crm": encoding[3], "op2": encoding[4], "is_write": int(writes)}
        values |= {} if value is None else {"value": value}
        yield Attempt(after, [shows_probe("set_guest_ownership", after, vcpu), shows_values(function, values)])

    def _register(
        self, run: Run, vcpu: Key, encoding: Encoding, writes: bool, seen: int | None
    ) -> tuple[str, dict[str, Any], int | None]:
        """The operation that handles an access, its inputs, and the value that it shows."""
        mdscr = int(run.value(vcpu, "mdscr_el1"))
        if not is_bank(encoding):
            if BY_TRAP_DEBUG_REGS.get(encoding) != "MDSCR_EL1":  # MDCCINT_EL1 is not modelled
                return "trap_debug_regs", {"is_write": False}, None
            value = (mdscr if seen is None else seen) if writes else mdscr
            return "trap_debug_regs", {"is_write": writes, "value": value}, value
        index = self.machine.place(BY_BANK[encoding[4]][1], encoding[3])
        if not writes:
            return "trap_debug_regs", {"is_write": False}, int(run.value(vcpu, "vcpu_debug_state")[index])
        return "trap_bvr, trap_bcr, trap_wvr, trap_wcr", {"index": index, "value": seen or 0}, seen or 0

    # ---- what user space did, where the trace does not say

    def _after_user(self, run: Run, vcpu: Key, part: Part) -> Iterator[Attempt]:
        """A load after user space has written registers; or the first load that the trace has of this vCPU."""
        if self.fill.visible.marked or part.kind not in (Kind.LOAD, Kind.RELOAD):
            return
        befores: list[tuple[Run, list[Shown]]] = [(run, [])]
        if part.kind is Kind.RELOAD and vcpu in run.vcpus:
            befores = [(r, [shows_probe("put_debug", r, vcpu)]) for r in self._puts(run, vcpu, part)]
        for before, shown in befores:
            if vcpu in before.vcpus and (before.value(vcpu, "in_run") or before.phase(vcpu) not in _OF_USER):
                continue
            known = self.fill.create(before, vcpu, part.cpu)
            for acted in () if known is None else self._writes(known, vcpu, part):
                loaded = self._loaded(acted, vcpu, part)
                if loaded is not None:
                    yield Attempt(loaded, [*shown, *self._shows_load(loaded, vcpu)])

    def _writes(self, run: Run, vcpu: Key, part: Part) -> Iterator[Run]:
        """What user space may have written so that the load shows what it shows."""
        line, fields = part.first.line, part.events[-1].fields
        now: Run | None = run
        if run.value(vcpu, "powered_off"):
            now = self.fill.user(now, "KVM_SET_MP_STATE", vcpu, line, True, stopped=False)
        if fields["guest_debug"] != run.value(vcpu, "guest_debug"):
            bank = self.fill.bank_of(dict(part.user_bank))
            control = fields["guest_debug"]
            now = self.fill.user(now, "KVM_SET_GUEST_DEBUG", vcpu, line, True, control=control, bank=bank)
        mdscr = part.named("guest_mdscr")
        now = self.fill.set_mdscr(now, vcpu, None if mdscr is None else mdscr.fields["value"], line)
        now = self.fill.set_bank(now, vcpu, part, line)
        if now is None:
            return
        if bool(fields["debug_owner"] == DebugOwner.HOST and not fields["guest_debug"]) != bool(
            int(now.value(vcpu, "oslsr_el1")) & 2
        ):
            other = not int(now.value(vcpu, "oslsr_el1")) & 2
            locked = self.fill.user(now, "KVM_SET_ONE_REG OSLSR_EL1", vcpu, line, True, locks=other)
            now = locked if not fields["guest_debug"] else now
        if now is None:
            return
        yield now
        for value in {fields["pstate"], fields["pstate"] ^ SS} - {now.value(vcpu, "pstate")}:
            written = self.fill.user(now, "KVM_SET_ONE_REG PSTATE", vcpu, line, True, value=value)
            if written is not None:
                yield written


_OF_USER = (Phase.CREATED, Phase.READY)


def kind_of(named: tuple[Encoding, bool] | None) -> Exit:
    """Which exit of the model an access of a System register is."""
    if named is None:
        return Exit.EMULATE
    encoding, writes = named
    if encoding in BY_TRAP_DEBUG_REGS or is_bank(encoding):
        return Exit.DEBUG_ACCESS
    return Exit.OS_ACCESS if encoding == OSLAR_EL1 and writes else Exit.EMULATE


class OwnerLeave(Leave):
    """The continuations of a run in the guest up to its exit; how that is handled shows later."""

    def attempts(self, run: Run, vcpu: Key, part: Part) -> Iterator[Attempt]:
        """Every way to leave the guest as the part shows it."""
        if run.phase(vcpu) is not Phase.IN_GUEST or run.on[vcpu] != part.cpu:
            return
        for ran in self.guest(run, vcpu, part):
            for kind in self.kinds(part):
                left = self.machine.step(
                    ran, "__kvm_vcpu_run returns", vcpu, part.cpu, part.first.line, exit=kind.value
                )
                if left is not None:
                    yield Attempt(replace(left, last={**left.last, vcpu: kind}), list(self._shows(left, vcpu, kind)))

    def _shows(self, left: Run, vcpu: Key, kind: Exit) -> Iterator[Shown]:
        yield shows_probe("vcpu_leave", left, vcpu)
        owner = left.value(vcpu, "debug_owner")
        if owner != DebugOwner.FREE:
            yield shows_bank("debug_bank", self.machine, left.value(vcpu, "vcpu_debug_state"), owner)
        if owner == DebugOwner.HOST:
            yield shows_bank("external_bank", self.machine, left.value(vcpu, "external_debug_state"), owner)
        yield Shown("kvm_exit", f"an exit of the kind {kind.name}", lambda e: True)

    def next_mdscr(self, part: Part) -> int | None:
        """MDSCR_EL1 as the trace shows it next."""
        return part.mdscr_read

    def next_pstates(self, run: Run, part: Part, cpu: int) -> list[int]:
        """PSTATE is shown at the exit."""
        return [part.first.fields["pstate"]]

    def _of_access(self, part: Part) -> tuple[Exit, ...]:
        if part.access is not None:
            return (kind_of(access(part.access)),)
        if part.next_part is None or "kvm_sys_access" not in self.names:
            return _SYS64
        return (Exit.EMULATE,)
