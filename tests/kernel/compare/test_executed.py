"""What only a world switch of one function leads to, in C of our own: none of it is a gap where that is executed."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from formal.kernel.compare.helpers import Helpers
from formal.kernel.errors import Gap, Gaps
from formal.kernel.recognition.callers import Mentions
from formal.kernel.source.tree import KVM, KernelTree
from formal.kernel.text.tokens import tokens

FILE = f"{KVM}/hyp/switch.c"
TEXT = """
static void writes(struct kvm_vcpu *vcpu) { write_sysreg(0, mdcr_el2); }
static void nothing(struct kvm_vcpu *vcpu) { }
static hyp_alternate_select(chosen, nothing, writes, ARM64_HAS_X);
void part(struct kvm_vcpu *vcpu) { chosen()(vcpu); }
int __kvm_vcpu_run(struct kvm_vcpu *vcpu) { part(vcpu); return __guest_enter(vcpu); }
void __noreturn hyp_panic(struct kvm_vcpu *vcpu) { part(vcpu); }
"""
GAP = Gap(FILE, 2, "hw.mdcr_el2 may be written", frozenset(("writes",)), frozenset(("hw.mdcr_el2",)))


class Texts:
    """A tree of a file of C and a file of assembler."""

    def __init__(self, path: Path, c: str, assembler: str) -> None:
        self.path, self.texts = path, {FILE: c, f"{KVM}/hyp/entry.S": assembler}
        for name, text in self.texts.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(text)

    def read(self, name: str) -> str:
        return self.texts[name]

    def relative(self, file: str) -> str:
        return str(Path(file).relative_to(self.path))


def through(path: Path, c: str = TEXT, assembler: str = "") -> tuple[Gap, ...]:
    found = Mentions(gaps=Gaps(noted=True))
    found.add(FILE, tokens(c))
    return Helpers(cast(KernelTree, Texts(path, c, assembler)), found).through((GAP,))[1]


def test_it_hangs_on_every_function_from_the_world_switch_to_the_store(tmp_path: Path) -> None:
    found = through(tmp_path)
    assert {gap.unless for gap in found} == {(name, FILE) for name in ("writes", "chosen", "part", "__kvm_vcpu_run")}
    assert all(gap.lifted for gap in found)
    assert {gap.unless[0]: {name for name, _ in gap.callers} for gap in found if gap.unless is not None} == {
        "writes": {"chosen"}, "chosen": {"part"}, "part": {"__kvm_vcpu_run"}, "__kvm_vcpu_run": set()
    }  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "assembler"),
    [("int __kvm", "void more(void) { writes(0); }\nint __kvm", ""), ("void __noreturn", "void", ""),
     ("int __kvm", "static void (*kept)(struct kvm_vcpu *) = writes;\nint __kvm", ""),
     ("int __kvm", "bool fixup_guest_exit(struct kvm_vcpu *vcpu) { return false; }\nint __kvm", ""),
     ("", "", "\tbl\tpart\n")],
    ids=["another caller", "a caller that returns", "a pointer to it", "a function for rounds", "assembler"],
)  # fmt: skip
def test_what_else_may_lead_to_it_is_told(tmp_path: Path, old: str, new: str, assembler: str) -> None:
    assert through(tmp_path, TEXT.replace(old, new, 1), assembler) == (GAP,)
