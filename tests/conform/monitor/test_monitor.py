"""Monitors: generated from the specification, checked against runs of the model, good and bad."""

from __future__ import annotations

import ctypes
import itertools
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from formal.commands.conform import main
from formal.conform.commands.trace import TRACED
from formal.conform.monitor.monitor import (
    ASKED,
    BEFORE_ENTRY,
    BREAKS,
    CREATES,
    PASSES,
    PASSES_BY_OWNER,
    READS,
    asked,
    bpftrace,
    dot,
    expression,
    monitor,
    passes,
    reads,
)
from formal.epochs import EPOCHS, HOSTS, Mode
from formal.evidence.runs.replay import Replay
from formal.evidence.runs.traces import TraceBook
from formal.logic.evaluation import evaluate
from formal.logic.terms import TRUE, Eq, const, var
from formal.properties import CLAIMS
from formal.scope.bugs import BUGS
from formal.system import System
from tests.conftest import PROOFS
from tests.walks import Walk

KERNELS = [(e, m) for e in TRACED for m in EPOCHS[e].modes if m in HOSTS]


def entry_values(found, env, pair):
    v, p = pair
    return {name: env[name.replace("v0.", f"v{v}.").replace("p0.", f"p{p}.")] for name in reads(found.kernel)}


def follow(found, states, step, env, pair):
    """What a monitor says to a step: a violated order, and broken claims."""
    event = passes(found.kernel).get(step.operation)
    if event is None:
        return []
    state = found.automaton.after(states.get(step.vcpu, found.automaton.states[0]), event)
    if state is None:
        return ["order"]
    states[step.vcpu] = state
    values = entry_values(found, env, pair)
    return [c.claim for c in found.conditions if event == "kvm_entry" and not evaluate(c.holds, values)]


@pytest.mark.parametrize(
    ("epoch", "mode"), [("E10", Mode.VHE), ("E9", Mode.NVHE), ("E8", Mode.VHE), ("E8", Mode.NVHE), ("E4s", Mode.NVHE)]
)
def test_walks_of_a_good_kernel_violate_nothing(epoch, mode):
    kernel = EPOCHS[epoch].kernel(mode)
    found = monitor(kernel)
    walk = Walk(System(kernel), 2, 2, seed=5)
    states: dict[int, str] = {}
    entries = 0
    for _ in range(600):
        pair = walk.step()
        # Of E10 under VHE this one is false: HPMN is PMCR_EL0.N, whatever the boot code chose.
        known = {"hpmn_preserved_in_guest"} if kernel.tracks_debug_owner and kernel.vhe else set()
        assert set(follow(found, states, walk.steps[-1], walk.env, pair)) <= known
        entries += walk.steps[-1].operation == "__kvm_vcpu_run enters"
    assert entries > 20


@pytest.mark.parametrize(
    ("bug", "mode", "claim"),
    [
        ("B0", Mode.VHE, "hpmn_preserved_in_guest"),
        ("B1", Mode.VHE, "host_takes_debug_exceptions"),
        ("B1", Mode.VHE, "host_debug_sets_tda"),
        ("B3", Mode.VHE, "trace"),
        ("B3", Mode.NVHE, "trace_trapped"),
    ],
)
def test_stored_traces_of_past_bugs_violate_what_they_break(bug, mode, claim):
    assert claim in BUGS[bug].breaks
    kernel = EPOCHS["E8"].kernel(mode)
    found = monitor(kernel)  # of the kernel without the bug
    system = System(BUGS[bug].kernel(mode))
    book = TraceBook.read(PROOFS / f"traces/{bug}-{mode.value}.json")
    states: dict[int, str] = {}
    said = set()
    for seen in Replay(system).run(book.traces[book.counterexamples[claim]]):
        if seen.step is not None:
            said |= set(follow(found, states, seen.step, dict(seen.after), (seen.step.vcpu, seen.step.cpu)))
    assert claim in said


@pytest.mark.parametrize(("epoch", "mode"), KERNELS)
def test_conditions_are_the_claims(epoch, mode):
    """In every state of a walk in which a guest has just been entered, a condition says what its claim says."""
    kernel = EPOCHS[epoch].kernel(mode)
    found = monitor(kernel)
    claims = {c.name: c for c in CLAIMS}
    walk = Walk(System(kernel), 2, 1, seed=3)
    compared = 0
    for _ in range(200):
        pair = walk.step()
        if walk.steps[-1].operation != "__kvm_vcpu_run enters":
            continue
        for c in found.conditions:
            wanted = evaluate(claims[c.claim].holds(walk.system.state(pair), kernel), walk.env)
            assert evaluate(c.holds, entry_values(found, walk.env, pair)) == wanted, c.claim
            compared += 1
    assert compared >= len(found.conditions) > (9 if kernel.tracks_debug_owner else 10)


@pytest.mark.parametrize(("epoch", "mode"), KERNELS)
def test_the_order_is_the_same_in_every_kernel(epoch, mode):
    kernel = EPOCHS[epoch].kernel(mode)
    found = monitor(kernel).automaton
    if kernel.tracks_debug_owner:
        assert found.states == ("outside", "in_guest")
        assert found.edges == {("outside", "kvm_entry"): "in_guest", ("in_guest", "kvm_exit"): "outside"}
        return
    assert found.states == ("outside", "setup", "in_guest")
    assert found.edges == {
        ("outside", "kvm_arm_setup_debug"): "setup",
        ("setup", "kvm_entry"): "in_guest",
        ("in_guest", "kvm_arm_clear_debug"): "outside",
    }


def read_dot(text: str):
    """Reads the format as tools/verification/dot2/automata.py of the kernel describes it, line by line."""
    lines = text.splitlines()
    assert lines[0].split()[:2] == ["digraph", "state_automaton"]
    at = next(n for n, line in enumerate(lines) if line.split()[0] == "{node")
    states, final, initial = [], [], ""
    while lines[at].split()[0] == "{node":
        name = lines[at].split()[-1].replace('"', "").replace("};", "")
        if name.startswith("__init_"):
            initial = name[7:]
        else:
            states.append(name)
            final += [name] * ("doublecircle" in lines[at])
        at += 1
    at += 1  # the edge from __init_
    edges = {}
    while lines[at][1] == '"':
        words = lines[at].split()
        if words[1] == "->":
            edges[words[0].strip('"'), words[-2].replace('"', "")] = words[2].strip('"')
        at += 1
    return initial, states, final, edges


def test_the_dot_file_reads_back():
    found = monitor(EPOCHS["E8"].kernel(Mode.VHE))
    initial, states, final, edges = read_dot(dot(found))
    assert (initial, final) == ("outside", ["outside"])
    assert set(states) == {*found.automaton.states, "broken"}
    assert edges == {**found.automaton.edges, **{("broken", BREAKS + c.claim): "broken" for c in found.conditions}}
    assert not any(to == "broken" and a != "broken" for (a, _), to in edges.items())


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc compiles the expressions")
def test_expressions_of_the_script_are_the_claims(tmp_path: Path):
    """The same text, compiled as C, against the evaluation of the claims."""
    found = monitor(EPOCHS["E8"].kernel(Mode.VHE))
    names = dict(READS)
    body = "".join(
        f"int c{n}(unsigned long user_debug, unsigned long mdcr_el2, unsigned long mdscr_el1,"
        f" unsigned long first_mdcr_el2) {{ return {expression(c.holds, names)}; }}\n"
        for n, c in enumerate(found.conditions)
    )
    (tmp_path / "c.c").write_text(body)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / "c.so", tmp_path / "c.c"], check=True)
    library = ctypes.CDLL(str(tmp_path / "c.so"))
    r = random.Random(1)
    outcomes = set()
    for _ in range(300):
        good = 0x84E66 ^ (r.getrandbits(20) & r.getrandbits(20) if r.random() < 0.5 else 0)
        values = (r.choice((0, 1, 3, 0x20001)), good, r.choice((0, 0x8000, r.getrandbits(32))), 0x84E66)
        env = dict(zip(READS, values, strict=True))
        for n, c in enumerate(found.conditions):
            got = bool(getattr(library, f"c{n}")(*(ctypes.c_ulong(x) for x in values)))
            assert got == evaluate(c.holds, env), (c.claim, values)
            outcomes.add((n, got))
    assert len(outcomes) == 2 * len(found.conditions), "each condition is seen to hold and to fail"


@pytest.mark.parametrize("epoch", ["E0", "E8", "E10"])
def test_what_user_space_asks_for_is_told_by_its_acts(epoch):
    """The script's rule: flags that are refused change nothing, without ENABLE debugging ends."""
    term = asked(EPOCHS[epoch].kernel(Mode.NVHE))
    for control, before, after in (
        (1, 0, 1), (0x20001, 1, 0x20001), (0, 3, 0), (2, 3, 0), (0x10000, 1, 0), (4, 3, 3), (5, 0, 0), (1 << 31, 1, 1),
    ):  # fmt: skip
        assert evaluate(term, {"control": control, "v0.user_debug": before}) == after
    assert "?" in expression(term, {"control": "c", "v0.user_debug": "before"})


@pytest.mark.parametrize("epoch", ["E8", "E10"])
def test_the_script_has_every_condition_and_event(epoch):
    found = monitor(EPOCHS[epoch].kernel(Mode.VHE))
    text = bpftrace(found, "a test")
    for c in found.conditions:
        assert f"{c.claim} broken" in text
    if epoch == "E8":
        assert set(re.findall(r"tracepoint:kvm:(\w+)", text)) == {*PASSES.values(), ASKED, "kvm_arm_set_dreg32"}
        assert set(re.findall(r"probe:(\w+)", text)) == {CREATES}
    else:
        assert set(re.findall(r"tracepoint:kvm:(\w+)", text)) == {*PASSES_BY_OWNER.values(), ASKED}
        assert set(re.findall(r"probe:(\w+)", text)) == {BEFORE_ENTRY, CREATES}
        assert all(f"->{name};" in text or f".{name};" in text for name in ("guest_debug", "debug_owner", "mdcr_el2"))
    assert text.count("{") == text.count("}")


@pytest.mark.skipif(shutil.which("bpftrace") is None, reason="bpftrace is not installed")
@pytest.mark.parametrize("epoch", ["E8", "E10"])
def test_bpftrace_understands_the_script(tmp_path: Path, epoch):
    """Its syntax and types; the trace points themselves exist on arm64 only, so timers take their places here."""
    numbers = itertools.count(1)
    text = bpftrace(monitor(EPOCHS[epoch].kernel(Mode.VHE)), "a test")
    text = re.sub(r"(tracepoint:kvm|kprobe|kretprobe):\w+", lambda _: f"interval:s:{next(numbers)}", text)
    text = re.sub(r"\(struct kvm_vcpu \*\)", "(uint64)", text)
    text = re.sub(r"\$vcpu->[\w.]+", "7", text)
    text = text.replace("args->vcpu", "9").replace("arg0", "9").replace("retval", "9")
    text = text.replace("args->guest_debug", "3").replace("args->value", "5").replace("str(args->name)", "comm")

    def analysed(script: str) -> str:
        (tmp_path / "m.bt").write_text(script)
        done = subprocess.run(["bpftrace", "-d", tmp_path / "m.bt"], capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    said = analysed(text)
    if "only supports running as" in said:
        pytest.skip("bpftrace only runs as the administrator")
    assert "AST after: Semantic" in said
    assert "AST after: Semantic" not in analysed(text.replace("END {", "END {{"))
    assert "Type mismatch" in analysed(text.replace("@seen[cpu] == 0", '@seen[cpu] == "x"'))


def test_what_has_no_form_is_refused():
    with pytest.raises(ValueError, match="bvadd has no form"):
        expression(Eq(var("a", 64) + var("b", 64), const(0, 64)), {"a": "a", "b": "b"})
    assert expression(TRUE, {}) == "1"


def test_the_command(tmp_path, capsys):
    assert main(["monitor"]) == 0
    assert "18 claims at every entry" in capsys.readouterr().out
    assert main(["monitor", "--dot", str(tmp_path / "m.dot"), "--bpftrace", "-"]) == 0
    assert capsys.readouterr().out.startswith("#!/usr/bin/env bpftrace")
    assert (tmp_path / "m.dot").read_text() == dot(monitor(EPOCHS["E8"].kernel(Mode.VHE)))
    assert main(["monitor", "--probes", "-"]) == 0
    assert "\nf:conform/load_debug kvm_vcpu_load_debug%return vcpu=vcpu:x64 " in capsys.readouterr().out
    assert main(["monitor", "--dot", f"{__file__}/m.dot"]) == 2
    assert capsys.readouterr().err == f"formal.conform monitor: {__file__}/m.dot: Not a directory\n"
