"""Summaries as plain data, for the cache: named tuples become lists that start with their kind."""

from __future__ import annotations

from typing import Any

from formal.kernel.effects.types import (
    Address,
    Call,
    Element,
    Facts,
    Function,
    Index,
    Node,
    Range,
    Store,
    Summary,
    Write,
)

_KINDS = {kind.__name__: kind for kind in (Address, Call, Element, Function, Index, Node, Range, Store, Write)}


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


_LISTS = ("writes", "stores", "calls", "flows", "taken", "hypercalls", "entries")


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
