"""A kernel tree given by the user: checked, its version and configuration read, its generated headers stood in for.

``KernelTree(path)`` accepts an unconfigured source tree, as unpacked. Nothing is written into it, and nothing of it is
executed; what the build would generate goes to a private temporary directory that lives as long as the object.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Protocol

from formal.common.lifetime import Scratch
from formal.kernel.errors import Gap, NotUnderstoodError, TreeError
from formal.kernel.source import headers, kconfig, makefiles
from formal.kernel.source.definitions import Definitions
from formal.kernel.source.makefiles import Build
from formal.kernel.source.names import Names, other_names

KVM = "arch/arm64/kvm"
_WITHOUT_C = f"{KVM}/hyp.S"
_NEEDED = ("arch/arm64/include/asm/kvm_host.h", "arch/arm64/include/asm/sysreg.h", "include/linux/kvm_host.h",
           f"{KVM}/debug.c", f"{KVM}/sys_regs.c")  # fmt: skip
_CONFIGS = "arch/arm64/configs"
_LFS = "version https://git-lfs.github.com/spec/"


class Sources(Protocol):
    """Where source text comes from."""

    path: Path

    def relative(self, file: str) -> str:
        """A file's name as messages show it."""

    def read(self, name: str) -> str:
        """The text of a file."""

    def plain(self, name: str) -> str:
        """The text of a file as it is."""


class KernelTree:
    """An arm64 Linux source tree with KVM.

    Args:
        path: the root of the tree.
        config: a ``.config``; without it the tree's arm64 defconfig, else another of its configurations for arm64.

    Raises:
        TreeError: if the path or the configuration is not what it should be.
        NotUnderstoodError: if it is a kernel tree, but not one that this front end understands.
    """

    def __init__(self, path: Path | str, config: Path | str | None = None) -> None:
        self.path = Path(path).expanduser().resolve()
        self.renamed: Mapping[str, str] = {}  # functions that are read under another name: theirs, and that
        self.helpers: frozenset[str] = frozenset()  # functions of its own, read where they are called
        self.notes: list[str] = []  # what of the tree could not be read, and costs no more than what uses it
        self.version = self._check()
        self.config = Path(config).expanduser().resolve() if config is not None else self._defconfig()
        self.config_name = str(config) if config is not None else self.relative(str(self.config))
        self._config_given = config is not None
        if config is not None and not self.config.is_file():
            raise TreeError(f"{self.config}: no such configuration file")
        self.kconfig_files: list[str] = []  # that were read
        self.searched: tuple[Gap, ...] | None = None  # for functions that write modelled state: those not known
        self.opened: set[str] = set()  # files of the tree that the compiler opened, by path

    def _check(self) -> tuple[int, int, int]:
        if not self.path.exists():
            raise TreeError(f"{self.path}: no such directory")
        if not self.path.is_dir():
            raise TreeError(f"{self.path}: not a directory; give the root of a kernel source tree")
        makefile = self.path / "Makefile"
        text = makefile.read_text(encoding="utf-8", errors="replace") if makefile.is_file() else ""
        stated = {m[1]: m[2] for m in re.finditer(r"(?m)^(VERSION|PATCHLEVEL|SUBLEVEL)[ \t]*=[ \t]*(\d*)", text)}
        if not all(stated.get(name) for name in ("VERSION", "PATCHLEVEL")) or not (self.path / "arch").is_dir():
            empty = " (an empty folder: a submodule that is not checked out?)" if not any(self.path.iterdir()) else ""
            raise TreeError(f"{self.path}: not a Linux source tree (no Makefile with VERSION and PATCHLEVEL){empty}")
        if not (self.path / KVM).is_dir():
            raise NotUnderstoodError(KVM, 0, f"missing from the tree{self._why_missing()}")
        for needed in _NEEDED:
            if not (self.path / needed).is_file():
                raise NotUnderstoodError(needed, 0, f"missing from the tree{self._why_missing()}")
            if self.plain(needed).startswith(_LFS):
                raise NotUnderstoodError(needed, 0, "is a pointer to a file that git-lfs keeps; run: git lfs pull")
        if (self.path / _WITHOUT_C).is_file() and not (self.path / KVM / "hyp").is_dir():
            raise NotUnderstoodError(_WITHOUT_C, 0, "the world switch is assembler (up to v4.5), which is not read")
        return int(stated["VERSION"]), int(stated["PATCHLEVEL"]), int(stated.get("SUBLEVEL") or 0)

    def _why_missing(self) -> str:
        """What to do about files that are missing, where that can be told."""
        git = self.path / ".git"
        if git.is_file():
            named = re.match(r"gitdir: (.*)", git.read_text(encoding="utf-8", errors="replace"))
            git = self.path / named[1].strip() if named else git
        if (git / "info/sparse-checkout").is_file():
            wanted = "arch/arm64 arch/arm/kvm arch/arm/include include virt scripts drivers/perf drivers/hwtracing"
            return f": it is a sparse checkout; run: git sparse-checkout add {wanted}"
        return ""

    def _defconfig(self) -> Path:
        folder = self.path / _CONFIGS
        names = [folder / "defconfig", folder / "gki_defconfig", *sorted(folder.glob("*defconfig"))]
        found = next((path for path in names if path.is_file()), Path(os.devnull))
        if found == Path(os.devnull):
            self.notes.append(f"{_CONFIGS} has no defconfig: every option is taken at its default")
        return found

    def unread(self) -> KernelTree:
        """The same tree under its own names, of which nothing is known yet: what is asked of it leaves nothing here."""
        tree = KernelTree(self.path, self.config if self._config_given else None)
        tree.__dict__["autoconf"] = self.autoconf
        return tree

    @property
    def release(self) -> str:
        """The release that the Makefile states, such as ``6.1.192``."""
        return ".".join(map(str, self.version))

    @cached_property
    def autoconf(self) -> str:
        """``generated/autoconf.h`` for the configuration."""
        forced = not self._config_given
        return kconfig.autoconf(self.path, self.config, self.kconfig_files, self.notes, forced=forced)

    @cached_property
    def build(self) -> Build:
        """The files that KVM is built from in this configuration."""
        enabled = set(re.findall(r"(?m)^#define CONFIG_(\w+?)(?:_MODULE)? 1$", self.autoconf))
        return makefiles.build(self.path, enabled.__contains__)

    @cached_property
    def definitions(self) -> Definitions:
        """Where its functions are defined."""
        return Definitions(self.path, self.build, self.read)

    @cached_property
    def names(self) -> Names:
        """Its macros, enumerators and members that are read under another name."""
        return other_names(self.path, self.plain)

    @cached_property
    def _directory(self) -> Scratch:
        texts = headers.stand_ins(self.path, self.version, self.autoconf, self.notes)
        directory = Scratch("kernel-headers-")
        for name, text in texts.items():
            target = directory.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        return directory

    @property
    def scratch(self) -> str:
        """A private directory that lives as long as this object."""
        return str(self._directory.path)

    def prepare(self) -> None:
        """Makes the stand-in headers now, not when they are needed.

        Raises:
            NotUnderstoodError: if the configuration cannot be worked out.
        """
        assert self._directory

    @cached_property
    def flags(self) -> list[str]:
        """The compiler's arguments for a file of this tree."""
        renamed = {**self.names.members, **self.names.enumerators, **self.renamed}  # a macro is one of either name
        macros = [f"-D{here}={known}" for here, known in renamed.items()]
        return [*headers.flags(self.path, self._directory.path, self.build.includes), *macros]

    def generated(self, name: str) -> str:
        """The text of a stand-in header of the architecture; empty if this tree needs none."""
        path = self._directory.path / "arch" / name
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def relative(self, file: str) -> str:
        """A file's name as messages show it: below the tree where it lies there."""
        return file.removeprefix(f"{self.path}/")

    def read(self, name: str) -> str:
        """The text of a file of the tree, with all under the names under which it is read.

        Raises:
            NotUnderstoodError: if it cannot be read.
        """
        text, names = self.plain(name), self.names
        known = {**names.members, **names.macros, **names.enumerators, **self.renamed}
        return re.sub(rf"\b(?:{'|'.join(known)})\b", lambda word: known[word[0]], text) if known else text

    def plain(self, name: str) -> str:
        """The text of a file of the tree as it is.

        Raises:
            NotUnderstoodError: if it cannot be read, or is no text.
        """
        try:
            text = (self.path / name).read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise NotUnderstoodError(name, 0, error.strerror or str(error)) from error
        if "\0" in text:
            line = text[: text.index("\0")].count("\n") + 1
            raise NotUnderstoodError(name, line, "is no UTF-8 text: it holds NUL bytes (is it UTF-16?)")
        return text


def sources(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files below a folder, also by way of links to other folders, each once."""
    found, seen = [folder] if folder.is_file() else [], set[str]()
    for place, below, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            below.clear()
            continue
        seen.add(real)
        found += [Path(place, name) for name in names if name.endswith(suffixes)]
    return sorted(path for path in found if path.is_file())
