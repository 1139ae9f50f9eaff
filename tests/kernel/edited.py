"""A copy of a kernel tree in which one edit at a time is made and compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from formal.engines.equality import Questions
from formal.epochs import Mode
from formal.kernel.compare.behaviours import DEBUG_C
from formal.kernel.errors import Gaps
from formal.kernel.lift.program import Program, files_for, load
from formal.kernel.model.binding import Binding, flags_of
from formal.kernel.recognition.scan import check
from formal.kernel.recognition.writers import hinges, knows
from formal.kernel.source.tree import KernelTree
from formal.kernel.text.signs import read
from formal.kernel.text.tokens import tokens
from formal.scope.manifest import Manifest
from formal.tree.verdicts import TreeJob, TreeReport, _check_claims, compare
from tests.conftest import PROOFS
from tests.kernel.conftest import tree_path
from tests.kernel.mutants import linked_copy


class Copy:
    """A copy of the tree in which one file at a time is edited."""

    def __init__(self, version: str, files: Iterable[str], place: Path) -> None:
        base = KernelTree(tree_path(version))
        for file in files:
            linked_copy(base.path, place, file)
        self.tree = KernelTree(place)
        self.tree.__dict__["autoconf"] = base.autoconf
        self.program: Program = load(self.tree, files_for(self.tree, "vhe", "nvhe"))
        self.ask = Questions(60.0)

    def report(self, file: str, edits: dict[str, str], mode: Mode, claims: tuple[str, ...] = ()) -> TreeReport:
        """What becomes of an edit; the file is as before afterwards."""
        with self.edited(file, edits):
            return self.read(mode, claims)

    @contextmanager
    def edited(self, file: str, edits: dict[str, str]) -> Iterator[None]:
        """The file with something replaced in it."""
        path = self.tree.path / file
        text = changed = path.read_text()
        touched: set[str] = set()
        for old, new in edits.items():
            assert old in changed, f"{file} does not contain {old!r}"
            first = changed[: changed.find(old)].count("\n") + 1
            touched |= {w.function for w in tokens(changed) if first <= w.line <= first + old.count("\n")}
            changed = changed.replace(old, new, 1)
        known = file.endswith(".c") and all(map(str.isidentifier, touched))
        inside = touched if known else None  # else all that is made of the tree
        path.write_text(changed)
        self.program.forget(file, inside)
        try:
            yield
        finally:
            path.write_text(text)
            self.program.forget(file, inside)

    def read(self, mode: Mode, claims: tuple[str, ...] = ()) -> TreeReport:
        """The tree as it is now."""
        gaps = Gaps(noted=True)
        check(self.tree, knows, (DEBUG_C,), gaps=gaps, hinges=hinges)
        binding = Binding(flags_of(self.tree, gaps=gaps))
        report = compare(self.program, binding, read(self.tree, gaps), mode, self.ask, gaps.found)
        if claims:
            manifest = Manifest.read(PROOFS / "manifest.toml")
            _check_claims(TreeJob(self.tree, (mode,), claims, PROOFS, manifest, 60.0), report)
        return report
