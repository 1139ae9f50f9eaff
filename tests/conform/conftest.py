"""CPUs that the pure-Python tests speak of, and the tools that the real run needs."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from formal.arch.features import closure
from formal.conform.boot.debian import NEWEST, Image, MissingKernelError, default_directory, image
from formal.conform.cpu.identify import Cpu
from formal.conform.machine.build import MissingToolError, compiler, linux_compiler

PLAIN = Cpu({}, closure(["FEAT_PMUv3", "FEAT_DoubleLock"]), counters=6, breakpoints=6, watchpoints=4)
A32 = replace(PLAIN, ids={"ID_AA64PFR0_EL1": 0x22, "ID_AA64DFR0_EL1": 1 << 28})  # AArch32 at EL1; 2 context-aware
FINE = Cpu(
    {},
    closure(["FEAT_PMUv3p5", "FEAT_FGT2", "FEAT_HPMN0", "FEAT_SPE", "FEAT_TRF", "FEAT_TRC_SR"]),
    vhe=True,
    counters=6,
    breakpoints=6,
    watchpoints=4,
)


@pytest.fixture(params=[PLAIN, FINE], ids=["v8.0", "v8.9"])
def cpu(request: pytest.FixtureRequest) -> Cpu:
    """A CPU of the first architecture version, and one with fine-grained traps."""
    return request.param


def missing() -> str | None:
    """Why the probe cannot run here."""
    if shutil.which("qemu-system-aarch64") is None:
        return "qemu-system-aarch64 is not installed (Debian: qemu-system-arm)"
    try:
        compiler()
    except MissingToolError as e:
        return str(e)
    return None


@pytest.fixture
def emulator() -> None:
    """Skips where the emulator or the cross compiler is missing; fails there in CI."""
    if why := missing():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(why)


def kernel_image(series: str = "6.1") -> Image:
    """The kernel to boot: from the folder that KVM_KERNELS names, fetched if need be; else one fetched before.

    Raises:
        MissingKernelError: if there is none.
        MissingToolError: if it could not be booted here.
    """
    if shutil.which("qemu-system-aarch64") is None:
        raise MissingToolError("qemu-system-aarch64 is not installed (Debian: qemu-system-arm)")
    linux_compiler()
    if where := os.environ.get("KVM_KERNELS"):
        return image(series, Path(where))
    if not any((default_directory() / series).glob("vmlinuz-*")):
        raise MissingKernelError("KVM_KERNELS names no folder for kernels, and none was fetched before")
    return image(series, default_directory())


@pytest.fixture(scope="session")
def booted_kernel() -> Path:
    """The image of a kernel that can be booted here; skips where there is none, fails there in CI."""
    return _bootable("6.1")


@pytest.fixture(scope="session")
def newest_kernel() -> Path:
    """The same for the newest kernel that Debian packages."""
    return _bootable(NEWEST)


def _bootable(series: str) -> Path:
    try:
        return kernel_image(series).path
    except (MissingKernelError, MissingToolError) as e:
        if os.environ.get("CI") == "true":
            pytest.fail(str(e))
        pytest.skip(str(e))
