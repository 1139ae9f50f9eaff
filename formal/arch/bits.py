"""Registers as named bit fields over terms; raw vectors stay in here.

A register is declared most significant field first, one field a line:

    class MDCR_EL2(Register):
        TDE = bit(8, "route debug exceptions to EL2")
        HPMN = bits(4, 0, "event counters the guest may use")

``MDCR_EL2(term).TDE`` is a Boolean term, ``.HPMN`` a 5-bit one, ``MDCR_EL2.of(TDE=True)`` a register in which every
field that is not named is 0, and ``reg.but(TDE=False)`` a copy with some fields replaced. There is no ``<``: fields
compare as unsigned numbers through the functions of ``formal.logic.terms``.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import ClassVar, Self

from formal.logic import terms as t
from formal.logic.terms import Term


@dataclass(frozen=True)
class Field:
    """Bits ``hi`` down to ``lo`` of a register; ``says`` is what they do, in our words."""

    hi: int
    lo: int
    says: str
    single: bool

    @property
    def mask(self) -> int:
        """The bits of the field, in place."""
        return ((1 << (self.hi - self.lo + 1)) - 1) << self.lo


def bit(at: int, says: str = "") -> Term:
    """Declares a one-bit field, read as a Boolean."""
    return Field(at, at, says, single=True)  # type: ignore[return-value]  # replaced by a Term on every instance


def bits(hi: int, lo: int, says: str = "") -> Term:
    """Declares a field of ``hi - lo + 1`` bits, read as a bit-vector."""
    return Field(hi, lo, says, single=False)  # type: ignore[return-value]


class Register:
    """Base of the register declarations; ``raw`` is a term of ``width`` bits (64 unless the class says otherwise)."""

    width: ClassVar[int] = 64
    fields: ClassVar[dict[str, Field]] = {}
    raw: Term

    def __init_subclass__(cls, width: int = 64) -> None:
        cls.width = width
        cls.fields = {name: f for name, f in vars(cls).items() if isinstance(f, Field)}
        below = width
        for name, f in cls.fields.items():
            if not 0 <= f.lo <= f.hi < below:
                raise TypeError(
                    f"{cls.__name__}.{name} is bits {f.hi}:{f.lo}, but the field above it starts at bit {below}; "
                    "fields are declared most significant first and do not overlap"
                )
            below = f.lo

    def __init__(self, raw: Term) -> None:
        if t.width(raw) != self.width:
            raise TypeError(f"{type(self).__name__} has {self.width} bits, got a term of {t.width(raw)}")
        object.__setattr__(self, "raw", raw)

    def __setattr__(self, name: str, value: object) -> None:
        raise TypeError(f"registers do not change; use .but({name}=...)")

    def __getattribute__(self, name: str) -> object:
        found = object.__getattribute__(self, name)
        if not isinstance(found, Field):
            return found
        part = t.extract(self.raw, found.hi, found.lo)
        return t.Eq(part, t.const(1, 1)) if found.single else part

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.raw!r})"

    @classmethod
    def field(cls, name: str) -> Field:
        """The declaration of a field.

        Raises:
            AttributeError: if the register has no such field; the message proposes one.
        """
        if name not in cls.fields:
            near = get_close_matches(name, cls.fields, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise AttributeError(f"{cls.__name__} has no field {name}{hint}")
        return cls.fields[name]

    @classmethod
    def mask(cls, *names: str) -> int:
        """The bits of the named fields (of all fields, if none is named)."""
        return sum(cls.field(name).mask for name in names or cls.fields)

    @classmethod
    def of(cls, **values: Term | bool | int) -> Self:
        """The register with these field values and 0 everywhere else."""
        return cls(t.const(0, cls.width)).but(**values)

    def but(self, **values: Term | bool | int) -> Self:
        """This register with some fields replaced.

        A one-bit field takes a Boolean, a wider one a number or a bit-vector term of its width.
        """
        raw = self.raw
        for name, value in values.items():
            raw = _insert(raw, self.field(name), value, f"{type(self).__name__}.{name}")
        return type(self)(raw)

    @classmethod
    def decode(cls, value: int) -> str:
        """A concrete value as text: its non-zero fields, then the bits that no field names."""
        parts = [
            name if f.single else f"{name}={(value & f.mask) >> f.lo:#x}"
            for name, f in cls.fields.items()
            if value & f.mask
        ]
        rest = value & ~cls.mask() if cls.fields else value
        return " ".join(parts + ([f"others={rest:#x}"] if rest else [])) or "0"

    def any(self) -> Term:
        """Whether any bit of the register is set."""
        return t.Ne(self.raw, t.const(0, self.width))

    def only(self, *names: str) -> Term:
        """Whether every bit outside the named fields is 0."""
        outside = t.const(~self.mask(*names), self.width)
        return t.Eq(self.raw & outside, t.const(0, self.width))

    def same(self, other: Self, *names: str) -> Term:
        """Whether two registers agree, on the named fields only if any is named."""
        if not names:
            return t.Eq(self.raw, other.raw)
        inside = t.const(self.mask(*names), self.width)
        return t.Eq(self.raw & inside, other.raw & inside)

    def same_but_for(self, other: Self, *names: str) -> Term:
        """Whether two registers agree on every bit outside the named fields."""
        outside = t.const(~self.mask(*names), self.width)
        return t.Eq(self.raw & outside, other.raw & outside)


def _insert(raw: Term, f: Field, value: Term | bool | int, where: str) -> Term:
    size = f.hi - f.lo + 1
    n = t.width(raw)
    if f.single and isinstance(value, bool | Term):
        flag = t.boolean(value) if isinstance(value, bool) else value
        if flag.sort != t.BOOL:
            raise TypeError(f"{where} is one bit: give a Boolean")
        mask = t.const(f.mask, n)
        return t.If(flag, raw | mask, raw & ~mask)
    if isinstance(value, int) and not 0 <= value < 1 << size:
        raise TypeError(f"{where} has {size} bits, which {value} does not fit")
    part = t.const(value, size) if isinstance(value, int) else value
    if part.sort != size:
        raise TypeError(f"{where} has {size} bits, got sort {part.sort}")
    placed = t.bvshl(t.zero_extend(part, n), t.const(f.lo, n)) if f.lo else t.zero_extend(part, n)
    return (raw & t.const(~f.mask, n)) | placed
