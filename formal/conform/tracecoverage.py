"""How much of the model a trace, or several, went through: its operations, and the situations that claims speak of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from formal.conform.tracecheck import Result
from formal.transitions import OPERATIONS


@dataclass(frozen=True)
class Coverage:
    """Steps by operation and states by situation; what the model has and no trace went through is ``not_*``."""

    operations: Counter[str]
    situations: Counter[str]
    not_taken: tuple[str, ...]
    not_met: tuple[str, ...]


def coverage(results: Iterable[Result]) -> Coverage:
    """The coverage of some checked traces together. Results may be of different kernels."""
    taken: Counter[str] = Counter()
    met: Counter[str] = Counter()
    names: dict[str, None] = {}
    for result in results:
        taken.update(result.operations)
        taken.update(result.assumed)
        if result.watch is not None:
            met.update(result.watch.met)
            names |= dict.fromkeys(result.watch.situations)
    not_taken = tuple(op.name for op in OPERATIONS if not taken[op.name])
    return Coverage(taken, met, not_taken, tuple(n for n in names if not met[n]))


def lines(found: Coverage) -> Iterator[str]:
    """The coverage as text."""
    total = len(OPERATIONS)
    yield f"operations of the model taken: {total - len(found.not_taken)} of {total}"
    if found.not_taken:
        yield f"  never: {', '.join(found.not_taken)}"
    situations = len(found.situations) + len(found.not_met)
    yield f"situations of claims met: {len(found.situations)} of {situations}"
    if found.not_met:
        yield f"  never: {', '.join(found.not_met)}"
