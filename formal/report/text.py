"""The tables and traces that ``formal.prove`` prints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from formal.explain.show import ShownStep
from formal.matrix.configuration_run import Report, Row
from formal.report.grid import Cell, Grid
from formal.scope.assumptions import ASSUMED, NOT_MODELLED, TRUSTED

STYLE = {"PROVED": "green", "VIOLATED": "red", "UNKNOWN": "yellow", "n/a": "dim"}


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
        f"{len(reports)} configurations, {len(rows)} checks: {counts['PROVED']} PROVED, {counts['VIOLATED']} VIOLATED, "
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
    return (
        f"Checked in each of {len(epochs)} epoch configurations: Init can be met, each of {epochs[0].operations} "
        "operations is taken or proved impossible, none is a dead end, every claim's situation is reached; "
        f"{sum(r.replayed for r in epochs)} traces replayed without a solver."
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
