"""What runs under QEMU, built from its source with whatever cross compiler is there: the probe, the first process."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

from formal.common.lifetime import run
from formal.common.places import FORMAL

SOURCES = FORMAL / "conform" / "probe"
_FLAGS = (
    "-O2 -Wall -Wextra -ffreestanding -nostdlib -mgeneral-regs-only -mstrict-align -fno-pic -no-pie "
    "-fno-stack-protector -static -Wl,--build-id=none"
).split()


_INIT = FORMAL / "conform" / "vm"
_INIT_FLAGS = "-O1 -Wall -Wextra -Werror -static -pthread -Wl,--no-gc-sections".split()


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
    _compile([*command, str(SOURCES / "start.S"), str(SOURCES / "probe.c")], "the probe")
    return probe


def linux_compiler() -> list[str]:
    """The command of a compiler for programs that run on Linux on AArch64, with a C library and the kernel's headers.

    Raises:
        MissingToolError: if there is none.
    """
    if (found := shutil.which("aarch64-linux-gnu-gcc")) and _has_header([found], "linux/kvm.h"):
        return [found]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl"]
    raise MissingToolError(
        "no compiler for Linux on AArch64; install gcc-aarch64-linux-gnu and libc6-dev-arm64-cross (Debian), "
        "or ziglang (PyPI)"
    )


def _has_header(command: list[str], header: str) -> bool:
    done = run(
        [*command, "-E", "-x", "c", "-", "-o", "-"], input=f"#include <{header}>\n", capture_output=True, text=True
    )
    return done.returncode == 0


def build_init(directory: Path) -> Path:
    """Compiles the first process of the machines that run KVM into a directory; the executable.

    Raises:
        MissingToolError: if no compiler is installed.
        BuildError: if it does not compile.
    """
    init = directory / "init"
    sources = [str(_INIT / name) for name in ("init.c", "vm.c", "host.c", "guest.S")]
    _compile([*linux_compiler(), *_INIT_FLAGS, "-o", str(init), *sources], "the first process")
    return init


def _compile(command: list[str], what: str) -> None:
    done = run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{command[0]} cannot build {what}:\n{done.stderr.strip()}")
