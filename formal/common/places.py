"""Where the package and its evidence lie, installed or in the repository."""

from __future__ import annotations

import os
from pathlib import Path

FORMAL = Path(__file__).parents[1]


def proofs_folder() -> Path:
    """``proofs/``: carried in an installed package, at the top of the repository otherwise."""
    carried = FORMAL / "proofs"
    return carried if carried.is_dir() else FORMAL.parent / "proofs"


PROOFS = proofs_folder()


def cache_folder() -> Path:
    """Where what can be made again is kept: below ``XDG_CACHE_HOME``, or else ``~/.cache``; nowhere without a home."""
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given)
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        return Path(os.devnull)  # in which no file can be made
