"""Lifted functions against hand-written operations: equal on every modelled variable, or put in their place.

An operation of the specification and the C function that it is named after are two independent descriptions. Here the
lifted one becomes an ``Operation`` with the same guard, the same ghosts and the same bookkeeping, but with the C
function's own effect on every kernel variable; ``differences`` are the terms that must be equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from formal.epochs import Kernel
from formal.evidence.replay import Seen
from formal.kernel.binding import Binding, Effect
from formal.kernel.front import Lifted
from formal.state import VARIABLES, State
from formal.terms import BOOL, FALSE, Eq, Sort, Term, Value
from formal.transitions import Inputs, Operation
from formal.walk import evaluate, nodes, substitute


@dataclass(frozen=True)
class Made:
    """A store in one step of a run: its place, what it stores, and the state variables that it may change."""

    file: str
    line: int
    lvalue: str
    value: str
    variables: frozenset[str]


@dataclass(frozen=True)
class Counterpart:
    """A hand-written operation and the C function for it."""

    operation: Operation
    lifted: Lifted
    binding: Binding

    def lifted_operation(self) -> Operation:
        """The operation with the C function's effect."""
        stored, _ = self.binding.stores(self.lifted)
        place = f"{self.lifted.file}:{self.lifted.line}, {self.lifted.name}"
        return replace(self.operation, step=self._step, writes=self.operation.writes | stored, place=place)

    def _step(self, s: State, k: Kernel, i: Inputs) -> State:
        by_hand = self.operation.step(s, k, i)
        effect = self.binding.after(self.lifted, s)
        kept = {name: s.values[name] for name in by_hand.values if self.binding.decides(name)}
        opened = {name: i.free(f"C: {name}", sort) for name, sort in self._open(effect, s)}
        values = {name: substitute(term, opened) for name, term in effect.values.items()}
        return State({**by_hand.values, **kept, **values}, s.vcpu_id, s.cpu_id)

    def _open(self, effect: Effect, s: State) -> Iterator[tuple[str, Sort]]:
        """C variables without a state variable, on which the effect depends: they may be anything."""
        ours = {str(v.data) for term in s.values.values() for v in nodes((term,)) if v.op == "var"}
        for node in nodes(tuple(effect.values.values())):
            if node.op == "var" and str(node.data) not in ours:
                yield str(node.data), node.sort

    def differences(self, s: State, k: Kernel, i: Inputs) -> Iterator[tuple[str, Term]]:
        """What must hold for the two to be equal: a name, and a term."""
        by_hand, effect = self.operation.step(s, k, i), self.binding.after(self.lifted, s)
        for name in VARIABLES:
            if self.binding.decides(name):
                value = effect.values.get(name, s.values[name])
                yield name, Eq(value, by_hand.values[name])
        yield from effect.side_conditions.items()

    def obligations(self, s: State) -> Iterator[tuple[str, Term]]:
        """What the C function must not do, with its place: a term that must be false."""
        mapping = self.binding.before(self.lifted, s)
        for o in self.lifted.obligations:
            condition = substitute(o.condition, mapping)
            if condition is not FALSE:
                yield f"{o.file}:{o.line}: {o.text}", condition

    def unmodelled(self) -> tuple[str, ...]:
        """Lvalues without a state variable that the function stores to."""
        return self.binding.stores(self.lifted)[1]

    def made(self, s: State, seen: Seen) -> Iterator[Made]:
        """The stores that the C function makes in one step of a run, in program order."""
        mapping = self.binding.before(self.lifted, s)
        env: dict[str, Value] = {**seen.before, **seen.inputs}
        for lvalue, v in self.lifted.reads.items():
            env.setdefault(lvalue, False if v.sort == BOOL else 0)
        for event in self.lifted.events:
            if evaluate(substitute(event.guard, mapping), env):
                value = evaluate(substitute(event.value, mapping), env)
                shown = ("true" if value else "false") if isinstance(value, bool) else f"{value:#x}"
                variables, _ = self.binding.stores(replace(self.lifted, writes={event.lvalue: event.value}))
                yield Made(event.place.file, event.place.line, event.lvalue, shown, variables)

    def lines(self, s: State, seen: Seen) -> list[str]:
        """The stores that the C function makes in one step of a run, each with file and line."""
        return [f"{m.file.rpartition('/')[2]}:{m.line}: {m.lvalue} = {m.value}" for m in self.made(s, seen)]


def counterparts(
    operations: tuple[Operation, ...], lifted: Mapping[str, Lifted], binding: Binding
) -> dict[str, Counterpart]:
    """The operations that have a lifted function, by the operation's name."""
    return {
        op.name: Counterpart(op, lifted[op.c_function], binding)
        for op in operations
        if op.c_function is not None and op.c_function in lifted
    }
