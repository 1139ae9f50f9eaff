"""A tree that is understood in part: what was lifted, which claims that is enough for, and which are UNKNOWN.

An operation whose C is not understood may do anything to what it changes by its description, and to whatever its C, or
anything that this leads to by name, may write (``formal.kernel.recognition.scan``). A claim that is proved
nevertheless holds
whatever that C does. Where more than such operations is not understood (what a tree is, how it calls them), none is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from formal.engines.equality import Questions
from formal.engines.induction import VacuousError
from formal.engines.verdict import Checker
from formal.engines.z3backend import SolverTimeoutError
from formal.epochs import Kernel, Mode
from formal.kernel.compare import hypervisor
from formal.kernel.compare.behaviours import DEBUG_C
from formal.kernel.compare.handlers import HANDLERS
from formal.kernel.errors import Gaps, NotUnderstoodError
from formal.kernel.model.binding import FLAGS
from formal.kernel.model.substitution import Step, TreeKernel
from formal.kernel.recognition import scan
from formal.kernel.recognition.callers import Bodies, Mentions
from formal.kernel.source.tree import KernelTree
from formal.logic import terms as t
from formal.logic.terms import Term
from formal.operations import Inputs, Operation
from formal.properties import CLAIMS
from formal.scope.configuration import checks
from formal.state import VARIABLES, State
from formal.system import System
from formal.tree.reading import Source, source
from formal.tree.verdicts import TreeJob, TreeReport, compare
from formal.vocabulary import Claim
from formal.worldswitch import PARTS

EVERYTHING = frozenset(name for name, variable in VARIABLES.items() if not variable.ghost)
# what ``scan`` calls a place: the first that is part of its name says which state variables it may be
_PLACES: tuple[tuple[str, frozenset[str]], ...] = tuple((part, frozenset(names)) for part, names in (
    *((macro.lower(), [*FLAGS, "adjust_pc"]) for macros in FLAGS.values() for macro in macros),
    ("guest_debug_preserved", [n for n in EVERYTHING if n.startswith("preserved_")]),
    ("mdcr_el2", [n for n in EVERYTHING if "mdcr_el2" in n]),
    ("mdscr_el1", [n for n in EVERYTHING if "mdscr_el1" in n]),
    ("oslsr_el1", ["oslsr_el1"]),
    ("pstate", ["pstate", "hw_pstate", "preserved_pstate_ss"]),
    ("host_debug_state", ["host_debug_state", "mdcr_el2_host", "hw_bank"]),  # the whole structure has MDCR_EL2 too
    ("dbg_", [n for n in EVERYTHING if n.endswith(("_bank", "debug_state"))]),
    ("debug_state", [n for n in EVERYTHING if n.endswith(("_bank", "debug_state"))]),
    ("guest_debug", ["guest_debug"]),
    ("debug_owner", ["debug_owner", "hyp_debug_owner"]),
    ("debug_ptr", ["debug_ptr_external"]),
    ("pmuserenr_el0", [n for n in EVERYTHING if "pmuserenr_el0" in n]),
    ("flags", [*FLAGS, "adjust_pc"]),
    ("hw.", [n for n in EVERYTHING if n.startswith("hw_")]),  # a name that is pasted together
))  # fmt: skip
_BY_CPU = frozenset(  # with these per-CPU variables are written, by a name that is no member of anything
    "__this_cpu_write this_cpu_write raw_cpu_write this_cpu_ptr per_cpu_ptr per_cpu this_cpu_ptr_nvhe_sym "
    "per_cpu_ptr_nvhe_sym this_cpu_ptr_hyp_sym per_cpu_ptr_to_phys host_data_ptr".split()
)
_PERCPU = frozenset(("percpu_mdcr_el2", "nr_event_counters", "mdcr_el2_host"))


@dataclass(frozen=True)
class InPart:
    """What is known of a tree in one mode."""

    mode: Mode
    gaps: tuple[NotUnderstoodError, ...]
    lifted: tuple[str, ...]  # functions
    proved: tuple[str, ...]  # claims that hold whatever the C does that is not understood
    unknown: tuple[str, ...]


class _UnboundedError(Exception):
    """What is not understood is more than the C of operations."""


def understood(make: Callable[[], TreeJob]) -> Iterator[InPart]:
    """What is known of a tree that ``treejob.run`` refuses, mode by mode; nothing, if its layout is not that of one."""
    try:
        job = make()
    except NotUnderstoodError:
        return
    try:
        found = source(job.tree, *job.modes)
    except NotUnderstoodError as error:
        for mode in job.modes:
            yield _nothing_proved(job, mode, [error], ())
        return
    for mode in job.modes:
        yield _understood(job, found, mode)


def _understood(job: TreeJob, found: Source, mode: Mode) -> InPart:
    gaps = Gaps(noted=True)
    try:
        report = compare(found.program, found.binding, found.signs, mode, Questions(job.timeout), gaps)
    except NotUnderstoodError as error:
        first = list(gaps.found.values()) or [error]  # the others may only come of these
        return _nothing_proved(job, mode, first, found.program.lifted())
    lifted = tuple(dict.fromkeys(c.function for c in report.compared))
    try:
        system = _with_anything(job.tree, report, gaps)
    except (_UnboundedError, NotUnderstoodError):
        return _nothing_proved(job, mode, gaps.found.values(), lifted)
    checker = Checker(system, timeout=job.timeout)
    asked = [(name, claim) for name, claim in _asked(job) if claim.applies(system.kernel) is None]
    described = not (report.misdescribed or report.problems)
    proved = tuple(name for name, claim in asked if described and _holds(checker, claim))
    unknown = tuple(name for name, _ in asked if name not in proved)
    return InPart(mode, tuple(gaps.found.values()), lifted, proved, unknown)


def _nothing_proved(job: TreeJob, mode: Mode, gaps: Iterable[NotUnderstoodError], lifted: Iterable[str]) -> InPart:
    different = {str(gap): gap for gap in gaps}
    return InPart(mode, tuple(different.values()), tuple(lifted), (), tuple(name for name, _ in _asked(job)))


def _asked(job: TreeJob) -> Iterator[tuple[str, Claim]]:
    for name, claim in checks(CLAIMS):
        if " without " not in name and (not job.claims or claim.name in job.claims):
            yield name, claim


def _holds(checker: Checker, claim: Claim) -> bool:
    try:
        invariant = checker.invariant(claim.given)
        return invariant.implies(claim) or invariant.keeps(claim)
    except (SolverTimeoutError, VacuousError):
        return False


# ---- anything, where the C is not understood


def _with_anything(tree: KernelTree, report: TreeReport, gaps: Gaps) -> System:
    """The system of a report, in which what is not understood may do anything that it may.

    Raises:
        _UnboundedError: if it is not (a part of) an operation.
    """
    assert report.system is not None
    system, k = report.system, report.system.kernel
    mentions = Mentions((DEBUG_C,))
    stores = scan.scan(tree, mentions)
    operations: dict[str, Operation] = {}
    steps: list[tuple[str, Step]] = []
    for what in gaps.found:
        named = [op for op in system.operations if what in (op.name, op.c_function)]
        if named:
            functions = [f for h in HANDLERS if h.operation == what and h.when(k) for f in h.functions] or [what]
            names = _written(stores, mentions.bodies, functions)
            operations |= {op.name: _doing_anything(op, names | _changed(system, op)) for op in named}
        elif what in PARTS:
            functions = [f for c in hypervisor.COMPONENTS if c.part == what for f in c.names(k)]
            s = system.state()
            after = PARTS[what](s, k).values
            changed = {name for name, value in after.items() if value is not s.values[name]}
            steps.append((what, _anything(what, _written(stores, mentions.bodies, functions) | changed)))
        else:
            raise _UnboundedError
    if steps:
        values: dict[str, Any] = {f.name: getattr(k, f.name) for f in fields(Kernel)}
        before = k.steps if isinstance(k, TreeKernel) else ()
        wider = tuple(replace(op, writes=frozenset(VARIABLES)) for op in system.operations)
        system = System(TreeKernel(**values, steps=(*before, *steps)), wider)
    return system.replacing(operations)


def _written(stores: Iterable[scan.Store], bodies: Bodies, functions: Iterable[str]) -> frozenset[str]:
    """The state variables that functions, and all that these lead to by name, may write."""
    reached, new = set[str](), set(functions)
    if any({"asm", "__asm__"} & bodies.get(function, {}).keys() for function in new):
        return EVERYTHING
    while new:
        reached |= new
        new = {name for function in new for name in bodies.get(function, {})} - reached
    found = [_places(s.lvalue) for s in stores if s.function.removeprefix("macro ") in reached]
    percpu = _PERCPU if any(not _BY_CPU.isdisjoint(bodies.get(function, ())) for function in reached) else frozenset()
    return percpu.union(*found)


def _places(lvalue: str) -> frozenset[str]:
    return next((names for part, names in _PLACES if part in lvalue.lower()), EVERYTHING)


def _changed(system: System, op: Operation) -> frozenset[str]:
    """What an operation changes by its description, whether or not it goes to a guest hypervisor."""
    s, k = system.state(), system.kernel
    inputs = Inputs(f"in.{op.name}", k.breakpoints)
    found = set(op.writes)
    for handler in HANDLERS:
        if handler.operation == op.name and handler.when(k) and handler.forwarding is not None:
            after = handler.forwarding.step(s, k, inputs, inputs.flag("goes to the guest hypervisor"))
            found |= {name for name, value in after.values.items() if value is not s.values[name]}
    return frozenset(found)


def _doing_anything(op: Operation, names: frozenset[str]) -> Operation:
    def step(s: State, k: Kernel, i: Inputs) -> State:
        free = {n: i.free(f"not understood: {n}", s.values[n].sort) for n in names if n in s.values}
        return State({**op.step(s, k, i).values, **free}, s.vcpu_id, s.cpu_id)

    return replace(op, step=step, writes=op.writes | names)


def _anything(what: str, names: frozenset[str]) -> Step:
    """A part of operations that may do anything to these variables, and something else each time."""
    times: dict[tuple[Term, ...], int] = {}

    def does(s: State, k: Kernel) -> State:
        number = times.setdefault(tuple(s.values.values()), len(times))
        free = {n: t.var(f"not understood: {what} {number}: {n}", s.values[n].sort) for n in names if n in s.values}
        return State({**PARTS[what](s, k).values, **free}, s.vcpu_id, s.cpu_id)

    return does
