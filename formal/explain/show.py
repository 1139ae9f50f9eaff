"""A trace step by step: the operation, its place in the kernel, and only what changed, fields decoded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum

from formal.arch.bits import Register
from formal.evidence.runs.replay import Replay, Seen
from formal.evidence.runs.traces import Trace
from formal.logic.terms import ArrayValue, Value
from formal.state import REGISTER_OF_BANK, VARIABLES
from formal.system import Pair
from formal.vocabulary import Claim


@dataclass(frozen=True)
class Change:
    """One variable before and after a step, as text."""

    variable: str
    stands_for: str
    before: str
    after: str


@dataclass(frozen=True)
class ShownStep:
    """One step for a reader."""

    number: int
    actor: str
    operation: str
    place: str
    where: str
    inputs: tuple[str, ...]
    changes: tuple[Change, ...]


def value_text(name: str, value: Value) -> str:
    """A value of a state variable, decoded by its declaration."""
    kind = VARIABLES[name].kind if name in VARIABLES else None
    if isinstance(value, ArrayValue):
        return _bank_text(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if kind is not None and issubclass(kind, Register):
        return f"{value:#x} ({kind.decode(value)})" if value else "0"
    if kind is not None and issubclass(kind, IntEnum) and value in {*map(int, kind)}:
        return kind(value).name
    return f"{value:#x}"


def _bank_text(value: ArrayValue) -> str:
    parts = [] if value.default == 0 else [f"all others {value.default:#x}"]
    parts += [f"{REGISTER_OF_BANK[i >> 4]}{i & 15}={v:#x}" for i, v in value.items]
    return ", ".join(parts) or "all 0"


def shown(replay: Replay, trace: Trace, *, until: int | None = None) -> Iterator[ShownStep]:
    """The steps of a trace, with what each changes; ghosts and bookkeeping are left out."""
    several = len(replay.pairs(trace)) > 1
    for seen in replay.run(trace):
        if seen.step is None or (until is not None and seen.number > until):
            continue
        operation = replay.applied(seen.step.operation, (seen.step.vcpu, seen.step.cpu)).operation
        where = f"vCPU {seen.step.vcpu} on CPU {seen.step.cpu}" if several else ""
        inputs = tuple(f"{n} = {_input_text(v)}" for n, v in seen.step.inputs.items() if _matters(v))
        yield ShownStep(
            seen.number,
            operation.actor.value,
            operation.name,
            operation.place,
            where,
            inputs,
            tuple(_changes(seen, (seen.step.vcpu, seen.step.cpu))),
        )


def _matters(value: Value) -> bool:
    return value != ArrayValue(0) if isinstance(value, ArrayValue) else bool(value)


def _input_text(value: Value) -> str:
    if isinstance(value, ArrayValue):
        return _bank_text(value)
    return "yes" if value is True else f"{value:#x}"


def _changes(seen: Seen, pair: Pair) -> Iterator[Change]:
    for name, variable in VARIABLES.items():
        full = f"{'v' if variable.owner == 'vcpu' else 'p'}{pair[0] if variable.owner == 'vcpu' else pair[1]}.{name}"
        if full not in seen.after:  # this kernel has no such variable
            continue
        before, after = seen.before[full], seen.after[full]
        if before != after and (not variable.ghost or name in ("phase", "exit", "steps", "wrong_step")):
            yield Change(name, variable.stands_for, value_text(name, before), value_text(name, after))


def final_values(replay: Replay, trace: Trace, claim: Claim, number: int) -> Mapping[str, str]:
    """The variables that a broken claim reads, in the state where it is broken."""
    from formal.logic.evaluation import support

    pairs = replay.pairs(trace)
    for seen in replay.run(trace, claim.given):
        if seen.number != number:
            continue
        for pair in pairs:
            if replay.breaks(claim, seen, pair):
                state = replay.system.state(pair)
                names = support(claim.holds(state, replay.system.kernel)) if not claim.actors else frozenset()
                return {full: value_text(full.partition(".")[2], seen.after[full]) for full in sorted(names)}
    return {}
