"""What can go wrong with a kernel tree, in two families: misuse (exit code 2) and source not understood (125)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

DOES_NOT_PARSE = "does not parse: "  # how a reason begins that is a compiler's message


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


@dataclass(frozen=True)
class Gap:
    """Something of a tree that is not understood, or not as the specification has it: a place and a reason.

    ``of`` are the operations and parts of operations that it belongs to, by name or by C function; none: all that KVM
    does. With ``writes`` (places as ``formal.kernel.recognition.scan`` calls them, ``f()`` for all that a function may
    write) it is a step of its own, which may come at any time, and in the functions that it belongs to. ``broken`` is
    whether the C was understood, so that operations do what others should; ``untimely`` whether they may happen at
    other times too.
    ``unless`` is a function and its file: the gap is none where that is compared; if ``lifted``, where that is lifted,
    or where it is not executed though ``callers``, which are all that call it, are.
    """

    file: str
    line: int
    reason: str
    of: frozenset[str] = frozenset()
    writes: frozenset[str] | None = None
    broken: bool = False
    untimely: bool = False
    unless: tuple[str, str] | None = None
    lifted: bool = False
    callers: frozenset[tuple[str, str]] = frozenset()

    def __str__(self) -> str:
        return str(NotUnderstoodError(self.file, self.line, self.reason))

    @property
    def place(self) -> tuple[str, int, str]:
        """What tells one from another: file, line (0 for the file as a whole) and reason."""
        return self.file, self.line, self.reason


@dataclass
class Gaps:
    """What of a tree is not understood: the first is an error, or (``noted``) each is kept, with what it belongs to."""

    noted: bool = False
    found: list[Gap] = field(default_factory=list)

    @contextmanager
    def at(self, *of: str, writes: str | None = None, untimely: bool = False) -> Iterator[None]:
        """What is done inside is left undone where the source is not understood, if that is noted."""
        try:
            yield
        except NotUnderstoodError as error:
            if not self.noted:
                raise
            places = None if writes is None else frozenset((writes,))
            self.found.append(Gap(error.file, error.line, error.reason, frozenset(of), places, untimely=untimely))
