"""Checks the certificates of one configuration, without Z3 and without a SAT solver.

What is owed is derived from the specification and from the expected verdicts. Then, for every obligation: the text in
the archive is, byte for byte, the text of the obligation; the formulas without arrays follow from those with arrays;
and the proof refutes the CNF that the checker's own encoder derives from the text. The first thing that is wrong ends
the check of a configuration: one line says what it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from formal.evidence.certificates.archive import ArchiveError, Entry, archive_path, sha256, unpacked
from formal.evidence.certificates.arraycheck import EliminationError
from formal.evidence.certificates.arraycheck import check as check_elimination
from formal.evidence.certificates.catalogue import Catalogue, CatalogueError, proved
from formal.evidence.certificates.encoder import Encoding, TextError
from formal.evidence.certificates.lrat import Checked, ProofError
from formal.evidence.certificates.lrat import check as check_proof
from formal.evidence.certificates.smtlib import flattened
from formal.evidence.obligations import Obligation
from formal.scope.configuration import Configuration

DRUP_LIMIT = 20_000  # clauses times steps; PyPI's drup takes up to a second for that many


class CertificateError(Exception):
    """Something about a certificate is wrong; the message is one line."""


@dataclass(frozen=True)
class Work:
    """What to check: one configuration, the verdicts expected for it, and what the index says about it."""

    configuration: Configuration
    expected: Mapping[str, str]
    entry: Entry | None
    folder: Path
    untaken: tuple[str, ...] = ()  # operations that no stored run takes
    drup: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came out: counts, or what is wrong."""

    configuration: Configuration
    claims: int = 0
    obligations: int = 0
    steps: int = 0
    confirmed: int = 0  # proofs that PyPI's drup accepts as well
    problem: str = ""


def recheck(work: Work) -> Outcome:
    """Checks one configuration; never raises for what is wrong with a certificate."""
    c = work.configuration
    try:
        return _checked(work)
    except (ArchiveError, CatalogueError, CertificateError) as error:
        message = " ".join(str(error).split())
        return Outcome(c, problem=message if message.startswith(f"{c}: ") else f"{c}: {message}")


def _checked(work: Work) -> Outcome:
    c = work.configuration
    claims = proved(c, work.expected)
    entry, files = _files(work)
    if missing := [name for name in claims if name not in entry.plan.claims]:
        raise CertificateError(f"{missing[0]} is expected to be PROVED, but the index has no certificate for it")
    if extra := [name for name in entry.plan.claims if name not in claims]:
        raise CertificateError(f"the index has a certificate for {extra[0]}, which is not expected to be PROVED")
    if open_ := sorted(set(work.untaken) - set(entry.plan.never)):
        raise CertificateError(f"no stored run takes {open_[0]!r}, and the index has no certificate that none can")
    owed = Catalogue(c, claims, entry.plan.lemmas).owed(entry.plan)
    _same_names("the index", set(entry.files), set(owed))
    _same_names("the archive", set(files), {f"{stem}.{kind}" for stem in owed for kind in ("smt2", "lrat")})
    steps = confirmed = 0
    for stem, obligation in owed.items():
        checked = _obligation(stem, obligation, entry.files[stem], files)
        steps += len(checked.steps)
        if work.drup:
            confirmed += _second_opinion(stem, checked)
    return Outcome(c, len(claims), len(owed), steps, confirmed)


def _files(work: Work) -> tuple[Entry, dict[str, bytes]]:
    if work.entry is None:
        raise CertificateError("the index has no such configuration")
    path = archive_path(work.folder, work.configuration.stem)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CertificateError(f"{path.name}: {error.strerror}") from error
    if sha256(data) != work.entry.archive:
        raise CertificateError(f"{path.name}: its SHA-256 is not the one in the index")
    return work.entry, unpacked(data)


def _same_names(where: str, found: set[str], owed: set[str]) -> None:
    if missing := sorted(owed - found):
        raise CertificateError(f"{where} lacks {missing[0]}")
    if extra := sorted(found - owed):
        raise CertificateError(f"{where} has {extra[0]}, which is no obligation")


def _obligation(stem: str, o: Obligation, sums: tuple[str, str], files: Mapping[str, bytes]) -> Checked:
    text, proof = files[f"{stem}.smt2"], files[f"{stem}.lrat"]
    flat, own = flattened(o)
    if text != own.encode():
        raise CertificateError(f"{stem}.smt2: not the text of this obligation{_difference(text, own)}")
    for name, data, expected in ((f"{stem}.smt2", text, sums[0]), (f"{stem}.lrat", proof, sums[1])):
        if sha256(data) != expected:
            raise CertificateError(f"{name}: its SHA-256 is not the one in the index")
    try:
        check_elimination(o.formulas(), flat)
        encoding = Encoding(text.decode())
        return check_proof(encoding.count, encoding.clause, proof.decode("ascii"))
    except EliminationError as error:
        raise CertificateError(f"{stem}: arrays are not eliminated soundly: {error}") from error
    except TextError as error:
        raise CertificateError(f"{stem}.smt2: {error}") from error
    except (ProofError, UnicodeDecodeError) as error:
        raise CertificateError(f"{stem}.lrat: {error}") from error


def _difference(text: bytes, own: str) -> str:
    for number, (a, b) in enumerate(zip(text.split(b"\n"), own.encode().split(b"\n"), strict=False), 1):
        if a != b:
            return f": line {number} is {a[:80].decode(errors='replace')!r}, and should be {b[:80].decode()!r}"
    return ": it is cut off, or something follows it"


# ---- a second opinion


def essential(checked: Checked) -> list[tuple[int, ...]]:
    """The clauses of a proof that unit propagation from the clauses before them does not find by itself."""
    known = dict(checked.used) | {s.number: s.clause for s in checked.steps}
    return [s.clause for s in checked.steps if len(s.clause) != 1 or any(len(known[hint]) > 1 for hint in s.hints[:-1])]


def _second_opinion(stem: str, checked: Checked) -> int:
    """Whether PyPI's drup accepts the proof; 0 if it is too long for it.

    Raises:
        CertificateError: if it refuses the proof.
    """
    clauses = essential(checked)
    if len(checked.used) * len(clauses) > DRUP_LIMIT:
        return 0
    drup = import_module("drup")
    result = drup.check_proof([list(c) for c in checked.used.values()], [list(c) for c in clauses])
    if result.outcome is not drup.Outcome.VALID:
        raise CertificateError(f"{stem}.lrat: our checker accepts the proof, and PyPI's drup refuses it")
    return 1
