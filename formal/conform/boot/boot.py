"""A kernel booted under QEMU with KVM inside, and what it recorded while our first process drove its guests.

The machine has no network and no monitor; its serial port is a file. The trace that comes back is the kernel's own, as
ftrace prints it, with the marks of vm/init.c between its events.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from formal.common.lifetime import Scratch, run
from formal.common.places import FORMAL
from formal.conform.boot import initrd
from formal.conform.machine.build import build_init
from formal.conform.machine.emulator import EmulatorError, EmulatorTimeoutError, Qemu
from formal.epochs import Mode

PROBES = FORMAL / "conform" / "vm" / "probes.txt"
CPUS: Mapping[Mode, str] = {Mode.VHE: "cortex-a76", Mode.NVHE: "cortex-a53"}  # with and without FEAT_VHE


@dataclass(frozen=True)
class Recording:
    """What one boot left behind.

    ``trace`` is ftrace's text with a comment in front; ``missing`` names events that this kernel does not have;
    ``errors`` are the complaints of the first process (a command not understood, an ioctl that failed unexpectedly).
    """

    release: str
    version: str
    mode: str
    cpus: int
    trace: str
    missing: tuple[str, ...]
    errors: tuple[str, ...]

    @property
    def events(self) -> int:
        """How many lines of the trace are events."""
        return sum(not line.startswith("#") for line in self.trace.splitlines())

    @property
    def scenarios(self) -> int:
        """How many scenarios have begun."""
        return self.trace.count(": conform: scenario ")


def boot(kernel: Path, mode: Mode, script: str, qemu: Qemu, *, cpus: int = 2, timeout: float = 120.0) -> Recording:
    """Boots a kernel with KVM in this mode, lets the script be carried out, returns the recording.

    Raises:
        MissingToolError, BuildError: if the first process cannot be built.
        EmulatorError: if QEMU fails, the kernel does not come up, has no KVM, or KVM runs in another mode.
        EmulatorTimeoutError: if the machine is still running when the time is up.
    """
    name = f"{kernel.name} ({mode.value})"
    with Scratch("boot-") as folder:
        ram_disk, console = folder / "initrd", folder / "console"
        ram_disk.write_bytes(_ram_disk(build_init(folder).read_bytes(), script))
        console.touch()
        command = [qemu.path, "-nodefaults", "-display", "none", "-monitor", "none", "-nic", "none", "-no-reboot"]
        command += ["-M", "virt,virtualization=on,gic-version=3", "-cpu", CPUS[mode], "-smp", str(cpus), "-m", "512M"]
        command += ["-accel", "tcg", "-serial", f"file:{console}", "-kernel", str(kernel), "-initrd", str(ram_disk)]
        command += ["-append", "console=ttyAMA0 panic=-1 quiet loglevel=1"]
        try:
            done = run(command, capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            where = _progress(console.read_text(errors="replace"))
            raise EmulatorTimeoutError(f"{name} did not end within {timeout:g} s; {where}") from None
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"no message, exit status {done.returncode}"]
            raise EmulatorError(f"QEMU failed on {name}: {said[-1]}")
        text = console.read_text(errors="replace")
    recording = parse(text.replace("\r\n", "\n"), name, cpus)
    if recording.mode != mode.value:
        raise EmulatorError(f"{kernel.name}: KVM is in mode {recording.mode}, not {mode.value}")
    return recording


def _ram_disk(init: bytes, script: str) -> bytes:
    return initrd.pack(
        [
            initrd.directory("dev"),
            initrd.character_device("dev/console", 5, 1),
            initrd.file("init", init, 0o755),
            initrd.file("script", script.encode()),
            initrd.file("probes", PROBES.read_bytes()),
        ]
    )


_DIED = re.compile(r"Unable to handle kernel|Internal error|kernel BUG|Kernel panic")


def _progress(console: str) -> str:
    """How far a machine came, for an error message."""
    lines = [line for line in console.splitlines() if line.strip()]
    if died := next((line for line in lines if _DIED.search(line)), None):
        return f"the kernel died: {died[:200]}"
    return f"last line of its console: {lines[-1][:200]}" if lines else "its console is empty"


def parse(console: str, name: str, cpus: int) -> Recording:
    """The recording in the text of a console. ``name`` is for messages.

    Raises:
        EmulatorError: if the kernel did not come up, the first process did not end, or no trace is there.
    """
    tagged = re.findall(r"^@@(\w+) ?(.*)$", console, re.M)
    said = {key: value for key, value in tagged if key not in ("ERROR", "MISSING")}
    errors = tuple(value for key, value in tagged if key == "ERROR")
    if "KERNEL" not in said:
        raise EmulatorError(f"{name} did not come up; {_progress(console)}")
    if "DONE" not in said:
        raise EmulatorError(f"{name} stopped before the end; {_progress(console)}")
    trace = re.search(r"^@@BEGIN trace\n(.*?)^@@END trace$", console, re.M | re.S)
    begin = trace and re.search(r": conform: recording .*mode=(\w+)", trace[1])
    if trace is None or begin is None:
        raise EmulatorError(f"{name} left no trace: {errors[0] if errors else _progress(console)}")
    head = f"# conform: kernel {said['KERNEL']}, {said['VERSION']}, {begin[1]}, {cpus} CPUs\n"
    missing = tuple(value.split()[1] for key, value in tagged if key == "MISSING")
    return Recording(said["KERNEL"], said["VERSION"], begin[1], cpus, head + trace[1], missing, errors)
