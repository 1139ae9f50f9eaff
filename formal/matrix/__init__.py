"""Verdicts on all modelled kernels."""
