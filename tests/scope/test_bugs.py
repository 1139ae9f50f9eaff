"""Bugs of the past, brought back: found with the right claim, and gone in the fixed code."""

from __future__ import annotations

import re

import pytest

from formal.engines.verdict import Checker, Verdict
from formal.epochs import EPOCHS, Mode
from formal.properties import CLAIMS
from formal.scope.bugs import BUGS, Bug
from formal.scope.configuration import BUG_CONFIGURATIONS, EPOCH_CONFIGURATIONS, Configuration, checks
from formal.scope.findings import FINDINGS
from formal.scope.manifest import Manifest
from formal.system import System
from tests.conftest import checker_of

CLAIM = {c.name: c for c in CLAIMS}
CASES = [(bug, mode, claim) for bug in BUGS.values() for mode in bug.modes for claim in bug.breaks]
each_case = pytest.mark.parametrize(("bug", "mode", "claim"), CASES, ids=lambda x: getattr(x, "name", x))


@each_case
def test_the_fixed_kernel_keeps_what_the_bug_breaks(bug: Bug, mode: Mode, claim: str) -> None:
    assert CLAIM[claim].applies(EPOCHS[bug.epoch].kernel(mode)) is None, "the claim is made for the fixed kernel"
    fixed = checker_of(Configuration(bug.epoch, mode.value))
    assert fixed.check(CLAIM[claim]).verdict is Verdict.PROVED


@each_case
def test_the_bug_breaks_it(bug: Bug, mode: Mode, claim: str) -> None:
    """A stored run breaks the claim, and the induction no longer goes through."""
    checker = checker_of(Configuration(bug.name, mode.value))
    result = checker.check(CLAIM[claim])
    assert result.verdict is Verdict.VIOLATED
    assert result.trace is not None
    assert checker.replay.violates(result.trace, CLAIM[claim]) == result.broken_at
    fixed = checker_of(Configuration(bug.epoch, mode.value))
    assert fixed._breaks(result.trace, CLAIM[claim]) is None, "the fixed kernel is not broken by the same run"


@pytest.mark.parametrize("configuration", BUG_CONFIGURATIONS, ids=str)
def test_nothing_is_proved_of_the_bug_that_a_run_breaks(configuration: Configuration) -> None:
    checker = checker_of(configuration)
    for name in BUGS[configuration.name].breaks:
        claim = CLAIM[name]
        invariant = checker.invariant(claim.given)
        assert not invariant.implies(claim), name
        assert not invariant.keeps(claim), name


@pytest.mark.parametrize(("name", "mode", "claim"), [("B0", "vhe", "entry_is_fresh"), ("B3", "nvhe", "trace")])
def test_the_search_finds_a_bug_without_stored_traces(name: str, mode: str, claim: str) -> None:
    checker = Checker(checker_of(Configuration(name, mode)).system, depth=6)
    result = checker.check(CLAIM[claim])
    assert (result.verdict, result.engine) == (Verdict.VIOLATED, "BMC")


@pytest.mark.parametrize("bug", BUGS.values(), ids=lambda b: b.name)
def test_a_bug_takes_behaviours_away_and_says_what_fixed_it(bug: Bug) -> None:
    fixed = EPOCHS[bug.epoch].kernel(bug.modes[0])
    assert all(getattr(fixed, name) != value for name, value in bug.changes.items()), "it changes nothing"
    assert re.search(r"\bv\d+\.\d+\b", bug.fix), "the release that has it, and the commit where it is known"
    assert bug.title
    assert bug.breaks, "a bug that breaks no claim shows nothing"


def test_at_least_ten_bugs() -> None:
    assert BUGS.keys() >= {"B0", "B1", "B2", "B5", "B6"}
    assert len(BUGS) >= 10


# ---- preconditions


def variants() -> list[tuple[Configuration, str]]:
    """Every proved variant of every epoch."""
    return [
        (c, claim.name)
        for c in EPOCH_CONFIGURATIONS
        for claim in CLAIMS
        if claim.given and claim.applies(c.kernel()) is None
    ]


@pytest.mark.parametrize(("configuration", "name"), variants(), ids=str)
def test_a_variant_is_proved_and_no_precondition_can_be_spared(
    configuration: Configuration, name: str, manifest: Manifest
) -> None:
    checker = checker_of(configuration)
    if manifest.expected(configuration)[name] == "VIOLATED":
        assert checker.check(CLAIM[name]).verdict is Verdict.VIOLATED, "known to fail whatever the environment does"
        return
    assert checker.check(CLAIM[name]).verdict is Verdict.PROVED
    for check, claim in checks((CLAIM[name],)):
        if check != name:
            result = checker.check(claim, known_as=check)
            assert result.verdict is Verdict.VIOLATED, f"{check}: spare the precondition"
            assert result.trace is not None
            assert checker.replay.violates(result.trace, claim) is not None


def test_a_variant_says_less_than_its_claim() -> None:
    for claim in CLAIMS:
        if claim.variant_of:
            plain = CLAIM[claim.variant_of]
            assert claim.given and not plain.given
            assert (claim.when, claim.then, claim.at) == (plain.when, plain.then, plain.at)


@pytest.mark.parametrize("configuration", EPOCH_CONFIGURATIONS, ids=str)
def test_every_violated_claim_has_a_known_cause(configuration: Configuration, manifest: Manifest) -> None:
    """A claim that is false for a kernel is a result, with its cause and the upstream fix."""
    k = configuration.kernel()
    causes = {name for finding in FINDINGS if finding.applies(k) for name in finding.claims}
    violated = {n for n, v in manifest.expected(configuration).items() if v == "VIOLATED" and n in CLAIM}
    plain = {CLAIM[n].variant_of or n for n in violated} - causes
    assert not plain, f"formal/scope/findings.py says nothing about {sorted(plain)}"


@pytest.mark.parametrize("name", ["E3a", "E3b"])
def test_writing_mdcr_el2_when_it_changed_mends_what_is_put_down_to_that(name: str) -> None:
    """The cause that most violations before v5.6 are put down to is the cause."""
    k = EPOCHS[name].kernel(Mode.VHE).but(vhe_writes_changed_mdcr=True)
    mended, checker = Checker(System(k)), checker_of(Configuration(name, "vhe"))
    others = {n for f in FINDINGS if f.applies(k) for n in f.claims}
    causes = next(f for f in FINDINGS if f.name == "B1").claims
    for claim in CLAIMS:
        if claim.name in causes and claim.name not in others and not claim.applies(k):
            assert checker.check(claim).verdict is Verdict.VIOLATED, claim.name
            assert mended.check(claim).verdict is Verdict.PROVED, f"{claim.name} has another cause as well"


def test_findings_speak_of_claims_that_exist() -> None:
    for finding in FINDINGS:
        assert finding.says and finding.fix
        unknown = set(finding.claims) - CLAIM.keys()
        assert not unknown, f"{finding.name} speaks of {sorted(unknown)}"
        assert any(finding.applies(c.kernel()) for c in EPOCH_CONFIGURATIONS + BUG_CONFIGURATIONS)
