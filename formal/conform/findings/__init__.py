"""Counterexamples as runs of a real kernel."""
