"""What the world switch puts aside of a CPU's debug, profiling and trace registers that are no part of the state.

MDCCINT_EL1, and under nVHE what controls SPE, TRBE and BRBE. The functions of both halves are executed one after the
other, as the world switch calls them, for every state of the CPU. Which registers these are is read off what is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile

from formal.epochs import Kernel
from formal.kernel.compare.behaviours import DEBUG_C
from formal.kernel.errors import NotUnderstoodError
from formal.kernel.lift.pointers import Mode
from formal.kernel.lift.program import Lifted, Program
from formal.kernel.model.passage import GUEST, RUN, whole
from formal.kernel.recognition.rules import MODELLED, Rule
from formal.kernel.recognition.skeleton import skeleton
from formal.logic import terms as t
from formal.logic.evaluation import substitute, support
from formal.logic.terms import And, Eq, If, Term

# what the halves call: of these, those that a tree has
_BUFFERS = ("__debug_save_host_buffers_nvhe", "__debug_restore_host_buffers_nvhe")
_HALVES = (_BUFFERS[0], "__debug_switch_to_guest"), ("__debug_switch_to_host", _BUFFERS[1])
_RUNS: Mapping[Mode, tuple[str, ...]] = {
    "vhe": ("__kvm_vcpu_run_vhe", "kvm_vcpu_run_vhe"),
    "nvhe": (RUN, "__kvm_vcpu_run_nvhe"),
}
_OF_GUEST, _REGISTER = "vcpu->arch.ctxt.", "hw."
_ALL, _NONE, _SOME = (t.const(value, 64) for value in ((1 << 64) - 1, 0, 0x5555_5555_5555_5555))

Values = Mapping[str, Term]


@dataclass(frozen=True)
class _Unit:
    """What samples or traces: the register that starts it, the one that enables its buffer, and how a CPU tells of it.

    ``field`` is the lowest bit of its field in ID_AA64DFR0_EL1; bit 4 of ``owned`` says that a higher exception level
    keeps the buffer for itself (Arm ARM, PMBIDR_EL1.P and TRBIDR_EL1.P).
    """

    name: str
    starts: str
    field: int
    enables: str | None = None
    owned: str | None = None

    def there(self, values: Values) -> Term:
        """Whether the CPU has it, for KVM to use."""
        value = values.get(_ID, t.var(_ID, 64))
        there = t.Not(Eq(t.extract(value, self.field + 3, self.field), t.const(0, 4)))
        if self.owned is None:
            return there
        return And(there, Eq(t.extract(values.get(self.owned, t.var(self.owned, 64)), 4, 4), t.const(0, 1)))


_ID, _OWNER, _AT_INIT = "hw.id_aa64dfr0_el1", "kvm_enable_trbe", "kvm_debug_init_vhe"
_SPE = _Unit("SPE", "hw.pmscr_el1", 32, "hw.pmblimitr_el1", "hw.pmbidr_el1")
_TRBE = _Unit("TRBE", "hw.trfcr_el1", 44, "hw.trblimitr_el1", "hw.trbidr_el1")
_BRBE = _Unit("BRBE", "hw.brbcr_el1", 52)


def rules(program: Program, k: Kernel) -> Iterator[Rule]:
    """The host finds its registers again, the guest its own, and what is put aside does not go on meanwhile."""
    mode: Mode = "vhe" if k.vhe else "nvhe"
    try:
        yield from _rules(program, mode)
    except NotUnderstoodError:
        return  # assumed() says so


def assumed(program: Program, mode: Mode) -> tuple[str, ...]:
    """What of this is not looked at in a tree, and why."""
    try:
        found = [*_rules(program, mode)]
    except NotUnderstoodError as error:
        return (f"{error}: not looked at: what the world switch puts aside of other debug registers",)
    return () if found else ("not looked at: what the world switch puts aside of other debug registers",)


def _rules(program: Program, mode: Mode) -> Iterator[Rule]:
    run = next((name for name in _RUNS[mode] if program.defines(name, mode)), None)
    if run is None or whole(program, mode):
        return
    f = skeleton(program, run, mode, {GUEST, *_HALVES[0], *_HALVES[1]})
    there = [*takewhile(lambda call: call.name != GUEST, f.calls)]
    back = [call for call in f.calls[len(there) :] if call.name != GUEST]
    for name, made in zip(_BUFFERS, (there, back), strict=True):
        if mode == "nvhe" and program.defines(name, mode):
            guard = t.Or(*(call.guard for call in made if call.name == name))
            yield Rule(f"{run}() calls {name}()", f.file, f.line, guard, of=None)
    if {call.name for call in there} - {*_HALVES[0]} or {call.name for call in back} - {*_HALVES[1]}:
        yield Rule(
            f"{run}() calls what puts aside before {GUEST}(), and the rest after it", f.file, f.line, t.FALSE, of=None
        )
        return
    enters, leaves = ([program.lift(c.name, mode) for c in calls] for calls in (there, back))
    yield from _kept(enters, leaves)
    yield from _stopped(program, mode, enters)


def _stopped(program: Program, mode: Mode, enters: list[Lifted]) -> Iterator[Rule]:
    """What the host has running is stopped where the CPU has it, and its registers are left alone where it has not."""
    told = [f for name in program.functions(DEBUG_C) if _ID in (f := program.lift(name, mode, DEBUG_C)).reads]
    first = _first([*told, *enters])
    flags = {lvalue: t.const(0, t.width(first[lvalue])) for f in told for lvalue in f.writes if "flags" in lvalue}
    begun = _after(told, first | flags)
    trace = () if program.defines(_OWNER, mode) else (_TRBE,)  # from v6.14 on a driver says whether it uses that
    values = _after(enters, begun)
    for unit in (_SPE, _BRBE, *trace):
        if unit.starts in begun and enters:
            file, line, own = enters[0].file, enters[0].line, [r for r in (unit.starts, unit.enables) if r in begun]
            runs = And(unit.there(begun), *(_bit(begun[r]) for r in own if r == unit.enables))
            stopped = Eq(_with(values[unit.starts], begun[unit.starts], _ALL), _NONE)
            yield Rule(f"{unit.name} is stopped where the CPU has it", file, line, t.Implies(runs, stopped), of=None)
            others = [v for x, v in values.items() if x not in own and v.sort != t.BOOL]
            same = [_same(v, begun[r]) for r in own for v in others if str(begun[r].data) in support(v)]
            alone = And(*(Eq(values[r], begun[r]) for r in own), *same)
            yield Rule(f"{unit.name} is left alone where the CPU does not have it", file, line,
                       t.Or(unit.there(begun), alone), of=None)  # fmt: skip
    if mode == "vhe" and program.defines(_AT_INIT, mode):
        f = program.lift(_AT_INIT, mode, DEBUG_C)
        after = _after([f], first | begun | {x: v for x, v in f.reads.items() if x not in begun})
        found = [r for r in f.reads if r.startswith(_SPE.starts)]  # by its name at EL2
        left = [Eq(after[r], If(_SPE.there(begun), _NONE, f.reads[r])) for r in found] or [t.FALSE]
        yield Rule(f"{_AT_INIT}() clears PMSCR_EL1 where the CPU has SPE, and only there", f.file, f.line,
                   And(*left), of=None)  # fmt: skip


def _bit(value: Term) -> Term:
    """Whether bit 0 is set: E of PMBLIMITR_EL1 and TRBLIMITR_EL1."""
    return Eq(t.extract(value, 0, 0), t.const(1, 1))


def _first(functions: list[Lifted]) -> dict[str, Term]:
    """What is there before some functions: of all that they read or write."""
    found: dict[str, Term] = {}
    for f in functions:
        found = {**f.reads, **found}
    for lvalue, value in (item for f in functions for item in f.writes.items()):
        found.setdefault(lvalue, t.var(lvalue, value.sort))
    return found


def _kept(enters: list[Lifted], leaves: list[Lifted]) -> Iterator[Rule]:
    first = _first([*enters, *leaves])
    meanwhile = _after(enters, first)
    registers = [r for r in sorted(first) if r.startswith(_REGISTER) and not MODELLED.search(r)]
    mine = {r: [x for x in _guests(r, enters, leaves) if x in first] for r in registers}
    ran, loaded = dict(meanwhile), dict[str, Term]()
    for register in registers:
        for own in mine[register]:
            loaded[register] = t.Not(_same(meanwhile[register], first[own]))
            guests = t.var(f"the guest's {register}", t.width(first[register]))
            ran[register] = If(loaded[register], guests, meanwhile[register])
    last = _after(leaves, ran)
    of = leaves[-1] if leaves else enters[-1]
    for register in registers:
        name = register.removeprefix(_REGISTER).upper()
        yield Rule(f"the host finds {name} as it was before the guest ran", of.file, of.line,
                   Eq(last[register], first[register]), of=None)  # fmt: skip
        for own in mine[register]:
            kept = If(loaded[register], ran[register], first[own])
            yield Rule(f"the guest's {name} is loaded, and saved as the guest leaves it", of.file, of.line,
                       Eq(last[own], kept), of=None)  # fmt: skip
        free = _same(meanwhile[register], first[register])
        copies = [value for lvalue, value in sorted(meanwhile.items()) if not lvalue.startswith((_REGISTER, _OF_GUEST))]
        copied = [_copies(value, first[register]) for value in copies if _names(value, first[register])]
        if copied:
            yield Rule(f"the host's {name}, which is put aside, is not in the register while the guest runs",
                       enters[0].file, enters[0].line, t.Implies(t.Or(*copied), free), of=None)  # fmt: skip


def _guests(register: str, enters: list[Lifted], leaves: list[Lifted]) -> set[str]:
    """The lvalues of the guest's context that a register is loaded from, or saved to."""
    loads = {x for f in enters if register in f.writes for x in support(f.writes[register])}
    saves = {x for f in leaves for x, value in f.writes.items() if register in support(value)}
    return {x for x in loads | saves if x.startswith(_OF_GUEST)}


def _after(functions: list[Lifted], values: Values) -> dict[str, Term]:
    """The values after some functions, one after the other."""
    found = dict(values)
    for f in functions:
        done: dict[Term, Term] = {}
        mapping = {str(v.data): found[lvalue] for lvalue, v in f.reads.items() if lvalue in found}
        found |= {lvalue: substitute(value, mapping, done) for lvalue, value in f.writes.items()}
    return found


def _names(value: Term, variable: Term) -> bool:
    return t.width(value) == 64 == t.width(variable) and str(variable.data) in support(value)


def _copies(value: Term, variable: Term) -> Term:
    """Whether a value is that of a variable, whichever that is: of two values that are not 0 it follows them."""
    return And(*(Eq(_with(value, variable, chosen), chosen) for chosen in (_ALL, _NONE, _SOME)))


def _same(value: Term, variable: Term) -> Term:
    """Whether a value is the same, whichever a variable is."""
    return Eq(*(_with(value, variable, t.extract(v, t.width(variable) - 1, 0)) for v in (_ALL, _NONE)))


def _with(value: Term, variable: Term, chosen: Term) -> Term:
    return substitute(value, {str(variable.data): chosen})
