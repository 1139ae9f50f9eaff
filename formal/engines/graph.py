"""Which operation may follow which: none may be a dead end. Import this late: networkx takes longer to load than Z3."""

from __future__ import annotations

import networkx as nx

from formal import terms as t
from formal.state import Phase
from formal.system import System
from formal.terms import FALSE, Term, Value
from formal.walk import evaluate, substitute


def may_follow(system: System) -> nx.DiGraph:
    """Which operation may follow which on the same vCPU, as far as its phase and KVM_RUN decide.

    Over-approximated: an edge means that phases fit. A node without a way on is dead for certain.
    """
    graph: nx.DiGraph = nx.DiGraph()
    arrivals: dict[str, set[tuple[int, bool]]] = {}
    departures: dict[str, set[tuple[int, bool]]] = {}
    for step in system.applied:
        name = step.operation.name
        if step.guard is FALSE:  # this kernel has no such operation
            continue
        graph.add_node(name)
        arrivals[name], departures[name] = set(), set()
        for phase in Phase:
            for in_run in (False, True):
                at = {"v0.phase": t.const(phase, 3), "v0.in_run": t.boolean(in_run)}
                if substitute(step.guard, at) is FALSE:
                    continue
                departures[name].add((phase, in_run))
                after = (substitute(step.after.values[n], at) for n in ("phase", "in_run"))
                arrivals[name].add(_pair(*after))
    for a, reached in arrivals.items():
        graph.add_edges_from((a, b) for b, needed in departures.items() if reached & needed)
    return graph


def _pair(phase: Term, in_run: Term) -> tuple[int, bool]:
    values: list[Value] = [evaluate(phase, {}), evaluate(in_run, {})]
    return int(values[0]), bool(values[1])  # type: ignore[arg-type]


def dead_ends(graph: nx.DiGraph, start: str, goal: str) -> list[str]:
    """Operations that cannot be reached from ``start``, or from which ``goal`` cannot be reached."""
    reachable = nx.descendants(graph, start) | {start}
    alive = nx.ancestors(graph, goal) | {goal}
    return sorted(set(graph) - (reachable & alive))
