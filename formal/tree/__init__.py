"""Verdicts on a tree, a patch, a series."""
