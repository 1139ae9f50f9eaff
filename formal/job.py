"""One configuration from start to end: claims, preconditions that are needed, non-properties, and sanity.

The result is plain data, so that configurations can be proved in parallel processes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from formal.configuration import Configuration
from formal.configuration import checks as checks
from formal.engines.bmc import Search, situation, taking
from formal.engines.sanity import cover, dead_ends, may_follow, meets
from formal.engines.verdict import Checker, Result, Verdict
from formal.evidence.replay import ReplayError
from formal.evidence.traces import Trace, TraceBook, TraceError
from formal.explain.shrink import renumber, shrink
from formal.properties import CLAIMS, NON_PROPERTIES, Claim, Precondition
from formal.system import System

SEARCH_DEPTH = 11  # fused steps; every violation and witness known needs fewer


@dataclass(frozen=True)
class Row:
    """One verdict, as it is reported."""

    check: str
    claim: str
    epoch: str
    mode: str
    verdict: str
    expected: str | None
    engine: str
    seconds: float
    assumptions: tuple[str, ...] = ()
    reason: str = ""
    trace: Trace | None = None
    broken_at: int | None = None

    @property
    def as_expected(self) -> bool:
        """Whether the verdict is the expected one."""
        return self.expected == self.verdict


@dataclass
class Report:
    """Everything about one configuration."""

    configuration: Configuration
    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # sanity checks that fail
    operations: int = 0
    replayed: int = 0
    lemmas: int = 0
    dropped: tuple[str, ...] = ()
    book: TraceBook | None = None  # with --refresh: the traces found


@dataclass(frozen=True)
class Job:
    """What to do for one configuration."""

    configuration: Configuration
    traces: Path
    expected: dict[str, str]
    claims: tuple[str, ...] = ()  # by name; empty for all
    timeout: float | None = None
    refresh: bool = False
    breakpoints: int = 16


def book_path(traces: Path, c: Configuration) -> Path:
    """Where the traces of a configuration are kept."""
    return traces / f"{c.stem}.json"


def run(job: Job) -> Report:
    """Proves one configuration.

    Raises:
        TraceError: if the stored traces cannot be read.
    """
    c = job.configuration
    system = System(c.kernel(job.breakpoints))
    stored = TraceBook.read(book_path(job.traces, c))
    checker = Checker(system, stored, timeout=job.timeout, depth=SEARCH_DEPTH)
    report = Report(c, operations=len(system.operations))
    wanted = [(n, p) for n, p in checks(c.claims()) if not job.claims or p.name in job.claims]
    if not c.is_bug:
        wanted += [(f"not {p.name}", p) for p in NON_PROPERTIES if not job.claims or p.name in job.claims]
    found: dict[str, Trace] = {}
    pool = _all_traces(job.traces) if job.refresh else []
    for name, claim in wanted:
        if " without " in name and report.rows and _plain(report, claim.name) == Verdict.NOT_APPLICABLE.value:
            continue
        result = _known(checker, claim, [*found.values(), *pool]) if job.refresh else None
        result = result or checker.check(claim, known_as=name)
        if result.trace is not None:
            found[name] = result.trace
        report.rows.append(_row(name, c, result, job))
    if not c.is_bug and not job.claims:
        _sanity(job, checker, report, found)
    elif job.refresh:
        report.book = _book([], found)
    report.lemmas = len(checker.invariant().lemmas) if any(r.engine[-6:] == "lemmas" for r in report.rows) else 0
    report.dropped = tuple(f"{d.lemma} (by {d.by})" for d in checker.dropped())
    return report


def _plain(report: Report, claim: str) -> str | None:
    return next((r.verdict for r in report.rows if r.check == claim), None)


def _row(name: str, c: Configuration, r: Result, job: Job) -> Row:
    expected = job.expected.get(name, "n/a" if r.verdict is Verdict.NOT_APPLICABLE else None)
    return Row(
        name,
        r.claim.name,
        c.name,
        c.mode,
        r.verdict.value,
        expected,
        r.engine,
        r.seconds,
        tuple(p.name for p in r.claim.given),
        r.reason,
        r.trace,
        r.broken_at,
    )


# ---- --refresh


def _all_traces(folder: Path) -> list[Trace]:
    """What was found before, for any configuration."""
    books = [TraceBook.read(path) for path in sorted(folder.glob("*.json"))]
    return _distinct([trace for book in books for trace in book.traces])


def _known(checker: Checker, claim: Claim, pool: list[Trace]) -> Result | None:
    """A trace that is known already may break this claim as well; the shortest such one is shared."""
    if claim.applies(checker.system.kernel):
        return None
    best: Result | None = None
    for trace in pool:
        if best is not None and best.trace is not None and len(trace.steps) >= len(best.trace.steps):
            continue
        try:
            step = checker.replay.violates(trace, claim)
        except (ReplayError, TraceError):
            continue
        if step is not None:
            shorter = renumber(Trace(trace.initial, trace.steps[:step]))
            best = Result(claim, Verdict.VIOLATED, "replay", 0.0, shorter, step)
    return best


def _book(witnesses: list[Trace], found: dict[str, Trace]) -> TraceBook:
    traces = list(dict.fromkeys([*found.values(), *witnesses])) if False else _distinct([*found.values(), *witnesses])
    return TraceBook(tuple(traces), {name: _position(traces, trace) for name, trace in found.items()})


def _distinct(traces: list[Trace]) -> list[Trace]:
    kept: list[Trace] = []
    for trace in traces:
        if trace not in kept:
            kept.append(trace)
    return kept


def _position(traces: list[Trace], trace: Trace) -> int:
    return traces.index(trace)


# ---- sanity


def _sanity(job: Job, checker: Checker, report: Report, found: dict[str, Trace]) -> None:
    system, replay = checker.system, checker.replay
    traces = list(found.values()) if job.refresh else list(checker.book.traces)
    coverage = cover(replay, traces, CLAIMS)
    witnesses: list[Trace] = []
    if job.refresh:
        witnesses = _search_witnesses(checker, traces, _all_traces(job.traces))
        coverage = cover(replay, traces + witnesses, CLAIMS)
        report.book = _book(witnesses, found)
    report.replayed = coverage.replayed
    report.problems += coverage.missing(system, CLAIMS) + coverage.unusable
    for step in coverage.untaken(system):
        if not checker.invariant().never_enabled(step):
            report.problems.append(f"operation {step.operation.name!r} is never taken, and not proved impossible")
    if not coverage.replayed:
        report.problems.append("no initial state is known: Init may be contradictory")
    graph = may_follow(system)
    dead = dead_ends(graph, "kvm_arch_vcpu_create", "__kvm_vcpu_run enters")
    report.problems += [f"operation {name!r} leads nowhere, or is reached from nowhere" for name in dead]


def _search_witnesses(checker: Checker, traces: list[Trace], pool: list[Trace]) -> list[Trace]:
    """Traces for the situations and operations that the given ones do not show, as few as come up."""
    system, replay = checker.system, checker.replay
    witnesses: list[Trace] = []
    for known in pool:
        before, after = (cover(replay, [*traces, *witnesses, *more], CLAIMS) for more in ([], [known]))
        if not after.unusable and (len(after.situations), len(after.operations)) > (
            len(before.situations),
            len(before.operations),
        ):
            witnesses.append(known)
    searches: dict[tuple[Precondition, ...], Search] = {(): Search(system, timeout=checker.timeout, cpus=1)}
    for claim in CLAIMS:
        if claim.applies(system.kernel) or claim.name in cover(replay, traces + witnesses, [claim]).situations:
            continue
        given = claim.given
        if given not in searches:
            searches[given] = Search(system, given, timeout=checker.timeout, cpus=1)
        trace = searches[given].find(situation(claim, system), SEARCH_DEPTH)
        if trace is not None:
            witnesses.append(shrink(trace, lambda t, c=claim: _shows(checker, t, c)))  # type: ignore[misc]
    for op in system.operations:
        taken = {s.operation for t in traces + witnesses for s in t.steps}
        if op.name in taken or checker.invariant().never_enabled(system.apply(op)):
            continue
        trace = searches[()].find(taking(op.name), SEARCH_DEPTH)
        if trace is not None:
            takes = lambda t, n=op.name: any(s.operation == n for s in t.steps) and meets(replay, t, ())  # noqa: E731
            witnesses.append(shrink(trace, takes))
    return witnesses


def _shows(checker: Checker, trace: Trace, claim: Claim) -> bool:
    try:
        return checker.replay.first(trace, lambda s, p: checker.replay.reaches(claim, s, p), claim.given) is not None
    except (ReplayError, TraceError):
        return False
