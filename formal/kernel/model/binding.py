"""Which C lvalue stands for which state variable, and the translation of lifted terms between the two.

The widths are those that clang computes for the tree's own types. A flag is one bit of a flags word, found by the
tree's definition of its macro; the other bits of the word must stay as they are. Lvalues without a state variable
stay free: they are read as anything, and stores to them are listed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from formal.arch.registers import PSTATE
from formal.kernel.effects.places import Lvalue
from formal.kernel.effects.types import ALL
from formal.kernel.errors import Gap, Gaps, NotUnderstoodError
from formal.kernel.lift.calls import HAS_EL2, INJECTED, NESTED
from formal.kernel.lift.program import Lifted, Program
from formal.kernel.lift.values import Object
from formal.kernel.parse.clang import Kind
from formal.kernel.source.tree import KVM, Sources
from formal.kernel.text.flags import definition, place
from formal.logic import terms as t
from formal.logic.evaluation import substitute
from formal.logic.terms import BOOL, Eq, If, Ne, Not, Or, Term
from formal.state import DebugOwner, State

KVM_HOST = "arch/arm64/include/asm/kvm_host.h"
_KVM_ASM = "arch/arm64/include/asm/kvm_asm.h"

_HOST = "percpu.kvm_host_data"
# state variable: the C lvalues that are it, in one release or another
REGISTERS: dict[str, tuple[str, ...]] = {
    "mdcr_el2": ("vcpu->arch.mdcr_el2",),
    "mdcr_el2_host": ("vcpu->arch.mdcr_el2_host", f"{_HOST}.host_debug_state.mdcr_el2"),
    "percpu_mdcr_el2": ("percpu.mdcr_el2",),
    "guest_debug": ("vcpu->guest_debug",),
    "mdscr_el1": ("vcpu->arch.ctxt.sys_regs[MDSCR_EL1]",),
    "oslsr_el1": ("vcpu->arch.ctxt.sys_regs[OSLSR_EL1]",),
    "pstate": ("vcpu->arch.ctxt.regs.pstate",),
    "preserved_mdscr_el1": ("vcpu->arch.guest_debug_preserved.mdscr_el1",),
    "preserved_pstate_ss": ("vcpu->arch.guest_debug_preserved.pstate_ss",),
    "external_mdscr_el1": ("vcpu->arch.external_mdscr_el1",),
    "nr_event_counters": (f"{_HOST}.nr_event_counters",),
    "virtual_mdcr_el2": ("vcpu->arch.ctxt.sys_regs[MDCR_EL2]",),
    "hyp_mdcr_el2": ("hyp_vcpu->vcpu.arch.mdcr_el2",),
    "hyp_external_mdscr_el1": ("hyp_vcpu->vcpu.arch.external_mdscr_el1",),
    "hw_mdcr_el2": ("hw.mdcr_el2",),
    "hw_mdscr_el1": ("hw.mdscr_el1",),
    "hw_pmuserenr_el0": ("hw.pmuserenr_el0",),
    "host_ctxt_mdscr_el1": (f"{_HOST}.host_ctxt.sys_regs[MDSCR_EL1]",),
    "host_ctxt_pmuserenr_el0": (f"{_HOST}.host_ctxt.sys_regs[PMUSERENR_EL0]",),
}
# state variable: the C arrays that are it; an element is one register of the bank
BANKS: dict[str, tuple[str, ...]] = {
    "vcpu_debug_state": ("vcpu->arch.vcpu_debug_state",),
    "external_debug_state": ("vcpu->arch.external_debug_state",),
    "host_debug_state": ("vcpu->arch.host_debug_state.regs", f"{_HOST}.host_debug_state.regs"),
}
KINDS = ("bcr", "bvr", "wcr", "wvr")  # as formal/state.py numbers the registers of a bank
_ELEMENT = re.compile(r"(.+)\.dbg_(bcr|bvr|wcr|wvr)\[(\d+)\]")
_HARDWARE = re.compile(r"hw\.dbg(bcr|bvr|wcr|wvr)(\d+)_el1")
ID_REGISTER = "hw.id_aa64dfr0_el1"
COUNTS = ((15, 12), (23, 20))  # its fields BRPs and WRPs: how many there are, less one (Arm ARM D24.2)
_ALL_BREAKPOINTS = 0xF << 12 | 0xF << 20
_PMUVER = (11, 8)  # its field PMUVer: 0b0000 no PMUv3, 0b1111 another one (Arm ARM D24.2)
COUNTED = (f"{_HOST}.debug_brps", f"{_HOST}.debug_wrps")  # the same, kept when the CPU comes up, from v6.14
# what is taken for granted of values that are not in the state
GIVEN: dict[str, Term] = {
    "key.kvm_arm_pmu_available": t.TRUE,
    "cap.ARM64_HAS_PMUV3": t.TRUE,  # the same question from v6.15 on
    "vcpu->kvm != NULL": t.TRUE,  # every vCPU belongs to a VM
}
PMU_COUNTERS = "vcpu->kvm->arch.nr_pmu_counters"  # 8 bits in C, five in the state
DEBUG_OWNER = "vcpu->arch.debug_owner"  # 32 bits in C, two in the state
HYP_COPY = "hyp_vcpu->vcpu."  # EL2's copy of the vCPU, in protected mode
HYP_OWNER = f"{HYP_COPY}arch.debug_owner"
OWNERS = {DEBUG_OWNER: "debug_owner", HYP_OWNER: "hyp_debug_owner"}
ENUMERATORS = {"VCPU_DEBUG_FREE": DebugOwner.FREE, "VCPU_DEBUG_HOST_OWNED": DebugOwner.HOST,
               "VCPU_DEBUG_GUEST_OWNED": DebugOwner.GUEST}  # fmt: skip
NOT_INJECTED = "no exception goes to the guest hypervisor"
DEBUG_PTR = "vcpu->arch.debug_ptr"  # lifted as a number: 0 is vcpu_debug_state, 1 is external_debug_state
# state variable: the macros that may name its bit, newest first
FLAGS: dict[str, tuple[str, ...]] = {
    "debug_dirty": ("DEBUG_DIRTY", "KVM_ARM64_DEBUG_DIRTY"),
    "ss_active_pending": ("DBG_SS_ACTIVE_PENDING", "HOST_SS_ACTIVE_PENDING"),
    "guest_ss_pending": ("GUEST_SS_ACTIVE_PENDING",),
}
# flags that no state variable stands for one by one: adjust_pc is either of them
PENDING: dict[str, tuple[str, ...]] = {
    "INCREMENT_PC": ("INCREMENT_PC", "KVM_ARM64_INCREMENT_PC"),
    "PENDING_EXCEPTION": ("PENDING_EXCEPTION", "KVM_ARM64_PENDING_EXCEPTION"),
}
LOADED = "SYSREGS_ON_CPU"  # the guest's registers of EL1 are on the CPU: VHE, while a vCPU is loaded
ON_CPU = "PMUSERENR_ON_CPU"  # the guest's PMUSERENR_EL0 is on the CPU, from v6.4
UNMODELLED: dict[str, tuple[str, ...]] = {**PENDING, ON_CPU: (ON_CPU,)}
SYSREGS: dict[str, tuple[str, ...]] = {LOADED: (LOADED,)}
PC = "vcpu->arch.ctxt.regs.pc"  # no state variable, but no instruction may be passed without its step being counted
_MOVED = {  # before v5.9, v5.1, v4.10
    f"{_HOST}.host_ctxt.sys_regs[MDSCR_EL1]": ("percpu.kvm_host_cpu_state.sys_regs[MDSCR_EL1]",),
    f"{_HOST}.host_ctxt.sys_regs[PMUSERENR_EL0]": ("percpu.kvm_host_cpu_state.sys_regs[PMUSERENR_EL0]",),
    "vcpu->arch.ctxt.regs.pstate": ("vcpu->arch.ctxt.gp_regs.regs.pstate",),
    PC: ("vcpu->arch.ctxt.gp_regs.regs.pc",),
    "vcpu->arch.host_debug_state.regs": tuple(f"vcpu->arch.host_debug_state.dbg_{kind}" for kind in KINDS),
}
_BITS = {"vcpu->arch.ctxt.regs.pstate": PSTATE.mask()}


def modelled(flags: Mapping[str, Flag]) -> tuple[Lvalue, ...]:
    """Every lvalue in memory that is modelled, for the search for who writes it (``formal.kernel.effects``).

    Args:
        flags: the flags of the tree, ``UNMODELLED`` ones included.
    """
    named = [lvalue for lvalues in (*REGISTERS.values(), *BANKS.values()) for lvalue in lvalues]
    named += [DEBUG_PTR, PMU_COUNTERS, PC, *OWNERS]
    found = [Lvalue(path, name, _BITS.get(name, ALL)) for name in named for path in (name, *_MOVED.get(name, ()))]
    found += [Lvalue(flag.lvalue, f"{flag.lvalue}#{name}", 1 << flag.bit) for name, flag in flags.items()]
    return tuple(lvalue for lvalue in found if not lvalue.path.startswith("hw."))


def element_of(lvalue: str) -> tuple[str, int] | None:
    """The bank and index of a break- or watchpoint register in C; None for other lvalues."""
    if found := _HARDWARE.fullmatch(lvalue):
        return "hw_bank", KINDS.index(found[1]) << 4 | int(found[2])
    if found := _ELEMENT.fullmatch(lvalue):
        bank = next((name for name, lvalues in BANKS.items() if {found[1], f"{found[1]}.regs"} & {*lvalues}), None)
        return None if bank is None else (bank, KINDS.index(found[2]) << 4 | int(found[3]))
    return None


def _with_pmuv3(value: Term, s: State) -> Term:
    """A value of ID_AA64DFR0_EL1 with PMUv3 of any version that the state allows: the first, where it has none."""
    field, late = t.const(0xF << _PMUVER[1], 64), t.const(8 << _PMUVER[1], 64)
    first = t.const(1 << _PMUVER[1], 64)
    if "pmuv3p8" in s.values:
        value = If(s.pmuv3p8, value | late, value & ~late)
        first = If(s.pmuv3p8, late, first)
    version = t.extract(value, *_PMUVER)
    none = Or(Eq(version, t.const(0, 4)), Eq(version, t.const(0xF, 4)))
    return If(none, (value & ~field) | first, value)


def allowed(s: State) -> Term:
    """What every state satisfies: debug_owner is one of its enumerators; only a guest with an EL2 has guests."""
    owner = t.And(*(Ne(s.values[name], t.const(3, 2)) for name in OWNERS.values() if name in s.values))
    return t.And(owner, Or(Not(s.nested), s.has_nv)) if s.may_nest else owner


def _of_nested(s: State) -> dict[str, Term]:
    """What C variables hold that say whether the guest is a hypervisor, and whether its guest runs."""
    if not s.may_nest:
        return {}
    return {HAS_EL2: s.has_nv, NESTED: s.nested, "cap.ARM64_HAS_FGT": s.has_fgt, INJECTED: t.const(0, 32)}


@dataclass(frozen=True)
class Flag:
    """Where a flag is kept."""

    lvalue: str
    bit: int


def flags_of(tree: Sources, wanted: Mapping[str, tuple[str, ...]] = FLAGS, gaps: Gaps | None = None) -> dict[str, Flag]:
    """The flags that this tree has.

    Raises:
        NotUnderstoodError: if a macro is defined in a form that is not known, and that is not noted.
    """
    gaps = gaps or Gaps()
    text, file, word = tree.read(KVM_HOST), KVM_HOST, "flags"
    if re.search(r"\bdebug_flags;", text):  # before v4.17
        text, file, word = tree.read(_KVM_ASM), _KVM_ASM, "debug_flags"
    found: dict[str, Flag] = {}
    for variable, names in wanted.items():
        for name in names:
            define = definition(text, name)
            if define is None:
                continue
            lvalue, mask = place(define[0], word)
            if mask is None or mask.bit_count() != 1:
                with gaps.at("", writes=name):
                    raise NotUnderstoodError(file, define[1], f"{name} is defined in an unknown form: {define[0]}")
                break
            found[variable] = Flag(lvalue, mask.bit_length() - 1)
            break
    return found


def understood(tree: Sources, wanted: Mapping[str, tuple[str, ...]]) -> dict[str, Flag]:
    """The same, without those that are defined in a form that is not known: of these nothing is taken for granted."""
    return flags_of(tree, wanted, Gaps(noted=True))


def owners_of(program: Program, gaps: Gaps | None = None) -> dict[DebugOwner, int]:
    """The numbers that a tree has for who owns the debug registers, from v6.14 on: the enumerators of that member.

    Raises:
        NotUnderstoodError: if they are not told, or a new vCPU, which is all zero, has an owner; and that is not noted.
    """
    found = {who: int(who) for who in DebugOwner}
    with (gaps or Gaps()).at("", writes="debug_owner"):
        unit = program.resolver.unit(f"{KVM}/debug.c")
        with suppress(KeyError):
            arch, name = Object("it", "pointee", unit.records["kvm_vcpu_arch"]), DEBUG_OWNER.removeprefix("vcpu->arch")
            own = program.layout(unit).type_at(arch, name).get_canonical().get_declaration()
            told = {c.spelling: c.enum_value for c in own.get_children() if c.kind == Kind.ENUM_CONSTANT_DECL}
            told = told or unit.enumerators
            numbers = {who: told.get(name) for name, who in ENUMERATORS.items()}
            if numbers[DebugOwner.FREE] != 0 or None in numbers.values() or len({*numbers.values()}) != len(numbers):
                reason = f"debug_owner is one of {numbers}: not one number each, FREE 0"
                raise NotUnderstoodError(KVM_HOST, own.location.line, reason)
            found = {who: value for who, value in numbers.items() if value is not None}
    return found


def misplaced(program: Program, variables: Iterable[str]) -> Iterator[Gap]:
    """Those of some state variables that this tree keeps at none of the places where they are known to be."""
    unit = program.resolver.unit(f"{KVM}/debug.c")
    layout, text = program.layout(unit), program.tree.read(f"{KVM}/debug.c")
    records = {"vcpu->": "kvm_vcpu", f"{_HOST}.": "kvm_host_data"}

    def there(lvalue: str) -> bool:
        place = lvalue.partition("[")[0]
        for start, record in records.items():
            if place.startswith(start):
                with suppress(KeyError):
                    layout.locate(Object("it", "pointee", unit.records[record]), f".{place.removeprefix(start)}")
                    return True
                return False
        found = re.search(rf"DEFINE_PER_CPU\w*\([^;]*\b{place.removeprefix('percpu.')}\)", text)
        return found is not None or not place.startswith("percpu.")

    known = {**REGISTERS, **BANKS, "debug_ptr_external": (DEBUG_PTR,), "debug_owner": (DEBUG_OWNER,)}
    for name in variables:
        places = [p for lvalue in known.get(name, ()) for p in (lvalue, *_MOVED.get(lvalue, ()))]
        if places and not any(map(there, places)):
            reason = f"{name} is not kept where it is known to be ({places[0]})"
            yield Gap(KVM_HOST, 0, reason, frozenset(("",)), frozenset((name,)))


def _owner(who: Mapping[DebugOwner, Term]) -> Term:
    """The owner in the state, of which it is known for each whether it is that."""
    free, host, guest = (t.const(o, 2) for o in (DebugOwner.FREE, DebugOwner.HOST, DebugOwner.GUEST))
    return If(who[DebugOwner.HOST], host, If(who[DebugOwner.GUEST], guest, free))


@dataclass(frozen=True)
class Effect:
    """A lifted function as a change of the state."""

    values: Mapping[str, Term]  # state variable: its value afterwards
    elements: Mapping[tuple[str, int], Term]  # (bank, index): its value afterwards
    side_conditions: Mapping[str, Term]  # what must hold besides, such as other bits of a flags word staying


@dataclass(frozen=True)
class Binding:
    """The binding of one tree."""

    flags: Mapping[str, Flag]
    owners: Mapping[DebugOwner, int] = field(default_factory=lambda: {who: int(who) for who in DebugOwner})
    _by_lvalue: Mapping[str, str] = field(
        default_factory=lambda: {lvalue: v for v, lvalues in REGISTERS.items() for lvalue in lvalues}
    )

    @staticmethod
    def of(program: Program, gaps: Gaps | None = None) -> Binding:
        """The binding of a tree.

        Raises:
            NotUnderstoodError: if what it says of its flags or owners is not understood, and that is not noted.
        """
        return Binding(flags_of(program.tree, gaps=gaps), owners_of(program, gaps))

    def before(self, lifted: Lifted, s: State) -> dict[str, Term]:
        """For every C variable that a lifted term uses: its value in a state, by the name of the variable.

        Raises:
            NotUnderstoodError: if a C type has another width than its state variable.
        """
        found: dict[str, Term] = {**GIVEN, **_of_nested(s)}
        for lvalue, variable in lifted.reads.items():
            value = self._read(lifted, lvalue, variable, s)
            if value is not None:
                found[lvalue] = value  # the variable of an lvalue has the lvalue's name
        return found

    def _read(self, lifted: Lifted, lvalue: str, variable: Term, s: State) -> Term | None:
        if lvalue in self._by_lvalue:
            if self._by_lvalue[lvalue] not in s.values:
                return None  # of nested virtualization, which this kernel does not have
            value = s.values[self._by_lvalue[lvalue]]
            if value.sort != variable.sort:
                raise NotUnderstoodError(
                    lifted.file, lifted.line, f"{lvalue} has sort {variable.sort}, its state variable {value.sort}"
                )
            return value
        if element := element_of(lvalue):
            bank = s.values[element[0]]
            assert isinstance(bank.sort, tuple)
            return t.select(bank, t.const(element[1], bank.sort[0]))
        if lvalue == ID_REGISTER:
            return _with_pmuv3(variable | t.const(_ALL_BREAKPOINTS, 64), s)
        if lvalue == PMU_COUNTERS and s.may_nest:
            return t.zero_extend(s.nr_pmu_counters, t.width(variable))
        if lvalue in COUNTED:
            return t.const(0xF, t.width(variable))
        if lvalue in OWNERS and OWNERS[lvalue] in s.values:
            return self._number(s.values[OWNERS[lvalue]], t.width(variable))
        if lvalue == DEBUG_PTR:
            return If(s.debug_ptr_external, t.const(1, t.width(variable)), t.const(0, t.width(variable)))
        here = [(name, flag.bit) for name, flag in self.flags.items() if flag.lvalue == lvalue]
        if not here:
            return None
        word = variable
        for name, bit in here:
            mask = t.const(1 << bit, t.width(variable))
            word = If(s.values[name], word | mask, word & ~mask)
        return word

    def _number(self, owner: Term, bits: int) -> Term:
        """The C's number for an owner."""
        numbers = {who: t.const(number, bits) for who, number in self.owners.items()}
        if all(number == who for who, number in self.owners.items()):
            return t.zero_extend(owner, bits)
        found = numbers[DebugOwner.FREE]
        for who, one in numbers.items():
            found = If(Eq(owner, t.const(who, 2)), one, found)
        return found

    def after(self, lifted: Lifted, s: State, given: Mapping[str, Term] | None = None) -> Effect:
        """What a lifted function does to a state; ``given`` are values of C variables that are not in the state."""
        mapping = self.before(lifted, s) | dict(given or {})
        done: dict[Term, Term] = {}
        values: dict[str, Term] = {}
        conditions: dict[str, Term] = {}
        elements: dict[tuple[str, int], Term] = {}
        for lvalue, term in lifted.writes.items():
            value = substitute(term, mapping, done)
            if lvalue in self._by_lvalue:
                if self._by_lvalue[lvalue] in s.values:
                    values[self._by_lvalue[lvalue]] = value
            elif element := element_of(lvalue):
                elements[element] = value
            elif lvalue == INJECTED:
                conditions[NOT_INJECTED] = Eq(value, t.const(0, t.width(value)))
            elif lvalue in OWNERS:
                who = {o: Eq(value, t.const(number, t.width(value))) for o, number in self.owners.items()}
                values[OWNERS[lvalue]] = _owner(who)
                conditions[f"{OWNERS[lvalue]} is one of its enumerators"] = Or(*who.values())
            elif lvalue == DEBUG_PTR:
                own, external = t.const(0, t.width(value)), t.const(1, t.width(value))
                values["debug_ptr_external"] = Eq(value, external)
                conditions["debug_ptr points to one of the two banks"] = Or(Eq(value, own), Eq(value, external))
            elif here := {name: flag.bit for name, flag in self.flags.items() if flag.lvalue == lvalue}:
                values |= {name: Eq(t.extract(value, b, b), t.const(1, 1)) for name, b in here.items()}
                others = t.const(~sum(1 << b for b in here.values()), t.width(value))
                before = mapping[lvalue]
                conditions[f"other bits of {lvalue} stay"] = Eq(value & others, before & others)
        return Effect(values, elements, conditions)

    def models(self, lvalue: str) -> bool:
        """Whether a C lvalue is (part of) a state variable."""
        flags = any(flag.lvalue == lvalue for flag in self.flags.values())
        named = lvalue in self._by_lvalue or lvalue in (DEBUG_PTR, INJECTED, *OWNERS)
        return named or flags or element_of(lvalue) is not None

    def decides(self, name: str) -> bool:
        """Whether a state variable stands for a C lvalue here, so that only C code changes it."""
        return name in REGISTERS or name in ("debug_ptr_external", *OWNERS.values()) or name in self.flags

    def stores(self, lifted: Lifted) -> tuple[frozenset[str], tuple[str, ...]]:
        """What a function stores to: state variables, and lvalues that have none."""
        variables: set[str] = set()
        others: list[str] = []
        for lvalue in lifted.writes:
            here = {name for name, flag in self.flags.items() if flag.lvalue == lvalue}
            if lvalue in self._by_lvalue:
                variables.add(self._by_lvalue[lvalue])
            elif element := element_of(lvalue):
                variables.add(element[0])
            elif lvalue == DEBUG_PTR:
                variables.add("debug_ptr_external")
            elif lvalue in OWNERS:
                variables.add(OWNERS[lvalue])
            elif here:
                variables |= here
            else:
                others.append(lvalue)
        return frozenset(variables), tuple(others)

    def width(self, lifted: Lifted, lvalue: str) -> int | None:
        """The width of an lvalue that a function uses, in bits."""
        variable = lifted.reads.get(lvalue)
        return None if variable is None or variable.sort == BOOL else t.width(variable)
