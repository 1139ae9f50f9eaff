"""Runtime monitors from the specification: an automaton for the kernel's tools/verification, and a bpftrace script.

Both are generated from the transition relation and the claims, for one kernel. The automaton has an event for each
trace point that an operation passes (``PASSES``) and follows what the operations do to a vCPU's phase; operations that
pass none are silent. A claim about a running guest is monitored if it reads nothing but what the trace points give at
an entry: what user space asked for, MDCR_EL2, MDSCR_EL1, and HPMN of the first value seen on the CPU. An entry that
breaks one is an event that the automaton allows nowhere. From v6.14 on the order is that of entries and exits, and the
values are read from the vCPU right before an entry, debug_owner and external_mdscr_el1 too; MDSCR_EL1 is not.

What user space asked for is followed from its own KVM_SET_GUEST_DEBUG (``formal.history``), which has a trace point; a
new vCPU is not debugged. Of a vCPU that is older than the script, guest_debug is believed once, at its first entry.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from formal.arch.registers import KVM_GUESTDBG
from formal.epochs import Kernel
from formal.history import user_sets_debug
from formal.logic import terms as t
from formal.logic.evaluation import nodes, substitute, support
from formal.logic.terms import FALSE, TRUE, Term
from formal.properties import CLAIMS
from formal.state import Phase
from formal.system import System
from formal.vocabulary import Point

PASSES = {  # operation -> trace point
    "kvm_arm_setup_debug": "kvm_arm_setup_debug",
    "__kvm_vcpu_run enters": "kvm_entry",
    "kvm_arm_clear_debug": "kvm_arm_clear_debug",
}
READS = {  # what the trace points give at an entry
    "v0.user_debug": "user_debug",
    "p0.hw_mdcr_el2": "mdcr_el2",
    "p0.hw_mdscr_el1": "mdscr_el1",
    "p0.boot_mdcr_el2": "first_mdcr_el2",
}
PASSES_BY_OWNER = {"__kvm_vcpu_run enters": "kvm_entry", "__kvm_vcpu_run returns": "kvm_exit"}
READS_BY_OWNER = {
    "v0.user_debug": "user_debug",
    "p0.hw_mdcr_el2": "mdcr_el2",
    "v0.debug_owner": "debug_owner",
    "v0.external_mdscr_el1": "external_mdscr_el1",
    "p0.boot_mdcr_el2": "first_mdcr_el2",
}
BEFORE_ENTRY = "kvm_arch_vcpu_ctxflush_fp"  # the last function before kvm_entry that has the vCPU
BREAKS = "breaks_"
ASKED = "kvm_set_guest_debug"  # the trace point of the ioctl; it has the vCPU and the control word, before any check
CREATES = "kvm_arch_vcpu_create"  # has the new vCPU as argument, or gives it back (before v5.6)


def passes(kernel: Kernel) -> Mapping[str, str]:
    """The trace point that each operation passes, of those that are monitored."""
    return PASSES_BY_OWNER if kernel.tracks_debug_owner else PASSES


def reads(kernel: Kernel) -> Mapping[str, str]:
    """The variables that are known at an entry, and what they are called."""
    return READS_BY_OWNER if kernel.tracks_debug_owner else READS


@dataclass(frozen=True)
class Automaton:
    """A deterministic automaton; the first state is the initial one, all accept, a missing edge is a violation."""

    states: tuple[str, ...]
    edges: Mapping[tuple[str, str], str]

    @property
    def events(self) -> tuple[str, ...]:
        """All events, in order of appearance."""
        return tuple(dict.fromkeys(event for _, event in self.edges))

    def after(self, state: str, event: str) -> str | None:
        """The next state; ``None`` if the event is not allowed."""
        return self.edges.get((state, event))


@dataclass(frozen=True)
class Condition:
    """A claim about an entry, as a formula over the variables of ``READS``."""

    claim: str
    says: str
    holds: Term


@dataclass(frozen=True)
class Monitor:
    """What is monitored of one kernel."""

    kernel: Kernel
    automaton: Automaton
    conditions: tuple[Condition, ...]


def monitor(kernel: Kernel) -> Monitor:
    """The monitor of a kernel."""
    system = System(kernel)
    return Monitor(kernel, _automaton(system), tuple(_conditions(system)))


# ---- from the specification


def _moves(system: System) -> Iterator[tuple[str, Phase, Phase]]:
    """Operation, phase before, phase after; guards are taken as true unless the phase alone makes them false."""
    for applied in system.applied:
        before = applied.before.values["phase"]
        for phase in Phase:
            known = {str(before.data): t.const(phase, 3)}
            if substitute(applied.guard, known) is FALSE:
                continue
            after = substitute(applied.after.values["phase"], known)
            if after.op != "const":
                raise ValueError(f"{applied.operation.name}: the phase afterwards is no constant")
            yield applied.operation.name, phase, Phase(t.value_of(after))


def _automaton(system: System) -> Automaton:
    moves, passed = list(_moves(system)), passes(system.kernel)

    def closed(phases: frozenset[Phase]) -> frozenset[Phase]:
        while True:
            more = phases | {b for op, a, b in moves if op not in passed and a in phases}
            if more == phases:
                return phases
            phases = more

    start = closed(frozenset({Phase.NEW}))
    edges: dict[tuple[frozenset[Phase], str], frozenset[Phase]] = {}
    todo, seen = [start], {start}
    while todo:
        now = todo.pop()
        for op, event in passed.items():
            reached = frozenset(b for name, a, b in moves if name == op and a in now)
            if reached:
                after = edges[now, event] = closed(reached)
                if after not in seen:
                    seen.add(after)
                    todo.append(after)
    return _named(_merged(start, edges))


def _merged(
    start: frozenset[Phase], edges: dict[tuple[frozenset[Phase], str], frozenset[Phase]]
) -> dict[tuple[frozenset[Phase], str], frozenset[Phase]]:
    """The automaton with states joined that allow the same for ever (Moore's partition refinement); start first."""
    events = sorted({e for _, e in edges})
    states = dict.fromkeys([start, *(s for s, _ in edges), *edges.values()])
    block = dict.fromkeys(states, 0)
    while True:
        kinds: dict[object, int] = {}
        finer: dict[frozenset[Phase], int] = {}
        for s in states:
            allowed = tuple((e, block[edges[s, e]]) for e in events if (s, e) in edges)
            finer[s] = kinds.setdefault((block[s], allowed), len(kinds))
        if len(set(finer.values())) == len(set(block.values())):
            break
        block = finer
    first: dict[int, frozenset[Phase]] = {}
    joined: dict[int, frozenset[Phase]] = {}
    for s in states:
        first.setdefault(block[s], s)
        joined[block[s]] = joined.get(block[s], frozenset()) | s
    return {(joined[block[s]], e): joined[block[edges[s, e]]] for (s, e) in edges if first[block[s]] == s}


def _named(edges: dict[tuple[frozenset[Phase], str], frozenset[Phase]]) -> Automaton:
    """States named after the earliest phase in the run loop that belongs to them alone."""

    def name(phases: frozenset[Phase]) -> str:
        return "outside" if Phase.LOADED in phases else min(phases).name.lower()

    named = {(name(a), e): name(b) for (a, e), b in edges.items()}
    return Automaton(tuple(dict.fromkeys([*(a for a, _ in named), *named.values()])), named)


def _conditions(system: System) -> Iterator[Condition]:
    state, kernel = system.state(), system.kernel
    here = {
        "v0.phase": t.const(Phase.IN_GUEST, 3),
        "v0.cpu": t.const(0, 2),
        "p0.hw_oslk": FALSE,  # the CPU's own lock shows nowhere; that it stays clear is proved
    }
    for claim in CLAIMS:
        if claim.actors or claim.given or claim.at is not Point.IN_GUEST or claim.applies(kernel) is not None:
            continue
        holds = substitute(claim.holds(state, kernel), here)
        if support(holds) and support(holds) <= reads(kernel).keys() and _only_hpmn(holds):
            yield Condition(claim.name, claim.says, holds)


def _only_hpmn(term: Term) -> bool:
    """Of the first value of MDCR_EL2 nothing but HPMN is the boot code's; a formula must not read more of it."""
    for node in nodes((term,)):
        for argument in node.args:
            if argument.op == "var" and argument.data == "p0.boot_mdcr_el2":
                masks = [a for a in node.args if a.op == "const"]
                if node.op != "bvand" or not masks or t.value_of(masks[0]) & ~0x1F:
                    return False
    return True


# ---- as text


def expression(term: Term, names: Mapping[str, str]) -> str:
    """A formula as an expression of C, and of bpftrace; variables are 64-bit unsigned, ``names`` says how they read.

    Raises:
        ValueError: for an operator that has no such form.
    """
    parts = [expression(a, names) for a in term.args]
    match term.op:
        case "var":
            return names[str(term.data)]
        case "const":
            return str(int(term is TRUE)) if term.sort == t.BOOL else f"{t.value_of(term):#x}"
        case "ite":
            return f"({parts[0]} ? {parts[1]} : {parts[2]})"
        case "not":
            return f"!({parts[0]})"
        case "and" | "or":
            return "(" + (" && " if term.op == "and" else " || ").join(parts) + ")"
        case "=":
            return f"({parts[0]} == {parts[1]})"
        case "bvand":
            return f"({parts[0]} & {parts[1]})"
        case "extract":
            hi, lo = t.bounds(term)
            return f"(({parts[0]} >> {lo}) & {(1 << (hi - lo + 1)) - 1:#x})"
    raise ValueError(f"{term.op} has no form in bpftrace")


def dot(found: Monitor) -> str:
    """The automaton in the format that tools/verification/dot2 reads; each monitored claim is an event of its own."""
    states, edges = found.automaton.states, found.automaton.edges
    first = states[0]
    lines = ["digraph state_automaton {"]
    lines.append(f'\t{{node [shape = plaintext, style=invis, label=""] "__init_{first}"}};')
    lines += [f'\t{{node [shape = {"doublecircle" if s == first else "circle"}] "{s}"}};' for s in (*states, "broken")]
    lines.append(f'\t"__init_{first}" -> "{first}";')
    for state in states:
        lines.append(f'\t"{state}" [label = "{state}"];')
        lines += [f'\t"{a}" -> "{b}" [ label = "{e}" ];' for (a, e), b in edges.items() if a == state]
    lines.append('\t"broken" [label = "broken"];')  # no edge leads here: an entry that breaks a claim is never allowed
    lines += [f'\t"broken" -> "broken" [ label = "{BREAKS}{c.claim}" ];' for c in found.conditions]
    lines += ["\t{ rank = min ;", f'\t\t"__init_{first}";', f'\t\t"{first}";', "\t}", "}"]
    return "\n".join(lines) + "\n"


def _reads(found: Monitor) -> Mapping[str, str]:
    return reads(found.kernel)


def asked(kernel: Kernel) -> Term:
    """What user space asks for after a KVM_SET_GUEST_DEBUG with ``control``, and ``v0.user_debug`` before: 64 bits."""
    state = System(kernel).state()
    return user_sets_debug(state, KVM_GUESTDBG(t.var("control", 64)), state.user_bank).user_debug.raw


def _follows_user(kernel: Kernel) -> Iterator[str]:
    """What user space asks for, of every vCPU by its address; @followed: from its beginning, or since it was seen."""
    new = expression(asked(kernel), {"control": "$control", "v0.user_debug": "@asked[$vcpu]"})
    yield f"tracepoint:kvm:{ASKED} {{"
    yield "\t$vcpu = (uint64)args->vcpu;"
    yield "\t$control = (uint64)args->guest_debug;"
    yield f"\t@asked[$vcpu] = (uint64){new};"
    yield "\t@followed[$vcpu] = 1;"
    yield "}"
    yield ""
    for probe, vcpu in (("kprobe", "arg0"), ("kretprobe", "retval")):
        yield f"{probe}:{CREATES} {{"
        yield f"\t@asked[(uint64){vcpu}] = (uint64)0;"
        yield f"\t@followed[(uint64){vcpu}] = 1;"
        yield "}"
        yield ""


def _asked_of(vcpu: str, guest_debug: str) -> Iterator[str]:
    yield f"\tif (@followed[{vcpu}] == 0) {{ @asked[{vcpu}] = (uint64){guest_debug}; @followed[{vcpu}] = 1; }}"
    yield f"\t@user_debug[tid] = @asked[{vcpu}];"


def _values_of_vcpu(kernel: Kernel) -> Iterator[str]:
    """What an entry has, from the vCPU itself; its type is the running kernel's own."""
    yield f"kprobe:{BEFORE_ENTRY} {{"
    yield "\t$vcpu = (struct kvm_vcpu *)arg0;"
    yield from _asked_of("(uint64)arg0", "$vcpu->guest_debug")
    for name in _of_vcpu(kernel):
        yield f"\t@{name}[tid] = (uint64)$vcpu->arch.{name};"
    yield "\tif (@seen[cpu] == 0) { @first_mdcr_el2[cpu] = (uint64)$vcpu->arch.mdcr_el2; @seen[cpu] = 1; }"
    yield "\t@known[tid] = 1;"
    yield "}"
    yield ""


def _of_vcpu(kernel: Kernel) -> list[str]:
    return [name for name in reads(kernel).values() if name not in ("first_mdcr_el2", "user_debug")]


def _cleared(kernel: Kernel) -> str:
    maps = ["state", "asked", "followed", "user_debug", "seen", *_of_vcpu(kernel)]
    if kernel.tracks_debug_owner:
        maps.append("known")
    return f"END {{ {' '.join(f'clear(@{name});' for name in maps)} }}"


def bpftrace(found: Monitor, title: str) -> str:
    """The monitor as a bpftrace script, one vCPU a thread; it may be started at any time."""
    names = {v: "@first_mdcr_el2[cpu]" if n == "first_mdcr_el2" else f"@{n}[tid]" for v, n in _reads(found).items()}
    number = {state: n for n, state in enumerate(found.automaton.states, 1)}  # 0: not seen yet, anything may come
    lines = ["#!/usr/bin/env bpftrace", f"// Monitor of the debug traps of KVM/arm64: {title}.", ""]
    for event in found.automaton.events:
        lines.append(f"tracepoint:kvm:{event} {{")
        froms = [number[a] for (a, e) in found.automaton.edges if e == event]
        to = next(number[b] for (_, e), b in found.automaton.edges.items() if e == event)
        allowed = " && ".join(f"@state[tid] != {n}" for n in froms)
        lines.append(f"\tif (@state[tid] != 0 && {allowed}) {{")
        lines.append(f'\t\tprintf("cpu %d tid %d: {event} out of order\\n", cpu, tid); @violations["order"] = count();')
        lines.append("\t}")
        if event == "kvm_arm_setup_debug":
            lines.append("\t$vcpu = (uint64)args->vcpu;")
            lines += _asked_of("$vcpu", "args->guest_debug")
        elif event == "kvm_entry":
            lines += _checks(found, names)
        lines += [f"\t@state[tid] = {to};", "}", ""]
    lines += _follows_user(found.kernel)
    if found.kernel.tracks_debug_owner:
        return "\n".join([*lines, *_values_of_vcpu(found.kernel), _cleared(found.kernel)]) + "\n"
    lines += [
        "tracepoint:kvm:kvm_arm_set_dreg32 {",
        '\tif (str(args->name) == "MDCR_EL2") {',
        "\t\t@mdcr_el2[tid] = (uint64)args->value;",
        "\t\tif (@seen[cpu] == 0) { @first_mdcr_el2[cpu] = (uint64)args->value; @seen[cpu] = 1; }",
        "\t}",
        '\tif (str(args->name) == "MDSCR_EL1") { @mdscr_el1[tid] = (uint64)args->value; }',
        "}",
        "",
        _cleared(found.kernel),
    ]
    return "\n".join(lines) + "\n"


def _checks(found: Monitor, names: Mapping[str, str]) -> Iterator[str]:
    """The claims, each where its values are known: the entry after a kvm_arm_setup_debug, or its like."""
    if found.kernel.tracks_debug_owner:
        yield "\tif (@known[tid] == 1) {"
    else:
        setup = next(n for n, s in enumerate(found.automaton.states, 1) if s == "setup")
        yield f"\tif (@state[tid] == {setup}) {{"
    for c in found.conditions:
        yield f"\t\t// {' '.join(c.says.split())}"
        yield f"\t\tif (!({expression(c.holds, names)})) {{"
        yield f'\t\t\tprintf("cpu %d tid %d: {c.claim} broken, MDCR_EL2 %llx\\n", cpu, tid, @mdcr_el2[tid]);'
        yield f'\t\t\t@violations["{c.claim}"] = count();'
        yield "\t\t}"
    yield "\t}"
