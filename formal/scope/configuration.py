"""What there is to prove: kernels by name (an epoch, or an epoch with a bug brought back), each in its host modes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from formal.epochs import EPOCHS, Kernel, Mode
from formal.properties import CLAIMS
from formal.scope.bugs import BUGS
from formal.vocabulary import Claim


@dataclass(frozen=True, order=True)
class Configuration:
    """One kernel in one host mode."""

    name: str
    mode: str

    def __str__(self) -> str:
        return f"{self.name} {self.mode}"

    @property
    def stem(self) -> str:
        """The name of its files under proofs/traces."""
        return f"{self.name}-{self.mode}"

    @property
    def is_bug(self) -> bool:
        """Whether this is a bug brought back."""
        return self.name in BUGS

    def kernel(self, breakpoints: int = 16) -> Kernel:
        """The behaviours."""
        mode = Mode(self.mode)
        kernel = BUGS[self.name].kernel(mode) if self.is_bug else EPOCHS[self.name].kernel(mode)
        return kernel.but(breakpoints=breakpoints)

    def claims(self) -> tuple[Claim, ...]:
        """The claims that are checked by default: all, or those that the bug breaks."""
        if not self.is_bug:
            return CLAIMS
        broken = BUGS[self.name].breaks
        return tuple(c for c in CLAIMS if c.name in broken)


EPOCH_CONFIGURATIONS = tuple(Configuration(e.name, m.value) for e in EPOCHS.values() for m in e.modes)
BUG_CONFIGURATIONS = tuple(Configuration(b.name, m.value) for b in BUGS.values() for m in b.modes)


def checks(claims: tuple[Claim, ...]) -> Iterator[tuple[str, Claim]]:
    """The claims, each variant also without each of its preconditions, under the name it has in the manifest."""
    for claim in claims:
        yield claim.name, claim
        for spared in claim.given:
            left = tuple(p for p in claim.given if p is not spared)
            yield f"{claim.name} without {spared.name}", replace(claim, given=left)
