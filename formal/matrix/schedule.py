"""The built-in gate: every configuration, in parallel processes, compared with the manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from formal.common.places import PROOFS as PROOFS
from formal.common.processes import in_turn
from formal.evidence.runs.traces import TraceBook
from formal.matrix.configuration_run import Job, Report, book_path, run
from formal.scope.configuration import BUG_CONFIGURATIONS, EPOCH_CONFIGURATIONS, Configuration
from formal.scope.manifest import Manifest


def selected(epoch: str | None, mode: str | None, bug: str | None) -> list[Configuration]:
    """The configurations that the options ask for: by default all epochs, and all bugs brought back."""
    everything = EPOCH_CONFIGURATIONS + BUG_CONFIGURATIONS
    wanted = bug or epoch
    return [c for c in everything if (wanted is None or c.name == wanted) and (mode is None or c.mode == mode)]


def run_all(jobs: Sequence[Job], workers: int, done: Callable[[Report], None]) -> list[Report]:
    """Runs jobs, each worker those of one mode as far as possible: kernels alike have many questions in common.

    Results are in the order of the jobs.

    Raises:
        TraceError, KeyboardInterrupt: from any job; the others are given up.
    """
    if workers <= 1 or len(jobs) <= 1:
        reports = []
        for job in jobs:
            reports.append(run(job, processes=workers))
            done(reports[-1])
        return reports
    order = {job.configuration: n for n, job in enumerate(jobs)}
    taken = get_context("fork").Array("b", len(jobs))
    reports = []
    for report in in_turn([partial(_untaken, jobs, own, taken) for own in orders(jobs, min(workers, len(jobs)))]):
        reports.append(report)
        done(report)
    return sorted(reports, key=lambda r: order[r.configuration])


def _untaken(jobs: Sequence[Job], order: Sequence[int], taken: Any) -> Iterator[Report]:
    """Runs jobs in an order, each that no other process has taken: ``taken`` is shared."""
    for n in order:
        with taken.get_lock():
            mine, taken[n] = not taken[n], True
        if mine:
            yield run(jobs[n])


def orders(jobs: Sequence[Job], workers: int) -> list[list[int]]:
    """In which order each worker looks for jobs: its own share, then those of the others from their ends."""
    number = {id(job): n for n, job in enumerate(jobs)}
    own = [[number[id(job)] for job in share] for share in shares(jobs, workers)]
    return [[*mine, *(n for other in own if other is not mine for n in reversed(other))] for mine in own]


def shares(jobs: Sequence[Job], workers: int) -> list[list[Job]]:
    """The jobs of each worker: modes together, whole epochs (bugs take no time) in equal numbers."""
    by_mode = sorted(jobs, key=lambda job: (job.configuration.is_bug, job.configuration.mode))
    heavy = [job for job in by_mode if not job.configuration.is_bug]
    size = -(-len(heavy) // workers)
    found = [heavy[n * size : (n + 1) * size] for n in range(workers)]
    for n, job in enumerate(by_mode[len(heavy) :]):
        found[n % workers].append(job)
    return found


def missing(report: Report, manifest: Manifest | None) -> list[str]:
    """Expected verdicts that nothing came out for."""
    if manifest is None:
        return []
    got = {row.check for row in report.rows}
    return [f"{report.configuration}: {name} is in the manifest but was not checked"
            for name in manifest.expected(report.configuration) if name not in got]  # fmt: skip


@dataclass(frozen=True)
class Change:
    """A verdict that is not the one of the manifest; ``before`` or ``after`` is empty if there is none."""

    configuration: Configuration
    check: str
    before: str
    after: str

    @property
    def worse(self) -> bool:
        """Whether less holds or less is known than before; of a past bug, that it is found is better."""
        better = ("VIOLATED", "PROVED")
        known = self.before in ("", "UNKNOWN") and self.after != ""
        if self.configuration.is_bug:
            better = ("PROVED", "VIOLATED")
        return not (known or (self.before, self.after) == better or (self.before == "n/a" and self.after == better[1]))

    def __str__(self) -> str:
        was, now = self.before or "not checked", self.after or "not checked any more"
        return f"{self.configuration}: {self.check}: {was} -> {now}" + (": WORSE" if self.worse else "")


def changes(reports: Sequence[Report], manifest: Manifest | None) -> list[Change]:
    """Every verdict that differs from the manifest's, those that are new and those that are gone as well."""
    found = []
    for report in reports:
        before = dict(manifest.expected(report.configuration)) if manifest else {}
        after = {row.check: row.verdict for row in report.rows}
        for check in dict.fromkeys((*before, *after)):
            if before.get(check) != after.get(check):
                found.append(Change(report.configuration, check, before.get(check, ""), after.get(check, "")))
    return found


def refresh(reports: Sequence[Report], manifest: Manifest | None, proofs: Path) -> Manifest:
    """Writes what was found: traces first, then the manifest that speaks of them."""
    tables = dict(manifest.tables) if manifest else {}
    for report in reports:
        c = report.configuration
        if report.book is not None:
            old = TraceBook.read(book_path(proofs / "traces", c))
            if old != report.book:
                report.book.write(book_path(proofs / "traces", c))
        tables[f"{c.name}.{c.mode}"] = {row.check: row.verdict for row in report.rows}
    written = Manifest(tables)
    written.write(proofs / "manifest.toml")
    return written
