"""What can go wrong with a kernel tree, in two families: misuse (exit code 2) and source not understood (125)."""

from __future__ import annotations

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
