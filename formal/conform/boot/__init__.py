"""Kernels that boot with KVM inside."""
