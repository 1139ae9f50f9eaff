"""The files below proofs/certificates: one archive a configuration (.tar.xz), and an index of them all.

Both are written the same for the same contents: names sorted, times and owners zero. The index has the SHA-256 of every
archive and of every obligation and proof in it.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formal.common.files import write_file
from formal.evidence.certificates.catalogue import Plan

SCHEMA_VERSION = 1
LIMIT = 256 << 20  # bytes that an archive may unpack to
INDEX = "index.json"


class ArchiveError(Exception):
    """A file that is missing, cannot be read, or is not what the index says."""


def sha256(data: bytes) -> str:
    """The SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


# ---- archives


def packed(files: Mapping[str, bytes]) -> bytes:
    """The files as a .tar.xz archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in sorted(files):
            member = tarfile.TarInfo(name)
            member.size = len(files[name])
            tar.addfile(member, io.BytesIO(files[name]))
    return lzma.compress(buffer.getvalue(), preset=6)


def unpacked(data: bytes) -> dict[str, bytes]:
    """The files of a .tar.xz archive.

    Raises:
        ArchiveError: if it is damaged, too large, or holds anything but plain files with different names.
    """
    try:
        decompressor = lzma.LZMADecompressor(format=lzma.FORMAT_XZ)
        tar_bytes = decompressor.decompress(data, LIMIT)
        if not decompressor.eof or decompressor.unused_data:
            raise ArchiveError("the archive is cut off, has something behind its end, or is too large")
        found: dict[str, bytes] = {}
        with tarfile.open(fileobj=io.BytesIO(tar_bytes), mode="r:") as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isreg() else None
                if content is None or member.name in found:
                    raise ArchiveError(f"the archive holds something that is no plain file, or twice: {member.name}")
                found[member.name] = content.read()
    except (lzma.LZMAError, tarfile.TarError, EOFError) as error:
        raise ArchiveError(f"the archive is damaged: {error}") from error
    return found


# ---- the index


@dataclass(frozen=True)
class Entry:
    """What the index says about one configuration; ``files`` maps an obligation to the sums of its text and proof."""

    archive: str
    plan: Plan
    files: Mapping[str, tuple[str, str]]

    @staticmethod
    def of(archive: bytes, plan: Plan, files: Mapping[str, bytes]) -> Entry:
        """The entry of an archive with these contents."""
        stems = sorted({name.rsplit(".", 1)[0] for name in files})
        sums = {s: (sha256(files[f"{s}.smt2"]), sha256(files[f"{s}.lrat"])) for s in stems}
        return Entry(sha256(archive), plan, sums)


def read_index(folder: Path) -> dict[str, Entry]:
    """The index, by configuration.

    Raises:
        ArchiveError: with one line that says what is wrong.
    """
    path = folder / INDEX
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArchiveError(f"{path}: not found; `python -m formal.check --make` writes it") from error
    except (OSError, ValueError) as error:
        raise ArchiveError(f"{path}: unreadable: {error}") from error
    try:
        if data["schema_version"] != SCHEMA_VERSION:
            raise ArchiveError(f"{path}: schema_version is not {SCHEMA_VERSION}")
        return {name: _entry(entry) for name, entry in data["configurations"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArchiveError(f"{path}: not of the expected form: {error!r}") from error


def _entry(data: Any) -> Entry:
    files = {str(name): (str(text), str(proof)) for name, (text, proof) in data["files"].items()}
    claims = {str(name): str(way) for name, way in data["claims"].items()}
    lemmas, never = (tuple(map(str, data[key])) for key in ("lemmas", "never"))
    return Entry(str(data["archive"]), Plan(lemmas, claims, never), files)


def write_index(folder: Path, entries: Mapping[str, Entry]) -> None:
    """Writes the index, whole or not at all."""
    data = {
        "schema_version": SCHEMA_VERSION,
        "configurations": {
            name: {"archive": e.archive, **e.plan.as_json(), "files": {s: list(sums) for s, sums in e.files.items()}}
            for name, e in sorted(entries.items())
        },
    }
    write_file(folder / INDEX, json.dumps(data, indent=1) + "\n")


def archive_path(folder: Path, name: str) -> Path:
    """Where the archive of a configuration is."""
    return folder / f"{name}.tar.xz"
