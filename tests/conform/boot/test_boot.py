"""A console read back, the initial RAM file system, the scripts; and real boots, one for each mode."""

import re

import pytest

from formal.conform.boot import initrd, scenarios
from formal.conform.boot.boot import CPUS, boot, parse
from formal.conform.commands.trace import check_recording
from formal.conform.machine import emulator
from formal.conform.machine.emulator import EmulatorError, EmulatorTimeoutError
from formal.conform.trace.text import PROBES
from formal.epochs import Mode

VM = scenarios.SCENARIOS.parent
CONSOLE = """[    0.0] a boot message
@@KERNEL 6.1.0-1-cloud-arm64
@@VERSION #1 SMP Debian 6.1.1-1
@@MISSING event trap_reg
@@ERROR no register X77
@@BEGIN trace
# tracer: nop
   init-1  [000] .....   3: tracing_mark_write: conform: recording format=1 release=6.1.0-1 mode=nvhe cpus=2
   init-1  [000] .....   4: tracing_mark_write: conform: scenario name=plain
   init-1  [000] d....   5: kvm_entry: PC: 0x0000000040000000
@@END trace
@@DONE
"""


def test_a_console_is_read():
    found = parse(CONSOLE, "k", 2)
    assert (found.release, found.mode, found.cpus) == ("6.1.0-1-cloud-arm64", "nvhe", 2)
    assert found.trace.startswith(
        "# conform: kernel 6.1.0-1-cloud-arm64, #1 SMP Debian 6.1.1-1, nvhe, 2 CPUs\n# tracer"
    )
    assert (found.events, found.scenarios) == (3, 1)
    assert (found.missing, found.errors) == (("trap_reg",), ("no register X77",))


@pytest.mark.parametrize(
    ("console", "says"),
    [
        ("", "k did not come up; its console is empty"),
        ("Kernel panic - not syncing: no init\n\n", "k did not come up; the kernel died: Kernel panic"),
        (CONSOLE.partition("@@END")[0], r"k stopped before the end; .*kvm_entry"),
        ("@@KERNEL 6.1\n@@ERROR no /dev/kvm: No such device\n@@DONE\n", "k left no trace: no /dev/kvm"),
        (CONSOLE.replace("mode=nvhe", ""), "k left no trace: no register X77"),
    ],
)
def test_a_machine_that_went_wrong(console, says):
    with pytest.raises(EmulatorError, match=says):
        parse(console, "k", 2)


def test_the_ram_disk_is_a_newc_archive():
    packed = initrd.pack(
        [initrd.directory("dev"), initrd.character_device("dev/console", 5, 1), initrd.file("x", b"hello")]
    )
    assert len(packed) % 4 == 0
    seen, at = {}, 0
    while at < len(packed):
        assert packed[at : at + 6] == b"070701"
        fields = [int(packed[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        size, name_size = fields[6], fields[11]
        name = packed[at + 110 : at + 110 + name_size - 1].decode()
        data = (at + 110 + name_size + 3) // 4 * 4
        seen[name] = (fields[1], tuple(fields[9:11]), packed[data : data + size])
        at = (data + size + 3) // 4 * 4
    assert seen == {
        "dev": (0o040755, (0, 0), b""),
        "dev/console": (0o020600, (5, 1), b""),
        "x": (0o100644, (0, 0), b"hello"),
        "TRAILER!!!": (0, (0, 0), b""),
    }


def test_scenarios_name_programs_that_exist():
    programs = set(re.findall(r"^program (\w+)", (VM / "guest.S").read_text(), re.M))
    every = scenarios.read()
    used = {line.split()[1] for text in every.values() for line in text.splitlines() if line.startswith("vcpu ")}
    assert len(every) >= 39
    assert used <= programs
    assert scenarios.choose(["plain"]) == every["plain"]
    assert all(name in scenarios.choose([]) for name in every)


def test_an_unknown_scenario():
    with pytest.raises(scenarios.UnknownScenarioError, match=r"no scenario stepp; did you mean step\?"):
        scenarios.choose(["plain", "stepp"])


def test_no_scenario_twice(tmp_path):
    (tmp_path / "s.txt").write_text("# head\nscenario a\nrun 1\nscenario a\n")
    with pytest.raises(ValueError, match="the scenario a is there twice"):
        scenarios.read(tmp_path / "s.txt")


@pytest.mark.parametrize("mode", CPUS)
def test_a_kernel_boots_and_all_scenarios_run(booted_kernel, mode):
    found = boot(booted_kernel, mode, scenarios.choose([]), emulator.find())
    assert found.mode == mode.value
    assert found.errors == ()
    assert found.missing == ()
    assert found.scenarios == len(scenarios.read())
    entries = re.search(r"entries-in-buffer/entries-written: (\d+)/(\d+)", found.trace)
    assert entries[1] == entries[2], "events were lost"
    for event in ("kvm_arm_setup_debug", "kvm_arm_clear_debug", "trap_reg", "kvm_entry", "SOFTSTP_LOW", "BRK64"):
        assert event in found.trace
    assert set(re.findall(r"\[(\d+)\]", found.trace)) == {"000", "001"}


def test_a_kernel_without_trace_points_is_recorded_by_dynamic_events(newest_kernel):
    """From v6.14 on: every one of them can be defined, and what they print is a run of the model."""
    names = ("guest_debug_registers", "step_os_lock", "breakpoint_guest_debug_registers", "migration", "hotplug")
    found = boot(newest_kernel, Mode.NVHE, scenarios.choose(names), emulator.find())
    assert found.errors == ()
    assert all(name.startswith("kvm_") or name == "trap_reg" for name in found.missing)
    for event in (x for x in PROBES if x not in ("trap_dbg_wb_reg", "handle_oslar")):
        assert f" {event}: (" in found.trace, event
    code, lines, result = check_recording(found.trace, found.release)
    assert code == 0, lines
    assert result is not None and result.kernel.tracks_debug_owner and not result.assumed
    assert result.operations["cpu_boot"] == 1


def test_what_the_script_gets_wrong_is_a_complaint(booted_kernel):
    script = "run 1\nscenario x\ndance\nvcpu nobody\nset NOTHING 1\ndebug ENABLE|NOTHING\nset PC one\nrun\n"
    found = boot(booted_kernel, Mode.VHE, script, emulator.find())
    assert found.errors == (
        "run before the first scenario",
        "dance before the first vcpu",
        "no guest program nobody",
        "no register NOTHING",
        "no flag NOTHING",
        "one is no number",
        "cannot understand the command run",
    )


def test_a_machine_that_takes_too_long(booted_kernel):
    with pytest.raises(EmulatorTimeoutError, match=r"\(nvhe\) did not end within 0.5 s; "):
        boot(booted_kernel, Mode.NVHE, scenarios.choose(["plain"]), emulator.find(), timeout=0.5)


def test_something_that_is_no_kernel(tmp_path, booted_kernel):
    (tmp_path / "vmlinuz").write_bytes(b"\0" * 4096)
    with pytest.raises(EmulatorError, match="vmlinuz"):
        boot(tmp_path / "vmlinuz", Mode.VHE, scenarios.choose(["plain"]), emulator.find(), timeout=3)
