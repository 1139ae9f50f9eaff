"""Obligations as text: the same bytes in every process, and every solver reads them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from formal.evidence.certificates.catalogue import BY_LEMMAS, Catalogue, CatalogueError, Plan, proved
from formal.evidence.certificates.smtlib import constant, flattened, sort_text, symbol, with_arrays
from formal.evidence.exchange.cross import SOLVERS, installed
from formal.evidence.obligations import Obligation
from formal.logic import terms as t
from formal.scope.configuration import Configuration
from formal.scope.manifest import Manifest
from tests.conftest import ROOT

HASHES = """
import hashlib, sys
sys.modules["z3"] = None
from pathlib import Path
from formal.scope.configuration import Configuration
from formal.evidence.certificates.catalogue import Catalogue, proved
from formal.evidence.certificates.smtlib import flattened, with_arrays
from formal.scope.manifest import Manifest
c = Configuration(*sys.argv[1:])
catalogue = Catalogue(c, proved(c, Manifest.read(Path("proofs/manifest.toml")).expected(c)))
found = hashlib.sha256()
for owed in catalogue.invariants():
    found.update((owed.stem + flattened(owed.obligation)[1] + with_arrays(owed.obligation)).encode())
print(found.hexdigest())
"""

BANK = t.var("m", (2, 8))
OBLIGATION = Obligation(
    "step/a", (t.Eq(BANK, t.var("n", (2, 8))),), t.Eq(t.select(BANK, t.var("in.the index", 2)), t.const(7, 8))
)


@pytest.mark.parametrize("name", ["E3b", "E8"])
def test_the_same_bytes_in_every_process(name: str) -> None:
    def run(seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", HASHES, name, "nvhe"]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout

    first = run("0")
    assert len(first) == 65
    assert run("1") == first
    assert run("4242") == first


def test_an_obligation_as_text() -> None:
    assert with_arrays(OBLIGATION).splitlines() == [
        "; step/a: 1 assumptions, then the negation of the goal",
        "(set-info :smt-lib-version 2.6)",
        "(set-logic QF_ABV)",
        "(declare-const n (Array (_ BitVec 2) (_ BitVec 8)))",
        "(declare-const m (Array (_ BitVec 2) (_ BitVec 8)))",
        "(declare-const |in.the index| (_ BitVec 2))",
        "(define-fun t1 () Bool (= m n))",
        "(define-fun t2 () (_ BitVec 8) (select m |in.the index|))",
        "(define-fun t3 () Bool (= t2 #x07))",
        "(define-fun t4 () Bool (not t3))",
        "(assert t1)",
        "(assert t4)",
        "(check-sat)",
        "(exit)",
    ]


def test_the_text_says_what_the_new_variables_stand_for() -> None:
    text = flattened(OBLIGATION)[1]
    assert "; d.0: whether two arrays are equal, made from m, n\n" in text
    assert "; m@0: m at |in.the index|\n" in text
    assert "(set-logic QF_BV)" in text and "Array" not in text


@pytest.mark.skipif(not installed(), reason="no other solver")
@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers_read_both_texts(solver: str) -> None:
    pytest.importorskip(solver)
    assert SOLVERS[solver](with_arrays(OBLIGATION), 60) == "sat"
    assert SOLVERS[solver](flattened(OBLIGATION)[1], 60) == "sat"
    sure = Obligation(
        "sure", OBLIGATION.assumptions, t.Eq(t.select(BANK, t.const(1, 2)), t.select(t.var("n", (2, 8)), t.const(1, 2)))
    )
    assert SOLVERS[solver](with_arrays(sure), 60) == "unsat"
    assert SOLVERS[solver](flattened(sure)[1], 60) == "unsat"


def test_symbols_and_constants() -> None:
    assert symbol("v0.mdcr_el2") == "v0.mdcr_el2"
    assert symbol("in.DBGBCR<n>_EL1 and its siblings") == "|in.DBGBCR<n>_EL1 and its siblings|"
    assert (constant(10, 8), constant(5, 3), sort_text(0)) == ("#x0a", "#b101", "Bool")
    for name in ("a|b", "a\\b", "t17", "a\nb"):
        with pytest.raises(ValueError, match="no SMT-LIB symbol"):
            symbol(name)


def test_files_of_different_obligations_have_different_names(
    epoch_configuration: Configuration, manifest: Manifest
) -> None:
    claims = proved(epoch_configuration, manifest.expected(epoch_configuration))
    owed = Catalogue(epoch_configuration, claims).owed(Plan((), dict.fromkeys(claims, BY_LEMMAS)))
    assert len({stem.lower() for stem in owed}) == len(owed), "some file systems ignore case"
    assert all(o.name for o in owed.values())


def test_what_does_not_exist_is_refused() -> None:
    c = Configuration("E8", "vhe")
    with pytest.raises(CatalogueError, match="no verdict is expected of"):
        proved(c, {"no_such_claim": "PROVED"})
    with pytest.raises(CatalogueError, match="a lemma that does not exist for this kernel: no_such_lemma"):
        Catalogue(c, {}, ("no_such_lemma",))
