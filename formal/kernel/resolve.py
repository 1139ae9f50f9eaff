"""Which definition a name means: that of the same file, else the one file that defines it for the linker.

The host's part of KVM and the hypervisor's parts (hyp/vhe, hyp/nvhe) are separate programs in this respect: the nVHE
hypervisor is linked on its own, and a hypercall from the host runs the function of the mode in use.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from threading import Lock

from formal.kernel import clang, forms, parse
from formal.kernel.clang import Cursor
from formal.kernel.errors import NotUnderstoodError
from formal.kernel.parse import NVHE_DEFINES, TranslationUnit
from formal.kernel.tree import KVM, KernelTree

_HOST = "debug sys_regs handle_exit guest arm reset hyp/exception".split()
_HYP = "debug-sr sysreg-sr switch".split()
HOST = tuple(f"{KVM}/{name}.c" for name in _HOST)
HYP = {mode: tuple(f"{KVM}/hyp/{mode}/{name}.c" for name in _HYP) for mode in ("vhe", "nvhe")}


def is_hyp(file: str, mode: str) -> bool:
    """Whether a file belongs to the hypervisor of a mode."""
    return f"/hyp/{mode}/" in file


class Resolver:
    """Parses files when they are needed, and finds functions in them."""

    def __init__(self, tree: KernelTree, constants: Iterable[str]) -> None:
        self.tree = tree
        self._constants = tuple(constants)
        self._units: dict[str, TranslationUnit] = {}
        self._locks: dict[str, Lock] = {}
        self._lock = Lock()
        self._texts: dict[str, str] = {}
        self._reviewed: set[tuple[str, str, int]] = set()

    def unit(self, file: str) -> TranslationUnit:
        """A file of the tree, parsed."""
        with self._lock:
            own = self._locks.setdefault(file, Lock())
        with own:
            if file not in self._units:
                defines = NVHE_DEFINES if is_hyp(file, "nvhe") else ()
                constants = self._constants if file.endswith("kvm/debug.c") else ()
                self._units[file] = parse.parse(self.tree, file, defines, constants)
        return self._units[file]

    def units(self) -> list[TranslationUnit]:
        """The files parsed so far."""
        return list(self._units.values())

    def functions_of(self, file: str) -> list[str]:
        """The functions defined in the text of a file itself, not in headers."""
        path = str(self.tree.path / file)
        own = [(c.location.line, name) for name, c in self.unit(file).functions.items() if clang.file_of(c) == path]
        return [name for _, name in sorted(own)]

    def find(self, name: str, mode: str, file: str | None = None) -> tuple[TranslationUnit, Cursor]:
        """A function by name: in a file, or in the first that defines it."""
        for candidate in [file] if file is not None else [*HOST, *HYP[mode]]:
            if file is None and not self._mentions(candidate, name):
                continue
            unit = self.unit(candidate)
            if name in unit.functions:
                return unit, unit.functions[name]
        if file is None:
            for candidate in HYP[mode]:  # inline functions of the hyp headers
                unit = self.unit(candidate)
                if name in unit.functions:
                    return unit, unit.functions[name]
        raise NotUnderstoodError(file or KVM, 0, f"{name} is not defined")

    def _mentions(self, file: str, name: str) -> bool:
        if file not in self._texts:
            path = self.tree.path / file
            self._texts[file] = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        return re.search(rf"\b{name}\s*\(", self._texts[file]) is not None

    def definition(self, callee: Cursor, cursor: Cursor, mode: str) -> Cursor | None:
        """The definition of a function that is called, or ``None``.

        Raises:
            NotUnderstoodError: if the definition found has another type than the declaration.
        """
        here = callee.get_definition()
        if here is not None:
            return here
        if callee.storage_class.name == "STATIC":
            return None
        caller = clang.file_of(cursor)
        inside_nvhe = f"/{KVM}/hyp/nvhe/" in cursor.translation_unit.cursor.displayname or is_hyp(caller, "nvhe")
        candidates = HYP["nvhe"] if inside_nvhe else (*HOST, *HYP[mode])
        for file in candidates:
            if not self._mentions(file, callee.spelling):
                continue
            found = self.unit(file).functions.get(callee.spelling)
            if found is None or found.storage_class.name == "STATIC":
                continue
            declared, defined = (c.type.get_canonical().spelling for c in (callee, found))
            if declared != defined:
                reason = f"{callee.spelling} is declared as {declared} and defined as {defined}"
                raise NotUnderstoodError(caller, cursor.location.line, reason)
            return found
        return None

    def reviewed(self, callee: Cursor) -> None:
        """Refuses an inline definition that is not among the reviewed forms."""
        definition = callee.get_definition()
        if definition is None:
            return
        file, line = clang.file_of(definition), definition.location.line
        if (callee.spelling, file, line) in self._reviewed:
            return
        text = self.tree.read(self.tree.relative(file)).encode()
        extent = text[definition.extent.start.offset : definition.extent.end.offset].decode(errors="replace")
        forms.known().check(callee.spelling, extent, self.tree.relative(file), line)
        self._reviewed.add((callee.spelling, file, line))
