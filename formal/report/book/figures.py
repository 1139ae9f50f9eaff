"""Pictures that are made from the model itself: the operations as a graph of what a vCPU is doing, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import networkx as nx

from formal.evidence.runs.progress import moves_of
from formal.state import Phase
from formal.system import System

Place = tuple[int, bool]  # phase, and whether KVM_RUN is being executed
_WIDE, _HIGH, _ACROSS, _DOWN = 200, 46, 250, 120


def places(system: System) -> nx.MultiDiGraph:
    """What a vCPU may be doing, and the operations that lead from one to another."""
    graph: nx.MultiDiGraph = nx.MultiDiGraph()
    for name, moves in moves_of(system).items():
        for start, end in moves.items():
            graph.add_edge(start, end, operation=name)
    start = (int(Phase.NEW), False)
    return graph.subgraph(nx.descendants(graph, start) | {start}).copy()


def svg(system: System, lit: Sequence[str] = ()) -> str:
    """The graph as SVG; the operations in ``lit`` (those of a run) are marked."""
    graph = places(system)
    start = (int(Phase.NEW), False)
    depth = nx.single_source_shortest_path_length(graph, start)
    columns: dict[int, list[Place]] = {}
    for place in sorted(graph, key=lambda p: (depth[p], p)):
        columns.setdefault(depth[place], []).append(place)
    at = {p: (n * _ACROSS + 20, row * _DOWN + 70) for n, ps in columns.items() for row, p in enumerate(ps)}
    wide = len(columns) * _ACROSS + 20
    high = max(map(len, columns.values())) * _DOWN + 40
    lines = [
        f'<svg viewBox="0 0 {wide} {high}" role="img" aria-label="operations of the transition system">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="9" markerHeight="9" orient="auto" '
        'markerUnits="userSpaceOnUse"><path d="M0,0 L8,4 L0,8 z"/></marker></defs>',
    ]
    lines += _edges(graph, at, set(lit))
    for place in graph:
        x, y = at[place]
        says = Phase(place[0]).name + (", in KVM_RUN" if place[1] else "")
        stays = len(graph.get_edge_data(place, place) or {})
        more = f"{stays} operations stay here" if stays else ""
        lines.append(
            f'<g class="place"><rect x="{x}" y="{y}" width="{_WIDE}" height="{_HIGH}" rx="6"/>'
            f'<text x="{x + 10}" y="{y + 19}">{escape(says)}</text>'
            f'<text class="small" x="{x + 10}" y="{y + 36}">{escape(more)}</text></g>'
        )
    return "\n".join([*lines, "</svg>"])


_STYLE = (
    "rect{fill:#f3f4f6;stroke:#57606a}text{font:14px sans-serif;fill:#1b1f24}.small{font-size:11px;fill:#57606a}"
    ".edge{fill:none;stroke:#57606a;stroke-width:1.5}.lit{stroke:#8a1c1c;stroke-width:3}marker path{fill:#57606a}"
)


def picture(system: System, lit: Sequence[str] = ()) -> str:
    """The graph as a file of its own, on white."""
    text = svg(system, lit).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return (
        text.replace("<defs>", f'<style>{_STYLE}</style><rect width="100%" height="100%" style="fill:#fff"/><defs>', 1)
        + "\n"
    )


def _edges(graph: nx.MultiDiGraph, at: dict[Place, tuple[int, int]], lit: set[str]) -> list[str]:
    """One arrow for each pair of places; its title names the operations."""
    lines = []
    pairs = sorted({(a, b) for a, b, _ in graph.edges(keys=True) if a != b})
    for number, (a, b) in enumerate(pairs):
        names = sorted(data["operation"] for data in graph.get_edge_data(a, b).values())
        (x1, y1), (x2, y2) = at[a], at[b]
        forward = x2 > x1
        start, end = (
            (x1 + (_WIDE if forward else 0), y1 + _HIGH // 2),
            (x2 + (0 if forward else _WIDE), y2 + _HIGH // 2),
        )
        if x1 == x2:
            start, end = (
                (x1 + _WIDE // 2, y1 + (_HIGH if y2 > y1 else 0)),
                (x2 + _WIDE // 2, y2 + (0 if y2 > y1 else _HIGH)),
            )
        bend = 34 + 9 * (number % 4) if forward else -(34 + 9 * (number % 4))
        middle = ((start[0] + end[0]) // 2, (start[1] + end[1]) // 2 - bend)
        kind = "edge lit" if lit & set(names) else "edge"
        lines.append(
            f'<path class="{kind}" d="M{start[0]},{start[1]} Q{middle[0]},{middle[1]} {end[0]},{end[1]}" '
            f'marker-end="url(#tip)"><title>{escape(", ".join(names))}</title></path>'
        )
    return lines


def operations(system: System) -> list[dict[str, object]]:
    """Every operation: who makes it, where it stands in the kernel, what it says, what it writes."""
    return [
        {
            "name": step.operation.name,
            "actor": step.operation.actor.value,
            "place": step.operation.place,
            "says": " ".join(step.operation.says.split()),
            "writes": sorted(step.operation.writes),
        }
        for step in system.applied
        if step.operation.exists(system.kernel)
    ]
