"""Regions without preemption or interrupts, and unconditional calls: each way of losing them is told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from formal.epochs import EPOCHS, Kernel, Mode
from formal.kernel.recognition.regions import MAIN, Region, _loads_for_all, _locked, _torn, _words, check
from formal.kernel.source.tree import KVM, KernelTree
from formal.kernel.text.forms import tokens
from tests.kernel.conftest import tree_path

HOST = "arch/arm64/include/asm/kvm_host.h"
NEWEST = EPOCHS["E13"].kernel(Mode.VHE)
DEBUG, SWITCH, RESET = f"{KVM}/debug.c", f"{KVM}/hyp/vhe/switch.c", f"{KVM}/reset.c"
SETUP = "kvm_arm_setup_mdcr_el2() has write_sysreg, host_data_ptr within one region"
# file, what is replaced (a pattern), by what, what is said
TORN: dict[str, tuple[str, str, str, str]] = {
    "never off": (DEBUG, r"\n\tpreempt_disable\(\);(?=\s+/\*)", "", SETUP),
    "off too late": (DEBUG, r"\n\tpreempt_disable\(\);(?=\s+/\*)",
                     "\n\tu64 n = *host_data_ptr(nr_event_counters);\n\tpreempt_disable();", SETUP),
    "on too early": (DEBUG, r"(?=\n\tif \(has_vhe\(\)\)\n\t\twrite_sysreg)", "\n\tpreempt_enable();", SETUP),
    "off only sometimes": (DEBUG, r"\n\tpreempt_disable\(\);(?=\s+/\*)",
                           "\n\tif (vcpu)\n\t\tpreempt_disable();", SETUP),
    "on between put and load": (DEBUG, r"\tkvm_arch_vcpu_put\(vcpu\);\n",
                                "\tkvm_arch_vcpu_put(vcpu);\n\tpreempt_enable();\n\tpreempt_disable();\n",
                                "kvm_debug_handle_oslar() has kvm_arch_vcpu_put"),
    "on during a reset": (RESET, r"\n\tif \(loaded\)\n\t\tkvm_arch_vcpu_load",
                          "\n\tpreempt_enable();\n\tpreempt_disable();\n\tif (loaded)\n\t\tkvm_arch_vcpu_load",
                          "kvm_reset_vcpu() has kvm_arch_vcpu_put"),
    "interrupts on": (SWITCH, r"\tlocal_irq_save\(flags\);\n\t__activate", "\t__activate",
                      "__vcpu_load_activate_traps() has __activate_traps_common"),
    "load sometimes": (MAIN, r"(kvm_running_vcpu, vcpu\);\n)(\tkvm_arch_vcpu_load\(vcpu, cpu\);\n\n)",
                       r"\1\tif (vcpu->wants_to_run)\n\t\2", "kvm_sched_in() calls kvm_arch_vcpu_load"),
    "put after a way out": (MAIN, r"\tkvm_arch_vcpu_put\(vcpu\);\n\t__this",
                            "\tif (next)\n\t\treturn;\n\tkvm_arch_vcpu_put(vcpu);\n\t__this",
                            "kvm_sched_out() calls kvm_arch_vcpu_put"),
    "notifier too late": (MAIN, r"\tpreempt_notifier_register\(&vcpu->preempt_notifier\);\n(\tkvm_arch_vcpu_load.*\n)",
                          r"\1\tpreempt_notifier_register(&vcpu->preempt_notifier);\n", "vcpu_load() calls get_cpu"),
    "load with preemption on": (MAIN, r"(\tkvm_arch_vcpu_load\(vcpu, cpu\);\n)(?=\tput_cpu)",
                                r"\tpreempt_enable();\n\1\tpreempt_disable();\n", "vcpu_load() calls get_cpu"),
    "load by configuration": (MAIN, r"(kvm_running_vcpu, vcpu\);\n)(\tkvm_arch_vcpu_load\(vcpu, cpu\);\n)(?=\n)",
                              r"\1#ifndef LAZY\n\2#endif\n", "kvm_sched_in() calls kvm_arch_vcpu_load"),
    "put behind its back": (MAIN, r"(?m)^void vcpu_put\(",
                            "static void lazy(void) { kvm_sched_out(0, 0); }\nvoid vcpu_put(",
                            "kvm_sched_out is named 2 times"),
    "flags with preemption on": (HOST, r"(?m)^(#define __vcpu_flags_preempt_disable\(\))[ \t]+preempt_\w+\(\)$", r"\1",
                                 "what sets or clears a flag of a vCPU does so between"),
    "flags on the wrong side": (HOST, r"#ifdef (__KVM_NVHE_HYPERVISOR__\n/\* the nVHE)", r"#ifndef \1",
                                "what sets or clears a flag of a vCPU does so between"),
    "a flag cleared too late": (
        HOST, r"(\t\t\*fset &= ~\(m\);[ \t]*\\\n)(\t\t__vcpu_flags_preempt_enable\(\);.*\n)(?=\t\} while)", r"\2\1",
        "what sets or clears a flag of a vCPU does so between"),
    "ioctl's flags changed": (MAIN, r"\t\tr = kvm_arch_vcpu_ioctl_set_guest_debug", "\t\tdbg.control &= ~2;\n\\g<0>",
                              "KVM_SET_GUEST_DEBUG is handed on"),
    "ioctl without the mutex": (MAIN, r"\tif \(mutex_lock_killable\(&vcpu->mutex\)\)\n\t\treturn -EINTR;\n(?=\tswitch)",
                                "", "KVM_SET_GUEST_DEBUG is handed on"),
}  # fmt: skip


class Changed:
    """A tree of which one file reads differently."""

    def __init__(self, tree: KernelTree, file: str, text: str) -> None:
        self.path, self._tree, self._file, self._text = tree.path, tree, file, text

    def read(self, name: str) -> str:
        return self._text if name == self._file else self._tree.read(name)


@pytest.mark.parametrize("name", TORN)
def test_what_is_torn_apart_is_told_with_its_place(name: str) -> None:
    file, pattern, replacement, says = TORN[name]
    tree = KernelTree(tree_path("7.3"))
    text, count = re.subn(pattern, replacement, tree.read(file), count=1)
    assert count == 1, f"{file} has nothing like {pattern}"
    (found,) = map(str, check(Changed(tree, file, text), NEWEST))  # type: ignore[arg-type]
    assert re.match(rf"{re.escape(file)}(:\d+)?: not so: ", found) and says in found


@pytest.mark.parametrize(
    ("version", "kernel"),
    [
        ("5.10", EPOCHS["E4"].kernel(Mode.VHE)), ("6.1", EPOCHS["E8s"].kernel(Mode.VHE)),
        ("6.12", EPOCHS["E8b"].kernel(Mode.NVHE)), ("7.3", NEWEST), ("7.3", EPOCHS["E13"].kernel(Mode.NVHE)),
    ],
)  # fmt: skip
def test_real_kernels_keep_to_it(version: str, kernel: Kernel) -> None:
    assert list(check(KernelTree(tree_path(version)), kernel)) == []


def test_a_tree_without_the_file_is_told(tmp_path: Path) -> None:
    tree = KernelTree(tree_path("7.3"))
    found = list(check(Changed(tree, MAIN, ""), NEWEST))  # type: ignore[arg-type]
    assert len(found) == 9 and all(str(gap).startswith(f"{MAIN}: not so: ") and gap.of for gap in found)


SAME = {  # what is written in place of preempt_disable(); a; preempt_enable();
    "guard": "{ x = 1; guard(preempt)(); write_sysreg(a, b); }",
    "scoped guard": "{ scoped_guard(preempt) { write_sysreg(a, b); } x = 1; }",
    "get_cpu": "{ get_cpu(); write_sysreg(a, b); put_cpu(); }",
}
OTHER = {
    "before the guard": "{ write_sysreg(a, b); guard(preempt)(); }",
    "after the scoped guard": "{ scoped_guard(preempt) { x = 1; } write_sysreg(a, b); }",
    "a guard of a block": "{ if (x) { guard(preempt)(); } write_sysreg(a, b); }",
    "another guard": "{ guard(rcu)(); write_sysreg(a, b); }",
    "two guards": "{ scoped_guard(preempt) { write_sysreg(a, b); } scoped_guard(preempt) { read_sysreg(b); } }",
}


@pytest.mark.parametrize("name", [*SAME, *OTHER])
def test_a_guard_is_what_it_calls(name: str) -> None:
    region = Region("a.c", "f", ("preempt_disable", "preempt_enable"), ("write_sysreg", "read_sysreg"), ())
    assert bool(list(_torn(region, tokens((SAME | OTHER)[name])))) is (name in OTHER)


_LOADS = "r = vcpu_load(vcpu); if (r) return r; switch (ioctl) {"
_IOCTL = f"{{ int r; {_LOADS} case KVM_RUN: r = run(vcpu); break; }} out: vcpu_put(vcpu); return r; }}"
_LOCKS = "if (mutex_lock_killable(&vcpu->mutex)) return -EINTR;"


@pytest.mark.parametrize(
    ("old", "new", "right"),
    [("", "", True), ("if (r) return r;", "", False), ("case KVM_RUN:", "case KVM_RUN: return run(vcpu);", False),
     ("out: vcpu_put(vcpu);", "out:", False), (_LOADS, f"switch (ioctl) {{ case 1: {_LOADS}", True),
     ("break;", "vcpu_put(vcpu); break;", False), ("case KVM_RUN:", "case KVM_RUN: vcpu_load(vcpu);", False)],
)  # fmt: skip
def test_every_ioctl_is_loaded_or_that_is_told(old: str, new: str, right: bool) -> None:
    """Before v4.17 kvm_vcpu_ioctl loads the vCPU for all of them; vcpu_load takes the lock, and may fail."""
    ioctl = tokens(_IOCTL.replace(old, new, 1))
    loads = tokens(f"{{ int cpu; {_LOCKS} cpu = get_cpu(); }}")
    assert _loads_for_all(ioctl) is right
    assert (_locked(loads, ioctl) == tokens("{ int cpu; cpu = get_cpu(); }")) is right
    late = tokens(f"{{ int cpu; cpu = get_cpu(); {_LOCKS} }}")
    assert _locked(late, ioctl) == late


@pytest.mark.parametrize(
    ("text", "same"),
    [("{ if (f()) { return 1; } g(); }", "{ if (f()) return 1; g(); }"),
     ("{ if (a) { x(); } else { y(); } }", "{ if (a) x(); else y(); }"),
     ("{ if (a) { if (b) x(); } else y(); }", "{ if (a) { if (b) x(); } else y(); }"),
     ("{ if (a) { x(); y(); } }", "{ if (a) { x(); y(); } }"),
     ("{ switch (a) { case 1: { x(); } } }", "{ switch (a) { case 1: { x(); } } }"),
     ("{ for_some(a) { x(); } }", "{ for_some(a) { x(); } }"),  # a macro may be a condition
     ("{ for (;;) { x(); } }", "{ for (;;) x(); }"), ("{ do { x(); } while (a); }", "{ do { x(); } while (a); }")],
)  # fmt: skip
def test_braces_around_one_statement(text: str, same: str) -> None:
    assert _words(text) == tokens(same)
