"""The parts of ``python -m formal.conform``, one file each."""
