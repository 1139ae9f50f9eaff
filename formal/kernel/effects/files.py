"""Which files each program is made of, and which files of the rest of the kernel can reach modelled registers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from formal.kernel.source.tree import KVM, KernelTree, sources

REST = ("arch/arm64/kernel", "arch/arm64/mm", "drivers/perf", "drivers/hwtracing/coresight")
ASM = "arch/arm64/include/asm"
# What a file must mention to write a modelled register or a member of KVM's: by name, by encoding, through KVM's types,
# or by what the headers make of these.
_REACHES = re.compile(
    r"mdcr_el2|mdscr|osl[as]r|osdlr|pmuserenr|dbg[bw][cv]r|dbg_write|s\d_\d_c\d+_c\d+_\d|\bsys_reg\s*\(|\bmsr(_s)?\b|"
    r"kvm_vcpu|kvm_host_data|kvm_cpu_context",
    re.I,
)
# EXPORT_SYMBOL(f); and assembly outside functions
_OUTSIDE = re.compile(r"(?m)^(\w+[ \t]*\([^;{}]*\)[ \t]*;?[ \t]*$|(?:asm|__asm__)\b[^;]*)")
_INLINE = re.compile(r"^(?:static[^\n;]*\b)(\w+)\([^;{}]*\)\s*(\{.*?^\})", re.S | re.M)
_DEFINES = re.compile(r"(?m)^[ \t]*#[ \t]*define[ \t]+(\w+)((?:[^\n\\]|\\.|\\\n)*)")


def programs(tree: KernelTree) -> dict[str, list[str]]:
    """The C files of KVM, by side: host, vhe, nvhe."""
    build = tree.build
    return {"host": list(build.host), **{side: list(build.hyp.get(side, ())) for side in ("vhe", "nvhe")}}


def others(tree: KernelTree) -> Iterator[str]:
    """The C files of the rest of the kernel that mention anything with which modelled state can be written."""
    wrappers = _wrappers(tree)
    for folder in REST:
        for path in sources(tree.path / folder, (".c",)):
            text = path.read_text(encoding="utf-8", errors="replace")
            if _REACHES.search(text) or not wrappers.isdisjoint(re.findall(r"\w+", text)):
                yield tree.relative(str(path))


def _wrappers(tree: KernelTree) -> set[str]:
    """The macros and inline functions of arm64's headers that mention a modelled register, or another of them."""
    texts: dict[str, set[str]] = {}
    found: set[str] = set()
    for path in sources(tree.path / ASM, (".h",)):
        header = path.read_text(encoding="utf-8", errors="replace")
        for name, text in (*_DEFINES.findall(header), *_INLINE.findall(header)):
            texts.setdefault(name, set()).update(re.findall(r"\w+", text))
            if re.search(r"mdcr_el2|mdscr|oslar|osdlr|pmuserenr|dbg[bw][cv]r", text, re.I):
                found.add(name)
    while more := {name for name, words in texts.items() if name not in found and not found.isdisjoint(words)}:
        found |= more
    return found


def assembler(tree: KernelTree) -> Iterator[str]:
    """Assembler files, and headers that have assembler macros."""
    for folder in (KVM, *REST):
        yield from (tree.relative(str(path)) for path in sources(tree.path / folder, (".S",)))
    for path in sources(tree.path / ASM, (".h",)):
        if re.search(r"(?m)^\s*\.macro\b", path.read_text(encoding="utf-8", errors="replace")):
            yield tree.relative(str(path))


def naming(tree: KernelTree, read: Iterable[str]) -> set[str]:
    """The words of assembler files, and those that lines outside functions hand to macros, such as initcalls."""
    found: set[str] = set()
    for file in assembler(tree):
        found.update(re.findall(r"\w+", tree.read(file)))
    for file in read:
        for handed in _OUTSIDE.findall(tree.read(file)):
            found.update(re.findall(r"\w+", handed))
    return found


def flags(tree: KernelTree, side: str) -> list[str]:
    """The compiler's arguments for a side."""
    return [*tree.flags, *tree.build.flags.get(side, ())]
