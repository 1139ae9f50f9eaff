"""``python -m formal.traps QUERY``: one access, asked for by register, instruction, encoding or syndrome.

For each Exception level and direction: what the architecture checks, in its order, until something stops the access;
and what each modelled release of KVM has it do. The first is ``formal.arch.traps``, with every control left open; the
second is the specification's MDCR_EL2 of that release, in three situations, put into it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from formal.arch import aarch32
from formal.arch import features as feat
from formal.arch.names import DEBUG_CLASSES, Named, Syndrome
from formal.arch.registers import KVM_GUESTDBG, MDCR_EL2, PMUSERENR_EL0
from formal.arch.settings import SETTABLE
from formal.arch.sysregs import SystemRegister
from formal.arch.traps import Access, Check, Controls, Outcome, checks, decide
from formal.epochs import EPOCHS, Epoch, Kernel, Mode
from formal.logic import terms as t
from formal.logic.evaluation import evaluate, support
from formal.ownership import setup_mdcr_el2_by_owner
from formal.state import VARIABLES, DebugOwner, State, symbolic
from formal.transitions import setup_mdcr_el2

SAYS = {
    Outcome.UNDEF: "UNDEFINED",
    Outcome.EL1: "taken to EL1",
    Outcome.EL2: "trapped to EL2",
    Outcome.EXECUTED: "executes",
}
COUNTERS = 6  # HPMN in the values of MDCR_EL2 that are made up here; the trap bits come before it
SITUATIONS = ("the guest leaves the debug registers alone", "it uses them", "user space debugs it")


@dataclass(frozen=True)
class Answer:
    """One access: what may stop it, in the order of the architecture, and what becomes of it in each release."""

    named: Named
    el: int
    write: bool
    stops: tuple[tuple[str, Outcome], ...]  # the last one may be certain: then the access never executes
    executes: bool
    releases: tuple[tuple[str, tuple[str, ...]], ...]  # releases: outcome and what decides it, in each situation

    def as_json(self) -> dict[str, object]:
        """The answer with the names that ``--json`` promises."""
        return {
            "register": self.named.spelled,
            "el": self.el,
            "access": "write" if self.write else "read",
            "checks": [{"when": why, "outcome": outcome.name.lower()} for why, outcome in self.stops],
            "may_execute": self.executes,
            "releases": [
                {"releases": releases, **dict(zip(SITUATIONS, found, strict=True))} for releases, found in self.releases
            ],
        }


def answers(names: Sequence[Named], levels: Sequence[int] = (1, 0)) -> list[Answer]:
    """Each access that the names stand for, from EL1 and EL0."""
    found = []
    for named in names:
        directions = (False, True) if named.write is None else (named.write,)
        for el in levels:
            found += [_answer(named, el, write) for write in directions]
    return found


def _answer(named: Named, el: int, write: bool) -> Answer:
    symbols = _open_controls()
    listed = [c for c in _checks(named, el, write, symbols) if "HCR_EL2.TGE" not in c.decided_by]
    stops = [
        (c.decided_by, Outcome(t.value_of(c.outcome)) if c.outcome.op == "const" else Outcome.UNDEF) for c in listed
    ]
    executes = not (listed and listed[-1].when is t.TRUE)
    return Answer(named, el, write, tuple(dict.fromkeys(stops)), executes, tuple(_releases(named, el, write)))


def _checks(named: Named, el: int, write: bool, c: Controls) -> Iterator[Check]:
    if named.line32 is not None:
        yield from aarch32.checks(aarch32.Access32(named.line32, write, el, _index(named), el == 1), c)
    else:
        yield from checks(Access(named.register.name, write, el, named.index), c)


def _index(named: Named) -> int | None:
    return named.index if named.register.indices else None


def _open_controls() -> Controls:
    """Every control may have any value, every feature is there, every index implemented; HCR_EL2 is 0."""
    fields = Controls.__dataclass_fields__
    registers = {name.lower(): r(t.var(name, 64)) for name, r in SETTABLE.items() if name.lower() in fields}
    numbers = {
        "pmselr_el0_sel": t.var("PMSELR_EL0.SEL", 5),
        "pmcr_el0_n": t.var("PMCR_EL0.N", 5),
        "spmselr_el0_syspmusel": t.var("SPMSELR_EL0.SYSPMUSEL", 5),
        "spmaccessr_el1": t.var("SPMACCESSR_EL1", 64),
        "spmaccessr_el2": t.var("SPMACCESSR_EL2", 64),
        "cptr_el2_tta": t.var("CPTR_EL2.TTA", t.BOOL),
        "cpacr_el1_tta": t.var("CPACR_EL1.TTA", t.BOOL),
    }
    mdcr = MDCR_EL2(t.var("MDCR_EL2", 64))
    plain = Controls(mdcr_el2=mdcr, features=feat.ALL)
    return replace(plain, **{**registers, **numbers, "hcr_el2": plain.hcr_el2})  # type: ignore[arg-type]


# ---- what each release does


def _releases(named: Named, el: int, write: bool) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Releases that agree share a line."""
    lines: dict[tuple[str, ...], list[Epoch]] = {}
    for epoch in EPOCHS.values():
        c = [_controls(epoch, situation) for situation in range(len(SITUATIONS))]
        lines.setdefault(tuple(_outcome(named, el, write, one) for one in c), []).append(epoch)
    for found, epochs in lines.items():
        yield _span(epochs), found


def _span(epochs: Sequence[Epoch]) -> str:
    """The releases of some epochs: neighbours as one range."""
    order = [e for e in EPOCHS.values() if not e.releases.endswith(".y")]  # a stable series is beside the line
    texts, run = [], []
    for epoch in [*order, None]:
        if epoch is not None and epoch in epochs:
            run.append(epoch)
        elif run:
            first, last = run[0].releases.split()[0], run[-1].releases.split()[-1]
            texts.append(first if first == last else f"{first} to {last}")
            run = []
    return ", ".join([*texts, *(e.releases for e in epochs if e not in order)])


def _outcome(named: Named, el: int, write: bool, c: Controls) -> str:
    if not feat.present(named.register.features, c.features):
        return "left to fine-grained traps, without which the register cannot exist; releases differ in them"
    if named.line32 is not None:
        outcome, why = aarch32.decide(aarch32.Access32(named.line32, write, el, _index(named), el == 1), c)
    else:
        outcome, why = decide(Access(named.register.name, write, el, named.index), c)
    return f"{SAYS[outcome]} ({why})" if outcome is not Outcome.EXECUTED else SAYS[outcome]


def _controls(epoch: Epoch, situation: int) -> Controls:
    """The controls while a guest runs: MDCR_EL2 as the release computes it; CPTR_EL2.TTA set,
    PMUSERENR_EL0 as KVM has it, and no fine-grained trap."""
    k = epoch.kernel(Mode.NVHE if epoch.modes == (Mode.NVHE,) else Mode.VHE)
    pmuserenr = PMUSERENR_EL0.of(ER=True, CR=True, SW=True, EN=True) if k.sets_pmuserenr else PMUSERENR_EL0.of()
    return Controls(
        mdcr_el2=MDCR_EL2(t.const(_mdcr(k, situation), 64)),
        pmuserenr_el0=pmuserenr,
        cptr_el2_tta=t.TRUE,
        features=feat.WITHOUT_FGT,
    )


def _mdcr(k: Kernel, situation: int) -> int:
    values = {**symbolic("vcpu", k, "v"), **symbolic("cpu", k, "p")}
    before = State(values)
    setup = setup_mdcr_el2_by_owner if k.tracks_debug_owner else setup_mdcr_el2
    term = setup(before, k).mdcr_el2.raw
    env: dict[str, int | bool] = {}
    for name in support(term):
        variable = VARIABLES[name.partition(".")[2]]
        env[name] = False if variable.sort(k) == t.BOOL else 0
    uses, debugs = situation == 1, situation == 2
    owner = DebugOwner.HOST if debugs else DebugOwner.GUEST if uses else DebugOwner.FREE
    given: Mapping[str, int | bool] = {
        "v.guest_debug": KVM_GUESTDBG.mask("ENABLE", "USE_HW") if debugs else 0,
        "v.debug_dirty": uses,
        "v.debug_owner": owner.value,
        "p.percpu_mdcr_el2": COUNTERS,
        "p.nr_event_counters": COUNTERS,
    }
    env |= {name: value for name, value in given.items() if name in env}
    value = evaluate(term, env)
    assert isinstance(value, int)
    return value


# ---- text


def text(found: Sequence[Answer], handler: Callable[[Named], str] | None = None) -> Iterator[str]:
    """The answers for a reader, a line at a time; ``handler`` says what a tree does with a trapped access."""
    of: SystemRegister | None = None
    for a in found:
        if a.named.register is not of:
            of = a.named.register
            yield f"{a.named.spelled}: {_what(a.named)}"
            if handler is not None:
                yield f"  KVM, once it is trapped: {handler(a.named)}"
        yield f"  {'write' if a.write else 'read'} at EL{a.el}"
        yield from (f"    {n}. {_reason(why)}: {SAYS[outcome]}" for n, (why, outcome) in enumerate(a.stops, 1))
        if a.executes:
            yield f"    {len(a.stops) + 1}. otherwise: executes"
        if [o for _, o in a.stops] == [Outcome.UNDEF] and not a.executes:
            continue  # whatever a release does
        for releases, outcomes in a.releases:
            yield f"    KVM {releases}:"
            if len(set(outcomes)) == 1:
                yield f"      {outcomes[0]}"
            else:
                yield from (f"      {s}: {o}" for s, o in zip(SITUATIONS, outcomes, strict=True))


def _what(named: Named) -> str:
    r = named.register
    if named.line32 is not None:
        line = named.line32
        parts = ", ".join("-" if n is None else str(n) for n in line.encoding(named.index if r.indices else None))
        acts = "" if r.name == line.name else f", acts as {r.spelled(named.index)}"
        return f"AArch32, coprocessor {line.coprocessor}, opc1, CRn, CRm, opc2 = {parts}{acts}"
    needs = f", needs {feat.spelled(r.features)}" if r.features else ""
    return "op0, op1, CRn, CRm, op2 = {}, {}, {}, {}, {}".format(*r.encoding(named.index)) + f"; {r.group}{needs}"


def _reason(why: str) -> str:
    """A check's reason as a condition: a field alone means that it is 1."""
    register, dot, field = why.partition(".")
    plain = bool(dot) and register.isupper() and field.replace("_", "").isalnum()
    return f"{why}=1" if plain and field != "HPMN" else why


def explain_syndrome(s: Syndrome) -> Iterator[str]:
    """The head of the answer to ``--esr``."""
    yield f"EC {s.ec:#04x}: {s.says}" + (f", {'write' if s.write else 'read'} of {s.code}" if s.code else "")
    if s.ec in DEBUG_CLASSES:
        yield "  MDCR_EL2.TDE (or HCR_EL2.TGE) sends it from EL1 and EL0 to EL2; KVM sets TDE while user space debugs"
    elif s.code and not s.names:
        yield "  no debug, PMU, profiling or trace register; other traps of EL2 are out of scope here"
