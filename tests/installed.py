"""The package as a user installs it: a wheel in a fresh environment, where nothing can be written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

NEEDED = ("formal", "proofs", "pyproject.toml", "setup.py", "README.md")  # what a wheel is built from
READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
Done = subprocess.CompletedProcess[str]


def run(*command: str | Path, **more: object) -> Done:
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=600, **more)  # type: ignore[call-overload, no-any-return]


@dataclass(frozen=True)
class Installed:
    """A fresh virtual environment with the wheel, and a directory to run its commands in."""

    environment: Path
    elsewhere: Path

    def __call__(self, *words: str | Path, program: str = "formal") -> Done:
        """Runs a program of the environment where it cannot be written, without a home."""
        env = {"PATH": f"{self.environment / 'bin'}:{os.defpath}", "PYTHONDONTWRITEBYTECODE": "1"}
        command = [self.environment / "bin" / program, *words]
        if os.getuid() == 0 and run("unshare", "-m", "true").returncode == 0:  # root may write where it is forbidden
            command = ["unshare", "-m", "sh", "-c", READ_ONLY, "sh", self.environment, *command]
        return run(*command, cwd=self.elsewhere, env=env)

    @property
    def package(self) -> Path:
        """Where the package is."""
        (found,) = self.environment.glob("lib/python*/site-packages/formal")
        return found


def copied_source(folder: Path, parts: tuple[str, ...] = NEEDED) -> Path:
    """Copies what a wheel is built from into a new folder; building writes into it."""
    folder.mkdir(parents=True)
    for part in parts:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, folder / part)
    return folder


@pytest.fixture(scope="session")
def installed() -> Iterator[Installed]:
    """The wheel, installed for the tests of this process."""
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        source, wheels = copied_source(top / "source"), top / "wheels"
        pip = (sys.executable, "-m", "pip", "-q")
        built = run(*pip, "wheel", "--no-deps", "-w", wheels, source)
        assert built.returncode == 0, built.stderr
        assert run(sys.executable, "-m", "venv", "--without-pip", top / "venv").returncode == 0
        (wheel,) = wheels.iterdir()
        python = top / "venv" / "bin" / "python"
        done = run(*pip, "--python", python, "install", "--no-deps", wheel)
        assert done.returncode == 0, done.stderr
        found = Installed(top / "venv", top / "elsewhere")
        found.package.with_name("dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        shutil.rmtree(source)
        found.elsewhere.mkdir()
        for folder in (top, found.elsewhere):
            folder.chmod(0o755)
        for path in found.environment.rglob("*"):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode & ~0o222)
        yield found
        for path in found.environment.rglob("*"):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)
