"""What a function is trusted to write, whatever it is, is compared: one more store in any of them is told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from formal.epochs import Mode
from formal.kernel.recognition.writers import OPERATIONS
from formal.kernel.source.tree import KVM, KernelTree, sources
from formal.kernel.text import signs
from tests.kernel.conftest import tree_path
from tests.kernel.edited import copy_of

# they, or what they call, write MDCR_EL2 afterwards: the store makes no difference
WRITTEN_AGAIN = {
    "7.3": {"kvm_vcpu_put_debug", "kvm_debug_handle_oslar", "kvm_nested_setup_mdcr_el2"},
    "5.10": {"__activate_traps_common"},
    "6.12": {"__deactivate_traps_common"},
}


def definitions(tree: KernelTree) -> Iterator[tuple[str, str, str]]:
    """The file, the name and the head (as far as its brace) of each of these functions, but for nVHE's."""
    for folder in (KVM, "arch/arm64/include/asm"):
        for path in sources(tree.path / folder, (".c", ".h", ".S")):
            if path.suffix == ".S" or "/nvhe/" in str(path):
                continue
            file = tree.relative(str(path))
            text = signs.source(tree, file) or ""
            for name in sorted(OPERATIONS):
                if found := signs.body(text, name):
                    brace = text.index(found[0])
                    start = text.rindex("\n", 0, text.rindex(name, 0, brace)) + 1
                    yield file, name, tree.read(file)[start : brace + 1]


@pytest.mark.parametrize("version", WRITTEN_AGAIN)
def test_one_more_store_in_an_operation_is_told(version: str) -> None:
    heads = list(definitions(KernelTree(tree_path(version))))
    assert len(heads) > 25
    copy = copy_of(version)
    unseen = set()
    for file, name, head in heads:
        report = copy.report(file, {head: f"{head}\n\twrite_sysreg(0, mdcr_el2);"}, Mode.VHE)
        told = report.gaps or report.problems or report.omitted or report.replaced
        if not told and all(c.equal for c in report.compared):
            unseen.add(name)
    assert unseen == WRITTEN_AGAIN[version]
