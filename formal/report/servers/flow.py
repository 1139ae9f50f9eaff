"""A run as places in the source, one after another, and the place that a violation points at."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from formal.evidence.runs.replay import Replay, Seen
from formal.evidence.runs.traces import Trace
from formal.explain.show import shown
from formal.logic.evaluation import support
from formal.vocabulary import Claim

if TYPE_CHECKING:  # the C front end is loaded only where a tree is given
    from formal.kernel.model.counterparts import Makes

KVM = "arch/arm64/kvm"
_PLACE = re.compile(r"([\w/-]+\.[chS])(?::(\d+))?")
_ROOTS = ("arch", "virt", "include", "kernel", "drivers")


@dataclass(frozen=True)
class Place:
    """A place in the source; ``file`` is empty where the guest, user space or the host acts, ``line`` 0 if unknown."""

    file: str
    line: int
    text: str


@dataclass(frozen=True)
class Flow:
    """The places of a run in order, the index of the one to look at first, and of the stores to the same before it."""

    places: tuple[Place, ...]
    blamed: int
    related: tuple[int, ...] = ()


@dataclass(frozen=True)
class Blame:
    """The place to look at first, and what belongs to it."""

    place: Place
    related: tuple[Place, ...] = ()


def place_of(text: str, shown_as: str) -> Place:
    """The place that an operation's declaration names: a file below the tree, or below KVM's folder."""
    found = _PLACE.search(text)
    if found is None:
        return Place("", 0, shown_as)
    file = found[1] if found[1].partition("/")[0] in _ROOTS else f"{KVM}/{found[1]}"
    return Place(file, int(found[2] or 0), shown_as)


def flow(replay: Replay, trace: Trace, until: int, claim: Claim | None, makers: Mapping[str, Makes]) -> Flow:
    """The run up to the step that breaks the claim.

    Blamed is the last store of lifted C to what the claim reads, traced back through the operations that only carry
    values on (the hypervisor writes to the hardware what kvm_arm_setup_debug computed); without one, the last store of
    lifted C; without that, the last step with a place. Where no C is lifted, the steps stand for their stores.
    """
    seen = {s.number: s for s in replay.run(trace) if s.step is not None and s.number <= until}
    places: list[Place] = []
    stores: dict[int, list[tuple[int, frozenset[str]]]] = {}  # step: index of a place, variables that it stores to
    for step in shown(replay, trace, until=until):
        inputs = f" with {', '.join(step.inputs)}" if step.inputs else ""
        changes = "".join(f"; {c.variable}: {c.before} -> {c.after}" for c in step.changes)
        places.append(place_of(step.place, f"{step.number}. {step.operation}{inputs} ({step.actor}){changes}"))
        if not makers and places[-1].file:
            before, after = seen[step.number].before, seen[step.number].after
            changed = frozenset(n for n, v in after.items() if v != before[n])
            stores[step.number] = [(len(places) - 1, changed)]
        for made in _made(replay, seen[step.number], makers):
            stores.setdefault(step.number, []).append((len(places), made[1]))
            places.append(made[0])
    blamed = _blamed(replay, seen, _read(replay, trace, claim), stores)
    blamed = blamed or [i for of_step in stores.values() for i, _ in of_step][-1:]
    blamed = blamed or [i for i, p in enumerate(places) if p.file][-1:] or [0]
    return Flow(tuple(places), blamed[-1], tuple(blamed[:-1]))


def _made(replay: Replay, seen: Seen, makers: Mapping[str, Makes]) -> list[tuple[Place, frozenset[str]]]:
    assert seen.step is not None
    maker = makers.get(seen.step.operation)
    if maker is None:
        return []
    state = replay.system.state((seen.step.vcpu, seen.step.cpu))
    return [
        (Place(m.file, m.line, f"{m.lvalue} = {m.value}"), frozenset(str(state.values[n].data) for n in m.variables))
        for m in maker.made(state, replay.system.kernel, seen)
    ]


def _read(replay: Replay, trace: Trace, claim: Claim | None) -> set[str]:
    """The variables that a claim reads, of every pair of the run."""
    if claim is None:
        return set()
    found: set[str] = set()
    for pair in replay.pairs(trace):
        s, k = replay.system.state(pair), replay.system.kernel
        found |= support(claim.then(s, s, k))
    return found


def _blamed(
    replay: Replay, seen: Mapping[int, Seen], wanted: set[str], stores: Mapping[int, list[tuple[int, frozenset[str]]]]
) -> list[int]:
    """The stores of one step, to what the claim reads or to what that was made of; none if there are none."""
    for number in sorted(seen, reverse=True):
        step = seen[number].step
        assert step is not None
        made = [index for index, variables in stores.get(number, ()) if variables & wanted]
        if made:
            return made
        after = replay.applied(step.operation, (step.vcpu, step.cpu)).after.values.values()
        before = replay.applied(step.operation, (step.vcpu, step.cpu)).before.values.values()
        for old, new in zip(before, after, strict=True):
            name = str(old.data)
            if name in wanted and seen[number].before[name] != seen[number].after[name]:
                wanted = wanted | support(new)
    return []
