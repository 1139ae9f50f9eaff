"""Computations in forked processes: one while the caller goes on, or several at a time."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from formal.common.lifetime import end_with_parent
from formal.common.progress import silence

T = TypeVar("T")


class Beside(Generic[T]):
    """``work()`` in a forked process; without ``fork``, in this one, when the result is asked for.

    To be used in a ``with`` statement: the process does not outlive it. Results and exceptions must be picklable.
    """

    def __init__(self, work: Callable[[], T], *, fork: bool) -> None:
        self._work, self._fork = work, fork

    def __enter__(self) -> Self:
        if self._fork:
            context = get_context("fork")
            self._reader, writer = context.Pipe(duplex=False)
            self._process = context.Process(target=_run, args=(self._work, writer), daemon=True)
            self._process.start()
            writer.close()
        return self

    def result(self) -> T:
        """What ``work()`` returns; asked for once.

        Raises:
            EOFError: if the process died.
            Exception: what ``work()`` raises.
        """
        if not self._fork:
            return self._work()
        kind, value = self._reader.recv()
        if kind is _ERROR:
            raise value
        return value  # type: ignore[no-any-return]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._fork:
            self._process.terminate()
            self._process.join()
            self._reader.close()


def in_turn(works: Sequence[Callable[[], Iterator[T]]], at_once: int | None = None) -> Iterator[T]:
    """What several computations yield, each in a forked process, as it comes.

    The processes do not outlive the iterator. No threads are used, since forking does not go with them.

    Args:
        at_once: how many processes there are at a time; all if not given.

    Raises:
        EOFError: if a process died.
        Exception: what a computation raises.
    """
    context = get_context("fork")
    running: dict[Connection[Any, Any], BaseProcess] = {}
    left = iter(works)

    def start(work: Callable[[], Iterator[T]]) -> None:
        reader, writer = context.Pipe(duplex=False)
        process = context.Process(target=_run_all, args=(work, writer), daemon=True)
        process.start()
        writer.close()
        running[reader] = process

    def end(reader: Connection[Any, Any]) -> None:
        process = running.pop(reader)
        process.terminate()
        process.join()
        reader.close()

    try:
        for work in islice(left, at_once):
            start(work)
        while running:
            for reader in [r for r in wait(running) if isinstance(r, Connection)]:
                kind, value = reader.recv()
                if kind is _ERROR:
                    raise value
                if kind is _VALUE:
                    yield value
                else:
                    end(reader)
                    for work in islice(left, 1):
                        start(work)
    finally:
        for reader in list(running):
            end(reader)


_VALUE, _END, _ERROR = True, None, False  # what a message is


def _run_all(work: Callable[[], Iterator[object]], writer: Connection[Any, Any]) -> None:
    _quiet()
    try:
        for value in work():
            writer.send((_VALUE, value))
        writer.send((_END, None))
    except Exception as error:
        writer.send((_ERROR, error))


def _run(work: Callable[[], object], writer: Connection[Any, Any]) -> None:
    _quiet()
    try:
        writer.send((_VALUE, work()))
    except Exception as error:
        writer.send((_ERROR, error))


def _quiet() -> None:
    silence()
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
