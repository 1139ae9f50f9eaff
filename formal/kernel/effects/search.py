"""The effects of a tree in one mode: its files read in two processes, or out of the cache, and solved together."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from importlib.metadata import version
from pathlib import Path

from formal.common.files import write_file
from formal.common.places import cache_folder
from formal.common.processes import in_turn
from formal.epochs import Mode
from formal.kernel.effects import assembly, files
from formal.kernel.effects.places import Lvalue
from formal.kernel.effects.reached import Alive, contexts, reached
from formal.kernel.effects.reading import Reader
from formal.kernel.effects.solve import Solver
from formal.kernel.effects.types import (
    ALL,
    Context,
    Effect,
    Facts,
    Function,
    Range,
    Summary,
    plain_summary,
    summary,
)
from formal.kernel.source.tree import KernelTree

ABSENT = ("c:ARM64_KVM_PROTECTED_MODE",)  # which CPU capabilities are not there unless protected mode is on
_SCRATCH, _TREE = "<scratch>", "<tree>"
_LABEL = re.compile(r"\s*(?:SYM_\w+START\w*\(|ENTRY\(|\.macro\s+)?([\w$.]+)(?:\)|:|,|\s|$)")


@dataclass(frozen=True)
class Effects:
    """What was found of one program: the host, with the hypervisor of a mode."""

    all: tuple[Effect, ...]
    functions: Mapping[str, Facts]  # by key
    calls_by_key: Mapping[str, frozenset[str]]
    by_key: Mapping[str, tuple[Effect, ...]]  # the effects of a function itself
    ranges: Mapping[str, tuple[Range, ...]]  # where modelled state lies, by record
    files: frozenset[str]  # that were looked at
    unread: Mapping[str, str]  # those that did not parse, with the reason
    dead: frozenset[str] = frozenset()  # the functions, by key, that never run in this mode
    gone: Mapping[str, frozenset[str]] = field(default_factory=dict)  # whom others name only where that never runs

    def writers(self, target: str) -> tuple[Effect, ...]:
        """The places that may write a target, or something below it, or what contains it."""
        return tuple(e for e in self.all if below(e.target, target) or below(target, e.target))

    @cached_property
    def calls(self) -> Mapping[Function, frozenset[Function]]:
        """Whom each function calls, by name and through pointers."""
        known = {key: facts.function for key, facts in self.functions.items()}
        return {
            known[key]: frozenset(known[callee] for callee in callees if callee in known)
            for key, callees in self.calls_by_key.items()
        }

    def callers(self, function: Function) -> frozenset[Function]:
        """The functions that call one."""
        return frozenset(caller for caller, callees in self.calls.items() if function in callees)

    def reached_from(self, function: Function) -> frozenset[Function]:
        """A function, and all that it calls."""
        keys = [key for key, facts in self.functions.items() if facts.function == function]
        return frozenset(
            self.functions[key].function for key in reached(self.calls_by_key, keys) if key in self.functions
        )

    def may_write(self, name: str, side: str = "host") -> frozenset[str] | None:
        """The lvalues that a function of this name may write, with all that it calls; ``None`` if there is none."""
        keys = [k for k, f in self.functions.items() if f.function.name == name and f.function.side == side]
        keys = keys or [k for k, f in self.functions.items() if f.function.name == name]
        if not keys:
            return None
        return frozenset(e.target for key in reached(self.calls_by_key, keys) for e in self.by_key.get(key, ()))

    def outside(self, accounted: Callable[[Function], bool]) -> tuple[Effect, ...]:
        """The effects that do not happen inside functions that are accounted for.

        Args:
            accounted: whether a function, with all that it calls, is compared with a description.
        """
        stop = {key for key, facts in self.functions.items() if accounted(facts.function)}
        called = {callee for key, callees in self.calls_by_key.items() for callee in callees}
        roots = [key for key in self.functions if key not in called]
        inside = reached(self.calls_by_key, roots, stop)
        return tuple(e for key in sorted(inside) for e in self.by_key.get(key, ()))


def below(part: str, whole: str) -> bool:
    """Whether an lvalue is another, or a part of it."""
    return part == whole or (part.startswith(whole) and part[len(whole)] in ".[-#")


def effects_of(tree: KernelTree, mode: Mode, lvalues: Sequence[Lvalue], processes: int = 2) -> Effects:
    """The effects of all functions of a tree that can reach modelled state.

    Args:
        lvalues: what is modelled, and where this tree keeps it (``formal.kernel.model.binding.modelled``).
        processes: how many at a time.
    """
    tree.prepare()
    sides = files.programs(tree)
    other = "nvhe" if mode is Mode.VHE else "vhe"
    wanted = [(side, file) for side in ("host", "vhe", "nvhe") if side != other for file in sides[side]]
    wanted += [("host", file) for file in files.others(tree)]
    store = _Store(tree, tuple(lvalues))
    found: dict[tuple[str, str], Summary] = {}
    for task in wanted:
        if (known := store.load(*task)) is not None:
            found[task] = known
    while missing := _missing(wanted, found):
        works = [partial(_read, tree, lvalues, part) for part in _parts(missing, processes)]
        for task, read in in_turn(works, processes) if processes > 1 else (done for work in works for done in work()):
            store.save(*task, read)
            found[task] = read
    return _solved(tree, wanted, found, other, mode)


def _missing(wanted: Iterable[tuple[str, str]], found: dict[tuple[str, str], Summary]) -> list[tuple[str, str]]:
    """The files that have to be read: those not known, and those that need a header's function that no file gives."""
    missing = [task for task in wanted if task not in found]
    if missing:
        return missing
    given = {key for read in found.values() for key in read.functions}
    lacking = [task for task in wanted if not found[task].needs <= given]
    for task in lacking:
        del found[task]
    return lacking


def _parts(tasks: Sequence[tuple[str, str]], processes: int) -> list[list[tuple[str, str]]]:
    """The files in as many parts, those of one side together as far as that goes."""
    ordered = sorted(tasks, key=lambda task: (task[0] != "host", task[0]))
    size = -(-len(ordered) // max(processes, 1))
    return [ordered[i : i + size] for i in range(0, len(ordered), size)]


def _read(
    tree: KernelTree, lvalues: Sequence[Lvalue], tasks: Sequence[tuple[str, str]]
) -> Iterator[tuple[tuple[str, str], Summary]]:
    reader, of = None, ""
    for side, file in tasks:
        if reader is None or of != side:
            reader, of = Reader(tree.path, files.flags(tree, side), side, lvalues, tree.scratch), side
        yield (side, file), reader.read(file)


def _solved(
    tree: KernelTree,
    wanted: Sequence[tuple[str, str]],
    found: Mapping[tuple[str, str], Summary],
    other: str,
    mode: Mode,
) -> Effects:
    functions: dict[str, Facts] = {}
    ranges: dict[str, tuple[Range, ...]] = {}
    unread: dict[str, str] = {}
    for task in wanted:
        functions.update(found[task].functions)
        ranges.update(found[task].ranges)
        if found[task].errors:
            unread[task[1]] = found[task].errors[0]
    alive = Alive(functions)
    if mode is not Mode.PROTECTED:
        alive = Alive.of(functions, ABSENT, files.naming(tree, sorted({file for _, file in wanted})))
    functions = alive.functions
    solved = Solver(functions, ranges).solve()
    when = contexts(functions, solved.calls)
    of = {key: tuple(replace(e, contexts=when[key]) for e in effects) for key, effects in solved.effects.items()}
    effects = [e for key in sorted(of) for e in of[key]]
    every, read = (*effects, *_assembler(tree, other)), frozenset(file for _, file in wanted)
    return Effects(every, functions, solved.calls, of, ranges, read, unread, alive.dead, alive.gone)


def _assembler(tree: KernelTree, other: str) -> Iterator[Effect]:
    """What assembler files, and assembler macros of headers, write; but for the other hypervisor's."""
    texts = {file: tree.read(file) for file in files.assembler(tree) if f"/hyp/{other}/" not in file}
    macros: dict[str, int] = {}
    for text in texts.values():
        macros |= assembly.macros(text)
    for file, text in texts.items():
        name, header = "", file.endswith(".h")
        for number, line in enumerate(text.split("\n"), 1):
            label = _LABEL.match(line)
            if label and re.match(r"\s*(?:SYM_\w+START|ENTRY\(|\.macro)|^[A-Za-z_]\w*:", line):
                name = label.group(1)
            if header and not re.match(r"\s*(?:\d+:)?\s*(?:msr(_s)?|\w+)\s", line):
                continue
            plain = () if header and "msr" not in line.split()[:2] else assembly.registers(line)
            for register in (*plain, *assembly.used(line, macros)):
                function = Function(name, file, number, "host")
                yield Effect(function, file, number, f"hw.{register}", ALL, "assembly", frozenset((Context.ANY,)))


# ---- what is kept between runs


@lru_cache(maxsize=1)
def _tool() -> str:
    """A digest of what makes summaries."""
    own = [*Path(__file__).parent.glob("*.py"), *(Path(__file__).parent.parent / "parse").glob("*.py")]
    return _digest(b"\0".join(path.read_bytes() for path in sorted(own)) + version("libclang").encode())


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=20).hexdigest()


@dataclass
class _Store:
    """Summaries by the content of the file, of all that it includes, and the options."""

    tree: KernelTree
    lvalues: tuple[Lvalue, ...]
    _digests: dict[str, str] = field(default_factory=dict)

    def load(self, side: str, file: str) -> Summary | None:
        """The summary of a file, if nothing that it came from has changed."""
        try:
            data = json.loads(self._path(side, file).read_text(encoding="utf-8"))
            if any(self._of(self._there(name)) != digest for name, digest in data["files"].items()):
                return None
            return summary(data["summary"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
            return None  # damaged, foreign, or not there: it is read again

    def save(self, side: str, file: str, read: Summary) -> None:
        """Keeps a summary."""
        if any("cannot read" in error for error in read.errors):
            return
        sources = {self._named(path): self._of(path) for path in sorted(read.includes)}
        data = {"files": sources, "summary": plain_summary(read)}
        path = self._path(side, file)
        try:
            write_file(path, json.dumps(data), sync=False)
        except OSError:
            return  # no cache, no harm

    def _path(self, side: str, file: str) -> Path:
        options = [self._named(word) for word in files.flags(self.tree, side)]
        asked = json.dumps([_tool(), side, file, options, self.lvalues, self._of(str(self.tree.path / file))])
        folder = cache_folder() / "kvm-debug-trap-proofs" / "effects"
        return folder / f"{_digest(asked.encode())}.json"

    def _named(self, path: str) -> str:
        return path.replace(self.tree.scratch, _SCRATCH).replace(str(self.tree.path), _TREE)

    def _there(self, name: str) -> str:
        return name.replace(_SCRATCH, self.tree.scratch).replace(_TREE, str(self.tree.path))

    def _of(self, path: str) -> str:
        """The digest of a file; of one that is made up while parsing, nothing."""
        if path not in self._digests:
            try:
                self._digests[path] = _digest(Path(path).read_bytes())
            except OSError:
                self._digests[path] = ""
        return self._digests[path]
