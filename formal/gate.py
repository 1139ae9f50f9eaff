"""The built-in gate: every configuration, in parallel processes, compared with the manifest."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from formal.configuration import BUG_CONFIGURATIONS, EPOCH_CONFIGURATIONS, Configuration
from formal.evidence.traces import TraceBook
from formal.job import Job, Report, book_path, run
from formal.manifest import Manifest

PROOFS = Path(__file__).parents[1] / "proofs"


def selected(epoch: str | None, mode: str | None, bug: str | None) -> list[Configuration]:
    """The configurations that the options ask for: by default all epochs, and all bugs brought back."""
    everything = EPOCH_CONFIGURATIONS + BUG_CONFIGURATIONS
    wanted = bug or epoch
    return [c for c in everything if (wanted is None or c.name == wanted) and (mode is None or c.mode == mode)]


def run_all(jobs: Sequence[Job], workers: int, done: Callable[[Report], None]) -> list[Report]:
    """Runs jobs, in this process if there is one worker; results in the order of the jobs.

    Raises:
        TraceError, KeyboardInterrupt: from any job; the others are given up.
    """
    if workers <= 1 or len(jobs) <= 1:
        reports = []
        for job in jobs:
            reports.append(run(job))
            done(reports[-1])
        return reports
    order = {job.configuration: n for n, job in enumerate(jobs)}
    with ProcessPoolExecutor(workers, mp_context=get_context("fork"), initializer=_quiet) as pool:
        try:
            futures = [pool.submit(run, job) for job in jobs]
            reports = []
            for future in as_completed(futures):
                reports.append(future.result())
                done(reports[-1])
        except BaseException:
            for process in list(pool._processes.values()):  # before shutdown, which forgets them
                process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return sorted(reports, key=lambda r: order[r.configuration])


def _quiet() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process decides


def default_workers() -> int:
    """As many processes as there are processors to use."""
    return len(os.sched_getaffinity(0))


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
