"""The document, sentence by sentence: our words, claims that answer it, verdicts; for a screen, or as Markdown."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from formal.epochs import EPOCHS
from formal.matrix.configuration_run import Report, Row
from formal.properties import CLAIMS
from formal.report.grid import Cell, Grid
from formal.scope.assumptions import ASSUMED, NOT_MODELLED
from formal.scope.configuration import Configuration
from formal.scope.document import DOCUMENT
from formal.scope.findings import FINDINGS
from formal.vocabulary import Claim

_AROUND = "around the document"
_AROUND_SAYS = "claims from other comments, the Arm ARM, and what they need."
_BY_NAME = {c.name: c for c in CLAIMS}


def unanswered() -> list[str]:
    """Sentences without a claim, and claims that do not exist."""
    return [s.place for s in DOCUMENT if not s.claims] + [
        f"{s.place}: {name}" for s in DOCUMENT for name in s.claims if name not in _BY_NAME
    ]


def causes(claim: Claim, c: Configuration) -> Iterator[str]:
    """Why a claim is false for a kernel, as far as it is known, with the upstream fix."""
    kernel = c.kernel()
    for finding in FINDINGS:
        if claim.name in finding.claims and finding.applies(kernel):
            yield f"known: {finding.says} Fixed upstream: {finding.fix}."


_BOUNDARY = re.compile(r"\. | - |: ")


def originals(debug_c: str) -> dict[str, str]:
    """The sentences of the document as a tree's own comments have them, by place."""
    paragraphs = (re.sub(r"\n[ \t]*\*[ \t]*(?=\n)", ". ", text) for text in re.findall(r"/\*(.*?)\*/", debug_c, re.S))
    comments = [re.sub(r"[\s*]+", " ", text) for text in paragraphs]
    found: dict[str, str] = {}
    for sentence in DOCUMENT:
        for comment in comments:
            at = comment.find(sentence.find)
            if at >= 0:
                start = max((m.end() for m in _BOUNDARY.finditer(comment, 0, at)), default=0)
                end = next((m.start() for m in _BOUNDARY.finditer(comment, at)), len(comment))
                found[sentence.place] = comment[start:end].strip()
                break
    return found


def screen(reports: Sequence[Report], width: int, gap: int = 2) -> tuple[Grid, list[str]]:
    """The page in short: a row a sentence, a column where a verdict differs from that of the kernel before.

    A cell is the number of claims that are VIOLATED, in any mode of a release; of few kernels they are named as well.
    """
    epochs = [r for r in reports if not r.configuration.is_bug]
    by_epoch = len({r.configuration.name for r in epochs}) > 1
    columns: dict[str, list[Report]] = {}
    for report in epochs:
        name = report.configuration.name if by_epoch else report.configuration.mode
        columns.setdefault(name, []).append(report)
    answered = {name for s in DOCUMENT for name in s.claims}
    rows = [(s.place, s.says, s.claims) for s in DOCUMENT]
    around = tuple(c.name for c in CLAIMS if c.name not in answered)
    rows += [] if by_epoch else [(_AROUND, _AROUND_SAYS, around)]
    cells = {name: tuple(_cell(claims, of) for _, _, claims in rows) for name, of in columns.items()}
    shown = [name for before, name in pairwise(["", *cells]) if cells.get(before) != cells[name]]
    grid = Grid(("sentence", *shown))
    room = max(20, width - sum(max(len(name), 2) + gap for name in shown))
    function = ""
    for number, (place, says, claims) in enumerate(rows):
        first, _, which = place.partition(", ")
        if first != function and which:
            grid.add(first, *("" for _ in shown))
        function = first
        lines = textwrap.wrap(f"{f'  {which}: ' if which else f'{first}: '}{says}", room, subsequent_indent="    ")
        broken = _broken(claims, epochs) if not by_epoch else []
        lines += textwrap.wrap(f"    VIOLATED: {', '.join(broken)}", room, subsequent_indent="      ") if broken else []
        grid.add(lines[0], *(cells[name][number] for name in shown))
        for line in lines[1:]:
            grid.add(line, *("" for _ in shown))
    return grid, _legend(shown, len(around) if by_epoch else 0, width)


def _cell(claims: Sequence[str], reports: Sequence[Report]) -> Cell:
    found = [(r.check, r.verdict) for report in reports for r in report.rows if r.check in claims]
    lost = {check for check, verdict in found if verdict == "VIOLATED"}
    unknown = {check for check, verdict in found if verdict == "UNKNOWN"} - lost
    if not any(verdict in ("PROVED", "VIOLATED", "UNKNOWN") for _, verdict in found):
        return Cell((("-", "dim"),))
    pieces = [(str(len(lost)), "red")] if lost else [(f"{len(unknown)}?", "yellow")] if unknown else [(".", "green")]
    return Cell(tuple(pieces))


def _broken(claims: Sequence[str], reports: Sequence[Report]) -> list[str]:
    """The claims that are VIOLATED, with the mode if they are not in every mode."""
    found = {}
    for name in claims:
        verdicts = {r.mode: r.verdict for report in reports for r in report.rows if r.check == name}
        found[name] = [mode for mode, verdict in verdicts.items() if verdict == "VIOLATED"]
    modes = {r.configuration.mode for r in reports}
    return [n if {*of} == modes else f"{n} ({', '.join(of)})" for n, of in found.items() if of]


def _legend(shown: Sequence[str], around: int, width: int) -> list[str]:
    """What the cells and columns mean; ``around`` are the claims that no row has."""
    text = "How many of its claims are VIOLATED; . none: all that apply are PROVED; - none applies."
    if around:
        begins = ", ".join(f"{name} {EPOCHS[name].releases.split()[0]}" for name in shown if name in EPOCHS)
        text += f" A column stands for all releases up to the next: {begins}."
        text += f" {around} claims are about more than it says."
    text += " -v has each claim in each kernel, as Markdown; --explain CLAIM the reason."
    return textwrap.wrap(text, width)


def markdown(reports: Sequence[Report], originals: Mapping[str, str] | None = None) -> str:
    """The whole review page; ``originals`` are the sentences as the user's tree has them, by place."""
    epochs = [r for r in reports if not r.configuration.is_bug]
    rows: dict[tuple[str, Configuration], Row] = {(r.check, e.configuration): r for e in epochs for r in e.rows}
    lines = ["# The document, sentence by sentence", ""]
    for sentence in DOCUMENT:
        lines += [f"## {sentence.place}", "", sentence.says, ""]
        if originals is not None:
            lines += [f"> {originals.get(sentence.place, '(this tree has no such sentence)')}", ""]
        lines += _table(sentence.claims, epochs, rows)
    answered = {name for s in DOCUMENT for name in s.claims}
    lines += ["## Around the document", "", "Claims from other comments, the Arm ARM, and what they need.", ""]
    lines += _table([c.name for c in CLAIMS if c.name not in answered], epochs, rows)
    lines += ["## Assumed", "", *(f"- {a}" for a in ASSUMED), "", "## Not modelled", ""]
    lines += [f"- {a}" for a in NOT_MODELLED]
    return "\n".join(lines)


def _table(names: Sequence[str], epochs: Sequence[Report], rows: Mapping[tuple[str, Configuration], Row]) -> list[str]:
    lines = [
        "| claim | what it says | source | " + " | ".join(str(e.configuration) for e in epochs) + " |",
        "|" + "---|" * (3 + len(epochs)),
    ]
    for name in names:
        claim = _BY_NAME[name]
        cells = [rows[name, e.configuration].verdict if (name, e.configuration) in rows else "-" for e in epochs]
        says = " ".join(claim.says.split())
        lines.append(f"| `{name}` | {says} | {claim.cites} | {' | '.join(cells)} |")
    return [*lines, ""]
