"""A run of the system as data: an initial state, then one operation with its inputs after another.

The values of the states in between are not stored: replay computes them. ``proofs/trace.schema.json`` is the schema,
version 1; vCPUs are ``v0`` and ``v1``, CPUs ``p0``, ``p1``; bit-vectors are hexadecimal strings, Booleans JSON
Booleans, banks an object with ``default`` and ``items``; a variable that is not named is 0, false or all zeros.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formal.common.files import write_file
from formal.logic.terms import ArrayValue, Value

SCHEMA_VERSION = 1


class TraceError(Exception):
    """A trace file that cannot be read, or that does not fit the system."""


@dataclass(frozen=True)
class Step:
    """One operation on one vCPU and one CPU; ``inputs`` are the values of what it leaves open."""

    operation: str
    vcpu: int
    cpu: int
    inputs: Mapping[str, Value]


@dataclass(frozen=True)
class Trace:
    """An initial state (``v0.mdcr_el2`` and so on, zeros left out) and the steps from there."""

    initial: Mapping[str, Value]
    steps: tuple[Step, ...]


def encode(value: Value) -> Any:
    """A value as JSON data."""
    if isinstance(value, ArrayValue):
        return {"default": hex(value.default), "items": {str(i): hex(v) for i, v in value.items}}
    return value if isinstance(value, bool) else hex(value)


def _decode(value: Any) -> Value:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return int(value, 16)
    array = ArrayValue(int(value["default"], 16))
    for i, v in value["items"].items():
        array = array.set(int(i), int(v, 16))
    return array


def _step(data: Any) -> Step:
    operation, vcpu, cpu = data["operation"], data["vcpu"], data["cpu"]
    if not isinstance(operation, str) or any(type(number) is not int for number in (vcpu, cpu)):
        raise TypeError(f"a step is an operation on a vCPU and a CPU, got {operation!r} on {vcpu!r} and {cpu!r}")
    return Step(operation, vcpu, cpu, {n: _decode(v) for n, v in data["inputs"].items()})


def to_json(trace: Trace) -> dict[str, Any]:
    """The trace as JSON data, zeros left out."""
    return {
        "initial": {name: encode(v) for name, v in sorted(trace.initial.items()) if not _is_zero(v)},
        "steps": [
            {
                "operation": s.operation,
                "vcpu": s.vcpu,
                "cpu": s.cpu,
                "inputs": {name: encode(v) for name, v in sorted(s.inputs.items()) if not _is_zero(v)},
            }
            for s in trace.steps
        ],
    }


def _is_zero(value: Value) -> bool:
    return value == ArrayValue(0) if isinstance(value, ArrayValue) else not value


def from_json(data: Any) -> Trace:
    """The trace of JSON data.

    Raises:
        TraceError: if the data has another shape.
    """
    try:
        steps = tuple(_step(s) for s in data["steps"])
        return Trace({name: _decode(v) for name, v in data["initial"].items()}, steps)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TraceError(f"not a trace: {type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class TraceBook:
    """The stored traces of one kernel and mode: what violates which claim, and what shows that the rest can happen."""

    traces: tuple[Trace, ...] = ()
    counterexamples: Mapping[str, int] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.counterexamples is None:
            object.__setattr__(self, "counterexamples", {})

    def write(self, path: Path) -> None:
        """Writes the book, whole or not at all."""
        data = {
            "schema_version": SCHEMA_VERSION,
            "counterexamples": dict(sorted(self.counterexamples.items())),
            "traces": [to_json(trace) for trace in self.traces],
        }
        write_file(path, json.dumps(data, indent=1, sort_keys=True) + "\n")

    @staticmethod
    def read(path: Path) -> TraceBook:
        """Reads a book; a file that does not exist is an empty one.

        Raises:
            TraceError: if the file is damaged.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return TraceBook()
        except (OSError, ValueError) as error:
            raise TraceError(f"{path.name}: unreadable: {error}") from error
        if not isinstance(data, dict) or data.get("schema_version") != SCHEMA_VERSION:
            raise TraceError(f"{path.name}: schema_version is not {SCHEMA_VERSION}")
        try:
            traces = tuple(from_json(t) for t in data["traces"])
            found = {str(name): int(number) for name, number in data["counterexamples"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TraceError(f"{path.name}: not a book of traces: {type(error).__name__}: {error}") from error
        except TraceError as error:
            raise TraceError(f"{path.name}: {error}") from error
        if wrong := [name for name, number in found.items() if not 0 <= number < len(traces)]:
            raise TraceError(f"{path.name}: counterexample of {wrong[0]} is not in the file")
        return TraceBook(traces, found)
