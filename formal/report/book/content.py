"""What the book says, as plain data: claims with their verdicts, formulas, proofs and runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from formal.arch.registers import MDCR_EL2, MDSCR_EL1
from formal.arch.sysregs import SYSTEM_REGISTERS
from formal.common.places import FORMAL
from formal.epochs import EPOCHS, Mode
from formal.evidence.certificates.archive import ArchiveError, Entry, read_index
from formal.evidence.runs.replay import Replay, ReplayError
from formal.evidence.runs.traces import Trace, TraceBook, TraceError
from formal.explain.show import ShownStep, final_values, shown
from formal.matrix.configuration_run import Report, Row, book_path
from formal.properties import CLAIMS
from formal.report import spec
from formal.report.book.formula import formulas
from formal.report.claimplaces import PROPERTIES, line_of
from formal.scope.configuration import Configuration
from formal.scope.document import DOCUMENT
from formal.system import System
from formal.vocabulary import Claim

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Run:
    """A run for a reader: in which kernels it was seen, its steps, what the claim reads at its end."""

    of: tuple[str, ...]
    steps: tuple[ShownStep, ...]
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One verdict."""

    configuration: str
    verdict: str
    expected: str
    engine: str
    reason: str


@dataclass(frozen=True)
class Page:
    """All about one claim."""

    name: str
    says: str
    cites: str
    stated: str
    place: str  # where it is written
    when: str
    then: str
    read_for: str  # the kernel whose formula is shown
    given: tuple[tuple[str, str], ...]
    variants: tuple[str, ...]
    cells: tuple[Cell, ...]
    violations: tuple[Run, ...]
    witness: Run | None
    mutants: tuple[tuple[str, bool], ...]  # faults that break it, and whether it is the only claim that they break
    proofs: tuple[tuple[str, str, str, str], ...]  # kernel, how it follows, SHA-256 of the archive, its lemmas
    causes: tuple[str, ...]

    @property
    def verdicts(self) -> dict[str, int]:
        """How often each verdict came out."""
        found: dict[str, int] = {}
        for cell in self.cells:
            found[cell.verdict] = found.get(cell.verdict, 0) + 1
        return found


class Book:
    """Everything that the pages show, worked out from the verdicts of one run and from ``proofs/``."""

    def __init__(self, reports: Sequence[Report], proofs: Path, original: Mapping[str, str] | None = None) -> None:
        self.reports = [r for r in reports if not r.configuration.is_bug]
        self.bugs = [r for r in reports if r.configuration.is_bug]
        self.configurations = [r.configuration for r in self.reports]
        self.rows: dict[tuple[str, Configuration], Row] = {
            (row.check, r.configuration): row for r in self.reports for row in r.rows
        }
        self.proofs, self.original = proofs, original or {}
        try:
            self.index: Mapping[str, Entry] = read_index(proofs / "certificates")
        except ArchiveError:
            self.index = {}  # the pages say so: no certificate is shown

    @cached_property
    def pages(self) -> list[Page]:
        """One page a claim, in the order of ``properties.py``."""
        return [self._page(claim) for claim in CLAIMS]

    def _page(self, claim: Claim) -> Page:
        applying = [c for c in self.configurations if not claim.applies(c.kernel())]
        example = next((c for c in reversed(applying) if c.mode == "vhe"), self.configurations[-1])
        when, then = formulas(claim, example.kernel()) if not claim.applies(example.kernel()) else ("", "")
        return Page(
            claim.name,
            " ".join(claim.says.split()),
            claim.cites,
            claim.at.value,
            f"{PROPERTIES}:{line_of(claim.name)}",
            when,
            then,
            str(example),
            tuple((p.name, p.says) for p in claim.given),
            tuple(c.name for c in CLAIMS if c.variant_of == claim.name),
            tuple(self._cells(claim)),
            tuple(self._violations(claim)),
            self.witness(claim, applying),
            tuple(self.mutants.get(claim.name, {}).items()),
            tuple(self.proofs_of(claim)),
            tuple(dict.fromkeys(cause for c in applying for cause in self._causes(claim, c))),
        )

    def _cells(self, claim: Claim) -> Iterator[Cell]:
        for c in self.configurations:
            row = self.rows.get((claim.name, c))
            if row is not None:
                yield Cell(str(c), row.verdict, row.expected or "", row.engine, row.reason)

    def _causes(self, claim: Claim, c: Configuration) -> Iterator[str]:
        row = self.rows.get((claim.name, c))
        yield from spec.causes(claim, c) if row is not None and row.verdict == "VIOLATED" else ()

    def _violations(self, claim: Claim) -> Iterator[Run]:
        """The distinct violating runs, the shortest first; kernels that share one share a picture."""
        runs: dict[tuple[ShownStep, ...], tuple[list[str], Mapping[str, str]]] = {}
        for c in self.configurations:
            row = self.rows.get((claim.name, c))
            if row is None or row.trace is None or row.broken_at is None:
                continue
            replay = self._replay(c)
            steps = tuple(shown(replay, row.trace, until=row.broken_at))
            known = runs.setdefault(steps, ([], final_values(replay, row.trace, claim, row.broken_at)))
            known[0].append(str(c))
        for steps, (of, values) in sorted(runs.items(), key=lambda item: len(item[0])):
            yield Run(tuple(of), steps, values)

    def witness(self, claim: Claim, applying: Sequence[Configuration]) -> Run | None:
        """The shortest stored run that reaches what the claim speaks of: it is not vacuous."""
        for c in reversed(applying):
            best: tuple[int, Trace, int] | None = None
            for trace in sorted(self._book(c).traces, key=lambda t: len(t.steps)):
                number = self._reaches(c, trace, claim)
                if number is not None and (best is None or number < best[2]):
                    best = (len(trace.steps), trace, number)
            if best is not None:
                return Run((str(c),), tuple(shown(self._replay(c), best[1], until=best[2])))
        return None

    def _reaches(self, c: Configuration, trace: Trace, claim: Claim) -> int | None:
        replay = self._replay(c)
        try:
            return replay.first(trace, lambda seen, pair: replay.reaches(claim, seen, pair), claim.given)
        except (ReplayError, TraceError):
            return None

    def proofs_of(self, claim: Claim) -> Iterator[tuple[str, str, str, str]]:
        """Its certificates: the kernel, how the claim follows, the SHA-256 of the archive, the lemmas in it."""
        for c in self.configurations:
            entry, row = self.index.get(c.stem), self.rows.get((claim.name, c))
            if entry is not None and row is not None and row.verdict == "PROVED" and claim.name in entry.plan.claims:
                yield str(c), entry.plan.claims[claim.name], entry.archive, ", ".join(entry.plan.lemmas)

    @cached_property
    def mutants(self) -> dict[str, dict[str, bool]]:
        """The planted faults that break each claim (formal/tree/faults), and whether no other claim is broken."""
        broken: dict[str, set[str]] = {}
        for path in sorted((FORMAL / "tree" / "faults").glob("*.json")):
            for key in TraceBook.read(path).counterexamples:
                fault, _, name = key.rpartition(": ")
                broken.setdefault(fault, set()).add(name)
        found: dict[str, dict[str, bool]] = {}
        for fault, names in broken.items():
            for name in names:
                found.setdefault(name, {})[fault] = len(names) == 1
        return found

    def _replay(self, c: Configuration) -> Replay:
        if c not in self._replays:
            self._replays[c] = Replay(System(c.kernel()))
        return self._replays[c]

    def _book(self, c: Configuration) -> TraceBook:
        if c not in self._books:
            self._books[c] = TraceBook.read(book_path(self.proofs / "traces", c))
        return self._books[c]

    @cached_property
    def _replays(self) -> dict[Configuration, Replay]:
        return {}

    @cached_property
    def _books(self) -> dict[Configuration, TraceBook]:
        return {}

    # ---- the other pages

    @cached_property
    def sentences(self) -> list[dict[str, object]]:
        """The document: each sentence in our words, as the reader's own file has it, and its claims."""
        by_name = {page.name: page for page in self.pages}
        return [
            {
                "place": s.place,
                "says": s.says,
                "original": self.original.get(s.place, ""),
                "claims": [by_name[name] for name in s.claims],
            }
            for s in DOCUMENT
        ]

    @cached_property
    def steps_between_releases(self) -> list[dict[str, object]]:
        """From each epoch to the next: the behaviours that changed, and the claims that it won or lost."""
        found = []
        order = list(EPOCHS.values())
        for before, after in pairwise(order):
            mode = Mode.NVHE if Mode.VHE not in before.modes else Mode.VHE
            old, new = before.kernel(mode), after.kernel(mode)
            changed = [
                (f.name, getattr(old, f.name), getattr(new, f.name))
                for f in fields(old)
                if f.name != "mode" and getattr(old, f.name) != getattr(new, f.name)
            ]
            verdicts = [
                (claim.name, m.value, a.verdict, b.verdict)
                for claim in CLAIMS
                for m in Mode
                if (a := self.rows.get((claim.name, Configuration(before.name, m.value)))) is not None
                and (b := self.rows.get((claim.name, Configuration(after.name, m.value)))) is not None
                and a.verdict != b.verdict
                and "n/a" not in (a.verdict, b.verdict)
            ]
            found.append({"before": before, "after": after, "changed": changed, "verdicts": verdicts})
        return found

    @staticmethod
    def bit_pictures() -> list[tuple[str, list[tuple[str, int, int, str]]]]:
        """MDCR_EL2 and MDSCR_EL1 from bit 63 down: field, high and low bit, meaning; gaps have no name."""
        found = []
        for register in (MDCR_EL2, MDSCR_EL1):
            cells, next_bit = [], 63
            for name, f in register.fields.items():
                if f.hi < next_bit:
                    cells.append(("", next_bit, f.hi + 1, "reserved, or not named here"))
                cells.append((name, f.hi, f.lo, f.says))
                next_bit = f.lo - 1
            if next_bit >= 0:
                cells.append(("", next_bit, 0, "reserved, or not named here"))
            found.append((register.__name__, cells))
        return found

    @staticmethod
    def trap_rows() -> list[dict[str, object]]:
        """What the trap map needs: of each register the fields of MDCR_EL2 that trap it."""
        return [
            {
                "name": r.name,
                "group": r.group,
                "traps": list(r.traps),
                "read": r.read.lowest_el,
                "write": r.write.lowest_el,
            }
            for r in SYSTEM_REGISTERS
        ]

    def as_json(self) -> str:
        """The same as data."""
        return json.dumps(
            {
                "schema_version": SCHEMA_VERSION,
                "configurations": [str(c) for c in self.configurations],
                "claims": [asdict(page) for page in self.pages],
                "document": [
                    {"place": s.place, "says": s.says, "original": self.original.get(s.place, ""), "claims": s.claims}
                    for s in DOCUMENT
                ],
            },
            indent=1,
        )
