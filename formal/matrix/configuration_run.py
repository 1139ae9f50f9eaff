"""One configuration from start to end: claims, preconditions that are needed, non-properties, and sanity.

The result is plain data, so that configurations can be proved in parallel processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from formal.common.processes import Beside
from formal.engines.bmc import Search, situation, taking
from formal.engines.induction import Invariant
from formal.engines.verdict import FEW, SEARCHED, SHALLOW, Checker, Result, Verdict
from formal.engines.z3backend import SolverTimeoutError
from formal.evidence.runs.coverage import Coverage, cover, meets
from formal.evidence.runs.replay import ReplayError
from formal.evidence.runs.traces import Trace, TraceBook, TraceError
from formal.explain.shrink import renumber, shrink
from formal.properties import CLAIMS, NON_PROPERTIES
from formal.scope.configuration import Configuration
from formal.scope.configuration import checks as checks
from formal.system import System
from formal.vocabulary import Claim, Precondition

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
    undecided: list[str] = field(default_factory=list)  # sanity checks that the solver gave up on
    complete: bool = False  # all claims, and all sanity checks
    operations: int = 0
    replayed: int = 0
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

    def covered(self) -> tuple[Claim, ...]:
        """The claims whose situation stored traces must show: those to be proved; traces are for 16 breakpoints."""
        if self.configuration.is_bug or (self.claims and self.breakpoints != 16):
            return ()
        return tuple(p for p in CLAIMS if not self.claims or p.name in self.claims)


def book_path(traces: Path, c: Configuration) -> Path:
    """Where the traces of a configuration are kept."""
    return traces / f"{c.stem}.json"


def run(job: Job, *, processes: int = 1) -> Report:
    """Proves one configuration; with a second process, traces are replayed there meanwhile.

    Raises:
        TraceError: if the stored traces cannot be read.
    """
    c = job.configuration
    system = System(c.kernel(job.breakpoints))
    stored = TraceBook.read(book_path(job.traces, c))
    checker = Checker(system, stored, timeout=job.timeout, depth=SEARCH_DEPTH)
    if not job.refresh:
        checker.depth, checker.budget = SHALLOW, SEARCHED
    report = Report(c, operations=len(system.operations))
    wanted = {n: p for n, p in checks(c.claims()) if not job.claims or p.name in job.claims}
    if not c.is_bug:
        wanted |= {f"not {p.name}": p for p in NON_PROPERTIES if not job.claims or p.name in job.claims}
    wanted = {n: p for n, p in wanted.items() if not (" without " in n and p.applies(system.kernel))}
    if job.refresh:
        _refresh(job, checker, report, wanted)
    else:
        fork = processes > 1
        here = {n: p for n, p in wanted.items() if n not in stored.counterexamples and not (fork and p.given)}
        with Beside(lambda: _beside(job, checker, wanted, fork), fork=fork) as beside:
            results = {n: checker.check(p, known_as=n) for n, p in here.items()}
            found = beside.result()
        checker.replayed |= found.broken
        if found.proved and checker.lemmas_hold():  # which the other process took for granted
            results |= {n: Result(wanted[n], Verdict.PROVED, *how) for n, how in found.proved.items()}
        results |= {n: checker.check(p, known_as=n) for n, p in wanted.items() if n not in results}
        _search_deep(job, checker, wanted, results)
        report.rows = [_row(name, c, results[name], job) for name in wanted]
        if found.coverage is not None:
            report.replayed = found.coverage.replayed
            report.problems += found.coverage.missing(system, job.covered()) + found.coverage.unusable
            report.complete = not job.claims
            if report.complete:
                _sanity(checker, report, found.coverage, found.dead)
    report.dropped = tuple(f"{d.lemma} (by {d.by})" for d in checker.dropped())
    return report


def _search_deep(job: Job, checker: Checker, wanted: Mapping[str, Claim], results: dict[str, Result]) -> None:
    """Decides again what is open after a short search; of many open claims only until one is known to be lost."""
    checker.depth, checker.budget = SEARCH_DEPTH, None
    still_open = [name for name, result in results.items() if result.verdict is Verdict.UNKNOWN]
    for name in still_open:
        rows = (_row(n, job.configuration, result, job) for n, result in results.items())
        if len(still_open) > FEW and any(row.verdict == "VIOLATED" and not row.as_expected for row in rows):
            break
        results[name] = checker.check(wanted[name], known_as=name)


@dataclass(frozen=True)
class _Beside:
    """What a second process has to say."""

    broken: dict[str, int | None]  # by check: the step at which its counterexample breaks it, if it still does
    coverage: Coverage | None = None
    dead: list[str] = field(default_factory=list)
    proved: dict[str, tuple[str, float]] = field(default_factory=dict)  # engine and seconds, if the lemmas are proved


def _beside(job: Job, checker: Checker, wanted: Mapping[str, Claim], variants: bool) -> _Beside:
    """What the stored traces show, without a solver; then, if asked for, claims that have preconditions."""
    broken = {n: checker.replays(n, p) for n, p in wanted.items() if n in checker.book.counterexamples}
    covered = job.covered()
    coverage = cover(checker.replay, checker.book.traces, covered) if covered else None
    dead = [] if job.claims or job.configuration.is_bug else _dead(checker.system)
    proved: dict[str, tuple[str, float]] = {}
    if variants:
        other = Checker(checker.system, timeout=checker.timeout)
        other.adopt(Invariant(checker.system, checker.lemmas, timeout=checker.timeout, assumed=True))
        todo = {n: p for n, p in wanted.items() if p.given and n not in checker.book.counterexamples}
        results = {n: other.check(p) for n, p in todo.items()}
        proved = {n: (r.engine, r.seconds) for n, r in results.items() if r.verdict is Verdict.PROVED}
    return _Beside(broken, coverage, dead, proved)


def _dead(system: System) -> list[str]:
    """Operations that lead nowhere."""
    from formal.evidence.runs.progress import dead_ends, may_follow  # networkx is loaded beside the proofs

    return dead_ends(may_follow(system), "kvm_arch_vcpu_create", "__kvm_vcpu_run enters")


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


def _refresh(job: Job, checker: Checker, report: Report, wanted: Mapping[str, Claim]) -> None:
    """Decides anew, with what is known for any configuration tried first; the traces found are in the report."""
    pool = _all_traces(job.traces)
    found: dict[str, Trace] = {}
    for name, claim in wanted.items():
        result = _known(checker, claim, [*found.values(), *pool]) or checker.check(claim, known_as=name)
        if result.trace is not None:
            found[name] = result.trace
        report.rows.append(_row(name, job.configuration, result, job))
    if job.configuration.is_bug or job.claims:
        report.book = _book([], found)
        return
    traces = list(found.values())
    witnesses = _search_witnesses(checker, traces, pool)
    report.book = _book(witnesses, found)
    coverage = cover(checker.replay, traces + witnesses, CLAIMS)
    report.replayed = coverage.replayed
    report.problems += coverage.missing(checker.system, CLAIMS) + coverage.unusable
    _sanity(checker, report, coverage, _dead(checker.system))


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
    if best is None or best.trace is None:
        return None
    small = shrink(best.trace, lambda t: _breaks(checker, t, claim))
    return replace(best, trace=small, broken_at=checker.replay.violates(small, claim))


def _breaks(checker: Checker, trace: Trace, claim: Claim) -> bool:
    try:
        return checker.replay.violates(trace, claim) is not None
    except (ReplayError, TraceError):
        return False


def _book(witnesses: list[Trace], found: dict[str, Trace]) -> TraceBook:
    traces = _distinct([*found.values(), *witnesses])
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


def _sanity(checker: Checker, report: Report, coverage: Coverage, dead: list[str]) -> None:
    for step in coverage.untaken(checker.system):
        try:
            if not checker.invariant().never_enabled(step):
                report.problems.append(f"operation {step.operation.name!r} is never taken, and not proved impossible")
        except SolverTimeoutError as error:
            report.undecided.append(f"whether {step.operation.name!r} is impossible: the solver gave up: {error}")
    if not coverage.replayed:
        report.problems.append("no initial state is known: Init may be contradictory")
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
