"""The command as a user meets it: one clear line for what is wrong, the right exit code, nothing half-written."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import pytest

from formal.commands import prove as command
from formal.commands import prove_tree
from formal.common.exit_codes import ExitCode
from formal.engines.verdict import ContradictionError
from formal.engines.z3backend import SolverTimeoutError
from formal.epochs import EPOCHS, Mode
from formal.matrix import configuration_run
from formal.matrix.configuration_run import Report, Row
from formal.matrix.schedule import orders, run_all, shares
from formal.properties import CLAIMS, NON_PROPERTIES
from formal.report import spec
from formal.scope.bugs import BUGS
from formal.scope.configuration import EPOCH_CONFIGURATIONS, Configuration
from formal.scope.document import DOCUMENT
from formal.scope.manifest import Manifest
from tests.conftest import PROOFS, ROOT

Output = pytest.CaptureFixture[str]


def prove(capsys: Output, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command in this process."""
    capsys.readouterr()
    code = command.main(arguments)
    out = capsys.readouterr()
    return code, out.out, out.err


def copied(tmp_path: Path) -> Path:
    """A copy of proofs/ (without certificates) to spoil."""
    folder = tmp_path / "proofs"
    folder.mkdir()
    shutil.copytree(PROOFS / "traces", folder / "traces")
    shutil.copy(PROOFS / "manifest.toml", folder)
    return folder


ONE = ("--epoch", "E8", "--mode", "vhe")
TRACE = (*ONE, "--claim", "trace")


# ---- misuse


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--claim", "tracee"), "unknown claim 'tracee'; did you mean 'trace'?"),
        (("--claim", "hpmn_in_guest"), "unknown claim 'hpmn_in_guest'; did you mean 'hpmn_preserved_in_guest'?"),
        (("--claim", "qqqq"), "unknown claim 'qqqq'"),
        (("--explain", "debug_roms"), "unknown claim 'debug_roms'; did you mean 'debug_rom'?"),
        (("--epoch", "E8a"), "no epoch E8a; did you mean E8"),
        (("--bug", "B55"), "unknown bug 'B55'; did you mean 'B5'?"),
        (("--mode", "pkvm"), "argument --mode: invalid choice: 'pkvm' (choose from "),
        (("--bug", "B0", "--mode", "nvhe"), "B0 does not exist in mode nvhe"),
        (("--bug", "B5", "--epoch", "E8"), "--bug names its epoch: --epoch does not go with it"),
        (
            ("--bug", "B5", "--claim", "trace"),
            "B5 is checked for what it breaks: guest_pstate_ss_preserved_if_one_steps_unlocked; not trace",
        ),
        (("-j", "0"), "argument -j/--jobs: 0 is no number from 1 up"),
        (("-j", "-3"), "argument -j/--jobs: -3 is no number from 1 up"),
        (("--jobs", "many"), "argument -j/--jobs: many is no number from 1 up"),
        (("--timeout", "0"), "argument --timeout: 0 is no time to wait, in seconds"),
        (("--timeout", "-1"), "argument --timeout: -1 is no time to wait, in seconds"),
        (("--timeout", "nan"), "argument --timeout: nan is no time to wait, in seconds"),
        (("--timeout", "inf"), "argument --timeout: inf is no time to wait, in seconds"),
        (("--timeout", "soon"), "argument --timeout: soon is no time to wait, in seconds"),
        (("--breakpoints", "3"), "argument --breakpoints: invalid choice: 3 (choose from "),
        (("--config", "x"), "--config configures a tree: it goes with --kernel"),
        (("--refresh", "--claim", "trace"), "--refresh works on whole configurations: --claim does not go with it"),
        (("--explain", "trace", "--refresh"), "--refresh works on whole configurations: --explain does not go with it"),
        (("--nonsense",), "unrecognized arguments: --nonsense"),
        (("nonsense",), "unrecognized arguments: nonsense"),
        (("--epoch",), "argument --epoch: expected one argument"),
    ],
    ids=" ".join,
)
def test_misuse_is_refused_with_one_line(capsys: Output, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = prove(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert err.startswith(f"formal.prove: {message}")
    assert err.count("\n") == 1


def test_misuse_costs_no_solver(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.setattr(command.schedule, "run_all", lambda *a: pytest.fail("a solver would have run"))
    assert prove(capsys, "--claim", "tracee")[0] == 2
    assert prove(capsys, "--proofs", "nowhere")[0] == 2


def test_bisect_has_exit_codes_of_its_own(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    assert prove(capsys, "--bisect", "--claim", "tracee")[0] == 128
    for error, code in ((ContradictionError("x"), 129), (SolverTimeoutError("x"), 125), (ValueError("x"), 129)):
        monkeypatch.setattr(prove_tree, "tree", lambda *_, error=error: (_ for _ in ()).throw(error))
        assert prove(capsys, "--bisect", "--kernel", "tree")[0] == code


# ---- damaged input


def test_a_missing_manifest(capsys: Output, tmp_path: Path) -> None:
    code, out, err = prove(capsys, "--proofs", str(tmp_path))
    assert (code, out) == (2, "")
    path = tmp_path / "manifest.toml"
    assert err == f"formal.prove: {path}: not found; `python -m formal.prove --refresh` writes it\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"schema_version = 1\n[E8.vhe\n", "unreadable: "),
        (b"\xff\xff", "unreadable: "),
        (b"schema_version = 7\n", "schema_version is not 1"),
        (b'schema_version = 1\n[E8.vhe]\ntrace = "YES"\n', "[E8.vhe] has a value that is no verdict"),
    ],
)
def test_a_damaged_manifest(capsys: Output, tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "manifest.toml"
    path.write_bytes(content)
    code, out, err = prove(capsys, "--proofs", str(tmp_path))
    assert (code, out) == (2, "")
    assert err.startswith(f"formal.prove: {path}: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"schema_version": 1, "traces": [', "unreadable: Expecting value"),
        (b'{"schema_version": 2}', "schema_version is not 1"),
        (b'{"schema_version": 1, "counterexamples": {}, "traces": [{}]}', "not a trace: KeyError: 'steps'"),
    ],
)
def test_a_damaged_trace_file(capsys: Output, tmp_path: Path, content: bytes, message: str, workers: str) -> None:
    """In this process, and when it comes from a worker."""
    folder = copied(tmp_path)
    (folder / "traces" / "E8-vhe.json").write_bytes(content)
    arguments = ("--proofs", str(folder), "--epoch", "E8", "--claim", "trace", "-j", workers)
    code, out, err = prove(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"formal.prove: E8-vhe.json: {message}")
    assert err.count("\n") == 1


def test_traces_of_another_system_are_a_difference_not_a_verdict(
    capsys: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose runs are none: nothing is VIOLATED by it, and the gate says that traces are unusable."""
    folder = copied(tmp_path)
    path = folder / "traces" / "E8-nvhe.json"
    path.write_text(path.read_text().replace("kvm_arch_vcpu_load", "kvm_arch_vcpu_lood"))
    monkeypatch.setattr(configuration_run, "SEARCH_DEPTH", 0)
    code, out, _ = prove(capsys, "--proofs", str(folder), "--epoch", "E8", "--mode", "nvhe")
    assert code == ExitCode.WRONG
    assert "the system has no operation 'kvm_arch_vcpu_lood'" in out
    assert "is vacuous: its situation is never reached" in out


def test_results_that_cannot_be_written(capsys: Output, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = prove(capsys, *TRACE, "--json", str(tmp_path / "file" / "results.json"))
    assert code == 2
    assert re.fullmatch(r"formal\.prove: .*file.*: (Not a directory|File exists)\n", err)


# ---- verdicts and exit codes


def test_one_claim(capsys: Output) -> None:
    code, out, err = prove(capsys, *TRACE)
    assert (code, err) == (0, "")
    assert re.search(r"^trace +PROVED +induction, \d+ lemmas", out, re.M)
    assert "1 configuration, 1 check: 1 PROVED, 0 VIOLATED" in out
    assert "Assumed: " in out and "not modelled: " in out
    assert "trusted:" in out


def test_an_expected_violation_is_as_expected(capsys: Output) -> None:
    code, out, _ = prove(capsys, *ONE, "--claim", "hpmn_preserved_always")
    assert code == 0
    assert "VIOLATED" in out


@pytest.mark.parametrize(("claim", "was"), [("trace", "PROVED"), ("hpmn_preserved_always", "VIOLATED")])
def test_an_unexpected_verdict_is_1_in_both_directions(capsys: Output, tmp_path: Path, claim: str, was: str) -> None:
    folder = copied(tmp_path)
    path = folder / "manifest.toml"
    section = path.read_text().index("[E8.vhe]")
    other = {"PROVED": "VIOLATED", "VIOLATED": "PROVED"}[was]
    text = path.read_text()
    path.write_text(text[:section] + text[section:].replace(f'"{claim}" = "{was}"', f'"{claim}" = "{other}"', 1))
    code, out, _ = prove(capsys, *ONE, "--claim", claim, "--proofs", str(folder))
    assert code == 1
    assert f"DIFFERS: E8 vhe: {claim}: {was}, expected {other}" in out


def test_what_is_not_in_the_manifest_is_a_difference(capsys: Output, tmp_path: Path) -> None:
    folder = copied(tmp_path)
    path = folder / "manifest.toml"
    path.write_text(path.read_text().replace('"debug_rom" = "PROVED"\n', ""))
    code, out, _ = prove(capsys, *ONE, "--claim", "debug_rom", "--proofs", str(folder))
    assert code == 1
    assert "debug_rom: PROVED, expected nothing: not in the manifest" in out


def test_what_is_in_the_manifest_and_not_checked_is_a_difference(capsys: Output, tmp_path: Path) -> None:
    folder = copied(tmp_path)
    path = folder / "manifest.toml"
    path.write_text(path.read_text().replace("[E8.vhe]\n", '[E8.vhe]\n"made_up" = "PROVED"\n'))
    code, out, _ = prove(capsys, *ONE, "--proofs", str(folder))
    assert code == 1
    assert "E8 vhe: made_up is in the manifest but was not checked" in out


@pytest.mark.usefixtures("solver_gives_up")
def test_a_time_out_is_3(capsys: Output) -> None:
    code, out, _ = prove(capsys, *TRACE)
    assert code == 3
    assert "trace: UNKNOWN, expected PROVED: the solver gave up: canceled" in out


@pytest.mark.usefixtures("solver_gives_up")
def test_a_time_out_of_a_sanity_check_is_3(capsys: Output) -> None:
    """Sanity checks of the whole configuration, not only claims, are questions to the solver."""
    code, out, err = prove(capsys, "--epoch", "E4", "--mode", "vhe")
    assert (code, err) == (3, "")
    assert ": 0 PROVED, " in out
    assert "the solver gave up: canceled" in out


@pytest.mark.parametrize("error", [ContradictionError("engine and replay disagree"), ZeroDivisionError("oops")])
def test_a_fault_of_the_tool_is_4(capsys: Output, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(command.schedule, "run_all", fails)
    code, _, err = prove(capsys, *TRACE)
    assert code == 4
    assert err.splitlines()[-1].startswith("formal.prove: internal error: ")
    assert str(error) in err.splitlines()[-1]


def test_non_properties_by_name(capsys: Output) -> None:
    """A name that --list shows is checked when it is asked for."""
    k = EPOCHS["E8"].kernel(Mode.VHE)
    for one in NON_PROPERTIES:
        code, out, _ = prove(capsys, *ONE, "--claim", one.name)
        assert code == 0
        assert f"1 check: 0 PROVED, {1 if one.applies(k) is None else 0} VIOLATED" in out


# ---- output


def test_json(capsys: Output, tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.json"
    code, _, _ = prove(capsys, "--epoch", "E8", "--json", str(path), "-j", "1")
    data = json.loads(path.read_text())
    assert code == 0
    assert data.keys() == {"schema_version", "exit_code", "results", "problems", "assumed", "not_modelled"}
    assert (data["schema_version"], data["exit_code"], data["problems"]) == (1, 0, [])
    keys = {"check", "claim", "epoch", "mode", "verdict", "expected", "engine", "seconds", "assumptions"}
    for result in data["results"]:
        assert result.keys() - {"reason", "trace"} == keys
        assert result["verdict"] == result["expected"]
        assert ("trace" in result) == (result["verdict"] == "VIOLATED")
        assert ("reason" in result) == (result["verdict"] == "n/a")
        if "trace" in result:
            assert result["trace"]["broken_at"] == len(result["trace"]["steps"])
    assert {r["claim"] for r in data["results"]} == {c.name for c in (*CLAIMS, *NON_PROPERTIES)}
    assert {(r["epoch"], r["mode"]) for r in data["results"]} == {("E8", "vhe"), ("E8", "nvhe")}
    with_given = next(r for r in data["results"] if r["check"] == "guest_mdscr_preserved_in_32_bits")
    assert with_given["assumptions"] == ["mdscr_in_32_bits"]


def test_list(capsys: Output) -> None:
    code, out, _ = prove(capsys, "--list")
    assert code == 0
    first = {line.split()[0] for line in out.splitlines() if line.strip()}
    assert first >= {c.name for c in (*CLAIMS, *NON_PROPERTIES)} | EPOCHS.keys() | BUGS.keys()


def test_explain_shows_the_trace_with_what_changes(capsys: Output) -> None:
    code, out, _ = prove(capsys, *ONE, "--explain", "guest_mdscr_preserved")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "guest_mdscr_preserved (E8 vhe): VIOLATED"
    assert any(line.startswith("  known: guest_debug_preserved.mdscr_el1 has 32 bits") for line in lines)
    assert re.search(r"broken after step \d+ \(shortest found\)", out)
    assert re.search(r"^ +\d+\. kvm_arm_clear_debug +\(KVM; debug\.c, kvm_arm_clear_debug\)$", out, re.M)
    assert re.search(r"mdscr_el1: 0x\w+ \(.*\) -> ", out), "fields are decoded"
    assert "the claim reads, at that point:" in out


def test_explain_of_what_is_proved_or_not_applicable(capsys: Output) -> None:
    code, out, _ = prove(capsys, *ONE, "--explain", "trace")
    assert code == 0
    assert out.startswith("trace (E8 vhe): PROVED\n  While a guest runs, MDCR_EL2.TTRF is set")
    code, out, _ = prove(capsys, "--epoch", "E4", "--mode", "vhe", "--explain", "trace")
    assert code == 0
    assert "trace (E4 vhe): n/a" in out
    assert "a354a64d91ee" in out


def test_explain_of_a_non_property(capsys: Output) -> None:
    code, out, _ = prove(capsys, *ONE, "--explain", "guest_debug_implies_tda")
    assert code == 0
    assert out.startswith("not guest_debug_implies_tda (E8 vhe): VIOLATED\n")
    assert "broken after step" in out


def test_spec_has_every_sentence_with_its_claims(capsys: Output) -> None:
    code, out, _ = prove(capsys, "--epoch", "E8", "--spec", "-v")
    assert code == 0
    assert not spec.unanswered()
    parts = out.split("\n## ")
    for sentence in DOCUMENT:
        part = next(p for p in parts if p.startswith(f"{sentence.place}\n"))
        assert sentence.says in part
        for claim in sentence.claims:
            assert re.search(rf"^\| `{claim}` \|.*\| (PROVED|VIOLATED|n/a) \| (PROVED|VIOLATED|n/a) \|$", part, re.M)
    assert all(f"| `{c.name}` |" in out for c in CLAIMS), "a claim is missing on the page"


def test_spec_fits_a_screen(capsys: Output) -> None:
    """Every sentence with the number of its claims that are false; what is false is named where there is room."""
    code, out, _ = prove(capsys, "--spec", "-j", "1")
    assert code == 0
    lines = out.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 120
    manifest = Manifest.read(PROOFS / "manifest.toml")
    shown = lines[0].split()[1:]
    assert shown == sorted(shown, key=list(EPOCHS).index) and 5 < len(shown) < 15
    for sentence in DOCUMENT:
        which = sentence.place.partition(", ")[2]
        begins = next(n for n, line in enumerate(lines) if line.startswith(sentence.place.partition(", ")[0]))
        row = next(line for line in lines[begins:] if line.strip().startswith(f"{which}: "))
        for name, cell in zip(shown, row.split()[-len(shown) :], strict=True):
            tables = [manifest.expected(c) for c in EPOCH_CONFIGURATIONS if c.name == name]
            lost = {claim for claim in sentence.claims for table in tables if table.get(claim) == "VIOLATED"}
            assert (int(cell) if cell.isdigit() else 0) == len(lost), (sentence.place, name)
    code, out, _ = prove(capsys, "--epoch", "E8", "--spec")
    assert code == 0 and len(out.splitlines()) <= 45
    assert lines[0] != out.splitlines()[0] and "VIOLATED: hpmn_preserved_always (vhe)" in out


@pytest.mark.parametrize("width", [60, 80, 200])
def test_spec_is_folded_to_the_width_of_the_screen(width: int) -> None:
    row = Row("trace", "trace", "E8", "vhe", "UNKNOWN", "PROVED", "-", 0.0)
    for report in (Report(Configuration("E8", "vhe"), [row]), Report(Configuration("E13", "vhe"), [])):
        grid, legend = spec.screen([report], width)
        lines = grid.plain()
        assert max(map(len, [*lines, *legend])) <= width
        assert ("1?" in "\n".join(lines)) == bool(report.rows)


def test_a_sentence_without_a_claim_fails(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = DOCUMENT[0].__class__("somewhere, sentence 1", "Something is promised.", (), "promised")
    monkeypatch.setattr(spec, "DOCUMENT", (*DOCUMENT, silent))
    assert prove(capsys, *ONE, "--spec")[0] == 1


def test_the_whole_gate(capsys: Output) -> None:
    """What the README's command runs: every configuration, as the manifest expects."""
    code, out, err = prove(capsys, "-j", "1")
    assert code == 0, out
    assert err == ""
    assert "; 0 not as expected" in out
    assert "0 UNKNOWN" in out
    assert f"Checked in each of {len(EPOCH_CONFIGURATIONS)} epoch configurations: Init can be met" in out
    assert len(out.splitlines()) <= 30, "the first screen"
    assert EPOCHS.keys() <= set(out.replace(",", "").split())


def test_results_come_in_the_order_of_the_jobs() -> None:
    """However many processes there are."""
    jobs = [configuration_run.Job(c, PROOFS / "traces", {}, ("debug_rom",)) for c in EPOCH_CONFIGURATIONS[-3:]]
    for workers in (1, 2):
        done: list[str] = []
        reports = run_all(jobs, workers, lambda report, done=done: done.append(str(report.configuration)))
        assert [r.configuration for r in reports] == [j.configuration for j in jobs]
        assert sorted(done) == sorted(str(j.configuration) for j in jobs)


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_every_worker_looks_at_every_job(workers: int) -> None:
    """Its own share first; whoever has finished takes what is left of the others, from their ends."""
    jobs = [configuration_run.Job(c, PROOFS / "traces", {}) for c in EPOCH_CONFIGURATIONS]
    found = orders(jobs, workers)
    own = [[jobs.index(j) for j in share] for share in shares(jobs, workers)]
    assert len(found) == workers
    for order, mine in zip(found, own, strict=True):
        assert sorted(order) == list(range(len(jobs)))
        assert order[: len(mine)] == mine
    if workers == 2:
        assert found[0][len(own[0]) :] == own[1][::-1]


# ---- as a process


def process(*arguments: str, **more: object) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own, its output piped."""
    command_line = [sys.executable, "-m", "formal.prove", *arguments]
    return subprocess.run(command_line, cwd=ROOT, capture_output=True, text=True, **more)  # type: ignore[call-overload, no-any-return]


def test_piped_output_is_plain() -> None:
    done = process(*TRACE)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert not re.search(r"[\u2500-\u257f]", done.stdout), "no drawing characters"


def test_the_command_says_how_it_is_used() -> None:
    done = process("--help")
    assert done.returncode == 0
    for option in ("--epoch", "--mode", "--claim", "--kernel", "--json", "--timeout", "--list", "--explain", "--spec"):
        assert option in done.stdout
    assert "130 interrupted" in done.stdout


def test_misuse_as_a_process_has_no_traceback() -> None:
    done = process("--claim", "tracee")
    assert done.returncode == 2
    assert done.stderr == "formal.prove: unknown claim 'tracee'; did you mean 'trace'?\n"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_refresh_writes_what_the_gate_accepts_and_the_same_again(tmp_path: Path, workers: str) -> None:
    folder = copied(tmp_path)
    before = {p.name: p.read_bytes() for p in sorted(folder.rglob("*.*"))}
    done = process("--refresh", "--bug", "B5", "--proofs", str(folder), "-j", workers)
    assert done.returncode == 0, done.stderr
    assert f"written: {folder / 'manifest.toml'}" in done.stdout
    assert {p.name: p.read_bytes() for p in sorted(folder.rglob("*.*"))} == before
    assert Manifest.read(folder / "manifest.toml") == Manifest.read(PROOFS / "manifest.toml")


INTERRUPTED_AT_A_QUESTION = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background does not hear it
from formal.commands import prove as command
from formal.commands import prove_tree
from formal.engines.z3backend import Z3Solver

real, asked = Z3Solver._check, [0]

def check(self):
    asked[0] += 1
    if asked[0] == int(sys.argv[1]):
        os.killpg(0, signal.SIGINT)  # as Ctrl-C does: the whole process group
    return real(self)

Z3Solver._check = check
sys.exit(command.main(sys.argv[2:]))
"""


@pytest.mark.parametrize("question", ["1", "12"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_in_the_middle_leaves_nothing_half_written(tmp_path: Path, question: str, workers: str) -> None:
    """At a solver question, so without waiting; in a worker's question if there are workers."""
    folder = copied(tmp_path)
    before = {p: p.read_bytes() for p in sorted(folder.rglob("*.*"))}
    arguments = ("--refresh", "--epoch", "E8", "--proofs", str(folder), "-j", workers)
    started = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED_AT_A_QUESTION, question, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    out, err = started.communicate(timeout=120)
    assert started.returncode == 130, err
    assert err == "formal.prove: interrupted; nothing was written\n"
    assert out == ""
    assert {p: p.read_bytes() for p in sorted(folder.rglob("*.*"))} == before
    assert os.listdir(tmp_path) == ["proofs"]


INTERRUPTED_WHILE_IMPORTING = """
import os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background does not hear it

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "z3":
            os.kill(os.getpid(), int(sys.argv[1]))

sys.meta_path.insert(0, Interrupt())
runpy.run_module("formal.prove", run_name="__main__")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_while_z3_is_imported(number: signal.Signals) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_WHILE_IMPORTING, str(int(number))],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 130
    assert (done.stdout, done.stderr) == ("", "formal.prove: interrupted; nothing was written\n")


def test_the_first_screen_has_thirty_lines() -> None:
    """Everything that is modelled, on a terminal of 80 columns; prose is folded between words."""
    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    command = [sys.executable, "-m", "formal.prove", "-j", "1"]
    environment = {**os.environ, "TERM": "xterm"}
    environment.pop("COLUMNS", None)
    process = subprocess.Popen(command, cwd=ROOT, stdout=slave, stderr=subprocess.DEVNULL, env=environment)
    os.close(slave)
    shown = b""
    with suppress(OSError):  # how a terminal ends
        while part := os.read(master, 1 << 16):
            shown += part
    assert process.wait() == 0
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()).replace("\r", "").splitlines()
    assert len(lines) <= 30 and max(map(len, lines)) <= 80, "\n".join(lines)
    text = " ".join(line.strip() for line in lines)
    assert "Assumed: " in text and "Next: python -m formal.prove --epoch E13" in text and " 0 not as expected" in text
    assert all(any(name in line.replace(",", "").split() for line in lines) for name in EPOCHS)
