"""Where nothing can be printed or kept: one line, an exit code of its own. And what would be ignored is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from formal.commands.arguments import RULES
from formal.common.exit_codes import ExitCode
from formal.common.options import Parser, Rule, UsageError
from tests.conftest import ROOT
from tests.kernel.conftest import tree_path

Done = subprocess.CompletedProcess[str]
COMMANDS = {  # each prints something quickly
    "prove": ("prove", "--epoch", "E8", "--mode", "nvhe", "--claim", "trace", "-j", "1"),
    "list": ("prove", "--list"),
    "check": ("check", "--only", "E0-nvhe", "-j", "1"),
    "traps": ("traps", "0x84e66"),
    "trace": ("conform", "trace", str(ROOT / "tests/conform/golden/6.1-vhe.txt")),
    "monitor": ("conform", "monitor"),
    "finding": ("conform", "finding", "--list"),
    "export": ("export", "{folder}", "--only", "E0-nvhe"),
    "help": ("prove", "--help"),
    "overview": ("--help",),
}


def name_of(command: str) -> str:
    """What a command's messages begin with."""
    first, *rest = COMMANDS[command]
    return f"formal.conform {rest[0]}" if first == "conform" else f"formal.{first}" if first != "--help" else "formal"


def shell(command: str, redirection: str, folder: Path, keep: tuple[int, ...] = ()) -> Done:
    """Runs a command with a redirection of the shell."""
    words = " ".join(word.format(folder=folder / "out") for word in COMMANDS[command])
    line = f"{sys.executable} -m formal {words} {redirection}"
    return subprocess.run(["bash", "-c", line], cwd=ROOT, pass_fds=keep, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("redirection", "why"),
    [
        (">/dev/full", "standard output: No space left on device"),
        (">&-", "the standard output is closed"),
        (">&{pipe}", "standard output: Broken pipe"),
    ],
)
def test_nothing_can_be_printed(command: str, redirection: str, why: str, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = shell(command, redirection.format(pipe=writer), tmp_path, keep=(writer,))
    finally:
        os.close(writer)
    assert done.stderr == f"{name_of(command)}: {why}\n"
    assert done.returncode == ExitCode.NOT_WRITTEN


@pytest.mark.parametrize("command", ["list", "traps"])
def test_no_standard_error_is_no_reason_to_fail(command: str, tmp_path: Path) -> None:
    done = shell(command, "2>&-", tmp_path)
    assert done.returncode == ExitCode.OK and done.stdout
    assert shell(command, "--nonsense 2>&-", tmp_path).returncode == ExitCode.USAGE


TREE = ("-m", "formal.prove", "--mode", "nvhe", "--claim", "trace", "--no-cache", "-j", "1", "--kernel")


@pytest.mark.parametrize("place", ["none", "file"])
def test_no_place_for_temporary_files(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    command = [sys.executable, *TREE, str(tree_path("6.1"))]
    env = {**os.environ, "TMPDIR": str(tmp_path / place)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.stderr.startswith("formal.prove: no temporary folder: ") and done.stderr.count("\n") == 1
    assert (done.returncode, done.stdout) == (ExitCode.NOT_WRITTEN, "")


FULL = 'mount -t tmpfs -o size=$1 none "$2" && shift && export TMPDIR="$1" && shift && exec "$@"'


@pytest.mark.parametrize("size", ["4k", "64k", "1m"])
def test_a_full_disk_for_temporary_files(size: str, tmp_path: Path) -> None:
    """In a mount namespace of its own: a file system that is full at different moments."""
    if os.getuid() or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    tree = tree_path("6.1")
    command = ["unshare", "-m", "sh", "-c", FULL, "sh", size, str(tmp_path), sys.executable, *TREE, str(tree)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.stderr.startswith("formal.prove: ") and done.stderr.count("\n") == 1, done.stderr
    assert str(tmp_path) in done.stderr and "No space left on device" in done.stderr
    assert (done.returncode, done.stdout) == (ExitCode.NOT_WRITTEN, "")


# ---- options that would be ignored


def parsed(*argv: str, rules: tuple[Rule, ...] = RULES) -> object:
    p = Parser("prove", "", {}, rules)
    for rule in rules:
        for option in {rule.option, rule.needs, *rule.without, *(rule.only or ())} - {""}:
            if option not in p._option_string_actions:
                p.add_argument(option, default="x")
    return p.parse(argv)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.option)
def test_every_rule_refuses(rule: Rule) -> None:
    """By itself: with what it excludes, without what it needs, whatever the order and however it is spelled."""
    alone = [rule.option, "1"]
    needed = [rule.needs, "1"] if rule.needs else []
    assert parsed(*alone, *needed, rules=(rule,))
    if rule.needs:
        with pytest.raises(UsageError, match=f"^{rule.option} .*: it goes with {rule.needs}$"):
            parsed(*alone, rules=(rule,))
    for other in rule.without:
        for words in ([*alone, *needed, other, "2"], [f"{other}=2", *needed, *alone]):
            with pytest.raises(UsageError, match=f"^{rule.option} .*: {other} does not go with it$"):
                parsed(*words, rules=(rule,))


def test_what_is_given_is_told_from_defaults() -> None:
    """An option with its default's value is given, too."""
    rule = Rule("--list", "lists", only=())
    p = Parser("prove", "", {}, (rule,))
    p.add_argument("--list", action="store_true")
    p.add_argument("--timeout", type=float, default=60.0)
    p.add_argument("-j", "--jobs", type=int, default=2)
    assert p.parse(["--list"]).timeout == 60.0
    for words in (["--list", "--timeout", "60"], ["-j2", "--list"], ["--list", "--tim", "60"]):
        with pytest.raises(UsageError, match="does not go with it"):
            p.parse(words)
    assert p.parse(["-j3"]).jobs == 3
