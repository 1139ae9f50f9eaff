"""Makes a trace smaller while it still shows what it should; every candidate is replayed, no solver takes part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from formal.evidence.runs.traces import Step, Trace
from formal.logic.terms import ArrayValue, Value

Shows = Callable[[Trace], bool]


def shrink(trace: Trace, shows: Shows) -> Trace:
    """The trace without what it can do without; ``shows`` must hold for it and holds for the result."""
    trace = renumber(trace)
    smaller = True
    while smaller:
        smaller = False
        for candidate in _candidates(trace):
            if shows(candidate):
                trace, smaller = candidate, True
                break
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


def _candidates(trace: Trace) -> Iterator[Trace]:
    for size in (4, 3, 2, 1):
        for at in range(len(trace.steps) - size, -1, -1):
            yield Trace(trace.initial, trace.steps[:at] + trace.steps[at + size :])
    for name, value in trace.initial.items():
        for smaller in _smaller(value):
            yield Trace({**trace.initial, name: smaller}, trace.steps)
    for number, step in enumerate(trace.steps):
        for name, value in step.inputs.items():
            for smaller in _smaller(value):
                inputs = {**step.inputs, name: smaller}
                steps = trace.steps[:number] + (Step(step.operation, step.vcpu, step.cpu, inputs),)
                yield Trace(trace.initial, steps + trace.steps[number + 1 :])


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
