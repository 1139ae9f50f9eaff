"""The tables and traces that ``formal.prove`` prints."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence

from formal.common.options import program
from formal.epochs import EPOCHS
from formal.explain.show import ShownStep
from formal.matrix.configuration_run import Report, Row
from formal.report.grid import Cell, Grid
from formal.scope.assumptions import ASSUMED, NOT_MODELLED, TRUSTED

STYLE = {"PROVED": "green", "VIOLATED": "red", "UNKNOWN": "yellow", "n/a": "dim"}


def plural(count: int, noun: str) -> str:
    """A count with its noun."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def verdict(row: Row) -> Cell:
    """A verdict, marked if it is not the expected one."""
    pieces = [(row.verdict, STYLE[row.verdict])]
    if not row.as_expected:
        pieces.append((f" (expected {row.expected or 'nothing: not in the manifest'})", "bold red"))
    return Cell(tuple(pieces))


def matrix(reports: Sequence[Report]) -> Grid:
    """Claims down, configurations across."""
    grid = Grid(("claim", *(f"{report.configuration.name}\n{report.configuration.mode}" for report in reports)))
    cells = {(r.check, report.configuration): verdict(r) for report in reports for r in report.rows}
    for check in dict.fromkeys(r.check for report in reports for r in report.rows if " without " not in r.check):
        grid.add(check, *(cells.get((check, report.configuration), "-") for report in reports))
    return grid


def detail(report: Report) -> Grid:
    """One configuration: verdict and how it was reached."""
    grid = Grid(("claim", "verdict", "engine", "seconds", "given"))
    for r in report.rows:
        grid.add(r.check, verdict(r), r.engine, f"{r.seconds:.3f}", ", ".join(r.assumptions) or r.reason)
    return grid


def summary(reports: Sequence[Report]) -> list[str]:
    """What was done, in a few lines, problems last."""
    rows = [r for report in reports for r in report.rows]
    counts = {v: sum(r.verdict == v for r in rows) for v in STYLE}
    lines = [
        f"{plural(len(reports), 'configuration')}, {plural(len(rows), 'check')}: "
        f"{counts['PROVED']} PROVED, {counts['VIOLATED']} VIOLATED, "
        f"{counts['UNKNOWN']} UNKNOWN, {counts['n/a']} not applicable; {sum(not r.as_expected for r in rows)} not as "
        "expected"
    ]
    lines += [
        f"{report.configuration}: lemmas that do not hold here: {', '.join(report.dropped)}"
        for report in reports
        if report.dropped and len(reports) == 1
    ]
    lines += [f"{r.configuration}: {problem}" for r in reports for problem in r.problems + r.undecided]
    return lines


def sanity(reports: Sequence[Report]) -> str:
    """What was checked so that PROVED means something."""
    epochs = [r for r in reports if r.complete]
    if not epochs:
        return ""
    traces = plural(sum(r.replayed for r in epochs), "trace")
    each = "Checked" if len(epochs) == 1 else f"Checked in each of {len(epochs)} epoch configurations"
    return (
        f"{each}: Init can be met, operations are taken or impossible, no dead ends, all situations reached; "
        f"{traces} replayed."
    )


def differences(reports: Sequence[Report]) -> list[str]:
    """One line for each verdict that is not as expected."""
    return [
        f"{row.epoch} {row.mode}: {row.check}: {row.verdict}, expected {row.expected or 'nothing: not in the manifest'}"
        + (f": {row.reason}" if row.reason and row.verdict == "UNKNOWN" else "")
        for report in reports
        for row in report.rows
        if not row.as_expected
    ]


def assumptions() -> list[str]:
    """What was assumed, is not modelled, and has to be trusted."""
    parts = (("Assumed:", ASSUMED), ("Not modelled:", NOT_MODELLED), ("Trusted:", TRUSTED))
    return [line for title, items in parts for line in (title, *(f"  - {item}" for item in items))]


def assumed() -> str:
    """The same in a line, and where the list is."""
    counts = f"Assumed: {len(ASSUMED)} points; trusted: {len(TRUSTED)}; not modelled: {len(NOT_MODELLED)}"
    return f"{counts}. -v lists them."


def _alike(epochs: Mapping[str, Mapping[str, Cell | str]], modes: Sequence[str]) -> list[list[str]]:
    """Epochs that follow one another with the same counts in every mode."""
    found: list[list[str]] = []
    for name, cells in epochs.items():
        if found and all(str(cells.get(m, "-")) == str(epochs[found[-1][0]].get(m, "-")) for m in modes):
            found[-1].append(name)
        else:
            found.append([name])
    return found


_SHOWN = 5  # differences on the first screen


def first_screen(reports: Sequence[Report]) -> list[Grid | list[str]]:
    """What was proved, a line an epoch, and what is not as expected; at most 30 lines on a terminal, 80 wide."""
    modes = list(dict.fromkeys(r.configuration.mode for r in reports))
    grid = Grid(("epoch", "releases", *modes))
    epochs: dict[str, dict[str, Cell | str]] = {}
    for report in reports:
        if not report.configuration.is_bug:
            epochs.setdefault(report.configuration.name, {})[report.configuration.mode] = _counts(report)
    for alike in _alike(epochs, modes):
        first, last = (EPOCHS[name].releases.split() for name in (alike[0], alike[-1]))
        releases = EPOCHS[alike[0]].releases if len(alike) == 1 else f"{first[0]} to {last[-1]}"
        grid.add(", ".join(alike), releases, *(epochs[alike[0]].get(mode, "-") for mode in modes))
    bugs = [r for r in reports if r.configuration.is_bug]
    lines = ["Each cell: claims PROVED / VIOLATED, as the manifest expects unless it says so."]
    if bugs:
        found = sum(all(row.as_expected for row in r.rows) for r in bugs)
        names = plural(len({r.configuration.name for r in bugs}), "past bug")
        lines.append(f"{names} brought back: {found} of {plural(len(bugs), 'configuration')} broken as expected.")
    if len(reports) == 1 and not bugs:
        broken = [r.check for r in reports[0].rows if r.verdict == "VIOLATED" and _promise(r)]
        lines += textwrap.wrap(f"VIOLATED: {', '.join(broken) or 'none'}", 110, subsequent_indent="  ")
    different = differences(reports)
    lines += [f"DIFFERS: {line}" for line in different[:_SHOWN]]
    if len(different) > _SHOWN:
        lines.append(f"and {len(different) - _SHOWN} more: -v lists them")
    return [grid, lines]


def next_steps(reports: Sequence[Report]) -> list[str]:
    """What to run next: the reason of a violated claim, the evidence of all."""
    broken = [row for r in reports if not r.configuration.is_bug for row in r.rows if row.verdict == "VIOLATED"]
    if not broken or len(reports) == 1:
        return []
    row = min(reversed(broken), key=lambda r: (r.as_expected, " " in r.check))
    where = f"--epoch {row.epoch} --mode {row.mode}"
    explain = f"{program('prove')} {where} --explain {row.claim}"
    return [f"Next: {explain}; {program('check')}; -v for every table."]


def _promise(row: Row) -> bool:
    """Whether it is a claim as it stands, not a variant that lacks a precondition or a non-property."""
    return " without " not in row.check and not row.check.startswith("not ")


def _counts(report: Report) -> Cell:
    """PROVED and VIOLATED claims of a configuration, UNKNOWN ones if there are any; a mark if it is unexpected."""
    rows = [row for row in report.rows if _promise(row)]
    count = {v: sum(row.verdict == v for row in rows) for v in STYLE}
    pieces = [(f"{count['PROVED']}", "green"), (" / ", ""), (f"{count['VIOLATED']}", "red")]
    if count["UNKNOWN"]:
        pieces.append((f" / {count['UNKNOWN']} UNKNOWN", "yellow"))
    if wrong := sum(not row.as_expected for row in report.rows):
        pieces.append((f" ({wrong} not as expected)", "bold red"))
    return Cell(tuple(pieces))


def trace(steps: Iterable[ShownStep]) -> list[str]:
    """A counterexample, step by step, with only what changed."""
    lines = []
    for step in steps:
        where = f" [{step.where}]" if step.where else ""
        inputs = f" with {', '.join(step.inputs)}" if step.inputs else ""
        lines.append(f"{step.number:3}. {step.operation}{where}{inputs}    ({step.actor}; {step.place})")
        lines += [f"       {c.variable}: {c.before} -> {c.after}    [{c.stands_for}]" for c in step.changes]
    return lines


def listing(title: str, rows: Sequence[tuple[str, str]]) -> Grid:
    """Names and what they stand for."""
    return Grid(("name", title), list(rows))
