"""Lines of prose on terminals of any width."""

from __future__ import annotations

import os
import sys

import pytest

from formal.report.grid import fold

LINE = "  and so kvm_arm_vcpu_init_debug, kvm_arm_setup_debug, which run it, on every state"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr("formal.report.grid.get_terminal_size", lambda: os.terminal_size((40, 24)))


@pytest.mark.usefixtures("terminal")
def test_prose_is_broken_between_words_and_stays_in() -> None:
    told = fold(LINE)
    assert len(told) > 1 and all(line.startswith("  ") and len(line) <= 40 for line in told)
    assert " ".join(line.strip() for line in told) == LINE.strip()


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("line", ["", "arch/arm64/kvm/debug.c:103: error: os_registers (vhe): While a guest runs."])
def test_what_stays_one_line(line: str) -> None:
    assert fold(line) == [line]


def test_where_nothing_is_a_terminal_lines_are_as_they_are() -> None:
    assert fold(LINE) == [LINE]
