"""Trace files: what is written is read back, and a damaged file is refused with one line."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formal.evidence.runs.traces import Step, Trace, TraceBook, TraceError, from_json, to_json
from formal.logic.terms import ArrayValue
from tests.conftest import PROOFS

NAMES = st.sampled_from(["v0.mdcr_el2", "p0.hw_mdcr_el2", "v1.phase", "p1.busy", "v0.user_bank"])
NUMBERS = st.integers(0, (1 << 64) - 1)


@st.composite
def arrays(draw: Any) -> ArrayValue:
    """A bank with a few values."""
    array = ArrayValue(draw(NUMBERS))
    for index, value in draw(st.dictionaries(st.integers(0, 63), NUMBERS, max_size=4)).items():
        array = array.set(index, value)
    return array


VALUES = st.dictionaries(NAMES, st.booleans() | NUMBERS | arrays(), max_size=4)
STEPS = st.builds(Step, st.text(max_size=9), st.integers(0, 3), st.integers(0, 3), VALUES)
TRACES = st.builds(Trace, VALUES, st.lists(STEPS, max_size=4).map(tuple))


def without_zeros(trace: Trace) -> Trace:
    """What a file keeps: zeros are what is not named."""
    return from_json(to_json(trace))


@given(TRACES)
def test_a_trace_survives_json(trace: Trace) -> None:
    data = json.loads(json.dumps(to_json(trace)))
    back = from_json(data)
    zeros = (0, False, ArrayValue(0))
    kept = {n: v for n, v in trace.initial.items() if v not in zeros}
    assert {n: (type(v), v) for n, v in back.initial.items()} == {n: (type(v), v) for n, v in kept.items()}
    assert len(back.steps) == len(trace.steps)
    for ours, theirs in zip(back.steps, trace.steps, strict=True):
        assert (ours.operation, ours.vcpu, ours.cpu) == (theirs.operation, theirs.vcpu, theirs.cpu)
        assert ours.inputs == {n: v for n, v in theirs.inputs.items() if v not in zeros}
    assert without_zeros(back) == back


def test_a_book_survives_its_file(tmp_path: Path) -> None:
    book = TraceBook((Trace({"v0.phase": 3}, (Step("op", 0, 1, {"value": 1 << 63}),)), Trace({}, ())), {"a claim": 1})
    book.write(tmp_path / "sub" / "book.json")
    assert TraceBook.read(tmp_path / "sub" / "book.json") == book


def test_a_book_is_written_the_same_every_time(tmp_path: Path) -> None:
    one = TraceBook((Trace({}, ()),), {"b": 0, "a": 0})
    two = TraceBook((Trace({}, ()),), {"a": 0, "b": 0})
    for number, book in enumerate((one, two)):
        book.write(tmp_path / f"{number}.json")
    assert (tmp_path / "0.json").read_bytes() == (tmp_path / "1.json").read_bytes()


def test_the_stored_books_are_written_as_this_program_writes_them(tmp_path: Path) -> None:
    for path in sorted((PROOFS / "traces").glob("*.json")):
        TraceBook.read(path).write(tmp_path / path.name)
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), f"{path.name}: write it with --refresh"


def test_a_missing_book_is_empty(tmp_path: Path) -> None:
    assert TraceBook.read(tmp_path / "none.json") == TraceBook()


# ---- damaged files

GOOD: dict[str, Any] = {
    "schema_version": 1,
    "counterexamples": {"a claim": 0},
    "traces": [
        {
            "initial": {"v0.phase": "0x3", "v0.user_bank": {"default": "0x0", "items": {"1": "0x7"}}},
            "steps": [{"operation": "kvm_arch_vcpu_put", "vcpu": 0, "cpu": 0, "inputs": {"value": "0x1"}}],
        }
    ],
}


def change(*keys: Any, to: Any = None, remove: bool = False) -> dict[str, Any]:
    """The good book with one thing changed."""
    data = copy.deepcopy(GOOD)
    place: Any = data
    for key in keys[:-1]:
        place = place[key]
    if remove:
        del place[keys[-1]]
    else:
        place[keys[-1]] = to
    return data


STEP = ("traces", 0, "steps", 0)
BAD = {
    "no schema_version": (change("schema_version", remove=True), "schema_version is not 1"),
    "another schema_version": (change("schema_version", to=2), "schema_version is not 1"),
    "schema_version as text": (change("schema_version", to="1"), "schema_version is not 1"),
    "a list": ([], "schema_version is not 1"),
    "no traces": (change("traces", remove=True), "not a book of traces: KeyError: 'traces'"),
    "traces are a number": (change("traces", to=3), "not a book of traces"),
    "a trace is a number": (change("traces", 0, to=3), "not a trace"),
    "a trace without steps": (change("traces", 0, "steps", remove=True), "not a trace: KeyError: 'steps'"),
    "a step without inputs": (change(*STEP, "inputs", remove=True), "not a trace: KeyError: 'inputs'"),
    "a step that is a list": (change(*STEP, to=[]), "not a trace"),
    "an operation that is a number": (change(*STEP, "operation", to=7), "a step is an operation on a vCPU"),
    "an operation that is a list": (change(*STEP, "operation", to=["x"]), "a step is an operation on a vCPU"),
    "a vCPU that is text": (change(*STEP, "vcpu", to="0"), "a step is an operation on a vCPU"),
    "a vCPU that is a Boolean": (change(*STEP, "vcpu", to=True), "a step is an operation on a vCPU"),
    "a CPU that is half": (change(*STEP, "cpu", to=0.5), "a step is an operation on a vCPU"),
    "a CPU that is null": (change(*STEP, "cpu", to=None), "a step is an operation on a vCPU"),
    "a value that is a number": (change(*STEP, "inputs", "value", to=5), "not a trace"),
    "a value that is no number": (change(*STEP, "inputs", "value", to="seven"), "not a trace: ValueError"),
    "a value that is null": (change(*STEP, "inputs", "value", to=None), "not a trace"),
    "a bank without default": (
        change("traces", 0, "initial", "v0.user_bank", "default", remove=True),
        "not a trace: KeyError: 'default'",
    ),
    "a bank with a strange index": (
        change("traces", 0, "initial", "v0.user_bank", "items", to={"one": "0x7"}),
        "not a trace: ValueError",
    ),
    "a counterexample that is not there": (
        change("counterexamples", "a claim", to=1),
        "counterexample of a claim is not in the file",
    ),
    "a negative counterexample": (
        change("counterexamples", "a claim", to=-1),
        "counterexample of a claim is not in the file",
    ),
    "a counterexample that is text": (change("counterexamples", "a claim", to="x"), "not a book of traces"),
}


@pytest.mark.parametrize(("data", "message"), BAD.values(), ids=BAD.keys())
def test_a_damaged_book_is_refused_with_one_line(tmp_path: Path, data: Any, message: str) -> None:
    path = tmp_path / "E8-vhe.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(TraceError) as caught:
        TraceBook.read(path)
    assert str(caught.value).startswith("E8-vhe.json: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_good_book_is_good(tmp_path: Path) -> None:
    path = tmp_path / "good.json"
    path.write_text(json.dumps(GOOD), encoding="utf-8")
    assert TraceBook.read(path).counterexamples == {"a claim": 0}


@pytest.mark.parametrize("size", [0, 1, 40, 0.5, -2])
def test_a_truncated_book_is_refused(tmp_path: Path, size: float) -> None:
    whole = (PROOFS / "traces" / "E8-vhe.json").read_bytes()
    path = tmp_path / "E8-vhe.json"
    path.write_bytes(whole[: int(len(whole) * size) if isinstance(size, float) else size])
    with pytest.raises(TraceError, match=r"^E8-vhe\.json: unreadable: "):
        TraceBook.read(path)


def test_a_book_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "E8-vhe.json"
    path.write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(TraceError, match=r"^E8-vhe\.json: unreadable: "):
        TraceBook.read(path)


def test_a_directory_in_place_of_a_book_is_refused(tmp_path: Path) -> None:
    (tmp_path / "E8-vhe.json").mkdir()
    with pytest.raises(TraceError, match=r"^E8-vhe\.json: unreadable: "):
        TraceBook.read(tmp_path / "E8-vhe.json")


def test_a_bank_is_read_in_its_one_normal_form() -> None:
    """Entries that equal the default are no entries: equal banks are equal values."""
    data = change("traces", 0, "initial", "v0.user_bank", "items", to={"1": "0x0", "2": "0x5"})["traces"][0]
    assert from_json(data).initial["v0.user_bank"] == ArrayValue(0, ((2, 5),))
