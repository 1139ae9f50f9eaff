"""Which definition a name means: that of the same file, else the one file that defines it for the linker.

The host's part of KVM and the hypervisor's parts (hyp/vhe, hyp/nvhe) are separate programs in this respect: the nVHE
hypervisor is linked on its own, and a hypercall from the host runs the function of the mode in use.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence
from threading import Lock
from weakref import WeakKeyDictionary

from formal.kernel.errors import NotDefinedError, NotUnderstoodError
from formal.kernel.parse import clang
from formal.kernel.parse.clang import Cursor
from formal.kernel.parse.evaluated import evaluated
from formal.kernel.parse.parser import parse
from formal.kernel.parse.preamble import Preamble, hyp_flags, parse_preamble
from formal.kernel.parse.units import TranslationUnit
from formal.kernel.source.tree import KVM, KernelTree, Sources
from formal.kernel.text import forms

KEPT = 12  # files kept parsed: each takes 30 MB or more; others are parsed again when they are needed
_HOST = "debug sys_regs handle_exit guest arm reset inject_fault aarch32 arch_timer".split()
_HYP = "debug-sr sysreg-sr switch".split()
_SHARED = (f"{KVM}/hyp/exception.c", f"{KVM}/hyp/aarch32.c")  # compiled once into each hypervisor
HOST = tuple(f"{KVM}/{name}.c" for name in _HOST)
NESTED = (f"{KVM}/nested.c", f"{KVM}/emulate-nested.c")  # of the host; looked at last, and for definitions only
HYP = {mode: (*(f"{KVM}/hyp/{mode}/{name}.c" for name in _HYP), *_SHARED) for mode in ("vhe", "nvhe")}


def _names(includes: Iterable[str], path: str) -> bool:
    """Whether a file is among those included, which may be named by way of other folders."""
    end = f"/{posixpath.basename(path)}"
    return any(name.endswith(end) and posixpath.normpath(name) == path for name in includes)


class Resolver:
    """Parses files when they are needed, and finds functions in them."""

    def __init__(self, tree: Sources, constants: Iterable[str]) -> None:
        self.tree = tree
        self._constants = tuple(constants)
        self._preambles: dict[str | None, Preamble] = {}
        self._units: dict[tuple[str, str | None], TranslationUnit] = {}  # the last one used is the last
        self._hyps: WeakKeyDictionary[Cursor, str | None] = WeakKeyDictionary()  # of each of libclang's units
        self._broken: WeakKeyDictionary[Cursor, dict[str, NotUnderstoodError]] = WeakKeyDictionary()
        self.parsed: dict[str, None] = {}  # the files parsed so far, by name, the first one first
        self.opened: set[str] = set()  # the paths of the files that libclang has opened so far
        self._tracepoints: WeakKeyDictionary[Cursor, set[str]] = WeakKeyDictionary()  # of each of libclang's units
        self._locks: dict[tuple[str, str | None], Lock] = {}
        self._lock = Lock()

    def unit(self, file: str, mode: str = "vhe") -> TranslationUnit:
        """A file of the tree, parsed as for a mode (which matters only to files that both hypervisors compile)."""
        key = (file, self._hyp_of(file, mode))
        with self._lock:
            own = self._locks.setdefault(key, Lock())
        with own:
            unit = self._units.get(key)
            if unit is None:
                assert isinstance(self.tree, KernelTree)
                constants = self._constants if file == f"{KVM}/debug.c" else ()
                unit = parse(self.tree, self._preamble(self.tree, key[1]), file, constants)
                self.note(unit, key[1])
            with self._lock:
                self._units.pop(key, None)
                self._units[key] = unit
                while len(self._units) > KEPT:
                    del self._units[next(iter(self._units))]
        return unit

    def evaluated(
        self, expressions: Iterable[str], conditions: Sequence[str] = (), chosen: Iterable[str] = ()
    ) -> dict[str, int]:
        """Integer expressions of the host's headers that have a value, in 64 bits, and conditions of ``#if``."""
        assert isinstance(self.tree, KernelTree)
        return evaluated(self._preamble(self.tree, None), expressions, conditions, chosen)

    def _hyp_of(self, file: str, mode: str) -> str | None:
        """The hypervisor (``vhe`` or ``nvhe``) for which a file is compiled; ``None`` for the host's files."""
        return self.tree.build.hyp_of(file, mode) if isinstance(self.tree, KernelTree) else None

    def _candidates(self, name: str, mode: str, *, inline: bool = True) -> list[str]:
        """The files that may define a function for what runs in a mode, the likeliest first.

        Args:
            inline: those too that include a header which defines it.
        """
        assert isinstance(self.tree, KernelTree)
        places = self.tree.definitions
        return places.files(name, mode) if inline else places.sources(name, mode)

    def note(self, unit: TranslationUnit, hyp: str | None) -> None:
        """A file was parsed, for a hypervisor or the host."""
        with self._lock:
            self.parsed[unit.file] = None
            self.opened |= unit.includes
            self._tracepoints[unit.handles[0]] = unit.tracepoints
            self._broken[unit.handles[0]] = unit.broken
            for handle in unit.handles:
                self._hyps[handle] = hyp

    def _preamble(self, tree: KernelTree, hyp: str | None) -> Preamble:
        with self._lock:
            own = self._locks.setdefault(("", hyp), Lock())
        with own:
            if hyp not in self._preambles:
                made = parse_preamble(tree, hyp_flags(tree, hyp) if hyp is not None else ())
                with self._lock:
                    self._tracepoints[made.headers.handles[0]] = made.headers.tracepoints
                self._preambles[hyp] = made
        return self._preambles[hyp]

    def is_tracepoint(self, name: str, cursor: Cursor) -> bool:
        """Whether a tracepoint is declared in the file of a cursor or in its headers; other files do not matter."""
        with self._lock:
            return name in self._tracepoints[cursor.translation_unit]

    def forget(self, file: str) -> None:
        """A file was changed in place: units that include it are parsed again when they are needed."""
        path = str(self.tree.path / file)
        if isinstance(self.tree, KernelTree):
            self.tree.definitions.forget()
        self._preambles = {hyp: p for hyp, p in self._preambles.items() if not _names(p.headers.includes, path)}
        for key, unit in list(self._units.items()):
            if key[0] == file or _names(unit.includes, path):
                del self._units[key]

    def release(self) -> None:
        """Lets go of all that was parsed; what is needed again is parsed again."""
        self._units.clear()
        self._preambles.clear()

    def functions_of(self, file: str) -> list[str]:
        """The functions defined in the text of a file itself, not in headers."""
        path = str(self.tree.path / file)
        own = [(c.location.line, name) for name, c in self.unit(file).functions.items() if clang.file_of(c) == path]
        return [name for _, name in sorted(own)]

    def find(self, name: str, mode: str, file: str | None = None) -> tuple[TranslationUnit, Cursor]:
        """A function by name: in a file, if the tree has that, or in the first that defines it."""
        there = file is not None and (self.tree.path / file).is_file()
        for candidate in [file] if file is not None and there else self._candidates(name, mode):
            unit = self.unit(candidate, mode)
            if name in unit.broken:
                raise unit.broken[name]
            if name in unit.functions:
                return unit, unit.functions[name]
        raise NotDefinedError(file or KVM, 0, f"{name} is not defined")

    def defines(self, name: str, mode: str, file: str | None = None) -> bool:
        """Whether ``find`` finds a function."""
        try:
            self.find(name, mode, file)
        except NotDefinedError:
            return False
        return True

    def definition(self, callee: Cursor, cursor: Cursor, mode: str) -> Cursor | None:
        """The definition of a function that is called, or ``None``.

        Raises:
            NotUnderstoodError: if the definition found does not parse, or has another type than the declaration.
        """
        here = callee.get_definition()
        if here is not None:
            if error := self._broken.get(here.translation_unit, {}).get(callee.spelling):
                raise error
            return here
        if callee.storage_class.name == "STATIC":
            return None
        caller = clang.file_of(cursor)
        within = self._hyps.get(cursor.translation_unit)
        for file in self._candidates(callee.spelling, within or mode, inline=False):
            if within == "nvhe" and self._hyp_of(file, within) != within:
                continue  # the nVHE hypervisor is linked on its own
            unit = self.unit(file, mode)
            if callee.spelling in unit.broken:
                raise unit.broken[callee.spelling]
            found = unit.functions.get(callee.spelling)
            if found is None or found.storage_class.name == "STATIC":
                continue
            declared, defined = (c.type.get_canonical().spelling for c in (callee, found))
            if declared != defined:
                reason = f"{callee.spelling} is declared as {declared} and defined as {defined}"
                raise NotUnderstoodError(caller, cursor.location.line, reason)
            return found
        return None

    def hyp_at(self, cursor: Cursor) -> str | None:
        """The hypervisor for which the file of a cursor is compiled; ``None`` for the host."""
        return self._hyps.get(cursor.translation_unit)

    def spelled(self, cursor: Cursor) -> str:
        """What stands between the parentheses of an assembly statement, as its source (or a macro's) spells it."""
        name, offset = clang.spelling_place(cursor)
        if not name:
            return ""
        whole = self.tree.plain(self.tree.relative(name)).encode()
        text = forms.without_comments(whole[offset:].decode(errors="replace"))
        text = text[: text.find(";") + 1 or None].replace("\\\n", "\n")
        start, end = text.find("("), text.rfind(")")
        return text[start + 1 : end] if 0 <= start < end else ""

    def source(self, cursor: Cursor) -> tuple[str, int, str]:
        """File (below the tree), line and text of a piece of source."""
        file = self.tree.relative(clang.file_of(cursor))
        start, end = cursor.extent.start, cursor.extent.end
        if start.offset >= end.offset:  # wholly from a macro: its expansion's line stands for it
            return file, start.line, self.tree.read(file).split("\n")[start.line - 1].strip()
        return file, start.line, self.tree.plain(file).encode()[start.offset : end.offset].decode(errors="replace")
