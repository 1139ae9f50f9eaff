"""Traces of running kernels as runs of the model."""
