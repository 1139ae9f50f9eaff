"""What CI servers read: valid for them, and each command in them does what it is there for."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import yaml

from formal.common.options import UsageError
from tests.conftest import ROOT
from tests.installed import copied_source
from tests.kernel.conftest import tree_path
from tests.kernel.git_tree import repository_of
from tests.kernel.source.test_git import commit, git

ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
GITLAB = yaml.safe_load((ROOT / "ci/gitlab-ci.yml").read_text(encoding="utf-8"))["debug traps"]
HOOKS = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
LESS = ("MDCR_EL2_TDRA |\n\t\t\t\tMDCR_EL2_TDOSA);", "MDCR_EL2_TDRA);")


def run(*words: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
    command = [str(word) for word in words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=900, **more)


@pytest.mark.parametrize(("schema", "file"), [("github-actions", "action.yml"), ("gitlab-ci", "ci/gitlab-ci.yml")])
def test_the_schema_of_the_server(schema: str, file: str, tmp_path: Path) -> None:
    check = (sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}")
    done = run(*check, ROOT / file)
    assert done.returncode == 0, done.stdout + done.stderr
    bad = tmp_path / "bad.yml"
    bad.write_text((ROOT / file).read_text().replace("composite", "composit").replace("stage: test", "stage: {}"))
    assert run(*check, bad).returncode == 1


def test_the_hook_is_valid_and_runs_on_what_is_read() -> None:
    (hook,) = HOOKS
    assert {"id", "name", "language", "entry"} <= hook.keys()
    assert hook["language"] == "python" and hook["pass_filenames"] is False
    assert re.search(hook["files"], "arch/arm64/kvm/debug.c") and not re.search(hook["files"], "drivers/gpu/drm.c")
    clientlib = pytest.importorskip("pre_commit.clientlib", reason="pre-commit is not installed")
    clientlib.load_manifest(str(ROOT / ".pre-commit-hooks.yaml"))


class Machine:
    """A machine of a CI server: a Python with pip, whose packages are found without a network but for ours."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        assert run(sys.executable, "-m", "venv", folder / "venv").returncode == 0
        (packages,) = folder.glob("venv/lib/python*/site-packages")
        (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        self.source = copied_source(folder / "source")
        self.path = f"{folder / 'venv' / 'bin'}:{os.environ['PATH']}"

    def run(self, script: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs a step as a server does."""
        env = {**os.environ, "PATH": self.path, "PIP_NO_DEPS": "1", **variables}
        env.pop("PYTHONPATH", None)  # what was installed is what is run
        return run("bash", "-e", "-o", "pipefail", "-c", script, cwd=cwd, env=env)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine(tmp_path_factory.mktemp("machine"))


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kernel's repository whose last commit loses a trap."""
    folder = repository_of(tree_path("6.1"), tmp_path_factory.mktemp("kernel") / "linux")
    debug_c = folder / "arch/arm64/kvm/debug.c"
    text = debug_c.read_text(encoding="utf-8")
    assert LESS[0] in text
    debug_c.write_text(text.replace(*LESS, 1), encoding="utf-8")
    commit(folder, "the bug")
    return folder


def test_the_action(machine: Machine, kernel: Path) -> None:
    install, prove = [s for s in ACTION["runs"]["steps"] if "run" in s]
    done = machine.run(install["run"], kernel, GITHUB_ACTION_PATH=str(machine.source))
    assert done.returncode == 0, done.stderr
    given = {"kernel": ".", "base": "HEAD~1", "mode": "nvhe", "sarif": "out.sarif"}
    values = {name: given.get(name, one["default"]) for name, one in ACTION["inputs"].items()}
    env = {k: re.sub(r"\$\{\{ inputs\.(\w+) \}\}", lambda m: values[m[1]], v) for k, v in prove["env"].items()}
    assert not any("$" in value for value in env.values())
    done = machine.run(prove["run"], kernel, **env)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "os_registers (nvhe): PROVED -> VIOLATED: WORSE" in done.stdout
    assert (kernel / "out.sarif").is_file()
    (kernel / "out.sarif").unlink()


def test_the_job_of_gitlab(machine: Machine, kernel: Path, tmp_path: Path) -> None:
    server = tmp_path / "server"
    shutil.copytree(machine.source, server / "group" / "proofs")
    git(server / "group" / "proofs", "init", "-q")
    commit(server / "group" / "proofs", "all")
    builds = tmp_path / "builds"
    builds.mkdir()
    variables = {
        **GITLAB["variables"],
        "PROOFS": "group/proofs",
        "CI_SERVER_URL": f"file://{server}",
        "CI_BUILDS_DIR": str(builds),
        "CI_MERGE_REQUEST_DIFF_BASE_SHA": git(kernel, "rev-parse", "HEAD~1").strip(),
    }
    done = machine.run("\n".join(GITLAB["before_script"] + GITLAB["script"]), kernel, **variables)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "WORSE" in done.stdout
    ET.parse(kernel / GITLAB["artifacts"]["reports"]["junit"])
    for name in GITLAB["artifacts"]["paths"]:
        (kernel / name).unlink()


def test_the_hook(machine: Machine, kernel: Path) -> None:
    """With what is changed and not committed; the hook's language has pip install this repository."""
    assert machine.run(f"python -m pip install -q {machine.source}", kernel).returncode == 0
    debug_c = kernel / "arch/arm64/kvm/debug.c"
    text = debug_c.read_text(encoding="utf-8")
    debug_c.write_text(text.replace("MDCR_EL2_TPMS |", "", 1), encoding="utf-8")
    try:
        done = machine.run(HOOKS[0]["entry"], kernel)
    finally:
        debug_c.write_text(text, encoding="utf-8")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "profiling (vhe, nvhe): PROVED -> VIOLATED: WORSE" in done.stdout


# ---- the Dockerfile


def instructions() -> list[tuple[str, str]]:
    """Its instructions, joined where a line goes on."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in lines]


def test_the_dockerfile_copies_what_is_needed() -> None:
    known = {"FROM", "RUN", "COPY", "ENV", "WORKDIR", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in instructions()} == known
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert kept == set(copied_source.__defaults__[0])  # type: ignore[index]


def test_the_dockerfile_in_a_fresh_root(tmp_path: Path) -> None:
    """Its steps, in a root made of Debian's packages; needs root and mmdebstrap, and takes minutes."""
    if not os.environ.get("FRESH_ROOT") or os.getuid() or not shutil.which("mmdebstrap"):
        pytest.skip("FRESH_ROOT is not set, or this is not root with mmdebstrap")
    root = tmp_path / "root"
    release = re.fullmatch(r"debian:(\w+)-slim", dict(instructions())["FROM"])
    assert release
    done = run("mmdebstrap", "--variant=minbase", release[1], root)
    assert done.returncode == 0, done.stderr
    for name in ("/etc/resolv.conf", "/etc/pip.conf"):
        if Path(name).exists():
            shutil.copy(name, root / name[1:])
    env = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name.endswith("_proxy")}
    if trusted := os.environ.get("PIP_CERT"):  # where the packages of the root do not write another
        shutil.copy(trusted, root / "etc" / "trusted.crt")
        env["PIP_CERT"] = "/etc/trusted.crt"
    env["PATH"] = "/usr/bin:/usr/sbin:/bin:/sbin"
    for name, what in instructions():
        if name == "RUN":
            done = run("chroot", root, "sh", "-c", what, env=env)
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr
        elif name == "COPY":
            assert what.split()[0] == "."
            copied_source(root / what.split()[1].lstrip("/"))
        elif name == "ENV":
            variable, _, value = what.partition("=")
            env[variable] = value.replace(f"${variable}", env.get(variable, ""))
    (entry,) = yaml.safe_load(dict(instructions())["ENTRYPOINT"])
    for words, says in ((["--version"], "0."), (["prove", "--epoch", "E8"], " 0 not as expected")):
        done = run("chroot", root, entry, *words, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        assert says in done.stdout


def test_every_command_is_one() -> None:
    """Options that do not exist would fail on the server only."""
    from formal.commands.prove import arguments

    words = shlex.split(HOOKS[0]["entry"])
    assert words[:2] == ["formal", "prove"] and arguments(words[2:]).base == "HEAD"
    with pytest.raises(UsageError):
        arguments([*words[2:], "--bases", "HEAD"])
