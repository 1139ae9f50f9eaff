"""Single edits of the kernel's C, and what the comparison with the specification makes of each."""
