"""A claim in words: where it is false, the run that breaks it; where it is proved, why, and what would break it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from formal.common.options import program
from formal.engines.used import used
from formal.engines.verdict import Checker
from formal.epochs import EPOCHS
from formal.evidence.runs.replay import Replay
from formal.explain.show import final_values, shown
from formal.matrix.configuration_run import Report, Row
from formal.properties import CLAIMS, NON_PROPERTIES
from formal.report import spec, text
from formal.report.book.content import Book
from formal.report.book.formula import formulas
from formal.report.claimplaces import PROPERTIES, line_of
from formal.scope.bugs import BUGS
from formal.scope.configuration import Configuration, checks
from formal.system import System
from formal.vocabulary import Claim

_WIDTH = 118
_FEW = 8  # faults that are named


def lines(c: Configuration, row: Row, breakpoints: int = 16) -> list[str]:
    """A claim and, where it is violated, the trace; replayed here once more."""
    return [*_head([c], row), *_broken(c, row, breakpoints)]


def together(reports: Sequence[Report], names: Sequence[str], proofs: Path, breakpoints: int = 16) -> Iterator[str]:
    """What all kernels say of a claim: each verdict once, with the kernels that have it and one run or proof."""
    groups: dict[tuple[str, ...], list[tuple[Configuration, Row]]] = {}
    for report in reports:
        for row in report.rows:
            if row.check in names:
                known = tuple(spec.causes(claim_of(row.check), report.configuration))
                key = (row.check, row.verdict, row.reason, *(known if row.verdict == "VIOLATED" else ()))
                groups.setdefault(key, []).append((report.configuration, row))
    for number, group in enumerate(groups.values()):
        c, row = min(reversed(group), key=lambda one: one[1].broken_at or 0)
        yield from [""] if number else []
        yield from _head([c for c, _ in group], row, number > 0)
        if row.verdict == "PROVED" and not c.is_bug and not row.check.startswith("not "):
            newest = next((c for c, _ in reversed(group) if c.mode == "vhe"), group[-1][0])
            yield from proved(claim_of(row.check), System(newest.kernel(breakpoints)), str(newest))
            yield from _evidence(claim_of(row.check), newest, Book(reports, proofs))
        yield from _broken(c, row, breakpoints)
        if row.trace is not None and len(group) > 1:
            yield f"  This is the run of {c}; --epoch and --mode show that of another kernel."


def _head(kernels: Sequence[Configuration], row: Row, known: bool = False) -> Iterator[str]:
    """What a claim says, unless that is ``known``, and its verdict."""
    claim = claim_of(row.check)
    yield from _folded(f"{row.check} ({listed(kernels)}): {row.verdict}", "", "    ")
    if not known:
        yield f"  {claim.says}"
        yield f"  stated {claim.at.value}; source: {claim.cites}; here: {PROPERTIES}:{line_of(claim.name)}"
        yield from (f"  given {p.name}: {p.says}" for p in claim.given)
    yield from [f"  {row.reason}"] if row.reason else []


def _broken(c: Configuration, row: Row, breakpoints: int) -> Iterator[str]:
    claim = claim_of(row.check)
    if row.verdict == "VIOLATED":
        yield from (f"  {cause}" for cause in spec.causes(claim, c))
    if row.trace is None or row.broken_at is None:
        return
    replay = Replay(System(c.kernel(breakpoints)))
    yield f"  broken after step {row.broken_at} (shortest found); only what changes is shown:"
    yield from ("  " + line for line in text.trace(shown(replay, row.trace, until=row.broken_at)))
    values = final_values(replay, row.trace, claim, row.broken_at)
    yield from (
        ["  the claim reads, at that point:", *(f"       {n} = {v}" for n, v in values.items())] if values else []
    )


def listed(kernels: Iterable[Configuration]) -> str:
    """Kernels in few words: epochs that follow one another as one, with their releases, mode by mode."""
    found: dict[str, list[str]] = {}
    single = list(kernels)
    for c in single:
        found.setdefault(c.mode, []).append(c.name)
    if len(single) == 1 or any(c.is_bug for c in single):
        return ", ".join(map(str, single))
    parts = []
    for mode, names in found.items():
        order = [e.name for e in EPOCHS.values() if mode in {m.value for m in e.modes}]
        numbers = enumerate(sorted(map(order.index, names)))
        runs = [[order[n] for _, n in run] for _, run in groupby(numbers, key=lambda one: one[1] - one[0])]
        parts.append(f"{', '.join(map(_span, runs))} {mode}")
    return "; ".join(parts)


def _span(names: Sequence[str]) -> str:
    first, last = (EPOCHS[name].releases.split() for name in (names[0], names[-1]))
    if len(names) == 1:
        return f"{names[0]} ({' '.join(first)})"
    return f"{names[0]} to {names[-1]} ({first[0]} to {last[-1]})"


# ---- why it holds


def proved(claim: Claim, system: System, where: str, places: Mapping[str, str] | None = None) -> Iterator[str]:
    """The formula of a claim that is proved, and what its proof goes by; ``places`` are of operations, where known."""
    when, then = formulas(claim, system.kernel)
    primed = "; a name with ' is the value after the step" if "'" in then else ""
    yield f"  formula, of one vCPU and one CPU ({where}{primed}):"
    yield from _folded(f"whenever {when}", "    ", "      ")
    yield from _folded(f"then {then}", "    ", "      ")
    found = used(Checker(system).invariant(claim.given), claim)
    if found is None:
        return
    how = "It is its own induction hypothesis, with" if found.kept else "It follows from"
    named = f"the lemmas {', '.join(found.direct)}" if found.direct else "the operations alone"
    yield from _folded(f"{how} {named}" + (f"; these need {', '.join(found.others)}." if found.others else "."))
    known = places or {}
    shown_as = [f"{name} ({known[name]})" if name in known else name for name in found.operations]
    yield from _folded(
        f"Operations that touch these, each shown to keep them ({len(shown_as)}): {'; '.join(shown_as)}."
    )


def _evidence(claim: Claim, c: Configuration, book: Book) -> Iterator[str]:
    """What shows that a claim is not vacuous, what would break it, and where its certificate is."""
    witness = book.witness(claim, [c])
    if witness is not None:
        by = "; ".join(step.operation for step in witness.steps)
        yield from _folded(f"Not vacuous: reached in {len(witness.steps)} steps: {by}." if by
                           else "Not vacuous: the initial state is one that it speaks of.")  # fmt: skip
    faults = book.mutants.get(claim.name, {})
    alone = [fault for fault, only in faults.items() if only]
    for title, names in (("no other claim finds", alone), ("others find too", [f for f in faults if f not in alone])):
        more = f"; and {len(names) - _FEW} more" if len(names) > _FEW else ""
        if names:
            yield from _folded(f"Planted faults that break it and {title}: {'; '.join(names[:_FEW])}{more}.")
    bugs = [f"{b.name} ({b.title})" for b in BUGS.values() if claim.name in b.breaks]
    yield from _folded(f"Bugs of the past that break it: {'; '.join(bugs)}.") if bugs else []
    proofs = {kernel: sha for kernel, _, sha, _ in book.proofs_of(claim)}
    if str(c) in proofs:
        others = f"; {len(proofs) - 1} other kernels have theirs" if len(proofs) > 1 else ""
        yield f"  Certificate: proofs/certificates/{c.stem}.tar.xz{others}"
        yield f"    SHA-256 {proofs[str(c)]}"
        yield f"    {program('check')} --epoch {c.name} --mode {c.mode} checks it without Z3"


def _folded(line: str, first: str = "  ", then: str = "    ") -> list[str]:
    return textwrap.wrap(line, _WIDTH, initial_indent=first, subsequent_indent=then, break_on_hyphens=False)


def claim_of(check: str) -> Claim:
    """The claim behind the name that a check has in the manifest.

    Raises:
        KeyError: if there is no such check.
    """
    return {**dict(checks(CLAIMS)), **{f"not {c.name}": c for c in NON_PROPERTIES}}[check]
