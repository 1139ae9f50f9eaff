"""A trace as a run of the model: every event explained, or the first that is not.

All runs that show the same events are followed at once; a part of the trace (``traceparts``) is explained if one of
them can go on with it. What the model would have shown instead is taken from the run that came furthest. Steps that no
event shows are filled in (``tracefill``): first none but those of the run loop, then, where the trace does not say what
user space did, steps of user space, which the result counts as assumed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from formal.conform.trace.fill import ENABLE, Attempt, Fill, Visible, forget, next_pstate, past
from formal.conform.trace.groups import Grouping, Key, Kind, Part
from formal.conform.trace.leave import KVM_EXIT_MMIO, Leave
from formal.conform.trace.markers import Markers
from formal.conform.trace.owner_steps import OwnerSteps
from formal.conform.trace.runs import NOBODY, Did, Machine, Run, Shown, first_difference, shows_set_debug
from formal.conform.trace.text import PROBES, REQUIRED, Event, TraceText
from formal.conform.trace.watch import Watch
from formal.epochs import Kernel
from formal.state import Exit, Phase

MAX_RUNS = 256
KVM_EXIT_DEBUG = 4  # include/uapi/linux/kvm.h


class TooManyRunsError(Exception):
    """The trace leaves too much open to be followed."""


@dataclass(frozen=True)
class Unexplained:
    """The first event that no run of the model shows."""

    event: Event | None  # none: the trace goes on without what had to come
    expected: tuple[str, ...]
    why: str
    value: tuple[str, int, int] | None = None  # register, observed, expected
    breaks: tuple[str, ...] = ()  # claims that the observed value would break in the guest


@dataclass
class Result:
    """What a trace shows of one kernel."""

    kernel: Kernel
    explained: int = 0
    values: int = 0  # events among them whose values were compared
    operations: Counter[str] = field(default_factory=Counter)
    assumed: Counter[str] = field(default_factory=Counter)
    vcpus: set[Key] = field(default_factory=set)
    cpus: dict[int, int] = field(default_factory=dict)  # HPMN of each CPU
    watch: Watch | None = None
    unexplained: Unexplained | None = None
    line: int = 0  # how far it came

    @property
    def conforms(self) -> bool:
        """Whether every event is explained, and at least one value was compared."""
        return self.unexplained is None and self.values > 0


_WITH_VALUES = ("kvm_arm_set_dreg32", "kvm_arm_set_regset", "trap_reg", *PROBES)


class Check:
    """Follows the runs of one kernel through a trace."""

    def __init__(
        self, kernel: Kernel, grouping: Grouping, machine: Machine | None = None, also: frozenset[str] = frozenset()
    ) -> None:
        self.machine = machine or Machine(kernel)
        self.grouping = grouping
        marked = any(p.kind is Kind.MARKER for p in grouping.parts)
        self.visible = Visible(grouping.names, marked, _first_hpmn(grouping.parts))
        self.fill = Fill(self.machine, self.visible)
        self.leave = Leave(self.fill)
        self.owner = OwnerSteps(self.fill) if kernel.tracks_debug_owner else None
        self.markers = Markers(self.fill, grouping.parts)
        self.watch = Watch(self.machine, also)
        self.result = Result(kernel, watch=self.watch)
        self.runs: list[Run] = [Run()]

    def run(self) -> Result:
        """Explains the whole trace, or as much of it as can be.

        Raises:
            TooManyRunsError: if more is open than can be followed.
        """
        for part in self.grouping.parts:
            survivors, failure = self._explain(part)
            if not survivors:
                self._settle(self.runs[0])
                self.result.unexplained = failure
                return self.result
            for vcpu in self.grouping.ends.get(id(part), ()):
                survivors = _distinct(self.fill.retire(run, vcpu) for run in survivors)
            self.runs = survivors
            self.result.line = part.events[-1].line
            self.result.explained += len(part.events)
            self.result.values += sum(e.name in _WITH_VALUES for e in part.events)
            if len(survivors) == 1:
                self.runs = [self._settle(survivors[0])]
        self._settle(self.runs[0])
        return self.result

    def _settle(self, run: Run) -> Run:
        """The only run left: its past is what happened; look at it, and forget it."""
        for chain in past(run.done):
            did = chain.did
            self._note(did)
            if did.line:
                self.watch.see(did)
        return forget(run)

    def _note(self, did: Did) -> None:
        if not did.line:
            return
        (self.result.assumed if did.assumed else self.result.operations)[did.operation] += 1
        if did.vcpu is not None and did.vcpu != NOBODY:
            self.result.vcpus.add(did.vcpu)
        hpmn = did.after[1]["p0.boot_mdcr_el2"]
        assert isinstance(hpmn, int)
        self.result.cpus[did.cpu] = hpmn

    # ---- one part

    def _explain(self, part: Part) -> tuple[list[Run], Unexplained | None]:
        if part.kind is Kind.STRAY:
            return [], self._stray(part)
        failures: list[tuple[int, Unexplained]] = []
        for attempts in self._ways(part):
            found: dict[object, Run] = {}
            for before, attempt in attempts:
                if id(part) in self.grouping.last:
                    attempt = replace(attempt, shown=self._cut(attempt.shown, part))
                n = first_difference(attempt.shown, part.events, self.visible.names)
                if n is None:
                    found.setdefault(attempt.run.signature, attempt.run)
                else:
                    failures.append((n, self._difference(part, attempt, n, before)))
                if len(found) > MAX_RUNS:
                    raise TooManyRunsError(f"line {part.first.line}: the trace leaves more than {MAX_RUNS} runs open")
            if found:
                return list(found.values()), None
        if failures:
            return [], max(failures, key=lambda f: f[0])[1]
        return [], self._impossible(part)

    def _cut(self, shown: list[Shown], part: Part) -> list[Shown]:
        """The trace may end anywhere inside the last part of a thread."""
        wanted = [s for s in shown if s.name in self.visible.names]
        return wanted[: len(part.events)]

    def _ways(self, part: Part) -> Iterator[Iterator[tuple[Run, Attempt]]]:
        """Continuations, the plain ones first, those with steps that no event shows after them."""
        yield self._continuations(part, False)
        if part.kind is Kind.ENTER or self.owner is not None:
            yield self._continuations(part, True)

    def _continuations(self, part: Part, unseen: bool) -> Iterator[tuple[Run, Attempt]]:
        for run in self.runs:
            for attempt in self._attempts(run, part, unseen):
                yield run, attempt

    def _attempts(self, run: Run, part: Part, unseen: bool) -> Iterator[Attempt]:
        vcpu = part.vcpu
        if part.kind is Kind.MARKER:
            yield from () if unseen else self.markers.attempts(run, part)
        elif self.owner is not None and vcpu is not None and part.kind not in (Kind.SET_DEBUG, Kind.RETURN):
            yield from self.owner.attempts(run, vcpu, part, unseen)
        elif vcpu is None:
            if part.kind is Kind.RETURN:  # of a vCPU that the trace says nothing about yet
                yield Attempt(run, [Shown("kvm_userspace_exit", "", lambda e: True)])
        elif part.kind is Kind.FIRST_RUN:
            if vcpu not in run.vcpus or run.phase(vcpu) is Phase.CREATED:
                yield from self.fill.first_run(run, vcpu, part)
        elif part.kind is Kind.ENTER:
            known = vcpu in run.vcpus and (run.phase(vcpu) is not Phase.CREATED or self.visible.marked)
            if not known:
                if not unseen:
                    yield from self.fill.earlier_life(run, vcpu, part)
            elif self._owes_return(run, vcpu):
                return
            elif unseen:
                yield from self.fill.enter_after_unseen(run, vcpu, part)
            else:
                yield from self.fill.enter(run, vcpu, part)
                for user in self.fill.in_user_space(run, vcpu, part.first.line):
                    written = self.fill.set_bank(user, vcpu, part, part.first.line)
                    if written is not None and written is not user:
                        yield from self.fill.enter(written, vcpu, part)
        elif part.kind is Kind.LEAVE:
            yield from self.leave.attempts(run, vcpu, part)
        elif part.kind is Kind.SET_DEBUG:
            yield from self._set_debug(run, vcpu, part)
        elif part.kind is Kind.RETURN:
            yield from self._return(run, vcpu, part)

    def _owes_return(self, run: Run, vcpu: Key) -> bool:
        """kvm_handle_guest_debug makes KVM_RUN return; if returns show, one has to come before the next entry."""
        return self.visible.returns and run.last.get(vcpu) in (Exit.STEP, Exit.DEBUG)

    def _set_debug(self, run: Run, vcpu: Key, part: Part) -> Iterator[Attempt]:
        control, line = int(part.first.fields["flags"]), part.first.line
        if self.visible.marked:
            yield from self.markers.set_debug(run, vcpu, part)
            return
        bank = self.fill.bank_of(dict(part.user_bank)) if control & ENABLE else self.fill.bank_of({})
        known = self.fill.create(run, vcpu, part.cpu, line)
        for user in () if known is None else self.fill.in_user_space(known, vcpu, line):
            after = self.fill.user(user, "KVM_SET_GUEST_DEBUG", vcpu, line, False, control=control, bank=bank)
            if after is not None:
                yield Attempt(after, [shows_set_debug(control)])

    def _return(self, run: Run, vcpu: Key, part: Part) -> Iterator[Attempt]:
        """kvm_userspace_exit: its reason has to be that of the last exit."""
        if vcpu not in run.vcpus:
            yield Attempt(run, [Shown("kvm_userspace_exit", "", lambda e: True)])
            return
        if run.phase(vcpu) in (Phase.IN_GUEST, Phase.SETUP, Phase.EXITED):
            return
        last = run.last.get(vcpu, Exit.NONE)
        if self.owner is not None and (run.value(vcpu, "in_run") or run.phase(vcpu) is Phase.LOADED):
            return  # vcpu_put comes before

        def same(e: Event) -> bool:
            if e.fields["reason"] in ("restart", "error"):
                return last not in (Exit.STEP, Exit.DEBUG, Exit.MMIO)
            debug, mmio = e.fields["number"] == KVM_EXIT_DEBUG, e.fields["number"] == KVM_EXIT_MMIO
            return bool(debug == (last in (Exit.STEP, Exit.DEBUG)) and mmio == (last is Exit.MMIO))

        shown = [Shown("kvm_userspace_exit", f"the reason of an exit of the kind {last.name}", same)]
        if self.owner is not None:
            yield Attempt(replace(run, last={**run.last, vcpu: Exit.NONE}), shown)
            return
        loaded = run if run.phase(vcpu) is Phase.LOADED else self.fill.load(run, vcpu, part.cpu, part.first.line)
        for after in self.fill.returned(loaded, vcpu, part.first.line, next_pstate(part)):
            yield Attempt(replace(after, last={**after.last, vcpu: Exit.NONE}), shown)

    # ---- what went wrong

    def _difference(self, part: Part, attempt: Attempt, n: int, before: Run) -> Unexplained:
        wanted = [s for s in attempt.shown if s.name in self.visible.names]
        event = part.events[n] if n < len(part.events) else None
        expected = wanted[n] if n < len(wanted) else None
        if expected is None:
            return Unexplained(event, (), f"the model shows nothing more for {part.kind.value}")
        text = f"{expected.name}: {expected.text}"
        if event is None:
            return Unexplained(part.events[-1], (text,), "after this event the model shows one that is not there")
        value = None
        if event.name == expected.name and expected.values:
            wrong = next((f for f, x in expected.values.items() if event.fields[f] != x), None)
            if wrong is not None:
                value = (wrong, event.fields[wrong], expected.values[wrong])
        elif event.name == expected.name and expected.register == event.fields.get("register") and expected.register:
            seen = event.fields.get("value")
            if isinstance(seen, int) and expected.value is not None:
                value = (expected.register, seen, expected.value)
        why = "the model shows another value" if value else "the model shows another event"
        breaks: tuple[str, ...] = ()
        if value is not None and part.vcpu is not None and part.kind is Kind.ENTER:
            breaks = self.watch.broken_by(value[0], value[1], part.vcpu, part.cpu, attempt.run)
        return Unexplained(event, (text,), why, value, breaks)

    def _stray(self, part: Part) -> Unexplained:
        wanted = "kvm_arm_setup_debug"
        run = self.runs[0]
        if part.vcpu is not None and part.vcpu in run.vcpus and run.phase(part.vcpu) is Phase.IN_GUEST:
            wanted = "kvm_arm_clear_debug" if "kvm_arm_clear_debug" in self.visible.names else "kvm_exit"
        return Unexplained(part.first, (wanted,), "the event is out of place: one before it is missing, or was moved")

    def _impossible(self, part: Part) -> Unexplained:
        run = self.runs[0]
        why = f"{part.kind.value} cannot come here"
        expected: tuple[str, ...] = ()
        if part.vcpu is not None and part.vcpu in run.vcpus:
            phase = run.phase(part.vcpu)
            if part.kind is Kind.ENTER and self._owes_return(run, part.vcpu):
                return Unexplained(part.first, ("the return of KVM_RUN",), "a debug exit goes to user space first")
            why += f": {part.vcpu[1]} is {_PHASES[phase]}"
            expected = _NEXT.get(phase, ())
        event = part.first
        if part.kind is Kind.LEAVE and expected == _NEXT[Phase.IN_GUEST]:
            event = part.named("kvm_exit") or part.first
            why = "the model has no such exit here, or not on this CPU"
            expected = ()
        return Unexplained(event, expected, why)


def _distinct(runs: Iterable[Run]) -> list[Run]:
    """Runs that go on in different ways."""
    found: dict[object, Run] = {}
    for run in runs:
        found.setdefault(run.signature, run)
    return list(found.values())


_PHASES = {
    Phase.NEW: "not created yet",
    Phase.CREATED: "created, and has not run",
    Phase.READY: "not loaded",
    Phase.LOADED: "loaded, and not in the guest",
    Phase.SETUP: "between kvm_arm_setup_debug and the entry",
    Phase.IN_GUEST: "in the guest",
    Phase.EXITED: "between the exit and kvm_arm_clear_debug",
}
_NEXT = {
    Phase.READY: ("kvm_arm_setup_debug",),
    Phase.LOADED: ("kvm_arm_setup_debug",),
    Phase.IN_GUEST: ("kvm_arm_clear_debug",),
}


def _first_hpmn(parts: list[Part]) -> dict[int, int]:
    """HPMN of the first MDCR_EL2 that each CPU shows: what its boot code chose, to be held against all later ones."""
    found: dict[int, int] = {}
    for part in parts:
        event = part.named("kvm_arm_set_dreg32", "MDCR_EL2")
        if event is not None:
            found.setdefault(event.cpu, event.fields["value"] & 0x1F)
        elif (load := part.named("load_debug")) is not None:
            found.setdefault(load.cpu, load.fields["mdcr_el2"] & 0x1F)
    return found


def missing(text: TraceText) -> list[str]:
    """The trace points without which nothing can be said, of those that the trace has no event of."""
    exits = "kvm_arm_clear_debug" in text.names or "kvm_exit" in text.names
    return [name for name in REQUIRED if name not in text.names] + ([] if exits else ["kvm_arm_clear_debug"])


def check(kernel: Kernel, grouping: Grouping) -> Result:
    """Explains a trace as a run of a kernel (see ``Check.run``)."""
    return Check(kernel, grouping).run()
