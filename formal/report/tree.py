"""The result for a kernel tree: what was lifted, where it differs, the claims, and traces that name C lines."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from formal.evidence.runs.replay import Replay, Seen
from formal.explain.show import final_values, shown
from formal.kernel.compare.behaviours import DEBUG_C
from formal.kernel.model.counterparts import Makes
from formal.kernel.source.tree import KernelTree
from formal.kernel.text.signs import Sign
from formal.logic.evaluation import support
from formal.matrix.configuration_run import Row
from formal.properties import CLAIMS
from formal.report.grid import Cell, Grid
from formal.report.text import STYLE
from formal.system import System
from formal.transitions import OPERATIONS
from formal.tree.rank import better, worse
from formal.tree.verdicts import TreeReport
from formal.vocabulary import Claim

SHOWN = 8  # names of a list that are shown before the rest is only counted


def headline(tree: KernelTree, reports: Sequence[TreeReport], signs: Sequence[Sign]) -> list[str]:
    """What the tree is, what was lifted from it, and what the verdicts rest on besides."""
    first = reports[0]
    by_hand = [op.name for op in OPERATIONS if op.name not in first.lifted]
    lines = [
        f"tree: v{tree.release} by its Makefile, configuration {tree.config_name}",
        *(
            f"{r.mode.value}: nearest epoch {r.resolved.epoch.name} ({r.resolved.epoch.releases})"
            + (f", but {', '.join(r.resolved.differs)}" if r.resolved.differs else "")
            for r in reports
        ),
        *(
            ["nothing has changed since an earlier run: traces replayed, proofs taken from there"]
            if first.cached
            else []
        ),
        "lifted from the C, with the tree's own headers:",
    ]
    for r in reports:
        for c in r.compared:
            state = "equal to its description" if c.equal else f"DIFFERS in {', '.join(c.differs_in)}"
            besides = f"; stores besides: {_listed(c.stores_besides)}" if c.stores_besides else ""
            lines.append(f"  {r.mode.value:4} {c.function} ({c.place}): {state}{besides}")
    for r in reports:
        lines += [f"  {r.mode.value:4} {text}: taken as left out" for text in (*r.omitted.values(), *r.lacking)]
        lines += [f"  {r.mode.value:4} {'' if u.gap.broken else 'not understood: '}{u}" for u in r.unknowns]
        lines.append(f"  {r.mode.value:4} calls around them: {r.rules} rules on order, conditions and arguments")
    lines.append(f"hand-written, compared in parts or by their calls: {', '.join(by_hand)}")
    lines.append("behaviours of the hand-written part, by signs in the source:")
    lines += [f"  {s.behaviour} = {s.value} ({s.file}:{s.line})" for s in signs]
    notes = dict.fromkeys(note for r in reports for note in r.notes)
    return lines + ([f"assumed in lifting: {'; '.join(notes)}"] if notes else [])


def first_screen(tree: KernelTree, reports: Sequence[TreeReport]) -> Iterator[str]:
    """What differs from the description, then a line for each claim that is lost, as compilers print; one run below."""
    yield f"tree: v{tree.release} by its Makefile, configuration {tree.config_name}"
    if reports[0].cached:
        yield "nothing has changed since an earlier run: traces replayed, proofs taken from there"
    for r in reports:
        differs = f", but {', '.join(r.resolved.differs)}" if r.resolved.differs else ""
        equal = sum(c.equal for c in r.compared)
        yield (
            f"{r.mode.value}: as {r.resolved.epoch.releases} ({r.resolved.epoch.name}){differs}; {equal} of "
            f"{len(r.compared)} functions equal to their description, {r.rules} rules on the calls around them"
        )
        yield from (
            f"  {c.function} ({c.place}) DIFFERS in {', '.join(c.differs_in)}" for c in r.compared if not c.equal
        )
        yield from (f"  {text}: taken as left out" for text in (*r.omitted.values(), *r.lacking))
        each = {u.gap.unless or u.gap.place: u for u in reversed(r.unknowns)}  # a function that is not compared: once
        yield from (f"  {'' if u.gap.broken else 'not understood: '}{u}" for u in reversed(each.values()))
    if notes := dict.fromkeys(note for r in reports for note in r.notes):
        yield f"taken for granted of this tree, beside what is assumed of all: {len(notes)} points; -v lists them"
    lost = [(r, row) for r in reports for row in r.rows if worse(row) and row.verdict == "VIOLATED"]
    yield from (f"{_blamed(r, row)}: error: {row.check} ({r.mode.value}): {_sentence(row)}" for r, row in lost)
    shortest = min(lost, key=lambda one: one[1].broken_at or 0, default=None)
    if shortest is not None:
        yield from ("", *explanation(*shortest))
        yield from [f"  --explain CLAIM shows the runs of the other {len(lost) - 1}"] if len(lost) > 1 else []


def _blamed(report: TreeReport, row: Row) -> str:
    """The function that is not as described, or where its call is missing; debug.c if nothing else is known.

    Of several, the one that differs in what is next to what the claim reads; of what is missing, what the run goes by.
    """
    differing = [(c, c.lifted) for c in reversed(report.compared) if not c.equal and c.lifted is not None]
    claim = _claim(row.claim)
    near = distances(report.system, claim) if len(differing) > 1 and claim and report.system else {}
    found = min(
        differing, key=lambda d: min((near.get(n, len(near)) for n in d[0].differs_in), default=0), default=None
    )
    if found is not None:  # operations come first, what they are made of later
        return f"{found[1].file}:{found[1].line}"
    taken = {step.operation for step in row.trace.steps[: row.broken_at]} if row.trace is not None else set[str]()
    lacking = sorted(report.lacking, key=lambda text: report.lacking[text] not in taken)
    for text in (*report.omitted.values(), *lacking):
        place = re.match(r"(\S+?:\d+)", str(text))
        if place:
            return place[1]
    return DEBUG_C


def distances(system: System, claim: Claim) -> dict[str, int]:
    """How many steps a state variable is from what a claim reads: a step gives one the value of others."""
    s = system.state()
    named = {str(value.data): name for name, value in s.values.items()}
    sources: dict[str, set[str]] = {}
    for step in system.applied:
        own = {str(value.data): name for name, value in step.before.values.items()}
        for name, value in step.after.values.items():
            if value is not step.before.values[name]:
                sources.setdefault(name, set()).update(own[v] for v in map(str, support(value)) if v in own)
    new = {named[v] for v in map(str, support(claim.then(s, s, system.kernel))) if v in named}
    found: dict[str, int] = {}
    while new:
        found |= dict.fromkeys(new, max(found.values(), default=-1) + 1)
        new = {source for name in new for source in sources.get(name, ())} - found.keys()
    return found


def _sentence(row: Row) -> str:
    claim = _claim(row.claim)
    return " ".join(claim.says.split()) if claim else "an obligation of the C"


def _listed(names: Sequence[str]) -> str:
    """Names, or the first of very many."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def table(reports: Sequence[TreeReport]) -> Grid:
    """Claims down, modes across."""
    found = Grid(("claim", *(r.mode.value for r in reports)))
    cells = {(row.check, r.mode): _cell(row) for r in reports for row in r.rows}
    for check in dict.fromkeys(row.check for r in reports for row in r.rows):
        found.add(check, *(cells.get((check, r.mode), "-") for r in reports))
    return found


def _cell(row: Row) -> Cell:
    pieces = [(row.verdict, STYLE[row.verdict])]
    if worse(row):
        pieces.append((f" WORSE than expected ({row.expected or 'PROVED'})", "bold red"))
    elif better(row):
        pieces.append((f" better than expected ({row.expected})", "green"))
    return Cell(tuple(pieces))


def explanation(report: TreeReport, row: Row) -> Iterator[str]:
    """A violated claim: the trace, each lifted step with the C lines that made it."""
    claim = _claim(row.claim)
    says = claim.says if claim else "An obligation of the C."
    yield f"{row.check} ({report.mode.value}): {row.verdict}"
    yield f"  {says}"
    if row.reason:
        yield f"  {row.reason}"
    if row.trace is None or row.broken_at is None or report.system is None:
        return
    replay = Replay(report.system)
    lines = {seen.number: _c_lines(report.shown, replay, seen) for seen in replay.run(row.trace)}
    for step in shown(replay, row.trace, until=row.broken_at):
        inputs = f" with {', '.join(step.inputs)}" if step.inputs else ""
        yield f"  {step.number:3}. {step.operation}{inputs}    ({step.actor}; {step.place})"
        yield from (f"         {line}" for line in lines[step.number])
        yield from (f"         {c.variable}: {c.before} -> {c.after}    [{c.stands_for}]" for c in step.changes)
    if claim is not None:
        values = final_values(replay, row.trace, claim, row.broken_at)
        yield from ["  the claim reads, at that point:"] if values else []
        yield from (f"         {name} = {value}" for name, value in values.items())


def undecided(report: TreeReport) -> Iterator[str]:
    """The claims that are UNKNOWN, together where they hang on the same."""
    claims: dict[str, list[str]] = {}
    for row in report.rows:
        if row.verdict == "UNKNOWN":
            claims.setdefault(row.reason, []).append(row.check)
    for reason, names in claims.items():
        yield from ("", f"UNKNOWN ({report.mode.value}): {', '.join(names)}", f"  {reason}")


def _c_lines(makers: Mapping[str, Makes], replay: Replay, seen: Seen) -> list[str]:
    if seen.step is None or seen.step.operation not in makers:
        return []
    state = replay.system.state((seen.step.vcpu, seen.step.cpu))
    return [str(made) for made in makers[seen.step.operation].made(state, replay.system.kernel, seen)]


def _claim(name: str) -> Claim | None:
    return next((c for c in CLAIMS if c.name == name), None)
