"""What ``--base`` names: another tree, a revision of a git repository, or a series of its commits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from formal.common.lifetime import Scratch
from formal.kernel.errors import NotUnderstoodError, TreeError
from formal.kernel.source.git import Commit, Repository
from formal.kernel.source.tree import KernelTree


@dataclass(frozen=True)
class Version:
    """One tree of a comparison; ``refused`` says why it is not understood, ``unchanged`` that it is as before."""

    name: str
    tree: KernelTree | None = None
    refused: str = ""
    unchanged: bool = False


def versions(kernel: Path, base: str, config: Path | None, stack: ExitStack) -> Iterator[Version]:
    """The base, then what is held against it, one after the other; temporary files live as long as ``stack``.

    ``base`` is the root of a tree, or, where there is no such directory, a revision of the repository ``kernel`` to
    hold its files against, or ``A..B``: the commits from A to B, each against the one before it.

    Raises:
        TreeError: if it is none of these.
    """
    if Path(base).is_dir():
        yield _version(base, Path(base), config)
        yield _version(str(kernel), kernel, config)
        return
    if "..." in base:
        raise TreeError(f"{base}: a series of commits is written with two dots")
    repository = _repository(kernel, base)
    first, dots, last = base.partition("..")
    if dots:
        commits = repository.series(first, last)
        for before, commit in zip([None, *commits], commits, strict=False):
            if before is not None and repository.files(before) == repository.files(commit):
                yield Version(str(commit), unchanged=True)
            else:
                yield _commit(repository, commit, config, stack)
        return
    yield _commit(repository, repository.commit(base), config, stack)
    yield _version(str(kernel), kernel, config)


def _repository(kernel: Path, base: str) -> Repository:
    try:
        return Repository(kernel)
    except TreeError as error:
        raise TreeError(f"--base {base}: no such directory; as a revision: {error}") from error


def _commit(repository: Repository, commit: Commit, config: Path | None, stack: ExitStack) -> Version:
    folder = stack.enter_context(Scratch("kernel-commit-"))
    return _version(str(commit), repository.export(commit, folder), config)


def _version(name: str, path: Path, config: Path | None) -> Version:
    try:
        return Version(name, KernelTree(path, config))
    except NotUnderstoodError as error:
        return Version(name, refused=str(error))
