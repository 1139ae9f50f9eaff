"""Verdicts on a tree that has not changed: kept beside a digest of everything that they came from, checked when used.

A hit needs the same bytes in every file that the front end reads or may look for (all of ``include``, ``virt`` and
``arch/arm64`` but its device trees, the Makefile, the Kconfig files that were read, the configuration), the same bytes
of this tool and of its ``proofs``, and the same versions of Python, Z3, libclang and kconfiglib. Then every VIOLATED is
replayed without a solver, every claim that does not apply is asked again why, and no PROVED may be broken by a stored
trace. What is left to trust in a hit: that an earlier run with these very inputs found the C equal to the hand-written
operations with these behaviours, and proved what it calls PROVED; nobody else writes into the cache.

Only green runs are kept in which each function is equal to its description, since there the hand-written operations
are enough to replay. A damaged, foreign or stale entry is a miss, and is written anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from formal.common import progress
from formal.common.files import write_file
from formal.common.places import FORMAL, cache_folder
from formal.common.processes import Beside
from formal.epochs import EPOCHS, Kernel, Mode
from formal.evidence.runs.replay import Replay, ReplayError
from formal.evidence.runs.traces import TraceBook, TraceError, from_json, to_json
from formal.kernel.compare.behaviours import Resolved
from formal.kernel.errors import NotUnderstoodError
from formal.kernel.source.tree import KernelTree
from formal.matrix.configuration_run import Row, book_path
from formal.properties import CLAIMS
from formal.scope.configuration import Configuration, checks
from formal.system import System
from formal.tree import verdicts
from formal.tree.rank import worse
from formal.tree.reading import Source, prepare, source
from formal.tree.verdicts import Compared, TreeJob, TreeReport

FORMAT = 1
KEPT = 64  # entries; the oldest go first
_FOLDERS = ("include", "virt", "arch/arm64", "arch/arm/kvm")
_BOOT = "arch/arm64/boot"  # device trees, which no C includes
_PACKAGES = ("z3-solver", "libclang", "kconfiglib")
_CLAIMS = dict(checks(CLAIMS))


class _StaleError(Exception):
    """An entry that does not fit any more, or never did: a miss."""


def prove(job: TreeJob, use: bool, folder: Path | None = None) -> list[TreeReport]:
    """As ``treejob.run``; with ``use`` from the cache if nothing has changed, and kept there if it may be.

    Raises:
        NotUnderstoodError: if anything in the tree that matters is not understood.
    """
    if not use:
        return _run(job)
    path = (folder or default_folder()) / f"{_key(job)}.json"
    try:
        return _load(path, job)
    except (_StaleError, OSError, ValueError, KeyError, TypeError, AttributeError, TraceError, ReplayError):
        before = dict(_files(job.tree))
        reports = _run(job)
        _store(path, job, before, reports)
        return reports


def _run(job: TreeJob) -> list[TreeReport]:
    """As ``treejob.run``, two modes side by side; a report that is not all green comes from this process, whole."""
    if len(job.modes) != 2 or job.processes < 2:
        return verdicts.run(job)
    here, there = job.modes
    progress.doing("searching for what writes the state")
    prepare([job.tree], fork=True)
    common = source(job.tree, here)  # the other process parses its mode's hypervisor itself
    with Beside(lambda: _plain_report(job, common, there), fork=True) as beside:
        first = verdicts.prove(job, common, here)
        progress.doing(f"{there.value} is being proved")
        plain, opened = beside.result()
    if plain is None:
        return [first, verdicts.prove(job, common, there)]
    job.tree.opened |= opened
    return [first, replace(_report(plain), cached=False)]


def _plain_report(job: TreeJob, common: Source, mode: Mode) -> tuple[dict[str, Any] | None, set[str]]:
    """A report as plain data, if it may be kept as such, and the files that were opened; refused is not green."""
    try:
        report = verdicts.prove(job, common, mode)
    except NotUnderstoodError:  # so that the first mode's reason is shown first
        return None, set()
    return (_report_data(report) if _may_be_kept(report) else None), set(job.tree.opened)


def default_folder() -> Path:
    """Below ``XDG_CACHE_HOME``, or else ``~/.cache``."""
    return cache_folder() / "kvm-debug-trap-proofs"


# ---- what a verdict came from


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=32).hexdigest()


def _key(job: TreeJob) -> str:
    """The tool and the question: what was asked, by what, of which folder."""
    own = sorted(p for p in FORMAL.rglob("*") if p.is_file() and p.suffix != ".pyc")
    proofs = [job.proofs / "manifest.toml", *sorted((job.proofs / "traces").glob("*.json"))]
    tool = [(str(p), _digest(p.read_bytes())) for p in (*own, *proofs)]
    asked = [str(job.tree.path), str(job.tree.config), [m.value for m in job.modes], job.claims, job.timeout]
    return _digest(json.dumps([FORMAT, tool, asked, sys.version, [version(p) for p in _PACKAGES]]).encode())


def _files(tree: KernelTree) -> Iterator[tuple[str, str]]:
    """Every file that the front end reads or may look for, but Kconfig files elsewhere, with a digest."""
    yield "Makefile", _digest((tree.path / "Makefile").read_bytes())
    yield str(tree.config), _digest(tree.config.read_bytes())
    seen: set[str] = set()
    for top in _FOLDERS:
        for folder, below, names in os.walk(tree.path / top, followlinks=True):
            below[:] = sorted(n for n in below if os.path.relpath(os.path.join(folder, n), tree.path) != _BOOT)
            if (real := os.path.realpath(folder)) in seen:
                below.clear()
                continue
            seen.add(real)
            for name in sorted(names):
                file = Path(folder, name)
                content = file.read_bytes() if file.is_file() else b"dangling"
                yield os.path.relpath(file, tree.path), _digest(content)


def _digests(tree: KernelTree, names: Iterable[str]) -> dict[str, str]:
    return {name: _digest((tree.path / name).read_bytes()) for name in names}


# ---- entries


def _store(path: Path, job: TreeJob, before: Mapping[str, str], reports: list[TreeReport]) -> None:
    """Keeps a run, if it may be kept. A cache that cannot be written is none, and no error."""
    if not all(_may_be_kept(r) for r in reports) or not job.tree.kconfig_files:
        return
    outside = [n for n in job.tree.opened if os.path.relpath(n, job.tree.path) not in before]
    if outside or dict(_files(job.tree)) != before:  # changed meanwhile, or the front end reads more than is known here
        return
    data = {
        "files": dict(before),
        "kconfig": _digests(job.tree, job.tree.kconfig_files),
        "reports": [_report_data(r) for r in reports],
    }
    try:
        write_file(path, json.dumps({"format": FORMAT, "data": data, "digest": _sealed(data)}), sync=False)
        entries = sorted(path.parent.glob("*.json"), key=lambda p: p.stat().st_mtime, reverse=True)
        for old in entries[KEPT:]:
            old.unlink(missing_ok=True)
    except OSError:
        return


def _may_be_kept(report: TreeReport) -> bool:
    trouble = report.problems or report.gaps or report.omitted or report.lacking
    green = not trouble and all(c.equal for c in report.compared)
    return green and not any(worse(row) or row.verdict == "UNKNOWN" for row in report.rows)


def _sealed(data: Mapping[str, Any]) -> str:
    return _digest(json.dumps(data, sort_keys=True).encode())


def _load(path: Path, job: TreeJob) -> list[TreeReport]:
    entry = json.loads(path.read_text(encoding="utf-8"))
    data = entry["data"]
    if entry["format"] != FORMAT or entry["digest"] != _sealed(data):
        raise _StaleError
    if dict(_files(job.tree)) != data["files"] or _digests(job.tree, data["kconfig"]) != data["kconfig"]:
        raise _StaleError
    reports = [_report(r) for r in data["reports"]]
    if tuple(r.mode for r in reports) != job.modes:
        raise _StaleError
    for report in reports:
        _check(report, job)
    return reports


def _report_data(report: TreeReport) -> dict[str, Any]:
    resolved = report.resolved
    return {
        "kernel": {**asdict(resolved.kernel), "mode": resolved.kernel.mode.value},
        "epoch": resolved.epoch.name,
        "differs": list(resolved.differs),
        "compared": [asdict(replace(c, lifted=None)) for c in report.compared],
        "lifted": list(report.lifted),
        "rules": report.rules,
        "notes": list(report.notes),
        "rows": [
            {**asdict(replace(row, trace=None)), "trace": to_json(row.trace) if row.trace else None}
            for row in report.rows
        ],
    }


def _report(data: Mapping[str, Any]) -> TreeReport:
    kernel = Kernel(**{**data["kernel"], "mode": Mode(data["kernel"]["mode"])})
    resolved = Resolved(kernel, EPOCHS[data["epoch"]], tuple(data["differs"]))
    report = TreeReport(kernel.mode, resolved, notes=tuple(data["notes"]), system=System(kernel), cached=True)
    report.compared = [_compared(c) for c in data["compared"]]
    report.lifted, report.rules = tuple(data["lifted"]), int(data["rules"])
    report.rows = [_row(row) for row in data["rows"]]
    return report


def _compared(data: Mapping[str, Any]) -> Compared:
    listed = {"differs_in": tuple(data["differs_in"]), "stores_besides": tuple(data["stores_besides"])}
    return Compared(**{**data, **listed})


def _row(data: Mapping[str, Any]) -> Row:
    trace = from_json(data["trace"]) if data["trace"] else None
    return Row(**{**data, "assumptions": tuple(data["assumptions"]), "trace": trace})


def _check(report: TreeReport, job: TreeJob) -> None:
    """What can be checked of an entry without the front end and without a solver."""
    assert report.system is not None
    if not _may_be_kept(report):
        raise _StaleError
    replay, kernel = Replay(report.system), report.resolved.kernel
    book = TraceBook.read(
        book_path(job.proofs / "traces", Configuration(report.resolved.epoch.name, report.mode.value))
    )
    asked = {n for n, claim in _CLAIMS.items() if " without " not in n and (not job.claims or claim.name in job.claims)}
    if not asked <= {row.check for row in report.rows}:
        raise _StaleError
    for row in report.rows:
        claim = _CLAIMS.get(row.check)
        if claim is None:
            continue  # an obligation of the C, which is not in the hand-written operations
        if (claim.applies(kernel) is None) == (row.verdict == "n/a"):
            raise _StaleError
        if row.verdict == "VIOLATED" and (row.trace is None or replay.violates(row.trace, claim) != row.broken_at):
            raise _StaleError
        number = book.counterexamples.get(row.check)
        if row.verdict == "PROVED" and number is not None and _breaks(replay, book, number, row.check):
            raise _StaleError


def _breaks(replay: Replay, book: TraceBook, number: int, check: str) -> bool:
    try:
        return replay.violates(book.traces[number], _CLAIMS[check]) is not None
    except (ReplayError, TraceError):  # no run of this kernel
        return False
