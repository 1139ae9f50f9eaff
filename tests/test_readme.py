"""Every command, table and sample output of the README is what the tool does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from formal.kernel.compare.behaviours import DEBUG_C
from formal.properties import CLAIMS
from formal.report import notes
from formal.scope.configuration import EPOCH_CONFIGURATIONS
from formal.scope.manifest import Manifest
from tests.kernel.conftest import tree_path
from tests.kernel.mutants import linked_copy

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *(ROOT / "docs" / f"{n}.md" for n in ("kernel-trees", "claims", "reference", "running")))
README = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines()]


SHOWN = ("E4s", "E8s", "E13")  # what Debian's kernels and the newest release are


def claim_table() -> str:
    """The table between the markers, from the manifest: the claims that apply to what is shown."""
    manifest = Manifest.read(ROOT / "proofs/manifest.toml")
    shown = [c for c in EPOCH_CONFIGURATIONS if c.name in SHOWN]
    rows = [f"| claim | {' | '.join(map(str, shown))} |", "|" + "---|" * (1 + len(shown))]
    for claim in CLAIMS:
        cells = [manifest.expected(c).get(claim.name, "-") for c in shown]
        if set(cells) != {"n/a"}:
            rows.append(f"| `{claim.name}` | {' | '.join(cells)} |")
    return "\n".join(rows)


def epoch_list() -> str:
    """All presets, wrapped."""
    return "\n".join(textwrap.wrap(f"{notes.epochs()}.", 120))


PARTS = {"claims": claim_table, "epochs": epoch_list}


def _run(command: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable if w == ".venv/bin/python" else w for w in command.split()]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("name", PARTS)
def test_what_is_computed_is_shown(name: str) -> None:
    """The claim table is the manifest's, the list of epochs that of the presets."""
    shown = README.partition(f"<!-- {name} -->")[2].partition(f"<!-- /{name} -->")[0].strip()
    assert shown == PARTS[name](), "regenerate with: python -m tests.test_readme"


def test_the_commands_are_the_known_ones() -> None:
    assert len(COMMANDS) == 13, COMMANDS


@pytest.mark.parametrize("command", [c for c in COMMANDS if "--explain" in c or "formal.traps" in c])
def test_quick_commands_run(command: str) -> None:
    done = _run(command)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_first_command_proves_everything() -> None:
    assert COMMANDS[0].endswith(".venv/bin/python -m formal.prove")
    done = _run(f"{sys.executable} -m formal.prove")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert " 0 not as expected" in done.stdout


def test_the_kernel_command_and_its_last_line() -> None:
    trees = os.environ.get("KVM_TREES")
    if not trees or not Path(trees, "linux-source-6.1").is_dir():
        pytest.skip("KVM_TREES names no folder with linux-source-6.1 (tools/kernel-source fetches it)")
    done = _run(f"{sys.executable} -m formal.prove --kernel {trees}/linux-source-6.1")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert done.stdout.splitlines()[-1] in README


def test_the_line_of_the_broken_tree(tmp_path: Path) -> None:
    """What the README tells to break, and the line that it shows."""
    source = tree_path("6.1")
    debug_c = linked_copy(source, tmp_path / "new", DEBUG_C)
    text = debug_c.read_text()
    before, within, after = text.partition("static void kvm_arm_setup_mdcr_el2(")
    broken = re.sub(r" \|\s+MDCR_EL2_TDOSA", "", after, count=1)
    assert broken != after
    debug_c.write_text(before + within + broken)
    done = _run(f"{sys.executable} -m formal.prove --kernel {tmp_path}/new --claim os_registers --format gcc -j 1")
    assert done.returncode == 1, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.removeprefix(f"{tmp_path}/new/") in README.splitlines()


def test_the_book_command(tmp_path: Path) -> None:
    command = next(c for c in COMMANDS if "formal.book" in c)
    done = _run(command.replace("-o book", f"-o {tmp_path}/book"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "book/index.html").is_file() and (tmp_path / "book/book.json").is_file()


@pytest.mark.parametrize("option", ["--list", "--spec"])
def test_what_a_reviewer_asks_first(option: str) -> None:
    assert f"`python -m formal.prove {option}`" in README or f"`{option}`" in README
    done = _run(f"{sys.executable} -m formal.prove {option}")
    assert done.returncode == 0 and len(done.stdout.splitlines()) > 20


def test_the_trace_command_and_what_it_prints(tmp_path: Path) -> None:
    command = next(c for c in COMMANDS if "conform trace" in c)
    good, bad = re.findall(r"\n\n```\n(.*?\n)```\n", README.partition("## Traces of your")[2], re.S)[:2]
    done = _run(command)
    assert done.returncode == 0, done.stderr
    assert set(good.splitlines()) <= set(done.stdout.splitlines())
    path = command.split()[-1]
    text = (ROOT / path).read_text(encoding="utf-8").replace("MDCR_EL2: 0x84c66", "MDCR_EL2: 0x84866", 1)
    (tmp_path / "bad.txt").write_text(text, encoding="utf-8")
    done = _run(command.replace(path, str(tmp_path / "bad.txt")))
    assert done.returncode == 1
    assert bad in done.stdout


def test_the_monitor_command(tmp_path: Path) -> None:
    command = next(c for c in COMMANDS if "conform monitor" in c)
    done = _run(re.sub(r"debug\.(dot|bt)", rf"{tmp_path}/debug.\1", command))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "debug.dot").read_text().startswith("digraph state_automaton {")
    assert "tracepoint:kvm:kvm_entry" in (tmp_path / "debug.bt").read_text()


def test_options_and_exit_codes_are_all_documented() -> None:
    from formal.commands.arguments import arguments

    with pytest.raises(SystemExit):
        arguments(["--help"])
    helped = _run(f"{sys.executable} -m formal.prove --help").stdout
    for option in sorted(set(re.findall(r"--[a-z]+", helped)) - {"--help"}):
        assert option in README, f"{option} is not in the README"


if __name__ == "__main__":
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name, part in PARTS.items():
            start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
            if start in text:
                before, _, rest = text.partition(start)
                text = before + start + "\n" + part() + "\n" + end + rest.partition(end)[2]
        page.write_text(text, encoding="utf-8")
