"""All evidence of every expected verdict: what there is to check, and the check; neither Z3 nor a SAT solver is
imported."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from difflib import get_close_matches
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from formal.common.lifetime import end_with_parent
from formal.common.options import UsageError
from formal.evidence.certificates.archive import INDEX, ArchiveError, Entry, read_index
from formal.evidence.certificates.recheck import Outcome, Work, recheck
from formal.evidence.runs.witnesses import Witnessed, witnessed
from formal.scope.configuration import BUG_CONFIGURATIONS, EPOCH_CONFIGURATIONS, Configuration
from formal.scope.manifest import Manifest, ManifestError

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Goals:
    """The configurations to check, and the verdicts expected there; ``folder`` is ``proofs/``."""

    folder: Path
    expected: Mapping[Configuration, Mapping[str, str]]
    whole: bool

    @staticmethod
    def of(folder: Path, only: Sequence[str] = ()) -> Goals:
        """What the manifest asks for.

        Raises:
            UsageError: if ``only`` names no configuration.
            ManifestError: if the manifest is unreadable, lacks an epoch, or names one that does not exist.
        """
        manifest = Manifest.read(folder / "manifest.toml")
        known = {c.stem: c for c in EPOCH_CONFIGURATIONS + BUG_CONFIGURATIONS}
        if lost := [c for c in known.values() if not manifest.expected(c)]:
            raise ManifestError(f"manifest.toml: nothing is expected of {lost[0]}")
        if strange := sorted(set(manifest.tables) - {f"{c.name}.{c.mode}" for c in known.values()}):
            raise ManifestError(f"manifest.toml: there is no configuration {strange[0]}")
        for name in only:
            if name not in known:
                near = get_close_matches(name, known, 1)
                raise UsageError(
                    f"--only {name}: no such configuration" + (f"; did you mean {near[0]}?" if near else "")
                )
        wanted = {c: manifest.expected(c) for c in known.values() if not only or c.stem in only}
        return Goals(folder, wanted, not only)

    @property
    def proved(self) -> dict[Configuration, Mapping[str, str]]:
        """Those where something is expected to be PROVED."""
        return {c: table for c, table in self.expected.items() if "PROVED" in table.values()}

    @property
    def certificates(self) -> Path:
        """Where the certificates are."""
        return self.folder / "certificates"

    def strange(self, index: Mapping[str, Entry]) -> str:
        """A file or an entry that belongs to nothing that is expected; empty if there is none."""
        if not self.whole:
            return ""
        stems, proved = {c.stem for c in self.expected}, {c.stem for c in self.proved}
        for name in sorted(set(index) - proved):
            return f"index.json: {name} is in the index, but nothing is expected to be PROVED there"
        for path in sorted(self.certificates.iterdir()):
            if path.name != INDEX and path.name.removesuffix(".tar.xz") not in proved:
                return f"{path.name}: no certificates of anything that is expected to be PROVED"
        for path in sorted((self.folder / "traces").iterdir()):
            if path.name.removesuffix(".json") not in stems:
                return f"{path.name}: no traces of anything that is expected"
        return ""


@dataclass(frozen=True)
class Checked:
    """What came out of one configuration: its certificates, if it has any, and its traces."""

    certificates: Outcome
    traces: Witnessed

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, one line each; what is wrong with traces only if the certificates are right."""
        if self.certificates.problem:
            return (self.certificates.problem,)
        return tuple(f"{self.traces.configuration}: {p}" for p in self.traces.problems)


def checked(goals: Goals, jobs: int, drup: bool = False) -> Iterator[Checked]:
    """Checks every configuration, side by side; results in order.

    Raises:
        ArchiveError: if the index is unreadable, or there is something that belongs to nothing.
    """
    index = read_index(goals.certificates)
    if why := goals.strange(index):
        raise ArchiveError(why)
    traces, certificates = goals.folder / "traces", goals.certificates
    tasks = [(Work(c, t, index.get(c.stem), certificates, (), drup), traces) for c, t in goals.expected.items()]
    return side_by_side(_checked, tasks, jobs)


def _checked(task: tuple[Work, Path]) -> Checked:
    work, traces = task
    shown = witnessed(work.configuration, work.expected, traces)
    if "PROVED" not in work.expected.values():
        return Checked(Outcome(work.configuration), shown)
    return Checked(recheck(replace(work, untaken=shown.never)), shown)


def side_by_side(function: Callable[[Task], Result], tasks: Sequence[Task], jobs: int) -> Iterator[Result]:
    """The results in order, computed by several processes if there is more than one to use."""
    if jobs == 1 or len(tasks) < 2:
        yield from map(function, tasks)
        return
    workers = min(jobs, len(tasks))
    with ProcessPoolExecutor(workers, get_context("fork"), initializer=end_with_parent) as pool:
        yield from pool.map(function, tasks)


def summary(found: Sequence[Checked]) -> str:
    """All of them that are right."""
    o, w = [one.certificates for one in found], [one.traces for one in found]
    return (
        f"{sum(x.claims for x in o)} claims are PROVED by {sum(x.obligations for x in o)} obligations with "
        f"{sum(x.steps for x in o)} proof steps, each checked; {sum(x.violated for x in w)} are VIOLATED, with "
        f"{sum(x.traces for x in w)} runs replayed"
    )
