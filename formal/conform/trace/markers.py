"""The markers that this project's own recordings have: what user space does, as steps of the model.

``tracing_mark_write: conform: VERB key=value ...`` announces each ioctl, tells its result, and gives the registers
after each KVM_RUN. A trace with markers leaves nothing of user space to be filled in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from formal.conform.trace.fill import Attempt, Fill
from formal.conform.trace.groups import Key, Kind, Part, bank_register
from formal.conform.trace.runs import NOBODY, Run, Shown, shows_set_debug
from formal.conform.trace.text import Event
from formal.logic.terms import ArrayValue
from formal.state import Exit, Phase

MDE = 1 << 15  # MDSCR_EL1.MDE, which the host sets for a watchpoint of user space
OSLK = 2  # OSLSR_EL1.OSLK
EINTR = 4
POWER_OFF = 1  # bit KVM_ARM_VCPU_POWER_OFF of kvm_vcpu_init.features
_POINTS = {
    "breakpoint": ("dbgbcr", "DBGBCR", "dbgbvr", "DBGBVR"),
    "watchpoint": ("dbgwcr", "DBGWCR", "dbgwvr", "DBGWVR"),
}
# Marks that announce no ioctl whose result follows.
_ALONE = frozenset(
    "returned exit get_one_reg run cpu move create_vcpu recording scenario hotplug host_watchpoint".split()
)
_DEBUG_KINDS = (Exit.STEP, Exit.DEBUG)


def _number(fields: Any, key: str) -> int:
    return int(fields[key], 0)


class Markers:
    """Steps for the markers of a trace."""

    def __init__(self, fill: Fill, parts: Sequence[Part]) -> None:
        self.fill = fill
        self.step = fill.machine.step
        self._failed: dict[int, bool] = {}  # by line: the ioctl that the marker announces failed
        self._banks: dict[int, dict[tuple[str, int], int]] = {}  # by line of set_guest_debug
        self._debug: dict[int, Part] = {}  # by line of kvm_set_guest_debug: its marker
        self._read(parts)

    def _read(self, parts: Sequence[Part]) -> None:
        """Matches announcements with results, registers and events, thread by thread."""
        announced: dict[str, Part] = {}
        points: dict[str, dict[tuple[str, int], int]] = {}
        for part in parts:
            task, fields = part.first.task, part.first.fields
            if part.kind is Kind.SET_DEBUG and task in announced:
                self._debug[part.first.line] = announced[task]
            if part.kind is not Kind.MARKER:
                continue
            verb = fields["verb"]
            if verb == "result" and task in announced:
                self._failed[announced.pop(task).first.line] = _number(fields, "error") != 0
                points.pop(task, None)
            elif verb in _POINTS:
                control, control_name, value, value_name = _POINTS[verb]
                bank = points.setdefault(task, {})
                bank[control_name, _number(fields, "n")] = _number(fields, control)
                bank[value_name, _number(fields, "n")] = _number(fields, value)
            elif verb not in _ALONE:
                announced[task] = part
                self._banks[part.first.line] = points.setdefault(task, {})

    def attempts(self, run: Run, part: Part) -> Iterator[Attempt]:
        """The runs after a marker; none if the model cannot take the step, or has other values."""
        shown = [Shown("marker", part.first.text, lambda e: True)]
        verb = part.first.fields["verb"]
        handler = getattr(self, f"_{verb}", None)
        if verb == "scenario":
            after = self._destroy(run)
            if after is not None:
                yield Attempt(after, shown)
        elif verb in ("hotplug", "host_watchpoint"):
            after = self._host(run, part)
            if after is not None:
                yield Attempt(after, shown)
        elif handler is None or part.vcpu is None or self._failed.get(part.first.line) or self._unknown(run, part):
            yield Attempt(run, shown)
        else:
            yield from handler(run, part.vcpu, part, shown)

    def _unknown(self, run: Run, part: Part) -> bool:
        """Whether the vCPU was created before the trace began, and has not been seen to run."""
        return part.vcpu not in run.vcpus and part.first.fields["verb"] != "create_vcpu"

    def _destroy(self, run: Run) -> Run | None:
        """The file descriptors are closed: all vCPUs are gone."""
        now: Run | None = run
        for vcpu, cpu in run.on.items():
            now = None if now is None else self.step(now, "kvm_arch_vcpu_put", vcpu, cpu, 0)
        return None if now is None else replace(now, vcpus={}, last={})

    def _host(self, run: Run, part: Part) -> Run | None:
        """What the host does to a CPU: its own watchpoint there, or the CPU down and up again. No vCPU is loaded."""
        fields, line = part.first.fields, part.first.line
        now: Run | None = replace(run, vcpus={**run.vcpus, NOBODY: self.fill.machine.new_vcpu()})
        if fields["verb"] == "host_watchpoint":
            armed = bool(_number(fields, "armed"))
            cpu, bank = part.cpu, ArrayValue(0).set(self.fill.machine.place("DBGWCR", 0), int(armed))
            now = None if now is None else self.fill.with_cpu(now, NOBODY, cpu)
            inputs: dict[str, Any] = {"mdscr_el1": MDE if armed else 0, "bank": bank}
            now = None if now is None else self.fill.free(now, cpu, line)
            names = [("the host writes its debug registers", inputs)]
        else:
            cpu = _number(fields, "cpu")
            now = None if now is None else self.fill.with_cpu(now, NOBODY, cpu)
            now = None if now is None else self.fill.free(now, cpu, line)
            up = _number(fields, "online") and not _number(fields, "begins")
            names = [("cpu_boot", {}), ("kvm_arm_init_debug", {})] if up else []
        for name, inputs in names:
            now = None if now is None else self.step(now, name, NOBODY, cpu, line, **inputs)
        return None if now is None else replace(now, vcpus={v: x for v, x in now.vcpus.items() if v != NOBODY})

    def _create_vcpu(self, run: Run, vcpu: Key, part: Part, shown: list[Shown]) -> Iterator[Attempt]:
        after = self.fill.create(run, vcpu, part.cpu, part.first.line)
        if after is not None:
            yield Attempt(after, shown)

    def _user(self, run: Run | None, vcpu: Key, part: Part, name: str, **inputs: Any) -> Run | None:
        return self.fill.user(run, name, vcpu, part.first.line, False, **inputs)

    def _vcpu_init(self, run: Run, vcpu: Key, part: Part, shown: list[Shown]) -> Iterator[Attempt]:
        stopped = bool(_number(part.first.fields, "features") & POWER_OFF)
        after = self._user(
            self._user(run, vcpu, part, "KVM_ARM_VCPU_INIT"), vcpu, part, "KVM_SET_MP_STATE", stopped=stopped
        )
        if after is not None:
            yield Attempt(after, shown)

    def _set_mp_state(self, run: Run, vcpu: Key, part: Part, shown: list[Shown]) -> Iterator[Attempt]:
        stopped = not _number(part.first.fields, "runnable")
        after = self._user(run, vcpu, part, "KVM_SET_MP_STATE", stopped=stopped)
        if after is not None:
            yield Attempt(after, shown)

    def _set_one_reg(self, run: Run, vcpu: Key, part: Part, shown: list[Shown]) -> Iterator[Attempt]:
        reg, value = part.first.fields["reg"], _number(part.first.fields, "value")
        place = bank_register(reg)
        after: Run | None = run
        if reg in ("MDSCR_EL1", "PSTATE"):
            after = self._user(run, vcpu, part, f"KVM_SET_ONE_REG {reg}", value=value)
        elif reg == "OSLSR_EL1":
            after = self._user(run, vcpu, part, "KVM_SET_ONE_REG OSLSR_EL1", locks=bool(value & OSLK))
        elif place is not None:
            index = self.fill.machine.place(*place)
            name = "KVM_SET_ONE_REG DBGBCR<n>_EL1 and its siblings"
            after = self._user(run, vcpu, part, name, index=index, value=value)
        if after is not None:
            yield Attempt(after, shown)

    def _get_one_reg(self, run: Run, vcpu: Key, part: Part, shown: list[Shown]) -> Iterator[Attempt]:
        fields = part.first.fields
        value = None if _number(fields, "error") else _number(fields, "value")
        place = bank_register(fields["reg"])
        now: int | None = None
        if fields["reg"] in ("MDSCR_EL1", "PSTATE", "OSLSR_EL1"):
            now = int(run.value(vcpu, fields["reg"].lower()))
        elif place is not None:
            now = run.value(vcpu, "vcpu_debug_state")[self.fill.machine.place(*place)]
        yield Attempt(
            run,
            [_register_is(part.first, fields["reg"], now, value)] if now is not None and value is not None else shown,
        )

    # ---- KVM_SET_GUEST_DEBUG: the event if there is one, else the marker

    def _set_guest_debug(self, run: Run, vcpu: Key, part: Part, shown: list[Shown]) -> Iterator[Attempt]:
        if "kvm_set_guest_debug" in self.fill.visible.names:
            seen = any(marker is part for marker in self._debug.values())
            control = _number(part.first.fields, "control")
            yield Attempt(run, shown if seen else [*shown, shows_set_debug(control)])
            return
        after = self._give(run, vcpu, part, part.first.line)
        if after is not None:
            yield Attempt(after, shown)

    def set_debug(self, run: Run, vcpu: Key, part: Part) -> Iterator[Attempt]:
        """The event kvm_set_guest_debug, which a marker has announced."""
        marker = self._debug.get(part.first.line)
        if marker is None or marker.first.fields["verb"] != "set_guest_debug":
            return
        shown = [shows_set_debug(_number(marker.first.fields, "control"))]
        # The kernel prints the flags before it refuses unknown ones; the model takes no step then.
        idle = self._failed.get(marker.first.line) or vcpu not in run.vcpus
        after = run if idle else self._give(run, vcpu, marker, part.first.line)
        if after is not None:
            yield Attempt(after, shown)

    def _give(self, run: Run, vcpu: Key, marker: Part, line: int) -> Run | None:
        bank = self.fill.bank_of(self._banks.get(marker.first.line, {}))
        control = _number(marker.first.fields, "control")
        return self.fill.user(run, "KVM_SET_GUEST_DEBUG", vcpu, line, False, control=control, bank=bank)

    # ---- KVM_RUN

    def _returned(self, run: Run, vcpu: Key, part: Part, shown: list[Shown]) -> Iterator[Attempt]:
        """KVM_RUN is over; the registers are read right after it."""
        fields = part.first.fields
        if _number(fields, "error") not in (0, EINTR):
            yield Attempt(run, shown)  # KVM_RUN was refused before it did anything
            return
        if run.phase(vcpu) in (Phase.IN_GUEST, Phase.SETUP, Phase.EXITED):
            return
        pstate = _number(fields, "pstate") if "pstate" in fields else None
        for after in self._out_of_run(run, vcpu, part, pstate):
            checks = []
            for reg in ("pstate", "mdscr_el1"):
                if reg in fields:
                    checks.append((reg.upper(), int(after.value(vcpu, reg)), _number(fields, reg)))
            wrong = [c for c in checks if c[1] != c[2]]
            yield Attempt(after, [_register_is(part.first, *wrong[0])] if wrong else shown)

    def _out_of_run(self, run: Run, vcpu: Key, part: Part, pstate: int | None) -> Iterator[Run]:
        if self.fill.kernel.tracks_debug_owner:  # vcpu_put has been seen, if KVM_RUN came as far as vcpu_load
            yield from () if run.phase(vcpu) is Phase.LOADED or run.value(vcpu, "in_run") else (run,)
            return
        line = part.first.line
        loaded = run if run.phase(vcpu) is Phase.LOADED else self.fill.load(run, vcpu, part.cpu, line)
        yield from self.fill.returned(loaded, vcpu, line, pstate)

    def _exit(self, run: Run, vcpu: Key, part: Part, shown: list[Shown]) -> Iterator[Attempt]:
        """Why KVM_RUN returned: the exit had to be one that user space handles."""
        reason, last = part.first.fields["reason"], run.last.get(vcpu, Exit.NONE)
        fits = (reason == "DEBUG") == (last in _DEBUG_KINDS) and (reason == "MMIO") == (last is Exit.MMIO)
        after = replace(run, last={**run.last, vcpu: Exit.NONE})
        wanted = Shown("marker", f"the reason of an exit of the kind {last.name}", lambda e: fits)
        yield Attempt(after, [wanted])


def _register_is(event: Event, register: str, now: int, seen: int) -> Shown:
    return Shown("marker", f"{register} {now:#x}, not {seen:#x}", lambda e: now == seen)
