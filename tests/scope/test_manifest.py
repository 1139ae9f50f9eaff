"""The manifest: complete, readable or refused with one line, and a gate that fails in both directions."""

from __future__ import annotations

from pathlib import Path

import pytest

from formal.commands import prove
from formal.common.exit_codes import ExitCode
from formal.engines.verdict import Verdict
from formal.matrix.configuration_run import Job, Report, Row, run
from formal.properties import CLAIMS, NON_PROPERTIES
from formal.scope.configuration import BUG_CONFIGURATIONS, EPOCH_CONFIGURATIONS, Configuration, checks
from formal.scope.manifest import VERDICTS, Manifest, ManifestError
from tests.conftest import PROOFS, checker_of

E8 = Configuration("E8", "vhe")


# ---- what it covers


def test_every_configuration_is_covered(manifest: Manifest) -> None:
    wanted = {f"{c.name}.{c.mode}" for c in EPOCH_CONFIGURATIONS + BUG_CONFIGURATIONS}
    assert manifest.tables.keys() == wanted


@pytest.mark.parametrize("configuration", EPOCH_CONFIGURATIONS, ids=str)
def test_every_claim_is_covered_in_every_epoch_and_mode(configuration: Configuration, manifest: Manifest) -> None:
    table = manifest.expected(configuration)
    k = configuration.kernel()
    wanted = {c.name for c in CLAIMS} | {f"not {c.name}" for c in NON_PROPERTIES}
    wanted |= {name for name, c in checks(CLAIMS) if not c.applies(k)}
    missing, unknown = wanted - table.keys(), table.keys() - wanted
    assert not missing, f"write them with --refresh: {sorted(missing)}"
    assert not unknown, f"nothing is called {sorted(unknown)}"


@pytest.mark.parametrize("configuration", BUG_CONFIGURATIONS, ids=str)
def test_every_bug_is_expected_to_be_found(configuration: Configuration, manifest: Manifest) -> None:
    table = manifest.expected(configuration)
    assert {name for name in table if " without " not in name} == {c.name for c in configuration.claims()}
    assert set(table.values()) == {"VIOLATED"}


@pytest.mark.parametrize("configuration", EPOCH_CONFIGURATIONS, ids=str)
def test_not_applicable_has_a_reason(configuration: Configuration, manifest: Manifest) -> None:
    """``n/a`` exactly where the claim says why."""
    k = configuration.kernel()
    for claim in CLAIMS:
        reason = claim.applies(k)
        assert (manifest.expected(configuration)[claim.name] == "n/a") == (reason is not None), claim.name
        assert reason is None or len(reason.split()) >= 4, f"{claim.name}: {reason!r} is no reason"


def test_nothing_is_expected_to_be_unknown(manifest: Manifest) -> None:
    unknown = [f"{c}: {n}" for c, table in manifest.tables.items() for n, v in table.items() if v == "UNKNOWN"]
    assert not unknown


def test_non_properties_are_expected_to_fail(manifest: Manifest) -> None:
    for c in EPOCH_CONFIGURATIONS:
        for claim in NON_PROPERTIES:
            wanted = "VIOLATED" if claim.applies(c.kernel()) is None else "n/a"
            assert manifest.expected(c)[f"not {claim.name}"] == wanted


def test_every_expected_violation_has_its_counterexample(manifest: Manifest) -> None:
    """In every configuration; that they replay is checked in test_architecture, without Z3."""
    for c in EPOCH_CONFIGURATIONS + BUG_CONFIGURATIONS:
        violated = {name for name, verdict in manifest.expected(c).items() if verdict == "VIOLATED"}
        assert violated == set(checker_of(c).book.counterexamples), f"{c}: write them with --refresh"


@pytest.mark.parametrize("configuration", EPOCH_CONFIGURATIONS, ids=str)
def test_what_is_expected_to_be_proved_is(configuration: Configuration, manifest: Manifest) -> None:
    checker = checker_of(configuration)
    for name, claim in checks(CLAIMS):
        if manifest.expected(configuration).get(name) == "PROVED":
            assert checker.check(claim, known_as=name).verdict is Verdict.PROVED, name


# ---- the file


def test_a_manifest_survives_its_file(tmp_path: Path, manifest: Manifest) -> None:
    manifest.write(tmp_path / "manifest.toml")
    assert Manifest.read(tmp_path / "manifest.toml") == manifest
    assert (tmp_path / "manifest.toml").read_bytes() == (PROOFS / "manifest.toml").read_bytes()


BAD = {
    "empty": ("", "schema_version is not 1"),
    "no TOML": ("schema_version = = 1", "unreadable: "),
    "another schema_version": ('schema_version = 2\n[E8.vhe]\n"a" = "PROVED"\n', "schema_version is not 1"),
    "no verdicts": ("schema_version = 1\n", "holds no verdicts"),
    "another verdict": ('schema_version = 1\n[E8.vhe]\n"a" = "MAYBE"\n', "[E8.vhe] has a value that is no verdict"),
    "a number": ('schema_version = 1\n[E8.vhe]\n"a" = 1\n', "[E8.vhe] has a value that is no verdict"),
    "a list": ('schema_version = 1\n[E8.vhe]\n"a" = ["PROVED"]\n', "[E8.vhe] has a value that is no verdict"),
    "no mode": ('schema_version = 1\n[E8]\n"a" = "PROVED"\n', "[E8.a] has a value that is no verdict"),
    "a key twice": ('schema_version = 1\n[E8.vhe]\n"a" = "PROVED"\n"a" = "PROVED"\n', "unreadable: "),
    "cut off": ('schema_version = 1\n[E8.vhe]\n"a" = "PRO', "unreadable: "),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD.keys())
def test_a_damaged_manifest_is_refused_with_one_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "manifest.toml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ManifestError) as caught:
        Manifest.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_manifest_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ManifestError, match="unreadable"):
        Manifest.read(tmp_path / "manifest.toml")


def test_a_missing_manifest_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"not found; `python -m formal\.prove --refresh` writes it$"):
        Manifest.read(tmp_path / "manifest.toml")


# ---- the gate


def row(verdict: str, expected: str | None) -> Row:
    """One verdict."""
    return Row("a claim", "a claim", "E8", "vhe", verdict, expected, "z3", 0.0)


def code(*rows: Row, problems: tuple[str, ...] = ()) -> int:
    """The exit code of a run with these rows."""
    return prove.exit_code([Report(E8, list(rows))], problems)


@pytest.mark.parametrize("verdict", VERDICTS)
@pytest.mark.parametrize("expected", [*VERDICTS, None])
def test_every_difference_fails_the_gate(verdict: str, expected: str | None) -> None:
    """Better than expected is a difference as well; UNKNOWN is 3 even if somebody expects it."""
    wanted = ExitCode.UNKNOWN if verdict == "UNKNOWN" else ExitCode.OK if verdict == expected else ExitCode.WRONG
    assert code(row(verdict, expected)) == wanted
    assert code(row("PROVED", "PROVED"), row(verdict, expected)) == wanted


def test_a_difference_outweighs_an_unknown() -> None:
    assert code(row("UNKNOWN", "PROVED"), row("VIOLATED", "PROVED")) == ExitCode.WRONG
    assert code(row("UNKNOWN", "PROVED"), problems=("something is missing",)) == ExitCode.WRONG


def test_a_failed_sanity_check_fails_the_gate() -> None:
    report = Report(E8, [row("PROVED", "PROVED")], problems=["claim x is vacuous: its situation is never reached"])
    assert prove.exit_code([report]) == ExitCode.WRONG


@pytest.mark.parametrize(
    ("claim", "expected"), [("trace", "VIOLATED"), ("hpmn_preserved_always", "PROVED"), ("trace", "n/a")]
)
def test_an_unexpected_verdict_of_a_real_run_fails(claim: str, expected: str) -> None:
    report = run(Job(E8, PROOFS / "traces", {claim: expected}, (claim,)))
    assert [r.as_expected for r in report.rows] == [False]
    assert prove.exit_code([report]) == ExitCode.WRONG


@pytest.mark.usefixtures("solver_gives_up")
def test_a_run_without_its_traces_reports_what_is_not_shown(tmp_path: Path, manifest: Manifest) -> None:
    """Then nothing shows that the claims are not vacuous, and the gate says so."""
    bug = Configuration("B12", "nvhe")
    report = run(Job(bug, tmp_path, dict(manifest.expected(bug))))
    assert [r.verdict for r in report.rows] == ["UNKNOWN"]
    assert prove.exit_code([report]) == ExitCode.UNKNOWN
