"""A C function as terms."""
