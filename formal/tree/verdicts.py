"""``--kernel TREE``: the C of a tree against the specification, then the claims with what the C really does."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from formal.common import progress
from formal.engines.equality import Questions
from formal.engines.verdict import FEW, Result, Verdict
from formal.epochs import Kernel, Mode
from formal.kernel.around import every
from formal.kernel.compare import forwarding, handlers, hypervisor, ownership, protected, tables
from formal.kernel.compare.behaviours import DEBUG_C, Resolved, resolve
from formal.kernel.compare.constants import wrong
from formal.kernel.errors import DOES_NOT_PARSE, Gap, Gaps, NotUnderstoodError
from formal.kernel.lift.calls import HYP_CALL
from formal.kernel.lift.program import Lifted, Program, side_of
from formal.kernel.model.binding import Binding, allowed, misplaced
from formal.kernel.model.counterparts import COMPONENTS, Counterpart, counterparts, equalities, unmoved
from formal.kernel.model.obligations import obligation_claims
from formal.kernel.model.substitution import Assembly, Part, assembled, assemblies, handling_too, keeping, operations
from formal.kernel.recognition import lifecycle, regions, scan
from formal.kernel.source.tree import KernelTree
from formal.kernel.text.signs import Sign
from formal.logic.terms import And, Term
from formal.matrix.configuration_run import Row, checks
from formal.operations import Inputs, Operation
from formal.properties import CLAIMS
from formal.scope.configuration import Configuration
from formal.scope.manifest import Manifest
from formal.state import VARIABLES
from formal.system import System
from formal.transitions import OPERATIONS
from formal.tree.accounted import unaccounted
from formal.tree.deciding import Decider, checked, checker_of
from formal.tree.rank import expected, worse
from formal.tree.reading import Source, source
from formal.tree.unknowns import Unknown, mattering, narrower, standing, unknowns
from formal.tree.writes import Effects
from formal.worldswitch import PARTS

DEEP = 9  # fused steps, for the claims that are still open


@dataclass
class Compared:
    """One C function against its description."""

    function: str
    place: str
    equal: bool
    differs_in: tuple[str, ...] = ()
    stores_besides: tuple[str, ...] = ()
    lifted: Lifted | None = None  # what was compared
    told: tuple[Any, ...] | None = None  # how it differs, once that was asked (formal/tree/unlike.py)


@dataclass
class TreeReport:
    """One tree in one host mode."""

    mode: Mode
    resolved: Resolved
    compared: list[Compared] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    omitted: dict[str, str] = field(default_factory=dict)  # parts and operations whose call is missing, and where
    lifted: tuple[str, ...] = ()  # operations that are C functions of the tree
    whole: set[tuple[str, str]] = field(default_factory=set)  # functions of whose every store a rule speaks
    rules: int = 0  # what was asked of the calls around the lifted functions
    notes: tuple[str, ...] = ()
    system: System | None = None
    replaced: dict[str, Operation] = field(default_factory=dict)  # operations that the C does differently
    counterparts: Mapping[str, Counterpart] = field(default_factory=dict)
    parts: dict[str, Part] = field(default_factory=dict)  # what operations are made of
    differing: Mapping[str, list[str]] = field(default_factory=dict)  # parts that the C does differently: in what
    binding: Binding | None = None
    program: Program | None = None  # what was read of the tree
    explained: Mapping[str, Sequence[str]] = field(default_factory=dict)  # texts, where nothing of all this is left
    cached: bool = False  # from an earlier run with the same inputs (formal/treecache.py)
    facts: tuple[Term, ...] = ()  # the lemmas that are proved of this tree
    gaps: list[Gap] = field(default_factory=list)  # what is not understood, or not as described
    unknowns: tuple[Unknown, ...] = ()  # the same, with what it may do
    lacking: dict[str, str] = field(default_factory=dict)  # what is not done here though it should be: the operation

    @property
    def misdescribed(self) -> list[str]:
        """Where the C was understood and is not what the specification says."""
        return [str(gap) for gap in self.gaps if gap.broken]

    @property
    def shown(self) -> Mapping[str, Counterpart | Assembly]:
        """For operations that the C takes part in: what tells the stores that the C makes."""
        assert self.system is not None
        names = {*self.differing, *ownership.PARTS} & self.parts.keys() - self.omitted.keys()
        return {**assemblies(self.system, {name: self.parts[name] for name in names}), **self.counterparts}


@dataclass(frozen=True)
class TreeJob:
    """What was asked for."""

    tree: KernelTree
    modes: tuple[Mode, ...]
    claims: tuple[str, ...]
    proofs: Path
    manifest: Manifest
    timeout: float | None
    processes: int = 1


def run(job: TreeJob) -> list[TreeReport]:
    """Proves a tree, mode by mode.

    Raises:
        NotUnderstoodError: if no claim can be looked at.
    """
    tree = source(job.tree, *job.modes)
    return [prove(job, tree, mode) for mode in job.modes]


def prove(job: TreeJob, tree: Source, mode: Mode) -> TreeReport:
    """Proves a tree in one mode; the files that were opened for it are added to the tree's.

    Raises:
        NotUnderstoodError: if no claim can be looked at.
    """
    progress.doing(f"{mode.value}: comparing the C with its description")
    report = compare(tree.program, tree.binding, tree.signs, mode, Questions(job.timeout), tree.gaps)
    _check_claims(job, report)
    job.tree.opened |= {name for name in tree.program.resolver.opened if name.startswith(f"{job.tree.path}/")}
    return report


def compare(
    program: Program,
    binding: Binding,
    signs: tuple[Sign, ...],
    mode: Mode,
    ask: Questions,
    known: Iterable[Gap] = (),
) -> TreeReport:
    """The C of a tree against the specification, in one mode; no claim is checked.

    Args:
        known: what is not understood of the tree; what is found besides is kept in the report.

    Raises:
        NotUnderstoodError: if the mode is none of this tree.
    """
    tree, gaps = program.tree, Gaps(noted=True)
    assert isinstance(tree, KernelTree)
    side = side_of(mode)
    here = [gap for gap in known if tree.build.hyp_of(gap.file, side) in (None, side)]
    gaps.found += [gap for gap in here if gap.unless is None]
    lifted: dict[str, Lifted] = {}
    functions: list[str] = []
    with gaps.at():
        functions = program.functions(DEBUG_C)
    for name in functions:
        if name not in ownership.WITH_CALLER:
            with gaps.at(name):
                lifted[name] = program.lift(name, side, file=DEBUG_C)
    signs += (*tables.told(program, signs, gaps), *forwarding.told(program, mode, signs, gaps))
    resolved = resolve(tree, mode, lifted, binding, signs, gaps)
    k = resolved.kernel
    by_hand = System(k, operations(k))
    outside = handlers.counterparts(program, k, binding, gaps)
    notes = [n for f in (*lifted.values(), *(c.lifted for c in outside.values())) for n in f.notes]
    names = [f"{here}() is read as {known}(), for which it stands" for here, known in tree.renamed.items()]
    names += [f"{here} is read as {known}" for of in tree.names for here, known in of.items()]
    reset = lifecycle.assumed(program, side)
    told = tuple(dict.fromkeys([HYP_CALL, *every.assumed(program, side), *reset, *names, *tree.notes, *notes]))
    report = TreeReport(mode, resolved, notes=told, gaps=gaps.found)
    report.binding, report.program = binding, program
    debug = ownership.Debug(tree, lifted, binding) if k.tracks_debug_owner else None
    outside |= debug.init() if debug is not None else {}
    report.counterparts = counterparts(OPERATIONS, lifted, binding) | outside
    report.lifted = tuple(report.counterparts)
    report.replaced = _compare_operations(report, by_hand, ask, gaps)
    differs = _compare_owner(report, debug, by_hand, ask, gaps) if debug is not None else {}
    with gaps.at(protected.FLUSH):
        differs |= _compare_copies(report, program, by_hand, ask) if k.copies_vcpu else {}
    if debug is None:
        _compare_components(report, lifted, binding, by_hand, ask, gaps)
    _check_frames(report, lifted, binding, by_hand, ask, scan.helpers(tree.read(DEBUG_C)))
    differs |= _compare_hypervisor(report, program, binding, by_hand, ask, gaps)
    with gaps.at():
        report.problems += wrong(program.constants)
    gaps.found += [*tables.check(program, k, gaps), *regions.check(tree, k)]
    _check_rules(report, program, binding, k, ask, gaps)
    compared = [c.lifted for c in report.compared if c.lifted is not None]
    compared += [c.lifted for c in report.counterparts.values()]
    parts = [part.lifted for part in report.parts.values()]
    gaps.found += unaccounted(here, program, side, compared, parts, report.whole)
    report.replaced |= {n: report.counterparts[n].left_out() for n in report.omitted if n in report.counterparts}
    differing = sorted({v for c in report.compared for v in c.differs_in})
    if moved := list(misplaced(program, differing)) if differing else []:
        apart = [*report.replaced, *differs]
        gaps.found += [*moved, *(Gap(DEBUG_C, 0, f"{n}: {moved[0].reason}", frozenset((n,))) for n in apart)]
        report.replaced, report.counterparts, differs = {}, {}, {}
    report.differing = differs
    omitted = [name for name in report.omitted if name in report.parts]
    report.system = assembled(by_hand, report.parts, differs, omitted).replacing(report.replaced)
    return report


# ---- the C against the specification


def _compare_operations(report: TreeReport, system: System, ask: Questions, gaps: Gaps) -> dict[str, Operation]:
    """Compares operation by operation; returns those that the C does differently, as the C does them."""
    replaced: dict[str, Operation] = {}
    s, k = system.state(), system.kernel
    for name, c in report.counterparts.items():
        with gaps.at(name):
            inputs = Inputs(f"in.{name}", k.breakpoints)
            guard = And(c.operation.enabled(s, k, inputs), allowed(s))
            if differs := _variables(c.lifted, ask.differing(c.differences(s, k, inputs), guard)):
                replaced[name] = c.lifted_operation()
            report.compared.append(_compared(c.lifted, differs, c.unmodelled()))
    return replaced


def _variables(lifted: Lifted, differs: list[str]) -> list[str]:
    """The state variables in which a function differs; what else it must do has to be proved."""
    if strange := [side for side in differs if side not in VARIABLES]:
        raise NotUnderstoodError(lifted.file, lifted.line, f"{lifted.name}: not proved that {strange[0]}")
    return differs


def _compared(lifted: Lifted, differs: Sequence[str], besides: tuple[str, ...]) -> Compared:
    place = f"{lifted.file.rpartition('/')[2]}:{lifted.line}"
    return Compared(lifted.name, place, not differs, tuple(differs), besides, lifted)


def _compare_components(
    report: TreeReport, lifted: Mapping[str, Lifted], binding: Binding, system: System, ask: Questions, gaps: Gaps
) -> None:
    s, k = system.state(), system.kernel
    for name, by_hand in COMPONENTS.items():
        if name in lifted:
            with gaps.at(name):
                c_function, after = lifted[name], by_hand(s, k)
                differs = ask.differing(equalities(binding.after(c_function, s), binding, s, after))
                report.compared.append(_compared(c_function, differs, binding.stores(c_function)[1]))


def _compare_owner(
    report: TreeReport, debug: ownership.Debug, system: System, ask: Questions, gaps: Gaps
) -> dict[str, list[str]]:
    """Compares debug.c of v6.14 and later; the parts of operations that differ, with their variables."""
    s, k = system.state(), system.kernel
    differs: dict[str, list[str]] = {}
    for name in ownership.COMPONENTS:
        if name in debug.lifted:
            with gaps.at(name):
                function = debug.lifted[name]
                differs[name] = _variables(function, ask.differing(debug.conditions(name, s, k), allowed(s)))
                report.compared.append(_compared(function, differs[name], debug.binding.stores(function)[1]))
    report.parts = debug.parts()
    return {name: differs[name] for name in report.parts if name in differs}


def _compare_copies(report: TreeReport, program: Program, system: System, ask: Questions) -> dict[str, list[str]]:
    """Compares what protected mode hands over."""
    assert report.binding is not None
    s, k, copies = system.state(), system.kernel, protected.Copies.read(program, report.binding)
    differs = _variables(copies.flush, ask.differing(copies.conditions(s, k), allowed(s)))
    report.compared.append(_compared(copies.flush, differs, ()))
    report.parts[protected.FLUSH] = copies.part()
    return {protected.FLUSH: differs} if differs else {}


def _compare_hypervisor(
    report: TreeReport, program: Program, binding: Binding, system: System, ask: Questions, gaps: Gaps
) -> dict[str, list[str]]:
    """Compares the hypervisor's functions; the parts of operations that differ, with their variables."""
    s, k = system.state(), system.kernel
    differing: dict[str, list[str]] = {}
    unfit: list[tuple[hypervisor.Component, Gap]] = []
    for component, function in hypervisor.lifted(program, k, gaps):
        of = component.of(k)
        with gaps.at(*of):
            hypervisor.refuse_unfit(function, k)
            differs = ask.differing(
                hypervisor.conditions(component, function, binding, s, k, program.constants), allowed(s)
            )
            found = _compared(function, differs, ())
            report.compared.append(found)
            part = hypervisor.part_of(component, function, binding)
            report.parts |= {} if part is None else {part.name: part}
            if differs and part is not None and not ask.differing(part.replaceable(s, differs), allowed(s)):
                differing[part.name] = differs
            elif differs:
                text = f"{found.function} ({found.place}) differs in {', '.join(differs)}"
                unfit.append((component, Gap(function.file, function.line, text, frozenset(of), broken=True)))
    told = {PARTS[name] for name in (*differing, *(c.part for c, _ in unfit if c.part is not None)) if name in PARTS}
    for component, gap in unfit:  # what is less than a part does not matter beside the part that does what it does
        if component.part is not None or component.by_hand not in told:
            gaps.found.append(gap)
    return differing


def _check_frames(
    report: TreeReport,
    lifted: Mapping[str, Lifted],
    binding: Binding,
    system: System,
    ask: Questions,
    helpers: Collection[str],
) -> None:
    """Every other function of debug.c leaves the modelled variables alone, but for helpers of those compared."""
    s = system.state()
    known = {c.lifted.name for c in report.counterparts.values()} | COMPONENTS.keys() | set(helpers)
    for name, function in lifted.items():
        if name in known or (system.kernel.tracks_debug_owner and ownership.compared(name)):
            continue
        moved = ask.differing(unmoved(function, binding, s))
        if moved:
            reason = f"{name}() changes {', '.join(moved)}, and is not an operation of the model"
            report.gaps.append(Gap(function.file, function.line, reason, frozenset((name,)), frozenset(moved)))
        report.compared.append(_compared(function, (), binding.stores(function)[1]))


def _check_rules(report: TreeReport, program: Program, binding: Binding, k: Kernel, ask: Questions, gaps: Gaps) -> None:
    """The functions around debug.c call what the specification says, when and in the order in which it says so."""
    functions = [(name, c.lifted) for name, c in report.counterparts.items()]
    functions += [(c.function, c.lifted) for c in report.compared if c.lifted is not None]
    for rule in list(every.rules(program, binding, k, functions, gaps)):
        report.rules += 1
        report.whole |= rule.whole
        if ask.differing([(rule.says, rule.holds)]):
            text = f"{rule.file}:{rule.line}: not so: {rule.says}"
            part = report.parts.get(rule.omits or "")
            if rule.omits in report.counterparts or (part is not None and not part.does_more):
                report.omitted[str(rule.omits)] = text
            elif rule.keeps is not None:
                name, kept = rule.keeps
                report.replaced |= {op.name: keeping(op, kept) for op in OPERATIONS if op.name == name}
                report.lacking[text] = name
            elif rule.handles is not None:
                name, registers = rule.handles
                handler = report.replaced.get(name, next(op for op in OPERATIONS if op.name == name))
                report.replaced[name] = handling_too(handler, registers)
                report.lacking[text] = name
            elif rule.of is None:
                report.problems.append(text)
            else:
                gaps.found.append(rule.gap)


# ---- the claims, with what the C does


def _check_claims(job: TreeJob, report: TreeReport) -> None:
    system, mode = report.system, report.mode
    assert system is not None
    of_c = obligation_claims(report.counterparts.values(), system.state())
    wanted = [one for one in checks(CLAIMS) if " without " not in one[0]] + [(claim.name, claim) for claim in of_c]
    wanted = [(n, claim) for n, claim in wanted if not job.claims or claim.name in job.claims]
    configuration = Configuration(report.resolved.epoch.name, mode.value)
    expecting = expected(job.manifest, report.resolved.epoch, report.resolved.kernel)
    if report.gaps:
        compared = [c.lifted for c in report.compared if c.lifted is not None]
        has = mattering(system, [claim for _, claim in wanted])
        effects = Effects.of(job.tree, mode, ((f.name, f.file) for f in compared), has)
        report.gaps = standing(report.gaps, effects, system.kernel)
        report.notes += effects.told()
        report.unknowns = unknowns(system, report.gaps, effects)
    make = partial(checker_of, job.proofs / "traces", configuration, job.timeout)
    checker = make(narrower(system, report.unknowns))
    decides = Decider(checker, system, report.unknowns, make) if report.unknowns else None
    check = checker.check if decides is None else decides.check
    report.rows = [_row(report, checked(check, claim), expecting.get(name)) for name, claim in wanted]
    report.facts = checker.facts() if decides is None else decides.wider.facts()
    still_open, checker.depth = [n for n, row in enumerate(report.rows) if row.verdict == "UNKNOWN"], DEEP
    typo = any(DOES_NOT_PARSE in u.gap.reason for u in report.unknowns)  # to be mended first, and soon
    for number in still_open:
        if len(still_open) > FEW and (typo or any(worse(r) and r.verdict == "VIOLATED" for r in report.rows)):
            break
        report.rows[number] = _row(report, checked(check, wanted[number][1]), expecting.get(wanted[number][0]))
    if decides is not None:
        left = {row.check for row in report.rows if row.verdict == "UNKNOWN"}
        reasons = decides.reasons(claim for name, claim in wanted if name in left)
        report.rows = [replace(row, reason=reasons.get(row.check, row.reason)) for row in report.rows]
    if not job.claims and not any(row.verdict == "UNKNOWN" for row in report.rows):
        report.problems += [str(unknown) for unknown in report.unknowns if unknown.gap.broken]


def _row(report: TreeReport, r: Result, expected: str | None) -> Row:
    expected = "n/a" if expected is None and r.verdict is Verdict.NOT_APPLICABLE else expected
    return progress.decided(report, Row(
        r.claim.name, r.claim.name, report.resolved.epoch.name, report.mode.value, r.verdict.value,
        expected, r.engine, r.seconds, tuple(p.name for p in r.claim.given), r.reason, r.trace, r.broken_at,
    ))  # fmt: skip
