"""Command lines: what the user got wrong is one line, and an option that would be ignored is refused."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from formal.common.exit_codes import ExitCode, epilog

PACKAGE = "kvm-debug-trap-proofs"


class UsageError(Exception):
    """Something that the user asked for does not exist, or cannot be."""


@dataclass(frozen=True)
class Rule:
    """What an option does not go without, or not together with; ``why`` is what it does, as a verb and its object.

    Options are named as the user writes them, an argument by its name in ``--help``.
    """

    option: str
    why: str
    needs: str = ""  # this option as well
    without: tuple[str, ...] = ()  # none of these
    only: tuple[str, ...] | None = None  # none but these


class Parser(argparse.ArgumentParser):
    """A parser that raises ``UsageError`` where argparse would print its whole usage and exit.

    Args:
        command: the name below ``formal``, such as ``prove``.
        says: what it does.
        codes: what its exit codes mean, beside those that are the same everywhere.
        rules: which options exclude each other.
        more: a line below the exit codes.
    """

    def __init__(
        self,
        command: str,
        says: str,
        codes: Mapping[ExitCode, str],
        rules: Sequence[Rule] = (),
        more: str = "",
    ) -> None:
        super().__init__(
            prog=program(command),
            description=says,
            epilog=epilog(codes, more),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self._rules = rules
        self.add_argument("--version", action=_Version, help="show the version and exit")

    def error(self, message: str) -> NoReturn:
        """Raises ``UsageError``."""
        raise UsageError(message)

    def _print_message(self, message: str, file: Any = None) -> None:
        """Prints help; argparse would not say that it could not."""
        if message:
            (file or sys.stderr).write(message)

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parses a command line.

        Raises:
            UsageError: with one line that says what is wrong.
        """
        args = self.parse_args(argv)
        given = self._given(argv)
        for rule in self._rules:
            if rule.option in given:
                _check(rule, given)
        return args

    def _given(self, argv: Sequence[str]) -> list[str]:
        """The options and arguments of a command line, by the longest name that each has."""
        was = {action: action.default for action in self._actions}
        try:
            for action in was:
                action.default = argparse.SUPPRESS
            found = vars(self.parse_args(argv))
        finally:
            for action, default in was.items():
                action.default = default
        return [_name(action) for action in self._actions if found.get(action.dest)]


class _Version(argparse.Action):
    """Looks the version up only where it is asked for: that takes as long as reading all options."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"{PACKAGE} {own_version()}")
        parser.exit()


def _name(action: argparse.Action) -> str:
    if action.option_strings:
        return max(action.option_strings, key=len)
    return str(action.metavar or action.dest)


def _check(rule: Rule, given: Sequence[str]) -> None:
    others = [name for name in given if name != rule.option]
    wrong = [n for n in others if n in rule.without or (rule.only is not None and n not in rule.only)]
    if wrong:
        raise UsageError(f"{rule.option} {rule.why}: {wrong[0]} does not go with it")
    if rule.needs and rule.needs not in others:
        raise UsageError(f"{rule.option} {rule.why}: it goes with {rule.needs}")


def program(command: str) -> str:
    """How a command was called, as ``--help`` shows it."""
    called = Path(sys.argv[0])
    one = called.name == "formal" or (called.name == "__main__.py" and called.parent.name == "formal")
    return f"formal {command}".strip() if one else f"python -m formal.{command}".rstrip(".")


def own_version() -> str:
    """The version of this package; ``unknown`` where it runs without having been installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return "unknown"


def known(what: str, name: str | None, names: Iterable[str]) -> None:
    """Refuses a name that does not exist, with the one that may have been meant.

    Raises:
        UsageError: with one line.
    """
    there = list(names)
    if name is not None and name not in there:
        near = get_close_matches(name, there, 1, 0.4)
        raise UsageError(f"unknown {what} {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))


# ---- options that are the same in all commands


def processors() -> int:
    """How many processors there are for this process."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def add_jobs(parser: argparse.ArgumentParser, default: int | None = None, says: str = "") -> None:
    """``-j N``, ``--jobs N``: how many processes work side by side; one for each processor if there is no default."""
    shown = says or "processes side by side (default: one for each processor)"
    parser.add_argument("-j", "--jobs", metavar="N", type=count, default=default or processors(), help=shown)


def add_where(parser: argparse.ArgumentParser, epochs: Iterable[str], modes: Iterable[str]) -> None:
    """``--epoch`` and ``--mode``: one release, one host mode."""
    parser.add_argument("--epoch", metavar="E", help=f"one epoch only, or a release of it (v6.1): {', '.join(epochs)}")
    parser.add_argument("--mode", choices=[*modes], help="one host mode only")


def seconds(text: str) -> float:
    """A time to wait, as an option spells it.

    Raises:
        argparse.ArgumentTypeError: if it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is no time to wait, in seconds")
    return value


def count(text: str) -> int:
    """A number from 1 up, as an option spells it.

    Raises:
        argparse.ArgumentTypeError: if it is none.
    """
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 1_000_000:
        raise argparse.ArgumentTypeError(f"{text} is no number from 1 up")
    return int(text)
