"""The flat system and its formats: read back by other readers and run beside the replay of stored traces."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings

from formal.commands import export
from formal.common.exit_codes import ExitCode
from formal.evidence.exchange import peers
from formal.evidence.exchange.aiger import aiger
from formal.evidence.exchange.btor2 import btor2, symbol
from formal.evidence.exchange.flat import FIRST, Flat, flat, only
from formal.evidence.exchange.peers import FAILS, HOLDS, UNKNOWN, Answer
from formal.evidence.exchange.verilog import verilog
from formal.evidence.runs.replay import Replay, ReplayError, Seen
from formal.evidence.runs.traces import Trace, TraceBook, TraceError
from formal.lemmas import LEMMAS
from formal.logic import terms as t
from formal.logic.evaluation import evaluate, nodes
from formal.logic.terms import BOOL, ArrayValue, Term, Value
from formal.properties import CLAIMS
from formal.scope.configuration import Configuration
from formal.system import System
from tests.conftest import PROOFS
from tests.evidence.certificates.test_blast import BINARY, UNARY
from tests.evidence.formulas import formulas
from tests.evidence.readers import Aiger, Btor2, bits_of

E8 = Configuration("E8", "vhe")


def bits(term: Term) -> int:
    return 1 if term.sort == BOOL else t.width(term)


@pytest.fixture(scope="module")
def model() -> Flat:
    """E8 under VHE, with all lemmas and all claims, also those that are VIOLATED."""
    return flat(System(E8.kernel(1)), LEMMAS, CLAIMS)


def words(state: Mapping[str, Value]) -> dict[str, int]:
    """Values of variables, banks element by element."""
    found: dict[str, int] = {}
    for name, value in state.items():
        if isinstance(value, ArrayValue):
            found |= {f"{name}@{i}": value[i] for i in range(4)}
        else:
            found[name] = int(value)
    return found


def runs(c: Configuration) -> Iterator[tuple[Replay, Trace, list[Seen]]]:
    """The stored runs that one break- and watchpoint are enough for."""
    replay = Replay(System(c.kernel(1)))
    for trace in TraceBook.read(PROOFS / "traces" / f"{c.stem}.json").traces:
        try:
            yield replay, trace, list(replay.run(trace))
        except (TraceError, ReplayError):
            continue


def inputs_of(model: Flat, seen: Seen) -> dict[str, int]:
    """What the flat system is given to take the step."""
    assert seen.step is not None
    found = {"operation": model.operations.index(seen.step.operation), "vcpu": seen.step.vcpu, "cpu": seen.step.cpu}
    return found | words(seen.inputs)


def test_runs_beside_the_replay(model: Flat) -> None:
    """Both formats go through the same states, and every property is bad exactly where the replay says so."""
    texts, data = btor2(model), aiger(model)
    widths = {str(v.data): bits(v) for v in (*model.inputs, *model.next)}
    claims = {f"claim {c.name}": c for c in CLAIMS if f"claim {c.name}" in model.bad}
    lemmas = {f"lemma {m.name}": m for m in LEMMAS if f"lemma {m.name}" in model.bad}
    assert claims.keys() | lemmas.keys() == model.bad.keys()
    compared, broken = 0, set[str]()
    for replay, trace, states in itertools.islice(runs(E8), 8):
        word, bit = Btor2(texts), Aiger(data)
        pairs = [(v, p) for v in (0, 1) for p in (0, 1)]
        zeros = dict.fromkeys(word.state, 0)
        start = zeros | words(states[0].after) | missing(replay, trace)
        load = {f"{FIRST}{n}": v for n, v in start.items() if n not in ("started", "ok")}
        assert word.step({symbol(n): v for n, v in load.items()}) == set()
        assert bit.step(bits_of(load, widths)) == set()
        for now, after in itertools.pairwise([*states, None]):
            assert now is not None
            expected = start | words(now.after) | {"started": 1, "ok": 1}
            assert word.state == expected
            assert bit.state == bits_of(expected, widths)
            given = inputs_of(model, after) if after else {}
            bad = word.step({symbol(n): v for n, v in given.items()})
            assert bad == {symbol(n) for n in bit.step(bits_of(given, widths))}
            compared += 1
            env = start | dict(now.after)  # for evaluation, banks are needed as arrays
            for name, claim in claims.items():
                if not claim.actors:
                    bank = {**banks(replay), **now.after}
                    wrong = any(
                        not evaluate(claim.holds(replay.system.state(p), replay.system.kernel), {**env, **bank})
                        for p in pairs
                    )
                    assert (symbol(name) in bad) == wrong, name
                elif after and after.step:
                    wrong = replay.breaks(claim, after, (after.step.vcpu, after.step.cpu))
                    assert (symbol(name) in bad) == wrong, name
            broken |= bad
    assert compared > 30 and len(broken) > 3
    assert not [name for name in broken if name.startswith("lemma")]


def missing(replay: Replay, trace: Trace) -> dict[str, int]:
    """Values for a CPU that the trace does not speak of: 0 everywhere would be no initial state."""
    if any(cpu == 1 for _, cpu in replay.pairs(trace)):
        return {}
    return {f"p1.{name}": 1 for name in ("boot_mdcr_el2", "hw_mdcr_el2", "event_counters")}


def banks(replay: Replay) -> dict[str, Value]:
    """Banks of 0 everywhere."""
    pairs = ((0, 0), (1, 1))
    terms = [v for pair in pairs for v in replay.system.state(pair).values.values()]
    return {str(v.data): ArrayValue(0) for v in terms if isinstance(v.sort, tuple)}


def test_a_run_that_begins_nowhere_breaks_nothing(model: Flat) -> None:
    """All zeros is no initial state: HPMN must not be 0."""
    word = Btor2(btor2(model))
    for _ in range(3):
        assert word.step({"operation": model.operations.index("kvm_arch_vcpu_create")}) == set()
    assert word.state["started"] and not word.state["ok"] and word.state["v0.phase"] == 1


def of_formulas(asserted: tuple[Term, ...]) -> Flat:
    """A system without state whose properties are formulas."""
    variables = tuple(n for n in nodes(asserted) if n.op == "var")
    return Flat(variables, {}, {f"f{i}": f for i, f in enumerate(asserted)}, ())


@settings(max_examples=150)
@given(formulas())
def test_formulas_in_both_formats(asserted: tuple[Term, ...]) -> None:
    system = of_formulas(asserted)
    widths = {str(v.data): bits(v) for v in system.inputs}
    for seed in (0, 1, 0x9E37_79B9_7F4A_7C15, (1 << 64) - 1):
        values = {n: (seed >> i) & (1 << w) - 1 for i, (n, w) in enumerate(widths.items())}
        env: dict[str, Value] = {
            str(v.data): bool(values[str(v.data)]) if v.sort == BOOL else values[str(v.data)] for v in system.inputs
        }
        expected = {n for n, f in system.bad.items() if evaluate(f, env)}
        assert Btor2(btor2(system)).step({symbol(n): v for n, v in values.items()}) == expected
        assert Aiger(aiger(system)).step(bits_of(values, widths)) == expected
        assert Aiger(aiger(system, together=True)).step(bits_of(values, widths)) == ({"any"} if expected else set())


@pytest.mark.parametrize("writer", [btor2, aiger, verilog])
def test_what_is_not_written_is_refused(writer: object) -> None:
    a, b = t.var("a", 4), t.var("b", 4)
    with pytest.raises(ValueError, match="bvmul is not written as"):
        writer(of_formulas((t.Eq(t.bvmul(a, b), a),)))  # type: ignore[operator]


# ---- peers

needs_yosys = pytest.mark.skipif(peers.SMTBMC not in peers.installed(), reason="needs yosys (Debian)")
needs_abc = pytest.mark.skipif(peers.ABC not in peers.installed(), reason="needs berkeley-abc (Debian)")


def wrong_results() -> dict[str, Term]:
    """For every operation, values of 2 bits and another result: bad never, if Verilog means what terms mean."""
    a, b = t.var("a", 2), t.var("b", 2)
    found: dict[str, Term] = {}
    operations = {n: f(a, b) for n, f in BINARY.items()} | {n: f(a, 2) for n, f in UNARY.items()}
    operations["ite"] = t.If(t.ult(a, b), a, b)
    for name, term in operations.items():
        parts = []
        for x, y in itertools.product(range(4), repeat=2):
            value = evaluate(term, {"a": x, "b": y})
            right = t.boolean(value) if isinstance(value, bool) else t.const(value, t.width(term))  # type: ignore[arg-type]
            parts.append(t.And(t.Eq(a, t.const(x, 2)), t.Eq(b, t.const(y, 2)), t.Ne(term, right)))
        found[f"claim {name}"] = t.Or(*parts)
    return found


@needs_yosys
def test_verilog_means_what_terms_mean(tmp_path: Path) -> None:
    bad = wrong_results()
    tick = {t.var("s", 2): t.var("a", 2)}
    system = Flat((t.var("a", 2), t.var("b", 2)), tick, bad, ())
    assert peers.smtbmc(system, tmp_path, 60).says == HOLDS
    for name in ("claim bvslt", "claim sign_extend"):
        system = Flat(system.inputs, tick, {**bad, name: t.Or(bad[name], t.Eq(t.var("s", 2), t.const(3, 2)))}, ())
        assert peers.smtbmc(system, tmp_path, 60).says == FAILS


def counter(limit: int) -> Flat:
    """A counter that goes to 5 and stays there; it must stay below a limit."""
    n = t.var("n", 4)
    after = t.If(t.Eq(n, t.const(5, 4)), n, n + t.const(1, 4))
    return Flat((), {n: after}, {"claim below": t.ule(t.const(limit, 4), n)}, ())


@needs_abc
def test_abc_says_what_is_so(tmp_path: Path) -> None:
    assert peers.pdr(counter(6), tmp_path, 20).says == HOLDS
    assert peers.pdr(counter(5), tmp_path, 20).says == FAILS


@needs_abc
def test_a_peer_that_is_not_done_in_time_is_unknown(model: Flat, tmp_path: Path) -> None:
    proved = Flat(model.inputs, model.next, {"claim trace": model.bad["claim entry_is_fresh"]}, ())
    assert peers.pdr(proved, tmp_path, 1).says == UNKNOWN


def test_a_peer_that_answers_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(peers, "ABC", "true")
    with pytest.raises(peers.PeerError, match="true gives no answer: nothing"):
        peers.pdr(counter(5), tmp_path, 5)


# ---- the command


def test_files_are_written_and_the_same_every_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("a", "b"):
        assert export.main([str(tmp_path / folder), "--only", "E8-vhe"]) == ExitCode.OK
    assert re.fullmatch(r"(E8 vhe     \d+ state variables, \d+ properties\n){2}", capsys.readouterr().out)
    names = {p.name for p in (tmp_path / "a").iterdir()}
    assert names == {"E8-vhe.btor2", "E8-vhe.aig", "E8-vhe.v", "E8-vhe-claims.aig"}
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    text = (tmp_path / "a" / "E8-vhe.btor2").read_text()
    assert "claim_hpmn_preserved_in_guest" in text and "lemma_" in text
    assert "claim_hpmn_preserved_always" not in text, "which is VIOLATED"


@pytest.mark.parametrize(
    ("says", "code", "message"),
    [
        (HOLDS, ExitCode.OK, "E8 vhe     yosys-smtbmc: lemmas and claims are inductive together; 3 s"),
        (UNKNOWN, ExitCode.UNKNOWN, "E8 vhe     yosys-smtbmc: UNKNOWN after 3 s"),
        (
            FAILS,
            ExitCode.WRONG,
            "formal.export: E8 vhe: formal.check says that lemmas and claims are inductive together, "
            "yosys-smtbmc says that it is not so",
        ),
    ],
)
def test_what_a_peer_says_decides(
    says: str,
    code: int,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peers, "installed", lambda: (peers.SMTBMC,))
    _, tools, what = peers.PEERS[peers.SMTBMC]
    monkeypatch.setitem(peers.PEERS, peers.SMTBMC, (lambda *_: Answer(says, 3.0), tools, what))
    assert export.main([str(tmp_path), "--only", "E8-vhe", "--peers"]) == code
    out = capsys.readouterr()
    assert message in (out.err if says == FAILS else out.out).splitlines()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: DIR"),
        (["out", "--only", "E8-vh"], "--only E8-vh: no such configuration; did you mean E8-vhe?"),
        (["out", "--timeout", "0"], "argument --timeout: 0 is no time to wait, in seconds"),
        ([f"{PROOFS}/manifest.toml", "--only", "E8-vhe"], f"{PROOFS}/manifest.toml: File exists"),
    ],
)
def test_misuse(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert export.main(arguments) == ExitCode.USAGE
    assert capsys.readouterr().err == f"formal.export: {message}\n"


def test_without_peers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(peers, "installed", tuple)
    assert export.main(["out", "--peers"]) == ExitCode.USAGE
    assert "--peers needs one of yosys-smtbmc, berkeley-abc" in capsys.readouterr().err


def test_only() -> None:
    small = Flat((), {}, {"lemma a": t.TRUE, "claim b": t.FALSE}, ())
    assert only(small, "claim").bad == {"claim b": t.FALSE}
