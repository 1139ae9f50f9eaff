"""Proofs about the debug, PMU, profiling and trace traps of Linux KVM/arm64."""
