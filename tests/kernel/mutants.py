"""Changed copies of a kernel tree, cheaply: symbolic links to everything but the changed file."""

from __future__ import annotations

from pathlib import Path

from formal.kernel.lift.program import Program, load
from formal.kernel.source.tree import KernelTree


def linked_copy(tree: Path, copy: Path, file: str) -> Path:
    """A copy of ``tree`` in which ``file``, and what was copied before, are files of their own; returns that file."""
    source, target = tree, copy
    for part in Path(file).parts:
        if target.is_symlink():
            target.unlink()  # never written through: it leads into the tree itself
        target.mkdir(parents=True, exist_ok=True)
        for entry in source.iterdir():
            if not (target / entry.name).exists():
                (target / entry.name).symlink_to(entry)
        source, target = source / part, target / part
    if target.is_symlink():
        target.unlink()
    if not target.exists():
        target.write_bytes(source.read_bytes())
    return target


def mutant(base: KernelTree, copy: Path, file: str, old: str, new: str) -> Program:
    """The program of a copy of the tree in which ``old`` reads ``new``."""
    changed = linked_copy(base.path, copy, file)
    text = changed.read_text()
    assert old in text, f"{file} does not contain {old!r}"
    changed.write_text(text.replace(old, new, 1))
    tree = KernelTree(copy)
    # The configuration and the generated headers are those of the base: reading Kconfig again takes a second.
    tree.__dict__["autoconf"] = base.autoconf
    tree.__dict__["_directory"] = base._directory
    return load(tree)
