"""What ``--base`` prints: claims that changed alike are counted where they are many, one run for each cause."""

from __future__ import annotations

from formal.epochs import EPOCHS, Mode
from formal.kernel.compare.behaviours import Resolved
from formal.matrix.configuration_run import Row
from formal.report.diff import FEW, MANY, lines
from formal.tree.patch import ClaimChange, Step, TreeDiff
from formal.tree.verdicts import TreeReport

PLACES = ("  a.c:1: f() leaves A clear", "  b.c:2: g() leaves B clear")


def row(name: str, broken_at: int) -> Row:
    return Row(name, name, "E8", "vhe", "VIOLATED", "PROVED", "BMC", 0.0, (), "", None, broken_at)


def step(count: int) -> Step:
    """Claims that are lost at two places in both modes, the longer runs first."""
    names = [f"claim{n}" for n in range(count)]
    changes = tuple(ClaimChange(name, mode, "PROVED", "VIOLATED") for name in names for mode in ("vhe", "nvhe"))
    reports = []
    for mode in (Mode.VHE, Mode.NVHE):
        report = TreeReport(mode=mode, resolved=Resolved(EPOCHS["E8"].kernel(mode), EPOCHS["E8"], ()))
        report.rows = [row(name, 20 - n) for n, name in enumerate(names)]
        report.explained = {name: (f"{name} ({mode.value})", PLACES[n % 2]) for n, name in enumerate(names)}
        reports.append(report)
    return Step("old", "new", TreeDiff((), changes, ()), tuple(reports))


def test_few_are_all_named() -> None:
    told = [line for line in lines(step(MANY), whole=False) if line.startswith("claim") and "WORSE" in line]
    assert told == [f"claim{n} (vhe, nvhe): PROVED -> VIOLATED: WORSE" for n in range(MANY)]


def test_of_many_the_first_and_the_shortest_run_for_each_cause() -> None:
    told = [*lines(step(90), whole=False)]
    assert sum("WORSE" in line for line in told) == FEW + 1
    assert f"and {90 - FEW} more claims: PROVED -> VIOLATED: WORSE (-v lists them)" in told
    assert told[-1] == "claims: 180 worse, 0 better, 0 as before", "the verdict comes last"
    assert [line for line in told if line in PLACES] == [*PLACES]
    assert "claim88 (vhe)" in told and "claim89 (vhe)" in told, "the shortest"
    assert told.count("  89 more verdicts for the same reason (-v)") == 2
    assert len(told) <= 21


def test_all_with_verbose() -> None:
    told = [*lines(step(90))]
    assert sum("WORSE" in line for line in told) == 90 and sum(line in PLACES for line in told) == 180
