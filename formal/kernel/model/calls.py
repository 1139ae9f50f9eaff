"""What is read of a function that does not lift: its watched calls and stores, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from formal.logic.terms import Term


@dataclass(frozen=True)
class Call:
    """A watched call, or (``= lvalue``) a store to a watched lvalue."""

    name: str
    guard: Term  # when it happens; inside a loop: in some iteration
    arguments: tuple[str, ...]  # what a pointer points to, the value of a constant, ? for the rest
    result: Term | None  # what it returns (a truth for pointers), for use in the guards of others
    file: str
    line: int
    loops: tuple[int, ...]  # lines of the loops around it
    values: tuple[Term | None, ...] = ()  # of the arguments that are numbers, or numbers cast to pointers
    memory: tuple[Mapping[str, Term], ...] = field(
        default=(), hash=False
    )  # what local variables hold that arguments point to, by member
    targets: tuple[tuple[Term, str], ...] = ()  # of a call through a pointer: what it may point to, and when


@dataclass(frozen=True)
class Skeleton:
    """What a function calls."""

    function: str
    file: str
    line: int
    calls: tuple[Call, ...]
    result: Term | None
    returns: Term
    places: Callable[[str], str]
    gives: str = "?"  # what a pointer that is returned points to
    bodies: frozenset[tuple[str, str]] = frozenset()  # the functions that were executed, and their files
    watched: frozenset[str] = frozenset()  # the calls that are among ``calls`` if they are made

    def place(self, lvalue: str) -> str:
        """How an argument that points to an lvalue is shown."""
        return self.places(lvalue)

    def named(self, *names: str) -> tuple[Call, ...]:
        """The calls of these names, which must be watched: a rule about others would hold of nothing."""
        unseen = {name for name in names if not name.startswith("= ")} - self.watched
        assert not unseen, f"{self.function}: {', '.join(sorted(unseen))} is not watched"
        return tuple(call for call in self.calls if call.name in names)
