"""Events of a trace grouped as KVM makes them: an entry, an exit with its handling, a return to user space.

Which events belong together is read off the code of v4.17 to v6.13: kvm_arm_setup_debug up to kvm_entry run with
interrupts off, and so do the exit and kvm_arm_clear_debug; everything is done by the thread that is in KVM_RUN. An
event that fits no group is a group of its own (``STRAY``): something before it is missing, or it is out of order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from formal.conform.trace.text import Event, TraceText

Key = tuple[int, str]  # a vCPU: its generation (pointers are used again) and its name


class Kind(Enum):
    """What a group of events is."""

    FIRST_RUN = "the first KVM_RUN of a vCPU"
    ENTER = "an entry"
    LEAVE = "an exit"
    RETURN = "the return of KVM_RUN"
    SET_DEBUG = "KVM_SET_GUEST_DEBUG"
    MARKER = "a marker"
    NAMED = "the name of a vCPU"
    LOAD = "vcpu_load"
    PUT = "vcpu_put"
    RELOAD = "vcpu_put and vcpu_load"
    ACCESS = "the handling of a trapped access"
    CALL = "the handling of a call"
    OSLAR = "the handling of a write of OSLAR_EL1"
    OWN = "a trapped access of a debug register"
    STRAY = "out of place"


@dataclass
class Part:
    """Some events of one thread that belong together; ``vcpu`` is the vCPU that they are about, if that is known."""

    kind: Kind
    events: list[Event]
    vcpu: Key | None = None
    # What the trace will show next of this vCPU, for what the model leaves open (``look_ahead``).
    next_enter: Part | None = field(default=None, repr=False)
    next_returned: Event | None = field(default=None, repr=False)
    next_exit: Event | None = field(default=None, repr=False)  # why KVM_RUN returns before the next entry
    last_exit: Event | None = field(default=None, repr=False)  # the kvm_exit before this part
    mdscr_read: int | None = field(default=None, repr=False)  # MDSCR_EL1 as the guest reads it next, by a trap
    # From v6.14 on: what follows, PSTATE at the next exit and the next put; for an exit or its handler, the access.
    next_part: Part | None = field(default=None, repr=False)
    pstate_next: int | None = field(default=None, repr=False)
    pstate_put: int | None = field(default=None, repr=False)
    access: Part | None = field(default=None, repr=False)
    oslar: Part | None = field(default=None, repr=False)
    bank: Mapping[tuple[str, int], int] = field(default_factory=dict, repr=False)
    user_bank: Mapping[tuple[str, int], int] = field(default_factory=dict, repr=False)

    @property
    def first(self) -> Event:
        """The event that the part begins with."""
        return self.events[0]

    @property
    def cpu(self) -> int:
        """The CPU of the first event."""
        return self.first.cpu

    def named(self, name: str, register: str | None = None) -> Event | None:
        """The first event of this name (and of this register)."""
        for e in self.events:
            if e.name == name and (register is None or e.fields["register"] == register):
                return e
        return None


_OF_ENTRY = ("kvm_arm_set_dreg32", "kvm_arm_set_regset", "kvm_entry")
_HANDLING = ("kvm_handle_sys_reg", "kvm_sys_access", "trap_reg", "kvm_hvc_arm64")
_ALONE = {"kvm_userspace_exit": Kind.RETURN, "kvm_set_guest_debug": Kind.SET_DEBUG, "marker": Kind.MARKER}


class Grouping:
    """Groups the events of a trace, thread by thread; ``skipped`` counts those before the first entry of a thread."""

    def __init__(self, text: TraceText) -> None:
        self.names = text.names
        self.parts: list[Part] = []
        self.skipped = 0
        self._open: dict[str, Part] = {}
        self._started: set[str] = set()
        for event in text.events:
            self._take(event)
        self._finish()

    def _finish(self) -> None:
        self.parts.sort(key=lambda part: part.first.line)
        ends = {part.first.task: part for part in self.parts}
        self.last = frozenset(id(part) for part in ends.values())  # the trace may end inside these
        self.ends: dict[int, list[Key]] = {}  # by part: the vCPUs that nothing follows of
        self._name_vcpus()
        self._look_ahead()
        for key, part in {p.vcpu: p for p in self.parts if p.vcpu is not None}.items():
            self.ends.setdefault(id(part), []).append(key)

    def _name_vcpus(self) -> None:
        _name_vcpus(self.parts)

    def _look_ahead(self) -> None:
        _look_ahead(self.parts)

    def _new(self, kind: Kind, event: Event) -> None:
        part = Part(kind, [event])
        if kind in (Kind.ENTER, Kind.LEAVE, Kind.FIRST_RUN):
            self._open[event.task] = part
        elif kind is not Kind.MARKER:
            self._open.pop(event.task, None)
        self.parts.append(part)

    def _take(self, event: Event) -> None:
        now = self._open.get(event.task)
        name = event.name
        if name in _ALONE:
            self._open.pop(event.task, None)
            self._new(_ALONE[name], event)
        elif name == "kvm_arm_setup_debug":
            self._started.add(event.task)
            self._new(Kind.ENTER, event)
        elif name == "kvm_arm_clear_debug" and event.task in self._started:
            self._new(Kind.LEAVE, event)
        elif now is not None and self._continues(now, event):
            now.events.append(event)
        elif event.task in self._started and self._leaves_unannounced(now, event):
            self._new(Kind.LEAVE, event)
        elif (
            name == "kvm_arm_set_dreg32" and event.fields["register"] == "MDCR_EL2" and not _in_window(now, self.names)
        ):
            self._new(Kind.FIRST_RUN, event)
        elif event.task in self._started:
            self._new(Kind.STRAY, event)
        else:
            self.skipped += 1

    def _leaves_unannounced(self, now: Part | None, event: Event) -> bool:
        """Whether an exit begins here although kvm_arm_clear_debug is off."""
        if "kvm_arm_clear_debug" in self.names or now is None or now.kind is not Kind.ENTER:
            return False
        return event.name == "kvm_exit" or event.fields.get("register") in ("Restored MDSCR_EL1", "BKPTS")

    def _continues(self, part: Part, event: Event) -> bool:
        seen = {e.name for e in part.events}
        if part.kind is Kind.ENTER:
            restored = event.fields.get("register") == "Restored MDSCR_EL1"
            return event.name in _OF_ENTRY and not restored and "kvm_entry" not in seen and event.cpu == part.cpu
        if part.kind is not Kind.LEAVE:
            return False
        after_exit = "kvm_exit" in seen or "kvm_exit" not in self.names
        if event.name in _HANDLING:
            return after_exit
        if event.name == "kvm_exit":
            return "kvm_exit" not in seen
        return event.name in _OF_ENTRY[:2] and "kvm_exit" not in seen and event.fields["register"] != "MDCR_EL2"


def _in_window(part: Part | None, names: frozenset[str]) -> bool:
    """Whether the thread is between kvm_arm_setup_debug and its exit, where no vCPU can have its first run."""
    return part is not None and part.kind is Kind.ENTER and "kvm_arm_clear_debug" in names


def _name_vcpus(parts: list[Part]) -> None:
    """Says which vCPU each part is about: by the markers where there are some, else by the pointers."""
    marked = any(p.kind is Kind.MARKER and "vcpu" in p.first.fields for p in parts)
    if marked:
        scenario = 0
        running: dict[str, Key] = {}
        for part in parts:
            fields = part.first.fields
            if part.kind is Kind.MARKER:
                scenario += fields["verb"] == "scenario"
                if "vcpu" in fields:
                    part.vcpu = running[part.first.task] = (scenario, f"vCPU {fields['vcpu']}")
            else:
                task = part.first.task  # before its first marker, a thread has a vCPU that is not named
                part.vcpu = running.setdefault(task, (scenario, f"vCPU of {task}"))
        return
    current: dict[str, str] = {}  # the pointer of each thread's vCPU
    life: dict[str, int] = {}
    fresh: dict[str, list[Part]] = {}
    for part in parts:
        task = part.first.task
        if part.kind is Kind.FIRST_RUN:
            fresh.setdefault(task, []).append(part)
            continue
        if part.kind in (Kind.ENTER, Kind.SET_DEBUG):
            pointer = str(part.first.fields["vcpu"])
            name = f"vCPU of {task}" if "ptrval" in pointer else f"vCPU {pointer}"
            current[task] = name
            if part.kind is Kind.ENTER and fresh.get(task):
                life[name] = life.get(name, 0) + 1
                for first in fresh.pop(task):
                    first.vcpu = (life[name], name)
        if task in current:
            part.vcpu = (life.get(current[task], 0), current[task])
    # A KVM_SET_GUEST_DEBUG belongs to the life that runs next.
    pending: dict[str, list[Part]] = {}
    for part in parts:
        if part.vcpu is None:
            continue
        if part.kind is Kind.SET_DEBUG:
            pending.setdefault(part.vcpu[1], []).append(part)
        elif part.kind in (Kind.FIRST_RUN, Kind.ENTER):
            for debug in pending.pop(part.vcpu[1], []):
                debug.vcpu = part.vcpu


_BANK_OF = {"trap_bvr": "DBGBVR", "trap_bcr": "DBGBCR", "trap_wvr": "DBGWVR", "trap_wcr": "DBGWCR"}
_REGSET = {"BKPTS": ("DBGBCR", "DBGBVR"), "WAPTS": ("DBGWCR", "DBGWVR")}


def bank_access(part: Part) -> tuple[str, int, bool, int] | None:
    """A trapped access of a break- or watchpoint register: its kind, number, whether it writes, and the value."""
    trap = part.named("trap_reg")
    if trap is None or trap.fields["function"] not in _BANK_OF:
        return None
    access = part.named("kvm_sys_access")
    number = access.fields["crm"] if access is not None else trap.fields["number"]
    return _BANK_OF[trap.fields["function"]], number, trap.fields["direction"] == "write to", trap.fields["value"]


def regset(event: Event) -> dict[tuple[str, int], int]:
    """The contents that a kvm_arm_set_regset event shows."""
    control, value = _REGSET[event.fields["register"]]
    found = {(control, n): x for n, x in enumerate(event.fields["control"])}
    return found | {(value, n): x for n, x in enumerate(event.fields["value"])}


def bank_register(name: str) -> tuple[str, int] | None:
    """``DBGBVR3_EL1`` as its kind and number."""
    for kind in _BANK_OF.values():
        if name.startswith(kind) and name.endswith("_EL1") and name[len(kind) : -4].isdigit():
            return kind, int(name[len(kind) : -4])
    return None


def _is_mdscr(part: Part) -> bool:
    access = part.named("kvm_sys_access")
    return access is None or (access.fields["crm"], access.fields["op2"]) == (2, 2)


def _look_ahead(parts: list[Part]) -> None:
    """Notes for each part what the trace shows next, going backwards; only what fits one life of a vCPU."""
    enter: dict[Key, Part] = {}
    returned: dict[Key, Event] = {}
    reasons: dict[Key, Event] = {}
    reads: dict[Key, int | None] = {}
    own: dict[Key, dict[tuple[str, int], int]] = {}
    user: dict[Key, dict[tuple[str, int], int]] = {}
    exits: dict[Key, Event] = {}
    for part in parts:
        if part.vcpu is not None:
            part.last_exit = exits.get(part.vcpu)
            if (left := part.named("kvm_exit")) is not None:
                exits[part.vcpu] = left
    for part in reversed(parts):
        key = part.vcpu
        if key is None:
            continue
        seen, users = own.setdefault(key, {}), user.setdefault(key, {})
        part.mdscr_read = reads.get(key)
        part.next_enter, part.next_returned, part.next_exit = enter.get(key), returned.get(key), reasons.get(key)
        if part.kind is not Kind.LEAVE:
            part.bank, part.user_bank = dict(seen), dict(users)
        sets = [e for e in part.events if e.name == "kvm_arm_set_regset"]
        if part.kind is Kind.ENTER:
            enter[key] = part
            returned.pop(key, None)
            reasons.pop(key, None)
            users.update({place: x for e in sets for place, x in regset(e).items()})
            part.user_bank = dict(users)
        elif part.kind is Kind.LEAVE:
            trap = part.named("trap_reg")
            if trap is not None and trap.fields["function"] == "trap_debug_regs" and _is_mdscr(part):
                reads[key] = trap.fields["value"] if trap.fields["direction"] == "read from" else None
            access = bank_access(part)
            if access is not None:
                kind, number, writes, value = access
                if writes:
                    seen.pop((kind, number), None)
                else:
                    seen[kind, number] = value
            seen.update({place: x for e in sets for place, x in regset(e).items()})
            part.bank = dict(seen)
        elif part.kind is Kind.RETURN:
            reasons[key] = part.first
        elif part.kind is Kind.MARKER:
            if part.first.fields["verb"] == "exit":
                reasons[key] = part.first
            _marker_ahead(part, key, returned, seen)


def _marker_ahead(part: Part, key: Key, returned: dict[Key, Event], seen: dict[tuple[str, int], int]) -> None:
    fields = part.first.fields
    place = bank_register(fields.get("reg", ""))
    if fields["verb"] == "returned":
        returned[key] = part.first
    elif fields["verb"] == "get_one_reg" and place is not None:
        seen[place] = int(fields["value"], 0)
    elif fields["verb"] == "set_one_reg" and place is not None:
        seen.pop(place, None)
    elif fields["verb"] == "vcpu_init":
        seen.clear()
