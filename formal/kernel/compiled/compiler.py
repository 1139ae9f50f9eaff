"""The compiler that runs the tree's own functions: its name, its options, and what can go wrong with it."""

from __future__ import annotations

COMPILER = "aarch64-linux-gnu-gcc"
OPTIONS = (
    "-std=gnu11 -march=armv8-a -mno-outline-atomics -O2 -w -fshort-wchar -fms-extensions -fno-strict-aliasing "
    "-mgeneral-regs-only -ffreestanding -static -nostdlib -fno-stack-protector -fno-tree-loop-distribute-patterns "
    "-ffunction-sections -fdata-sections -Wl,--gc-sections"
).split()
NOT_GCC = ("-target", "aarch64-linux-gnu", "-ferror-limit=0")  # of the tree's flags


class HarnessError(Exception):
    """A program cannot be made or run, with the reason."""
