"""Which files KVM is built from, and into which program: read from the tree's own Makefiles.

KVM/arm64 is the host's part and, from v5.9 on, two hypervisors that are compiled apart: those folders whose Makefile
defines ``__KVM_VHE_HYPERVISOR__`` or ``__KVM_NVHE_HYPERVISOR__``. Before, all of it is one program that asks at run
time. Its files have lain in arch/arm/kvm (before v4.13), virt/kvm/arm (before v5.7) and arch/arm64/kvm.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

KVM = "arch/arm64/kvm"
HYPERVISORS = {"vhe": "-D__KVM_VHE_HYPERVISOR__", "nvhe": "-D__KVM_NVHE_HYPERVISOR__"}
_ASSIGNS = re.compile(r"([\w-]+(?:\$\(\w+\))?)[ \t]*([:+?]?)=[ \t]*(.*)")
_INCLUDES = re.compile(r"-?include[ \t]+(\S+)")


@dataclass
class Makefile:
    """What a folder's Makefile builds: object files and folders, by name below the tree, and the compiler's macros."""

    objects: list[str] = field(default_factory=list)  # without their suffix
    folders: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)  # -D...
    includes: list[str] = field(default_factory=list)  # the folders of -I...


def read(tree: Path, folder: str, enabled: Callable[[str], bool] = lambda name: True) -> Makefile:
    """Reads the Makefile of a folder, with what it includes; conditionals are taken as true.

    Args:
        tree: the root of the tree.
        folder: its name below the tree.
        enabled: whether a symbol of the configuration is set, by its name without ``CONFIG_``.
    """
    found, variables = Makefile(), {"srctree": "", "src": folder, "obj": folder}
    for line in _lines(tree, f"{folder}/Makefile", variables):
        match = _ASSIGNS.fullmatch(line)
        if match is None:
            continue
        name, how, value = match[1], match[2], _expanded(match[3], variables)
        if how != "?" or name not in variables:
            variables[name] = f"{variables.get(name, '')} {value}" if how == "+" else value
        if name in ("ccflags-y", "subdir-ccflags-y"):
            found.flags += [word for word in value.split() if word.startswith("-D")]
            found.includes += [posixpath.normpath(name.lstrip("/")) for name in re.findall(r"-I\s*([\w/.-]+)", value)]
        condition = re.fullmatch(r"(.*)-(?:y|objs|\$\(CONFIG_(\w+)\))", name)
        if condition is None or (condition[2] and not enabled(condition[2])):
            continue
        for word in value.split():
            place = posixpath.normpath(posixpath.join(folder, word))
            if word.endswith(".o"):
                found.objects.append(place.removesuffix(".o"))
            elif word.endswith("/") and condition[1] == "obj":
                found.folders.append(place)
    return found


def _lines(tree: Path, name: str, variables: dict[str, str]) -> Iterator[str]:
    path = tree / name.lstrip("/")
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for line in text.replace("\\\n", " ").splitlines():
        words = line.split("#")[0].strip()
        if included := _INCLUDES.fullmatch(words):
            yield from _lines(tree, _expanded(included[1], variables), variables)
        else:
            yield words


def _expanded(text: str, variables: dict[str, str]) -> str:
    return re.sub(r"\$\((\w+)\)", lambda m: variables.get(m[1], m[0]), text)


@dataclass(frozen=True)
class Build:
    """The C files that KVM is built from, in the order in which the Makefiles name them, and the hypervisors' macros.

    ``hyp`` is empty where the hypervisor is compiled once, as a part of ``host``. A file may be in several programs.
    """

    host: tuple[str, ...]
    hyp: dict[str, tuple[str, ...]]
    flags: dict[str, tuple[str, ...]]
    assembly: tuple[str, ...]  # .S files
    includes: tuple[str, ...]  # folders in which headers are looked for, besides those of the whole kernel

    def files(self, mode: str) -> tuple[str, ...]:
        """The files that run in a mode: the host's, then its hypervisor's."""
        return (*self.host, *(f for f in self.hyp.get(mode, ()) if f not in self.host))

    def hyp_of(self, file: str, mode: str) -> str | None:
        """The hypervisor for which a file is compiled, in a mode; ``None`` for the host's files."""
        for hyp in dict.fromkeys((mode, *self.hyp)):
            if file in self.hyp.get(hyp, ()) and file not in self.host:
                return hyp
        return None


def build(tree: Path, enabled: Callable[[str], bool] = lambda name: True) -> Build:
    """The files of a tree's KVM; where a folder has no Makefile, all that lies in it."""
    host: dict[str, None] = {}
    hyp: dict[str, tuple[str, ...]] = {}
    flags: dict[str, tuple[str, ...]] = {}
    assembly: dict[str, None] = {}
    includes: dict[str, None] = {}
    folders = [KVM]
    for folder in folders:
        made = read(tree, folder, enabled)
        if not (tree / folder / "Makefile").is_file():
            made.objects = sorted(f"{folder}/{path.stem}" for path in (tree / folder).glob("*.[cS]"))
        folders += [name for name in made.folders if name not in folders]
        sources = [f"{name}.c" for name in dict.fromkeys(made.objects) if (tree / f"{name}.c").is_file()]
        assembly |= {f"{name}.S": None for name in made.objects if (tree / f"{name}.S").is_file()}
        includes |= dict.fromkeys(name for name in made.includes if (tree / name).is_dir())
        own = next((mode for mode, macro in HYPERVISORS.items() if macro in made.flags), None)
        if own is None:
            host |= dict.fromkeys(sources)
        else:
            hyp[own], flags[own] = tuple(sources), tuple(made.flags)
    return Build(tuple(host), hyp, flags, tuple(assembly), tuple(includes))
