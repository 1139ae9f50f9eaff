"""Where the package and its evidence lie, installed or in the repository."""

from __future__ import annotations

from pathlib import Path

FORMAL = Path(__file__).parents[1]


def proofs_folder() -> Path:
    """``proofs/``: carried in an installed package, at the top of the repository otherwise."""
    carried = FORMAL / "proofs"
    return carried if carried.is_dir() else FORMAL.parent / "proofs"


PROOFS = proofs_folder()
