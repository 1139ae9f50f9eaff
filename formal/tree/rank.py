"""Which verdict on a claim is better than another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from itertools import dropwhile, islice

from formal.epochs import EPOCHS, Epoch, Kernel
from formal.matrix.configuration_run import Row
from formal.scope.configuration import Configuration
from formal.scope.manifest import Manifest

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


def expected(manifest: Manifest, epoch: Epoch, kernel: Kernel) -> Mapping[str, str]:
    """The expected verdicts on a tree, by check: those of its preset.

    A claim that does not apply there, but to the tree for what it has of later releases, is expected to be as in the
    first preset after it that has all of that.
    """
    own, mode = epoch.kernel(kernel.mode), kernel.mode.value
    found = dict(manifest.expected(Configuration(epoch.name, mode)))
    names = [f.name for f in fields(Kernel) if getattr(own, f.name) != getattr(kernel, f.name)]
    later = islice(dropwhile(lambda e: e is not epoch, EPOCHS.values()), 1, None)
    having = [e for e in later if all(getattr(e.kernel(kernel.mode), n) == getattr(kernel, n) for n in names)]
    if names and having:
        there = manifest.expected(Configuration(having[0].name, mode))
        found |= {check: verdict for check, verdict in there.items() if found.get(check, "n/a") == "n/a"}
    return found
