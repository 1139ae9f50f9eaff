"""The document sentence by sentence, as Markdown: our words, the claims that answer it, the verdict for each kernel."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from formal.matrix.configuration_run import Report, Row
from formal.properties import CLAIMS
from formal.scope.assumptions import ASSUMED, NOT_MODELLED
from formal.scope.configuration import Configuration
from formal.scope.document import DOCUMENT
from formal.scope.findings import FINDINGS
from formal.vocabulary import Claim

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
