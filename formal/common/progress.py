"""What is being done, told to whoever listens: a command that has a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Listener(Protocol):
    """Someone who waits."""

    def doing(self, what: str) -> None:
        """Work of some seconds begins."""

    def decided(self, report: Any, row: Any) -> None:
        """A verdict is there."""


_listening: list[Listener] = []


def doing(what: str) -> None:
    """Says what begins."""
    for listener in _listening:
        listener.doing(what)


def decided(report: object, row: T) -> T:
    """Says a verdict, and returns it."""
    for listener in _listening:
        listener.decided(report, row)
    return row


@contextmanager
def told(listener: Listener | None) -> Iterator[None]:
    """Someone listens to what is done inside."""
    _listening[:] = [listener] if listener is not None else []
    try:
        yield
    finally:
        silence()


def silence() -> None:
    """Nobody listens any more, such as in a process that only works for another one."""
    _listening.clear()
