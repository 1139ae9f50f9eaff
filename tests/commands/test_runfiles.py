"""``--explain`` with ``--vcd`` and ``--pytest``: read back, run, and refused where there is not exactly one run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from formal.commands import arguments as arguments_of_prove
from formal.commands import prove
from formal.common.exit_codes import ExitCode
from formal.evidence.runs.replay import Replay
from formal.evidence.runs.traces import TraceBook
from formal.explain.testfile import test_file as file_text
from formal.explain.vcd import vcd
from formal.logic.terms import ArrayValue
from formal.scope.configuration import Configuration
from formal.state import REGISTER_OF_BANK, VARIABLES
from formal.system import System
from tests.conftest import PROOFS, ROOT

reader = pytest.importorskip("vcd.reader", reason="pyvcd writes VCD")
E8 = Configuration("E8", "vhe")
ONE = ("--epoch", "E8", "--mode", "vhe", "--explain", "hpmn_preserved_always")


# ---- VCD


def read_back(text: str) -> list[dict[str, Any]]:
    """The values of all signals at each time, by a reader that is not ours."""
    names: dict[str, list[str]] = {}
    scopes: list[str] = []
    values: dict[str, Any] = {}
    found: list[dict[str, Any]] = []
    kinds = reader.TokenKind
    for token in reader.tokenize(BytesIO(text.encode())):
        if token.kind is kinds.SCOPE:
            scopes.append(token.scope.ident)
        elif token.kind is kinds.UPSCOPE:
            scopes.pop()
        elif token.kind is kinds.VAR:
            names.setdefault(token.var.id_code, []).append(".".join([*scopes, token.var.reference]))
        elif token.kind is kinds.CHANGE_TIME:
            if token.time_change:
                found.append(dict(values))
        elif token.kind in (kinds.CHANGE_SCALAR, kinds.CHANGE_VECTOR, kinds.CHANGE_STRING):
            change = token.data
            for name in names[change.id_code]:
                values[name] = change.value
    return found


def text_of(value: Any) -> str:
    """A string value without its escapes."""
    return re.sub(r"\\x([0-9a-f]{2})", lambda m: chr(int(m.group(1), 16)), value)


@pytest.mark.parametrize("stem", ["E8-vhe", "E3a-nvhe", "B5-vhe"])
def test_vcd_says_what_the_replay_says(stem: str) -> None:
    replay = Replay(System(Configuration(*stem.split("-")).kernel()))
    several = 0
    for trace in TraceBook.read(PROOFS / "traces" / f"{stem}.json").traces:
        states = list(replay.run(trace))
        found = read_back(vcd(replay, trace))
        assert len(found) == len(states)
        several += len(replay.pairs(trace)) > 1
        for seen, values in zip(states, found, strict=True):
            assert values["step.number"] == seen.number
            assert text_of(values["step.operation"]) == (seen.step.operation if seen.step else "Init")
            if seen.step:
                assert (values["step.vcpu"], values["step.cpu"]) == (seen.step.vcpu, seen.step.cpu)
            compare(seen.after, values)
    assert several or stem != "E8-vhe"


def compare(state: Any, values: dict[str, Any]) -> None:
    """Every variable of a state, against the signals."""
    for full, value in state.items():
        kind = VARIABLES[full.partition(".")[2]].kind
        if isinstance(value, ArrayValue):
            for i in range(64):
                assert values.get(f"{full}.{REGISTER_OF_BANK[i >> 4]}{i & 15}", 0) == value[i], (full, i)
        elif isinstance(values[full], str) and hasattr(kind, "__members__"):
            assert text_of(values[full]) == kind(value).name  # type: ignore[misc]
        else:
            assert int(values[full]) == int(value), full
            for name, f in getattr(kind, "fields", {}).items():
                if f"{full}_fields.{name}" in values:
                    assert int(values[f"{full}_fields.{name}"]) == (int(value) & f.mask) >> f.lo


def test_vcd_is_the_same_every_time() -> None:
    replay = Replay(System(E8.kernel()))
    trace = TraceBook.read(PROOFS / "traces" / "E8-vhe.json").traces[0]
    assert vcd(replay, trace) == vcd(replay, trace)
    assert "$date" not in vcd(replay, trace)
    assert len(read_back(vcd(replay, trace, until=2))) == 3


# ---- pytest


def run_pytest(file: Path) -> str:
    """The last line that pytest says about a file, run on its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(file.parent), str(file)],
        cwd=file.parent, capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    return done.stdout.splitlines()[-1]


def test_the_files_of_a_claim(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test, wave = tmp_path / "test_run.py", tmp_path / "run.vcd"
    assert prove.main([*ONE, "--pytest", str(test), "--vcd", str(wave)]) == ExitCode.OK
    assert capsys.readouterr().out.splitlines()[-2:] == [f"written: {wave}", f"written: {test}"]
    assert "$comment hpmn_preserved_always (E8 vhe), false after step " in wave.read_text()
    assert run_pytest(test).startswith("2 passed")
    text = test.read_text()
    for old, new, failed in (
        (r'"operation": "kvm_arm_init_debug"', '"operation": "cpu_boot"', "2 failed"),
        (r"BROKEN_AT = (\d+)", "BROKEN_AT = 1", "1 failed, 1 passed"),
        (r'"p0.kvm_ready": true', '"p0.kvm_ready": false', "1 failed, 1 passed"),
        (r"CHECK = '[a-z_]+'", 'CHECK = "setup_before_every_entry"', "1 failed, 1 passed"),
        (r'"p0.event_counters": "0x[0-9a-f]+"', '"p0.event_counters": "0x0"', "2 failed"),
    ):
        changed = re.sub(old, new, text, count=1)
        assert changed != text, old
        test.write_text(changed)
        assert run_pytest(test).startswith(failed), old


@pytest.mark.parametrize("stem", ["E3a-vhe", "B12-nvhe"])
def test_every_counterexample_as_a_test_file(stem: str) -> None:
    """The text of each is a program, and its tests pass, in this process."""
    c = Configuration(*stem.split("-"))
    replay, book = Replay(System(c.kernel())), TraceBook.read(PROOFS / "traces" / f"{stem}.json")
    from formal.evidence.runs.witnesses import known_checks

    for name, number in list(book.counterexamples.items())[::7] or list(book.counterexamples.items()):
        claim = known_checks(c)[name]
        broken_at = replay.violates(book.traces[number], claim)
        assert broken_at is not None
        space: dict[str, Any] = {}
        exec(file_text(c, name, claim.says, replay, book.traces[number], broken_at), space)
        space["test_the_run_breaks_the_claim"]()
        space["test_every_step_does_what_is_written_down"]()


# ---- misuse


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--vcd", "x"), "--vcd writes the run that breaks a claim: it goes with --explain"),
        (("--pytest", "x"), "--pytest replays a run of a modelled kernel: it goes with --explain"),
        (
            ("--explain", "trace", "--kernel", "x", "--pytest", "x"),
            "--pytest replays a run of a modelled kernel: --kernel does not go with it",
        ),
        ((*ONE, "--harness", "x"), "--harness runs the C of a tree: it goes with --kernel"),
        (
            ("--epoch", "E8", "--explain", "trace", "--vcd", "x"),
            "no run breaks trace: PROVED (E8 vhe), PROVED (E8 nvhe)",
        ),
        (
            ("--epoch", "E8", "--explain", "saved_before_modified", "--vcd", "x"),
            "one run is written, and saved_before_modified is broken in 2 configurations: add --epoch and --mode",
        ),
        ((*ONE, "--vcd", f"{PROOFS}/manifest.toml/x"), f"{PROOFS}/manifest.toml/x: "),
    ],
)
def test_misuse(
    arguments: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert prove.main(arguments) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert said.startswith(f"formal.prove: {message}") and said.count("\n") == 1, said
    assert not list(tmp_path.iterdir())


def test_without_pyvcd(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments_of_prove, "find_spec", lambda name: None)
    assert prove.main([*ONE, "--vcd", "x"]) == ExitCode.USAGE
    assert capsys.readouterr().err == "formal.prove: --vcd needs pyvcd: pip install pyvcd\n"
