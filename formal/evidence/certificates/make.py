"""Builds the certificates of one configuration: obligations, their CNF, and proofs by a SAT solver (python-sat).

Z3 takes no part. That a claim follows from the lemmas is tried first; if it does not, that it is inductive on top of
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from formal.common.files import write_file
from formal.evidence.certificates.archive import (
    INDEX,
    ArchiveError,
    Entry,
    archive_path,
    packed,
    read_index,
    write_index,
)
from formal.evidence.certificates.arrays import eliminate
from formal.evidence.certificates.blast import blast
from formal.evidence.certificates.catalogue import (
    BY_INDUCTION,
    BY_LEMMAS,
    Catalogue,
    CatalogueError,
    Owed,
    Plan,
    proved,
)
from formal.evidence.certificates.certify import NotUnsatisfiableError, refute, satisfiable
from formal.evidence.certificates.smtlib import flattened
from formal.evidence.obligations import Induction, Obligation
from formal.logic.terms import And
from formal.scope.configuration import Configuration
from formal.vocabulary import Claim


@dataclass(frozen=True)
class Made:
    """The certificates of one configuration, or why there are none."""

    configuration: Configuration
    archive: bytes = b""
    entry: Entry | None = None
    problem: str = ""


def make(c: Configuration, expected: Mapping[str, str], untaken: tuple[str, ...]) -> Made:
    """Builds the certificates of everything that is expected to be PROVED, and that some operations are never taken."""
    try:
        catalogue = _inductive(c, proved(c, expected))
        files = _certified((*catalogue.invariants(), *catalogue.totality(untaken)))
        ways: dict[str, str] = {}
        for name in catalogue.claims:
            ways[name], found = _claim(catalogue, name)
            files |= found
    except (CatalogueError, NotUnsatisfiableError) as error:
        return Made(c, problem=str(error))
    archive = packed(files)
    plan = Plan(tuple(m.name for m in catalogue.lemmas), ways, untaken)
    return Made(c, archive, Entry.of(archive, plan, files))


def _inductive(c: Configuration, claims: Mapping[str, Claim]) -> Catalogue:
    """The catalogue of these claims with the lemmas that are inductive together; in some kernels, some are not."""
    catalogue = Catalogue(c, claims)
    while lost := next(filter(None, map(_lost, catalogue.inductions())), None):
        catalogue = Catalogue(c, claims, tuple(m.name for m in catalogue.lemmas if m.name not in lost))
    return catalogue


def _lost(induction: Induction) -> set[str]:
    """The lemmas that Init, or the first operation that keeps not all of them, does not keep."""
    k, s, facts = induction.system.kernel, induction.system.state(), induction.facts()
    init = [(m, m.holds(s, k)) for m in induction.lemmas]
    for assumptions, goals in (
        ((induction.initially(),), init),
        *(((*facts, induction.allowed(step)), list(induction.goals(step))) for step in induction.system.applied),
    ):
        if not _holds(Obligation("all", assumptions, And(*(goal for _, goal in goals)))):
            return {m.name for m, goal in goals if not _holds(Obligation(m.name, assumptions, goal))}
    return set()


def _holds(o: Obligation) -> bool:
    flat = eliminate(o.formulas())
    return not satisfiable(blast(flat.formulas + flat.axioms))


def _claim(catalogue: Catalogue, name: str) -> tuple[str, dict[str, bytes]]:
    try:
        return BY_LEMMAS, _certified(catalogue.claim(name, BY_LEMMAS))
    except NotUnsatisfiableError:
        if catalogue.claims[name].actors:
            raise
        return BY_INDUCTION, _certified(catalogue.claim(name, BY_INDUCTION))


def _certified(owed: Iterable[Owed]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for o in owed:
        flat, text = flattened(o.obligation)
        try:
            proof = refute(blast(flat.formulas + flat.axioms))
        except NotUnsatisfiableError as error:
            raise NotUnsatisfiableError(f"{o.stem} does not hold: {error}") from error
        files[f"{o.stem}.smt2"] = text.encode()
        files[f"{o.stem}.lrat"] = proof.encode()
    return files


def write(folder: Path, made: Iterable[Made], *, whole: bool) -> None:
    """Writes archives and index; unless these are the ``whole``, other configurations stay as they are.

    Raises:
        ArchiveError: if the old index is needed and unreadable, or a file cannot be written.
    """
    entries = {} if whole or not (folder / INDEX).exists() else read_index(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for m in made:
            if m.entry is not None:
                entries[m.configuration.stem] = m.entry
                write_file(archive_path(folder, m.configuration.stem), m.archive)
        for path in folder.glob("*.tar.xz"):
            if path.name.removesuffix(".tar.xz") not in entries:
                path.unlink()
        write_index(folder, entries)
    except OSError as error:
        raise ArchiveError(f"{error.filename}: cannot be written: {error.strerror}") from error
