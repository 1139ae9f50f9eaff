"""Reading the text of traces: the formats, and what is refused."""

import pytest

from formal.conform.trace.text import TraceFormatError, parse, read

ENTRY = "kvm_entry: PC: 0xffff800010123456"


@pytest.mark.parametrize(
    ("line", "task", "cpu"),
    [
        (f"            init-1       [000] d....            9: {ENTRY}", "init-1", 0),
        (f"           <...>-4711  [003] d..1. 99.123456: {ENTRY}", "<...>-4711", 3),
        (
            "          CPU 0/KVM-1234  [011]  1234.567890: kvm_entry:            PC: 0xffff800010123456",
            "CPU 0/KVM-1234",
            11,
        ),
        (f" qemu-system-aar-77 (     70) [002] d..3   12.5: {ENTRY}", "qemu-system-aar-77", 2),
        (f" qemu-system-aar-77 (-------) [002] ....   12.5: {ENTRY}", "qemu-system-aar-77", 2),
        (f"qemu-system-aar  8124 [002] 1234.567: kvm:{ENTRY}", "qemu-system-aar-8124", 2),
        (f"bash-1 [000] 1d..1 6.0: {ENTRY}", "bash-1", 0),
    ],
)
def test_formats_of_lines(line, task, cpu):
    (event,) = parse(line + "\n").events
    assert (event.task, event.cpu, event.name, event.fields) == (task, cpu, "kvm_entry", {"pc": 0xFFFF800010123456})


def event(text):
    (found,) = parse(f"x-1 [000] d.... 1: {text}\n").events
    return found.fields


def test_texts_of_events():
    assert event("kvm_arm_setup_debug: vcpu: 00000000bd35c63b, flags: 0x00020001") == {
        "vcpu": "00000000bd35c63b",
        "flags": 0x20001,
    }
    assert event("kvm_set_guest_debug: vcpu: (____ptrval____), flags: 0x00000003")["flags"] == 3
    assert event("kvm_arm_set_dreg32: Saved MDSCR_EL1: 0x8000") == {"register": "Saved MDSCR_EL1", "value": 0x8000}
    assert event("kvm_arm_set_regset: 2 BKPTS CTRL:{0x1e7,0x0} VALUE:{0x40000008,0x0}") == {
        "register": "BKPTS",
        "control": (0x1E7, 0),
        "value": (0x40000008, 0),
    }
    assert event("kvm_arm_set_regset: 2 WAPTS CTRL:ARRAY[1e7, 00] VALUE:ARRAY[0, 0]")["control"] == (0x1E7, 0)
    assert event("kvm_exit: TRAP: HSR_EC: 0x0024 (DABT_LOW), PC: 0x40")["ec"] == 0x24
    assert event("trap_reg: trap_bvr write to reg 3 (0x0000000000000010)") == {
        "function": "trap_bvr",
        "direction": "write to",
        "number": 3,
        "value": 16,
    }
    access = event("kvm_sys_access: PC: 40 (((3) << 19) | ((3) << 16)) (3,3,9,12,0) read")
    assert (access["op0"], access["op2"], access["direction"]) == (3, 0, "read")


def test_what_is_no_event_of_interest_is_counted():
    found = parse(
        f"# tracer: nop\n\ncpus=2\nx-1 [000] d.... 1: sched_switch: prev_comm=a b\nx-1 [000] .... 2: {ENTRY}\n"
    )
    assert (len(found.events), dict(found.others)) == (1, {"sched_switch": 1})


@pytest.mark.parametrize(
    "line",
    ["CPU:0 [LOST 1234 EVENTS]", "CPU:3 [12 EVENTS DROPPED]", "CPU 2 [EVENTS DROPPED]"],
)
def test_lost_events_are_seen(line):
    lost = parse(f"x-1 [000] d.... 1: {ENTRY}\n{line}\nx-1 [000] d.... 3: {ENTRY}\n").lost
    assert lost is not None
    assert lost[0] == 2


def test_overwritten_events_are_seen():
    assert parse("# entries-in-buffer/entries-written: 25/30   #P:1\n").overwritten == 5


@pytest.mark.parametrize("end", ["", "x-1 [000] d.... 2: kvm_ent", "x-1 [000"])
def test_a_cut_off_end_is_seen(end):
    assert parse(f"x-1 [000] d.... 1: {ENTRY}\n" + (end or f"x-1 [000] d.... 2: {ENTRY}")).truncated == 2


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("exit mmio w=1 addr=9000000", "line 1: no trace event in the format of ftrace or trace-cmd"),
        ("x-1 [000] d.... 1: something happened", "line 1: an event without a name"),
        ("x-1 [000] d.... 1: kvm_entry: somewhere", "line 1: kvm_entry with a text that is not the kernel's"),
        ("x-1 [000] d.... 1: kvm_arm_set_dreg32: 0xffff8000: 0x84e66", "record the kernel's own trace file"),
        ("x-1 [000] d.... 1: kvm_arm_set_regset: 3 BKPTS CTRL:{0x0} VALUE:{0x0}", "not as long as the event says"),
        ("x-1 [000] d.... 1: tracing_mark_write: conform: set_one_reg vcpu=0", "the marker set_one_reg has no reg"),
        ("x-1 [000] d.... 1: tracing_mark_write: conform: result error=x", "no number for error: 'x'"),
        (" 0) ! 123.456 us  |  kvm_arm_setup_debug();", "no trace event in the format"),
    ],
)
def test_what_is_not_understood_is_refused(line, says):
    with pytest.raises(TraceFormatError, match=r"line 1") as error:
        parse(line + "\n")
    assert says in str(error.value)


def test_files(tmp_path):
    with pytest.raises(TraceFormatError, match="No such file"):
        read(tmp_path / "none")
    (tmp_path / "empty").write_text(" \n")
    with pytest.raises(TraceFormatError, match="empty"):
        read(tmp_path / "empty")
    (tmp_path / "trace.dat").write_bytes(b"\x17\x08\x44tracing\xff\xfe")
    with pytest.raises(TraceFormatError, match=r"not text; make text of trace\.dat with: trace-cmd report"):
        read(tmp_path / "trace.dat")
