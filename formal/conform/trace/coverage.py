"""How much of the model a trace, or several, went through: its operations, and the situations that claims speak of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from formal.conform.trace.check import Result
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
    there: set[str] = set()
    for result in results:
        there |= {op.name for op in OPERATIONS if op.exists(result.kernel)}
        taken.update(result.operations)
        taken.update(result.assumed)
        if result.watch is not None:
            met.update(result.watch.met)
            names |= dict.fromkeys(result.watch.situations)
    not_taken = tuple(op.name for op in OPERATIONS if op.name in there and not taken[op.name])
    return Coverage(taken, met, not_taken, tuple(n for n in names if not met[n]))


def lines(found: Coverage) -> Iterator[str]:
    """The coverage as text."""
    taken = len(+found.operations)
    yield f"operations of the model taken: {taken} of {taken + len(found.not_taken)}"
    if found.not_taken:
        yield f"  never: {', '.join(found.not_taken)}"
    situations = len(found.situations) + len(found.not_met)
    yield f"situations of claims met: {len(found.situations)} of {situations}"
    if found.not_met:
        yield f"  never: {', '.join(found.not_met)}"
