"""The result for a kernel tree: what was lifted, where it differs, the claims, and traces that name C lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from formal.evidence.runs.replay import Replay, Seen
from formal.explain.show import final_values, shown
from formal.kernel.compare.behaviours import DEBUG_C
from formal.kernel.errors import DOES_NOT_PARSE
from formal.kernel.model.counterparts import Makes
from formal.kernel.source.tree import KernelTree
from formal.kernel.text.signs import Sign
from formal.matrix.configuration_run import Row
from formal.properties import CLAIMS
from formal.report.blame import blame, distances
from formal.report.claimplaces import PROPERTIES, line_of
from formal.report.explanation import proved
from formal.report.grid import Cell, Grid
from formal.report.text import STYLE, plural
from formal.scope.bugs import TOLD
from formal.scope.findings import FINDINGS, Finding
from formal.transitions import OPERATIONS
from formal.tree.rank import better, worse
from formal.tree.unknowns import Unknown
from formal.tree.unlike import origin, unlike
from formal.tree.verdicts import Compared, TreeReport
from formal.vocabulary import Claim

SHOWN = 8  # names of a list that are shown before the rest is only counted
_INDEX = re.compile(r"\[\d+\]")
FEW_CLAIMS = 3  # claims lost at one place that are shown in full
RUN = 12  # lines of a run
_BOOKKEEPING = ("phase", "cpu", "in_run")


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
    lines += known(reports)
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
    yield from _differences(reports)
    if names := dict.fromkeys([*(finding.name for finding, _ in _bugs(reports)), *_told(reports)]):
        yield f"{plural(len(names), 'known bug')} that later releases have mended: {', '.join(names)} (-v)"
    if notes := dict.fromkeys(note for r in reports for note in r.notes):
        yield f"taken for granted of this tree, beside what is assumed of all: {plural(len(notes), 'point')} (-v)"
    found = sorted(lost(reports), key=lambda one: one[1].broken_at or 0)
    yield from _by_cause(errors(found))
    if found:
        report, row = found[0]
        yield from ("", f"The shortest run ({row.check}, {report.mode.value}; whole with --explain {row.claim}):")
        run = [*_in_short(report, row)]
        yield from [f"  (the first {len(run) - RUN} lines are left out)"] if len(run) > RUN else []
        yield from run[-RUN:]


def _differences(reports: Sequence[TreeReport]) -> Iterator[str]:
    """Where the C differs from its description and how, what it does not call, what is not understood: each once."""
    modes: dict[str, list[str]] = {}
    for r in reports:
        told = [line for c in r.compared if not c.equal and not _inside(r, c) for line in _how(r, c)]
        told += [f"{text}: taken as left out" for text in (*r.omitted.values(), *r.lacking)]
        each = {u.gap.unless or u.gap.place: u for u in reversed(r.unknowns)}  # a function that is not compared: once
        told += [_not_understood(u) for u in reversed(each.values())]
        for line in told:
            modes.setdefault(line, []).append(r.mode.value)
    yield from (f"{line} ({', '.join(of)})" if len(reports) > 1 else line for line, of in modes.items())


def _inside(report: TreeReport, c: Compared) -> Compared | None:
    """A function that is run by this one and differs in the same: what differs there differs here."""
    inner = [i for i in report.compared if not i.equal and i.lifted is not None and i.function != c.function]
    runs = [i for i in inner if c.lifted is not None and i.function in c.lifted.functions]
    return next((i for i in runs if set(i.differs_in) & set(c.differs_in)), None)


def _how(report: TreeReport, c: Compared) -> Iterator[str]:
    file = c.lifted.file if c.lifted is not None else c.place.partition(":")[0]
    told = unlike(report, c)
    for u in (u for u in told if origin(told, u) is u):
        yield f"{file}:{u.line}: {c.function}() {u}" if u.line else f"{file}:{_line(c)}: {c.function}() {u}"
    if rest := [name for name in c.differs_in if name not in {u.variable for u in told}]:
        yield f"{file}:{_line(c)}: {c.function}() differs from its description in {', '.join(rest)}"
    callers = [o.function for o in report.compared if not o.equal and _inside(report, o) is c]
    yield from [f"  and so {', '.join(dict.fromkeys(callers))}"] if callers else []


def _line(c: Compared) -> str:
    return c.place.rpartition(":")[2]


def _not_understood(unknown: Unknown) -> str:
    """A place that is not understood; what a compiler would say, as a compiler says it."""
    gap = unknown.gap
    if gap.reason.startswith(DOES_NOT_PARSE):
        return f"{gap.file}:{gap.line}: error: {gap.reason.removeprefix(DOES_NOT_PARSE)}"
    return f"{'' if gap.broken else 'not understood: '}{unknown}"


def _by_cause(lines: Sequence[str]) -> Iterator[str]:
    """Claims that are lost at one place: the first few in full, the others by name."""
    causes: dict[str, list[str]] = {}
    for line in lines:
        causes.setdefault(line.partition(": error: ")[0], []).append(line)
    for place, of in causes.items():
        yield from of[:FEW_CLAIMS]
        names = [line.partition(": error: ")[2].partition(" (")[0] for line in of[FEW_CLAIMS:]]
        yield from [f"{place}: note: {plural(len(names), 'more claim')}: {_listed(names)}"] if names else []


def _in_short(report: TreeReport, row: Row) -> Iterator[str]:
    """The run that breaks a claim: its steps, C's last store to each place, or what changes of what the claim reads."""
    if row.trace is None or report.system is None:
        return
    claim = _claim(row.claim)
    replay = Replay(report.system)
    lines = {seen.number: _c_lines(report.shown, replay, seen) for seen in replay.run(row.trace)}
    near = distances(report.system, claim)
    for step in shown(replay, row.trace, until=row.broken_at):
        inputs = f" with {', '.join(step.inputs)}" if step.inputs else ""
        yield f"  {step.number:3}. {step.operation}{inputs}"
        last = {_INDEX.sub("[]", line.partition(" = ")[0].rpartition(": ")[2]): line for line in lines[step.number]}
        yield from (f"         {line}" for line in last.values())
        read = [c for c in step.changes if near.get(c.variable) == 0 and c.variable not in _BOOKKEEPING]
        yield from (f"         {c.variable}: {c.before} -> {c.after}" for c in read if not lines[step.number])


def known(reports: Sequence[TreeReport]) -> list[str]:
    """Bugs that a later release has mended, and this tree has: verdicts that are as expected say nothing of them."""
    return [
        f"known bug ({', '.join(of)}) {f.name}: {f.says} Mended: {f.fix}. VIOLATED: {_listed(broken)}"
        for (f, broken), of in _bugs(reports).items()
    ] + [
        f"known bug ({', '.join(of)}) {name}: {TOLD[name].title}. Mended: {TOLD[name].fix}. Not so: {TOLD[name].rule}"
        for name, of in _told(reports).items()
    ]


def _told(reports: Sequence[TreeReport]) -> dict[str, list[str]]:
    """Known bugs that a rule about the C tells, and in which modes."""
    modes: dict[str, list[str]] = {}
    for r in reports:
        said = [*map(str, r.gaps), *r.omitted.values(), *r.lacking, *r.problems]
        for name in (name for name, bug in TOLD.items() if any(bug.rule in text for text in said)):
            modes.setdefault(name, []).append(r.mode.value)
    return modes


def _bugs(reports: Sequence[TreeReport]) -> dict[tuple[Finding, tuple[str, ...]], list[str]]:
    """Each bug with its claims that are violated, in which modes."""
    modes: dict[tuple[Finding, tuple[str, ...]], list[str]] = {}
    for r in reports:
        violated = {row.claim for row in r.rows if row.verdict == "VIOLATED" and not worse(row)}
        for f in FINDINGS:
            if f.mended and f.applies(r.resolved.kernel) and violated.intersection(f.claims):
                broken = tuple(name for name in f.claims if name in violated)
                modes.setdefault((f, broken), []).append(r.mode.value)
    return modes


def lost(reports: Sequence[TreeReport]) -> list[tuple[TreeReport, Row]]:
    """The claims that are worse than expected, each with a run that shows it."""
    return [(r, row) for r in reports for row in r.rows if worse(row) and row.verdict == "VIOLATED"]


def errors(found: Iterable[tuple[TreeReport, Row]], folder: str = "") -> list[str]:
    """A line for each lost claim, as compilers print; its modes together where the same place is at fault."""
    modes: dict[tuple[str, str, str], list[str]] = {}
    for report, row in found:
        modes.setdefault((_blamed(report, row), row.check, _sentence(row)), []).append(report.mode.value)
    return [f"{folder}{place}: error: {check} ({', '.join(of)}): {says}" for (place, check, says), of in modes.items()]


def warnings(reports: Sequence[TreeReport], folder: str = "") -> Iterator[str]:
    """A line for each place that is not understood, as compilers print, with the claims that are UNKNOWN there."""
    for r in reports:
        open_claims = [row.check for row in r.rows if row.verdict == "UNKNOWN"]
        for u in r.unknowns if open_claims else ():
            place = f"{folder}{u.gap.file}:{u.gap.line}" if u.gap.line else f"{folder}{u.gap.file}"
            yield f"{place}: warning: {u.gap.reason} ({r.mode.value}): {plural(len(open_claims), 'claim')} UNKNOWN"


def _blamed(report: TreeReport, row: Row) -> str:
    found = blame(report, row)
    return f"{found.place.file}:{found.place.line}" if found is not None else DEBUG_C


def _sentence(row: Row) -> str:
    claim = _claim(row.claim)
    return " ".join(claim.says.split()) if claim else "an obligation of the C"


def _listed(names: Sequence[str]) -> str:
    """Names, or the first of very many."""
    more = f" and {len(names) - SHOWN} more (-v)" if len(names) > SHOWN else ""
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
    yield f"  {' '.join(says.split())}"
    if row.reason:
        yield f"  {row.reason}"
    if row.verdict == "PROVED" and claim is not None and report.system is not None and not report.unknowns:
        places = {name: f"{c.lifted.file}:{c.lifted.line}" for name, c in report.counterparts.items()}
        yield f"  here: {PROPERTIES}:{line_of(claim.name)}; source: {claim.cites}"
        yield from proved(claim, report.system, report.mode.value, places)
    if row.trace is None or row.broken_at is None or report.system is None:
        return
    if worse(row) and (at_fault := blame(report, row)) is not None:
        for place in (at_fault.place, *at_fault.related):
            yield f"  {place.file}:{place.line}: {place.text}"
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


def undecided(reports: Sequence[TreeReport], whole: bool) -> Iterator[str]:
    """The claims that are UNKNOWN, together where they hang on the same: all, or the first of many."""
    claims: dict[str, dict[str, list[str]]] = {}
    for report in reports:
        for row in report.rows:
            if row.verdict == "UNKNOWN":
                claims.setdefault(row.reason, {}).setdefault(row.check, []).append(report.mode.value)
    for reason, modes in claims.items():
        names, of = [*modes], dict.fromkeys(mode for found in modes.values() for mode in found)
        told = (
            f"{plural(len(names), 'claim')} UNKNOWN ({', '.join(of)}): {', '.join(names) if whole else _listed(names)}"
        )
        yield from ("", told, f"  {reason}")


def _c_lines(makers: Mapping[str, Makes], replay: Replay, seen: Seen) -> list[str]:
    if seen.step is None or seen.step.operation not in makers:
        return []
    state = replay.system.state((seen.step.vcpu, seen.step.cpu))
    return [str(made) for made in makers[seen.step.operation].made(state, replay.system.kernel, seen)]


def _claim(name: str) -> Claim | None:
    return next((c for c in CLAIMS if c.name == name), None)
