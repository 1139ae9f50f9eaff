"""Fixtures that several tests share; what is expensive is made once for each process."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import hypothesis
import pytest

from formal.engines.verdict import Checker
from formal.engines.z3backend import SolverTimeoutError, shared_terms
from formal.evidence.runs.traces import TraceBook
from formal.matrix.configuration_run import book_path
from formal.scope.configuration import EPOCH_CONFIGURATIONS, Configuration
from formal.scope.manifest import Manifest
from formal.system import System
from tests.installed import installed as installed  # a fixture

# The same examples in every run: a failure is reproduced by running the test again. No deadline: machines differ.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=False)
hypothesis.settings.load_profile("repeatable")

ROOT = Path(__file__).parents[1]
PROOFS = ROOT / "proofs"


COPIES: list[Path] = []  # folders that are shared by the tests of a process
MEMORY = [5 << 30]  # bytes that a process may have before it lets go of what it keeps of trees


@pytest.fixture(autouse=True)
def memory_is_given_back() -> Iterator[None]:
    """What is kept of trees grows with what is made of their edits; it is made again when it is needed."""
    yield
    if resident() > MEMORY[0] and (edited := sys.modules.get("tests.kernel.edited")) is not None:
        edited.copy_of.cache_clear()
        gc.collect()
        MEMORY[0] = max(MEMORY[0], resident() + (2 << 30))


def resident() -> int:
    """The memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="session", autouse=True)
def copies_are_removed() -> Iterator[None]:
    """Nothing that tests have copied is left."""
    yield
    for place in COPIES:
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees verdicts that another one, or the user, has kept.

    All of a run share what was read of the C files of trees, which is found by their contents.
    """
    base, folder = tmp_path_factory.getbasetemp(), tmp_path_factory.mktemp("cache")
    read = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "effects-of-files"
    read.mkdir(exist_ok=True)
    (folder / "kvm-debug-trap-proofs").mkdir()
    (folder / "kvm-debug-trap-proofs" / "effects").symlink_to(read)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))


@cache
def checker_of(configuration: Configuration) -> Checker:
    """A checker of a configuration with its stored traces; lemmas are proved once and kept."""
    book = TraceBook.read(book_path(PROOFS / "traces", configuration))
    return Checker(System(configuration.kernel()), book)


@pytest.fixture(scope="session")
def checker() -> Callable[[Configuration], Checker]:
    """Checkers by configuration, shared by all tests of a process."""
    return checker_of


@pytest.fixture(scope="session")
def e8() -> Checker:
    """The checker of E8 under VHE."""
    return checker_of(Configuration("E8", "vhe"))


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    """The manifest of the repository."""
    return Manifest.read(PROOFS / "manifest.toml")


@pytest.fixture(params=EPOCH_CONFIGURATIONS, ids=str)
def epoch_configuration(request: pytest.FixtureRequest) -> Configuration:
    """Each epoch in each mode."""
    configuration: Configuration = request.param
    return configuration


@pytest.fixture
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if other tests had not asked the same questions."""
    monkeypatch.setattr(shared_terms(), "cores", {})
    monkeypatch.setattr(shared_terms(), "satisfiable", set())


@pytest.fixture
def solver_gives_up(monkeypatch: pytest.MonkeyPatch, nothing_known: None) -> None:
    """As if every question were too hard for the time that it is given: on a quick machine none may be."""

    def gives_up(self: object) -> bool:
        raise SolverTimeoutError("canceled")

    monkeypatch.setattr("formal.engines.z3backend.Z3Solver._check", gives_up)
