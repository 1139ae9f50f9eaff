"""debug.c of v6.14 and later: its C functions against ``formal/ownership.py``, and in its place where they differ.

None of these functions is an operation by itself: they run inside vcpu_load, vcpu_put and trap handlers. They are
compared on every state, without lemmas. Where kvm_vcpu_load_debug or kvm_vcpu_put_debug differs, every operation that
loads or puts a vCPU does what the C does (``model/substitution.py``), so that claims are checked of the C.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from formal.epochs import Kernel
from formal.kernel.lift.program import Lifted
from formal.kernel.model.binding import COUNTED, COUNTS, ID_REGISTER, LOADED, SYSREGS, Binding, understood
from formal.kernel.model.counterparts import Counterpart, equalities
from formal.kernel.model.substitution import Part, Step
from formal.kernel.source.tree import Sources
from formal.logic import terms as t
from formal.logic.evaluation import substitute
from formal.logic.terms import TRUE, Eq, Not, Term
from formal.operations import Inputs
from formal.ownership import external_mdscr, load_debug, put_debug, set_guest_ownership, setup_mdcr_el2_by_owner
from formal.state import State
from formal.transitions import OPERATIONS

INIT = "kvm_init_host_debug_data"
PMCR_EL0 = "hw.pmcr_el0"
_N = (15, 11)  # PMCR_EL0.N


def _setup_external_mdscr(s: State, k: Kernel) -> State:
    return s.but(external_mdscr_el1=external_mdscr(s.mdscr_el1, s))


COMPONENTS: dict[str, Step] = {
    "kvm_arm_setup_mdcr_el2": setup_mdcr_el2_by_owner,
    "setup_external_mdscr": _setup_external_mdscr,
    "kvm_vcpu_load_debug": load_debug,
    "kvm_vcpu_put_debug": put_debug,
    "kvm_debug_set_guest_ownership": set_guest_ownership,
}
WITH_CALLER = ("kvm_debug_handle_oslar",)  # a part of trap_oslar_el1 and of nothing else: lifted and compared with it
PARTS = ("kvm_vcpu_load_debug", "kvm_vcpu_put_debug")


def compared(function: str) -> bool:
    """Whether a function of debug.c is compared here or with an operation, and not by its frame."""
    return function in COMPONENTS or function == INIT


class Debug:
    """debug.c of one tree in one mode."""

    def __init__(self, tree: Sources, lifted: Mapping[str, Lifted], binding: Binding) -> None:
        self.lifted, self.binding = lifted, binding
        self._flag = understood(tree, SYSREGS).get(LOADED)

    def part(self, name: str) -> Part:
        """One of ``COMPONENTS`` with its C function."""
        return Part(name, self.lifted[name], self.binding, COMPONENTS[name], self._given)

    def _given(self, function: Lifted, s: State) -> Mapping[str, Term]:
        """What a component finds besides the state: vcpu_load loads the debug state first (lifecycle.py)."""
        word = None if self._flag is None else function.reads.get(self._flag.lvalue)
        if self._flag is None or word is None or function.name != "kvm_vcpu_load_debug":
            return {}
        return {self._flag.lvalue: word & ~t.const(1 << self._flag.bit, t.width(word))}

    def conditions(self, name: str, s: State, k: Kernel) -> Iterator[tuple[str, Term]]:
        """What must hold for a component and its C function to be equal: a state variable or a sentence, and a term."""
        part = self.part(name)
        effect, mapping = part.effect(s), part.mapping(s)
        yield from equalities(effect, self.binding, s, part.by_hand(s, k))
        yield from effect.side_conditions.items()
        for o in part.lifted.obligations:
            yield f"never at {o.file}:{o.line}: {o.text}", Not(substitute(o.condition, mapping))
        yield f"{name}() depends on the modelled state only", part.closed(s)
        if part.lifted.returns is not TRUE:
            yield f"{name}() returns", part.lifted.returns

    def parts(self) -> dict[str, Part]:
        """Those functions that run inside the operations that load or put a vCPU."""
        return {name: self.part(name) for name in PARTS if name in self.lifted}

    def init(self) -> dict[str, Counterpart]:
        """The operation that kvm_init_host_debug_data is, by its name."""
        if INIT not in self.lifted:
            return {}
        operation = next(op for op in OPERATIONS if op.c_function == "kvm_arm_init_debug")
        function = self.lifted[INIT]
        owns, demands = frozenset(("nr_event_counters",)), tuple(_counts(function))
        return {operation.name: Counterpart(operation, function, self.binding, owns, _registers, demands)}


def _registers(f: Lifted, s: State, i: Inputs) -> Mapping[str, Term]:
    """PMCR_EL0 as the host reads it: N is what EL2 implements, at EL1 what MDCR_EL2.HPMN gives (Arm ARM D24.5)."""
    variable = f.reads.get(PMCR_EL0)
    if variable is None:
        return {}
    number = s.event_counters if f.mode == "vhe" else s.hw_mdcr_el2.HPMN
    mask = t.const(((1 << (_N[0] - _N[1] + 1)) - 1) << _N[1], 64)
    shifted = t.bvshl(t.zero_extend(number, 64), t.const(_N[1], 64))
    return {PMCR_EL0: (variable & ~mask) | shifted}


def _counts(f: Lifted) -> Iterator[tuple[str, Term]]:
    """How many break- and watchpoint registers there are is kept as the CPU says it: asked of every value."""
    register = f.reads.get(ID_REGISTER)
    for lvalue, (high, low) in zip(COUNTED, COUNTS, strict=True):
        kept = f.writes.get(lvalue)
        right = t.FALSE
        if register is not None and kept is not None:
            right = Eq(kept, t.zero_extend(t.extract(register, high, low), t.width(kept)))
            right = substitute(right, {ID_REGISTER: t.var("any ID_AA64DFR0_EL1", 64)})
        yield f"{f.name}() keeps {lvalue.rpartition('.')[2]}", right
