"""The marks that vm/init.c leaves in a trace, scenario by scenario: "conform: VERB key=value ..."."""

from __future__ import annotations

import re
from dataclasses import dataclass


class MissingMarkError(Exception):
    """A mark that a scenario should have left; the message says which."""


@dataclass(frozen=True)
class Mark:
    """One mark, and its line number in the passage."""

    verb: str
    fields: dict[str, str]
    line: int

    def __getitem__(self, key: str) -> str:
        if key not in self.fields:
            raise MissingMarkError(f"the mark {self.verb} has no {key}")
        return self.fields[key]


@dataclass(frozen=True)
class Passage:
    """The lines of a trace that belong to one scenario, and the marks among them."""

    name: str
    lines: tuple[str, ...]
    marks: tuple[Mark, ...]

    def all(self, verb: str, **fields: str) -> list[Mark]:
        """The marks with this verb and these values, in order."""
        return [m for m in self.marks if m.verb == verb and fields.items() <= m.fields.items()]

    def last(self, verb: str, **fields: str) -> Mark:
        """The last of them.

        Raises:
            MissingMarkError: if there is none.
        """
        found = self.all(verb, **fields)
        if not found:
            raise MissingMarkError(f"the scenario {self.name} left no mark {verb}")
        return found[-1]


def passages(trace: str) -> dict[str, Passage]:
    """The scenarios of a recording, by name."""
    found = {}
    for block in re.split(r"^(?=[^#\n]*: conform: scenario name=)", trace, flags=re.M)[1:]:
        lines = tuple(line.rstrip() for line in block.splitlines())
        marks = []
        for number, line in enumerate(lines):
            if said := re.search(r": conform: (\w+)(.*)", line):
                marks.append(Mark(said[1], dict(re.findall(r"(\w+)=(\S*)", said[2])), number))
        found[marks[0]["name"]] = Passage(marks[0]["name"], lines, tuple(marks))
    return found
