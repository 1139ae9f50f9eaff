"""The command ``trace``: what it says, and its exit codes."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from formal.commands.conform import main
from formal.conform.commands import trace as tracecommand
from tests.conform.trace.test_trace_check import text_of


def told(capsys, *argv):
    """Exit code, standard output, standard error."""
    try:
        code = main(["trace", *map(str, argv)])
    except SystemExit as e:
        code = e.code
    return code, *capsys.readouterr()


@pytest.fixture
def trace(tmp_path):
    def write(text, name="t.txt"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_a_run(capsys, trace):
    code, out, err = told(capsys, trace(text_of("6.12-nvhe")))
    assert (code, err) == (0, "")
    assert "conforms to E8b nvhe (v6.4 to v6.13)" in out  # release and mode are in the markers
    assert re.search(r"every event is explained: \d+ events, 316 values compared, \d+ steps of 3 vCPUs", out)
    assert "MDCR_EL2.HPMN: 6 on CPU 0, 6 on CPU 1" in out
    assert re.search(r"claims watched: 37, \d+ of them met", out)
    assert "guest_mdscr_preserved; known: python -m formal.prove --epoch E8b --mode nvhe --explain" in out
    assert re.search(r"operations of the model taken: \d+ of 34", out)
    assert "situations of claims met: " in out
    assert "assumed" not in out


def test_a_trace_of_a_user_is_tried_as_every_kernel(capsys, trace):
    code, out, _ = told(capsys, trace(text_of("6.12-nvhe", markers=False)))
    assert code == 0
    assert "E8b vhe (v6.4 to v6.13), E8b nvhe (v6.4 to v6.13)" in out
    assert "note: no event kvm_userspace_exit: not seen are when user space has the vCPU" in out
    assert re.search(r"assumed, since no event shows it: KVM_SET_ONE_REG \w+ \d+", out)


def test_more_is_said_on_demand(capsys, trace):
    _, out, _ = told(capsys, trace(text_of("5.10-nvhe")), "--verbose")
    assert re.search(r"steps: kvm_arm_setup_debug \d+, ", out)
    assert re.search(r"  met: .*host_debug_is_trapped \d+", out)


def test_a_wrong_bit(capsys, trace):
    text = text_of("6.1-vhe").replace("MDCR_EL2: 0x84c66", "MDCR_EL2: 0x84866", 1)
    line = text[: text.index("0x84866")].count("\n") + 1
    code, out, _ = told(capsys, trace(text))
    assert code == 1
    assert "not a run of E8s vhe (v6.1.y)" in out
    assert f"line {line}: kvm_arm_set_dreg32: MDCR_EL2: 0x84866\n" in out
    assert "  the model shows another value:\n  kvm_arm_set_dreg32: MDCR_EL2: 0x84c66\n" in out
    assert "  trace: TTRF TPMS TDRA TPM TPMCR HPMN=0x6\n  model: TTRF TPMS TDRA TDOSA TPM TPMCR HPMN=0x6\n" in out
    assert "would break: os_registers, " in out


def test_a_wrong_kernel(capsys, trace):
    code, out, _ = told(capsys, trace(text_of("6.1-vhe-returns")), "--epoch", "E3a", "--mode", "nvhe")
    assert code == 1
    assert "not a run of E3a nvhe (v4.17 to v4.19)" in out


def test_an_unexpectedly_broken_claim_fails(capsys, trace, monkeypatch):
    monkeypatch.setattr(tracecommand, "_known_false", lambda configuration: set())
    code, out, _ = told(capsys, trace(text_of("6.1-vhe")))
    assert code == 1
    assert "BROKEN at line" in out
    assert "debug_exceptions_enabled_means_untrapped, which has no known counterexample" in out


LINE = "x-1 [000] d.... {}: {}\n"
SETUP = LINE.format(1, "kvm_arm_setup_debug: vcpu: 0000000000000001, flags: 0x00000000")
DREG = LINE.format(2, "kvm_arm_set_dreg32: MDCR_EL2: 0x84e66")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("# tracer: nop\n#\n", "no event"),
        (LINE.format(1, "sched_switch: a"), "no event kvm_arm_setup_debug and kvm_arm_set_dreg32"),
        (LINE.format(1, "kvm_entry: PC: 0x0"), "nothing can be compared; enable the trace points of the group kvm"),
        (SETUP, "no event kvm_arm_set_dreg32 and kvm_arm_clear_debug"),
        (SETUP + DREG, "no event kvm_arm_clear_debug"),
        (
            LINE.format(1, "put_debug: (x) vcpu=0x1 guest_debug=0x0 pstate=0x0"),
            "no event guest_mdscr and load_debug and",
        ),
        (
            LINE.format(1, "kvm_entry: PC: 0x0"),
            "from v6.14 on the dynamic events that python -m formal.conform monitor",
        ),
        ("CPU:0 [LOST 12 EVENTS]\n" + SETUP + DREG, "no event; events are lost at line 1"),
    ],
)
def test_nothing_can_be_concluded(capsys, trace, text, says):
    code, out, err = told(capsys, trace(text))
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert says in err


def test_only_events_before_the_first_entry(capsys, trace):
    """All relevant names occur, but no value is there that could be compared."""
    early = LINE.format(2, "kvm_arm_set_dreg32: MDSCR_EL1: 0x0").replace("x-1", "y-2")
    text = early + LINE.format(2, "kvm_exit: IRQ: HSR_EC: 0x0000 (UNKNOWN), PC: 0x0") + SETUP
    code, out, err = told(capsys, trace(text))
    assert (code, out) == (3, "")
    assert "no value could be compared" in err


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t[: len(t) * 2 // 3], r"incomplete: line \d+ is cut off"),
        (lambda t: t[: t.index("\n", 9000)] + "\nCPU:0 [LOST 7 EVENTS]" + t[t.index("\n", 20000) :], "events are lost"),
    ],
)
def test_part_of_a_trace_is_no_conformance(capsys, trace, change, says):
    code, out, _ = told(capsys, trace(change(text_of("6.1-vhe-returns"))))
    assert code == 3
    assert re.search(says, out)
    assert "every event is explained" in out


def test_damage_before_the_loss_is_still_found(capsys, trace):
    text = text_of("6.1-vhe").replace("MDCR_EL2: 0x84c66", "MDCR_EL2: 0x84866", 1) + "CPU:0 [LOST 7 EVENTS]\n"
    assert told(capsys, trace(text))[0] == 1


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ((), "the following arguments are required: FILE"),
        (("/no/such/file",), "/no/such/file: No such file or directory"),
        (("x", "--epoch", "E12"), "invalid choice: 'E12'"),
        (("x", "--mode", "both"), "invalid choice: 'both'"),
    ],
)
def test_misuse(capsys, argv, says):
    code, out, err = told(capsys, *argv)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err


def test_other_text(capsys, trace):
    code, _, err = told(capsys, trace("hello\n"))
    assert code == 2
    assert "t.txt: line 1: no trace event in the format of ftrace or trace-cmd: 'hello'" in err


def test_it_runs_as_a_module(trace):
    path = trace(text_of("5.10-nvhe"))
    done = subprocess.run(
        [sys.executable, "-m", "formal.conform", "trace", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "conforms to E4s nvhe (v5.10.y)" in done.stdout


# ---- traces as people have them


def test_stacks_do_not_disturb(capsys, trace):
    """As ftrace prints them below an event, and as perf does."""
    lines = []
    for number, line in enumerate(text_of("6.12-nvhe").splitlines()):
        lines.append(line)
        if "kvm_entry" in line and number % 2:
            head = line.partition(": kvm_entry")[0]
            lines += [f"{head}: kernel_stack: <stack trace>", " => kvm_arch_vcpu_ioctl_run+0x3a4/0x8f0", " => el0_svc"]
        elif "kvm_entry" in line:
            lines += ["\tffff800080b1c3a4 kvm_arch_vcpu_ioctl_run+0x3a4 ([kernel.kallsyms])", ""]
    code, out, err = told(capsys, trace("\n".join(lines) + "\n"))
    assert (code, err) == (0, "") and "every event is explained" in out


def test_thread_and_process_in_one_column(capsys, trace):
    text = re.sub(r"(?m)^(\s*\S+)-(\d+)(\s+\[)", r"\1 7/\2\3", text_of("6.12-nvhe"))
    assert told(capsys, trace(text))[0] == 0


def test_another_tools_event_of_the_same_name(capsys, trace):
    lines = text_of("6.12-nvhe").splitlines()
    at = [n for n, line in enumerate(lines) if "kvm_arm_set_dreg32" in line][5]
    head = lines[at].partition(": kvm_arm_set_dreg32")[0]
    strangers = [f"{head}: mine:kvm_exit: reason EPT", f"{head}: vcpu_enter: (do_something+0x0/0x10) arg1=0x1"]
    code, out, _ = told(capsys, trace("\n".join([*lines[:at], *strangers, *lines[at:]]) + "\n"))
    assert code == 0 and "2 others" in out


@pytest.mark.parametrize(
    ("name", "pattern", "instead", "says"),
    [
        ("6.12-nvhe", r"dreg32: MDCR_EL2:", "dreg32: 0xffff800081a2b3c8:", "the kernel's own trace file"),
        ("7.3-vhe", r"guest_mdscr: \(.*?\)", "guest_mdscr: (ffff800080a1b2c3)", "kptr_restrict"),
    ],
)
def test_what_a_tool_has_lost_is_said(capsys, trace, name, pattern, instead, says):
    text = re.sub(pattern, instead, text_of(name))
    assert text != text_of(name)
    code, out, err = told(capsys, trace(text))
    assert (code, out) == (3, "") and says in err and err.count("\n") == 1


def test_a_host_without_a_pmu_is_no_false_finding(capsys, trace):
    text = re.sub(r"MDCR_EL2: 0x(\w+)", lambda m: f"MDCR_EL2: {int(m[1], 16) & ~0x1F:#x}", text_of("6.12-nvhe"))
    code, _, err = told(capsys, trace(text))
    assert code == 3 and "PMUv3" in err


def test_a_guest_with_an_el2_is_no_false_finding(capsys, trace):
    """What is not explained, in a trace that shows a guest hypervisor's ERET."""
    lines = text_of("7.3-vhe").splitlines()
    exits = [n for n, line in enumerate(lines) if "kvm_exit: TRAP" in line]
    lines[exits[3]] = re.sub(r"HSR_EC: 0x\w+ \(\w+\)", "HSR_EC: 0x001a (ERET)", lines[exits[3]])
    after = next(n for n, line in enumerate(lines) if "vcpu_enter:" in line and n > exits[3])
    lines[after] = lines[after].replace("mdcr_el2=0x84e66", "mdcr_el2=0x84e67")
    code, _, err = told(capsys, trace("\n".join(lines) + "\n"))
    assert code == 3 and "EL2" in err
