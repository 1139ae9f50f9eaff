"""A preset held against a tree of its releases: behaviour by behaviour and function by function.

This works where ``--kernel`` refuses the tree as a whole: what is not understood is listed, the rest is compared with
the preset's kernel, not with what the tree is found to be. It proves no claim. Functions that are equal to those of the
preset do what its verdicts are about.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from formal.common.files import write_file
from formal.engines.equality import Questions
from formal.engines.z3backend import SolverTimeoutError
from formal.epochs import Epoch, Kernel, Mode, of_release
from formal.kernel.compare import forwarding, handlers, hypervisor, ownership, protected, tables
from formal.kernel.compare.behaviours import DEBUG_C, mattering, resolve
from formal.kernel.errors import Gap, Gaps, NotUnderstoodError
from formal.kernel.lift.program import Lifted, Program, files_for, load, side_of
from formal.kernel.model.binding import Binding, allowed
from formal.kernel.model.counterparts import COMPONENTS, Counterpart, counterparts, equalities
from formal.kernel.model.substitution import operations
from formal.kernel.source.tree import KernelTree
from formal.kernel.text import signs
from formal.logic.terms import And, Term
from formal.operations import Inputs
from formal.state import State
from formal.system import System
from formal.transitions import OPERATIONS

Conditions = Iterable[tuple[str, Term]]
Asked = Callable[[], Iterable[tuple[Conditions, Term]]]


@dataclass
class Held:
    """What came of it, for one host mode."""

    preset: str
    mode: str
    release: str  # what the tree's Makefile says
    debug_c: str  # the start of debug.c's SHA-256: which tree it was
    behaviours: list[str] = field(default_factory=list)  # in which the tree is not the preset, as name=value
    equal: list[str] = field(default_factory=list)  # functions
    differ: dict[str, list[str]] = field(default_factory=dict)  # functions, and in what
    unread: dict[str, str] = field(default_factory=dict)  # functions and questions without an answer, and why

    @property
    def result(self) -> str:
        """The outcome in a word or two."""
        if self.behaviours or self.differ:
            return "differs"
        return "not read" if not self.equal else "equal" if not self.unread else "equal as far as read"


def held(tree: KernelTree, modes: Iterable[Mode], timeout: float | None) -> Iterator[Held]:
    """A tree against the preset of its release that fits best, mode by mode; nothing for modes that those lack.

    Raises:
        NotUnderstoodError: if nothing of the tree can be read.
    """
    digest = hashlib.sha256(tree.read(DEBUG_C).encode()).hexdigest()[:16]
    wanted = [mode for mode in modes if any(mode in e.modes for e in of_release(tree.release))]
    program = load(tree, files_for(tree, *map(side_of, wanted))) if wanted else None
    for mode in wanted:
        assert program is not None
        with_mode = [e for e in of_release(tree.release) if mode in e.modes]
        yield _Tree(tree, program, mode, digest).against(with_mode, Questions(timeout))


class _Tree:
    """A tree in one mode, read as far as it is understood."""

    def __init__(self, tree: KernelTree, program: Program, mode: Mode, digest: str) -> None:
        self.program, self.binding, self.mode = program, Binding.of(program), mode
        self.gaps, self.found = Gaps(noted=True), Held("", mode.value, tree.release, digest)
        self.lifted: dict[str, Lifted] = {}
        for name in program.functions(DEBUG_C):
            if name not in ownership.WITH_CALLER:
                with self.gaps.at(name):
                    self.lifted[name] = program.lift(name, side_of(mode), file=DEBUG_C)
        self.behaviours: dict[str, Any] = {}
        with self._noting("behaviours"):
            told = signs.read(tree)
            told += (*tables.told(program, told, self.gaps), *forwarding.told(program, mode, told, self.gaps))
            self.behaviours = {sign.behaviour: sign.value for sign in told}
            kernel = resolve(tree, mode, self.lifted, self.binding, told).kernel
            self.behaviours = {name: getattr(kernel, name) for name in mattering(kernel)}

    def against(self, epochs: Iterable[Epoch], ask: Questions) -> Held:
        """The comparison with the nearest of some presets."""
        epoch = min(epochs, key=lambda e: len(self._unlike(e)))
        held, kernel = self.found, epoch.kernel(self.mode)
        held.preset, held.behaviours = epoch.name, self._unlike(epoch)
        for name, conditions in self._functions(kernel):
            with self._noting(name):
                differing = [what for says, guard in conditions() for what in ask.differing(says, guard)]
                if differing:
                    held.differ[name] = sorted({*held.differ.get(name, ()), *differing})
                else:
                    held.equal.append(name)
        held.unread |= {name: _reason(gap) for gap in reversed(self.gaps.found) for name in gap.of}
        held.equal = sorted({*held.equal} - held.differ.keys() - held.unread.keys())
        return held

    def _unlike(self, epoch: Epoch) -> list[str]:
        preset = epoch.kernel(self.mode)
        told = ((name, self.behaviours[name]) for name in mattering(preset) if name in self.behaviours)
        return [f"{name}={value}" for name, value in told if getattr(preset, name) != value]

    @contextmanager
    def _noting(self, what: str) -> Iterator[None]:
        """What is not understood, or not answered, is noted."""
        try:
            yield
        except NotUnderstoodError as error:
            self.found.unread[what] = _reason(error)
        except SolverTimeoutError:
            self.found.unread[what] = "the solver gave up"

    def _functions(self, k: Kernel) -> Iterator[tuple[str, Asked]]:
        """Every C function that has a description in this kernel, and what has to be asked of it."""
        s, program, lifted = System(k, operations(k)).state(), self.program, self.lifted
        binding, gaps = self.binding, self.gaps
        found: dict[str, Counterpart] = {}
        with self._noting("handlers"):
            found = counterparts(OPERATIONS, lifted, binding) | handlers.counterparts(program, k, binding, gaps)
        if k.tracks_debug_owner:
            with self._noting("debug.c"):
                debug = ownership.Debug(program.tree, lifted, binding)
                for name in ownership.COMPONENTS:
                    if name in lifted:
                        yield name, lambda name=name: [(debug.conditions(name, s, k), allowed(s))]  # type: ignore[misc]
                if ownership.INIT in lifted:
                    found |= debug.init()
        else:
            for name, by_hand in COMPONENTS.items():
                if name in lifted:
                    after = by_hand(s, k)
                    effect = binding.after(lifted[name], s)
                    yield name, lambda e=effect, a=after: [(equalities(e, binding, s, a), And())]  # type: ignore[misc]
        for c in found.values():
            yield c.lifted.name, lambda c=c: [_operation(c, s, k)]  # type: ignore[misc]
        if k.copies_vcpu:
            with self._noting("flush_hyp_vcpu"):
                copies = protected.Copies.read(program, binding)
                yield copies.flush.name, lambda: [(copies.conditions(s, k), allowed(s))]
        with self._noting("the hypervisor"):
            for component, function in hypervisor.lifted(program, k, gaps):
                yield (
                    function.name,
                    lambda c=component, f=function: [  # type: ignore[misc]
                        (hypervisor.conditions(c, f, binding, s, k, program.constants), allowed(s))
                    ],
                )


def _operation(c: Counterpart, s: State, k: Kernel) -> tuple[Conditions, Term]:
    inputs = Inputs(f"in.{c.operation.name}", k.breakpoints)
    return c.differences(s, k, inputs), And(c.operation.enabled(s, k, inputs), allowed(s))


def _reason(error: NotUnderstoodError | Gap) -> str:
    return f"{error.file.rpartition('/')[2]}: {error.reason}"


# ---- the table


def read(path: Path) -> list[Held]:
    """The rows of a table; none if there is no such file."""
    return [Held(**row) for row in json.loads(path.read_text(encoding="utf-8"))] if path.exists() else []


def merge(path: Path, rows: Iterable[Held]) -> None:
    """Writes rows into a table, in place of those of the same trees and modes."""
    found = {(row.release, row.debug_c, row.mode): row for row in (*read(path), *rows)}
    ordered = sorted(found.values(), key=lambda r: ([int(n) for n in r.release.split(".")], r.debug_c, r.mode))
    write_file(path, json.dumps([asdict(row) for row in ordered], indent=1) + "\n")
