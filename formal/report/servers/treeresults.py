"""The verdicts on a kernel tree as a CI server counts them. Loads the C front end, which ``results`` does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from formal.evidence.runs.replay import Replay
from formal.matrix.configuration_run import Row
from formal.report.blame import blame
from formal.report.servers.flow import Flow, flow, place_of
from formal.report.servers.results import BY_CHECK, Suite, judged, outcome
from formal.tree.patch import Step
from formal.tree.rank import worse
from formal.tree.verdicts import TreeReport


def of_tree(reports: Sequence[TreeReport]) -> list[Suite]:
    """A kernel tree: better than expected passes."""
    return [_tree(report) for report in reports]


def of_steps(steps: Sequence[Step]) -> list[Suite]:
    """A proof diff: what fails is what is worse than in the base."""
    found: list[Suite] = []
    for step in steps:
        label = f"{step.tree.split()[0].rpartition('/')[2]} " if len(steps) > 1 else ""
        suites = of_tree(step.reports)
        if step.refused:
            suites = [Suite("source", (), (f"not understood: {step.refused}",))]
        found += [replace(suite, name=f"{label}{suite.name}") for suite in suites]
    return found


def _tree(report: TreeReport) -> Suite:
    places = [c for c in report.compared if c.function in ("kvm_arm_setup_debug", "kvm_arm_setup_mdcr_el2")]
    setup = place_of(places[0].place, "") if places else None
    made: list[Replay] = []

    def flow_of(row: Row) -> Flow | None:
        if row.trace is None or row.broken_at is None or report.system is None:
            return None
        made[:] = made or [Replay(report.system)]
        return flow(made[0], row.trace, row.broken_at, BY_CHECK.get(row.check), report.shown)

    checked = [judged(row, outcome(row, not worse(row), True), setup) for row in report.rows]
    return Suite(
        f"{report.resolved.epoch.name} {report.mode.value}",
        tuple(checked),
        tuple(report.problems),
        None,
        flow_of,
        partial(blame, report),
    )
