"""Other solvers on the obligations: z3, cvc5 and bitwuzla read the texts, with arrays and without.

A certificate does not need them; they look for a mistake in what a certificate takes for granted: that the text without
arrays says no more than the one with arrays, and that our reading of SMT-LIB is everybody's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec

from formal.evidence.certificates.catalogue import Catalogue, CatalogueError, Plan, proved
from formal.evidence.certificates.smtlib import flattened, with_arrays
from formal.scope.configuration import Configuration

UNSAT, UNKNOWN = "unsat", "unknown"


def z3_answer(text: str, seconds: float) -> str:
    """What z3 says: sat, unsat or unknown."""
    z3 = import_module("z3")
    solver = z3.SimpleSolver()
    solver.set("timeout", int(seconds * 1000))
    solver.from_string(text)
    return str(solver.check())


def cvc5_answer(text: str, seconds: float) -> str:
    """What cvc5 says: sat, unsat or unknown."""
    cvc5 = import_module("cvc5")
    solver = cvc5.Solver()
    solver.setOption("tlimit-per", str(int(seconds * 1000)))
    solver.setOption("arrays-exp", "true")  # constant arrays
    parser = cvc5.InputParser(solver)
    parser.setStringInput(cvc5.InputLanguage.SMT_LIB_2_6, text, "obligation")
    symbols, answer = parser.getSymbolManager(), UNKNOWN
    while not (command := parser.nextCommand()).isNull():
        said = str(command.invoke(solver, symbols)).strip()
        if said in ("sat", UNSAT):
            answer = said
    return answer


def bitwuzla_answer(text: str, seconds: float) -> str:
    """What bitwuzla says: sat, unsat or unknown."""
    bitwuzla = import_module("bitwuzla")
    options = bitwuzla.Options()
    options.set(bitwuzla.Option.TIME_LIMIT_PER, int(seconds * 1000))
    parser = bitwuzla.Parser(bitwuzla.TermManager(), options)
    parser.parse(text.replace("(check-sat)\n", ""), True, False)
    answer = parser.bitwuzla().check_sat()
    return str({bitwuzla.Result.SAT: "sat", bitwuzla.Result.UNSAT: UNSAT}.get(answer, UNKNOWN))


SOLVERS: dict[str, Callable[[str, float], str]] = {
    "z3": z3_answer,
    "cvc5": cvc5_answer,
    "bitwuzla": bitwuzla_answer,
}


CONSTANT_ARRAY = "(as const "
CANNOT = {"bitwuzla": CONSTANT_ARRAY}  # what a solver does not decide: bitwuzla compares no constant arrays (0.9.1)


def installed() -> tuple[str, ...]:
    """The solvers that can be imported here."""
    return tuple(name for name in SOLVERS if find_spec(name) is not None)


@dataclass
class Crossed:
    """What the solvers say about one configuration."""

    configuration: Configuration
    texts: int = 0
    disagreements: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    not_asked: int = 0  # texts that one of the solvers cannot decide
    problem: str = ""


def cross(
    c: Configuration, expected: Mapping[str, str], plan: Plan, solvers: tuple[str, ...], seconds: float
) -> Crossed:
    """Asks the solvers about every text of a configuration; all of them are unsatisfiable, the certificates say."""
    result = Crossed(c)
    try:
        owed = Catalogue(c, proved(c, expected), plan.lemmas).owed(plan)
    except (CatalogueError, KeyError) as error:
        result.problem = f"{c}: {error}"
        return result
    for stem, obligation in owed.items():
        for kind, text in (("without arrays", flattened(obligation)[1]), ("with arrays", with_arrays(obligation))):
            result.texts += 1
            for name in solvers:
                if name in CANNOT and CANNOT[name] in text:
                    result.not_asked += 1
                    continue
                answer = SOLVERS[name](text, seconds)
                where = f"{c}: {stem} {kind}"
                if answer == UNKNOWN:
                    result.unknown.append(f"{where}: {name} gave up")
                elif answer != UNSAT:
                    result.disagreements.append(f"{where}: the certificate says {UNSAT}, {name} says {answer}")
    return result
