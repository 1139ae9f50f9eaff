"""Counterexamples for people: as small as they get, only what changed, with the C function and the broken claim."""
