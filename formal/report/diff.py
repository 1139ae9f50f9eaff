"""A proof diff for readers and programs: each function's change with a state that shows it, each claim's verdict."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from formal.report.jsonfile import SCHEMA_VERSION
from formal.report.tree import explanation
from formal.tree.functions import Change, FunctionChange
from formal.tree.patch import Step
from formal.tree.rank import worse


def lines(step: Step) -> Iterator[str]:
    """One comparison, in full."""
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
        yield f"{mode.value}: {len(same)} functions equivalent" + (
            f": {', '.join(dict.fromkeys(same))}" if same else ""
        )
    for c in step.diff.claims:
        if c.before != c.after and (c.worse or c.better):
            mark = "WORSE" if c.worse else "better"
            yield f"{c.check} ({c.mode}): {c.before or 'not asked'} -> {c.after or 'not asked'}: {mark}"
    yield from (f"PROBLEM: {p}" for p in step.diff.problems)
    yield summary(step)
    for report in step.reports:
        for row in report.rows:
            if worse(row):
                yield ""
                yield from report.explained.get(row.check) or explanation(report, row)


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
