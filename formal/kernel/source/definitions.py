"""Where a tree defines a function: an index of the texts of KVM's files, made once, before anything is parsed.

It names candidates, the likeliest first; whether one is the definition is for the parser to say.
"""

from __future__ import annotations

import glob
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path

from formal.kernel.source.makefiles import KVM, Build

_STARTS = re.compile(r"(?m)^((?:[A-Za-z_][^;\n{}()#=]*(?:\([^;\n{}()]*\)[^;\n{}()#=]*)?[\s*])?)(\w+)[ \t]*\(")
_INCLUDES = re.compile(r'(?m)^[ \t]*#[ \t]*include[ \t]+["<]([^">]+)[">]')
_WORDS = frozenset("if for while switch return sizeof defined else do".split())
_HEADERS = (f"{KVM}/**/*.h", "arch/arm64/include/asm/kvm*.h", "include/kvm/*.h", "virt/kvm/*.h", "virt/kvm/arm/**/*.h",
            "include/linux/kvm_host.h")  # fmt: skip


class Definitions:
    """The functions that the files of KVM define, by name."""

    def __init__(self, tree: Path, build: Build, read: Callable[[str], str] | None = None) -> None:
        self._tree, self._build = tree, build
        self._read = read or (lambda name: (tree / name).read_text(encoding="utf-8", errors="replace"))

    @cached_property
    def _texts(self) -> dict[str, str]:
        files = dict.fromkeys(f for mode in ("vhe", "nvhe") for f in self._build.files(mode))
        return {f: self._read(f) for f in files}

    @cached_property
    def _sources(self) -> dict[str, list[tuple[int, str]]]:
        """The C files that define a function: those with the strongest claim first."""
        found: dict[str, list[tuple[int, str]]] = {}
        for file, text in self._texts.items():
            for name, rank in _defined(text):
                found.setdefault(name, []).append((rank, file))
        return {name: sorted(places, key=lambda p: p[0]) for name, places in found.items()}

    @cached_property
    def _headers(self) -> dict[str, str]:
        # glob.glob follows links to folders, as Path.glob does not
        paths = {Path(name) for pattern in _HEADERS for name in glob.glob(str(self._tree / pattern), recursive=True)}
        names = [path.relative_to(self._tree).as_posix() for path in sorted(paths)]
        return {name: self._read(name) for name in names}

    @cached_property
    def _inline(self) -> dict[str, list[str]]:
        """The headers that define a function."""
        found: dict[str, list[str]] = {}
        for header, text in self._headers.items():
            for name in dict.fromkeys(name for name, _ in _defined(text)):
                found.setdefault(name, []).append(header)
        return found

    @cached_property
    def _includers(self) -> dict[str, set[str]]:
        """The files that include one of a name, by the last part of the name."""
        found: dict[str, set[str]] = {}
        for file, text in (*self._texts.items(), *self._headers.items()):
            for included in _INCLUDES.findall(text):
                found.setdefault(posixpath.basename(included), set()).add(file)
        return found

    def sources(self, name: str, mode: str) -> list[str]:
        """The C files that may define a function themselves, for what runs in a mode."""
        mine = self._build.files(mode)
        return [file for _, file in self._sources.get(name, ()) if file in mine]

    def files(self, name: str, mode: str) -> list[str]:
        """The C files that may define a function for what runs in a mode: by themselves, or by what they include."""
        own, mine = self.sources(name, mode), self._build.files(mode)
        through = self._through(self._inline.get(name, ()))
        hyp_first = sorted((f for f in mine if f in through), key=lambda f: self._build.hyp_of(f, mode) is None)
        return list(dict.fromkeys((*own, *hyp_first)))

    def places(self, name: str) -> list[str]:
        """The files in whose text a function is defined, in any mode, headers last."""
        return [*(file for _, file in self._sources.get(name, ())), *self._inline.get(name, ())]

    def _through(self, headers: Iterable[str]) -> set[str]:
        reached, todo = set(headers), list(headers)
        while todo:
            for file in self._includers.get(posixpath.basename(todo.pop()), ()):
                if file not in reached:
                    reached.add(file)
                    todo.append(file)
        return reached

    def forget(self) -> None:
        """A file was changed: all is read again when it is needed."""
        for name in ("_texts", "_sources", "_headers", "_inline", "_includers"):
            self.__dict__.pop(name, None)


def _defined(text: str) -> Iterator[tuple[str, int]]:
    """The functions that a text seems to define; 0 for what the linker takes first, 1 static, 2 weak."""
    for match in _STARTS.finditer(text):
        name, before = match[2], match[1]
        if name in _WORDS:
            continue
        brace, semicolon = text.find("{", match.end()), text.find(";", match.end())
        if brace >= 0 and (semicolon < 0 or brace < semicolon):
            yield name, 2 if "__weak" in before else 1 if re.match(r"static\b", before) else 0
