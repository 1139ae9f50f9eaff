"""The hypervisor's functions that operations are made of: which C function each component of the specification is.

They are compared on every state, without lemmas. Where one differs in state variables, the operations that it is part
of do what the C does (``model/substitution.py``). Where it differs in anything else that is demanded of it, the
hand-written part of the specification does not describe the tree: nothing is PROVED about it then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from formal.epochs import Kernel
from formal.kernel.errors import Gaps, NotUnderstoodError
from formal.kernel.lift.program import Argument, Lifted, Program, side_of
from formal.kernel.model import passage
from formal.kernel.model.binding import NOT_INJECTED, ON_CPU, UNMODELLED, Binding, Flag, understood
from formal.kernel.model.counterparts import equalities
from formal.kernel.model.substitution import Given, Part
from formal.logic import terms as t
from formal.logic.evaluation import substitute
from formal.logic.terms import And, Eq, Ne, Not, Or, Term
from formal.state import State
from formal.worldswitch import PARTS, activate_traps, deactivate_traps, keeps_traps

_HOST_CONTEXT = "percpu.kvm_host_data.host_ctxt"


_GUEST_CONTEXT = "vcpu->arch.ctxt"
_SPSR = ("hw.spsr_el2", "hw.spsr_el1")  # SPSR_EL2 as nVHE and as VHE code spells it
_ELR = ("hw.elr_el2", "hw.elr_el1")
_PC = "vcpu->arch.ctxt.regs.pc"
_MODE, _EL2_AT_EL1 = 0x1F, {0b1000: 0b0100, 0b1001: 0b0101}  # PSTATE.M: EL2t is EL1t, EL2h is EL1h
_SS, _M4, _BTYPE = 1 << 21, 1 << 4, 3 << 10  # PSTATE.SS, AArch32 state, PSTATE.BTYPE (Arm ARM C5.2)
_CPU, _FLAGS = "current->thread_info.cpu", "percpu.kvm_host_data.flags"
_MAPPED = "KVM_HOST_DATA_FLAG_L1_VNCR_MAPPED"  # a bit of the latter; kvm_vcpu_put_hw_mmu clears it
_SIDELINED = ("cap.ARM64_WORKAROUND_2077057",)  # an erratum that is not modelled: as on a CPU without it

Demands = Callable[[Lifted, State, Mapping[str, Term]], Iterator[tuple[str, Term]]]


def _exit_state(f: Lifted, s: State) -> Mapping[str, Term]:
    """SPSR_EL2 after an exit is the guest's PSTATE; errata that are not modelled are absent."""
    found: dict[str, Term] = {name: s.hw_pstate.raw for name in _SPSR if name in f.reads}
    return found | dict.fromkeys(_SIDELINED, t.FALSE)


def _no_demands(f: Lifted, s: State, values: Mapping[str, Term]) -> Iterator[tuple[str, Term]]:
    return iter(())


@dataclass(frozen=True)
class Component:
    """A function of the specification and the C functions that may be it; the first one that the tree has is taken.

    ``part`` names the part of the world switch that it is (``formal/worldswitch.py``), ``None`` if it is less than one.
    ``given`` are values that C variables without a state variable have, ``demands`` what else must hold after it: a
    sentence, and a term; ``values`` are the function's stores, by lvalue. With ``saves_pstate`` it may save PSTATE,
    too, which in the operation is what the hardware has by then. With ``side`` it is one side of the world switch as a
    whole (``model/passage.py``), and what ``covers`` names besides are the parts that this does.
    """

    by_hand: Callable[[State, Kernel], State]
    names: Callable[[Kernel], tuple[str, ...]]
    arguments: Mapping[str, Argument] = field(default_factory=dict)
    given: Given = lambda f, s: {}
    demands: Demands = _no_demands
    part: str | None = None
    saves_pstate: bool = False
    side: str = ""
    covers: tuple[str, ...] = ()

    def of(self, k: Kernel) -> tuple[str, ...]:
        """What it belongs to."""
        return (self.part, *self.covers) if self.part is not None else self.names(k)


def _part(name: str, names: Callable[[Kernel], tuple[str, ...]], *rest: Any, **more: Any) -> Component:
    return replace(Component(PARTS[name], names, *rest, **more), part=name)


def _deactivating(k: Kernel) -> tuple[str, ...]:
    if k.saves_host_mdcr:
        return ("__deactivate_traps_common",)
    return ("deactivate_traps_vhe_put",) if k.vhe else ("__deactivate_traps",)


def _at_entry(f: Lifted, s: State, values: Mapping[str, Term]) -> Iterator[tuple[str, Term]]:
    """The guest starts with its own PSTATE; a value that would mean EL2 is replaced, which no operation sets.

    A guest hypervisor's EL2 is EL1 in hardware (FEAT_NV).
    """
    spsr = next((values[name] for name in _SPSR if name in values), None)
    if s.may_nest and spsr is not None:
        for virtual, real in _EL2_AT_EL1.items():
            there = Eq(s.pstate.raw & t.const(_MODE, 64), t.const(virtual, 64))
            same = Eq(spsr, (s.pstate.raw & t.const(~_MODE, 64)) | t.const(real, 64))
            yield f"SPSR_EL2 holds PSTATE of a guest at EL2 ({virtual:#x})", Or(Not(there), same)
    privileged = And(Eq(s.pstate.raw & t.const(_M4, 64), t.const(0, 64)),
                     Not(t.ult(s.pstate.raw & t.const(0xF, 64), t.const(8, 64))))  # fmt: skip
    entered = t.FALSE if spsr is None else Eq(spsr, s.pstate.raw)
    yield "SPSR_EL2 holds the guest's PSTATE", Or(privileged, entered)


def _enters_there(f: Lifted, s: State, values: Mapping[str, Term]) -> Iterator[tuple[str, Term]]:
    """Where all of it is one function: the guest starts at its own PC, too."""
    yield from _at_entry(f, s, values)
    elr, pc = next((values[name] for name in _ELR if name in values), None), f.reads.get(_PC)
    yield "ELR_EL2 holds the guest's PC", t.FALSE if elr is None or pc is None else Eq(elr, pc)


def _left_there(f: Lifted, s: State, values: Mapping[str, Term]) -> Iterator[tuple[str, Term]]:
    """The PC is where the guest was left, in AArch64 state; or after that instruction, if it is skipped here."""
    pc, left = values.get(_PC), [f.reads[name] for name in _ELR if name in f.reads]  # VHE has two names for it
    here = t.FALSE if pc is None else Or(*(Eq(pc, at) for elr in left for at in (elr, elr + t.const(4, 64))))
    yield "PC is ELR_EL2, or that of the next instruction", Or(here, Not(f.when), *_aarch32(s))


def _aarch32(s: State) -> tuple[Term, ...]:
    return tuple(Ne(v.raw & t.const(_M4, 64), t.const(0, 64)) for v in (s.pstate, s.hw_pstate))


def _skipped(s: State, k: Kernel) -> State:
    """Skipping an instruction changes nothing else of PSTATE than SS, in AArch64 state, and BTYPE, not looked at."""
    return s.but(pstate=s.pstate.but(SS=False)) if k.skip_advances_step else s


def _next(f: Lifted, pc: Term) -> Term:
    """The address after the one that the function finds: in ELR_EL2 if it looks there, else in the context."""
    found = next((f.reads[name] for name in (*_ELR, _PC) if name in f.reads), None)
    return t.FALSE if found is None else Eq(pc, found + t.const(4, 64))


def _skips(f: Lifted, s: State, values: Mapping[str, Term]) -> Iterator[tuple[str, Term]]:
    after = values.get("vcpu->arch.ctxt.regs.pstate")
    looked_at = t.const(~(_SS | _BTYPE), 64)
    aarch32 = Ne(s.pstate.raw & t.const(_M4, 64), t.const(0, 64))
    same = t.FALSE if after is None else Eq(after & looked_at, s.pstate.raw & looked_at)
    yield "the rest of PSTATE stays", Or(aarch32, same)
    yield "SS is cleared", t.FALSE if after is None else Eq(after & t.const(_SS, 64), t.const(0, 64))
    pc = values.get(_PC)
    next_pc = t.FALSE if pc is None else _next(f, pc)
    yield "PC is that of the next instruction", Or(aarch32, next_pc)


def _passes(f: Lifted, s: State, values: Mapping[str, Term]) -> Iterator[tuple[str, Term]]:
    """Before v5.0 skipping an instruction moves the PC, and leaves PSTATE alone in AArch64 state."""
    after = values.get("vcpu->arch.ctxt.regs.pstate", s.pstate.raw)
    aarch32 = Ne(s.pstate.raw & t.const(_M4, 64), t.const(0, 64))
    yield "PSTATE stays", Or(aarch32, Eq(after, s.pstate.raw))
    pc = values.get(_PC)
    yield "PC is that of the next instruction", Or(aarch32, t.FALSE if pc is None else _next(f, pc))


def _skips_at_el2(f: Lifted, s: State, values: Mapping[str, Term]) -> Iterator[tuple[str, Term]]:
    seen = State({**s.values, "pstate": s.values["hw_pstate"]}, s.vcpu_id, s.cpu_id)
    yield from _skips(f, seen, values)
    spsr = next((values[name] for name in _SPSR if name in values), None)
    kept = values.get("vcpu->arch.ctxt.regs.pstate")
    yield "SPSR_EL2 gets the new PSTATE", t.FALSE if spsr is None or kept is None else Eq(spsr, kept)
    elr, pc = next((values[name] for name in _ELR if name in values), None), values.get(_PC)
    yield "ELR_EL2 gets the new PC", t.FALSE if elr is None or pc is None else Eq(elr, pc)


def _leaves(flag: Flag, value: bool) -> Demands:
    """A function leaves a flag set, or clear."""

    def demands(f: Lifted, s: State, values: Mapping[str, Term]) -> Iterator[tuple[str, Term]]:
        word = values.get(flag.lvalue)
        right = t.FALSE if word is None else Eq(t.extract(word, flag.bit, flag.bit), t.const(int(value), 1))
        yield f"{ON_CPU} is {'set' if value else 'cleared'}", right

    return demands


def _enters(f: Lifted, s: State, values: Mapping[str, Term]) -> Iterator[tuple[str, Term]]:
    """Taking an exception clears PSTATE.SS, in AArch64 state."""
    after = values.get("vcpu->arch.ctxt.regs.pstate", s.pstate.raw)
    aarch32 = [v for v in f.reads.values() if str(v.data) == "vcpu->arch.hcr_el2"]
    width = [Eq(v & t.const(1 << 31, 64), t.const(0, 64)) for v in aarch32]  # HCR_EL2.RW
    clear = Eq(after & t.const(_SS, 64), t.const(0, 64))
    yield "SS is cleared", Or(clear, Eq(after, s.pstate.raw), *width)


_LOADS = ("kvm_vcpu_load_sysregs_vhe", "__vcpu_load_activate_traps")
_PUTS = ("kvm_vcpu_put_sysregs_vhe", "__vcpu_put_deactivate_traps")
_HOST, _GUEST = {"ctxt": _HOST_CONTEXT}, {"ctxt": _GUEST_CONTEXT}

_SYNCHRONIZES = "synchronize_vcpu_pstate"  # from v5.17 saves PSTATE; before, fixup_guest_exit (runloop.py)


def components(program: Program, k: Kernel) -> tuple[Component, ...]:
    """The components of a kernel, those that only later releases have included where they are."""
    if passage.whole(program, side_of(k.mode)) and not k.traps_at_load:
        return (*SIDES, SKIPS[0] if k.skip_advances_step else PASSES)
    flag = understood(program.tree, UNMODELLED).get(ON_CPU)
    synchronized = Component(lambda s, k: s.but(pstate=s.hw_pstate), lambda k: (_SYNCHRONIZES,), given=_exit_state)
    early = (synchronized,) if program.defines(_SYNCHRONIZES, "vhe" if k.vhe else "nvhe") else ()
    skips = SKIPS if k.defers_pc_adjustment else SKIPS[:1]  # before, the other is read (dispatch.py)
    # From v6.17 a part of them, which nVHE completes, is common to both modes: only the whole is compared.
    first, second, *rest = COMPONENTS[2:] if k.tracks_debug_owner else COMPONENTS
    if k.guards_pmuserenr and flag is not None:
        first, second = replace(first, demands=_leaves(flag, True)), replace(second, demands=_leaves(flag, False))
    if not early:  # nothing else is in between
        rest = [replace(one, saves_pstate=True) if one.part == SAVES else one for one in rest]
    return (first, second, *rest, *early, *(skips if k.skip_advances_step else (PASSES,)))


SAVES = "save guest state"


def _side(side: str, first: str, *others: str, **more: Any) -> Component:
    """The parts of one side of the world switch, one after another."""

    def by_hand(s: State, k: Kernel) -> State:
        for name in (first, *others):
            s = PARTS[name](s, k)
        return s

    return Component(by_hand, lambda k: (passage.RUN,), part=first, side=side, covers=others, **more)


# where one function does all of it: in the order in which the operations have them
SIDES: tuple[Component, ...] = (
    _side("enters", "save host state", "restore guest state", "activate traps", "debug switch to guest",
          demands=_enters_there),
    _side("returns", SAVES, "deactivate traps", "restore host state", "debug switch to host",
          given=_exit_state, demands=_left_there, saves_pstate=True),
)  # fmt: skip
COMPONENTS: tuple[Component, ...] = (
    Component(activate_traps, lambda k: ("__activate_traps_common",)),
    Component(deactivate_traps, _deactivating),
    _part("activate traps", lambda k: _LOADS if k.vhe else ("__activate_traps",)),
    _part("deactivate traps", lambda k: _PUTS if k.vhe else ("__deactivate_traps",)),
    _part("traps at entry", lambda k: ("__activate_traps",) if k.vhe else ()),
    _part("traps at exit", lambda k: ("__deactivate_traps",) if k.vhe else ()),
    _part("debug switch to guest", lambda k: ("__debug_switch_to_guest",)),
    _part("debug switch to host", lambda k: ("__debug_switch_to_host",)),
    _part(
        "save host state",
        lambda k: ("sysreg_save_host_state_vhe",) if k.vhe else ("__sysreg_save_state_nvhe",),
        _HOST, _exit_state,
    ),
    _part(
        "restore guest state",
        lambda k: ("sysreg_restore_guest_state_vhe",) if k.vhe else ("__sysreg_restore_state_nvhe",),
        _GUEST, demands=_at_entry,
    ),
    _part(
        SAVES,
        lambda k: ("sysreg_save_guest_state_vhe",) if k.vhe else ("__sysreg_save_state_nvhe",),
        _GUEST, _exit_state,
    ),
    _part(
        "restore host state",
        lambda k: ("sysreg_restore_host_state_vhe",) if k.vhe else ("__sysreg_restore_state_nvhe",),
        _HOST,
    ),
)  # fmt: skip
# PSTATE is compared as they demand: their description has no single value for all of it
SKIPS: tuple[Component, ...] = (
    Component(_skipped, lambda k: ("kvm_skip_instr",), demands=_skips),
    Component(_skipped, lambda k: ("__kvm_skip_instr",), given=_exit_state, demands=_skips_at_el2),
    Component(keeps_traps, lambda k: ("kvm_inject_exception",), demands=_enters),
)

PASSES = Component(_skipped, lambda k: ("kvm_skip_instr",), demands=_passes)


def lifted(program: Program, k: Kernel, gaps: Gaps | None = None) -> Iterator[tuple[Component, Lifted]]:
    """Each component with its C function.

    Raises:
        NotUnderstoodError: if the tree has none, or one that is not understood, and that is not noted.
    """
    gaps = gaps or Gaps()
    for component in components(program, k):
        names, function = component.names(k), None
        if names:
            with gaps.at(*component.of(k)):
                function = _lifted(program, k, component, names)
        if function is not None:
            yield component, function


def _lifted(program: Program, k: Kernel, component: Component, names: tuple[str, ...]) -> Lifted:
    mode, arguments = side_of(k.mode), component.arguments
    if component.side:
        both = passage.passage(program, mode)
        return both.enters if component.side == "enters" else both.returns
    for name in names[:-1]:
        if program.defines(name, mode):
            return program.lift(name, mode, arguments=arguments)
    return program.lift(names[-1], mode, arguments=arguments)


def conditions(
    component: Component, function: Lifted, binding: Binding, s: State, k: Kernel, constants: Mapping[str, int]
) -> Iterator[tuple[str, Term]]:
    """What must hold for a component and its C function to be equal: a state variable or a sentence, and a term.

    Other bits of the flags words are left out: there the hypervisor keeps flags that are not modelled.

    Args:
        constants: the values of macros of the tree.
    """
    given = {**component.given(function, s), **(_unbroken(function, constants) if k.nests else {})}
    effect = binding.after(function, s, given)
    saved = effect.values.get("pstate") if component.saves_pstate else None
    for name, equal in equalities(effect, binding, s, component.by_hand(s, k)):
        if saved is not None and name == "pstate":
            yield name, Or(equal, Eq(saved, s.values["hw_pstate"]), *(_aarch32(s) if component.side else ()))
        elif component not in (*SKIPS, PASSES) or name != "pstate":
            yield name, equal
    yield from ((text, holds) for text, holds in effect.side_conditions.items() if text == NOT_INJECTED)
    mapping = binding.before(function, s) | dict(given)
    if function.returns is not t.TRUE:
        yield f"{function.name}() returns", substitute(function.returns, mapping)
    done: dict[Term, Term] = {}
    values = {lvalue: substitute(value, mapping, done) for lvalue, value in function.writes.items()}
    yield from component.demands(function, s, values)


def part_of(component: Component, function: Lifted, binding: Binding) -> Part | None:
    """The part of operations that a component is; ``None`` if it is less than one."""
    if component.part is None:
        return None
    more = component.demands is not _no_demands
    return Part(component.part, function, binding, component.by_hand, component.given, more, component.covers)


def _unbroken(function: Lifted, constants: Mapping[str, int]) -> dict[str, Term]:
    """What BUG_ONs of nested virtualization ask for: a CPU that exists, nothing mapped for the guest's own guest."""
    found: dict[str, Term] = {name: t.const(0, t.width(v)) for name, v in function.reads.items() if name == _CPU}
    flags = function.reads.get(_FLAGS)
    if flags is not None and _MAPPED in constants:
        found[_FLAGS] = flags & t.const(~(1 << constants[_MAPPED]), t.width(flags))
    return found


def refuse_unfit(function: Lifted, k: Kernel) -> None:
    """A function that does not return is not what the component describes; with nested virtualization it is asked.

    Raises:
        NotUnderstoodError: if it does not always return.
    """
    if function.returns is not t.TRUE and not k.nests:
        raise NotUnderstoodError(function.file, function.line, f"{function.name}() does not return on every path")
