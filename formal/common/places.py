"""Where the package and its evidence lie."""

from __future__ import annotations

from pathlib import Path

FORMAL = Path(__file__).parents[1]
PROOFS = FORMAL.parent / "proofs"
