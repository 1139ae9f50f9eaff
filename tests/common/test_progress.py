"""Who listens hears what is done, and nobody else; a process that works for another one says nothing."""

from __future__ import annotations

from typing import Any

import pytest

from formal.common import progress
from formal.common.processes import Beside


class Ear:
    def __init__(self) -> None:
        self.heard: list[object] = []

    def doing(self, what: str) -> None:
        self.heard.append(what)

    def decided(self, report: Any, row: Any) -> None:
        self.heard.append((report, row))


def test_what_is_done_is_told_until_the_end() -> None:
    ear = Ear()
    progress.doing("before")
    with progress.told(ear):
        progress.doing("now")
        assert progress.decided("report", "row") == "row"
    progress.doing("after")
    with pytest.raises(ValueError, match="x"), progress.told(ear):
        raise ValueError("x")
    progress.doing("after an error")
    with progress.told(None):
        progress.doing("to nobody")
    assert ear.heard == ["now", ("report", "row")]


def _says() -> list[object]:
    progress.doing("in a process of its own")
    return list(progress._listening)


def test_a_forked_process_is_silent() -> None:
    ear = Ear()
    with progress.told(ear), Beside(_says, fork=True) as beside:
        assert beside.result() == []
        progress.doing("here")
    assert ear.heard == ["here"]
