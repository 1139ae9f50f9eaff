"""``python -m formal.check``: accepts what is right, with no solver, and refuses every kind of damage in one line."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from formal.commands import check
from formal.common.exit_codes import ExitCode
from formal.engines.z3backend import check as satisfiable
from formal.evidence.certificates.archive import Entry, archive_path, packed, read_index, sha256, unpacked, write_index
from formal.evidence.certificates.catalogue import Plan
from formal.evidence.certificates.totality import never, total
from formal.evidence.exchange import cross
from formal.evidence.obligations import Induction
from formal.lemmas import LEMMAS
from formal.scope.configuration import Configuration
from formal.system import System
from tests.conftest import PROOFS, ROOT

NAME = "E3a-vhe"  # a small one
WITHOUT_SOLVERS = """
import sys
for name in ("z3", "pysat", "cvc5", "bitwuzla", "drup"):
    sys.modules[name] = None
from formal.check import main
code = main(sys.argv[1:])
assert not {"z3", "pysat"} & {name for name, module in sys.modules.items() if module is not None}
sys.exit(code)
"""


class Proofs:
    """A copy of proofs/ that can be damaged."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / "certificates"
        self.folder.mkdir()
        shutil.copy(PROOFS / "manifest.toml", root)
        shutil.copytree(PROOFS / "traces", root / "traces")
        shutil.copy(archive_path(PROOFS / "certificates", NAME), self.folder)
        write_index(self.folder, {NAME: read_index(PROOFS / "certificates")[NAME]})

    @property
    def entry(self) -> Entry:
        """What the index says."""
        return read_index(self.folder)[NAME]

    @entry.setter
    def entry(self, entry: Entry) -> None:
        write_index(self.folder, {NAME: entry})

    @property
    def archive(self) -> Path:
        """The archive."""
        return archive_path(self.folder, NAME)

    def edit(self, change: Callable[[dict[str, bytes]], None], *, sums: bool = True) -> None:
        """Changes the files in the archive, and corrects every sum that would tell (or that of the archive only)."""
        files = unpacked(self.archive.read_bytes())
        change(files)
        data = packed(files)
        self.archive.write_bytes(data)
        if sums and all(f"{n[:-5]}.{k}" in files for n in files for k in ("smt2", "lrat")):
            self.entry = Entry.of(data, self.entry.plan, files)
        else:
            self.entry = replace(self.entry, archive=sha256(data))


@pytest.fixture
def proofs(tmp_path: Path) -> Proofs:
    return Proofs(tmp_path)


def run(proofs: Proofs, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code and what is said on standard error."""
    code = check.main([str(proofs.root), "--only", NAME, "--jobs", "1"])
    return code, capsys.readouterr().err


STEP = "step/kvm_arm_setup_debug"
OTHER = "step/kvm_arm_clear_debug"


def change(name: str, old: str, new: str) -> Callable[[dict[str, bytes]], None]:
    """Replaces the first occurrence of a string in a file."""

    def apply(files: dict[str, bytes]) -> None:
        assert old.encode() in files[name]
        files[name] = files[name].replace(old.encode(), new.encode(), 1)

    return apply


def swap(a: str, b: str) -> Callable[[dict[str, bytes]], None]:
    """Exchanges two files."""

    def apply(files: dict[str, bytes]) -> None:
        files[a], files[b] = files[b], files[a]

    return apply


def weaken(files: dict[str, bytes]) -> None:
    """An obligation that is true of anything, with a proof that fits it."""
    text = files[f"{STEP}.smt2"].decode().splitlines()
    kept = [line for line in text if line.startswith(("(set", "(check", "(exit"))]
    files[f"{STEP}.smt2"] = "\n".join([*kept[:2], "(assert false)", *kept[2:], ""]).encode()
    files[f"{STEP}.lrat"] = b"3 0 1 2 0\n"


def both(a: str, b: str) -> Callable[[dict[str, bytes]], None]:
    """Exchanges two obligations with their proofs."""

    def apply(files: dict[str, bytes]) -> None:
        swap(f"{a}.smt2", f"{b}.smt2")(files)
        swap(f"{a}.lrat", f"{b}.lrat")(files)

    return apply


def remove(stem: str) -> Callable[[dict[str, bytes]], None]:
    """Removes an obligation with its proof."""

    def apply(files: dict[str, bytes]) -> None:
        del files[f"{stem}.smt2"], files[f"{stem}.lrat"]

    return apply


def add(files: dict[str, bytes]) -> None:
    """An obligation that is none."""
    files["step/more.smt2"], files["step/more.lrat"] = files[f"{STEP}.smt2"], files[f"{STEP}.lrat"]


def shorten(files: dict[str, bytes]) -> None:
    """A proof without its end."""
    files[f"{STEP}.lrat"] = files[f"{STEP}.lrat"].rsplit(b"\n", 2)[0] + b"\n"


def unhint(files: dict[str, bytes]) -> None:
    """A proof whose last step lacks a hint."""
    lines = files[f"{STEP}.lrat"].decode().splitlines()
    words = lines[-1].split(" ")
    files[f"{STEP}.lrat"] = "\n".join([*lines[:-1], " ".join(words[:2] + words[3:]), ""]).encode()


def claim_at_once(files: dict[str, bytes]) -> None:
    """A proof that is the empty clause."""
    files[f"{STEP}.lrat"] = b"9999999 0 1 0\n"


IN_THE_ARCHIVE: dict[str, tuple[Callable[[dict[str, bytes]], None], str]] = {
    "a text edited": (change(f"{STEP}.smt2", "(bvor ", "(bvand "), "not the text of this obligation: line"),
    "a comment edited": (change(f"{STEP}.smt2", "assumptions", "facts"), "not the text of this obligation: line 1"),
    "a text cut off": (change(f"{STEP}.smt2", "(exit)\n", ""), "not the text of this obligation"),
    "an obligation weakened": (weaken, "not the text of this obligation"),
    "obligations swapped": (both(STEP, OTHER), "not the text of this obligation"),
    "proofs swapped": (swap(f"{STEP}.lrat", f"{OTHER}.lrat"), ".lrat: proof step"),
    "an obligation removed": (remove(STEP), f"the index lacks {STEP}"),
    "an obligation added": (add, "the index has step/more, which is no obligation"),
    "a proof cut off": (shorten, "the proof does not end with the empty clause"),
    "a hint removed": (unhint, ".lrat: proof step"),
    "a proof that jumps": (claim_at_once, "proof step 9999999: the hints lead to no contradiction"),
    "no numbers": (change(f"{STEP}.lrat", " 0 ", " zero "), "not a list of numbers"),
    "no ASCII": (change(f"{STEP}.lrat", " 0 ", " \u00e4 "), "can't decode"),
}


@pytest.mark.parametrize("what", IN_THE_ARCHIVE)
def test_damage_in_the_archive(what: str, proofs: Proofs, capsys: pytest.CaptureFixture[str]) -> None:
    """Every sum in the index is corrected, so that only what the files say can tell."""
    damage, message = IN_THE_ARCHIVE[what]
    proofs.edit(damage)
    refused(proofs, capsys, message)


def refused(proofs: Proofs, capsys: pytest.CaptureFixture[str], message: str) -> None:
    """The check ends with 1 and one line."""
    code, said = run(proofs, capsys)
    assert code == ExitCode.WRONG
    assert message in said
    assert said.startswith("formal.check: ") and said.count("\n") == 1, said


def test_sums_of_the_files(proofs: Proofs, capsys: pytest.CaptureFixture[str]) -> None:
    sums = proofs.entry.files[STEP]
    proofs.entry = replace(proofs.entry, files={**proofs.entry.files, STEP: (sums[1], sums[0])})
    refused(proofs, capsys, f"{STEP}.smt2: its SHA-256 is not the one in the index")


def test_a_file_that_only_the_index_knows(proofs: Proofs, capsys: pytest.CaptureFixture[str]) -> None:
    proofs.edit(remove(STEP), sums=False)
    proofs.entry = replace(proofs.entry, files={**proofs.entry.files, STEP: ("", "")})
    refused(proofs, capsys, f"the archive lacks {STEP}.lrat")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-40] + b"0" + data[-39:], "its SHA-256 is not the one in the index"),
        (lambda data: data[: len(data) // 2], "its SHA-256 is not the one in the index"),
        (lambda data: b"", "its SHA-256 is not the one in the index"),
    ],
)
def test_a_damaged_archive(
    damage: Callable[[bytes], bytes], message: str, proofs: Proofs, capsys: pytest.CaptureFixture[str]
) -> None:
    data = damage(proofs.archive.read_bytes())
    proofs.archive.write_bytes(data)
    refused(proofs, capsys, message)
    proofs.entry = replace(proofs.entry, archive=sha256(data))
    refused(proofs, capsys, f"{NAME.replace('-', ' ')}: the archive is ")


def test_a_missing_archive(proofs: Proofs, capsys: pytest.CaptureFixture[str]) -> None:
    proofs.archive.unlink()
    refused(proofs, capsys, f"{NAME}.tar.xz: No such file or directory")


def with_plan(entry: Entry, **changes: object) -> Entry:
    """An entry whose plan is changed."""
    return replace(entry, plan=replace(entry.plan, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: Plan(p.lemmas[1:], p.claims), "not the text of this obligation"),
        (lambda p: Plan((), p.claims), "which is no obligation"),
        (lambda p: Plan((*p.lemmas, "no_such_lemma"), p.claims), "a lemma that does not exist for this kernel"),
        (lambda p: Plan(p.lemmas, dict(list(p.claims.items())[1:])), "but the index has no certificate for it"),
        (
            lambda p: Plan(p.lemmas, {**p.claims, "guest_bank_preserved": "lemmas"}),
            "which is not expected to be PROVED",
        ),
        (lambda p: Plan(p.lemmas, dict.fromkeys(p.claims, "magic")), "cannot be proved by 'magic'"),
        (lambda p: Plan(p.lemmas, {**p.claims, "setup_before_every_entry": "induction"}), "kept/"),
        (lambda p: Plan(p.lemmas, p.claims, ("no such",)), "the index names an operation that does not exist: no such"),
        (lambda p: Plan(p.lemmas, p.claims, ("the guest writes OSLAR_EL1",)), "the index lacks never/the-guest"),
    ],
)
def test_a_plan_that_does_not_fit(
    damage: Callable[[Plan], Plan], message: str, proofs: Proofs, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which lemmas are used is not trusted: with others, the obligations are others."""
    proofs.entry = replace(proofs.entry, plan=damage(proofs.entry.plan))
    refused(proofs, capsys, message)


def test_a_lemma_fewer_in_plan_and_names(proofs: Proofs, capsys: pytest.CaptureFixture[str]) -> None:
    """A lemma that is assumed and no longer kept would be noticed in every text."""
    plan = Plan(proofs.entry.plan.lemmas[:-1], proofs.entry.plan.claims)
    proofs.entry = replace(proofs.entry, plan=plan)
    code, said = run(proofs, capsys)
    assert code == ExitCode.WRONG and ("not the text of this obligation" in said or "no obligation" in said)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unreadable"),
        ("[]", "not of the expected form"),
        ('{"schema_version": 2}', "schema_version is not 1"),
        ('{"schema_version": 1, "configurations": {}}', "the index has no such configuration"),
        ('{"schema_version": 1, "configurations": {"E3a-vhe": {}}}', "not of the expected form"),
        (
            '{"schema_version": 1, "configurations": {"E3a-vhe": '
            '{"archive": "", "files": {}, "claims": {}, "lemmas": []}}}',
            "not of the expected form",
        ),
        ('{"schema_version": 1, "configurations": {"E3a-vhe": 7}}', "not of the expected form"),
    ],
)
def test_a_damaged_index(text: str, message: str, proofs: Proofs, capsys: pytest.CaptureFixture[str]) -> None:
    (proofs.folder / "index.json").write_text(text)
    refused(proofs, capsys, message)


def test_a_missing_index(proofs: Proofs, capsys: pytest.CaptureFixture[str]) -> None:
    (proofs.folder / "index.json").unlink()
    refused(proofs, capsys, "index.json: not found; `python -m formal.check --make` writes it")


def edit_manifest(proofs: Proofs, change_line: Callable[[str], str]) -> None:
    """Changes lines of the table of the configuration."""
    lines, inside = [], False
    for line in (proofs.root / "manifest.toml").read_text().splitlines():
        inside = line == "[E3a.vhe]" if line.startswith("[") else inside
        lines.append(change_line(line) if inside else line)
    (proofs.root / "manifest.toml").write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("VIOLATED", "PROVED", "is expected to be PROVED, but the index has no certificate for it"),
        ("PROVED", "VIOLATED", "the index has a certificate for"),
        ("n/a", "PROVED", "is expected to be PROVED, but does not apply"),
        ("[E3a.vhe]", "[E99.vhe]", "nothing is expected of E3a vhe"),
    ],
)
def test_verdicts_without_certificates(
    old: str, new: str, message: str, proofs: Proofs, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[str] = []

    def once(line: str) -> str:
        if (f'"{old}"' in line or line == old) and " without " not in line and "not " not in line and not done:
            done.append(line)
            return line.replace(old, new)
        return line

    edit_manifest(proofs, once)
    if not done:
        pytest.skip(f"nothing is {old}")
    refused(proofs, capsys, message)


def test_a_claim_that_nothing_is_expected_of(proofs: Proofs, capsys: pytest.CaptureFixture[str]) -> None:
    lost = next(iter(proofs.entry.plan.claims))
    edit_manifest(proofs, lambda line: "" if line.startswith(f'"{lost}"') else line)
    refused(proofs, capsys, f"E3a vhe: no verdict is expected of {lost}")


# ---- traces


def edit_traces(proofs: Proofs, change_book: Callable[[dict[str, Any]], None]) -> None:
    """Changes the stored traces of the configuration."""
    path = proofs.root / "traces" / f"{NAME}.json"
    book = json.loads(path.read_text())
    change_book(book)
    path.write_text(json.dumps(book))


BROKEN = "guest_cannot_interfere"


def of_a_claim(book: dict[str, Any]) -> dict[str, Any]:
    """The trace that breaks a claim."""
    return book["traces"][book["counterexamples"][BROKEN]]  # type: ignore[no-any-return]


def cut(book: dict[str, Any]) -> None:
    """A trace that ends before it breaks the claim; others stay."""
    short = copy.deepcopy(of_a_claim(book))
    del short["steps"][-1]
    book["traces"].append(short)
    book["counterexamples"][BROKEN] = len(book["traces"]) - 1


def untaken(book: dict[str, Any]) -> None:
    """Nobody takes an operation any more."""
    for trace in book["traces"]:
        names = [step["operation"] for step in trace["steps"]]
        if "KVM_SET_MP_STATE" in names:
            trace["steps"] = trace["steps"][: names.index("KVM_SET_MP_STATE")]


IN_THE_TRACES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a counterexample removed": (lambda b: b["counterexamples"].pop(BROKEN), "but no trace is stored for it"),
    "a counterexample cut off": (cut, f"{BROKEN} is expected to be VIOLATED, but trace "),
    "a step removed": (lambda b: of_a_claim(b)["steps"].pop(0), "is no run: step "),
    "an unknown operation": (lambda b: of_a_claim(b)["steps"][0].update(operation="x"), "the system has no operation"),
    "another initial state": (
        lambda b: of_a_claim(b)["initial"].update({"v0.mdcr_el2": "0x1"}),
        "is no run: vCPU 0 and CPU 0 do not start in an initial state",
    ),
    "all but one trace removed": (
        lambda b: b.update(traces=b["traces"][:1], counterexamples={}),
        "no stored run takes",
    ),
    "all traces removed": (lambda b: b.update(traces=[], counterexamples={}), "holds no trace, or does not exist"),
    "nobody takes an operation": (
        untaken,
        "no stored run takes 'KVM_SET_MP_STATE', and the index has no certificate that none can",
    ),
    "a claim that is not VIOLATED": (
        lambda b: b["counterexamples"].update({"setup_before_every_entry": 0}),
        "is said to break setup_before_every_entry, which is expected to be PROVED",
    ),
    "another schema": (lambda b: b.update(schema_version=7), "schema_version is not 1"),
}


@pytest.mark.parametrize("what", IN_THE_TRACES)
def test_damage_in_the_traces(what: str, proofs: Proofs, capsys: pytest.CaptureFixture[str]) -> None:
    damage, message = IN_THE_TRACES[what]
    edit_traces(proofs, damage)
    code, said = run(proofs, capsys)
    assert code == ExitCode.WRONG
    assert message in said
    assert all(line.startswith("formal.check: E3a vhe: ") for line in said.splitlines())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (f'"{BROKEN}" = "VIOLATED"', f'"{BROKEN}" = "n/a"', f"{BROKEN} is expected to be n/a, but applies"),
        (f'"{BROKEN}" = "VIOLATED"', f'"{BROKEN}" = "UNKNOWN"', "nothing shows whether it holds"),
        ('"trace" = "n/a"', '"trace" = "VIOLATED"', "trace is expected to be VIOLATED, but does not apply: "),
        (f'"{BROKEN}" = "VIOLATED"', "", f"no verdict is expected of {BROKEN}"),
        ('"trace" = "n/a"', '"trace" = "n/a"\n"x" = "VIOLATED"', "x is expected to be VIOLATED, but there is no such"),
    ],
)
def test_verdicts_that_no_trace_shows(
    old: str, new: str, message: str, proofs: Proofs, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_manifest(proofs, lambda line: line.replace(old, new) if line == old else line)
    code, said = run(proofs, capsys)
    assert code == ExitCode.WRONG and message in said


@pytest.mark.parametrize("name", ["certificates/B5-vhe.tar.xz", "certificates/README", "traces/E99-vhe.json"])
def test_files_that_belong_to_nothing(name: str, proofs: Proofs, capsys: pytest.CaptureFixture[str]) -> None:
    (proofs.root / name).write_text("")
    assert check.main([str(proofs.root), "--jobs", "1"]) == ExitCode.WRONG
    assert name.partition("/")[2] in capsys.readouterr().err


def test_a_bug_has_no_certificates_but_traces(proofs: Proofs, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(proofs.root), "--only", "B5-vhe", "--jobs", "1"]
    assert check.main(command) == ExitCode.OK
    assert "B5 vhe     3 VIOLATED; runs replayed: 1\n" in capsys.readouterr().out
    (proofs.root / "traces" / "B5-vhe.json").unlink()
    assert check.main(command) == ExitCode.WRONG
    assert "B5 vhe: B5-vhe.json: holds no trace, or does not exist" in capsys.readouterr().err


def test_totality_is_not_trivial() -> None:
    """It fails where a vCPU does get stuck, and so does the impossibility of what is possible."""
    system = System(Configuration("E8", "vhe").kernel())
    assert not satisfiable(total(Induction(system, LEMMAS)).formulas())
    for name in ("kvm_arm_clear_debug", "handle_exit repairs", "kvm_arch_vcpu_load"):
        operations = tuple(op for op in system.operations if op.name != name)
        assert len(operations) == len(system.operations) - 1
        assert satisfiable(total(Induction(System(system.kernel, operations), LEMMAS)).formulas()), name
    (possible,) = never(Induction(system, LEMMAS), ["kvm_arm_setup_debug"])
    assert satisfiable(possible.formulas())


def test_a_missing_manifest(proofs: Proofs, capsys: pytest.CaptureFixture[str]) -> None:
    (proofs.root / "manifest.toml").unlink()
    refused(proofs, capsys, "manifest.toml: not found")


def test_a_configuration_that_nothing_is_expected_of(proofs: Proofs, capsys: pytest.CaptureFixture[str]) -> None:
    write_index(proofs.folder, {NAME: proofs.entry, "E99-vhe": proofs.entry})
    assert check.main([str(proofs.root), "--jobs", "1"]) == ExitCode.WRONG
    assert "E99-vhe is in the index, but nothing is expected" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is no directory"),
        (["--only", "E3a-vh"], "did you mean E3a-vhe?"),
        (["--jobs", "0"], "0 is no number from 1 up"),
        (["--cross", "--make"], "does not go with it"),
        (["--what"], "unrecognized arguments"),
    ],
)
def test_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main(arguments) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_a_mistake_of_ours_is_no_wrong_certificate(
    proofs: Proofs, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("formal.evidence.check.recheck", lambda work: 1 / 0)
    code, said = run(proofs, capsys)
    assert code == ExitCode.INTERNAL
    assert said.endswith("\nformal.check: internal error: ZeroDivisionError: division by zero\n")


def test_everything_is_certified_and_needs_no_solver() -> None:
    """The whole of proofs/, where Z3, python-sat and all others cannot be imported."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_SOLVERS], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "each checked" in done.stdout


def test_making_gives_the_same_bytes(proofs: Proofs, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pysat")
    before = json.loads((proofs.folder / "index.json").read_text())
    assert check.main([str(proofs.root), "--only", NAME, "--jobs", "1", "--make"]) == ExitCode.OK
    capsys.readouterr()
    after = json.loads((proofs.folder / "index.json").read_text())
    assert after["configurations"][NAME]["files"] == before["configurations"][NAME]["files"]


def test_a_second_opinion_other_solvers_and_export(
    proofs: Proofs, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for module in ("drup", "z3"):
        pytest.importorskip(module)
    common = [str(proofs.root), "--only", NAME, "--jobs", "1"]
    assert check.main([*common, "--cross", "--drup"]) == ExitCode.OK
    said = capsys.readouterr().out
    assert "no disagreement" in said and "PyPI's drup accepts" in said
    assert check.main([*common, "--export", str(tmp_path / "out")]) == ExitCode.OK
    written = {p.suffix for p in (tmp_path / "out" / NAME / "step").iterdir()}
    assert written == {".smt2", ".cnf", ".lrat", ".drup"}


def test_a_solver_that_disagrees_or_gives_up(
    proofs: Proofs, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("z3")
    monkeypatch.setattr(cross, "installed", lambda: ("z3",))
    command = [str(proofs.root), "--only", NAME, "--jobs", "1", "--cross"]
    monkeypatch.setitem(cross.SOLVERS, "z3", lambda text, seconds: "sat")
    assert check.main(command) == ExitCode.WRONG
    assert "without arrays: the certificate says unsat, z3 says sat\n" in capsys.readouterr().err
    monkeypatch.setitem(cross.SOLVERS, "z3", lambda text, seconds: "unknown")
    assert check.main(command) == ExitCode.UNKNOWN
    assert "with arrays: z3 gave up\n" in capsys.readouterr().err
