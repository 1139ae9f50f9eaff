"""Computations in forked processes: all that they yield comes, errors too, and no more run at once than may."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from formal.common.processes import in_turn


def counted(folder: Path, number: int) -> Iterator[tuple[int, int]]:
    """Yields twice how many of its kind are at work."""
    mine = folder / str(os.getpid())
    mine.touch()
    for _ in range(2):
        time.sleep(0.02)
        yield number, len(list(folder.iterdir()))
    mine.unlink()


@pytest.mark.parametrize(("at_once", "most"), [(1, 1), (2, 2), (None, 5)])
def test_all_that_is_yielded_comes(tmp_path: Path, at_once: int | None, most: int) -> None:
    found = list(in_turn([partial(counted, tmp_path, n) for n in range(5)], at_once))
    assert sorted(number for number, _ in found) == sorted([*range(5), *range(5)])
    assert max(together for _, together in found) <= most


def test_one_at_a_time_is_in_order(tmp_path: Path) -> None:
    assert [n for n, _ in in_turn([partial(counted, tmp_path, n) for n in range(3)], 1)] == [0, 0, 1, 1, 2, 2]


def test_an_error_is_raised_and_the_rest_is_stopped(tmp_path: Path) -> None:
    def fails() -> Iterator[tuple[int, int]]:
        yield 0, 0
        raise ZeroDivisionError("oops")

    with pytest.raises(ZeroDivisionError, match="oops"):
        list(in_turn([fails, *(partial(counted, tmp_path, n) for n in range(4))], 2))
