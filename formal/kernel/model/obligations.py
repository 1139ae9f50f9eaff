"""What lifted functions must not do: claims of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from formal.epochs import Kernel
from formal.kernel.errors import NotUnderstoodError
from formal.kernel.model.counterparts import Counterpart
from formal.logic.evaluation import support
from formal.logic.terms import Not, Or, Term
from formal.operations import Inputs
from formal.state import State
from formal.vocabulary import Claim, Point


def obligation_claims(functions: Iterable[Counterpart], state: State) -> Iterator[Claim]:
    """What the lifted functions must not do (BUG_ON, bad pointers and indices), as claims of their own."""
    for c in functions:
        if c.owns is not None:
            continue  # of handlers they are demanded where the function is compared
        for text, _ in c.obligations(state, Inputs("", 16)):
            yield _obligation_claim(c, text)


def _obligation_claim(c: Counterpart, text: str) -> Claim:
    def when(s: State, k: Kernel) -> Term:
        return c.operation.enabled(s, k, Inputs(f"in.{c.operation.name}", k.breakpoints))

    def then(before: State, after: State, k: Kernel) -> Term:
        found = [condition for where, condition in c.obligations(before, Inputs("", 16)) if where == text]
        ours = {name for value in before.values.values() for name in support(value)}
        foreign = {name for condition in found for name in support(condition)} - ours
        if foreign:
            raise NotUnderstoodError(c.lifted.file, c.lifted.line, f"{text} depends on {sorted(foreign)[0]}")
        return Not(Or(*found))

    says = f"Never happens: {text.partition(': ')[2]}."
    return Claim(text.rpartition("/")[2], says, text.partition(": ")[0], Point.HANDLED, when, then, lambda k: None)
