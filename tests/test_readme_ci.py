"""The workflow and the hook of the README: valid for those who run them, with commands and options that exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from formal.commands.arguments import arguments
from formal.kernel.source.git import is_read
from tests.test_readme import README

FENCED = re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", README)
TEXTS = [text for kind, text in FENCED if kind == "yaml"]
BLOCKS = [yaml.safe_load(text) for text in TEXTS]
SHOWN = [line for kind, text in FENCED if not kind for line in text.splitlines()]
COMMAND = ["python", "-m", "formal.prove"]


def workflow() -> tuple[str, Any]:
    return next((text, data) for text, data in zip(TEXTS, BLOCKS, strict=True) if "jobs" in data)


def hooks() -> tuple[str, Any]:
    return next((text, data) for text, data in zip(TEXTS, BLOCKS, strict=True) if "repos" in data)


def commands() -> Iterator[list[str]]:
    """Every command line of ours that the workflow, the hook and the examples name."""
    for step in workflow()[1]["jobs"]["prove"]["steps"]:
        if "run" in step:
            yield shlex.split(step["run"])
    yield shlex.split(hooks()[1]["repos"][0]["hooks"][0]["entry"])
    yield from (shlex.split(line) for line in SHOWN if "formal.prove" in line)


def test_the_workflow_is_one_for_github(tmp_path: Path) -> None:
    path = tmp_path / "workflow.yml"
    path.write_text(workflow()[0])
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(path)]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    path.write_text(workflow()[0].replace("runs-on", "runs-at"))
    assert subprocess.run(check, capture_output=True, check=False).returncode == 1


def test_the_hook_has_what_pre_commit_asks_for() -> None:
    (repo,) = hooks()[1]["repos"]
    assert repo["repo"] == "local"
    (hook,) = repo["hooks"]
    assert {"id", "name", "language", "entry"} <= hook.keys()
    assert hook["language"] == "system" and hook["pass_filenames"] is False
    for name in ("arch/arm64/kvm/debug.c", "arch/arm64/include/asm/kvm_host.h", "include/linux/kvm_host.h"):
        assert is_read(name) and re.search(hook["files"], name)
    assert not re.search(hook["files"], "drivers/gpu/drm/drm.c")


def test_every_command_exists() -> None:
    ours = [words[words.index("formal.prove") + 1 :] for words in commands() if "formal.prove" in words]
    assert len(ours) >= 6
    for options in ours:
        args = arguments(options)
        assert args.kernel is not None
    others = {words[0] for words in commands() if "formal.prove" not in words}
    assert others == {"git", "python"}


@pytest.mark.parametrize("name", ["--junit", "--sarif", "--base"])
def test_the_workflow_uses_what_it_is_there_for(name: str) -> None:
    assert any(name in words for words in commands())


def test_what_the_workflow_uploads_is_what_it_writes() -> None:
    steps = workflow()[1]["jobs"]["prove"]["steps"]
    written = next(
        arguments(w[3:]).sarif for w in map(shlex.split, (s.get("run", "") for s in steps)) if w[:3] == COMMAND
    )
    (upload,) = [s for s in steps if "upload-sarif" in s.get("uses", "")]
    assert upload["with"]["sarif_file"] == str(written)
    assert upload["if"] == "always()", "a red run is what must be uploaded"
