"""What is not understood of a tree: systems with all the runs that the tree may have, and with only those it has.

A place that is not understood belongs to operations and parts of operations (``formal/kernel/belongs.py``). In
the wider system these may do anything to what they change by their description, and to whatever the place, or anything
that it leads to, may write (``formal/tree/writes.py``): what is proved there holds whatever the place does. In the
narrower system they are missing: a run of it is one in which nothing takes part that is not understood.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from formal.arch.bits import Register
from formal.epochs import Kernel
from formal.kernel.belongs import expanded
from formal.kernel.compare import hypervisor
from formal.kernel.compare.handlers import HANDLERS
from formal.kernel.errors import Gap
from formal.kernel.model.passage import by_name
from formal.kernel.model.substitution import Step, TreeKernel, parts_of
from formal.kernel.source.tree import KVM
from formal.logic import terms as t
from formal.logic.evaluation import support
from formal.logic.terms import Sort, Term
from formal.operations import Actor, Inputs, Operation
from formal.ownership import flush_hyp_vcpu, load_debug, put_debug
from formal.state import VARIABLES, State
from formal.system import System
from formal.transitions import OPERATIONS
from formal.tree.writes import EVERYTHING, Effects
from formal.vocabulary import Claim
from formal.worldswitch import PARTS

STEPS: Mapping[str, Step] = {
    **PARTS, "kvm_vcpu_load_debug": load_debug, "kvm_vcpu_put_debug": put_debug, "flush_hyp_vcpu": flush_hyp_vcpu,
}  # fmt: skip
_LEVEL = frozenset(("pstate.EL", "pstate.nRW"))  # which the guest changes by itself: no run is lost with them
_OURS = (Actor.KVM, Actor.USER)
_NAMED = frozenset(name for op in OPERATIONS for name in (op.name, op.c_function))


@dataclass(frozen=True)
class Unknown:
    """A place that is not understood, and what it may change: by operation, by part, or as a step of its own.

    ``joins`` are operations in which it takes part, whatever else they are.
    """

    gap: Gap
    operations: Mapping[str, frozenset[str]]
    parts: Mapping[str, frozenset[str]]
    own: frozenset[str] | None = None
    joins: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return str(self.gap).removeprefix(f"{KVM}/")

    def __hash__(self) -> int:
        return hash(self.gap)

    def same_effects(self, other: Unknown) -> bool:
        """Whether two places may do the same."""
        mine, theirs = ((u.operations, u.parts, u.own, u.gap.untimely) for u in (self, other))
        return mine == theirs


def unknowns(system: System, gaps: Iterable[Gap], effects: Effects) -> tuple[Unknown, ...]:
    """What belongs to each place that is not understood; several gaps at one place are one unknown."""
    together: dict[tuple[str, int, str], Unknown] = {}
    for gap in gaps:
        found = _unknown(system, gap, effects)
        known = together.get(gap.place)
        together[gap.place] = found if known is None else _merged(known, found)
    return tuple(together.values())


def _merged(a: Unknown, b: Unknown) -> Unknown:
    own = None if a.own is None and b.own is None else (a.own or frozenset()) | (b.own or frozenset())
    gap = replace(a.gap, untimely=a.gap.untimely or b.gap.untimely)
    operations, parts = _united((a.operations, b.operations)), _united((a.parts, b.parts))
    return Unknown(gap, operations, parts, own, a.joins | b.joins)


def _united(maps: Iterable[Mapping[str, frozenset[str]]]) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for each in maps:
        found |= {name: names | found.get(name, frozenset()) for name, names in each.items()}
    return found


def _unknown(system: System, gap: Gap, effects: Effects) -> Unknown:
    k = system.kernel
    if gap.writes is not None:
        joins = expanded({one for name in gap.of for one in effects.roots(name)}, k)
        written = effects.at(gap)
        return Unknown(gap, {}, {}, written, frozenset() if written <= _LEVEL else joins)
    if not gap.of:
        ours = [op for op in system.operations if op.actor in _OURS]
        return Unknown(gap, {op.name: op.writes | EVERYTHING for op in ours}, {}, EVERYTHING)
    operations: dict[str, frozenset[str]] = {}
    parts: dict[str, frozenset[str]] = {}
    own: frozenset[str] | None = None
    named = expanded(gap.of, k)
    written = frozenset[str]() if gap.broken else effects.written([*gap.of, *_handlers(gap, k)])
    for name in named:
        if ops := [op for op in system.operations if name in (op.name, op.c_function)]:
            operations |= {op.name: written | _changed(system, op) for op in ops}
        elif name in STEPS and gap.broken:
            made = [op for op in system.operations if _made_of(op, system) & {name}]
            operations |= {op.name: _changed(system, op) for op in made}
        elif name in STEPS:
            s = system.state()
            after = STEPS[name](s, k).values
            changed = {variable for variable, value in after.items() if value is not s.values[variable]}
            parts[name] = written | changed | effects.written(_parts((name,), k, effects))
        elif name not in _NAMED:
            own = written
    if gap.broken:  # the one may do what the other should
        operations = dict.fromkeys(operations, frozenset[str]().union(*operations.values()))
    return Unknown(gap, operations, parts, own)


def _handlers(gap: Gap, k: Kernel) -> list[str]:
    return [f for h in HANDLERS if h.operation in gap.of and h.when(k) for f in h.functions]


def _parts(names: Collection[str], k: Kernel, effects: Effects) -> list[str]:
    components = hypervisor.SIDES if by_name(effects.bodies) else hypervisor.COMPONENTS
    return [f for c in components if not {c.part, *c.covers}.isdisjoint(names) for f in c.names(k)]


def mattering(system: System, claims: Iterable[Claim]) -> frozenset[str]:
    """The state variables on which anything depends: another after some operation, a guard, a claim, a precondition.

    What a kernel does not have, such as the OS lock of its guests before v5.18, is none of these.
    """
    s, k = system.state(), system.kernel
    claims = [claim for claim in claims if claim.applies(k) is None]
    found = set[str]()
    for step in system.applied:
        own = {name: str(value.data) for name, value in step.before.values.items()}
        after = step.after.values
        found |= set(map(str, support(step.guard))).union(
            *(set(map(str, support(after[n]))) - {own[n]} for n in after if after[n] is not step.before.values[n])
        )
        terms = [c.holds_between(step.before, step.after, k) for c in claims if c.is_about(step.operation)]
        terms += [p.allows(step, k) for claim in claims for p in claim.given]
        found |= {str(name) for term in terms for name in support(term)}
    terms = [c.holds(s, k) for c in claims if not c.actors]
    terms += [p.initially(s, k) for claim in claims for p in claim.given]
    found |= {str(name) for term in terms for name in support(term)}
    return frozenset(name for name, value in s.values.items() if found & set(map(str, support(value))))


def standing(gaps: Iterable[Gap], effects: Effects, k: Kernel) -> list[Gap]:
    """Gaps that may write something, and that no other has with what it belongs to (``Gap.unless``)."""
    gaps = list(gaps)
    others = [gap for gap in gaps if gap.writes is None and not gap.broken]
    inside = effects.led_to(f for g in others for f in (*g.of, *_handlers(g, k), *_parts(g.of, k, effects)))
    every = any(not gap.of for gap in others)
    left = [g for g in gaps if g.unless is None or g.lifted or not (every or g.unless[0] in inside)]
    return [gap for gap in left if gap.writes is None or effects.at(gap)]


def _changed(system: System, op: Operation) -> frozenset[str]:
    """What an operation changes by its description, whether or not it goes to a guest hypervisor."""
    s, k = system.state(), system.kernel
    inputs = Inputs(f"in.{op.name}", k.breakpoints)
    found = set(op.writes)
    for handler in HANDLERS:
        if handler.operation == op.name and handler.when(k) and handler.forwarding is not None:
            after = handler.forwarding.step(s, k, inputs, inputs.flag("goes to the guest hypervisor"))
            found |= {name for name, value in after.values.items() if value is not s.values[name]}
    return frozenset(found)


# ---- the two systems


def wider(system: System, found: Collection[Unknown]) -> System:
    """A system with all runs that the tree may have, whatever its unknowns do."""
    if not found:
        return system
    parts = _united(u.parts for u in found)
    operations = _united(u.operations for u in found)
    untimely = {name for u in found if u.gap.untimely for name in u.operations}
    own = [_step(number, u) for number, u in enumerate(found) if u.own is not None]
    if parts:
        steps = tuple((name, _anything(name, names)) for name, names in parts.items())
        system = System(with_steps(system.kernel, steps), tuple(_writing_all(op) for op in system.operations))
    new = {op.name: _doing_anything(op, operations[op.name], op.name in untimely)
           for op in system.operations if op.name in operations}  # fmt: skip
    return System(system.kernel, (*system.replacing(new).operations, *own))


def narrower(system: System, found: Collection[Unknown]) -> System:
    """A system with those runs of the tree in which no unknown takes part."""
    if not found:
        return system
    left = [op for op in system.operations if not any(takes_part(u, op, system) for u in found)]
    return System(system.kernel, tuple(left))


def takes_part(unknown: Unknown, op: Operation, system: System) -> bool:
    """Whether a place that is not understood is in an operation."""
    if op.name in unknown.operations or op.name in unknown.joins:
        return True
    return bool(unknown.parts) and not _made_of(op, system).isdisjoint(unknown.parts)


def _made_of(op: Operation, system: System) -> set[str]:
    return {name for name, _ in parts_of(op, system.state(), system.kernel)}


def with_steps(kernel: Kernel, steps: tuple[tuple[str, Step], ...]) -> TreeKernel:
    """A kernel that does some steps in its own way."""
    values: dict[str, Any] = {f.name: getattr(kernel, f.name) for f in fields(Kernel)}
    before = kernel.steps if isinstance(kernel, TreeKernel) else ()
    return TreeKernel(**values, steps=(*before, *steps))


def _writing_all(op: Operation) -> Operation:
    return replace(op, writes=frozenset(VARIABLES)) if op.actor in _OURS else op


def _doing_anything(op: Operation, names: frozenset[str], untimely: bool) -> Operation:
    def step(s: State, k: Kernel, i: Inputs) -> State:
        never = op.enabled(s, k, i) is t.FALSE  # of another release, and maybe about state that this one has not
        after = s.values if never else op.step(s, k, i).values
        free = _freed(after, names, lambda n, sort: i.free(f"not understood: {n}", sort))
        return State({**after, **free}, s.vcpu_id, s.cpu_id)

    return replace(op, step=step, writes=op.writes | _whole(names), guard=_always if untimely else op.guard)


def _always(s: State, k: Kernel, i: Inputs) -> Term:
    return t.TRUE


def _step(number: int, unknown: Unknown) -> Operation:
    """An operation of its own that may do anything to these variables, at any time."""
    names = unknown.own or frozenset()

    def step(s: State, k: Kernel, i: Inputs) -> State:
        return State({**s.values, **_freed(s.values, names, i.free)}, s.vcpu_id, s.cpu_id)

    return Operation(f"not understood: {number}", Actor.KVM, str(unknown), "", _whole(names), _always, step)


def _freed(values: Mapping[str, Term], names: Iterable[str], make: Callable[[str, Sort], Term]) -> dict[str, Term]:
    """Variables, or fields of them (``pstate.EL``), that have any value; those that the kernel has."""
    free: dict[str, Term] = {}
    for name in sorted(names):
        variable, _, part = name.partition(".")
        if variable not in values:
            continue
        before = free.get(variable, values[variable])
        free[variable] = anything = make(name, before.sort)
        if part:
            kind = VARIABLES[variable].kind
            assert kind is not None and issubclass(kind, Register)
            mask = t.const(kind.mask(part), t.width(before))
            free[variable] = (before & ~mask) | (anything & mask)
    return free


def _whole(names: Iterable[str]) -> frozenset[str]:
    return frozenset(name.partition(".")[0] for name in names)


def _anything(what: str, names: frozenset[str]) -> Step:
    """A part of operations that may do anything to these variables, and something else each time."""
    times: dict[tuple[Term, ...], int] = {}

    def does(s: State, k: Kernel) -> State:
        number = times.setdefault(tuple(s.values.values()), len(times))
        after = STEPS[what](s, k).values
        free = _freed(after, names, lambda n, sort: t.var(f"not understood: {what} {number}: {n}", sort))
        return State({**after, **free}, s.vcpu_id, s.cpu_id)

    return does
