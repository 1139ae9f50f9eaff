"""What can go wrong with a kernel tree, in two families: misuse (exit code 2) and source not understood (125)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self


class KernelError(Exception):
    """Anything wrong with a kernel tree; its message is one line."""


class TreeError(KernelError):
    """The path or the configuration is not what was asked for (usage)."""


class NotUnderstoodError(KernelError):
    """The source says something that this front end does not understand, and so proves nothing about.

    ``file`` is relative to the tree; ``line`` is 0 where the reason is the file as a whole.
    """

    def __init__(self, file: str, line: int, reason: str) -> None:
        super().__init__(f"{file}:{line}: {reason}" if line else f"{file}: {reason}")
        self.file, self.line, self.reason = file, line, reason

    def __reduce__(self) -> tuple[type[Self], tuple[str, int, str]]:
        return type(self), (self.file, self.line, self.reason)  # as it comes from another process


class NotDefinedError(NotUnderstoodError):
    """The tree has no definition of a name where it is looked for."""


class Gaps:
    """What of a tree is not understood: the first is an error, or (``noted``) each is kept, with what it leaves out."""

    def __init__(self, *, noted: bool = False) -> None:
        self.noted = noted
        self.found: dict[str, NotUnderstoodError] = {}  # by function, operation or part of operations

    @contextmanager
    def at(self, what: str) -> Iterator[None]:
        """What is done inside is left undone where the source is not understood, if that is noted."""
        try:
            yield
        except NotUnderstoodError as error:
            if not self.noted:
                raise
            self.found.setdefault(what, error)
