"""KVM's headers with the overlays, parsed once for each set of compiler flags and shared by the files.

The overlays spell macros of what lies below C as calls that the lifter knows, and keep the text of assembly.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources

import clang.cindex as ci

from formal.kernel.errors import DOES_NOT_PARSE, NotUnderstoodError
from formal.kernel.parse.clang import Cursor
from formal.kernel.parse.units import TranslationUnit, collect, included
from formal.kernel.source.tree import KernelTree

_FILE = "/front-end/preamble.h"
_OVERLAYS = _ASM, _KEYS, _BASE, _KVM = tuple(f"/front-end/overlay_{name}.h" for name in ("asm", "keys", "base", "kvm"))
FIRST_HEADERS = ("linux/types.h", "linux/jump_label.h")
BASE_HEADERS = (
    "linux/kernel.h",
    "linux/bug.h",
    "linux/percpu.h",
    "linux/preempt.h",
    "linux/jump_label.h",
    "asm/sysreg.h",
    "asm/barrier.h",
)
KVM_HEADERS = ("linux/kvm_host.h", "asm/kvm_emulate.h", "asm/kvm_mmu.h", "asm/kvm_hyp.h", "asm/kvm_asm.h")
_GOTO = ("asm_goto_output", "asm_volatile_goto")  # spelled with one qualifier, as overlay_asm.h wants it
_MOST = 48 << 20  # bytes; the headers of KVM take some 30 MB


@dataclass(frozen=True)
class Preamble:
    """The headers, parsed and stored for inclusion."""

    pch: str  # where clang stored them
    headers: TranslationUnit
    flags: tuple[str, ...]
    macros: dict[tuple[str, int], str]  # what the overlays replace, by file and line of the overlay
    replaced: frozenset[str]  # those of them that this tree has
    unsaved: tuple[tuple[str, str], ...]  # the texts that are no files


def overlay_texts() -> dict[str, str]:
    """The overlays that come with this package, by the name under which the driver includes them."""
    package = resources.files("formal.kernel.parse")
    return {path: package.joinpath(path.rsplit("/", 1)[1]).read_text(encoding="utf-8") for path in _OVERLAYS}


def replaced_macros(text: str) -> dict[int, str]:
    """The macros that an overlay replaces, by line; names of its own start with ``__LIFT``."""
    found = ((n, re.match(r"#define (\w+)", line)) for n, line in enumerate(text.splitlines(), 1))
    return {n: match.group(1) for n, match in found if match and not match.group(1).startswith("__LIFT")}


def hyp_flags(tree: KernelTree, mode: str) -> tuple[str, ...]:
    """The macros that the Makefile of a mode's hypervisor defines for each of its files; none if there is none."""
    return tree.build.flags.get(mode, ())


def saved(handle: Cursor, folder: str) -> str:
    """Keeps headers that were parsed in a new file of a folder; its path.

    Whether there is room is asked first: where the disk is full, libclang would end this process.

    Raises:
        OSError: if the file cannot be written.
    """
    descriptor, pch = tempfile.mkstemp(suffix=".pch", dir=folder)
    try:
        os.posix_fallocate(descriptor, 0, _MOST)
        os.ftruncate(descriptor, 0)
        handle.save(pch)
    except (OSError, ci.TranslationUnitSaveError) as error:
        code = error.errno if isinstance(error, OSError) and error.errno else errno.EIO
        raise OSError(code, os.strerror(code), pch) from error
    finally:
        os.close(descriptor)
    return pch


def parse_preamble(tree: KernelTree, extra_flags: Iterable[str] = ()) -> Preamble:
    """Parses the headers.

    Args:
        extra_flags: more compiler arguments (``hyp_flags`` for the hypervisor's files).

    Raises:
        NotUnderstoodError: at the first error, or where a replaced macro is defined anew.
    """
    overlays = overlay_texts()
    replacing = [(name, text) for name, text in overlays.items() if name != _ASM]
    macros = {(name, line): macro for name, text in replacing for line, macro in replaced_macros(text).items()}
    lines = [line for name in _GOTO for line in (f"#undef {name}", f"#define {name}(x...) asm goto(x)")]
    lines += [*(f"#include <{h}>" for h in FIRST_HEADERS), f'#include "{_KEYS}"']
    lines += [*(f"#include <{h}>" for h in BASE_HEADERS), f'#include "{_BASE}"']
    lines += [*(f"#include <{h}>" for h in KVM_HEADERS), f'#include "{_KVM}"', ""]
    unsaved = ((_FILE, "\n".join(lines)), *overlays.items())
    flags = ("-include", _ASM, *tree.flags, *extra_flags, "-Wno-everything", "-Wmacro-redefined")
    options = ci.TranslationUnit.PARSE_INCOMPLETE
    handle = ci.Index.create().parse(_FILE, args=[*flags, "-x", "c-header"], unsaved_files=unsaved, options=options)
    replaced = _replaced(tree, handle, macros)
    includes = included(handle)
    pch = saved(handle, tree.scratch)
    stored = ci.TranslationUnit.from_ast_file(pch, ci.Index.create())  # takes less memory: read when asked for
    return Preamble(pch, collect("", stored, includes), flags, macros, replaced, unsaved)


def _replaced(tree: KernelTree, handle: Cursor, macros: dict[tuple[str, int], str]) -> frozenset[str]:
    originals: set[str] = set()
    for diagnostic in handle.diagnostics:
        file, line, previous = place_of(diagnostic)
        if diagnostic.severity >= ci.Diagnostic.Error:
            raise NotUnderstoodError(tree.relative(file), line, f"{DOES_NOT_PARSE}{diagnostic.spelling}")
        if (file, line) in macros:
            originals.add(macros[file, line])
        elif previous in macros:
            raise NotUnderstoodError(tree.relative(file), line, f"redefines {macros[previous]}, which is replaced")
    return frozenset(originals)


def place_of(diagnostic: Cursor) -> tuple[str, int, tuple[str, int]]:
    """File and line of a diagnostic, and of the earlier definition that it mentions."""
    place = diagnostic.location
    notes = [n.location for n in diagnostic.children if n.location.file and "previous definition" in n.spelling]
    previous = (str(notes[-1].file.name), int(notes[-1].line)) if notes else ("", 0)
    return (str(place.file.name) if place.file else ""), int(place.line), previous
