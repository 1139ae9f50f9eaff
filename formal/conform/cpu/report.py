"""The report of the CPU part, as tables and as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from formal.arch.aarch32 import REGISTERS32
from formal.arch.sysregs import SYSTEM_REGISTERS
from formal.conform.cpu.compare import Difference
from formal.conform.cpu.cpu import Report
from formal.conform.cpu.deviations import COMPARED

SCHEMA_VERSION = 1
_MANY = 20  # kinds of differences that are shown without --verbose
NOT_TESTED = (
    "AArch32: T32, LDC and STC, debug exceptions",
    "MSR PM, #imm and TRCIT",
    "EL3 and Secure state",
    "nested virtualization",
)


def print_report(report: Report, verbose: bool) -> None:
    """Tables for a person; plain text when the output is not a terminal."""
    tty = sys.stdout.isatty()
    console = Console(highlight=False) if tty else Console(width=120, no_color=True, highlight=False)
    console.print(Text(f"formal.arch against QEMU {report.qemu}", style="bold"))
    if not report.book.compared:
        known = ", ".join(f"{major}.{minor}.{release}" for (major, minor), release in COMPARED.items())
        console.print(
            Text(f"This version was never compared ({known} were): a deviation that does not show is no failure.")
        )
    console.print(_cpus(report))
    console.print()
    if report.book.counts:
        console.print(_deviations(report))
        console.print()
    _untested(console, report, verbose)
    _differences(console, report, verbose)
    count = sum(c.accesses + c.debug for c in report.cpus)
    verdict = "different" if report.failed else "no unexplained difference"
    console.print(
        Text(f"{verdict}: {count:,} probe points on {len(report.cpus)} CPUs in {report.seconds:.1f} s", "bold")
    )


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _cpus(report: Report) -> Table:
    table = _table(
        "CPU",
        "features",
        "settings",
        "accesses",
        "executed",
        "to EL1",
        "to EL2",
        "UNDEFINED",
        "debug",
        "deviate",
        "differ",
        "s",
    )
    for c in report.cpus:
        names = sorted(f.removeprefix("FEAT_") for f in c.cpu.features) + ["VHE"] * c.cpu.vhe
        names += sorted(state.replace("AArch32 at ", "A32:") for state in c.cpu.states)
        outcomes = (f"{c.outcomes.get(name, 0):,}" for name in ("EXECUTED", "EL1", "EL2", "UNDEF"))
        counts = (f"{c.settings:,}", f"{c.accesses:,}", *outcomes, f"{c.debug:,}", f"{c.explained:,}")
        table.add_row(c.model, " ".join(names), *counts, f"{len(c.unexplained):,}", f"{c.seconds:.1f}")
    return table


def _deviations(report: Report) -> Table:
    table = _table("deviation of QEMU", "what it does", "points", "how one sees that QEMU is wrong")
    for d in report.book.deviations:
        points = sum(n for (name, _), n in report.book.counts.items() if name == d.name)
        if points:
            table.add_row(Text(d.name), Text(d.says), f"{points:,}", Text(d.wrong))
    return table


def _untested(console: Console, report: Report, verbose: bool) -> None:
    rows = report.untested()
    whole = {name for name, why in rows if "only" not in why}
    part = {name for name, why in rows} - whole
    console.print(
        Text(
            f"Not tested: {len(whole)} of the {len(SYSTEM_REGISTERS) + len(REGISTERS32)} rows of the tables, "
            f"and {len(part)} in part"
            + ("" if verbose else " (--verbose lists them)")
            + f"; {', '.join(NOT_TESTED)}; what a deviation covers."
        )
    )
    if verbose:
        reasons: dict[str, list[str]] = {}
        for name, why in rows:
            reasons.setdefault(why, []).append(name)
        for why, names in reasons.items():
            console.print(Text(f"  {why}: {' '.join(names)}"))
    free = sum(c.choices for c in report.cpus)
    console.print(
        Text(f"The architecture leaves the outcome of {free:,} accesses open; any that it allows was accepted.")
    )
    console.print()


def _differences(console: Console, report: Report, verbose: bool) -> None:
    found = [(c.model, d) for c in report.cpus for d in c.unexplained]
    kinds: dict[tuple[str, ...], list[tuple[str, Difference]]] = {}
    for model, d in found:
        kinds.setdefault((model, d.subject, d.expected, d.why, d.observed), []).append((model, d))
    shown = list(kinds.values())
    for group in shown if verbose else shown[:_MANY]:
        model, d = group[0]
        console.print(
            Text(f"DIFFERENT on {model}: {d.subject}, {len(group)} times, first with {d.setting}", "bold red")
        )
        console.print(Text(f"  expected {d.expected} ({d.why})"))
        console.print(Text(f"  observed {d.observed}"))
    if not verbose and len(shown) > _MANY:
        console.print(Text(f"and {len(shown) - _MANY} more kinds (--verbose lists them)"))
    for line in report.book.vanished:
        console.print(Text(f"VANISHED: {line}", "bold red"))


def as_json(report: Report) -> dict[str, Any]:
    """The report with the names that ``--json`` promises."""
    return {
        "schema_version": SCHEMA_VERSION,
        "qemu": report.qemu,
        "qemu_was_compared": report.book.compared,
        "passed": not report.failed,
        "seconds": round(report.seconds, 2),
        "cpus": [
            {
                "model": c.model,
                "features": sorted(c.cpu.features),
                "vhe": c.cpu.vhe,
                "aarch32": sorted(c.cpu.states),
                "event_counters": c.cpu.counters,
                "breakpoints": c.cpu.breakpoints,
                "watchpoints": c.cpu.watchpoints,
                "id_registers": {name: f"{value:#x}" for name, value in c.cpu.ids.items()},
                "settings": c.settings,
                "accesses": c.accesses,
                "outcomes": c.outcomes,
                "left_open_by_the_architecture": c.choices,
                "debug_exceptions": c.debug_kinds,
                "explained_differences": c.explained,
                "differences": [asdict(d) for d in c.unexplained],
                "seconds": round(c.seconds, 2),
            }
            for c in report.cpus
        ],
        "deviations": list(_json_deviations(report)),
        "vanished_deviations": report.book.vanished,
        "not_tested": [{"register": name, "reason": why} for name, why in report.untested()],
        "not_tested_at_all": list(NOT_TESTED),
    }


def _json_deviations(report: Report) -> Iterator[dict[str, Any]]:
    for d in report.book.deviations:
        points = {subject: n for (name, subject), n in sorted(report.book.counts.items()) if name == d.name}
        if points:
            cpus = sorted(report.book.cpus[d.name])
            yield {"name": d.name, "says": d.says, "wrong": d.wrong, "cpus": cpus, "points": points}


def json_text(report: Report) -> str:
    """The report as JSON."""
    return json.dumps(as_json(report), indent=1) + "\n"
