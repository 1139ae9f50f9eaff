"""proofs/trace.schema.json: every stored trace fits, and what does not is refused by the reader as well."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from formal.commands import prove
from formal.common.exit_codes import ExitCode
from formal.evidence.runs.replay import Replay, ReplayError
from formal.evidence.runs.traces import Trace, TraceBook, TraceError, from_json, to_json
from formal.scope.configuration import Configuration
from formal.system import System
from tests.conftest import PROOFS

SCHEMA = json.loads((PROOFS / "trace.schema.json").read_text(encoding="utf-8"))
BOOK = jsonschema.Draft202012Validator(SCHEMA)
TRACE = jsonschema.Draft202012Validator({"$ref": "#/$defs/trace", "$defs": SCHEMA["$defs"]})
FILES = sorted((PROOFS / "traces").glob("*.json"))


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert len(FILES) > 20


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_stored_file_fits(path: Path) -> None:
    BOOK.validate(json.loads(path.read_text(encoding="utf-8")))


def test_results_contain_such_traces(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    one = ["--epoch", "E8", "--mode", "vhe", "--explain", "hpmn_preserved_always", "--json", str(file)]
    assert prove.main(one) == ExitCode.OK
    traces = [row["trace"] for row in json.loads(file.read_text())["results"] if "trace" in row]
    assert traces
    for trace in traces:
        TRACE.validate(trace)


def book() -> dict[str, Any]:
    """One stored file."""
    return json.loads((PROOFS / "traces" / "E8-vhe.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


DAMAGE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another version": lambda b: b.update(schema_version=2),
    "no version": lambda b: b.pop("schema_version"),
    "no traces": lambda b: b.pop("traces"),
    "no counterexamples": lambda b: b.pop("counterexamples"),
    "a counterexample that is no number": lambda b: b["counterexamples"].update(trace="x"),
    "a negative counterexample": lambda b: b["counterexamples"].update(trace=-1),
    "traces that are no list": lambda b: b.update(traces={}),
    "a trace without steps": lambda b: b["traces"][0].pop("steps"),
    "a trace without an initial state": lambda b: b["traces"][0].pop("initial"),
    "a step without a vCPU": lambda b: b["traces"][0]["steps"][0].pop("vcpu"),
    "a step without inputs": lambda b: b["traces"][0]["steps"][0].pop("inputs"),
    "an operation that is no name": lambda b: b["traces"][0]["steps"][0].update(operation=7),
    "a vCPU that is no number": lambda b: b["traces"][0]["steps"][0].update(vcpu="0"),
    "a CPU that is too large": lambda b: b["traces"][0]["steps"][0].update(cpu=4),
    "a CPU that is half a number": lambda b: b["traces"][0]["steps"][0].update(cpu=0.5),
    "a number that is not hexadecimal": lambda b: b["traces"][0]["initial"].update({"p0.boot_mdcr_el2": "0xg"}),
    "a number that is no text": lambda b: b["traces"][0]["initial"].update({"p0.boot_mdcr_el2": 3}),
    "a number that is too wide": lambda b: b["traces"][0]["initial"].update({"p0.boot_mdcr_el2": "0x1" + "0" * 16}),
    "a negative number": lambda b: b["traces"][0]["initial"].update({"p0.boot_mdcr_el2": "-0x1"}),
    "a bank without a default": lambda b: b["traces"][0]["initial"].update({"p0.hw_bank": {"items": {}}}),
    "a bank with a name for a number": lambda b: b["traces"][0]["initial"].update(
        {"p0.hw_bank": {"default": "0x0", "items": {"x": "0x1"}}}
    ),
    "a variable of nobody": lambda b: b["traces"][0]["initial"].update({"q0.hw_bank": "0x1"}),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_refused_by_the_schema_and_by_the_tool(what: str, tmp_path: Path) -> None:
    data = copy.deepcopy(book())
    DAMAGE[what](data)
    assert not BOOK.is_valid(data)
    path = tmp_path / "E8-vhe.json"
    path.write_text(json.dumps(data))
    replay = Replay(System(Configuration("E8", "vhe").kernel()))
    with pytest.raises((TraceError, ReplayError)):
        for trace in TraceBook.read(path).traces:
            list(replay.run(trace))


def test_what_is_written_fits() -> None:
    for path in FILES:
        for trace in TraceBook.read(path).traces:
            TRACE.validate(to_json(trace))
            assert from_json(to_json(trace)) == trace
    assert isinstance(trace, Trace)
