"""Events of v6.14 and later grouped as KVM makes them, by the dynamic events of vm/probes.txt.

Load and put, which no trace point shows before, are seen here, and so are preemption and migration. Contiguous are: the
events before an entry and those after an exit, with interrupts off; vcpu_put and vcpu_load of one handler, with
preemption off. Between all others the thread may be preempted, so that each is a part of its own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from formal.conform.trace.groups import Grouping, Key, Kind, Part, bank_register
from formal.conform.trace.text import PROBES, Event, TraceText

BANKS = ("debug_bank", "external_bank")
_LEAVE = ("vcpu_leave", *BANKS, "kvm_exit")
_SWITCHES = (Kind.LOAD, Kind.PUT, Kind.RELOAD)
_WITHIN = (*_SWITCHES, Kind.OSLAR, Kind.OWN, Kind.ACCESS, Kind.CALL)
_KINDS = {
    "vcpu_create": Kind.NAMED,
    "set_guest_debug": Kind.NAMED,
    "guest_mdscr": Kind.LOAD,
    "load_debug": Kind.LOAD,
    "put_debug": Kind.PUT,
    "vcpu_enter": Kind.ENTER,
    "vcpu_leave": Kind.LEAVE,
    "kvm_handle_sys_reg": Kind.ACCESS,
    "kvm_sys_access": Kind.ACCESS,
    "handle_oslar": Kind.OSLAR,
    "kvm_hvc_arm64": Kind.CALL,
    "set_guest_ownership": Kind.OWN,
    "kvm_userspace_exit": Kind.RETURN,
    "kvm_set_guest_debug": Kind.SET_DEBUG,
    "marker": Kind.MARKER,
}
_LOADS = ("guest_mdscr", "load_debug")
_ANYTIME = ("marker", "kvm_set_guest_debug", "vcpu_create", "set_guest_debug", *_LOADS)
_MDSCR = (2, 2)  # CRm, op2
_REGISTERS = (
    ("DBGBCR", "debug_bank", "dbg_bcr"),
    ("DBGBVR", "debug_bank", "dbg_bvr"),
    ("DBGWCR", "debug_bank", "dbg_wcr"),
    ("DBGWVR", "debug_bank", "dbg_wvr"),
)


def by_owner(text: TraceText) -> bool:
    """Whether a trace has the dynamic events of v6.14 and later."""
    return not text.names.isdisjoint(PROBES)


def grouping(text: TraceText) -> Grouping:
    """The events of a trace in groups, whichever kernel it is from."""
    return OwnerGrouping(text) if by_owner(text) else Grouping(text)


def bank_of(event: Event) -> dict[tuple[str, int], int]:
    """The contents of a bank that an event shows."""
    return {(kind, n): x for kind, _, name in _REGISTERS for n, x in enumerate(event.fields[name])}


class OwnerGrouping(Grouping):
    """Groups the events of a trace, thread by thread; ``skipped`` counts those before the first load of a thread."""

    def __init__(self, text: TraceText) -> None:
        self._handler: dict[str, Part] = {}  # by thread: its open OWN, whose value comes last
        super().__init__(text)
        self.names |= PROBES.keys()  # one that has no event has not happened

    def _take(self, event: Event) -> None:
        task, name = event.task, event.name
        now = self._open.get(task)
        if name in ("trap_debug_regs", "trap_dbg_wb_reg") and task in self._handler:
            self._handler.pop(task).events.append(event)
        elif now is not None and _continues(now, event):
            now.events.append(event)
        elif name not in _ANYTIME and task not in self._started:
            self.skipped += 1
        else:
            self._started |= {task} if name in _LOADS else set()
            part = Part(_KINDS.get(name, Kind.STRAY), [event])
            self._open[task] = part
            if part.kind is Kind.OWN:
                self._handler[task] = part
            elif part.kind in (Kind.ENTER, Kind.LEAVE):
                self._handler.pop(task, None)
            self.parts.append(part)

    def _finish(self) -> None:
        _split(self.parts)
        super()._finish()

    def _name_vcpus(self) -> None:
        if any(p.kind is Kind.MARKER and "vcpu" in p.first.fields for p in self.parts):
            super()._name_vcpus()
            return
        current: dict[str, Key] = {}  # by thread
        life: dict[int, int] = {}  # pointers are used again
        for part in self.parts:
            task, event = part.first.task, part.first
            if event.name in PROBES:
                pointer = event.fields["vcpu"]
                life[pointer] = life.get(pointer, 0) + (event.name == "vcpu_create")
                current[task] = (life[pointer], f"vCPU {pointer:x}")
            part.vcpu = current.get(task)

    def _look_ahead(self) -> None:
        _link(self.parts)
        exits: dict[Key, Event] = {}
        for part in self.parts:
            if part.vcpu is not None:
                part.last_exit = exits.get(part.vcpu)
                if (left := part.named("kvm_exit")) is not None:
                    exits[part.vcpu] = left
        ahead: dict[Key, _Ahead] = {}
        for part in reversed(self.parts):
            if part.vcpu is not None:
                ahead.setdefault(part.vcpu, _Ahead()).note(part)


def _continues(part: Part, event: Event) -> bool:
    seen = {e.name for e in part.events}
    of = part.first.fields.get("vcpu")
    if event.cpu != part.cpu or event.name in seen or event.fields.get("vcpu", of) != of:
        return False
    if part.kind is Kind.ENTER:
        return event.name == "kvm_entry"
    if part.kind is Kind.LEAVE:
        return event.name in _LEAVE and "kvm_exit" not in seen
    if part.kind is Kind.ACCESS:
        return event.name == "kvm_sys_access"
    if part.kind is Kind.LOAD:
        return event.name == "load_debug"
    return part.kind is Kind.PUT and event.name in _LOADS


def _split(parts: list[Part]) -> None:
    """A put and a load belong together unless something else happened on that CPU in between."""
    lines: dict[int, list[int]] = {}
    for part in parts:
        for event in part.events:
            lines.setdefault(event.cpu, []).append(event.line)
    for found in lines.values():
        found.sort()
    for part in list(parts):
        if part.kind is not Kind.PUT or len(part.events) == 1:
            continue
        put, *load = part.events
        here = lines[part.cpu]
        if here[bisect_right(here, put.line)] != load[0].line:
            part.events = [put]
            parts.append(Part(Kind.LOAD, load))
        else:
            part.kind = Kind.RELOAD


def _link(parts: Iterable[Part]) -> None:
    """Tells exits which access they are, and handlers what it was; an access that nothing follows is out of place."""
    exits: dict[str, Part] = {}  # by thread, as all of these
    accesses: dict[str, Part] = {}
    locks: dict[str, tuple[Part, Part | None]] = {}
    for part in parts:
        task = part.first.task
        if part.kind is Kind.OSLAR and task not in locks:
            locks[task] = (part, None)
            part.access = accesses.get(task)
        elif part.kind is Kind.OSLAR:
            part.kind = Kind.STRAY
        elif part.kind is Kind.RELOAD and task in locks:
            locks[task] = (locks[task][0], part)
        elif part.kind is Kind.ACCESS and task in exits:
            exits.pop(task).access = accesses[task] = part
        elif part.kind is Kind.ACCESS:
            part.kind = Kind.STRAY
        elif part.kind is Kind.OWN and (part.access or accesses.get(task)):
            part.access = accesses[task]
        if part.kind not in _WITHIN:
            accesses.pop(task, None)
            exits.pop(task, None)
            oslar, reload_ = locks.pop(task, (part, None))
            if reload_ is not None:
                reload_.oslar = oslar
        if part.kind is Kind.LEAVE:
            exits[task] = part
    for oslar, reload_ in locks.values():
        if reload_ is not None:
            reload_.oslar = oslar


class _Ahead:
    """What the trace shows next of one vCPU, going backwards."""

    def __init__(self) -> None:
        self.part: Part | None = None
        self.returned: Event | None = None
        self.reason: Event | None = None
        self.mdscr: int | None = None
        self.pstate: int | None = None
        self.pstate_put: int | None = None
        self.bank: dict[tuple[str, int], int] = {}
        self.user_bank: dict[tuple[str, int], int] = {}

    def note(self, part: Part) -> None:
        """Notes for the part what follows it, then takes up what it shows itself."""
        part.next_part, part.next_returned, part.next_exit = self.part, self.returned, self.reason
        part.mdscr_read, part.pstate_next, part.pstate_put = self.mdscr, self.pstate, self.pstate_put
        for event in part.events:
            if event.name == "guest_mdscr":
                self.mdscr = event.fields["value"]
            elif event.name == "debug_bank":
                self.bank.update(bank_of(event))
            elif event.name == "external_bank":
                self.user_bank.update(bank_of(event))
        if part.kind is Kind.OWN:
            self._access(part.events[-1])
        part.bank, part.user_bank = dict(self.bank), dict(self.user_bank)
        if part.first.name == "put_debug":
            self.pstate_put = part.first.fields["pstate"]
        if part.kind is Kind.LEAVE:
            self.pstate = part.first.fields["pstate"]
        elif part.kind is Kind.ENTER:
            self.returned = self.reason = None
        elif part.kind is Kind.RETURN:
            self.reason = part.first
        elif part.kind is Kind.MARKER:
            self._marker(part.first)
        self.part = part

    def _access(self, trap: Event) -> None:
        if trap.name == "trap_debug_regs" and (trap.fields["crm"], trap.fields["op2"]) == _MDSCR:
            self.mdscr = None if trap.fields["is_write"] else trap.fields["value"]
        elif trap.name == "trap_dbg_wb_reg":
            place = (_REGISTERS[[5, 4, 7, 6].index(trap.fields["op2"])][0], trap.fields["crm"])
            if trap.fields["is_write"]:
                self.bank.pop(place, None)
            else:
                self.bank[place] = trap.fields["value"]

    def _marker(self, event: Event) -> None:
        fields = event.fields
        place = bank_register(fields.get("reg", ""))
        if fields["verb"] == "returned":
            self.returned = event
            self.mdscr = int(fields["mdscr_el1"], 0) if "mdscr_el1" in fields else self.mdscr
        elif fields["verb"] == "exit":
            self.reason = event
        elif fields["verb"] == "get_one_reg" and place is not None:
            self.bank[place] = int(fields["value"], 0)
        elif fields["verb"] == "set_one_reg" and place is not None:
            self.bank.pop(place, None)
        elif fields["verb"] == "set_one_reg" and fields["reg"] == "MDSCR_EL1":
            self.mdscr = None
        elif fields["verb"] == "vcpu_init":
            self.bank.clear()
            self.mdscr = None
