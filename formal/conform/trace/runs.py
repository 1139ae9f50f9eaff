"""Concrete runs of the model, any number of vCPUs and CPUs, and what the kernel's trace points show of each step.

Steps are those of ``formal.transitions``: guard and result are evaluated on concrete values, as in replay, on the pair
that acts (``formal.system`` says why nobody else matters); results are kept for values met before. What a step shows is
read off debug.c: which trace points fire in which order, with which variables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from formal.arch.registers import MDCR_EL2, MDSCR_EL1, PSTATE
from formal.conform.trace.groups import Key
from formal.conform.trace.text import PROBES, Event
from formal.epochs import Kernel
from formal.evidence.runs.replay import zero
from formal.logic.evaluation import evaluate, support
from formal.logic.terms import ArrayValue, Term, Value
from formal.operations import Inputs, operation
from formal.state import REGISTER_OF_BANK, Exit, Phase, State
from formal.system import System
from formal.transitions import OPERATIONS, tweaks_guest


@operation(
    "__guest_enter defers",
    "hyp/entry.S, __guest_enter",
    writes="hw_pstate",
    enabled=lambda s, k, i: s.in_guest,
)
def guest_enter_defers(s: State, k: Kernel, i: Inputs) -> State:
    """An interrupt is pending: no ERET (from v5.4), so that SPSR_EL2 stays what the entry wrote. The exit follows."""
    return s.but(hw_pstate=s.pstate)


Values = dict[str, Value]  # the variables of one vCPU (``v0.mdcr_el2``) or one CPU (``p0.hw_mdcr_el2``)
NOBODY: Key = (0, "nobody")  # the vCPU of operations that act on a CPU alone
HERE, ELSEWHERE = 0, 1  # how the acting CPU, and any other, are named in the variables ``cpu`` and ``vcpu``


class Known:
    """A term evaluated on concrete values, once for each combination of the values that it reads."""

    def __init__(self, terms: Mapping[str, Term]) -> None:
        self.terms = terms
        self.reads = sorted(frozenset[str]().union(*(support(t) for t in terms.values())))
        self._found: dict[tuple[Value, ...], dict[str, Value]] = {}

    def __call__(self, where: Mapping[str, Value]) -> dict[str, Value]:
        """The value of each term."""
        key = tuple([where[n] for n in self.reads])
        if key not in self._found:
            if len(self._found) > 50_000:
                self._found.clear()
            done: dict[Term, Value] = {}
            self._found[key] = {name: evaluate(t, where, done) for name, t in self.terms.items()}
        return self._found[key]


@dataclass(frozen=True)
class Did:
    """One step of a run: the operation, who took it, its inputs, and the acting pair afterwards."""

    operation: str
    vcpu: Key | None
    cpu: int
    inputs: Mapping[str, Value]
    after: tuple[Values, Values]
    line: int
    assumed: bool = False  # no event shows it and it is no part of the run loop: user space, or another vCPU


@dataclass(frozen=True)
class Chain:
    """Steps, the latest first; runs that part share what they did before."""

    did: Did
    before: Chain | None


@dataclass(frozen=True)
class Run:
    """One possible run so far. ``on`` says where each vCPU is loaded, ``last`` the exit it had last."""

    vcpus: Mapping[Key, Values] = field(default_factory=dict)
    cpus: Mapping[int, Values] = field(default_factory=dict)
    on: Mapping[Key, int] = field(default_factory=dict)
    last: Mapping[Key, Exit] = field(default_factory=dict)
    done: Chain | None = None

    def value(self, vcpu: Key, name: str) -> Any:
        """A variable of a vCPU."""
        return self.vcpus[vcpu][f"v0.{name}"]

    def phase(self, vcpu: Key) -> Phase:
        """Where a vCPU is."""
        return Phase(self.value(vcpu, "phase"))

    def loaded_on(self, cpu: int) -> Key | None:
        """The vCPU that a CPU has loaded."""
        return next((v for v, p in self.on.items() if p == cpu), None)

    @property
    def signature(self) -> tuple[Any, ...]:
        """Runs with the same one go on in the same way: counters that no trace shows left out."""
        vcpus = tuple((k, tuple(x for n, x in v.items() if n not in _UNSEEN)) for k, v in sorted(self.vcpus.items()))
        cpus = tuple((c, tuple(p.values())) for c, p in sorted(self.cpus.items()))
        return vcpus, cpus, tuple(sorted((v, _TELLING.get(e, Exit.NONE)) for v, e in self.last.items()))


_UNSEEN = ("v0.steps", "v0.wrong_step", "v0.guest_pstate_ss")
_TELLING = {Exit.STEP: Exit.DEBUG, Exit.DEBUG: Exit.DEBUG, Exit.MMIO: Exit.MMIO}  # what user space is told


class Machine:
    """The operations of one kernel, on concrete values."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.system = System(kernel, (*OPERATIONS, guest_enter_defers))
        self.state: State = self.system.state()
        self._operations: dict[str, tuple[Known, Known, dict[str, Term]]] = {}
        for applied in self.system.applied:
            guard = Known({"guard": applied.guard})
            before = applied.before.values
            changed = {str(before[n].data): t for n, t in applied.after.values.items() if t is not before[n]}
            self._operations[applied.operation.name] = (guard, Known(changed), dict(applied.inputs))
        self.tweaks = Known({"tweaks": tweaks_guest(self.state, kernel)})
        self.index_bits = 2 + (kernel.breakpoints - 1).bit_length()

    def new_vcpu(self) -> Values:
        """A vCPU in its initial state."""
        return {str(x.data): zero(x.sort) for x in self.system.part("vcpu", 0).values()}

    def new_cpu(self, hpmn: int) -> Values:
        """A CPU that has booted with this HPMN; the rest of MDCR_EL2 shows nowhere and is 0."""
        values = {str(x.data): zero(x.sort) for x in self.system.part("cpu", 0).values()}
        counters = hpmn if self.kernel.tracks_debug_owner else 31  # boot code sets HPMN to PMCR_EL0.N
        values |= {"p0.boot_mdcr_el2": hpmn, "p0.hw_mdcr_el2": hpmn, "p0.event_counters": counters}
        if not evaluate(self.system.init(), {**self.new_vcpu(), **values}):
            raise ValueError(f"no CPU boots with MDCR_EL2.HPMN {hpmn}")
        return values

    def place(self, kind: str, number: int) -> int:
        """The index of a break- or watchpoint register in a bank."""
        return REGISTER_OF_BANK.index(kind) * self.kernel.breakpoints + number

    def step(
        self, run: Run, name: str, vcpu: Key, cpu: int, line: int, assumed: bool = False, **inputs: Value
    ) -> Run | None:
        """The run after an operation; ``None`` where it is not enabled."""
        guard, changes, open_inputs = self._operations[name]
        v, p = run.vcpus[vcpu], run.cpus[cpu]
        where: Values = {**v, **p, "v0.cpu": HERE if run.on.get(vcpu) == cpu else ELSEWHERE}
        where["p0.vcpu"] = HERE if run.on.get(vcpu) == cpu else ELSEWHERE
        for key, term in open_inputs.items():
            where[str(term.data)] = inputs.get(key, zero(term.sort))
        if not guard(where)["guard"]:
            return None
        if inputs.keys() - open_inputs.keys():
            raise TypeError(f"{name} has no input {sorted(inputs.keys() - open_inputs.keys())[0]}")
        new = changes(where)
        v = {**v, **{n: x for n, x in new.items() if n[0] == "v"}}
        p = {**p, **{n: x for n, x in new.items() if n[0] == "p"}}
        on = dict(run.on)
        if p["p0.busy"] and not run.cpus[cpu]["p0.busy"]:
            on[vcpu] = cpu
        elif run.cpus[cpu]["p0.busy"] and not p["p0.busy"]:
            del on[vcpu]
        did = Did(name, vcpu, cpu, inputs, (v, p), line, assumed)
        return replace(
            run,
            vcpus={**run.vcpus, vcpu: v},
            cpus={**run.cpus, cpu: p},
            on=on,
            done=Chain(did, run.done),
        )

    def where(self, run: Run, vcpu: Key, cpu: int) -> Values:
        """The values of a pair."""
        here = HERE if run.on.get(vcpu) == cpu else ELSEWHERE
        return {**run.vcpus[vcpu], **run.cpus[cpu], "v0.cpu": here, "p0.vcpu": here}


# ---- what a step shows


@dataclass(frozen=True)
class Shown:
    """An event that the model expects; ``same`` says whether an event of the trace is it, ``text`` how it prints."""

    name: str
    text: str
    same: Callable[[Event], bool] = field(compare=False)
    register: str | None = None
    value: int | None = None
    values: Mapping[str, int] = field(default_factory=dict, compare=False)  # of a dynamic event, by field


def _flags(name: str, flags: int, vcpu: str = "") -> Shown:
    return Shown(name, f"{vcpu}flags: {flags:#010x}", lambda e: e.fields["flags"] == flags, value=flags)


def _register(kernel: Kernel, name: str, value: int) -> Shown:
    if kernel.mdcr_el2_bits == 32:  # the event itself had 32 bits as long as the variable
        value &= 0xFFFFFFFF

    def same(e: Event) -> bool:
        return bool(e.fields["register"] == name and e.fields["value"] == value)

    return Shown("kvm_arm_set_dreg32", f"{name}: {value:#x}", same, name, value)


def _bank(machine: Machine, name: str, values: ArrayValue) -> Shown:
    kinds = ("DBGBCR", "DBGBVR") if name == "BKPTS" else ("DBGWCR", "DBGWVR")
    control, value = ([values[machine.place(kind, n)] for n in range(machine.kernel.breakpoints)] for kind in kinds)

    def same(e: Event) -> bool:
        n = len(e.fields["control"])
        wanted = (tuple(control[:n]), tuple(value[:n]))
        return bool(e.fields["register"] == name and (e.fields["control"], e.fields["value"]) == wanted)

    shown = " ".join(f"{n}:{c:#x}/{v:#x}" for n, (c, v) in enumerate(zip(control, value, strict=True)) if c or v)
    return Shown("kvm_arm_set_regset", f"{name} CTRL/VALUE {shown or 'all 0'}", same, name)


def active_bank(run: Run, vcpu: Key) -> ArrayValue:
    """The bank that debug_ptr points to."""
    external = run.value(vcpu, "debug_ptr_external")
    bank = run.value(vcpu, "external_debug_state" if external else "vcpu_debug_state")
    assert isinstance(bank, ArrayValue)
    return bank


def shows_setup(machine: Machine, before: Run, after: Run, vcpu: Key, cpu: int) -> Iterator[Shown]:
    """What kvm_arm_setup_debug prints."""
    k = machine.kernel
    flags = before.value(vcpu, "guest_debug")
    mdcr = _register(k, "MDCR_EL2", after.value(vcpu, "mdcr_el2"))
    yield _flags("kvm_arm_setup_debug", flags, "vcpu: ..., ")
    if k.first_run_init:  # before v5.13 the value was printed last
        yield mdcr
    if machine.tweaks(machine.where(before, vcpu, cpu))["tweaks"]:
        yield _register(k, "Saved MDSCR_EL1", after.value(vcpu, "preserved_mdscr_el1"))
        yield _register(k, "SPSR_EL2", after.value(vcpu, "pstate"))
        if flags & _USE_HW:
            yield _bank(machine, "BKPTS", active_bank(after, vcpu))
            yield _bank(machine, "WAPTS", active_bank(after, vcpu))
    if not k.first_run_init:
        yield mdcr
    yield _register(k, "MDSCR_EL1", after.value(vcpu, "mdscr_el1"))


def shows_entry() -> Shown:
    """What the run loop prints before the world switch; no program counter is modelled."""
    return Shown("kvm_entry", "PC: ...", lambda e: True)


def shows_clear(machine: Machine, before: Run, after: Run, vcpu: Key, cpu: int) -> Iterator[Shown]:
    """What kvm_arm_clear_debug prints."""
    flags = before.value(vcpu, "guest_debug")
    yield _flags("kvm_arm_clear_debug", flags)
    if machine.tweaks(machine.where(before, vcpu, cpu))["tweaks"]:
        yield _register(machine.kernel, "Restored MDSCR_EL1", after.value(vcpu, "mdscr_el1"))
        if flags & _USE_HW:
            yield _bank(machine, "BKPTS", active_bank(after, vcpu))
            yield _bank(machine, "WAPTS", active_bank(after, vcpu))


def shows_first_run(machine: Machine, after: Run, vcpu: Key) -> Shown:
    """What kvm_arm_vcpu_init_debug prints, from v5.13 on."""
    return _register(machine.kernel, "MDCR_EL2", after.value(vcpu, "mdcr_el2"))


def shows_set_debug(control: int) -> Shown:
    """What KVM_SET_GUEST_DEBUG prints: the flags that user space gave."""
    return _flags("kvm_set_guest_debug", control, "vcpu: ..., ")


def shows_trap(function: str, writes: bool, value: int) -> Shown:
    """What the handlers of trapped debug registers print; the register's number differs between releases."""
    direction = "write to" if writes else "read from"

    def same(e: Event) -> bool:
        seen = (e.fields["function"], e.fields["direction"], e.fields["value"])
        return bool(seen == (function, direction, value))

    return Shown("trap_reg", f"{function} {direction} reg ... ({value:#018x})", same, value=value)


_USE_HW = 1 << 17
FIELDS = {"MDCR_EL2": MDCR_EL2, "MDSCR_EL1": MDSCR_EL1, "SPSR_EL2": PSTATE}
FIELDS |= {"mdcr_el2": MDCR_EL2, "external_mdscr_el1": MDSCR_EL1, "pstate": PSTATE}


def shows_probe(name: str, run: Run, vcpu: Key, *fields: str) -> Shown:
    """What a dynamic event prints of these variables of a vCPU, or of those that its definition names."""
    values = {f: int(run.value(vcpu, f)) for f in fields or PROBES[name]}
    return shows_values(name, values)


def shows_values(name: str, values: Mapping[str, int]) -> Shown:
    """A dynamic event with these values."""
    text = " ".join(f"{f}={value:#x}" for f, value in values.items())
    return Shown(name, text, lambda e: all(e.fields[f] == value for f, value in values.items()), values=values)


def shows_bank(name: str, machine: Machine, bank: ArrayValue, owner: int) -> Shown:
    """A dynamic event with the break- and watchpoint registers."""
    found = {}
    for register in REGISTER_OF_BANK:
        key = f"{register[:3]}_{register[3:]}".lower()
        found[key] = tuple(bank[machine.place(register, n)] for n in range(machine.kernel.breakpoints))

    def same(e: Event) -> bool:
        return e.fields["debug_owner"] == owner and all(
            len(e.fields[key]) <= len(values) and e.fields[key] == values[: len(e.fields[key])]
            for key, values in found.items()
        )

    shown = " ".join(f"{key}[{n}]={x:#x}" for key, values in found.items() for n, x in enumerate(values) if x)
    return Shown(name, f"debug_owner={owner} {shown or 'all 0'}", same)


def first_difference(shown: list[Shown], events: list[Event], names: frozenset[str]) -> int | None:
    """The position at which the events of a part are not what the model shows; ``None`` if they are.

    Trace points of which the whole trace has no event are taken to be off.
    """
    wanted = [s for s in shown if s.name in names]
    for n, (s, e) in enumerate(zip(wanted, events, strict=False)):
        if s.name != e.name or not s.same(e):
            return n
    return None if len(wanted) == len(events) else min(len(wanted), len(events))
