"""C text of one's own, lifted by the same machine: for tests of the lifter, and for trying things out.

    program = snippet("struct kvm_vcpu { int x; }; void f(struct kvm_vcpu *vcpu) { vcpu->x++; }")
    program.lift("f", "vhe").writes["vcpu->x"]

The text may call the intrinsics of ``overlay_base.h`` and use its macros (``read_sysreg``, ``BUG_ON``, ...).
"""

from __future__ import annotations

from pathlib import Path

import clang.cindex as ci

from formal.kernel.errors import NotUnderstoodError
from formal.kernel.lift.program import Program
from formal.kernel.parse.encodings import Registers
from formal.kernel.parse.preamble import overlay_texts
from formal.kernel.parse.resolve import Resolver
from formal.kernel.parse.units import TranslationUnit, collect, included

_FILE = "/snippet/snippet.c"
_OPTIONS = ["-target", "aarch64-linux-gnu", "-nostdinc", "-std=gnu11", "-fms-extensions", "-Wno-everything"]


class _Text:
    """A tree of one file."""

    path = Path("/snippet")

    def __init__(self, text: str) -> None:
        self.text = text

    def relative(self, file: str) -> str:
        return file.removeprefix("/snippet/")

    def read(self, name: str) -> str:
        return self.text

    def plain(self, name: str) -> str:
        """The same."""
        return self.read(name)


class _TextResolver(Resolver):
    """Definitions of one text."""

    def __init__(self, text: str) -> None:
        super().__init__(_Text(text), ())
        overlay = "\n".join(text for name, text in overlay_texts().items() if "kvm" not in name)
        files = [(_FILE, text), ("/snippet/overlay.h", overlay)]
        arguments = [*_OPTIONS, "-include", "/snippet/overlay.h"]
        handle = ci.Index.create().parse(_FILE, args=arguments, unsaved_files=files)
        for diagnostic in handle.diagnostics:
            if diagnostic.severity >= ci.Diagnostic.Error:
                raise NotUnderstoodError(
                    "snippet.c", diagnostic.location.line, f"does not parse: {diagnostic.spelling}"
                )
        self._only = collect("snippet.c", handle, included(handle))
        self.note(self._only, None)

    def unit(self, file: str, mode: str = "vhe") -> TranslationUnit:
        return self._only

    def _candidates(self, name: str, mode: str, *, inline: bool = True) -> list[str]:
        return ["snippet.c"]


def snippet(text: str, capabilities: dict[int, str] | None = None) -> Program:
    """A program of one C text.

    Args:
        capabilities: names of CPU capabilities by number.

    Raises:
        NotUnderstoodError: if it does not parse.
    """
    return Program(_TextResolver(text), capabilities or {}, Registers([]))
