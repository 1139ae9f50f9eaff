"""Stored traces of violated claims, changed into ones that can be made to happen
(``formal/conform/findings/expressible.py``).

A trace starts from the state that the emulated CPUs boot in. What cannot be made to happen at that point (``RULES``) is
replaced by something that can, and the replay of the replaced trace has to break the claim still; else the trace is not
expressible, and the reason is the first step that has no command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from formal.conform.findings.expressible import (
    CLEAR,
    CREATE,
    EMULATES,
    EXECUTES,
    HPMN,
    INIT,
    LEAVES,
    LOAD,
    PUT,
    RETURNS,
    Expression,
    NotExpressibleError,
    Plan,
)
from formal.evidence.runs.replay import Replay, ReplayError
from formal.evidence.runs.traces import Step, Trace
from formal.state import Exit
from formal.vocabulary import Claim

# ---- from the state that the emulated CPUs boot in


def booted(trace: Trace) -> Trace:
    """The trace from the state of the machine: CPUs that are alike, and a vCPU that user space has initialised."""
    cpus = {s.cpu for s in trace.steps} | {0}
    initial: dict[str, int] = {}
    for p in cpus:
        initial |= {f"p{p}.boot_mdcr_el2": HPMN, f"p{p}.hw_mdcr_el2": HPMN, f"p{p}.event_counters": HPMN}
    steps: list[Step] = []
    for step in trace.steps:
        steps.append(step)
        if step.operation == CREATE:
            steps.append(Step(INIT, step.vcpu, step.cpu, {}))
    return Trace(initial, tuple(steps))


def breaks(replay: Replay, trace: Trace, claim: Claim) -> bool:
    """Whether the trace is a run and breaks the claim."""
    try:
        return replay.violates(trace, replace(claim, given=())) is not None
    except ReplayError:
        return False


# ---- replaced by something that can be made to happen


def _steps(v: int, p: int, *parts: str | Step) -> list[Step]:
    return [Step(x, v, p, {}) if isinstance(x, str) else x for x in parts]


def _exit(v: int, p: int, kind: Exit) -> Step:
    return Step(LEAVES, v, p, {"exit": kind.value})


Rule = Callable[[Sequence[Step], int], list[Step] | None]


def _hypervisor_executes(steps: Sequence[Step], n: int) -> list[Step] | None:
    """An instruction that the hypervisor emulates alone, by one that the guest executes."""
    step = steps[n]
    if step.operation != "fixup_guest_exit re-enters":
        return None
    return _steps(step.vcpu, step.cpu, EXECUTES) if step.inputs.get("skips") else []


def _mmio_for_interrupt(steps: Sequence[Step], n: int) -> list[Step] | None:
    """An interrupt by an access that user space completes."""
    step = steps[n]
    if step.operation != LEAVES or step.inputs.get("exit"):
        return None
    return [_exit(step.vcpu, step.cpu, Exit.MMIO)]


def _mmio_and_immediate(steps: Sequence[Step], n: int) -> list[Step] | None:
    """A return to user space right after an access was emulated, by one of which user space is told at once."""
    if n < 3 or steps[n].operation != RETURNS or not steps[n - 1].operation.startswith(("trap_", EMULATES)):
        return None
    v, p = steps[n].vcpu, steps[n].cpu
    if steps[n - 2].operation == CLEAR:
        before, clear = [], [CLEAR]
    else:  # from v6.14 on there is none
        before, clear = [steps[n - 3]], []
    after = _steps(v, p, *clear, RETURNS, "kvm_handle_mmio_return", LOAD, RETURNS)
    return [*before, _exit(v, p, Exit.MMIO), *after]


def _put_by_user(steps: Sequence[Step], n: int) -> list[Step] | None:
    """Preemption, by a return to user space."""
    return _steps(steps[n].vcpu, steps[n].cpu, RETURNS) if steps[n].operation == PUT else None


# Where a rule begins relative to the step that it looks at, and the rule.
RULES: tuple[tuple[int, Rule], ...] = (
    (0, _hypervisor_executes),
    (0, _mmio_for_interrupt),
    (-3, _mmio_and_immediate),
    (0, _put_by_user),
)


def express(trace: Trace, claim: Claim, replay: Replay, reads: str | None = None) -> Plan:
    """What is to be run so that the kernel takes the trace's steps, and EL0 reads a register in the end.

    Raises:
        NotExpressibleError: if that cannot be.
    """
    start = booted(trace)
    if not breaks(replay, start, claim):
        raise NotExpressibleError(f"initial state: {_initial(trace)}; the emulator's CPUs boot with {HPMN}")
    todo, tried, first = [start], {_key(start)}, None
    while todo:
        now = todo.pop(0)
        try:
            return Expression(now, reads).sequence()
        except NotExpressibleError as e:
            first = first or e
            for other in _replaced(now, e.step):
                if _key(other) not in tried and len(tried) < 64:
                    tried.add(_key(other))
                    if breaks(replay, other, claim):
                        todo.append(other)
    assert first is not None
    raise first


def _key(trace: Trace) -> tuple[object, ...]:
    return tuple((s.operation, s.vcpu, s.cpu, tuple(sorted(map(str, s.inputs.items())))) for s in trace.steps)


def _replaced(trace: Trace, n: int) -> Iterator[Trace]:
    for back, rule in RULES:
        new = rule(trace.steps, n)
        if new is not None:
            yield replace(trace, steps=(*trace.steps[: n + back], *new, *trace.steps[n + 1 :]))


def _initial(trace: Trace) -> str:
    boots = {n[:2]: v for n, v in trace.initial.items() if n.endswith("boot_mdcr_el2")}
    assert all(isinstance(v, int) for v in boots.values())
    return "MDCR_EL2 at boot is " + " and ".join(f"{v:#x} on {p}" for p, v in sorted(boots.items()))
