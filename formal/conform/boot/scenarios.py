"""The scenarios by name, from vm/scenarios.txt (its head explains the commands)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from formal.common.places import FORMAL

SCENARIOS = FORMAL / "conform" / "vm" / "scenarios.txt"


class UnknownScenarioError(Exception):
    """A scenario that is not there; the message says which name is near."""


def read(path: Path = SCENARIOS) -> dict[str, str]:
    """Every scenario: its name and its commands, the ``scenario`` line included, in the order of the file.

    Raises:
        ValueError: if a name comes twice.
    """
    found: dict[str, str] = {}
    for block in re.split(r"^(?=scenario )", path.read_text(encoding="utf-8"), flags=re.M)[1:]:
        name = block.split()[1]
        if name in found:
            raise ValueError(f"{path.name}: the scenario {name} is there twice")
        found[name] = block.strip() + "\n"
    return found


def choose(names: Sequence[str]) -> str:
    """The script of the scenarios with these names, or of all.

    Raises:
        UnknownScenarioError: if there is no such scenario.
    """
    every = read()
    for name in names:
        if name not in every:
            near = difflib.get_close_matches(name, every, 1)
            raise UnknownScenarioError(
                f"no scenario {name}" + (f"; did you mean {near[0]}?" if near else f"; there are {', '.join(every)}")
            )
    return "\n".join(text for name, text in every.items() if not names or name in names)
