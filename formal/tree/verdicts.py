"""``--kernel TREE``: the C of a tree against the specification, then the claims with what the C really does."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from formal.engines.equality import Questions
from formal.engines.verdict import Checker, Result, Verdict
from formal.epochs import Kernel, Mode
from formal.evidence.runs.traces import Trace, TraceBook
from formal.kernel.compare import handlers, hypervisor, ownership, protected, tables
from formal.kernel.compare.behaviours import DEBUG_C, Resolved, resolve
from formal.kernel.compare.constants import wrong
from formal.kernel.errors import Gaps, NotUnderstoodError
from formal.kernel.lift.calls import HYP_CALL
from formal.kernel.lift.program import Lifted, Program, side_of
from formal.kernel.model.binding import UNMODELLED, Binding, allowed, flags_of
from formal.kernel.model.counterparts import COMPONENTS, Counterpart, counterparts, equalities, unmoved
from formal.kernel.model.substitution import Assembly, Part, assembled, assemblies, operations
from formal.kernel.recognition import debugexit, regions, reviewed, runloop, scan
from formal.kernel.source.tree import KernelTree
from formal.kernel.text.signs import Sign
from formal.logic.evaluation import support
from formal.logic.terms import And, Not, Or, Term
from formal.matrix.configuration_run import Row, book_path, checks
from formal.operations import Inputs, Operation
from formal.properties import CLAIMS
from formal.scope.configuration import Configuration
from formal.scope.manifest import Manifest
from formal.state import VARIABLES, State
from formal.system import System
from formal.transitions import OPERATIONS
from formal.tree.reading import Source, source
from formal.vocabulary import Claim, Point
from formal.worldswitch import PARTS

GIVEN_UP = 20.0  # work for one question about a claim, as Z3Solver counts it, whatever --timeout says
SEARCHED = 5.0  # and for all searches for a run that breaks one claim; known traces are tried before any search
SHALLOW, DEEP = 6, 9  # fused steps: for every claim; and, if nothing was found, for those that are still open
RANK = {"VIOLATED": 0, "UNKNOWN": 1, "n/a": 2, "PROVED": 2}


@dataclass
class Compared:
    """One C function against its description."""

    function: str
    place: str
    equal: bool
    differs_in: tuple[str, ...] = ()
    stores_besides: tuple[str, ...] = ()
    lifted: Lifted | None = None  # what was compared


@dataclass
class TreeReport:
    """One tree in one host mode."""

    mode: Mode
    resolved: Resolved
    compared: list[Compared] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    misdescribed: list[str] = field(default_factory=list)  # hypervisor functions that the hand-written part is not
    omitted: dict[str, str] = field(default_factory=dict)  # parts and operations whose call is missing, and where
    lifted: tuple[str, ...] = ()  # operations that are C functions of the tree
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
    cached: bool = False  # from an earlier run with the same inputs (formal/tree/cache.py)
    facts: tuple[Term, ...] = ()  # the lemmas that are proved of this tree; none if it is misdescribed

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


def worse(row: Row) -> bool:
    """Whether a verdict is worse than the expected one; what was not expected to apply is expected to hold."""
    return RANK[row.verdict] < RANK[row.expected or "PROVED"]


def better(row: Row) -> bool:
    """Whether a verdict is better than the expected one: what is not decided never is."""
    return won(row.expected or "PROVED", row.verdict)


def won(before: str, after: str) -> bool:
    """Whether a claim holds now that did not, or was not decided."""
    return after == "PROVED" and before in ("VIOLATED", "UNKNOWN")


def run(job: TreeJob) -> list[TreeReport]:
    """Proves a tree, mode by mode.

    Raises:
        NotUnderstoodError: if anything in the tree that matters is not understood.
    """
    tree = source(job.tree, *job.modes)
    return [prove(job, tree, mode) for mode in job.modes]


def prove(job: TreeJob, tree: Source, mode: Mode) -> TreeReport:
    """Proves a tree in one mode; the files that were opened for it are added to the tree's.

    Raises:
        NotUnderstoodError: if anything in the tree that matters is not understood.
    """
    report = compare(tree.program, tree.binding, tree.signs, mode, Questions(job.timeout))
    _check_claims(job, report)
    job.tree.opened |= {name for name in tree.program.resolver.opened if name.startswith(f"{job.tree.path}/")}
    return report


def compare(
    program: Program,
    binding: Binding,
    signs: tuple[Sign, ...],
    mode: Mode,
    ask: Questions,
    gaps: Gaps | None = None,
) -> TreeReport:
    """The C of a tree against the specification, in one mode; no claim is checked.

    Raises:
        NotUnderstoodError: if anything in the tree that matters is not understood, and that is not noted in ``gaps``.
    """
    tree, gaps = program.tree, gaps or Gaps()
    assert isinstance(tree, KernelTree)
    side = side_of(mode)
    lifted: dict[str, Lifted] = {}
    for name in program.functions(DEBUG_C):
        if name not in ownership.WITH_CALLER:
            with gaps.at(name):
                lifted[name] = program.lift(name, side, file=DEBUG_C)
    resolved = resolve(tree, mode, lifted, binding, signs)
    k = resolved.kernel
    by_hand = System(k, operations(k))
    outside = handlers.counterparts(program, k, binding, gaps)
    notes = [n for f in (*lifted.values(), *(c.lifted for c in outside.values())) for n in f.notes]
    report = TreeReport(mode, resolved, notes=tuple(dict.fromkeys([HYP_CALL, *tree.notes, *notes])))
    report.binding, report.program = binding, program
    debug = ownership.Debug(tree, lifted, binding) if k.tracks_debug_owner else None
    outside |= debug.init() if debug is not None else {}
    report.counterparts = counterparts(OPERATIONS, lifted, binding) | outside
    report.lifted = tuple(report.counterparts)
    report.replaced = _compare_operations(report, by_hand, ask, gaps)
    differs = _compare_owner(report, debug, by_hand, ask) if debug is not None else {}
    differs |= _compare_copies(report, program, by_hand, ask) if k.copies_vcpu else {}
    if debug is None:
        _compare_components(report, lifted, binding, by_hand, ask)
    _check_frames(report, lifted, binding, by_hand, ask, scan.helpers(tree.read(DEBUG_C)))
    differs |= _compare_hypervisor(report, program, binding, by_hand, ask, gaps)
    reviewed.check(program, side, k.defers_pc_adjustment, k.nests)
    report.problems += wrong(program.constants)
    report.misdescribed += [*tables.check(program, k), *regions.check(tree, k)]
    _check_rules(report, program, binding, k, ask, gaps)
    report.replaced |= {n: report.counterparts[n].left_out() for n in report.omitted if n in report.counterparts}
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
    for side in differs:
        if side not in VARIABLES:
            raise NotUnderstoodError(lifted.file, lifted.line, f"{lifted.name}: not proved that {side}")
    return differs


def _compared(lifted: Lifted, differs: Sequence[str], besides: tuple[str, ...]) -> Compared:
    place = f"{lifted.file.rpartition('/')[2]}:{lifted.line}"
    return Compared(lifted.name, place, not differs, tuple(differs), besides, lifted)


def _compare_components(
    report: TreeReport, lifted: Mapping[str, Lifted], binding: Binding, system: System, ask: Questions
) -> None:
    s, k = system.state(), system.kernel
    for name, by_hand in COMPONENTS.items():
        if name not in lifted:
            continue
        c_function, after = lifted[name], by_hand(s, k)
        differs = ask.differing(equalities(binding.after(c_function, s), binding, s, after))
        report.compared.append(_compared(c_function, differs, binding.stores(c_function)[1]))


def _compare_owner(report: TreeReport, debug: ownership.Debug, system: System, ask: Questions) -> dict[str, list[str]]:
    """Compares debug.c of v6.14 and later; the parts of operations that differ, with their variables."""
    s, k = system.state(), system.kernel
    differs: dict[str, list[str]] = {}
    for name in ownership.COMPONENTS:
        function = debug.lifted[name]
        differs[name] = _variables(function, ask.differing(debug.conditions(name, s, k), allowed(s)))
        report.compared.append(_compared(function, differs[name], debug.binding.stores(function)[1]))
    report.parts = debug.parts()
    return {name: differs[name] for name in report.parts}


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
    unfit: list[tuple[hypervisor.Component, str]] = []
    for component, function in hypervisor.lifted(program, k, gaps):
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
            unfit.append((component, f"{found.function} ({found.place}) differs in {', '.join(differs)}"))
    for component, text in unfit:  # what is less than a part does not matter beside the part that does what it does
        if component.part is not None or not any(PARTS[name] is component.by_hand for name in differing):
            report.misdescribed.append(text)
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
            raise NotUnderstoodError(
                function.file,
                function.line,
                f"{name}() changes {', '.join(moved)}, and is not an operation of the model",
            )
        report.compared.append(_compared(function, (), binding.stores(function)[1]))


def _check_rules(report: TreeReport, program: Program, binding: Binding, k: Kernel, ask: Questions, gaps: Gaps) -> None:
    """The functions around debug.c call what the specification says, when and in the order in which it says so."""
    flags = {**binding.flags, **flags_of(program.tree, UNMODELLED)}
    around = [*runloop.rules(program, k, flags), *protected.rules(program, binding, k)]
    with gaps.at(debugexit.FUNCTION):
        around += debugexit.rules(program, side_of(report.mode))
    for rule in (*around, *handlers.rules(program, k, binding)):
        report.rules += 1
        if ask.differing([(rule.says, rule.holds)]):
            text = f"{rule.file}:{rule.line}: not so: {rule.says}"
            part = report.parts.get(rule.omits or "")
            if rule.omits in report.counterparts or (part is not None and not part.does_more):
                report.omitted[str(rule.omits)] = text
            else:
                report.misdescribed.append(text)


# ---- the claims, with what the C does


def _obligation_claims(report: TreeReport) -> Iterator[Claim]:
    """What the lifted functions must not do (BUG_ON, bad pointers and indices), as claims of their own."""
    assert report.system is not None
    for c in report.counterparts.values():
        if c.owns is not None:
            continue  # of handlers they are demanded where the function is compared
        for text, _ in c.obligations(report.system.state(), Inputs("", 16)):
            yield _obligation_claim(c, text)


def _obligation_claim(c: Counterpart, text: str) -> Claim:
    def when(s: State, k: Kernel) -> Term:
        return c.operation.enabled(s, k, Inputs(f"in.{c.operation.name}", k.breakpoints))

    def then(before: State, after: State, k: Kernel) -> Term:
        found = [condition for where, condition in c.obligations(before, Inputs("", 16)) if where == text]
        ours = {name for value in before.values.values() for name in support(value)}
        foreign = {name for condition in found for name in support(condition)} - ours
        if foreign:
            raise NotUnderstoodError(c.lifted.file, c.lifted.line, f"{text} depends on {sorted(foreign)[0]}")
        return Not(Or(*found))

    says = f"Never happens: {text.partition(': ')[2]}."
    return Claim(text.rpartition("/")[2], says, text.partition(": ")[0], Point.HANDLED, when, then, lambda k: None)


def _check_claims(job: TreeJob, report: TreeReport) -> None:
    assert report.system is not None
    c = Configuration(report.resolved.epoch.name, report.mode.value)
    book = TraceBook.read(book_path(job.proofs / "traces", c))
    checker = Checker(
        report.system,
        book,
        timeout=GIVEN_UP if job.timeout is None else min(job.timeout, GIVEN_UP),
        depth=SHALLOW,
        pool=_pool(job.proofs / "traces", report.mode),
        budget=SEARCHED,
    )
    expected = job.manifest.expected(c)
    wanted = [(n, claim) for n, claim in checks(CLAIMS) if " without " not in n]
    wanted += [(claim.name, claim) for claim in _obligation_claims(report)]
    for text in report.misdescribed:
        report.problems.append(f"{text}: the hand-written operations do not describe this tree, so nothing is proved")
    wanted = [(n, claim) for n, claim in wanted if not job.claims or claim.name in job.claims]
    report.rows = [_row(report, checker.check(claim), expected.get(name)) for name, claim in wanted]
    if report.misdescribed:
        report.rows = [_unproved(row, report.misdescribed[0]) for row in report.rows]
        return
    report.facts = checker.facts()
    if any(worse(row) and row.verdict == "VIOLATED" for row in report.rows):
        return
    checker.depth = DEEP
    for number, (name, claim) in enumerate(wanted):
        if report.rows[number].verdict == "UNKNOWN":
            report.rows[number] = _row(report, checker.check(claim), expected.get(name))
            if worse(report.rows[number]) and report.rows[number].verdict == "VIOLATED":
                return


def _unproved(row: Row, why: str) -> Row:
    return replace(row, verdict="UNKNOWN", reason=why) if row.verdict == "PROVED" else row


def _pool(traces: Path, mode: Mode) -> list[Trace]:
    faults = Path(__file__).with_name("faults")  # what breaks the claims when the specification is at fault
    paths = (*sorted(traces.glob(f"*-{mode.value}.json")), *sorted(faults.glob("*.json")))
    return [trace for path in paths for trace in TraceBook.read(path).traces]


def _row(report: TreeReport, r: Result, expected: str | None) -> Row:
    if expected is None and r.verdict is Verdict.NOT_APPLICABLE:
        expected = "n/a"
    return Row(
        r.claim.name, r.claim.name, report.resolved.epoch.name, report.mode.value, r.verdict.value,
        expected, r.engine, r.seconds, tuple(p.name for p in r.claim.given), r.reason, r.trace, r.broken_at,
    )  # fmt: skip
