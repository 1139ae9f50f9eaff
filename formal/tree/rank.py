"""Which verdict on a claim is better than another."""

from __future__ import annotations

from formal.matrix.configuration_run import Row

RANK = {"VIOLATED": 0, "UNKNOWN": 1, "n/a": 2, "PROVED": 2}


def worse(row: Row) -> bool:
    """Whether a verdict is worse than the expected one; what was not expected to apply is expected to hold."""
    return RANK[row.verdict] < RANK[row.expected or "PROVED"]


def better(row: Row) -> bool:
    """Whether a verdict is better than the expected one: what is not decided never is."""
    return won(row.expected or "PROVED", row.verdict)


def won(before: str, after: str) -> bool:
    """Whether a claim holds now that did not, or was not decided."""
    return after == "PROVED" and before in ("VIOLATED", "UNKNOWN")
