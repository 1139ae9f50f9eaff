"""Lifted functions against hand-written operations: equal on every modelled variable, or put in their place.

An operation of the specification and the C function that it is named after are two independent descriptions. Here the
lifted one becomes an ``Operation`` with the same guard, the same ghosts and the same bookkeeping, but with the C
function's own effect on every kernel variable; ``differences`` are the terms that must be equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from formal.epochs import Kernel
from formal.evidence.runs.replay import Seen
from formal.kernel.lift.program import Lifted
from formal.kernel.model.binding import BANKS, NOT_INJECTED, Binding, Effect
from formal.logic import terms as t
from formal.logic.evaluation import evaluate, nodes, substitute
from formal.logic.terms import BOOL, FALSE, TRUE, And, Eq, Not, Or, Sort, Term, Value
from formal.operations import Inputs, Operation
from formal.state import VARIABLES, State
from formal.transitions import choose, reset_debug_ptr, restore_guest_debug_regs, save_guest_debug_regs, setup_mdcr_el2

ALL_BANKS = ("hw_bank", *BANKS)
# functions of debug.c until v6.13 that run inside others: compared on every state, without any lemma
COMPONENTS: dict[str, Callable[[State, Kernel], State]] = {
    "save_guest_debug_regs": save_guest_debug_regs,
    "restore_guest_debug_regs": restore_guest_debug_regs,
    "kvm_arm_setup_mdcr_el2": setup_mdcr_el2,
    "kvm_arm_reset_debug_ptr": lambda s, k: reset_debug_ptr(s),
}


def equalities(effect: Effect, binding: Binding, s: State, wanted: State) -> Iterator[tuple[str, Term]]:
    """What must hold for a C function's effect to lead to a state: by state variable, a term."""
    for name in VARIABLES:
        if binding.decides(name) and name in s.values:
            yield name, Eq(effect.values.get(name, s.values[name]), wanted.values[name])
    for bank in ALL_BANKS:
        before, after = s.values[bank], wanted.values[bank]
        if after is before and not any(name == bank for name, _ in effect.elements):
            continue
        assert isinstance(before.sort, tuple)
        indices = [t.const(n, before.sort[0]) for n in range(1 << before.sort[0])]
        got = [effect.elements.get((bank, n), t.select(before, index)) for n, index in enumerate(indices)]
        yield bank, t.And(*(Eq(value, t.element(after, index)) for value, index in zip(got, indices, strict=True)))


def unmoved(lifted: Lifted, binding: Binding, s: State) -> Iterator[tuple[str, Term]]:
    """What must hold for a C function to leave a state alone."""
    effect = binding.after(lifted, s)
    yield from equalities(effect, binding, s, s)
    yield from ((text, holds) for text, holds in effect.side_conditions.items() if text == NOT_INJECTED)


Given = Callable[[Lifted, State, Inputs], Mapping[str, Term]]  # the operation's inputs by the names of C variables


def nothing(lifted: Lifted, s: State, i: Inputs) -> Mapping[str, Term]:
    """No input has a name in the C."""
    return {}


@dataclass(frozen=True)
class Forwarding:
    """When an operation gives what it handles to a guest hypervisor, and what it is if it does so at another time."""

    when: Callable[[State, Kernel], Term]
    step: Callable[[State, Kernel, Inputs, Term], State]


@dataclass(frozen=True)
class Made:
    """A store in one step of a run: its place, what it stores, and the state variables that it may change."""

    file: str
    line: int
    lvalue: str
    value: str
    variables: frozenset[str]

    def __str__(self) -> str:
        return f"{self.file.rpartition('/')[2]}:{self.line}: {self.lvalue} = {self.value}"


class Makes(Protocol):
    """Something in the C that takes part in an operation."""

    def made(self, s: State, k: Kernel, seen: Seen) -> Iterator[Made]:
        """The stores that it makes in one step of a run, in program order."""


@dataclass(frozen=True)
class Counterpart:
    """A hand-written operation and the C function for it.

    Where the operation is more than the function, ``owns`` are the variables that the function decides, ``given`` the
    operation's inputs by the names of the C variables that hold them, ``demands`` what else must hold of the function.
    With ``forwarding`` the function may give what it handles to a guest hypervisor: the operation, when told that it
    does, and when the specification says that it does. The function has to leave everything else alone then.
    """

    operation: Operation
    lifted: Lifted
    binding: Binding
    owns: frozenset[str] | None = None
    given: Given = nothing
    demands: tuple[tuple[str, Term], ...] = ()
    forwarding: Forwarding | None = None

    def lifted_operation(self) -> Operation:
        """The operation with the C function's effect."""
        stored, _ = self.binding.stores(self.lifted)
        place = f"{self.lifted.file}:{self.lifted.line}, {self.lifted.name}"
        return replace(self.operation, step=self._step, writes=self.operation.writes | stored, place=place)

    def left_out(self) -> Operation:
        """The operation without the C function's effect, in a tree that does not call it."""

        def step(s: State, k: Kernel, i: Inputs) -> State:
            by_hand = self.operation.step(s, k, i)
            kept = {name: s.values[name] for name in by_hand.values if self._decides(name)}
            return State({**by_hand.values, **kept}, s.vcpu_id, s.cpu_id)

        return replace(self.operation, step=step)

    def _step(self, s: State, k: Kernel, i: Inputs) -> State:
        effect = self.effect(s, i)
        opened = {name: i.free(f"C: {name}", sort) for name, sort in self._open(effect, s, i)}
        gone, by_hand = substitute(self._gone(effect), opened), self.operation.step(s, k, i)
        if self.forwarding is not None:
            by_hand = self.forwarding.step(s, k, i, gone)
        kept = {name: s.values[name] for name in by_hand.values if self._decides(name)}
        values = {name: substitute(term, opened) for name, term in effect.values.items()}
        for (bank, number), term in effect.elements.items():
            before = values.get(bank, s.values[bank])
            assert isinstance(before.sort, tuple)
            values[bank] = t.store(before, t.const(number, before.sort[0]), substitute(term, opened))
        done = State({**by_hand.values, **kept, **values}, s.vcpu_id, s.cpu_id)
        return choose(gone, by_hand, done) if self.forwarding is not None else done

    def _gone(self, effect: Effect) -> Term:
        """Whether the C function has given what it handles to the guest hypervisor."""
        return Not(effect.side_conditions.get(NOT_INJECTED, TRUE))

    def effect(self, s: State, i: Inputs) -> Effect:
        """What the C function does to a state."""
        return self.binding.after(self.lifted, s, self.given(self.lifted, s, i))

    def _decides(self, name: str) -> bool:
        decided = self.binding.decides(name) or name in ALL_BANKS
        return decided and (self.owns is None or name in self.owns)

    def _open(self, effect: Effect, s: State, i: Inputs) -> Iterator[tuple[str, Sort]]:
        """C variables without a state variable, on which the effect depends: they may be anything."""
        known = (*s.values.values(), *i.terms.values())
        ours = {str(v.data) for v in nodes(known) if v.op == "var"}
        for node in nodes((*effect.values.values(), *effect.elements.values(), self._gone(effect))):
            if node.op == "var" and str(node.data) not in ours:
                yield str(node.data), node.sort

    def differences(self, s: State, k: Kernel, i: Inputs) -> Iterator[tuple[str, Term]]:
        """What must hold for the two to be equal: the name of a state variable, or else a sentence; and a term."""
        by_hand, effect = self.operation.step(s, k, i), self.effect(s, i)
        gone = self._gone(effect)
        others = {name: s.values[name] for name in by_hand.values if not self._decides(name)}
        wanted = State({**by_hand.values, **others}, s.vcpu_id, s.cpu_id)
        for name, equal in equalities(effect, self.binding, s, wanted):
            equal = equal if self.forwarding is None else Or(gone, equal)
            yield (name if self._decides(name) else f"{name} stays"), equal
        if self.forwarding is not None:
            yield "nested", Eq(gone, self.forwarding.when(s, k))
            alone = And(*(equal for _, equal in equalities(effect, self.binding, s, s)))
            yield f"{self.lifted.name}() leaves alone what the guest hypervisor gets", Or(Not(gone), alone)
        for text, condition in effect.side_conditions.items():
            if self.forwarding is None or text != NOT_INJECTED:
                yield text, condition
        if self.owns is not None:
            mapping = self.mapping(s, i)
            for text, condition in self.demands:
                yield text, substitute(condition, mapping)
            for place, condition in self.obligations(s, i):
                yield f"never at {place}", t.Not(condition)

    def mapping(self, s: State, i: Inputs) -> dict[str, Term]:
        """What the C function's variables hold when the operation begins, by name."""
        return self.binding.before(self.lifted, s) | dict(self.given(self.lifted, s, i))

    def obligations(self, s: State, i: Inputs) -> Iterator[tuple[str, Term]]:
        """What the C function must not do, with its place: a term that must be false."""
        mapping = self.mapping(s, i)
        for o in self.lifted.obligations:
            condition = substitute(o.condition, mapping)
            if condition is not FALSE:
                yield f"{o.file}:{o.line}: {o.text}", condition

    def unmodelled(self) -> tuple[str, ...]:
        """Lvalues without a state variable that the function stores to."""
        return self.binding.stores(self.lifted)[1]

    def made(self, s: State, k: Kernel, seen: Seen) -> Iterator[Made]:
        """The stores that the C function makes in one step of a run, in program order."""
        mapping = self.mapping(s, Inputs(f"in.{self.operation.name}", k.breakpoints))
        return stores_made(self.lifted, self.binding, mapping, seen)


def stores_made(lifted: Lifted, binding: Binding, mapping: Mapping[str, Term], seen: Seen) -> Iterator[Made]:
    """The stores of a C function in one step of a run, in program order; ``mapping`` is what its variables hold.

    What the run leaves open (C variables that the operation does not have) is 0 here.
    """
    env: dict[str, Value] = {**seen.before, **seen.inputs}
    for event in lifted.events:
        guard, stored = substitute(event.guard, mapping), substitute(event.value, mapping)
        for v in nodes((guard, stored)):
            if v.op == "var":
                env.setdefault(str(v.data), False if v.sort == BOOL else 0)
        if evaluate(guard, env):
            value = evaluate(stored, env)
            shown = ("true" if value else "false") if isinstance(value, bool) else f"{value:#x}"
            variables, _ = binding.stores(replace(lifted, writes={event.lvalue: event.value}))
            yield Made(event.place.file, event.place.line, event.lvalue, shown, variables)


def counterparts(
    operations: tuple[Operation, ...], lifted: Mapping[str, Lifted], binding: Binding
) -> dict[str, Counterpart]:
    """The operations that have a lifted function, by the operation's name."""
    return {
        op.name: Counterpart(op, lifted[op.c_function], binding)
        for op in operations
        if op.c_function is not None and op.c_function in lifted
    }
