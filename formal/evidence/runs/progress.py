"""Which operation may follow which: none may be a dead end. Import this late: networkx takes longer to load than Z3."""

from __future__ import annotations

from functools import cache

import networkx as nx

from formal.logic import terms as t
from formal.logic.evaluation import evaluate, substitute
from formal.logic.terms import FALSE, Term, Value
from formal.state import Phase
from formal.system import System

Moves = dict[tuple[int, bool], tuple[int, bool]]


def may_follow(system: System) -> nx.DiGraph:
    """Which operation may follow which on the same vCPU, as far as its phase and KVM_RUN decide.

    Over-approximated: an edge means that phases fit. A node without a way on is dead for certain.
    """
    graph: nx.DiGraph = nx.DiGraph()
    moves = moves_of(system)
    graph.add_nodes_from(moves)
    for a, made in moves.items():
        reached = set(made.values())
        graph.add_edges_from((a, b) for b, needed in moves.items() if not reached.isdisjoint(needed))
    return graph


def moves_of(system: System) -> dict[str, Moves]:
    """By operation: from which phases, inside KVM_RUN or not, it may start, and where each of them leads."""
    return {
        step.operation.name: _moves(step.guard, step.after.values["phase"], step.after.values["in_run"])
        for step in system.applied
        if step.guard is not FALSE  # else this kernel has no such operation
    }


@cache
def _moves(guard: Term, phase: Term, in_run: Term) -> Moves:
    """From which phases, inside KVM_RUN or not, an operation may start, and where each of them leads."""
    found = {}
    for old in Phase:
        for inside in (False, True):
            at = {"v0.phase": t.const(old, 3), "v0.in_run": t.boolean(inside)}
            if substitute(guard, at) is not FALSE:
                found[int(old), inside] = _pair(substitute(phase, at), substitute(in_run, at))
    return found


def _pair(phase: Term, in_run: Term) -> tuple[int, bool]:
    values: list[Value] = [evaluate(phase, {}), evaluate(in_run, {})]
    return int(values[0]), bool(values[1])  # type: ignore[arg-type]


def dead_ends(graph: nx.DiGraph, start: str, goal: str) -> list[str]:
    """Operations that cannot be reached from ``start``, or from which ``goal`` cannot be reached."""
    reachable = nx.descendants(graph, start) | {start}
    alive = nx.ancestors(graph, goal) | {goal}
    return sorted(set(graph) - (reachable & alive))
