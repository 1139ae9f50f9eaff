"""How deep is searched for what breaks a claim of a configuration."""

from __future__ import annotations

import pytest

from formal.engines.verdict import FEW, SEARCHED, SHALLOW, Checker, Result, Verdict
from formal.matrix import configuration_run
from formal.matrix.configuration_run import SEARCH_DEPTH, Job, run
from formal.properties import CLAIMS
from formal.scope.configuration import Configuration
from formal.vocabulary import Claim
from tests.conftest import PROOFS
from tests.engines.mutants import MUTANTS, system

E8 = Configuration("E8", "vhe")
FAULT = next(m for m in MUTANTS if m.says == "TDRA is dropped")
LOST = CLAIMS[0].name


class Asked(Checker):
    """Notes how deep each claim is searched, and finds nothing."""

    def __init__(self) -> None:
        self.depth, self.budget, self.asked = SHALLOW, SEARCHED, list[str]()

    def check(self, claim: Claim, *, known_as: str | None = None) -> Result:
        assert (self.depth, self.budget) == (SEARCH_DEPTH, None)
        self.asked.append(claim.name)
        return Result(claim, Verdict.UNKNOWN, "BMC", 0.0)


@pytest.mark.parametrize(
    ("still_open", "lost", "searched"),
    [(FEW + 1, False, FEW + 1), (FEW, True, FEW), (FEW + 1, True, 0)],
    ids=["none is lost", "few are open", "one is lost, and many are open"],
)
def test_many_open_claims_are_searched_deep_only_if_none_is_lost(still_open: int, lost: bool, searched: int) -> None:
    wanted = {claim.name: claim for claim in CLAIMS[: still_open + 1]}
    results = {name: Result(claim, Verdict.UNKNOWN, "z3", 0.0) for name, claim in wanted.items()}
    results[LOST] = Result(CLAIMS[0], Verdict.VIOLATED, "BMC", 0.0)
    job, checker = Job(E8, PROOFS, {LOST: "PROVED" if lost else "VIOLATED"}), Asked()
    configuration_run._search_deep(job, checker, wanted, results)
    assert len(checker.asked) == searched and LOST not in checker.asked


def test_a_fault_of_the_model_is_found_by_a_short_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration_run, "System", lambda kernel: system(FAULT))
    names = ("debug_rom", "os_registers")
    report = run(Job(E8, PROOFS / "traces", dict.fromkeys(names, "PROVED"), names))
    assert {r.check: (r.verdict, r.as_expected) for r in report.rows if r.check in names} == {
        "debug_rom": ("VIOLATED", False), "os_registers": ("PROVED", True)
    }  # fmt: skip
