"""The transition system of one kernel, and why two vCPUs and two CPUs stand for any number.

Every operation acts on one vCPU and one CPU and touches nobody else: its guard reads them, its result writes them
(``Operation.__call__`` checks the writes). Every lemma and claim is a predicate over one vCPU and one CPU, meant for
all pairs. So to see that an operation on the acting pair (v0, p0) keeps a predicate for *every* pair, look at an
arbitrary observed pair. Its vCPU is v0 or some other v1, its CPU is p0 or some other p1; (v1, p1) does not change; and
what holds before may be used for the four pairs of {v0, v1} x {p0, p1}, whatever else exists. Names of other vCPUs and
CPUs are the values 2 and 3 of an id, so nothing assumes that there are only two. ``tests/test_system.py`` compares with
explicit instances of up to three of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from formal.epochs import Kernel
from formal.logic.terms import FALSE, Term
from formal.operations import Applied, Inputs, Operation
from formal.state import Owner, State, init, symbolic
from formal.transitions import OPERATIONS

Pair = tuple[int, int]
TAG: dict[Owner, str] = {"vcpu": "v", "cpu": "p"}  # v0.mdcr_el2, p1.hw_mdcr_el2
ACTING: Pair = (0, 0)
OBSERVED: tuple[Pair, ...] = ((0, 0), (0, 1), (1, 0))  # (1, 1) is untouched by an operation on (0, 0)


@dataclass(frozen=True)
class System:
    """Init and operations of a kernel, over symbolic vCPUs and CPUs; those that it does not have are left out."""

    kernel: Kernel
    operations: tuple[Operation, ...] = OPERATIONS
    _parts: dict[str, dict[str, Term]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        there = tuple(op for op in self.operations if op.exists(self.kernel))
        object.__setattr__(self, "operations", there)

    def part(self, owner: Owner, number: int) -> dict[str, Term]:
        """The variables of one vCPU (``v0.mdcr_el2``, ...) or one CPU (``p0.hw_mdcr_el2``, ...)."""
        tag = f"{TAG[owner]}{number}"
        if tag not in self._parts:
            self._parts[tag] = symbolic(owner, self.kernel, tag)
        return self._parts[tag]

    def state(self, pair: Pair = ACTING) -> State:
        """A vCPU and a CPU as one state."""
        v, p = pair
        return State({**self.part("vcpu", v), **self.part("cpu", p)}, v, p)

    def init(self, pair: Pair = ACTING) -> Term:
        """The initial states of a pair; a pair has nothing to do with the others."""
        return init(self.state(pair), self.kernel)

    @cached_property
    def applied(self) -> tuple[Applied, ...]:
        """Every operation, applied to the acting pair."""
        return tuple(self.apply(op) for op in self.operations)

    def apply(self, op: Operation, pair: Pair = ACTING) -> Applied:
        """One operation on one pair, with inputs of its own. What a kernel never does changes nothing."""
        s = self.state(pair)
        inputs = Inputs(f"in.{op.name}", self.kernel.breakpoints)
        guard = op.enabled(s, self.kernel, inputs)
        after = s if guard is FALSE else op(s, self.kernel, inputs)
        return Applied(op, guard, s, after, inputs.terms)

    def after(self, step: Applied, pair: Pair) -> State:
        """What an observed pair looks like after an operation on the acting pair."""
        v, p = pair
        values = {**self.part("vcpu", v), **self.part("cpu", p)}
        for owner, same in (("vcpu", v == step.before.vcpu_id), ("cpu", p == step.before.cpu_id)):
            if same:
                values |= {name: step.after.values[name] for name in self.part(owner, 0)}  # type: ignore[arg-type]
        return State(values, v, p)

    def replacing(self, operations: Mapping[str, Operation]) -> System:
        """This system with some operations replaced, by name."""
        new = tuple(operations.get(op.name, op) for op in self.operations)
        return replace(self, operations=new, _parts={})
