"""proofs/manifest.toml: the expected verdict of everything that is checked."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from formal.common.files import write_file
from formal.scope.configuration import Configuration

SCHEMA_VERSION = 1
VERDICTS = ("PROVED", "VIOLATED", "UNKNOWN", "n/a")
Table = Mapping[str, str]  # name of a check -> expected verdict


class ManifestError(Exception):
    """The manifest is missing, unreadable or not of the expected form."""


@dataclass(frozen=True)
class Manifest:
    """Expected verdicts, by configuration (``E8.vhe``) and check."""

    tables: Mapping[str, Table]

    def expected(self, c: Configuration) -> Table:
        """The expected verdicts of one configuration; empty if it is not in the manifest."""
        return self.tables.get(f"{c.name}.{c.mode}", {})

    @staticmethod
    def read(path: Path) -> Manifest:
        """Reads the manifest.

        Raises:
            ManifestError: with one line that says what is wrong.
        """
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ManifestError(f"{path}: not found; `python -m formal.prove --refresh` writes it") from error
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ManifestError(f"{path}: unreadable: {error}") from error
        if data.pop("schema_version", None) != SCHEMA_VERSION:
            raise ManifestError(f"{path}: schema_version is not {SCHEMA_VERSION}")
        tables: dict[str, Table] = {}
        for name, modes in data.items():
            for mode, table in modes.items() if isinstance(modes, dict) else ():
                if not isinstance(table, dict) or not all(v in VERDICTS for v in table.values()):
                    raise ManifestError(f"{path}: [{name}.{mode}] has a value that is no verdict")
                tables[f"{name}.{mode}"] = table
        if not tables:
            raise ManifestError(f"{path}: holds no verdicts")
        return Manifest(tables)

    def write(self, path: Path) -> None:
        """Writes the manifest, whole or not at all."""
        lines = [
            "# Expected verdicts: `python -m formal.prove` checks them, with --refresh it writes them.",
            f"schema_version = {SCHEMA_VERSION}",
        ]
        for name in sorted(self.tables):
            lines += ["", f"[{name}]"]
            lines += [f'"{check}" = "{verdict}"' for check, verdict in self.tables[name].items()]
        write_file(path, "\n".join(lines) + "\n")
