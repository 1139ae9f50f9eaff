"""The C around debug.c that is not compared function by function: what must be called, and what left alone."""
