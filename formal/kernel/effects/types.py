"""What is told of a tree's functions: plain values that can be stored, compared and sent to another process."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

ALL = (1 << 64) - 1  # any bit of a target


class Context(Enum):
    """When a function can run."""

    HYP = "hypervisor between entry and exit"
    RUN = "KVM_RUN"
    IOCTL = "ioctl with vcpu->mutex"
    SWITCH = "load or put"
    ANY = "any time"


class Function(NamedTuple):
    """A function as one program compiles it: the host, or one of the hypervisors."""

    name: str
    file: str
    line: int
    side: str  # host, vhe, nvhe


class Range(NamedTuple):
    """A modelled lvalue inside a record: where it lies, and which of its bits are modelled."""

    offset: int  # in bits
    size: int
    target: str
    bits: int


class Index(NamedTuple):
    """A number that a function is given: by its parameter (or a member of what that points to), plus a constant."""

    parameter: int  # -1: a constant
    plus: int


class Element(NamedTuple):
    """An element of an array, ``stride`` bits each, ``count`` of them, chosen by a parameter of a function."""

    chosen_by: Index
    stride: int
    length: int
    owner: str  # the key of the function


Needs = tuple[str, ...]  # what must be so where something is done (``formal.kernel.effects.guards``)


class Address(NamedTuple):
    """A pointer into a record that holds modelled state: to ``size`` bits at an offset, or (blurred) to any place."""

    record: str
    offset: int
    size: int
    blurred: bool = False
    element: Element | None = None
    whole: bool = False  # of all of it, or of a record in it: not of a number or an array


class Node(NamedTuple):
    """Something that can hold a pointer: a variable or parameter, a result, a member, a global."""

    kind: str  # v, p, r, f, g; c: the result of a call through a pointer of this type
    owner: str
    name: str
    blurred: bool = False
    given: tuple[Index | None, ...] = ()  # of a result: the arguments of the call


Source = Address | Node


class Write(NamedTuple):
    """A write of bits of a record that holds modelled state, found where it is made."""

    line: int
    record: str  # or "hw.<register>"
    offset: int
    size: int
    bits: int
    how: str
    file: str
    element: Element | None = None
    needs: Needs = ()


class Store(NamedTuple):
    """A write through a pointer: ``size`` bits (0: as many as it points to) at an offset from it."""

    line: int
    through: tuple[Source, ...]
    offset: int
    size: int
    bits: int
    how: str
    file: str
    needs: Needs = ()


Handed = tuple[tuple[str, tuple[int, ...]], ...]  # types of functions, and which of their parameters can be pointers


class Call(NamedTuple):
    """A call: of a function by name, or (``pointer``) of any whose address is taken and that has this type."""

    line: int
    callee: str
    pointer: bool
    arguments: tuple[tuple[Source, ...], ...]
    given: tuple[Index | None, ...]
    blobs: tuple[int, ...]  # arguments through which a function that is not defined here may write memory
    handed: Handed  # to which functions such a one may give its other arguments
    file: str
    needs: Needs = ()


class Mention(NamedTuple):
    """A function or a variable that is named: by its key or, if another file defines it, its name.

    ``type`` is the type of a function whose address is taken there, ``argument`` whether that is handed to another.
    """

    name: str
    type: str = ""
    argument: bool = False
    needs: Needs = ()


@dataclass
class Facts:
    """What one function does."""

    function: Function
    linked: bool = False  # whether other files can call it by its name
    type: str = ""
    writes: list[Write] = field(default_factory=list)
    stores: list[Store] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    flows: list[tuple[Node, tuple[Source, ...]]] = field(default_factory=list)
    taken: list[Mention] = field(default_factory=list)  # addresses of functions
    tables: list[Mention] = field(default_factory=list)  # static variables that have an initialiser
    hypercalls: list[Mention] = field(default_factory=list)
    entries: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)  # of tables: a function, enumerators
    returns: list[Needs] = field(default_factory=list)  # where it returns something that may be other than 0
    gives: list[Mention] = field(default_factory=list)  # where pointers to the hypervisor's own records go


@dataclass
class Summary:
    """What a parsed file says: its functions, by key, and where modelled state lies in the records that it sees."""

    functions: dict[str, Facts] = field(default_factory=dict)
    ranges: dict[str, tuple[Range, ...]] = field(default_factory=dict)
    needs: frozenset[str] = frozenset()  # the keys of functions in headers that it calls
    includes: frozenset[str] = frozenset()
    errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Effect:
    """A place that may write something modelled."""

    function: Function
    file: str
    line: int
    target: str
    bits: int
    how: str
    contexts: frozenset[Context] = frozenset()

    @property
    def where(self) -> str:
        """For a message."""
        return f"{self.file}:{self.line}: {self.target} may be written ({self.how}) in {self.function.name}()"


# ---- summaries as plain data, for the cache: named tuples become lists that start with their kind


_KINDS = {kind.__name__: kind for kind in (Address, Call, Element, Function, Index, Mention, Node, Range, Store, Write)}


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    kind = type(value).__name__
    if kind in _KINDS:
        return [kind, *map(plain, value)]
    if isinstance(value, tuple | list):
        return ["", *map(plain, value)]
    return value


def value(data: Any) -> Any:
    """What ``plain`` made data of."""
    if isinstance(data, list):
        parts = map(value, data[1:])
        return _KINDS[data[0]](*parts) if data[0] else tuple(parts)
    return data


_LISTS = ("writes", "stores", "calls", "flows", "taken", "tables", "hypercalls", "entries", "returns", "gives")


def plain_summary(summary: Summary) -> dict[str, Any]:
    """A summary, but for the files that it came from."""
    functions = {
        key: [plain(f.function), f.linked, f.type, *(plain(getattr(f, name)) for name in _LISTS)]
        for key, f in summary.functions.items()
    }
    ranges = {name: plain(found) for name, found in summary.ranges.items()}
    return {"functions": functions, "ranges": ranges, "needs": sorted(summary.needs), "errors": list(summary.errors)}


def summary(data: dict[str, Any]) -> Summary:
    """What ``plain_summary`` made data of."""
    functions = {
        key: Facts(value(f[0]), f[1], f[2], *(list(value(part)) for part in f[3:]))
        for key, f in data["functions"].items()
    }
    ranges = {name: value(found) for name, found in data["ranges"].items()}
    return Summary(functions, ranges, frozenset(data["needs"]), errors=tuple(data["errors"]))
