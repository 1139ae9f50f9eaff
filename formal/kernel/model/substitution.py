"""Parts of operations: what a C function does that runs inside operations, in place of its description.

    part = Part("activate traps", function, binding, activate_traps)
    system = assembled(system, {"activate traps": part}, {"activate traps": ["hw_mdcr_el2"]})

Such functions are compared with their descriptions on every state, without lemmas. Where one differs, every operation
that is made of it does what the C does, so that claims are checked of the C.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from formal.epochs import Kernel
from formal.epochs import Step as AnyStep
from formal.evidence.runs.replay import Seen
from formal.kernel.lift.program import Lifted
from formal.kernel.model.binding import Binding, Effect
from formal.kernel.model.counterparts import ALL_BANKS, Made, stores_made
from formal.logic import terms as t
from formal.logic.evaluation import nodes, substitute, support
from formal.logic.terms import BOOL, And, Eq, Or, Term
from formal.operations import Actor, Inputs, Operation, handling
from formal.state import VARIABLES, Exit, State
from formal.system import System
from formal.transitions import OPERATIONS
from formal.worldswitch import keeps_traps

Step = Callable[[State, Kernel], State]
Given = Callable[[Lifted, State], Mapping[str, Term]]
_MADE_OF = (Actor.KVM, Actor.USER)
# all that a put and a load can change; the specification's own may leave some of it as it was
_RELOADED = frozenset(
    name for op in OPERATIONS if op.name in ("kvm_arch_vcpu_load", "kvm_arch_vcpu_put") for name in op.writes
)


def nothing(lifted: Lifted, s: State) -> Mapping[str, Term]:
    """No C variable has a value that is not in the state."""
    return {}


@dataclass(frozen=True)
class TreeKernel(Kernel):
    """A kernel with steps of its own."""

    steps: tuple[tuple[str, Step], ...] = field(default=())

    def doing(self, function: str, by_hand: AnyStep) -> AnyStep:
        return dict(self.steps).get(function, by_hand)  # type: ignore[return-value]


@dataclass(frozen=True)
class Part:
    """A C function that runs inside operations, by the name that ``Kernel.doing`` is asked for.

    ``given`` are the values of C variables that are not in the state; ``does_more`` is whether operations also rely on
    something that the function does to what has no state variable. What ``covers`` names are parts that come later in
    the same operation, of which it does what they do.
    """

    name: str
    lifted: Lifted
    binding: Binding
    by_hand: Step
    given: Given = nothing
    does_more: bool = False
    covers: tuple[str, ...] = ()

    def mapping(self, s: State) -> dict[str, Term]:
        """The values of C variables in a state, by name."""
        before = self.binding.before(self.lifted, s)
        return before | {name: substitute(value, before) for name, value in self.given(self.lifted, s).items()}

    def effect(self, s: State) -> Effect:
        """What the C function does to a state."""
        return self.binding.after(self.lifted, s, self.mapping(s))

    def closed(self, s: State, variables: Collection[str] | None = None) -> Term:
        """That what it stores, or these variables of it, depends on nothing but the modelled state."""
        effect = self.effect(s)
        stored = [v for n, v in effect.values.items() if variables is None or n in variables]
        stored += [v for (bank, _), v in effect.elements.items() if variables is None or bank in variables]
        zero = _alone(s, stored)
        return And(*(Eq(v, substitute(v, zero)) for v in stored))

    def replaceable(self, s: State, differs: Collection[str]) -> Iterator[tuple[str, Term]]:
        """What must hold for the C to be able to take the place of the description, in these variables."""
        strange = set(differs) - VARIABLES.keys()
        yield "it differs in state variables only", t.boolean(not strange)
        yield f"{self.lifted.name}() depends on the modelled state only", self.closed(s, differs)
        conditions = self.effect(s).side_conditions
        yield from ((says, holds) for says, holds in conditions.items() if not says.startswith("other bits"))

    def step(self, differs: Collection[str]) -> Step:
        """What the C function does, as a step of the specification: as its description but in these variables."""

        def does(s: State, k: Kernel) -> State:
            effect = self.effect(s)
            zero = _alone(s, (*effect.values.values(), *effect.elements.values()))
            values = {**self.by_hand(s, k).values, **{n: s.values[n] for n in differs}}
            values |= {n: substitute(value, zero) for n, value in effect.values.items() if n in differs}
            for bank in dict.fromkeys(name for name, _ in effect.elements if name in differs):
                elements = {n: substitute(value, zero) for (name, n), value in effect.elements.items() if name == bank}
                values[bank] = _stored(s.values[bank], elements)
            return State(values, s.vcpu_id, s.cpu_id)

        return does

    def left_out(self) -> Step:
        """What is left of the description in a tree that does not call the function: what is not in the C."""

        def does(s: State, k: Kernel) -> State:
            after = self.by_hand(s, k).values
            kept = {n: s.values[n] for n in after if self.binding.decides(n) or n in ALL_BANKS}
            return State({**after, **kept}, s.vcpu_id, s.cpu_id)

        return does


def _stored(bank: Term, elements: Mapping[int, Term]) -> Term:
    """A bank with these elements stored: as a whole bank where most of them are copied from one, else one by one."""
    assert isinstance(bank.sort, tuple)
    index = {n: t.const(n, bank.sort[0]) for n in elements}
    copied = {n: _whole(value, index[n]) for n, value in elements.items()}
    often = Counter(whole for whole in copied.values() if whole is not None).most_common(1)
    stored = often[0][0] if often and len(elements) == 1 << bank.sort[0] else bank
    for n, value in elements.items():
        if copied[n] is not stored:
            stored = t.store(stored, index[n], value)
    return stored


def _whole(value: Term, index: Term) -> Term | None:
    """The bank whose element at this index a value is, if it is written as one."""
    if value.op == "select" and value.args[1] is index:
        return value.args[0]
    if value.op != "ite":
        return None
    then, otherwise = (_whole(branch, index) for branch in value.args[1:])
    return None if then is None or otherwise is None else t.If(value.args[0], then, otherwise)


def _alone(s: State, values: Iterable[Term]) -> dict[str, Term]:
    """What values depend on besides the state: all of it 0 (``Part.closed`` says that it does not matter)."""
    known = {n for value in s.values.values() for n in support(value)}
    other = {v for value in values for v in nodes((value,)) if v.op == "var" and str(v.data) not in known}
    return {str(v.data): t.FALSE if v.sort == BOOL else t.const(0, t.width(v)) for v in other}


def keeping(operation: Operation, names: Collection[str]) -> Operation:
    """An operation that leaves these variables as they were."""

    def step(s: State, k: Kernel, i: Inputs) -> State:
        after = operation.step(s, k, i)
        return State({**after.values, **{name: s.values[name] for name in names}}, s.vcpu_id, s.cpu_id)

    return replace(operation, step=step)


def handling_too(operation: Operation, registers: Collection[int]) -> Operation:
    """A handler of trapped accesses that also gets those of some registers that a guest hypervisor traps.

    Args:
        registers: by their number in a bank, as ``formal/state.py`` numbers them.
    """

    def guard(s: State, k: Kernel, i: Inputs) -> Term:
        index = i.index("index")
        ours = Or(*(Eq(index, t.const(number, t.width(index))) for number in sorted(registers)))
        return Or(operation.guard(s, k, i), And(handling(Exit.DEBUG_ACCESS)(s, k, i), ours))

    return replace(operation, guard=guard)


def operations(k: Kernel) -> tuple[Operation, ...]:
    """All operations; with nested virtualization, and the host's MDCR_EL2 saved late as no release has it, some that
    put and load a vCPU change one variable more."""
    late = k.nests and not k.vhe_saves_host_mdcr_first
    return tuple(
        replace(op, writes=op.writes | _RELOADED) if late and op.actor in _MADE_OF else op for op in OPERATIONS
    )


def assembled(
    system: System, parts: Mapping[str, Part], differs: Mapping[str, Collection[str]], omitted: Collection[str] = ()
) -> System:
    """The system whose operations do what the C does, where parts differ in these state variables or are left out."""
    steps = [(name, parts[name].left_out()) for name in omitted]
    done = [name for name in differs if differs[name] and name not in omitted]
    steps += [(name, parts[name].step(differs[name])) for name in done]
    steps += [(covered, keeps_traps) for name in done for covered in parts[name].covers]
    if not steps:
        return system
    values: dict[str, Any] = {f.name: getattr(system.kernel, f.name) for f in fields(Kernel)}
    before = system.kernel.steps if isinstance(system.kernel, TreeKernel) else ()
    names = _RELOADED.union(*differs.values())
    more = names | {f"hyp_{name}" for name in names if f"hyp_{name}" in VARIABLES}  # in protected mode parts see copies
    operations = [replace(op, writes=op.writes | more) if op.actor in _MADE_OF else op for op in system.operations]
    return System(TreeKernel(**values, steps=(*before, *steps)), tuple(operations))


@dataclass(frozen=True)
class _Recorder(TreeKernel):
    """Notes which parts an operation is made of, and the state that each of them finds."""

    found: list[tuple[str, State]] = field(default_factory=list, compare=False)

    def doing(self, function: str, by_hand: AnyStep) -> AnyStep:
        step: Any = super().doing(function, by_hand)

        def does(s: State, *rest: Any) -> Any:
            self.found.append((function, s))
            return step(s, *rest)

        return does  # type: ignore[return-value]


def parts_of(operation: Operation, s: State, k: Kernel) -> list[tuple[str, State]]:
    """The parts that an operation is made of, in order, each with the state that it finds; none if it never happens."""
    values: dict[str, Any] = {f.name: getattr(k, f.name) for f in fields(Kernel)}
    recorder = _Recorder(**values, steps=k.steps if isinstance(k, TreeKernel) else ())
    inputs = Inputs(f"in.{operation.name}", k.breakpoints)
    if operation.enabled(s, k, inputs) is not t.FALSE:
        operation.step(s, recorder, inputs)
    return recorder.found


@dataclass(frozen=True)
class Assembly:
    """An operation that is made of parts, to show the C of a run."""

    operation: Operation
    parts: Mapping[str, Part]

    def made(self, s: State, k: Kernel, seen: Seen) -> Iterator[Made]:
        """The stores that the C functions make in one step of a run, in program order."""
        for name, found in parts_of(self.operation, s, k):
            if name in self.parts:
                part = self.parts[name]
                yield from stores_made(part.lifted, part.binding, part.mapping(found), seen)


def assemblies(system: System, parts: Mapping[str, Part]) -> dict[str, Assembly]:
    """The operations that are made of these parts, by name."""
    s, k = system.state(), system.kernel
    made_of = {op: parts.keys() & {name for name, _ in parts_of(op, s, k)} for op in system.operations}
    return {op.name: Assembly(op, {n: parts[n] for n in sorted(names)}) for op, names in made_of.items() if names}
