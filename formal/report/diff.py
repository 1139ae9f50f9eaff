"""A proof diff for readers and programs: each function's change with a state that shows it, each claim's verdict."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from formal.report.jsonfile import SCHEMA_VERSION
from formal.report.text import plural
from formal.report.tree import explanation
from formal.tree.functions import Change, FunctionChange
from formal.tree.patch import ClaimChange, Step
from formal.tree.rank import worse
from formal.tree.verdicts import TreeReport

MANY, FEW = 8, 5  # so many claims that changed alike are counted, and so many of them named
_PLACE = re.compile(r"  \S+:\d+: ")


def lines(step: Step, whole: bool = True) -> Iterator[str]:
    """One comparison in full; or many claims that are lost counted, with the shortest run for each cause."""
    if step.base:
        yield f"base: {step.base}"
    yield f"tree: {step.tree}"
    if step.refused:
        yield f"  not understood: {step.refused}"
        return
    if step.diff is None:
        yield "  no file that is read changes"
        return
    for f in step.diff.functions:
        if f.change is not Change.EQUIVALENT:
            yield from _function(f)
    for mode in dict.fromkeys(f.mode for f in step.diff.functions):
        same = [f.function for f in step.diff.functions if f.mode is mode and f.change is Change.EQUIVALENT]
        names = f": {', '.join(dict.fromkeys(same))}" if same and whole else ""
        yield f"{mode.value}: {plural(len(same), 'function')} equivalent{names}"
    yield from _claims(step.diff.claims, whole)
    yield from (f"PROBLEM: {p}" for p in step.diff.problems)
    yield from _runs(step.reports, whole)
    yield from ("", summary(step))


def _claims(claims: Sequence[ClaimChange], whole: bool) -> Iterator[str]:
    """The claims whose verdict changed, with their modes; of many that changed alike only the names."""
    modes: dict[tuple[str, str], list[str]] = {}
    for c in claims:
        if c.before != c.after and (c.worse or c.better):
            mark = "WORSE" if c.worse else "better"
            change = f"{c.before or 'not asked'} -> {c.after or 'not asked'}: {mark}"
            modes.setdefault((change, c.check), []).append(c.mode)
    alike: dict[str, list[str]] = {}
    for (change, check), of in modes.items():
        alike.setdefault(change, []).append(f"{check} ({', '.join(of)})")
    for change, told in alike.items():
        shown = told if whole or len(told) <= MANY else told[:FEW]
        yield from (f"{check}: {change}" for check in shown)
        if len(told) > len(shown):
            yield f"and {plural(len(told) - len(shown), 'more claim')}: {change} (-v lists them)"


def _runs(reports: Sequence[TreeReport], whole: bool) -> Iterator[str]:
    """The runs that break what is worse: all, or the shortest for each place that is at fault, in one of the modes."""
    found: dict[str, list[tuple[int, Sequence[str]]]] = {}
    for report in reports:
        for row in report.rows:
            if worse(row):
                told = report.explained.get(row.check) or [*explanation(report, row)]
                cause = next((line for line in told if _PLACE.match(line)), row.reason)
                found.setdefault(f"{row.check} {report.mode}" if whole else cause, []).append(
                    (row.broken_at or 0, told)
                )
    for runs in found.values():
        yield from ("", *min(runs, key=lambda one: one[0])[1])
        if len(runs) > 1:
            yield f"  {plural(len(runs) - 1, 'more verdict')} for the same reason (-v)"


def summary(step: Step) -> str:
    """The claims of one comparison, counted."""
    assert step.diff is not None
    lost, won = sum(c.worse for c in step.diff.claims), sum(c.better for c in step.diff.claims)
    return f"claims: {lost} worse, {won} better, {len(step.diff.claims) - lost - won} as before"


def _function(f: FunctionChange) -> Iterator[str]:
    in_what = f" in {', '.join(f.differs_in)}" if f.differs_in else ""
    yield f"{f.mode.value}: {f.function} ({f.place or f.base_place}): {f.change.value}{in_what}"
    for witness in f.witnesses:
        yield f"    {witness.says}"
        yield f"      finds: {_values(witness.state)}"
        yield f"      base leaves: {_values(witness.base)}"
        yield f"      tree leaves: {_values(witness.tree)}"


def _values(values: Mapping[str, str]) -> str:
    return "; ".join(f"{name} = {value}" for name, value in values.items()) or "nothing that matters"


def document(steps: Sequence[Step], exit_code: int) -> str:
    """The comparisons as one JSON document."""
    return json.dumps(
        {"schema_version": SCHEMA_VERSION, "exit_code": exit_code, "steps": [_step(s) for s in steps]}, indent=1
    ) + "\n"  # fmt: skip


def _step(step: Step) -> dict[str, Any]:
    data: dict[str, Any] = {"base": step.base, "tree": step.tree}
    if step.refused:
        return data | {"refused": step.refused}
    if step.diff is None:
        return data | {"unchanged": True}
    return data | {
        "functions": [
            {
                "function": f.function,
                "mode": f.mode.value,
                "base_place": f.base_place,
                "place": f.place,
                "change": f.change.value,
                "differs_in": list(f.differs_in),
                "witnesses": [asdict(w) for w in f.witnesses],
            }
            for f in step.diff.functions
        ],
        "claims": [asdict(c) | {"worse": c.worse} for c in step.diff.claims],
        "problems": list(step.diff.problems),
    }
