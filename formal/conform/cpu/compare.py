"""What the table says about an access beside what the CPU did: which outcomes are allowed, and which one came.

The table is asked once for each access, with symbols for the controls (``formal.arch.traps.outcome``); the terms that
come back, of which few are distinct, are evaluated on the numbers of each setting
(``formal.logic.evaluation.evaluate``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from formal.arch.aarch32 import OPTIONAL
from formal.arch.fgt import HDFGRTR2_EL2, HDFGRTR_EL2, HDFGWTR2_EL2, HDFGWTR_EL2
from formal.arch.registers import HCR_EL2, MDCR_EL2, MDSCR_EL1, PMUSERENR_EL0
from formal.arch.traps import Controls, Outcome
from formal.conform.cpu.identify import Cpu
from formal.conform.cpu.points import DONE_CALL, Point
from formal.conform.cpu.points32 import Point32
from formal.conform.cpu.settings import Setting
from formal.conform.machine.blob import decode
from formal.logic import terms as t
from formal.logic.evaluation import evaluate, support
from formal.logic.terms import Term, Value

_UNKNOWN, _SVC, _HVC, _SYSREG = 0x00, 0x15, 0x16, 0x18  # exception classes (Arm ARM D24.2, ESR_ELx.EC)
_IL = 1 << 25

AnyPoint = Point | Point32


@dataclass(frozen=True)
class Difference:
    """Something that the CPU did otherwise than the model says."""

    subject: str  # the access, or the debug exception
    setting: str
    expected: str
    why: str  # what decided it
    observed: str
    register: str = ""  # as in the table; empty for a debug exception
    el: int = 1
    write: bool = False
    pmuserenr: int = 0
    t9: bool = False  # HSTR_EL2.T9
    unlocked: bool = False  # a debug exception with the OS lock locked came out as the model says of an unlocked one


@dataclass
class Result:
    """What the comparison of a CPU found."""

    outcomes: Counter[str] = field(default_factory=Counter)
    accesses: int = 0
    choices: int = 0  # where the architecture allows more than one outcome
    differences: list[Difference] = field(default_factory=list)
    reached: set[str] = field(default_factory=set)  # registers of which some access was not UNDEFINED


def syndromes(point: AnyPoint, host: bool) -> dict[int, Outcome]:
    """By the result of the probe, the outcome that it shows; a result that is not here shows none of them.

    ``host`` is HCR_EL2.TGE: exceptions from EL0 that would go to EL1 go to EL2. Of a trapped access, EC, ISS (register
    and direction, Rt = X0), IL and the address must all be right; SPSR_ELx.SS is 0.
    """

    if isinstance(point, Point32):
        return point.syndromes(host)

    def result(el: int, ec: int, iss: int, at: int) -> int:
        return el << 48 | at << 32 | ec << 26 | _IL | iss

    above = 2 if host else 1  # where exceptions from EL0 go that nothing routes
    done = (2, _HVC) if point.access.el else (above, _SVC)
    return {
        result(above, _UNKNOWN, 0, 0): Outcome.UNDEF,
        result(1, _SYSREG, point.iss, 0): Outcome.EL1,
        result(2, _SYSREG, point.iss, 0): Outcome.EL2,
        result(*done, DONE_CALL, 2): Outcome.EXECUTED,
    }


def _symbolic(cpu: Cpu) -> Controls:
    """Controls that are symbols, apart from what the CPU is."""
    return Controls(
        mdcr_el2=MDCR_EL2(t.var("mdcr_el2", 64)),
        mdscr_el1=MDSCR_EL1(t.var("mdscr_el1", 64)),
        hcr_el2=HCR_EL2(t.var("hcr_el2", 64)),
        cptr_el2_tta=t.var("cptr_el2_tta", t.BOOL),
        cpacr_el1_tta=t.var("cpacr_el1_tta", t.BOOL),
        pmuserenr_el0=PMUSERENR_EL0(t.var("pmuserenr_el0", 64)),
        pmselr_el0_sel=t.var("pmselr_el0_sel", 5),
        pmcr_el0_n=t.const(cpu.counters, 5),
        hdfgrtr_el2=HDFGRTR_EL2(t.var("hdfgrtr_el2", 64)),
        hdfgwtr_el2=HDFGWTR_EL2(t.var("hdfgwtr_el2", 64)),
        hdfgrtr2_el2=HDFGRTR2_EL2(t.var("hdfgrtr2_el2", 64)),
        hdfgwtr2_el2=HDFGWTR2_EL2(t.var("hdfgwtr2_el2", 64)),
        unpredictable=t.var("unpredictable", 2),
        features=cpu.features,
        implemented=cpu.implemented,
    )


def _values(setting: Setting) -> dict[str, Value]:
    read, write, read2, write2 = setting.fgt
    return {
        "mdcr_el2": setting.mdcr,
        "mdscr_el1": setting.mdscr,
        "hcr_el2": setting.hcr,
        "cptr_el2_tta": setting.cptr_tta,
        "cpacr_el1_tta": setting.cpacr_tta,
        "pmuserenr_el0": setting.pmuserenr,
        "pmselr_el0_sel": setting.sel,
        "hdfgrtr_el2": read,
        "hdfgwtr_el2": write,
        "hdfgrtr2_el2": read2,
        "hdfgwtr2_el2": write2,
        "hstr_el2_t9": setting.t9,
        "unpredictable": int(Outcome.UNDEF),
    }


class Table:
    """The trap table for one CPU: the outcomes that the architecture allows under a setting.

    It allows several for an event counter that does not exist, without FEAT_FGT (CONSTRAINED UNPREDICTABLE: UNDEFINED,
    ignored, or trapped; Arm ARM D24.5, PMEVCNTR<n>_EL0), for a reserved HPMN (how many counters are accessible is
    UNKNOWN; D24.3, MDCR_EL2), for OSDLR_EL1 without FEAT_DoubleLock (IMPLEMENTATION DEFINED; D24.3, OSDLR_EL1), and for
    what is OPTIONAL in AArch32 where EL1 cannot use it (``formal.arch.aarch32``).
    """

    def __init__(self, cpu: Cpu, points: Sequence[AnyPoint]) -> None:
        self.cpu = cpu
        plain = _symbolic(cpu)
        t9 = t.var("hstr_el2_t9", t.BOOL)
        other = replace(plain, features=plain.features | {"IMPDEF_OSDLR_EL1_TRAP"})
        self._terms: dict[AnyPoint, tuple[Term, ...]] = {}
        for p in points:
            free = p.register.name == "OSDLR_EL1" and "FEAT_DoubleLock" not in cpu.features
            absent = (t.const(Outcome.UNDEF, 2),) if not cpu.aarch32_el1 and p.register.name in OPTIONAL else ()
            self._terms[p] = tuple(p.outcome(c, t9) for c in ([plain, other] if free else [plain])) + absent
        self._setting: Setting | None = None
        self._known: dict[tuple[Term, ...], frozenset[Outcome]] = {}

    def allowed(self, point: AnyPoint, setting: Setting) -> frozenset[Outcome]:
        """The outcomes that are allowed."""
        if setting is not self._setting:
            self._setting, self._known = setting, {}
            self._worlds = list(self._choices(setting))
        terms = self._terms[point]
        if terms not in self._known:
            free = any("unpredictable" in support(term) for term in terms)
            self._known[terms] = frozenset(
                Outcome(int(evaluate(term, {**world, "unpredictable": choice})))  # type: ignore[arg-type]
                for term in terms
                for world in self._worlds
                for choice in ((Outcome.UNDEF, Outcome.EXECUTED, Outcome.EL2) if free else (Outcome.UNDEF,))
            )
        return self._known[terms]

    def _choices(self, setting: Setting) -> Iterator[dict[str, Value]]:
        values = _values(setting)
        hpmn = setting.mdcr & MDCR_EL2.mask("HPMN")
        yield values
        if "FEAT_FGT" not in self.cpu.features and setting.sel >= self.cpu.counters:
            yield {**values, "pmselr_el0_sel": 0}  # a counter that does not exist may act as one that does
        if hpmn > self.cpu.counters or (hpmn == 0 and "FEAT_HPMN0" not in self.cpu.features):
            for n in (0, self.cpu.counters):
                yield {**values, "mdcr_el2": setting.mdcr - hpmn + n}


def compare(cpu: Cpu, runs: Sequence[tuple[Setting, Sequence[AnyPoint]]], results: Sequence[int]) -> Result:
    """Every access under every setting, in the order in which the probe made them."""
    table = Table(cpu, list(dict.fromkeys(p for _, points in runs for p in points)))
    shows: dict[tuple[AnyPoint, bool], dict[int, Outcome]] = {}
    found = Result(accesses=len(results))
    rest = iter(results)
    for setting, points in runs:
        for point in points:
            raw = next(rest) & ~(1 << 51)  # FAR_ELx means nothing here
            host = setting.tge and point.access.el == 0
            if (point, host) not in shows:
                shows[point, host] = syndromes(point, host)
            observed = shows[point, host].get(raw)
            expected = table.allowed(point, setting)
            found.choices += len(expected) > 1
            found.outcomes[observed.name if observed is not None else "OTHER"] += 1
            if observed is not Outcome.UNDEF:
                found.reached.add(point.name)
            if observed not in expected:
                found.differences.append(_difference(point, setting, cpu, expected, raw, observed))
    return found


def _difference(
    point: AnyPoint, setting: Setting, cpu: Cpu, expected: frozenset[Outcome], raw: int, observed: Outcome | None
) -> Difference:
    a = point.access
    return Difference(
        str(point),
        setting.label,
        " or ".join(o.name for o in sorted(expected)),
        point.decided_by(setting.controls(cpu), setting.t9),
        observed.name if observed is not None else str(decode(raw)),
        point.name,
        a.el,
        a.write,
        setting.pmuserenr,
        setting.t9,
    )
