"""Which files each program is made of, and which files of the rest of the kernel can reach modelled registers."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from formal.kernel.errors import NotUnderstoodError
from formal.kernel.parse.preamble import hyp_flags
from formal.kernel.source.tree import KVM, KernelTree

GENERIC = ("virt/kvm",)
REST = ("arch/arm64/kernel", "arch/arm64/mm", "drivers/perf", "drivers/hwtracing/coresight")
ASM = "arch/arm64/include/asm"
# What a file must mention to write a modelled register or a member of KVM's: by name, by encoding, through KVM's types.
_REACHES = re.compile(
    r"mdcr_el2|mdscr|osl[as]r|osdlr|pmuserenr|dbg[bw][cv]r|dbg_write|s\d_\d_c\d+_c\d+_\d|\bsys_reg\s*\(|kvm_vcpu|kvm_host_data|"
    r"kvm_cpu_context|\bmsr(_s)?\b",
    re.I,
)
_OBJECT = re.compile(r"([\w./-]+)\.o\b")


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


def _made(tree: KernelTree, folder: str) -> list[str]:
    """The C files outside a folder that its Makefile compiles into it."""
    makefile = tree.path / folder / "Makefile"
    if not makefile.is_file():
        return []
    names = _OBJECT.findall(makefile.read_text(encoding="utf-8", errors="replace"))
    paths = [os.path.normpath(f"{folder}/{name}.c") for name in names if name.startswith("../")]
    return [path for path in dict.fromkeys(paths) if (tree.path / path).is_file()]


def programs(tree: KernelTree) -> dict[str, list[str]]:
    """The C files of KVM, by side: host, vhe, nvhe."""
    hyp = f"{KVM}/hyp"
    found: dict[str, list[str]] = {"host": [], "vhe": [], "nvhe": []}
    for side in ("vhe", "nvhe"):
        own = [tree.relative(str(path)) for path in sources(tree.path / hyp / side, (".c",))]
        found[side] = [*own, *_made(tree, f"{hyp}/{side}")] if own else []
    split = bool(found["nvhe"])
    known = {*found["vhe"], *found["nvhe"]}
    for folder in (KVM, *GENERIC):
        for path in sources(tree.path / folder, (".c",)):
            name = tree.relative(str(path))
            if name not in known:
                found["vhe" if name.startswith(f"{hyp}/") and not split else "host"].append(name)
    return found


def others(tree: KernelTree) -> Iterator[str]:
    """The C files of the rest of the kernel that mention anything with which modelled state can be written."""
    for folder in REST:
        for path in sources(tree.path / folder, (".c",)):
            if _REACHES.search(path.read_text(encoding="utf-8", errors="replace")):
                yield tree.relative(str(path))


def assembler(tree: KernelTree) -> Iterator[str]:
    """Assembler files, and headers that have assembler macros."""
    for folder in (KVM, *REST):
        yield from (tree.relative(str(path)) for path in sources(tree.path / folder, (".S",)))
    for path in sources(tree.path / ASM, (".h",)):
        if re.search(r"(?m)^\s*\.macro\b", path.read_text(encoding="utf-8", errors="replace")):
            yield tree.relative(str(path))


def flags(tree: KernelTree, side: str) -> list[str]:
    """The compiler's arguments for a side."""
    if side == "host":
        return list(tree.flags)
    try:
        return [*tree.flags, *hyp_flags(tree, side)]
    except NotUnderstoodError:
        return list(tree.flags)


def compiled(tree: KernelTree, file: str) -> bool:
    """Whether a Makefile beside a file, above it, or KVM's own has it compiled in this configuration."""
    stem = file.rpartition("/")[2].removesuffix(".c")
    folders = [str(parent) for parent in Path(file).parents if str(parent).count("/") >= 1]
    for folder in dict.fromkeys((*folders, KVM)):
        for makefile in sorted((tree.path / folder).glob("Makefile*")):
            text = makefile.read_text(encoding="utf-8", errors="replace").replace("\\\n", " ")
            for line in text.split("\n"):
                if re.search(rf"(?:^|[\s/=]){re.escape(stem)}\.o\b", line.split("#")[0]):
                    symbol = re.search(r"\$\((CONFIG_\w+)\)", line)
                    return symbol is None or f"#define {symbol[1]} 1" in tree.autoconf
    return False
