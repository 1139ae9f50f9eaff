"""Makes a trace smaller while it still shows what it should; every candidate is replayed, no solver takes part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from formal.evidence.runs.traces import Step, Trace
from formal.logic.terms import ArrayValue, Value

Shows = Callable[[Trace], bool]


def shrink(trace: Trace, shows: Shows) -> Trace:
    """The trace without what it can do without; ``shows`` must hold for it and holds for the result."""
    trace = renumber(trace)
    while True:
        before = trace
        trace = _shortened(trace, shows)
        for name in before.initial:
            trace = _lessened(trace, partial(_initial, name), shows)
        for at, step in enumerate(trace.steps):
            for name in step.inputs:
                trace = _lessened(trace, partial(_inputs, at, name), shows)
        if trace == before:
            return trace


def renumber(trace: Trace) -> Trace:
    """vCPUs and CPUs numbered in the order in which they appear; others are forgotten."""
    vcpus = {n: i for i, n in enumerate(dict.fromkeys(s.vcpu for s in trace.steps))} or {0: 0}
    cpus = {n: i for i, n in enumerate(dict.fromkeys(s.cpu for s in trace.steps))} or {0: 0}
    names = {f"v{n}": f"v{i}" for n, i in vcpus.items()} | {f"p{n}": f"p{i}" for n, i in cpus.items()}
    initial = {
        f"{names[tag]}.{name}": value
        for tag, _, name, value in ((*full.partition("."), v) for full, v in trace.initial.items())
        if tag in names
    }
    steps = tuple(replace(s, vcpu=vcpus[s.vcpu], cpu=cpus[s.cpu]) for s in trace.steps)
    return Trace(initial, steps)


def _shortened(trace: Trace, shows: Shows) -> Trace:
    """The trace without steps, several at a time, the last ones first."""
    for size in (4, 3, 2, 1):
        for at in range(len(trace.steps) - size, -1, -1):
            candidate = Trace(trace.initial, trace.steps[:at] + trace.steps[at + size :])
            if len(candidate.steps) < len(trace.steps) and shows(candidate):
                trace = candidate
    return trace


def _lessened(trace: Trace, candidates: Callable[[Trace], Iterator[Trace]], shows: Shows) -> Trace:
    """The trace with the first smaller value that shows the same, and so on."""
    while (smaller := next(filter(shows, candidates(trace)), None)) is not None:
        trace = smaller
    return trace


def _initial(name: str, trace: Trace) -> Iterator[Trace]:
    for smaller in _smaller(trace.initial[name]):
        yield Trace({**trace.initial, name: smaller}, trace.steps)


def _inputs(at: int, name: str, trace: Trace) -> Iterator[Trace]:
    step = trace.steps[at]
    for smaller in _smaller(step.inputs[name]):
        less = Step(step.operation, step.vcpu, step.cpu, {**step.inputs, name: smaller})
        yield Trace(trace.initial, (*trace.steps[:at], less, *trace.steps[at + 1 :]))


def _smaller(value: Value) -> Iterator[Value]:
    if isinstance(value, ArrayValue):
        if value != ArrayValue(0):
            yield ArrayValue(0)
            yield from (ArrayValue(0, (item,)) for item in value.items if value != ArrayValue(0, (item,)))
            for index, old in value.items:
                for less in _smaller(old):
                    yield value.set(index, less)  # type: ignore[arg-type]  # part of a number is a number
    elif isinstance(value, bool):
        if value:
            yield False
    elif value:
        yield 0
        top = value.bit_length()
        if value & (value - 1):  # more than one bit: try each alone, then without each
            yield from (1 << b for b in range(top) if value >> b & 1)
            yield from (value & ~(1 << b) for b in range(top) if value >> b & 1)
