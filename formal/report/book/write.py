"""The pages of the book, as files: static HTML that needs no network, and the same data as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from formal.common.files import write_file
from formal.report.book import figures
from formal.report.book.content import Book, Page
from formal.scope.assumptions import ASSUMED, NOT_MODELLED, TRUSTED
from formal.system import System

NAVIGATION = (
    ("index.html", "Overview"),
    ("document.html", "Document"),
    ("matrix.html", "Claims"),
    ("releases.html", "Releases"),
    ("operations.html", "Operations"),
    ("registers.html", "Registers"),
    ("traps.html", "Trap map"),
    ("assumed.html", "Assumed"),
    ("findings.html", "Findings"),
)


def write(
    book: Book, folder: Path, trees: Sequence[Mapping[str, Any]] = (), findings: Path | None = None
) -> list[Path]:
    """Writes every page below ``folder``; what else lies there stays.

    Raises:
        OSError: if a file cannot be written.
    """
    env = Environment(
        loader=PackageLoader("formal.report.book"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    env.globals.update(navigation=NAVIGATION, book=book)
    example = next((c for c in reversed(book.configurations) if c.mode == "vhe"), book.configurations[-1])
    system = System(example.kernel())
    lit = _longest(book.pages)
    pages: dict[str, tuple[str, dict[str, Any]]] = {
        "index.html": ("index.html", {"counts": _counts(book), "trees": trees}),
        "document.html": ("document.html", {}),
        "matrix.html": ("matrix.html", {"trees": trees}),
        "releases.html": ("releases.html", {}),
        "operations.html": (
            "operations.html",
            {
                "graph": figures.svg(system, [step.operation for step in lit.violations[0].steps] if lit else ()),
                "operations": figures.operations(system),
                "example": example,
                "lit": lit,
            },
        ),
        "registers.html": ("registers.html", {"pictures": book.bit_pictures()}),
        "traps.html": ("traps.html", {"rows": book.trap_rows()}),
        "assumed.html": ("assumed.html", {"assumed": ASSUMED, "not_modelled": NOT_MODELLED, "trusted": TRUSTED}),
        "findings.html": ("findings.html", {"findings": _findings(findings)}),
    }
    written = []
    for name, (template, values) in pages.items():
        written.append(_put(folder / name, env.get_template(template).render(here=name, root="", **values)))
    for page in book.pages:
        text = env.get_template("claim.html").render(here="", root="../", page=page)
        written.append(_put(folder / "claim" / f"{page.name}.html", text))
    for name in ("book.css", "book.js"):
        source = env.loader.get_source(env, name)[0] if env.loader is not None else ""
        written.append(_put(folder / name, source))
    written.append(_put(folder / "book.json", book.as_json() + "\n"))
    return written


def _put(path: Path, text: str) -> Path:
    write_file(path, text)
    return path


def _counts(book: Book) -> list[dict[str, Any]]:
    """For each release: how many claims have which verdict, and what is not as expected."""
    found = []
    for report in book.reports:
        rows = [row for row in report.rows if " without " not in row.check and not row.check.startswith("not ")]
        verdicts = {v: sum(row.verdict == v for row in rows) for v in ("PROVED", "VIOLATED", "UNKNOWN")}
        unexpected = [row.check for row in rows if not row.as_expected]
        found.append({"configuration": str(report.configuration), **verdicts, "unexpected": unexpected})
    return found


def _longest(pages: Sequence[Page]) -> Page | None:
    """A claim whose violating run goes through as many operations as any."""
    broken = [page for page in pages if page.violations]
    return max(broken, key=lambda p: len({s.operation for s in p.violations[0].steps})) if broken else None


def _findings(folder: Path | None) -> list[tuple[str, str]]:
    """The pages about confirmed findings, as they are, by title."""
    if folder is None or not folder.is_dir():
        return []
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.md"))]
    return [(text.partition("\n")[0].removeprefix("# "), text.partition("\n")[2].strip()) for text in texts]
