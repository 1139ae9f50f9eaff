"""The order of imports, and what every module must not do. A module that fits nowhere fails until it has a place."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import networkx as nx
import pytest

from tests.conftest import PROOFS, ROOT

# From the bottom up. A unit is a room (a folder) or a module of the specification; it imports units below it, and
# itself, but no neighbour. ARCHITECTURE.md has the same order.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("formal.common", "formal.logic"),
    ("formal.arch",),
    ("formal.releases",),
    ("formal.epochs",),
    ("formal.state",),
    ("formal.history",),
    ("formal.ownership", "formal.operations"),
    ("formal.environment", "formal.worldswitch"),
    ("formal.transitions",),
    ("formal.system",),
    ("formal.vocabulary",),
    ("formal.preconditions",),
    ("formal.lemmas",),
    ("formal.properties",),
    ("formal.scope",),
    ("formal.evidence",),
    ("formal.explain", "formal.kernel", "formal.conform"),
    ("formal.engines",),
    ("formal.matrix",),
    ("formal.tree",),
    ("formal.report", "formal.mutate"),
    ("formal.commands",),
    ("formal.prove", "formal.check", "formal.export", "formal.traps", "formal.book", "formal.__main__"),
    ("formal.mutate.__main__", "formal.conform.__main__"),
)
RANK = {unit: rank for rank, units in enumerate(LAYERS) for unit in units}
ROOMS = {  # rooms with rooms inside, from the bottom up
    "formal.evidence": ("obligations", "runs", "certificates", "exchange", "check"),
    "formal.kernel": (
        "errors",
        "belongs",
        "source",
        "text",
        "parse",
        "effects",
        "lift",
        "model",
        "recognition",
        "compare",
        "around",
        "compiled",
    ),
    "formal.conform": ("machine", "boot", "cpu", "trace", "findings", "monitor", "commands"),
}
SPEC = tuple(
    f"formal.{name}"
    for name in (
        "releases epochs state history operations environment ownership worldswitch transitions system vocabulary "
        "preconditions lemmas properties"
    ).split()
)
WITHOUT_SOLVER = ("formal.logic", "formal.evidence", "formal.explain")  # rooms; importlib names solvers only when asked

SIBLINGS = ("formal.kernel", "formal.conform", "formal.explain")

MAX_LINES = 400
MAX_FILES = 14
LONG = {  # why these may be longer
    "formal.logic.terms": "the logic: one constructor beside the other, read as a table",
    "formal.state": "the spec: every state variable, read from top to bottom",
    "formal.transitions": "the spec: operations in the order a vCPU meets them",
    "formal.lemmas": "the spec: why the claims hold, in the order in which a reader needs it",
    "formal.properties": "the spec: what is promised, side by side",
}
PRINTS = ("formal.commands.", "formal.conform.commands.", "formal.common.")  # command lines; every __main__ as well


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of formal, parsed."""
    found = {}
    for path in sorted((ROOT / "formal").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


def imported(tree: ast.Module) -> set[str]:
    """What a module imports, also inside functions; ``from formal import x`` counts as ``formal.x``."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "relative imports hide the direction"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            submodules = {name for name in whole if name in modules()}
            names |= submodules if submodules == whole else submodules | {node.module}
    return names


@cache
def graph() -> nx.DiGraph:
    """Which module imports which; other packages are nodes as well."""
    found: nx.DiGraph = nx.DiGraph()
    for name, tree in modules().items():
        found.add_node(name)
        found.add_edges_from((name, other) for other in imported(tree))
    return found


def unit(module: str) -> str:
    """The unit of LAYERS that a module belongs to; the door of a room is one of its own."""
    if module.endswith(".__main__"):
        return module
    return ".".join(module.split(".")[:2])


def uses(module: str, package: str) -> list[str]:
    """A chain of imports from a module to a package; empty if there is none."""
    targets = [n for n in graph() if n == package or n.startswith(f"{package}.")]
    for target in targets:
        if nx.has_path(graph(), module, target):
            return list(nx.shortest_path(graph(), module, target))
    return []


def test_every_module_has_a_place() -> None:
    lost = sorted({unit(m) for m in modules() if m != "formal"} - RANK.keys())
    assert not lost, f"give {', '.join(lost)} a place in LAYERS, and the design a reason"


def test_imports_go_down_only() -> None:
    wrong = [
        f"{a} imports {b}"
        for a, b in graph().edges
        if b.startswith("formal.") and unit(a) != unit(b) and RANK[unit(a)] <= RANK[unit(b)]
    ]
    assert not wrong, "against the order of LAYERS: " + "; ".join(wrong)


def test_no_cycles() -> None:
    cycles = [c for c in nx.simple_cycles(graph()) if len(c) > 1]
    assert not cycles, f"import cycles: {cycles}"


def test_the_architecture_knows_no_kernel() -> None:
    for name in modules():
        if unit(name) == "formal.arch":
            others = {unit(m) for m in graph().successors(name) if m.startswith("formal.")} - {"formal.arch"}
            assert others <= {"formal.logic"}, f"{name} imports {sorted(others)}: arch is the Arm ARM and nothing else"


@pytest.mark.parametrize("module", SPEC)
@pytest.mark.parametrize("forbidden", ["z3", "clang", "formal.engines", "formal.kernel", "formal.evidence"])
def test_the_specification_imports_no_engine_and_no_front_end(module: str, forbidden: str) -> None:
    chain = uses(module, forbidden)
    assert not chain, f"{module} must be readable without {forbidden}: {' -> '.join(chain)}"


@pytest.mark.parametrize("room", WITHOUT_SOLVER)
def test_what_rechecks_imports_no_solver(room: str) -> None:
    chains = [chain for m in modules() if unit(m) == room and (chain := uses(m, "z3"))]
    assert not chains, f"a stranger re-checks without Z3: {' -> '.join(chains[0])}"


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_inside_a_room_have_an_order(room: str) -> None:
    order = {f"{room}.{name}": rank for rank, name in enumerate(ROOMS[room])}
    inner = lambda module: ".".join(module.split(".")[:3])  # noqa: E731
    lost = sorted({inner(m) for m in modules() if unit(m) == room and m != room} - order.keys())
    assert not lost, f"give {', '.join(lost)} a place in ROOMS"
    wrong = [
        f"{a} imports {b}"
        for a, b in graph().edges
        if unit(a) == room and b.startswith(f"{room}.") and order[inner(a)] < order[inner(b)]
    ]
    assert not wrong, "; ".join(wrong)


def test_no_room_is_crowded() -> None:
    files: dict[Path, int] = {}
    for path in (ROOT / "formal").rglob("*.py"):
        if path.name != "__init__.py" and path.parent != ROOT / "formal":
            files[path.parent] = files.get(path.parent, 0) + 1
    crowded = {str(folder.relative_to(ROOT)): n for folder, n in files.items() if n > MAX_FILES}
    assert not crowded, f"more than {MAX_FILES} modules in a room: {crowded}"


def test_claims_do_not_take_what_they_say_from_the_operations() -> None:
    """A fault in something that both used would change what is claimed along with what is done."""
    allowed = {"formal.transitions": {"setup_debug_bug_on"}, "formal.ownership": {"in_use"}}
    for module in ("formal.properties", "formal.preconditions", "formal.vocabulary"):
        for node in ast.walk(modules()[module]):
            if isinstance(node, ast.ImportFrom) and node.module in allowed:
                assert {name.name for name in node.names} <= allowed[node.module], module


def test_only_the_backend_imports_z3() -> None:
    direct = sorted(a for a, b in graph().edges if b == "z3" or b.startswith("z3."))
    assert direct == ["formal.engines.z3backend"]


@pytest.mark.parametrize("one", SIBLINGS)
def test_siblings_do_not_import_each_other(one: str) -> None:
    members = [m for m in modules() if unit(m) == one]
    wrong = [f"{m} imports {b}" for m in members for b in graph().successors(m) if unit(b) in set(SIBLINGS) - {one}]
    assert not wrong, "; ".join(wrong)


def test_modules_are_short() -> None:
    lengths = {name: tree.body[-1].end_lineno or 0 for name, tree in modules().items() if tree.body}
    long = {name: n for name, n in lengths.items() if n > MAX_LINES and name not in LONG}
    assert not long, f"longer than {MAX_LINES} lines; split them, or say in LONG why not: {long}"


def test_only_commands_print() -> None:
    wrong = [
        f"{name}:{node.lineno}"
        for name, tree in modules().items()
        if not name.startswith(PRINTS) and not name.endswith("__main__")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not wrong, f"return values and let the command print: {wrong}"


def test_no_error_is_swallowed() -> None:
    """No bare except, no handler that only passes, and whoever catches everything raises it again."""
    wrong = []
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.ExceptHandler):
                continue
            silent = all(isinstance(s, ast.Pass) for s in node.body)
            everything = isinstance(node.type, ast.Name) and node.type.id == "BaseException"
            if node.type is None or silent or (everything and not any(isinstance(s, ast.Raise) for s in node.body)):
                wrong.append(f"{name}:{node.lineno}")
    assert not wrong, f"errors are swallowed at {wrong}"


def test_no_star_imports() -> None:
    wrong = [
        name
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)
    ]
    assert not wrong, f"star imports in {wrong}"


def test_modules_say_what_they_are_for() -> None:
    silent = [name for name, tree in modules().items() if not ast.get_docstring(tree)]
    assert not silent, f"no docstring: {silent}"


@pytest.mark.parametrize("folder", ["formal", "tests"])
def test_no_machine_paths(folder: str) -> None:
    """Code runs wherever it is checked out."""
    here = (str(ROOT), str(Path.home()) + "/", sys.prefix + "/")
    wrong = [
        f"{path.relative_to(ROOT)}: {place}"
        for path in (ROOT / folder).rglob("*.py")
        for place in here
        if place in path.read_text(encoding="utf-8")
    ]
    assert not wrong, f"paths of one machine: {wrong}"


REPLAY_WITHOUT_Z3 = """
import sys
from pathlib import Path

class NoSolver:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("z3", "clang"):
            raise ImportError(f"{name} must not be imported")

sys.meta_path.insert(0, NoSolver())

from formal.scope.configuration import BUG_CONFIGURATIONS, EPOCH_CONFIGURATIONS, checks
from formal.evidence.runs.replay import Replay
from formal.evidence.runs.traces import TraceBook
from formal.properties import CLAIMS, NON_PROPERTIES
from formal.system import System
import formal.explain.show, formal.explain.shrink, formal.evidence.obligations

claims = dict(checks(CLAIMS)) | {f"not {c.name}": c for c in NON_PROPERTIES}
for configuration in EPOCH_CONFIGURATIONS + BUG_CONFIGURATIONS:
    book = TraceBook.read(Path(sys.argv[1]) / f"{configuration.stem}.json")
    assert book.traces, f"{configuration}: no traces are stored"
    replay = Replay(System(configuration.kernel()))
    for trace in book.traces:
        for seen in replay.run(trace):
            pass
    for name, number in book.counterexamples.items():
        assert replay.violates(book.traces[number], claims[name]) is not None, f"{configuration}: {name} is not broken"
    print(configuration, len(book.traces), len(book.counterexamples))
assert not [m for m in sys.modules if m.partition(".")[0] == "z3"]
"""


def test_all_stored_traces_replay_where_z3_cannot_be_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", REPLAY_WITHOUT_Z3, str(PROOFS / "traces")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(list((PROOFS / "traces").glob("*.json"))), "a file nobody replays"


# What the built-in gate can do without; each takes as long to load as Z3, or longer.
LATE = ("networkx", "clang", "rich", "formal.kernel", "formal.tree.verdicts", "formal.check", "formal.conform")


def test_the_command_loads_nothing_that_it_may_not_need() -> None:
    script = f"import sys, formal.commands.prove; print(*[m for m in {LATE!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
