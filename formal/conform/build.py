"""The probe built from its source, with whatever cross compiler is there."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).parent / "probe"
_FLAGS = (
    "-O2 -Wall -Wextra -ffreestanding -nostdlib -mgeneral-regs-only -mstrict-align -fno-pic -no-pie "
    "-fno-stack-protector -static -Wl,--build-id=none"
).split()


class MissingToolError(Exception):
    """A tool that is not installed; the message is one line that says which, and how to get it."""


class BuildError(Exception):
    """The compiler refused the probe; the message is what it said."""


def compiler() -> list[str]:
    """The command of a compiler for bare-metal AArch64: Debian's cross gcc, PyPI's ziglang, or clang with lld.

    Raises:
        MissingToolError: if there is none.
    """
    for name in ("aarch64-linux-gnu-gcc", "aarch64-none-elf-gcc"):
        if found := shutil.which(name):
            return [found, "-march=armv8-a"]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-freestanding-none", "-mcpu=generic"]
    if (clang := shutil.which("clang")) and shutil.which("ld.lld"):
        return [clang, "--target=aarch64-none-elf", "-fuse-ld=lld", "-march=armv8-a"]
    raise MissingToolError("no compiler for AArch64; install gcc-aarch64-linux-gnu (Debian) or ziglang (PyPI)")


def build(directory: Path) -> Path:
    """Compiles the probe into a directory; the executable.

    Raises:
        MissingToolError: if no compiler is installed.
        BuildError: if it does not compile.
    """
    probe = directory / "probe.elf"
    command = [*compiler(), *_FLAGS, f"-Wl,-T,{SOURCES / 'probe.ld'}", "-o", str(probe)]
    command += [str(SOURCES / "start.S"), str(SOURCES / "probe.c")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{command[0]} cannot build the probe:\n{done.stderr.strip()}")
    return probe
