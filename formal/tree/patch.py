"""Two trees side by side: what a patch does to each function, and to the verdict on each claim."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from formal.common.processes import Beside
from formal.epochs import HOSTS, Mode
from formal.kernel.errors import NotUnderstoodError
from formal.kernel.source.tree import KernelTree
from formal.kernel.source.versions import Version
from formal.matrix.configuration_run import Row
from formal.tree.functions import FunctionChange, compare
from formal.tree.rank import RANK, won, worse
from formal.tree.reading import prepare
from formal.tree.verdicts import TreeJob, TreeReport, run

_LINE = re.compile(r"^(\S+?):\d+: ")  # an obligation is named by its place, which moves


@dataclass(frozen=True)
class ClaimChange:
    """The verdict on one claim before and after; empty where it was not asked."""

    check: str
    mode: str
    before: str
    after: str

    @property
    def worse(self) -> bool:
        """Whether the tree lost something: a claim that did not exist or apply before is expected to hold."""
        return RANK[self.after or "n/a"] < RANK[self.before or "n/a"]

    @property
    def better(self) -> bool:
        """Whether the tree won something."""
        return won(self.before, self.after)


@dataclass(frozen=True)
class TreeDiff:
    """A tree against its base, all modes."""

    functions: tuple[FunctionChange, ...]
    claims: tuple[ClaimChange, ...]
    problems: tuple[str, ...]  # what is wrong in the tree and was not in the base

    @property
    def worse(self) -> bool:
        """Whether the gate must stay shut."""
        return bool(self.problems) or any(c.worse for c in self.claims)


@dataclass(frozen=True)
class Step:
    """One tree held against the one before it; without ``diff`` it was refused, or is as before."""

    base: str
    tree: str
    diff: TreeDiff | None = None
    reports: tuple[TreeReport, ...] = ()  # of the tree, with the verdicts of the base as the expected ones
    refused: str = ""


def steps(versions: Iterable[Version], job: Callable[[KernelTree], TreeJob], timeout: float | None) -> Iterator[Step]:
    """Each version against the last one before it that is understood; each is proved once.

    Raises:
        SolverTimeoutError: if the solver cannot tell with ``timeout`` seconds' work a question about a function.
    """
    base: tuple[str, list[TreeReport]] | None = None
    for number, version in enumerate(versions):
        before = base[0] if base else ""
        if version.unchanged:
            yield Step(before, version.name)
            continue
        try:
            reports = run(job(version.tree)) if version.tree else []
            refused = version.refused
        except NotUnderstoodError as error:
            reports, refused = [], str(error)
        for program in {id(r.program): r.program for r in reports if r.program is not None}.values():
            program.release()  # two trees at a time take too much memory
        if refused:
            yield Step(before, version.name, refused=refused)
            continue
        if base is not None:
            yield Step(before, version.name, diff(base[1], reports, timeout), tuple(against(base[1], reports)))
        elif number:
            yield Step("", version.name, refused="nothing before it is understood, so there is nothing to compare with")
        base = (version.name, reports)


def side_by_side(
    versions: Iterable[Version],
    job: Callable[[KernelTree], TreeJob],
    timeout: float | None,
    explain: Callable[[TreeReport, Row], Iterable[str]],
) -> Iterator[Step]:
    """As ``steps``, of few versions in two modes, each mode in a process of its own.

    Args:
        explain: what is shown of a verdict that is worse; the reports are without what they were made from.

    Raises:
        SolverTimeoutError: if the solver cannot tell with ``timeout`` seconds' work a question about a function.
    """
    compared = list(versions)

    def of(mode: Mode) -> list[Step]:
        found = steps(compared, lambda tree: replace(job(tree), modes=(mode,)), timeout)
        return [replace(s, reports=tuple(_as_text(report, explain) for report in s.reports)) for s in found]

    here, there = HOSTS
    prepare([version.tree for version in compared if version.tree], fork=True)
    with Beside(lambda: of(there), fork=True) as beside:
        first = of(here)
        second = beside.result()
    yield from map(_both, first, second)


def _as_text(report: TreeReport, explain: Callable[[TreeReport, Row], Iterable[str]]) -> TreeReport:
    """A report as another process can read it: with texts in place of what they are made from."""
    return TreeReport(
        mode=report.mode,
        resolved=report.resolved,
        compared=[replace(c, lifted=None) for c in report.compared],
        rows=report.rows,
        problems=report.problems,
        gaps=report.gaps,
        lacking=report.lacking,
        omitted=report.omitted,
        lifted=report.lifted,
        rules=report.rules,
        notes=report.notes,
        explained={row.check: tuple(explain(report, row)) for row in report.rows if worse(row)},
    )


def _both(a: Step, b: Step) -> Step:
    """One comparison in two modes; what is refused in one of them is refused."""
    refused = a.refused or b.refused
    if refused or a.diff is None or b.diff is None:
        return Step(a.base, a.tree, refused=refused)
    together = TreeDiff(
        a.diff.functions + b.diff.functions,
        a.diff.claims + b.diff.claims,
        tuple(dict.fromkeys(a.diff.problems + b.diff.problems)),
    )
    return Step(a.base, a.tree, together, a.reports + b.reports)


def diff(base: Sequence[TreeReport], tree: Sequence[TreeReport], timeout: float | None) -> TreeDiff:
    """What changed from one tree to the other.

    Raises:
        SolverTimeoutError: if the solver cannot tell with ``timeout`` seconds' work a question about a function.
    """
    functions: list[FunctionChange] = []
    claims: list[ClaimChange] = []
    problems: list[str] = []
    for old, new in zip(base, tree, strict=True):
        functions += compare(old, new, timeout)
        before, after = _verdicts(old), _verdicts(new)
        for check in dict.fromkeys((*before, *after)):
            claims.append(ClaimChange(check, new.mode.value, before.get(check, ""), after.get(check, "")))
        known = {_anywhere(p) for p in old.problems}
        problems += [p for p in new.problems if _anywhere(p) not in known]
    return TreeDiff(tuple(functions), tuple(claims), tuple(dict.fromkeys(problems)))


def against(base: Sequence[TreeReport], tree: Sequence[TreeReport]) -> list[TreeReport]:
    """The reports of the tree with the verdicts of the base as the expected ones."""
    found = []
    for old, new in zip(base, tree, strict=True):
        before = _verdicts(old)
        rows = [replace(row, expected=before.get(_anywhere(row.check))) for row in new.rows]
        known = {_anywhere(p) for p in old.problems}
        problems = [p for p in new.problems if _anywhere(p) not in known]
        found.append(replace(new, rows=rows, problems=problems))
    return found


def _verdicts(report: TreeReport) -> Mapping[str, str]:
    """The verdict on each claim; of several with one name, the worst."""
    found: dict[str, str] = {}
    for row in sorted(report.rows, key=_rank, reverse=True):
        found[_anywhere(row.check)] = row.verdict
    return {name: found[name] for name in dict.fromkeys(_anywhere(row.check) for row in report.rows)}


def _rank(row: Row) -> int:
    return RANK[row.verdict]


def _anywhere(text: str) -> str:
    return _LINE.sub(r"\1: ", text)
