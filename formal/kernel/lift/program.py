"""The front end's face: load a tree, lift functions of it.

    program = load(KernelTree("linux-source-6.1"))
    lifted = program.lift("kvm_arm_setup_debug", mode="vhe")
    lifted.writes["vcpu->arch.mdcr_el2"]     # a Term over the variables in lifted.reads
    lifted.obligations                       # what must not happen, each with its condition and C line
    lifted.events                            # every store in program order: guard, lvalue, value, place
    program.constants["MDCR_EL2_TDA"]        # masks, as the tree's headers have them

Names of memory are C expressions over a few roots: parameters (``vcpu->...``), ``percpu.<variable>`` (this CPU's),
``hw.<register>`` (the hardware's), global variables. ``cap.<NAME>`` answers a CPU capability question,
``sanitised.<register>`` the kernel's system-wide view of an ID register. A ``_Bool`` is a Boolean term; a pointer with
a rule (``POINTERS``) is the number of its target (0, 1; 2 at the start: somewhere else; 3 at the end: somewhere new).
Whatever is not understood raises ``NotUnderstoodError`` with file, line and reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, TypeVar

from formal import epochs
from formal.kernel.errors import NotUnderstoodError
from formal.kernel.lift.calls import HOST_CONTEXT, Calls
from formal.kernel.lift.layout import Layout
from formal.kernel.lift.machine import Cell, Event, Frame, Obligation, PointerRule
from formal.kernel.lift.pointers import OUTLINED, POINTERS, Mode
from formal.kernel.lift.values import NULL, Address, Object, Pointer, Unknown, Value, from_truth, is_unknown, pointer_to
from formal.kernel.parse import clang, encodings
from formal.kernel.parse.clang import Cursor, Kind, Type
from formal.kernel.parse.resolve import NESTED, Resolver
from formal.kernel.parse.units import TranslationUnit
from formal.kernel.source.tree import KVM, KernelTree, Sources
from formal.kernel.text import signs
from formal.logic import terms as t
from formal.logic.evaluation import support
from formal.logic.terms import BOOL, Term

TIMERS = re.compile(r"hw\.cnt\w+$")  # not modelled: whether their value is set on every path does not matter
T = TypeVar("T")
_FIRST = ("sys_regs switch debug arm guest handle_exit reset mmio sysreg-sr debug-sr").split()  # the longest first
MASKS = (
    "MDCR_EL2_HPMN_MASK MDCR_EL2_TPM MDCR_EL2_TPMCR MDCR_EL2_TDE MDCR_EL2_TDA MDCR_EL2_TDOSA "
    "MDCR_EL2_TDRA MDCR_EL2_TPMS MDCR_EL2_TTRF MDCR_EL2_HPME MDCR_EL2_E2PB_MASK MDCR_EL2_E2PB_SHIFT "
    "MDCR_EL2_E2TB_MASK MDCR_EL2_E2TB_SHIFT DBG_MDSCR_SS DBG_MDSCR_KDE DBG_MDSCR_MDE DBG_SPSR_SS "
    "KVM_GUESTDBG_ENABLE KVM_GUESTDBG_SINGLESTEP KVM_GUESTDBG_USE_SW_BP KVM_GUESTDBG_USE_HW "
    "KVM_GUESTDBG_VALID_MASK SYS_OSLSR_OSLK OSLSR_EL1_OSLK SYS_OSLAR_OSLK OSLAR_EL1_OSLK "
    "KVM_ARM64_DEBUG_DIRTY ARMV8_PMU_USERENR_MASK ARMV8_PMU_PMCR_N_SHIFT ARMV8_PMU_PMCR_N_MASK "
    "KVM_ARM_MAX_DBG_REGS KVM_HOST_DATA_FLAG_L1_VNCR_MAPPED"
).split()
Argument = str | int | Term | None


@dataclass(frozen=True)
class Lifted:
    """What a C function does, as terms over the values that it finds."""

    name: str
    file: str
    line: int
    mode: Mode
    reads: Mapping[str, Term]  # every lvalue used: the variable that stands for its value at the start
    writes: Mapping[str, Term]  # every lvalue stored to: its value at the end
    pointer_writes: Mapping[str, tuple[tuple[Term, str], ...]]  # pointers stored: guard, target (an lvalue or NULL)
    result: Term | None
    returns: Term  # the condition under which the function returns at all
    obligations: tuple[Obligation, ...]
    events: tuple[Event, ...]
    notes: tuple[str, ...]  # assumptions of the lifting
    bodies: frozenset[tuple[str, str]]  # the functions that were executed, and their files
    unknowns: Mapping[str, Unknown] = field(default_factory=dict)  # variable: the place that it stands for
    points: tuple[tuple[Term, str], ...] = ()  # a pointer that is returned: guard, target (an lvalue or NULL)
    left_out: frozenset[str] = frozenset()  # functions that are called, and not executed
    when: Term = t.TRUE  # the runs that this is about, where it is a part of a function

    @property
    def functions(self) -> frozenset[str]:
        """The names of the functions that were executed."""
        return frozenset(name for name, _ in self.bodies)

    def unknowns_in(self, term: Term) -> tuple[Unknown, ...]:
        """The places that are not understood on which a term depends."""
        return tuple(self.unknowns[name] for name in sorted(support(term)) if name in self.unknowns)


class _Lifter(Calls):
    """One lifting: the machine, with the program's definitions."""

    def __init__(
        self,
        program: Program,
        unit: TranslationUnit,
        mode: Mode,
        rules: Mapping[str, PointerRule],
        presets: Mapping[str, Term],
    ) -> None:
        layout = program.layout(unit)
        objects = {"vcpu": Object("vcpu", "pointee", unit.records["kvm_vcpu"])} if "kvm_vcpu" in unit.records else {}
        own = [("percpu.kvm_host_data", "kvm_host_data"), (HOST_CONTEXT, "kvm_cpu_context")]  # the latter before v5.1
        for name, record in [of for of in own if of[1] in unit.records][:1]:
            objects[name] = Object(name, "percpu", unit.records[record])
        super().__init__(layout, objects, dict(rules), presets)
        self.program, self.vhe, self.mode = program, mode == "vhe", mode
        self.nests = self.vhe and program.nests
        self.capabilities, self.registers = program.capabilities, program.registers
        self.breaks, self.continues = [], []
        self.unit, self.modelled = unit, program.modelled

    def definition(self, callee: Cursor, cursor: Cursor) -> Cursor | None:
        return self.program.resolver.definition(callee, cursor, self.mode)

    def outlined(self, name: str) -> tuple[Cursor, ...]:
        parts = OUTLINED.get(name, {}).get(self.mode, ())
        return tuple(self.program.resolver.find(part, self.mode)[1] for part in parts)

    def source(self, cursor: Cursor) -> tuple[str, int, str]:
        return self.program.resolver.source(cursor)

    def function_named(self, name: str, cursor: Cursor) -> Cursor:
        found = self.unit.functions.get(name)
        if found is None:
            raise self.refusal(cursor, f"{name}() is not defined in the files read")
        return found

    def may_write(self, cursor: Cursor) -> Collection[str] | None:
        callee = clang.callee(cursor)
        known = callee is not None and callee.kind == Kind.FUNCTION_DECL
        return self.program.may_write(callee if known else cursor, self.mode)

    def word(self) -> Type:
        return self.unit.records["__lift_word"]

    def place_of(self, lvalue: str) -> tuple[Address, Type]:
        address = self.address(lvalue)
        return address, self.layout.type_at(address.object, lvalue.removeprefix(address.object.name))

    def at_el2(self, cursor: Cursor) -> bool:
        return self.vhe or self.program.resolver.hyp_at(cursor) == "nvhe"

    def spelled(self, cursor: Cursor) -> str:
        return self.program.resolver.spelled(cursor)

    def is_tracepoint(self, name: str, cursor: Cursor) -> bool:
        return self.program.resolver.is_tracepoint(name, cursor)


class Program:
    """The files of a tree that have been parsed so far, and what is lifted from them."""

    def __init__(self, resolver: Resolver, capabilities: Mapping[int, str], registers: encodings.Registers) -> None:
        self.resolver, self.capabilities, self.registers = resolver, capabilities, registers
        self._kept: dict[Hashable, tuple[frozenset[str], Any]] = {}
        # what a function that is not lifted may write (by its declaration, or by the call through a pointer)
        self.may_write: Callable[[Cursor, Mode], Collection[str] | None] = lambda callee, mode: None
        self.modelled: Callable[[str], bool] = lambda lvalue: True

    def keep(self, key: Hashable, make: Callable[[], T], made_from: Callable[[T], frozenset[str]]) -> T:
        """What ``make`` gives, made once; ``made_from`` names the functions and files that it depends on."""
        if key not in self._kept:
            value = make()
            self._kept[key] = made_from(value), value
        found: T = self._kept[key][1]
        return found

    def kept(self, kind: str) -> dict[tuple[Any, ...], Any]:
        """What is kept of a kind at present, by key."""
        return {key: value for key, (_, value) in self._kept.items() if isinstance(key, tuple) and key[0] == kind}

    def lifted(self) -> list[str]:
        """The functions that have been lifted so far."""
        return list(dict.fromkeys(found.name for found in self.kept("lift").values()))

    def forget(self, file: str, functions: Collection[str] | None = None) -> None:
        """A file was changed in place: it is read again when it is needed, and what was made from it is made again.

        Args:
            functions: the functions that were changed, if the change lies inside them.
        """
        self.resolver.forget(file)
        for key, (names, _) in list(self._kept.items()):
            if functions is None or file in names or not names.isdisjoint(functions):
                del self._kept[key]

    @property
    def tree(self) -> Sources:
        """Where the source comes from: the kernel tree."""
        return self.resolver.tree

    @property
    def helpers(self) -> frozenset[str]:
        """Functions of the tree's own that are read where they are called."""
        return self.tree.helpers if isinstance(self.tree, KernelTree) else frozenset()

    @property
    def nests(self) -> bool:
        """Whether the tree has nested virtualization as it is modelled: from v6.18 on, under VHE."""
        files = frozenset(file for file, _ in signs.NESTING)
        return self.keep("nests", lambda: signs.nesting(self.tree).value, lambda _: files)

    def release(self) -> None:
        """Lets go of what was parsed and lifted; what is needed again is made again."""
        self.resolver.release()
        self._kept.clear()

    def preload(self, files: Iterable[str], jobs: int = 2) -> None:
        """Parses files side by side (libclang works outside Python's lock)."""
        clang.share_memory()
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(self._parsed, files))

    def _parsed(self, file: str) -> None:
        with suppress(NotUnderstoodError):  # it is parsed again where it is needed, and refused where it is missed
            self.resolver.unit(file)

    def layout(self, unit: TranslationUnit) -> Layout:
        """Names for the types of a file."""
        return Layout(unit.enums)

    @cached_property
    def constants(self) -> dict[str, int]:
        """The values of ``MASKS`` that this tree defines."""
        return dict(self.resolver.unit(f"{KVM}/debug.c").constants)

    def functions(self, file: str = f"{KVM}/debug.c") -> list[str]:
        """The functions that a file of the tree itself defines, in its order."""
        return self.resolver.functions_of(file)

    def defines(self, name: str, mode: Mode, file: str | None = None) -> bool:
        """Whether the tree has a function of this name, where ``lift`` looks for it."""
        return self.resolver.defines(name, mode, file)

    def lift(
        self,
        name: str,
        mode: Mode,
        file: str | None = None,
        arguments: Mapping[str, Argument] | None = None,
        rules: Mapping[str, PointerRule] | None = None,
        memory: Mapping[str, int | str | Term] | None = None,
        unknowns: bool = False,
        names: Mapping[str, str] | None = None,
    ) -> Lifted:
        """What a function does.

        Args:
            name: the function.
            mode: whether the host runs at EL2 (``vhe``) or at EL1.
            file: where it is defined; found if not given.
            arguments: values of parameters: an lvalue that it points to, a number, an enumerator's name, a term,
                ``None`` for NULL. A parameter that is not given is unknown; a pointer then has an object of its own.
            memory: values that lvalues are known to have at the start, such as ``{"r->reg": "MDSCR_EL1"}``.
            rules: what pointers in memory may point to; ``POINTERS`` if not given.
            unknowns: what is not understood may be a variable of its own (``Lifted.unknowns``); else it is refused
                wherever what the function writes or returns, or whether something bad happens, depends on it.
            names: what parameters are called, by the structure that they point to, or by their type.

        Raises:
            NotUnderstoodError: with file, line and reason.
        """
        given = (tuple((x or {}).items()) for x in (arguments, rules, memory, names))
        key = ("lift", name, mode, file, *given, unknowns)
        make = partial(self._lift, name, mode, file, arguments, rules, memory, unknowns, names or {})
        return self.keep(key, make, lambda lifted: lifted.functions)

    def _lift(
        self, name: str, mode: Mode, file: str | None, arguments: Mapping[str, Argument] | None,
        rules: Mapping[str, PointerRule] | None, memory: Mapping[str, int | str | Term] | None, unknowns: bool,
        names: Mapping[str, str],
    ) -> Lifted:  # fmt: skip
        unit, function = self.resolver.find(name, mode, file)
        presets = {lvalue: _preset(unit, value) for lvalue, value in (memory or {}).items()}
        machine = _Lifter(self, unit, mode, POINTERS if rules is None else rules, presets)
        values = [_parameter(machine, unit, p, (arguments or {}), names) for p in function.get_arguments()]
        try:
            result = machine.enter(function, values)
        except NotUnderstoodError as error:
            raise NotUnderstoodError(self.tree.relative(error.file), error.line, error.reason) from error
        return _collected(self.tree, machine, function, mode, result, unknowns)


def _preset(unit: TranslationUnit, value: int | str | Term) -> Term:
    """A value for memory; the machine fits its width."""
    if isinstance(value, Term):
        return value
    return t.const(unit.enumerators[value] if isinstance(value, str) else value, 64)


def _parameter(
    machine: _Lifter, unit: TranslationUnit, parameter: Cursor, given: Mapping[str, Argument],
    names: Mapping[str, str] | None = None,
) -> Value:  # fmt: skip
    kind, known = parameter.type, names or {}
    whole = kind.get_canonical().get_pointee() if clang.is_pointer(kind) else kind.get_canonical()
    name = known.get(whole.get_declaration().spelling or whole.spelling, parameter.spelling)
    if name in given:
        argument = given[name]
        if argument is None:
            return NULL
        if isinstance(argument, Term):
            return from_truth(argument, clang.bits(kind)) if argument.sort == BOOL else argument
        if isinstance(argument, str) and argument in unit.enumerators:
            argument = unit.enumerators[argument]
        if isinstance(argument, int):
            return t.const(argument, clang.bits(kind))
        return Pointer(((t.TRUE, machine.address(argument)),))
    if clang.is_pointer(kind):
        pointee = kind.get_canonical().get_pointee()
        if pointee.get_declaration().spelling == "kvm_vcpu":
            return pointer_to(machine.objects["vcpu"])
        if pointee.get_declaration().spelling == "kvm_run":  # until v5.7 handlers get it beside the vCPU
            machine.notes[f"{parameter.spelling} is vcpu->run"] = None
            return pointer_to(Object("vcpu->run", "pointee", pointee))
        return pointer_to(Object(name, "pointee", pointee))
    if clang.is_bool(kind):
        return from_truth(t.var(name, BOOL), clang.bits(kind))
    return t.var(name, clang.bits(kind))


def _collected(
    tree: Sources, machine: _Lifter, function: Cursor, mode: Mode, result: Value | None, unknowns: bool
) -> Lifted:
    file, line = tree.relative(clang.file_of(function)), function.location.line
    lasting = [key for key in machine.initial if key[0].place not in ("local", "text")]
    stored = [key for key in lasting if machine.state.memory.get(key, machine.initial[key]) is not machine.initial[key]]
    written = {event.lvalue for event in machine.events}
    stored += [key for key in lasting if key not in stored and machine.names[key] in written]
    final = {key: machine.state.memory.get(key, machine.initial[key]) for key in stored}
    writes = {machine.names[key]: machine.exported(key, value) for key, value in final.items()}
    pointers = {machine.names[key]: _targets(machine, key, v) for key, v in final.items() if isinstance(v, Pointer)}
    value = result if isinstance(result, Term) else None
    ours = [term for lvalue, term in writes.items() if not TIMERS.match(lvalue)]
    returned = [value, machine.state.live] if value is not None else [machine.state.live]
    checked = [*ours, *(o.condition for o in machine.obligations), *returned]
    missing: dict[str, Unknown] = {}
    for term in checked:
        for name in support(term):
            if name.startswith("undefined "):
                raise NotUnderstoodError(file, line, f"{name.split('#')[0].split()[-1]} may be used before it is set")
            if is_unknown(name):
                missing[name] = machine.unknowns[name]
    if missing and not unknowns:
        first = next(iter(missing.values()))
        raise NotUnderstoodError(first.file, first.line, first.reason)
    later = (term for e in machine.events for term in (e.guard, e.value))
    missing |= {name: machine.unknowns[name] for term in later for name in support(term) if is_unknown(name)}
    return Lifted(
        name=function.spelling, file=file, line=line, mode=mode,
        reads={machine.names[key]: machine.exported(key, machine.initial[key]) for key in lasting},
        writes=writes, pointer_writes=pointers, result=value, returns=machine.state.live,
        obligations=tuple(
            Obligation(o.condition, o.risk, o.text, tree.relative(o.file), o.line) for o in machine.obligations
        ),
        events=tuple(
            Event(e.guard, e.lvalue, e.value, tuple(_relative(tree, f) for f in e.stack)) for e in machine.events
        ),
        notes=tuple(machine.notes), bodies=frozenset((name, tree.relative(file)) for name, file in machine.entered),
        unknowns=missing, points=_named(machine, function.result_type, result) if isinstance(result, Pointer) else (),
    )  # fmt: skip


def _relative(tree: Sources, frame: Frame) -> Frame:
    return Frame(frame.function, tree.relative(frame.file), frame.line)


def _targets(machine: _Lifter, key: Cell, pointer: Pointer) -> tuple[tuple[Term, str], ...]:
    return _named(machine, machine.types[key], pointer)


def _named(machine: _Lifter, kind: Type, pointer: Pointer) -> tuple[tuple[Term, str], ...]:
    pointee = kind.get_canonical().get_pointee()
    size = 8 if pointee.kind == clang.TypeKind.VOID else max(1, clang.bits(pointee) // 8)
    return tuple((g, "NULL" if a is None else machine.layout.name(a, size)) for g, a in pointer.choices)


def side_of(mode: epochs.Mode) -> Mode:
    """The hypervisor that runs in a mode."""
    return "vhe" if mode is epochs.Mode.VHE else "nvhe"


def files_for(tree: KernelTree, *sides: Mode) -> tuple[str, ...]:
    """What is parsed in any case for some hypervisors, side by side: the host's files, and theirs."""
    found = dict.fromkeys(file for side in sides for file in tree.build.files(side))
    by_name = [file for name in _FIRST for file in found if file.endswith(f"/{name}.c")]
    return tuple(file for file in by_name if not file.startswith("virt/kvm/arm/vgic/"))


def load(tree: KernelTree, files: Iterable[str] = (), jobs: int = 2) -> Program:
    """A program of the tree; ``files`` are parsed at once, others when they are needed."""
    registers = encodings.Registers([tree.read("arch/arm64/include/asm/sysreg.h"), tree.generated("asm/sysreg-defs.h")])
    program = Program(Resolver(tree, MASKS), encodings.capability_names(tree.path), registers)
    wanted = list(files)
    program.preload(wanted, jobs)
    if program.nests and any(tree.build.hyp_of(file, "vhe") == "vhe" for file in wanted):
        program.preload(NESTED, jobs)
    return program
