"""Emulators, assembler, programs."""
