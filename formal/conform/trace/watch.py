"""Claims on a trace: those over what the trace shows are evaluated in every state of the run that explains it.

A claim is watched if it is about a running guest or the handling of an exit, and reads nothing but variables that the
trace shows, follows from it, or (the CPU's own OS lock) has only one value. Claims about the host's registers, about
breakpoint banks in hardware, and about the number of instructions are not.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from formal.conform.trace.groups import Key
from formal.conform.trace.runs import HERE, Did, Known, Machine, Run
from formal.epochs import Kernel
from formal.logic.evaluation import support
from formal.logic.terms import Not, Term
from formal.properties import CLAIMS, NON_PROPERTIES
from formal.state import Phase, State
from formal.vocabulary import Claim, Point

SHOWN_OF_VCPU = (
    "phase in_run exit cpu mdcr_el2 guest_debug debug_dirty mdscr_el1 oslsr_el1 preserved_mdscr_el1 debug_ptr_external "
    "guest_mdscr_el1 guest_os_lock user_debug guest_wrote_debug is_set_up debug_owner external_mdscr_el1"
).split()
SHOWN_BY_RETURNS = frozenset(
    ("v0.pstate", "v0.guest_pstate_ss")
)  # where markers tell PSTATE at every return of KVM_RUN
SHOWN_OF_CPU = "vcpu busy hw_mdcr_el2 hw_mdscr_el1 hw_oslk boot_mdcr_el2".split()  # of boot_mdcr_el2, HPMN
_HARDWARE = {f"p0.{name}" for name in ("hw_mdcr_el2", "hw_mdscr_el1")}
_SHOWN = {f"v0.{n}" for n in SHOWN_OF_VCPU} | {f"p0.{n}" for n in SHOWN_OF_CPU}


def watched(kernel: Kernel, state: State, also: frozenset[str] = frozenset()) -> list[tuple[Claim, Term, Term]]:
    """The claims that a trace of this kernel decides, with their situation and their formula; ``also`` names variables
    that this trace shows."""
    found = []
    for claim in CLAIMS:
        if claim.actors or claim.given or claim.applies(kernel) is not None:
            continue
        if claim.at not in (Point.IN_GUEST, Point.HANDLED, Point.ALWAYS):
            continue
        when, holds = claim.when(state, kernel), claim.holds(state, kernel)
        reads = support(when) | support(holds)
        if not reads <= _SHOWN | also or not support(holds):
            continue
        if claim.at is not Point.IN_GUEST and reads & _HARDWARE:
            continue  # the host's own values show nowhere
        found.append((claim, when, holds))
    return found


def situations(kernel: Kernel, state: State) -> dict[str, Term]:
    """The situation that each claim about states speaks of, and those that the model must be able to reach."""
    found = {
        c.name: c.when(state, kernel) for c in CLAIMS if not c.actors and not c.given and c.applies(kernel) is None
    }
    scenarios = (c for c in NON_PROPERTIES if c.cites == "scenario" and c.applies(kernel) is None)
    return found | {f"not {c.name}": Not(c.holds(state, kernel)) for c in scenarios}


@dataclass
class Watch:
    """Which claims a run reached and broke; ``states`` counts the states looked at."""

    machine: Machine
    also: frozenset[str] = frozenset()
    states: int = 0
    reached: Counter[str] = field(default_factory=Counter)  # states in which a watched claim says something
    met: Counter[str] = field(default_factory=Counter)  # states in the situation of any claim
    broken: dict[str, int] = field(default_factory=dict)  # the line at which a watched claim was first broken

    def __post_init__(self) -> None:
        kernel, state = self.machine.kernel, self.machine.state
        self.claims = watched(kernel, state, self.also)
        self.situations = situations(kernel, state)
        terms: dict[str, Term] = {}
        for claim, when, holds in self.claims:
            terms |= {f"when {claim.name}": when, f"holds {claim.name}": holds}
        self._known = Known(terms)
        self._met = Known(self.situations)

    def see(self, did: Did) -> None:
        """Looks at the acting pair after a step."""
        v, p = did.after
        where = {**v, **p, "v0.cpu": HERE, "p0.vcpu": HERE}
        self.states += 1
        self.met.update(name for name, met in self._met(where).items() if met)
        values = self._known(where)
        for claim, _, _ in self.claims:
            if values[f"when {claim.name}"]:
                self.reached[claim.name] += 1
                if not values[f"holds {claim.name}"]:
                    self.broken.setdefault(claim.name, did.line)

    def broken_by(self, register: str, value: int, vcpu: Key, cpu: int, run: Run) -> tuple[str, ...]:
        """Which claims a guest would break that ran with this value instead of the model's."""
        if register not in ("MDCR_EL2", "MDSCR_EL1") or run.phase(vcpu) is not Phase.IN_GUEST:
            return ()
        where = self.machine.where(run, vcpu, cpu)
        before, after = self._known(where), self._known(where | {f"p0.hw_{register.lower()}": value})
        names = (c.name for c, _, _ in self.claims)
        return tuple(n for n in names if before[f"holds {n}"] and not after[f"holds {n}"])
