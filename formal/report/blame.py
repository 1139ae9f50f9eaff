"""The place that is at fault where a claim of a tree is lost: the store that is not as described, or a missing call.

First the innermost function is found that differs in what the claim reads, or in what that is made of; next to it are
named the functions that run it, and those that differ as near to the claim. In it, the store at fault
(``formal.tree.unlike``); where it has none, the function. Where a call is missing, it is the function that does not
make it, and next to it the one that is not called.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from formal.kernel.lift.program import Lifted
from formal.logic.evaluation import support
from formal.matrix.configuration_run import Row
from formal.properties import CLAIMS
from formal.report.servers.flow import Blame, Place
from formal.system import System
from formal.tree.unlike import origin, unlike
from formal.tree.verdicts import Compared, TreeReport
from formal.vocabulary import Claim

_CALLS = re.compile(r"(\S+?):(\d+): not so: (.*)")
_BY_NAME = {c.name: c for c in CLAIMS}


def blame(report: TreeReport, row: Row) -> Blame | None:
    """What is at fault for a claim that is lost; ``None`` if all that is read of the tree is as described."""
    differing = [c for c in reversed(report.compared) if not c.equal and c.lifted is not None]
    if differing:  # operations come first, what they are made of later
        return _function(report, row, differing)
    taken = {step.operation for step in row.trace.steps[: row.broken_at]} if row.trace is not None else set[str]()
    missing = [(text, name) for name, text in report.omitted.items()]
    missing += sorted(report.lacking.items(), key=lambda one: one[1] not in taken)
    for text, name in missing:
        if found := _CALLS.match(str(text)):
            place = Place(found[1], int(found[2]), f"not so here: {found[3]}")
            callee = report.counterparts[name] if name in report.counterparts else report.parts.get(name)
            left_out = callee is not None and name in report.omitted
            return Blame(place, (_at(callee.lifted, "is not called"),) if callee is not None and left_out else ())
    return None


def _function(report: TreeReport, row: Row, differing: list[Compared]) -> Blame:
    system = report.system if len(differing) > 1 else None
    near = distances(system, _BY_NAME.get(row.claim)) if system is not None else {}
    made_of = sources(system) if system is not None else {}

    def distance(c: Compared) -> int:
        return min((near.get(name, len(near)) for name in c.differs_in), default=0)

    found = min(differing, key=distance)
    callers: list[Compared] = []
    while inner := [c for c in differing if _runs(found, c) and c not in callers and _makes(c, found, near, made_of)]:
        callers.append(found)
        found = min(inner, key=distance)
    as_near = [c for c in differing if distance(c) == distance(found)]  # what both run may be at fault
    besides = [c for c in differing if c not in callers and c is not found and (_runs(c, found) or c in as_near)]
    return Blame(_store(report, found, near), tuple(_differs(c) for c in (*callers, *besides)))


def _store(report: TreeReport, c: Compared, near: Mapping[str, int]) -> Place:
    """The store of a function that is at fault; the function where it lacks one, or too much is not as described."""
    told = [u for u in unlike(report, c) if u.line]
    if c.lifted is None or not told:
        return _differs(c)
    nearest = origin(told, min(told, key=lambda u: near.get(u.variable, len(near))))
    return Place(c.lifted.file, nearest.line, f"{c.function}() {nearest}")


def _runs(outer: Compared, inner: Compared) -> bool:
    assert outer.lifted is not None
    return inner.function != outer.function and inner.function in outer.lifted.functions


def _makes(inner: Compared, outer: Compared, near: Mapping[str, int], made_of: Mapping[str, frozenset[str]]) -> bool:
    """Whether what differs in a function explains what differs next to the claim in one that runs it."""
    closest = min(outer.differs_in, key=lambda name: near.get(name, len(near)), default="")
    return closest in inner.differs_in or not made_of.get(closest, frozenset()).isdisjoint(inner.differs_in)


def _differs(c: Compared) -> Place:
    assert c.lifted is not None
    return _at(c.lifted, f"differs from its description in {', '.join(c.differs_in)}")


def _at(lifted: Lifted, what: str) -> Place:
    return Place(lifted.file, lifted.line, f"{lifted.name}() {what}")


def distances(system: System, claim: Claim | None) -> dict[str, int]:
    """How many steps a state variable is from what a claim reads: a step gives one the value of others."""
    s = system.state()
    named = {str(value.data): name for name, value in s.values.items()}
    read = support(claim.then(s, s, system.kernel)) if claim is not None else frozenset[str]()
    new = {named[v] for v in map(str, read) if v in named}
    found: dict[str, int] = {}
    while new:
        found |= dict.fromkeys(new, max(found.values(), default=-1) + 1)
        new = {source for name in new for source in sources(system).get(name, ())} - found.keys()
    return found


@lru_cache(maxsize=4)
def sources(system: System) -> dict[str, frozenset[str]]:
    """Of which state variables an operation makes each."""
    found: dict[str, frozenset[str]] = {}
    for step in system.applied:
        own = {str(value.data): name for name, value in step.before.values.items()}
        for name, value in step.after.values.items():
            if value is not step.before.values[name]:
                made_of = frozenset(own[v] for v in map(str, support(value)) if v in own)
                found[name] = found.get(name, frozenset()) | made_of
    return found
