"""A kernel tree given by the user: checked, its version and configuration read, its generated headers stood in for.

``KernelTree(path)`` accepts an unconfigured source tree, as unpacked. Nothing is written into it, and nothing of it is
executed; what the build would generate goes to a private temporary directory that lives as long as the object.
"""

from __future__ import annotations

import re
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Protocol

from formal.kernel.errors import NotUnderstoodError, TreeError
from formal.kernel.source import headers, kconfig

KVM = "arch/arm64/kvm"
_NEEDED = (
    "Kconfig",
    "arch/arm64/include/asm/kvm_host.h",
    "arch/arm64/include/asm/sysreg.h",
    "include/linux/kvm_host.h",
    *(f"{KVM}/{name}" for name in ("debug.c", "sys_regs.c", "arm.c")),
)
_DEFCONFIG = "arch/arm64/configs/defconfig"


class Sources(Protocol):
    """Where source text comes from."""

    path: Path

    def relative(self, file: str) -> str:
        """A file's name as messages show it."""

    def read(self, name: str) -> str:
        """The text of a file."""


class KernelTree:
    """An arm64 Linux source tree with KVM.

    Args:
        path: the root of the tree.
        config: a ``.config``; without it the tree's arm64 defconfig.

    Raises:
        TreeError: if the path or the configuration is not what it should be.
        NotUnderstoodError: if it is a kernel tree, but not one that this front end understands.
    """

    def __init__(self, path: Path | str, config: Path | str | None = None) -> None:
        self.path = Path(path).expanduser().resolve()
        self.config = Path(config).expanduser().resolve() if config is not None else self.path / _DEFCONFIG
        self.config_name = str(config) if config is not None else _DEFCONFIG
        self.version = self._check()
        self.kconfig_files: list[str] = []  # that were read
        self.searched = False  # for functions that write modelled state, and none found that is not known
        self.opened: set[str] = set()  # files of the tree that the compiler opened, by path

    def _check(self) -> tuple[int, int, int]:
        if not self.path.exists():
            raise TreeError(f"{self.path}: no such directory")
        if not self.path.is_dir():
            raise TreeError(f"{self.path}: not a directory; give the root of a kernel source tree")
        makefile = self.path / "Makefile"
        text = makefile.read_text(encoding="utf-8", errors="replace") if makefile.is_file() else ""
        found = [re.search(rf"(?m)^{name}\s*=\s*(\d+)", text) for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL")]
        numbers = [int(match.group(1)) for match in found if match]
        if len(numbers) != 3 or not (self.path / "arch").is_dir():
            raise TreeError(f"{self.path}: not a Linux source tree (no Makefile with VERSION, PATCHLEVEL and SUBLEVEL)")
        if not (self.path / KVM).is_dir():
            older = " (before v5.7 KVM/arm64 lay in two places)" if (self.path / "virt/kvm/arm").is_dir() else ""
            raise TreeError(f"{self.path}: a Linux tree without {KVM}{older}")
        for needed in _NEEDED:
            if not (self.path / needed).is_file():
                raise NotUnderstoodError(needed, 0, "missing from the tree")
        if not self.config.is_file():
            raise TreeError(f"{self.config}: no such configuration file")
        return numbers[0], numbers[1], numbers[2]

    @property
    def release(self) -> str:
        """The release that the Makefile states, such as ``6.1.192``."""
        return ".".join(map(str, self.version))

    @cached_property
    def autoconf(self) -> str:
        """``generated/autoconf.h`` for the configuration."""
        return kconfig.autoconf(self.path, self.config, self.kconfig_files)

    @cached_property
    def _directory(self) -> tempfile.TemporaryDirectory[str]:
        texts = headers.stand_ins(self.path, self.version, self.autoconf)
        directory = tempfile.TemporaryDirectory(prefix="kernel-headers-")
        for name, text in texts.items():
            target = Path(directory.name, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        return directory

    @property
    def scratch(self) -> str:
        """A private directory that lives as long as this object."""
        return self._directory.name

    def prepare(self) -> None:
        """Makes the stand-in headers now, not when they are needed.

        Raises:
            NotUnderstoodError: if the configuration cannot be worked out.
        """
        assert self._directory

    @cached_property
    def flags(self) -> list[str]:
        """The compiler's arguments for a file of this tree."""
        return headers.flags(self.path, Path(self._directory.name))

    def generated(self, name: str) -> str:
        """The text of a stand-in header of the architecture; empty if this tree needs none."""
        path = Path(self._directory.name, "arch", name)
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def relative(self, file: str) -> str:
        """A file's name as messages show it: below the tree where it lies there."""
        return file.removeprefix(f"{self.path}/")

    def read(self, name: str) -> str:
        """The text of a file of the tree.

        Raises:
            NotUnderstoodError: if it cannot be read.
        """
        try:
            return (self.path / name).read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise NotUnderstoodError(name, 0, error.strerror or str(error)) from error
