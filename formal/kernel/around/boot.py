"""The boot code of a CPU, executed from its assembler text: what it leaves in MDCR_EL2.

The model takes it that the boot code gives the guest all counters that the CPU has, and traps nothing of the host's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from formal.arch.registers import MDCR_EL2
from formal.epochs import Kernel
from formal.kernel.around.a64 import Execution, Write, assembler, expressions
from formal.kernel.effects import assembly
from formal.kernel.errors import Gaps, NotUnderstoodError
from formal.kernel.lift.program import Program
from formal.kernel.recognition.rules import Rule, belonging
from formal.kernel.text.assembler import ASM, OUTSIDE, Line
from formal.logic import terms as t
from formal.logic.evaluation import evaluate, nodes, support
from formal.logic.terms import BOOL, FALSE, TRUE, And, Eq, Implies, Not, Or, Term, Value

_HEAD, _STUB, _SETUP = "arch/arm64/kernel/head.S", "arch/arm64/kernel/hyp-stub.S", f"{ASM}/el2_setup.h"
_BOOT = "cpu_boot"  # the operation
_STARTS = ("primary_entry", "stext"), ("secondary_entry",)  # where the first CPU starts, and where others do
_REGISTER, _LEVEL = "mdcr_el2", "hw.currentel"
_EL2 = 2 << 2  # CurrentEL at EL2 (Arm ARM C5.2.2)
_FEATURES = t.var("hw.id_aa64dfr0_el1", 64)  # PMUVer is in bits 11 to 8, PMSVer in 35 to 32 (Arm ARM D24)
_PMCR = t.var("hw.pmcr_el0", 64)  # N is in bits 15 to 11
_VHE = t.var("hw.id_aa64mmfr1_el1", 64)  # VH is in bits 11 to 8
_MOST = 7  # the greatest PMUVer that is not negative where it is read as a signed field
_OWNERS = "E2PB", "E2TB"  # of the profiling buffer and of the trace buffer
_MAY = MDCR_EL2.mask("HPMN", *_OWNERS)


def assumed(program: Program) -> tuple[str, ...]:
    """What of this is taken for granted of a tree."""
    if not _there(program, _HEAD):
        return (f"{_HEAD} is missing: what the boot code leaves in MDCR_EL2 is not read",)
    late = {"hw.id_aa64dfr0_el1": (_MOST + 1) << 8, "hw.pmcr_el0": 6 << 11, _LEVEL: _EL2}
    try:
        ends = [end for run in _runs(program, _HEAD) for end in run.ends]
    except NotUnderstoodError:  # of which rules() tells
        return ()
    for end in ends:
        lost = And(end.guard, Not(Eq(_field(end.system(_REGISTER), "HPMN"), t.const(6, 5))))
        if _example(lost, late):
            return (f"{end.line.file}: PMUVer is less than {_MOST + 1}: from there on the boot code leaves HPMN at 0",)
    return ()


def rules(program: Program, k: Kernel, gaps: Gaps) -> Iterator[Rule]:
    """What must hold of the boot code."""
    if not _there(program, _HEAD):
        return
    with gaps.at(_BOOT):
        yield from belonging((_BOOT,), _leaves(program, k))
    with gaps.at(_BOOT):
        yield from belonging((_BOOT,), _starts(program))
    if _there(program, _STUB):
        with gaps.at(_BOOT):
            yield from belonging((_BOOT,), _upgrades(program, k))


def _leaves(program: Program, k: Kernel) -> Iterator[Rule]:
    """A CPU that comes up at EL2 gets HPMN from PMCR_EL0.N, and no trap of the host's."""
    at_el2 = Eq(t.var(_LEVEL, 64), t.const(_EL2, 64))
    version = t.extract(_FEATURES, 11, 8)
    counted = And(t.ule(t.const(1, 4), version), t.ule(version, t.const(_MOST, 4)))
    may = _MAY | (MDCR_EL2.mask("TPMS") if k.vhe else 0)  # up to v5.10 the host at EL2 keeps others from it
    chosen = Eq(t.extract(_VHE, 11, 8), t.const(0, 4)) if _asks_for_vhe(program) else TRUE
    chosen = Not(chosen) if k.vhe and chosen is not TRUE else chosen
    ends = [end for run in _runs(program, _HEAD) for end in run.ends]
    places = [write.line for write in _writes(program, _HEAD)]
    for end in ends:
        value, here = end.system(_REGISTER), And(end.guard, at_el2, chosen)
        line = places[-1] if places else end.line
        hpmn = Eq(_field(value, "HPMN"), t.extract(_PMCR, 15, 11))
        yield _rule("the boot code sets MDCR_EL2.HPMN to PMCR_EL0.N", line, Implies(And(here, counted), hpmn))
        free = Eq(value & t.const(~may & (1 << 64) - 1, 64), t.const(0, 64))
        yield _rule("the boot code traps nothing of the host's by MDCR_EL2", line, Implies(here, free))
        if not k.vhe and k.traps_profiling:  # before v4.10 no kernel has a use for the buffer
            sampling = Not(Eq(t.extract(_FEATURES, 35, 32), t.const(0, 4)))
            owner = Implies(And(here, sampling), Eq(_field(value, "E2PB"), t.const(3, 2)))
            yield _rule("the boot code gives the profiling buffer to EL1", line, owner)
    for run in _runs(program, _HEAD):
        if not any(_LEVEL in support(end.guard) for end in run.ends):
            line = run.ends[0].line if run.ends else Line("", _HEAD, 1)
            yield _rule("the function that finds out the level a CPU comes up at sets MDCR_EL2", line, FALSE)
    if not ends:
        yield _rule("the boot code writes MDCR_EL2", Line("", _HEAD, 1), FALSE)


def _rule(says: str, line: Line, holds: Term) -> Rule:
    return Rule(says, line.file, line.number, holds, untimely=False)


def _starts(program: Program) -> Iterator[Rule]:
    """Each CPU that starts calls the function that sets MDCR_EL2, before it goes on elsewhere."""
    functions = assembler(program).functions(_HEAD)
    writing = {name for name, lines in functions.items() if any(map(_names, lines))}
    for names in _STARTS:
        for name in [one for one in names if one in functions][:1] if writing else ():
            lines = functions[name]
            run = Execution(lines, program.resolver.evaluated(expressions(lines)))
            called = Or(*(call.guard for call in run.calls if call.name in writing))
            line = next((call.line for call in run.calls if call.name in writing), lines[0])
            reached = And(*(Implies(end.guard, called) for end in run.ends))
            yield _rule(f"{name} calls what sets MDCR_EL2", line, reached)
        if not functions.keys() & set(names):
            yield _rule(f"{' or '.join(names)} is where a CPU starts", Line("", _HEAD, 1), FALSE)


def _upgrades(program: Program, k: Kernel) -> Iterator[Rule]:
    """On the way from EL1 to EL2 the buffers become EL2's, and nothing else of MDCR_EL2 changes."""
    writes = _writes(program, _STUB)
    kept = t.const(~MDCR_EL2.mask(*_OWNERS) & (1 << 64) - 1, 64)
    says = "the way to EL2 gives the buffers to EL2, and keeps the rest of MDCR_EL2"
    for write in writes:
        gone = [Implies(_given(program, name), Eq(_field(write.value, name), t.const(0, 2))) for name in _OWNERS]
        yield _rule(says, write.line, And(*gone, Eq(write.value & kept, write.before & kept)))
    if k.vhe and k.traps_profiling and not writes and not _asks_for_vhe(program):
        yield _rule(says, Line("", _STUB, 1), Not(_given(program, "E2PB")))


def _given(program: Program, name: str) -> Term:
    """Whether a CPU that comes up at EL2 gives a buffer to EL1."""
    ends = [end for run in _runs(program, _HEAD) for end in run.ends]
    at_el2 = Eq(t.var(_LEVEL, 64), t.const(_EL2, 64))
    return Or(*(And(end.guard, at_el2, Not(Eq(_field(end.system(_REGISTER), name), t.const(0, 2)))) for end in ends))


def _asks_for_vhe(program: Program) -> bool:
    """Whether the boot code itself chooses between the two, as up to v5.10: shown where there is a profiling buffer.

    From v5.11 on a CPU that can do either comes up as one that cannot, and may be upgraded later.
    """
    if _writes(program, _STUB):
        return False
    buffer = {str(_FEATURES.data): 1 << 32, _LEVEL: _EL2}
    ends = [end for run in _runs(program, _HEAD) for end in run.ends]

    def left(vh: int) -> list[Value]:
        given = {**buffer, str(_VHE.data): vh << 8}
        return [_example(end.system(_REGISTER), given) for end in ends if _example(end.guard, given)]

    return left(0) != left(1)


def _example(term: Term, given: Mapping[str, int]) -> Value:
    """The value of a term where all that is not given is 0."""
    named = [v for v in nodes((term,)) if v.op == "var"]
    return evaluate(term, {str(v.data): given.get(str(v.data), False if v.sort == BOOL else 0) for v in named})


def _writes(program: Program, file: str) -> list[Write]:
    return [write for run in _runs(program, file) for write in run.writes if write.name == _REGISTER]


def _runs(program: Program, file: str) -> list[Execution]:
    """The functions of a file that write MDCR_EL2, executed."""
    return program.keep(("boot", file), lambda: _executed(program, file), lambda runs: frozenset((file, _SETUP)))


def _executed(program: Program, file: str) -> list[Execution]:
    found: list[Execution] = []
    for name, lines in assembler(program).functions(file).items():
        here = next((line for line in lines if _names(line)), None)
        if here is not None and name == OUTSIDE:
            raise NotUnderstoodError(here.file, here.number, "MDCR_EL2 outside of a function")
        if here is not None:
            found.append(Execution(lines, program.resolver.evaluated(expressions(lines))))
    return found


def _names(line: Line) -> bool:
    text = f"{line.text}\n{line.behind}"
    return _REGISTER in text.lower() or _REGISTER in assembly.registers(text)


def _there(program: Program, file: str) -> bool:
    return (program.tree.path / file).is_file()


def _field(value: Term, name: str) -> Term:
    mask = MDCR_EL2.mask(name)
    low = (mask & -mask).bit_length() - 1
    return t.extract(value, mask.bit_length() - 1, low)
