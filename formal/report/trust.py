"""``--gate``: every verdict, every piece of evidence, and one page that says what is left to trust.

A mistake in what ``TRUSTED`` lists would make a wrong verdict look right. It checks the results of all else: of Z3, of
the SAT solver that finds proofs, of the elimination of arrays, of the search for traces, and the files in ``proofs/``.
``tests/report/test_trust.py`` compares the list with what the checks import.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from formal.common.places import FORMAL
from formal.evidence.check import Checked, summary
from formal.matrix.configuration_run import Report
from formal.report import text
from formal.scope.assumptions import ASSUMED, NOT_MODELLED

TRUSTED: tuple[tuple[str, str], ...] = (
    (
        "arch releases epochs scope/bugs state history ownership "
        "worldswitch operations environment transitions vocabulary preconditions properties",
        "the specification of hardware and kernel",
    ),
    (
        "lemmas system evidence/obligations evidence/certificates/totality evidence/certificates/catalogue "
        "scope/configuration",
        "what must be shown, and is enough",
    ),
    ("logic/terms evidence/certificates/smtlib", "formulas, and their text"),
    (
        "evidence/certificates/arraycheck evidence/certificates/encoder evidence/certificates/lrat "
        "evidence/certificates/recheck",
        "PROVED: checks text and proof",
    ),
    (
        "logic/evaluation evidence/runs",
        "VIOLATED, not vacuous: replays runs",
    ),
    (
        "scope/manifest evidence/certificates/archive common/options common/files common/exit_codes common/lifetime "
        "evidence/check",
        "nothing is left out, nothing is left over",
    ),
)

_CPUS_ONLY = {
    FORMAL / "arch" / name for name in ("settings.py", "aarch32.py", "names.py")
}  # of ``conform cpu`` and ``traps``


def files(names: str) -> list[Path]:
    """The files of some modules and packages, named as in ``TRUSTED``, that the checks use."""
    found: list[Path] = []
    for name in names.split():
        path = FORMAL / name
        found += sorted(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    return [path for path in found if path not in _CPUS_ONLY]


def _lines(names: str) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files(names))


def differences(reports: Sequence[Report], problems: Sequence[str]) -> list[str]:
    """Everything that is wrong, one line each; ``problems`` are those with what is stored."""
    return [
        *text.differences(reports),
        *(f"{report.configuration}: {problem}" for report in reports for problem in report.problems),
        *problems,
    ]


def page(reports: Sequence[Report], found: Sequence[Checked], wrong: Sequence[str]) -> list[str]:
    """What was done, what is wrong, and what is trusted; at most one page if nothing is wrong."""
    never = sum(len(one.traces.never) for one in found)
    lines = [f"WRONG: {line}" for line in wrong]
    lines += ["Decided:", f"  {text.summary(reports)[0]}"]
    if not wrong:
        lines += [
            "Checked without a solver:",
            *(f"  {part}" for part in summary(found).split("; ")),
            "  in each epoch and mode Init can be met, each claim's situation is reached under its preconditions,",
            f"  no vCPU gets stuck, and each operation is taken or, {never} times, proved impossible",
            "  nothing is missing in proofs/, and nothing there belongs to nothing",
        ]
    lines += ["Trusted (in formal/; lines):", *(f"  {_lines(names):5}  {names}: {why}" for names, why in TRUSTED)]
    lines += ["         Python, and networkx for the graph of operations; no solver, no checksum"]
    lines += ["Assumed:", *(f"  {line}" for line in ASSUMED), "Not modelled:", *(f"  {line}" for line in NOT_MODELLED)]
    return lines
