"""Debug exceptions: the cases that are probed, and what ``formal.arch.exceptions`` says of each.

A case is a short program at EL1 or EL0 under one combination of MDCR_EL2.TDE, HCR_EL2.TGE and E2H, the MDE, KDE and SS
bits of MDSCR_EL1, PSTATE.D, SPSR_EL2.SS and the OS locks. ``predict`` walks through the program: before each
instruction it asks the model whether the step machine lets it run; the first exception ends the walk. What the model
leaves to the caller is written here: which exception an instruction makes, its syndrome, and SPSR_ELx.SS.

Source: Arm ARM (DDI 0487), chapter D2, sections "Routing debug exceptions", "Breakpoint exceptions", "Watchpoint
exceptions", "Software Step exceptions" (with their priority, and the syndrome in ESR_ELx); D24.2, ESR_ELx.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from formal.arch import exceptions as model
from formal.arch.registers import HCR_EL2, MDCR_EL2, MDSCR_EL1, PSTATE
from formal.conform.cpu.compare import Difference
from formal.conform.cpu.identify import Cpu
from formal.conform.cpu.settings import HCR_RW
from formal.conform.machine import asm
from formal.conform.machine.blob import X0, Blob, Place, Run, State, Taken, decode
from formal.logic import terms as t
from formal.logic.terms import Term

_CALL, _BRK = 1, 0x1234  # immediates
_VECTOR = Place(0x400 // 4, in_vectors=True)  # synchronous, from a lower Exception level in AArch64
_STEP, _BREAKPOINT, _WATCHPOINT, _BRK_EC, _SVC_EC, _HVC_EC = 0x32, 0x30, 0x34, 0x3C, 0x15, 0x16
_DEBUG_FSC = 0x22  # "debug exception" in IFSC and DFSC
_ISV = 1 << 24
# E, and EL1 and EL0 (PMC or PAC 0b11, HMC 0); all bytes; a watchpoint on loads and stores
_BCR = 1 | 3 << 1 | 0xF << 5
_WCR = 1 | 3 << 1 | 3 << 3 | 0xFF << 5

# kind: the instructions at EL1, and at EL0; "call" is HVC at EL1 and SVC at EL0
PROGRAMS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "BRK": (("brk",), ("brk",)),
    "step": (("nop", "call"), ("nop", "call")),
    "step of a call": (("call",), ("call",)),
    "step over ERET": (("eret", "at EL0", "nop", "call"), ()),
    "breakpoint": (("nop", "call"), ("nop", "call")),
    "watchpoint": (("load", "call"), ("load", "call")),
}
LOCKS = ("unlocked", "OS lock", "OS double lock")


@dataclass(frozen=True)
class Case:
    """One program under one combination."""

    kind: str
    el: int
    tde: bool
    tge: bool
    e2h: bool
    mde: bool
    kde: bool
    ss: bool
    d: bool
    spsr_ss: bool
    lock: str

    def __str__(self) -> str:
        on = [n.upper() for n in ("tde", "tge", "e2h", "mde", "kde", "ss", "d") if getattr(self, n)]
        return f"{' '.join(on) or 'no bit'}, SPSR_EL2.SS {self.spsr_ss:d}, {self.lock}"

    @property
    def program(self) -> tuple[str, ...]:
        """What runs."""
        return PROGRAMS[self.kind][0 if self.el else 1]

    @property
    def mdcr(self) -> MDCR_EL2:
        """MDCR_EL2, apart from HPMN."""
        return MDCR_EL2.of(TDE=self.tde)

    @property
    def mdscr(self) -> MDSCR_EL1:
        """MDSCR_EL1."""
        return MDSCR_EL1.of(MDE=self.mde, KDE=self.kde, SS=self.ss)

    @property
    def hcr(self) -> HCR_EL2:
        """HCR_EL2."""
        return HCR_EL2(t.const(HCR_RW, 64)).but(TGE=self.tge, E2H=self.e2h)

    @property
    def spsr(self) -> PSTATE:
        """SPSR_EL2 for the entry, the fields that the model knows."""
        return PSTATE.of(SS=self.spsr_ss, D=self.d, EL=self.el)


def cases(cpu: Cpu) -> Iterator[Case]:
    """Every combination that the CPU has."""
    hosts = [(False, False), (True, False)]
    hosts += [(False, True), (True, True)] if cpu.vhe else []
    locks = LOCKS if "FEAT_DoubleLock" in cpu.features else LOCKS[:2]
    flags = list(product((False, True), repeat=6))
    for kind, (at_el1, at_el0) in PROGRAMS.items():
        for el, (tge, e2h), lock, (tde, mde, kde, ss, d, spsr_ss) in product((1, 0), hosts, locks, flags):
            if (at_el1 if el else at_el0) and not (el == 1 and tge):
                yield Case(kind, el, tde, tge, e2h, mde, kde, ss, d, spsr_ss, lock)


_ENCODED = {"brk": asm.brk(_BRK), "nop": asm.NOP, "eret": asm.ERET, "load": asm.LDR_X1_X0, "at EL0": asm.NOP}


def code(base: int) -> tuple[list[int], dict[tuple[str, int], int]]:
    """The programs after ``base`` instructions of other code, and where each begins."""
    text: list[int] = []
    begins: dict[tuple[str, int], int] = {}
    for kind, programs in PROGRAMS.items():
        for el, program in zip((1, 0), programs, strict=True):
            begins[kind, el] = base + len(text)
            below = el == 0 or "at EL0" in program
            call = asm.svc(_CALL) if below else asm.hvc(_CALL)
            text += [_ENCODED.get(op, call) for op in program]
    return text, begins


def run(case: Case, begins: int) -> Run:
    """The trip."""
    spsr = t.value_of(case.spsr.raw) | 0x1C0 | (1 if case.el else 0)  # A, I, F; EL1h
    return Run(begins, spsr, X0.WATCHED)


def state(case: Case, begins: int, blob: Blob, cpu: Cpu) -> State:
    """What EL2 sets up."""
    address = blob.address(begins)
    return State(
        mdcr_el2=t.value_of(case.mdcr.raw) | cpu.counters,
        hcr_el2=t.value_of(case.hcr.raw),
        cptr_el2=3 << 20 | 3 << 16 if case.e2h else 0x33FF & ~(1 << 10),
        mdscr_el1=t.value_of(case.mdscr.raw),
        oslar_el1=int(case.lock == LOCKS[1]),
        osdlr_el1=int(case.lock == LOCKS[2]),
        dbgbvr0_el1=address if case.kind == "breakpoint" else 0,
        dbgbcr0_el1=_BCR if case.kind == "breakpoint" else 0,
        dbgwvr0_el1=blob.watched if case.kind == "watchpoint" else 0,
        dbgwcr0_el1=_WCR if case.kind == "watchpoint" else 0,
        elr_el1=address + 8,  # after the ERET
        spsr_el1=0x1C0 | case.spsr_ss << 21,  # EL0, debug exceptions unmasked
    )


@dataclass(frozen=True)
class Predicted:
    """The exception that the model expects; ``iss`` without the bits that ``iss_mask`` leaves out."""

    el: int
    ec: int
    iss: int
    place: Place
    ss: bool
    far: bool = False
    iss_mask: int = 0x1FF_FFFF

    def matches(self, seen: Taken) -> bool:
        """Whether this is what the CPU did."""
        return (
            (self.el, self.ec, self.place, self.ss) == (seen.el, seen.ec, seen.place, seen.ss)
            and self.iss == seen.iss & self.iss_mask
            and (seen.far_is_watched or not self.far)
        )

    def __str__(self) -> str:
        return f"to EL{self.el}, EC {self.ec:#04x}, ISS {self.iss:#x}, at {self.place}, SPSR.SS {self.ss:d}"


def predict(case: Case) -> Predicted:
    """The exception that ends the program."""
    mdcr, mdscr, tge, locked = case.mdcr, case.mdscr, case.hcr.TGE, t.boolean(case.lock != LOCKS[0])
    debug_el = 2 if _holds(model.goes_to_el2(mdcr, tge)) else 1
    p = case.spsr.but(SS=model.eret_ss(mdcr, mdscr, locked, case.spsr, tge))
    stepped = False
    for at, op in enumerate(case.program):
        el = t.value_of(p.EL)
        same = el == debug_el  # the syndromes of exceptions without a change of Exception level are one higher
        if op == "at EL0":
            continue
        if not _holds(model.may_execute(mdcr, mdscr, locked, p, tge)):
            iss = _DEBUG_FSC | (_ISV if stepped else 0)
            return Predicted(debug_el, _STEP + same, iss, Place(at), _holds(p.SS))
        matching = (case.kind == "breakpoint" and at == 0) or op == "load"
        if matching and _holds(model.breakpoint_enabled(mdcr, mdscr, locked, p, tge)):
            ec = _WATCHPOINT if op == "load" else _BREAKPOINT
            mask = 0x7F if op == "load" else 0x1FF_FFFF  # WPT and what else may be told of a watchpoint is left out
            return Predicted(debug_el, ec + same, _DEBUG_FSC, Place(at), _holds(p.SS), op == "load", mask)
        if op == "brk":  # goes where debug exceptions go, whatever MDSCR_EL1, PSTATE.D and the locks say
            return Predicted(debug_el, _BRK_EC, _BRK, Place(at), _holds(p.SS))
        before, p = p, p.but(SS=model.retires_ss(mdcr, mdscr, locked, p, tge))
        stepped = _holds(model.step_state(mdcr, mdscr, locked, before, tge).active_not_pending)
        if op == "call":
            return _call(case, el, at, p, locked)
        if op == "eret":
            spsr = PSTATE.of(SS=case.spsr_ss, EL=0)
            source, target = (model.enabled(mdcr, mdscr, locked, q, tge) for q in (before, spsr))
            p = spsr.but(SS=model.eret_ss_from(source, target, mdscr, spsr))
    raise AssertionError(f"{case.kind} does not end with a call")


def _call(case: Case, el: int, at: int, p: PSTATE, locked: Term) -> Predicted:
    """HVC or SVC has been executed. The vector at EL1 is another place where the step machine may stop the guest."""
    if el == 1:
        return Predicted(2, _HVC_EC, _CALL, Place(at + 1), _holds(p.SS))
    taken = Predicted(2 if case.tge else 1, _SVC_EC, _CALL, Place(at + 1), _holds(p.SS))
    vector = PSTATE.of(EL=1, D=True)  # PSTATE.SS is 0 after an exception
    if not case.tge and not _holds(model.may_execute(case.mdcr, case.mdscr, locked, vector, case.hcr.TGE)):
        # whether ISV is set after a step that took an exception is left out
        return Predicted(2, _STEP, _DEBUG_FSC, _VECTOR, ss=False, iss_mask=0x3F)
    return taken


def _holds(term: Term) -> bool:
    return bool(t.value_of(term))


def compare(probed: Sequence[Case], results: Sequence[int]) -> list[Difference]:
    """Every case, in the order in which the probe ran them."""
    found: list[Difference] = []
    for case, result in zip(probed, results, strict=True):
        expected, seen = predict(case), decode(result)
        if not expected.matches(seen):
            unlocked = case.lock == LOCKS[1] and predict(replace(case, lock=LOCKS[0])).matches(seen)
            found.append(
                Difference(
                    case.kind,
                    str(case),
                    str(expected),
                    "formal.arch.exceptions",
                    str(seen),
                    el=case.el,
                    unlocked=unlocked,
                )
            )
    return found
