"""A trace as VCD (Value Change Dump, IEEE 1364-2005, 18), for waveform viewers such as GTKWave.

Step n is at time n, the initial state at 0. The scope ``step`` says which operation led here, on which vCPU and CPU.
One scope for each vCPU (``v0``) and CPU (``p0``) has the variables of ``formal/state.py``: registers as vectors,
and once more field by field in a scope of their own; enumerations as strings; banks register by register, those that
are 0 throughout left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import IntEnum
from importlib import import_module
from io import StringIO
from typing import Any

from formal.arch.bits import Register
from formal.evidence.runs.replay import Replay, Seen
from formal.evidence.runs.traces import Trace
from formal.logic.terms import ArrayValue, Sort, Value
from formal.state import REGISTER_OF_BANK, VARIABLES

PACKAGE, MODULE = "pyvcd", "vcd.writer"
Signal = tuple[str, str, str, int | None, Callable[[Seen], Any]]  # scope, name, type, width, value


def vcd(replay: Replay, trace: Trace, *, until: int | None = None, comment: str = "") -> str:
    """The run, up to a step if one is given, as the text of a VCD file.

    Raises:
        ModuleNotFoundError: if pyvcd is not installed.
        ReplayError, TraceError: if the trace is no run of the system.
    """
    states = [seen for seen in replay.run(trace) if until is None or seen.number <= until]
    out = StringIO()
    with import_module(MODULE).VCDWriter(out, timescale="1 ns", date="", comment=comment) as writer:
        handles = [
            (writer.register_var(scope, name, kind, size=size, init=value(states[0])), value)
            for scope, name, kind, size, value in signals(replay, trace, states)
        ]
        for seen in states[1:]:
            for handle, value in handles:
                writer.change(handle, seen.number, value(seen))
        writer.close(states[-1].number + 1)
    return out.getvalue()


def signals(replay: Replay, trace: Trace, states: list[Seen]) -> Iterator[Signal]:
    """Everything that is shown of a run."""
    yield "step", "number", "integer", 32, lambda seen: seen.number  # so that a step that changes nothing is seen
    yield "step", "operation", "string", None, lambda seen: seen.step.operation if seen.step else "Init"
    yield "step", "vcpu", "integer", 32, lambda seen: seen.step.vcpu if seen.step else "x"
    yield "step", "cpu", "integer", 32, lambda seen: seen.step.cpu if seen.step else "x"
    shown: dict[str, Sort] = {}
    for pair in replay.pairs(trace):
        for term in replay.system.state(pair).values.values():
            shown[str(term.data)] = term.sort
    for name, sort in sorted(shown.items()):
        yield from _variable(name, sort, states)


def _variable(full: str, sort: Sort, states: list[Seen]) -> Iterator[Signal]:
    scope, _, name = full.partition(".")
    kind = VARIABLES[name].kind

    def value(seen: Seen) -> Any:
        return seen.after[full]

    if isinstance(sort, tuple):
        yield from _bank(full, sort[0], states)
    elif kind is not None and issubclass(kind, IntEnum):
        yield scope, name, "string", None, lambda seen: kind(value(seen)).name
    else:
        yield scope, name, "wire", sort or 1, value
        if kind is not None and issubclass(kind, Register):
            for field_name, f in kind.fields.items():
                if f.hi < sort:  # the kernel may keep fewer bits than the register has

                    def part(seen: Seen, mask: int = f.mask, low: int = f.lo) -> Any:
                        return (value(seen) & mask) >> low

                    yield f"{scope}.{name}_fields", field_name, "wire", f.hi - f.lo + 1, part


def _bank(full: str, index_bits: int, states: list[Seen]) -> Iterator[Signal]:
    scope, _, name = full.partition(".")
    banks = [_array(seen.after[full]) for seen in states]
    used = {i for bank in banks for i, _ in bank.items}
    if any(bank.default for bank in banks):
        used = set(range(1 << index_bits))
    for i in sorted(used):
        number = i & ((1 << index_bits - 2) - 1)
        register = f"{REGISTER_OF_BANK[i >> index_bits - 2]}{number}"

        def value(seen: Seen, i: int = i) -> Any:
            return _array(seen.after[full])[i]

        yield f"{scope}.{name}", register, "wire", 64, value


def _array(value: Value) -> ArrayValue:
    assert isinstance(value, ArrayValue)
    return value
