"""debug.c of v6.14 and later: its C functions against ``formal/ownership.py``, and in its place where they differ.

None of these functions is an operation by itself: they run inside vcpu_load, vcpu_put and trap handlers. They are
compared on every state, without lemmas. Where kvm_vcpu_load_debug or kvm_vcpu_put_debug differs, every operation that
loads or puts a vCPU does what the C does (``TreeKernel``), so that claims are checked of the C.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from formal import terms as t
from formal.epochs import Kernel
from formal.epochs import Step as AnyStep
from formal.kernel.binding import COUNTED, ID_REGISTER, LOADED, SYSREGS, Binding, flags_of
from formal.kernel.compare import Counterpart, equalities
from formal.kernel.front import Lifted
from formal.kernel.tree import Sources
from formal.operations import Inputs, Operation
from formal.ownership import external_mdscr, load_debug, put_debug, set_guest_ownership, setup_mdcr_el2_by_owner
from formal.state import State
from formal.system import System
from formal.terms import BOOL, TRUE, And, Eq, Not, Term
from formal.transitions import OPERATIONS
from formal.walk import nodes, substitute, support

INIT = "kvm_init_host_debug_data"
PMCR_EL0 = "hw.pmcr_el0"
_N = (15, 11)  # PMCR_EL0.N
_FIELDS = ((15, 12), (23, 20))  # ID_AA64DFR0_EL1.BRPs and WRPs, in the order of COUNTED
Step = Callable[[State, Kernel], State]


def _setup_external_mdscr(s: State, k: Kernel) -> State:
    return s.but(external_mdscr_el1=external_mdscr(s.mdscr_el1, s))


COMPONENTS: dict[str, Step] = {
    "kvm_arm_setup_mdcr_el2": setup_mdcr_el2_by_owner,
    "setup_external_mdscr": _setup_external_mdscr,
    "kvm_vcpu_load_debug": load_debug,
    "kvm_vcpu_put_debug": put_debug,
    "kvm_debug_set_guest_ownership": set_guest_ownership,
}
_OUTLINED = ("kvm_debug_handle_oslar",)  # calls vcpu_put and vcpu_load: compared where trap_oslar_el1 is
# operations that load or put a vCPU: which component shows their C lines
_LINES = {
    "kvm_arch_vcpu_load": "kvm_vcpu_load_debug",
    "kvm_arch_vcpu_put": "kvm_vcpu_put_debug",
    "kvm_arch_vcpu_ioctl_run returns": "kvm_vcpu_put_debug",
    "kvm_reset_vcpu": "kvm_vcpu_load_debug",
    "trap_oslar_el1": "kvm_vcpu_load_debug",
}


@dataclass(frozen=True)
class TreeKernel(Kernel):
    """A kernel with steps of its own."""

    steps: tuple[tuple[str, Step], ...] = field(default=())

    def doing(self, function: str, by_hand: AnyStep) -> AnyStep:
        return dict(self.steps).get(function, by_hand)  # type: ignore[return-value]


def compared(function: str) -> bool:
    """Whether a function of debug.c is compared here or with an operation, and not by its frame."""
    return function in COMPONENTS or function in _OUTLINED or function == INIT


class Debug:
    """debug.c of one tree in one mode."""

    def __init__(self, tree: Sources, lifted: Mapping[str, Lifted], binding: Binding) -> None:
        self.lifted, self.binding = lifted, binding
        self._flag = flags_of(tree, SYSREGS).get(LOADED)

    def given(self, function: Lifted) -> Mapping[str, Term]:
        """What a component finds besides the state: vcpu_load loads the debug state first (lifecycle.py)."""
        word = None if self._flag is None else function.reads.get(self._flag.lvalue)
        if self._flag is None or word is None or function.name != "kvm_vcpu_load_debug":
            return {}
        return {self._flag.lvalue: word & ~t.const(1 << self._flag.bit, t.width(word))}

    def conditions(self, name: str, s: State, k: Kernel) -> Iterator[tuple[str, Term]]:
        """What must hold for a component and its C function to be equal: a state variable or a sentence, and a term."""
        function = self.lifted[name]
        mapping = self._mapping(function, s)
        effect = self.binding.after(function, s, mapping)
        yield from equalities(effect, self.binding, s, COMPONENTS[name](s, k))
        yield from effect.side_conditions.items()
        for o in function.obligations:
            yield f"never at {o.file}:{o.line}: {o.text}", Not(substitute(o.condition, mapping))
        stored = (*effect.values.values(), *effect.elements.values())
        zero = self._alone(s, stored)
        yield f"{name}() depends on the modelled state only", And(*(Eq(v, substitute(v, zero)) for v in stored))
        if function.returns is not TRUE:
            yield f"{name}() returns", function.returns

    def _mapping(self, function: Lifted, s: State) -> dict[str, Term]:
        before = self.binding.before(function, s)
        return before | {name: substitute(value, before) for name, value in self.given(function).items()}

    def _alone(self, s: State, values: Iterable[Term]) -> dict[str, Term]:
        """What values depend on besides the state: all of it 0 (``conditions`` demands that it does not matter)."""
        known = {n for value in s.values.values() for n in support(value)}
        other = {v for value in values for v in nodes((value,)) if v.op == "var" and str(v.data) not in known}
        return {str(v.data): t.FALSE if v.sort == BOOL else t.const(0, t.width(v)) for v in other}

    def _step(self, name: str, differs: Collection[str]) -> Step:
        """What the C function does, as a step of the specification: as its description but where it differs."""
        function, by_hand = self.lifted[name], COMPONENTS[name]

        def does(s: State, k: Kernel) -> State:
            effect = self.binding.after(function, s, self._mapping(function, s))
            zero = self._alone(s, (*effect.values.values(), *effect.elements.values()))
            values = {**by_hand(s, k).values, **{n: s.values[n] for n in differs}}
            values |= {n: substitute(value, zero) for n, value in effect.values.items() if n in differs}
            for (bank, number), value in effect.elements.items():
                sort = s.values[bank].sort
                assert isinstance(sort, tuple)
                if bank in differs:
                    values[bank] = t.store(values[bank], t.const(number, sort[0]), substitute(value, zero))
            return State(values, s.vcpu_id, s.cpu_id)

        return does

    def system(self, system: System, differs: Mapping[str, Collection[str]]) -> System:
        """The system with the C's own vcpu_load and vcpu_put where they differ, in these state variables."""
        steps = tuple((n, self._step(n, differs[n])) for n in dict.fromkeys(_LINES.values()) if differs.get(n))
        if not steps:
            return system
        values: dict[str, Any] = {f.name: getattr(system.kernel, f.name) for f in fields(Kernel)}
        more = frozenset().union(*(differs[name] for name, _ in steps))
        operations = (replace(op, writes=op.writes | more) if op.name in _LINES else op for op in system.operations)
        return System(TreeKernel(**values, steps=steps), tuple(operations))

    def init(self) -> dict[str, Counterpart]:
        """The operation that kvm_init_host_debug_data is, by its name."""
        operation = next(op for op in OPERATIONS if op.c_function == "kvm_arm_init_debug")
        function = self.lifted[INIT]
        owns, demands = frozenset(("nr_event_counters",)), tuple(_counts(function))
        return {operation.name: Counterpart(operation, function, self.binding, owns, _registers, demands)}

    def shown(self, operations: tuple[Operation, ...] = OPERATIONS) -> dict[str, Counterpart]:
        """For operations that load or put a vCPU, the C function whose lines a run shows."""
        return {
            op.name: Counterpart(op, self.lifted[_LINES[op.name]], self.binding, frozenset())
            for op in operations
            if op.name in _LINES
        }


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
    for lvalue, (high, low) in zip(COUNTED, _FIELDS, strict=True):
        kept = f.writes.get(lvalue)
        right = t.FALSE
        if register is not None and kept is not None:
            right = Eq(kept, t.zero_extend(t.extract(register, high, low), t.width(kept)))
            right = substitute(right, {ID_REGISTER: t.var("any ID_AA64DFR0_EL1", 64)})
        yield f"{f.name}() keeps {lvalue.rpartition('.')[2]}", right
