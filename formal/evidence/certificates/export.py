"""Certificates as plain files, for other tools: what each obligation says, its CNF, and its proof in two formats."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from formal.common.files import write_file
from formal.evidence.certificates.archive import Entry, archive_path, unpacked
from formal.evidence.certificates.blast import blast
from formal.evidence.certificates.catalogue import Catalogue, proved
from formal.evidence.certificates.lrat import parse
from formal.evidence.certificates.smtlib import flattened, with_arrays
from formal.scope.configuration import Configuration


def export(c: Configuration, expected: Mapping[str, str], entry: Entry, folder: Path, target: Path) -> int:
    """Writes the obligations of a configuration below ``target``; returns how many.

    For each: ``.smt2`` (without arrays, what is certified), ``.abv.smt2`` (as stated, with arrays), ``.cnf`` (DIMACS),
    ``.lrat``, and ``.drup`` (the same steps without hints).

    Raises:
        ArchiveError, CatalogueError, ProofError, OSError: if something is missing, damaged or cannot be written.
    """
    files = unpacked(archive_path(folder, c.stem).read_bytes())
    owed = Catalogue(c, proved(c, expected), entry.plan.lemmas).owed(entry.plan)
    for stem, obligation in owed.items():
        base = target / c.stem / stem
        base.parent.mkdir(parents=True, exist_ok=True)
        flat, text = flattened(obligation)
        proof = files[f"{stem}.lrat"].decode("ascii")
        write_file(base.with_suffix(".smt2"), text, sync=False)
        write_file(base.with_suffix(".abv.smt2"), with_arrays(obligation), sync=False)
        write_file(base.with_suffix(".cnf"), blast(flat.formulas + flat.axioms).dimacs(), sync=False)
        write_file(base.with_suffix(".lrat"), proof, sync=False)
        steps = "".join(" ".join(map(str, (*s.clause, 0))) + "\n" for s in parse(proof))
        write_file(base.with_suffix(".drup"), steps, sync=False)
    return len(owed)
