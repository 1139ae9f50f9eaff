"""What has to be certified for one configuration: derived from the specification and from what is expected, every time.

For every claim that is expected to be PROVED: that the lemmas are an invariant (under the claim's preconditions, on top
of those that need none), and that they imply the claim, or that the claim is inductive on top of them. For every epoch
also that no vCPU gets stuck, and that operations that no stored run takes are never taken (``totality.py``). Nothing is
read from the certificates but which lemmas are used, which of the two ways a claim goes and which operations are said
never to be taken, and none of that can make a false claim provable.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from formal.evidence.certificates.totality import never, total
from formal.evidence.obligations import Induction, Obligation
from formal.lemmas import LEMMAS
from formal.scope.configuration import Configuration, checks
from formal.system import System
from formal.vocabulary import Claim, Precondition

BY_LEMMAS, BY_INDUCTION = "lemmas", "induction"
Given = tuple[Precondition, ...]


class CatalogueError(Exception):
    """Something is expected, or said to be used, that does not exist."""


@dataclass(frozen=True)
class Owed:
    """An obligation, and the name of its files (without ``.smt2`` and ``.lrat``)."""

    stem: str
    obligation: Obligation


@dataclass(frozen=True)
class Plan:
    """Which lemmas are used, how each claim follows, and which operations are never taken."""

    lemmas: tuple[str, ...]
    claims: Mapping[str, str]
    never: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The plan as plain data."""
        return {"lemmas": list(self.lemmas), "claims": dict(self.claims), "never": list(self.never)}


def proved(c: Configuration, expected: Mapping[str, str]) -> dict[str, Claim]:
    """The claims of a configuration that are expected to be PROVED, by the name of the check.

    Raises:
        CatalogueError: if one does not exist, or does not apply to the kernel, or nothing is expected of one that does.
    """
    known, kernel = dict(checks(c.claims())), c.kernel()
    if silent := [p.name for p in c.claims() if p.name not in expected and p.applies(kernel) is None]:
        raise CatalogueError(f"{c}: no verdict is expected of {silent[0]}")
    found: dict[str, Claim] = {}
    for name, verdict in expected.items():
        if verdict != "PROVED":
            continue
        if name not in known:
            raise CatalogueError(f"{c}: {name} is expected to be PROVED, but there is no such claim")
        if why := known[name].applies(kernel):
            raise CatalogueError(f"{c}: {name} is expected to be PROVED, but does not apply: {why}")
        found[name] = known[name]
    return found


class Catalogue:
    """The obligations of one configuration.

    Raises:
        CatalogueError: if the plan names a lemma that does not exist.
    """

    def __init__(self, c: Configuration, claims: Mapping[str, Claim], lemmas: tuple[str, ...] | None = None) -> None:
        self.configuration, self.claims = c, claims
        self.system = System(c.kernel())
        known = {m.name for m in LEMMAS if m.applies(self.system.kernel)}
        self.lemmas = tuple(m for m in LEMMAS if m.name in known and (lemmas is None or m.name in lemmas))
        if unknown := [name for name in lemmas or () if name not in known]:
            raise CatalogueError(f"{c}: the index uses a lemma that does not exist for this kernel: {unknown[0]}")
        self._inductions: dict[Given, Induction] = {}

    def induction(self, given: Given = ()) -> Induction:
        """The lemmas under preconditions."""
        if given not in self._inductions:
            base = self.induction() if given else None
            self._inductions[given] = Induction(self.system, self.lemmas, given, base=base)
        return self._inductions[given]

    def inductions(self) -> Iterator[Induction]:
        """The lemmas under every set of preconditions that a claim needs, at first none."""
        return (self.induction(given) for given in dict.fromkeys([(), *(c.given for c in self.claims.values())]))

    def invariants(self) -> Iterator[Owed]:
        """The lemmas are invariants, under every set of preconditions that a claim needs."""
        for induction in self.inductions():
            for obligation in induction.obligations():
                yield Owed(_stem(induction.given, obligation.name), obligation)

    def totality(self, untaken: tuple[str, ...]) -> Iterator[Owed]:
        """No vCPU gets stuck, and these operations are never taken; nothing of a bug brought back.

        Raises:
            CatalogueError: if there is no such operation.
        """
        known = {op.name for op in self.system.operations}
        if unknown := [name for name in untaken if name not in known]:
            raise CatalogueError(
                f"{self.configuration}: the index names an operation that does not exist: {unknown[0]}"
            )
        if not self.configuration.is_bug:
            for obligation in (total(self.induction()), *never(self.induction(), untaken)):
                yield Owed(_stem((), obligation.name), obligation)

    def claim(self, name: str, way: str) -> Iterator[Owed]:
        """A claim follows, in one of the two ways.

        Raises:
            CatalogueError: if there is no such way.
        """
        claim = self.claims[name]
        induction = self.induction(claim.given)
        if way == BY_LEMMAS:
            obligations = induction.claim_obligations(claim)
        elif way == BY_INDUCTION and not claim.actors:
            obligations = induction.kept_obligations(claim)
        else:
            raise CatalogueError(f"{self.configuration}: {name} cannot be proved by {way!r}")
        for obligation in obligations:
            yield Owed(_stem(claim.given, obligation.name), obligation)

    def owed(self, plan: Plan) -> dict[str, Obligation]:
        """Every obligation by the name of its files.

        Raises:
            CatalogueError: if the plan does not fit, or two obligations have the same name.
        """
        found: dict[str, Obligation] = {}
        claims = (o for name in self.claims for o in self.claim(name, plan.claims[name]))
        for owed in (*self.invariants(), *self.totality(plan.never), *claims):
            if owed.stem in found:
                raise CatalogueError(f"{self.configuration}: two obligations are named {owed.stem}")
            found[owed.stem] = owed.obligation
        return found


def _stem(given: Given, name: str) -> str:
    prefix = f"given {' '.join(p.name for p in given)}/" if given else ""
    return re.sub(r"[^A-Za-z0-9_/]+", "-", prefix + name).strip("-")
