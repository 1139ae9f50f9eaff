"""A copy of a kernel tree in which one edit at a time is made and compared."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from formal.engines.equality import Questions
from formal.epochs import Mode
from formal.kernel.compare.behaviours import DEBUG_C
from formal.kernel.errors import Gaps
from formal.kernel.lift.program import Program, files_for, load
from formal.kernel.model.binding import Binding
from formal.kernel.recognition.scan import Found, check
from formal.kernel.recognition.writers import hinges, knows
from formal.kernel.source.tree import KVM, KernelTree
from formal.kernel.text.signs import read
from formal.kernel.text.tokens import tokens
from formal.scope.manifest import Manifest
from formal.tree import reading
from formal.tree.verdicts import TreeJob, TreeReport, _check_claims, compare
from tests.conftest import COPIES, PROOFS
from tests.kernel.conftest import tree_path
from tests.kernel.mutants import linked_copy

FOLDERS = (KVM, "arch/arm64/include/asm", "arch/arm64/kernel", "include/kvm", "virt/kvm")  # what may be edited
HEADER = "include/linux/kvm_host.h"  # and this


class Copy:
    """A copy of a tree in which one file at a time is edited."""

    def __init__(self, version: str, place: Path) -> None:
        base = KernelTree(tree_path(version))
        for folder in filter(lambda name: (base.path / name).is_dir(), FOLDERS):
            file = next(path.name for path in (base.path / folder).iterdir() if path.is_file())
            linked_copy(base.path, place, f"{folder}/{file}")  # makes the folders on the way
            shutil.rmtree(place / folder)
            shutil.copytree(base.path / folder, place / folder, symlinks=True)
        linked_copy(base.path, place, HEADER)
        self.tree = KernelTree(place)
        self.tree.__dict__["autoconf"] = base.autoconf
        self.program: Program = load(self.tree, files_for(self.tree, "vhe", "nvhe"))
        self.ask = Questions(60.0)
        self._searched: Found = {}

    def report(self, file: str, edits: dict[str, str], mode: Mode, claims: tuple[str, ...] = ()) -> TreeReport:
        """What becomes of an edit; the file is as before afterwards."""
        with self.edited(file, edits):
            return self.read(mode, claims)

    def whole(self, file: str, edits: dict[str, str], mode: Mode) -> TreeReport:
        """The same as ``--kernel`` sees it, before any claim: helpers are found, and functions of other names."""
        with self.edited(file, edits):
            try:
                gaps = Gaps(noted=True)
                gaps.found += reading._search(self.tree)[0]
                binding = Binding.of(self.program, gaps)
                return compare(self.program, binding, read(self.tree, gaps), mode, self.ask, gaps.found)
            finally:
                self.tree.searched, self.tree.renamed, self.tree.helpers = None, {}, frozenset()

    @contextmanager
    def edited(self, file: str, edits: dict[str, str]) -> Iterator[None]:
        """The file with something replaced in it."""
        path = self.tree.path / file
        assert path.resolve().is_relative_to(self.tree.path.resolve()), f"{file} is the tree's own"
        text = changed = path.read_text()
        touched: set[str] = set()
        for old, new in edits.items():
            assert old in changed, f"{file} does not contain {old!r}"
            same = _common(old, new)
            end = len(old) - _common(old[same:][::-1], new[same:][::-1])
            first = changed[: changed.find(old) + same].count("\n") + 1
            last = first + old[same:end].count("\n")
            touched |= {w.function for w in tokens(changed) if first <= w.line <= last}
            changed = changed.replace(old, new, 1)
            last = first + new[same : len(new) - len(old) + end].count("\n")
            touched |= {w.function for w in tokens(changed) if first <= w.line <= last}
        bodies = bool(touched) and all(map(str.isidentifier, touched))  # else any of the file may see it
        if not bodies:
            touched = {file, *(word.function for both in (text, changed) for word in tokens(both))}
        code = file.endswith(".c") or (bodies and file.endswith(".h"))
        inside = touched if code else None  # else all that is made of the tree
        resolver, written = self.program.resolver, path.stat()
        tables = [(of, name, dict(getattr(of, name))) for of, name in
                  ((self.program, "_kept"), (resolver, "_units"), (resolver, "_preambles"))]  # fmt: skip
        path.write_text(changed)
        self.program.forget(file, inside)
        try:
            yield
        finally:
            path.write_text(text)
            os.utime(path, ns=(written.st_atime_ns, written.st_mtime_ns))
            self.program.forget(file, inside)
            for of, name, before in tables:  # what was true of the text before is true of it again
                setattr(of, name, getattr(of, name) | before)

    def read(self, mode: Mode, claims: tuple[str, ...] = ()) -> TreeReport:
        """The tree as it is now."""
        gaps = Gaps(noted=True)
        check(self.tree, knows, (DEBUG_C,), self._searched, gaps, hinges)
        binding = Binding.of(self.program, gaps)
        report = compare(self.program, binding, read(self.tree, gaps), mode, self.ask, gaps.found)
        if claims:
            manifest = Manifest.read(PROOFS / "manifest.toml")
            _check_claims(TreeJob(self.tree, (mode,), claims, PROOFS, manifest, 60.0), report)
        return report


def said(report: TreeReport) -> list[str]:
    """All that a comparison tells of a tree."""
    differing = (f"{c.function} differs in {', '.join(c.differs_in)}" for c in report.compared if not c.equal)
    return [*map(str, report.gaps), *report.omitted.values(), *report.problems, *differing]


@lru_cache(maxsize=2)  # each takes a gigabyte
def copy_of(version: str) -> Copy:
    """The copy of a release that all tests of a process share: what is read of it is read once."""
    place = Path(tempfile.mkdtemp(prefix="kernel-copy-"))
    COPIES.append(place)
    return Copy(version, place / "linux")


def _common(old: str, new: str) -> int:
    """How many characters two texts begin with alike."""
    return next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
