"""A claim in words and, where it is violated, its trace."""

from __future__ import annotations

from formal.evidence.runs.replay import Replay
from formal.explain.show import final_values, shown
from formal.matrix.configuration_run import Row
from formal.properties import CLAIMS, NON_PROPERTIES
from formal.report import spec, text
from formal.scope.configuration import Configuration, checks
from formal.system import System
from formal.vocabulary import Claim


def lines(c: Configuration, row: Row, breakpoints: int = 16) -> list[str]:
    """A claim and, where it is violated, the trace; replayed here once more."""
    claim = claim_of(row.check)
    found = [
        f"{row.check} ({c}): {row.verdict}",
        f"  {claim.says}",
        f"  stated {claim.at.value}; source: {claim.cites}",
    ]
    found += [f"  given {p.name}: {p.says}" for p in claim.given]
    found += [f"  {row.reason}"] if row.reason else []
    found += [f"  {cause}" for cause in spec.causes(claim, c)]
    if row.trace is None or row.broken_at is None:
        return found
    replay = Replay(System(c.kernel(breakpoints)))
    found.append(f"  broken after step {row.broken_at} (shortest found); only what changes is shown:")
    found += ["  " + line for line in text.trace(shown(replay, row.trace, until=row.broken_at))]
    values = final_values(replay, row.trace, claim, row.broken_at)
    found += ["  the claim reads, at that point:"] + [f"       {n} = {v}" for n, v in values.items()] if values else []
    return found


def claim_of(check: str) -> Claim:
    """The claim behind the name that a check has in the manifest.

    Raises:
        KeyError: if there is no such check.
    """
    return {**dict(checks(CLAIMS)), **{f"not {c.name}": c for c in NON_PROPERTIES}}[check]
