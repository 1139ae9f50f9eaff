"""That the transition system is total, and which of its operations are never taken, as obligations.

An operation is a function: where its guard holds there is exactly one next state for every choice of its inputs, so a
step can be missing only where no guard holds. The obligation ``total`` says that this never stops a vCPU: where the
lemmas hold, a loaded vCPU, and one that is not loaded together with an idle CPU that is ready for KVM, has an operation
that moves it on (its phase, or the exit that is still to be handled) and is not just its preemption. Inputs are set to
0 in the guards: that there is an operation for these inputs is more than is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from formal.evidence.obligations import Induction, Obligation
from formal.logic import terms as t
from formal.logic.evaluation import substitute
from formal.logic.terms import And, Not, Or, Sort, Term
from formal.operations import Applied
from formal.state import Phase, State

MOVES_ON = ("phase", "exit")
PREEMPTION = "kvm_arch_vcpu_put"  # is always possible where a vCPU is loaded, and leads nowhere by itself


def total(induction: Induction) -> Obligation:
    """Where the lemmas hold, a vCPU that has a CPU can move on."""
    s = induction.system.state()
    moving = [
        a
        for a in induction.system.applied
        if a.operation.name != PREEMPTION and any(a.after.values[n] is not s.values[n] for n in MOVES_ON)
    ]
    return Obligation("total", (*induction.facts(), has_cpu(s)), Or(*(with_zeros(a) for a in moving)))


def never(induction: Induction, names: Iterable[str]) -> Iterator[Obligation]:
    """Where the lemmas hold, these operations are not enabled."""
    wanted = set(names)
    for step in induction.system.applied:
        if step.operation.name in wanted:
            yield Obligation(f"never/{step.operation.name}", induction.facts(), Not(step.guard))


def has_cpu(s: State) -> Term:
    """The vCPU is loaded on this CPU, or it is not loaded and the CPU could take it."""
    return Or(s.here, And(s.at(Phase.NEW, Phase.CREATED, Phase.READY), s.idle, s.kvm_ready))


def with_zeros(step: Applied) -> Term:
    """The guard of an operation for inputs that are all 0."""
    return substitute(step.guard, {str(v.data): _zero(v.sort) for v in step.inputs.values()})


def _zero(sort: Sort) -> Term:
    if isinstance(sort, tuple):
        return t.const_array(t.const(0, sort[1]), sort[0])
    return t.const(0, sort) if sort else t.FALSE
