"""The model held against the world: emulated CPUs, and kernels that run on them (``python -m formal.conform``)."""
