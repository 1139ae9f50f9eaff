"""The commands that write files: how each is run quickly, and what each option of it writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from xml.etree import ElementTree as ET

import pytest

E = ("--epoch", "E8", "--mode", "vhe")
CLAIM = "guest_mdscr_preserved"


def _json(text: str) -> bool:
    return isinstance(json.loads(text), dict)


def _xml(text: str) -> bool:
    return ET.fromstring(text).tag == "testsuites"


def _begins(start: str) -> Callable[[str], bool]:
    return lambda text: text.startswith(start)


@dataclass(frozen=True)
class Command:
    """A command line, and what its options write.

    Attributes:
        name: as messages begin with, after ``formal.``.
        words: the command line without the options that write.
        writes: options that write a file, each with a check of what is written.
        fills: options and arguments that fill a folder; "" is an argument.
        says: what the command prints in any case.
        quick: what to replace so that it is quick: dotted name, and by what.
        works: where the work starts: a dotted name.
    """

    name: str
    words: tuple[str, ...]
    says: str
    works: str
    writes: Mapping[str, Callable[[str], bool]] = field(default_factory=dict)
    fills: tuple[str, ...] = ()
    quick: Mapping[str, Callable[..., object]] = field(default_factory=dict)

    def prepare(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Replaces what takes long."""
        for name, by in self.quick.items():
            monkeypatch.setattr(name, by)

    def must_not_work(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Makes the test fail if the work starts."""
        monkeypatch.setattr(self.works, lambda *_, **__: pytest.fail("the work has started"))

    def run(self, option: str, place: str) -> int:
        """Runs it in this process; the exit code."""
        from importlib import import_module

        first, *rest = self.name.split(" ")
        main = import_module(f"formal.commands.{first}").main
        code: int = main([*rest, *self.words, *([option] if option else []), place])
        return code


def _nothing(*_: object, **__: object) -> list[object]:
    return []


def _cpu_report(*_: object) -> object:
    from formal.conform.cpu.cpu import Report
    from formal.conform.cpu.deviations import Book

    return Report("8.0.1", Book((8, 0, 1)), [], 1.0)


def _recording(*_: object, **__: object) -> object:
    from formal.conform.boot.boot import Recording
    from tests.conftest import ROOT

    trace = (ROOT / "tests/conform/golden/6.1-vhe.txt").read_text(encoding="utf-8")
    return Recording("6.1.0-1", "v", "vhe", 2, trace, (), ())


def _emulator(*_: object) -> object:
    from formal.conform.machine.emulator import Qemu

    return Qemu("q", (8, 0, 1), "8.0.1")


def _image(*_: object) -> object:
    from pathlib import Path

    from formal.conform.boot.debian import Image

    return Image("6.1", Path("vmlinuz"))


COMMANDS = (
    Command(
        "prove",
        (*E, "--claim", CLAIM, "-j", "1"),
        CLAIM,
        "formal.matrix.schedule.run_all",
        {"--json": _json, "--junit": _xml, "--sarif": _json, "--ktap": _begins("KTAP version 1\n1..1\n")},
    ),
    Command(
        "prove",
        (*E, "--explain", CLAIM, "-j", "1"),
        CLAIM,
        "formal.matrix.schedule.run_all",
        {"--vcd": _begins("$"), "--pytest": _begins('"""')},
    ),
    Command(
        "mutate",
        ("tree",),
        "0 edits",
        "formal.commands.mutate.sites",
        {"--json": _json},
        quick={"formal.commands.mutate.sites": _nothing, "formal.commands.mutate.KernelTree": _nothing},
    ),
    Command(
        "conform cpu",
        (),
        "no unexplained difference",
        "formal.conform.commands.cpu.conform",
        {"--json": _json},
        quick={"formal.conform.commands.cpu.conform": _cpu_report},
    ),
    Command(
        "conform monitor",
        (),
        "claims at every entry",
        "formal.conform.commands.monitor.monitor",
        {"--dot": _begins("digraph"), "--bpftrace": _begins("#!/usr/bin/env bpftrace"), "--probes": _begins("#")},
    ),
    Command(
        "conform kernel",
        ("--mode", "vhe"),
        "6.1.0-1 vhe",
        "formal.conform.commands.kernel.boot",
        fills=("--output",),
        quick={
            "formal.conform.commands.kernel.boot": _recording,
            "formal.conform.commands.kernel.image": _image,
            "formal.conform.machine.emulator.find": _emulator,
        },
    ),
    Command("export", ("--only", "E0-nvhe"), "E0 nvhe", "formal.commands.export.system", fills=("",)),
    Command("check", ("--only", "E0-nvhe"), "E0 nvhe", "formal.commands.check.checked", fills=("--export",)),
)
