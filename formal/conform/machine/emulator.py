"""QEMU: which version, which CPU models, and the probe run on one of them.

The guest's memory is a file that we share with it: the block is written into it before, and read from it after. The
machine has no network, no serial port and no monitor; the probe turns it off through PSCI.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from formal.common.lifetime import run
from formal.conform.machine.blob import BLOB, Blob
from formal.conform.machine.build import MissingToolError

_RAM = 0x4000_0000  # where the memory of the machine "virt" begins
_MEGABYTES = 64


class EmulatorError(Exception):
    """QEMU did not do what was asked; the message is one line."""


class EmulatorTimeoutError(EmulatorError):
    """QEMU was still running when the time was up."""


@dataclass(frozen=True)
class Qemu:
    """An emulator: its path and version."""

    path: str
    version: tuple[int, int, int]
    spelled: str

    def models(self) -> tuple[str, ...]:
        """The CPU models that it has for this machine."""
        text = _output([self.path, "-M", "virt", "-cpu", "help"])
        return tuple(line.split()[0] for line in text.splitlines() if re.match(r"\s+\S", line))

    def run(self, probe: Path, model: str, blob: Blob, directory: Path, timeout: float) -> bytes:
        """Boots the probe on a CPU model with this block; the block afterwards.

        Raises:
            EmulatorError: if QEMU does not start, or ends with an error.
            EmulatorTimeoutError: if it does not end in time.
        """
        ram = directory / "ram"
        at = BLOB - _RAM
        block = blob.pack()
        if at + blob.size > _MEGABYTES << 20:
            raise EmulatorError(f"the probe points need {blob.size >> 20} MiB, more than the machine has")
        try:
            with ram.open("wb") as f:
                f.truncate(_MEGABYTES << 20)
                f.seek(at)
                f.write(block)
            command = [self.path, "-nodefaults", "-display", "none", "-serial", "none", "-monitor", "none"]
            command += ["-nic", "none", "-no-reboot", "-cpu", model, "-m", f"{_MEGABYTES}M", "-kernel", str(probe)]
            command += ["-object", f"memory-backend-file,id=ram,share=on,size={_MEGABYTES}M,mem-path={ram}"]
            command += ["-M", "virt,virtualization=on,memory-backend=ram", "-accel", "tcg,thread=single"]
            try:
                done = run(command, capture_output=True, text=True, timeout=timeout, check=False)
            except subprocess.TimeoutExpired:
                raise EmulatorTimeoutError(f"the probe on {model} did not end within {timeout:g} s") from None
            if done.returncode:
                said = done.stderr.strip().splitlines() or [f"no message, exit status {done.returncode}"]
                raise EmulatorError(f"QEMU failed on {model}: {said[-1]}")
            with ram.open("rb") as f:
                f.seek(at)
                return f.read(blob.size)
        finally:
            ram.unlink(missing_ok=True)


def find(path: str | None = None) -> Qemu:
    """The emulator at this path, or the one that is installed.

    Raises:
        MissingToolError: if there is none.
        EmulatorError: if it does not say its version.
    """
    wanted = path or "qemu-system-aarch64"
    found = shutil.which(wanted)
    if found is None:
        if path:
            raise MissingToolError(f"there is no program {path}")
        raise MissingToolError(f"no {wanted}; install qemu-system-arm (Debian)")
    text = _output([found, "--version"])
    version = re.search(r"version (\d+)\.(\d+)\.(\d+)", text)
    if version is None:
        raise EmulatorError(f"{wanted} --version does not say which QEMU it is: {text.splitlines()[:1]}")
    return Qemu(found, (int(version[1]), int(version[2]), int(version[3])), version[0].removeprefix("version "))


def _output(command: list[str]) -> str:
    try:
        return str(run(command, capture_output=True, text=True, timeout=60, check=False).stdout)
    except (OSError, subprocess.TimeoutExpired) as e:
        raise EmulatorError(f"cannot run {command[0]}: {e}") from None
